"""One timer for all streams: deadlines that move with every chunk, without a timer per chunk.

A watcher is asked `check(now)` when its deadline may have passed, and answers with its next
deadline or None. Progress only has to be noted where it happens; the timer finds out at the old
deadline and comes back later. One look per stream and deadline, however many chunks come between.
"""

import heapq
from collections.abc import Callable
from typing import Final

#: Asked at a deadline; gives the next one, or None when there is nothing more to watch.
Check = Callable[[float], float | None]

RESOLUTION: Final = 0.05  # seconds; deadlines are kept to the next multiple of it, never early


class Timer:
    """A watcher that can be let go of before its time; what it would have called is then free."""

    __slots__ = ("check",)

    def __init__(self, check: Check) -> None:
        self.check: Check | None = check

    def __call__(self, now: float) -> float | None:
        return None if self.check is None else self.check(now)


class Timers:
    """Times are seconds of whatever clock the driver uses."""

    __slots__ = ("_order", "_slots", "on_earlier")

    def __init__(self) -> None:
        self._slots: dict[float, list[Check]] = {}  # by their number, a whole one
        self._order: list[float] = []
        self.on_earlier: Callable[[float], None] | None = None
        """Called with a deadline that comes before all others: the driver's alarm must move."""

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    @property
    def next_due(self) -> float | None:
        return self._order[0] * RESOLUTION if self._order else None

    def watch(self, deadline: float, check: Check) -> None:
        slot = deadline // RESOLUTION + 1
        checks = self._slots.get(slot)
        if checks is not None:
            checks.append(check)
            return
        self._slots[slot] = [check]
        heapq.heappush(self._order, slot)
        if self._order[0] == slot and self.on_earlier is not None:
            self.on_earlier(slot * RESOLUTION)

    def clear(self) -> None:
        """Nothing is watched any more."""
        self._slots.clear()
        self._order.clear()

    def advance(self, now: float) -> None:
        """Asks every watcher whose deadline is not after `now`."""
        while self._order and self._order[0] * RESOLUTION <= now:
            checks = self._slots.pop(heapq.heappop(self._order))
            try:
                while checks:
                    check = checks.pop()
                    deadline = check(now)
                    if deadline is not None:
                        self.watch(max(deadline, now + RESOLUTION), check)
            finally:
                for each in checks:  # one of them raised: the others are asked the next time
                    self.watch(now + RESOLUTION, each)
