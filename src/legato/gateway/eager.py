"""A coroutine that runs in the very turn in which what it waits for comes.

A task costs a turn of the event loop to begin, and one more each time what it waits for is there.
A call begins in the callback that reads the last byte of its request, and is committed in the one
that reads the first byte of its answer.

Such a coroutine is no task: what needs one (`asyncio.timeout`) is awaited inside one, made for it.
"""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class Signal:
    """What one coroutine waits for, whoever of the two comes first. Set once; `set` runs the
    coroutine, which raises `error` where there is one."""

    __slots__ = ("_error", "_is_set", "waiter")

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._is_set = False
        self.waiter: Eager | None = None

    def set(self, error: BaseException | None = None) -> None:
        if self._is_set:
            return
        self._is_set = True
        self._error = error
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.step()

    def __await__(self) -> Generator[Any, None, None]:
        if not self._is_set:
            yield self
        if self._error is not None:
            raise self._error


class Eager:
    """Runs a coroutine that waits for signals and for futures of asyncio."""

    __slots__ = ("_coroutine", "_is_cancelled", "_running", "_waits")

    def __init__(self, coroutine: Coroutine[Any, Any, None], running: set[Any]) -> None:
        """It is a member of `running` until it is done."""
        self._coroutine: Coroutine[Any, Any, None] | None = coroutine
        self._waits: Any = None
        self._is_cancelled = False  # and has not heard of it yet
        self._running = running

    def start(self) -> None:
        self._running.add(self)
        self.step()

    def step(self) -> None:
        """What it waited for is there."""
        coroutine, self._waits = self._coroutine, None
        if coroutine is None:
            return
        try:
            if self._is_cancelled:
                self._is_cancelled = False
                waits = coroutine.throw(asyncio.CancelledError())
            else:
                waits = coroutine.send(None)
        except (StopIteration, asyncio.CancelledError):
            self._end()
        except BaseException:
            self._end()
            raise
        else:
            self._wait(waits)

    def stop(self) -> None:
        """Raises `CancelledError` where it waits: at once, where that is for a signal."""
        if self._coroutine is None:
            return
        waits, self._is_cancelled = self._waits, True
        if isinstance(waits, Signal):
            waits.waiter = None
            self.step()
        elif waits is not None and waits.cancel():
            self._is_cancelled = False  # it hears of it from the future

    def cancel(self, msg: Any = None) -> bool:
        """The same in another turn, as for a task."""
        asyncio.get_running_loop().call_soon(self.stop)
        return self._coroutine is not None

    def _wait(self, waits: Any) -> None:
        self._waits = waits
        if isinstance(waits, Signal):
            waits.waiter = self
            if self._is_cancelled:
                self.stop()
        elif waits is None:  # `asyncio.sleep(0)`
            asyncio.get_running_loop().call_soon(self.step)
        else:
            waits._asyncio_future_blocking = False  # as a task does, which has seen that it waits
            waits.add_done_callback(self._done)
            if self._is_cancelled:
                self.stop()

    def _done(self, _: Any) -> None:
        self.step()

    def _end(self) -> None:
        self._coroutine = None
        self._running.discard(self)
