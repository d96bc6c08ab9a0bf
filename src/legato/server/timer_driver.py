"""Drives `core.timers.Timers` from an event loop."""

import asyncio
from collections.abc import Callable

from legato.core.timers import Timers


class TimerDriver:
    """Advances the timers when they are due, with one timer of the loop for the earliest deadline.

    `clock`: the clock of the deadlines.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timers: Timers, clock: Callable[[], float]
    ) -> None:
        self._loop = loop
        self._timers = timers
        self._clock = clock
        self._handle: asyncio.TimerHandle | None = None
        timers.on_earlier = self._schedule

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self, deadline: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0.0, deadline - self._clock()), self._advance)

    def _advance(self) -> None:
        self._handle = None
        self._timers.advance(self._clock())
        if self._handle is None and (due := self._timers.next_due) is not None:
            self._schedule(due)
