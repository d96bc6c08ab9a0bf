"""An event loop without a clock and without sockets: time passes only through `set_time`."""

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Protocol


class Spinning(AssertionError):
    """The loop has work for ever."""


#: Callbacks that one step may need.
_MOST_CALLBACKS = 100_000


class Handle:
    """A callback that is due. The part of `asyncio.TimerHandle` that is used."""

    __slots__ = ("args", "callback", "context", "when")

    def __init__(
        self, when: float, callback: Callable[..., Any], args: tuple[Any, ...], context: Any
    ) -> None:
        self.when = when
        self.callback: Callable[..., Any] | None = callback
        self.args = args
        self.context = context

    def cancel(self) -> None:
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        return self.callback is None

    def run(self) -> None:
        callback = self.callback
        if callback is None:
            return
        if self.context is not None:
            self.context.run(callback, *self.args)
        else:
            callback(*self.args)


class Network(Protocol):
    """Makes connections. See `asyncio.AbstractEventLoop.create_connection`."""

    def connect(self, factory: Callable[[], Any], port: int) -> Any: ...


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs what is ready when it is asked to. `problems`: exceptions that reached it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._now = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._number = 0
        self.problems: list[str] = []

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """The current thread's running event loop, for a while."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(before)

    # For the driver

    @property
    def is_idle(self) -> bool:
        """Whether nothing is ready or will be, however much time passes."""
        return not self._ready and not self._timers

    def run_ready(self) -> None:
        """Runs until nothing is ready any more."""
        ready = self._ready
        left = _MOST_CALLBACKS
        while ready:
            handle = ready.popleft()
            try:
                handle.run()
            except Exception as error:
                self.problems.append(repr(error))
            left -= 1
            if not left:
                raise Spinning(repr(handle.callback))

    @property
    def next_due(self) -> float | None:
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def set_time(self, now: float) -> None:
        """Lets time pass, and makes ready what is due by then."""
        self._now = now = max(now, self._now)
        timers = self._timers
        while timers and timers[0][0] <= now:
            self._ready.append(heapq.heappop(timers)[2])

    # As asyncio has it

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Any:
        handle = Handle(0.0, callback, args, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> Any:
        handle = Handle(when, callback, args, context)
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **options)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    async def create_connection(  # type: ignore[override]
        self, factory: Callable[[], Any], host: str, port: int, **options: Any
    ) -> Any:
        return self._network.connect(factory, port)
