"""How a deployment has done of late: what routing and the circuit breaker go by.

Times are seconds of the caller's clock. Old news fades: what was measured counts half after a
minute, so that one that was slow, or broke, is tried again in time.
"""

from typing import Final, Literal

from msgspec import Struct

HALF_LIFE: Final = 60.0

#: The weight of the newest value in an average.
NEWEST: Final = 0.2

#: Seconds that a breaker stays open at most, however often it opens.
LONGEST: Final = 300.0

#: Seconds to a first token that one is taken to need of which nothing but failures is known.
UNKNOWN: Final = 10.0

State = Literal["closed", "open", "half-open"]


class Health(Struct):
    """One deployment. Its breaker opens after `open_after` failures in a row (0: never), and for
    `open_seconds` at first; then one call may try, the probe, and decides. Calls that were under
    way when it opened tell nothing more: twenty that break at once are one outage."""

    open_after: int = 5
    open_seconds: float = 10.0
    busy: int = 0  # calls on it now
    calls: int = 0
    failures: int = 0  # of all calls
    ttft: float = 0.0  # seconds, an average; 0: nothing is known
    failing: float = 0.0  # 0 to 1, an average
    measured: float = 0.0  # when that was last measured
    row: int = 0  # failures without an answer between them
    until: float = 0.0  # the breaker is open until then; 0: it is closed
    trips: int = 0  # times that it opened without closing in between
    probing: bool = False

    def state(self, now: float) -> State:
        if not self.until:
            return "closed"
        return "open" if now < self.until else "half-open"

    def allows(self, now: float) -> bool:
        return not self.until or (now >= self.until and not self.probing)

    def score(self, now: float) -> float:
        """Seconds to a first token that one may expect: the lower the better. Nothing known: 0."""
        fading = 0.5 ** ((now - self.measured) / HALF_LIFE)
        failing = self.failing * fading
        # Of one that has done nothing but fail, no time is known that could speak for it.
        ttft = self.ttft * fading or failing * UNKNOWN
        return ttft / max(0.01, 1.0 - failing)

    # What happens to it

    def begin(self, now: float) -> bool:
        """Whether this call is the probe: `probe` of what is told of it from here on."""
        self.busy += 1
        self.calls += 1
        if not self.until or self.probing or now < self.until:
            return False
        self.probing = True
        return True

    def end(self, *, probe: bool = False) -> None:
        """The call that began is over, whatever came of it."""
        self.busy -= 1
        if probe:
            self.probing = False

    def opened(self, now: float, ttft: float, *, probe: bool = False) -> None:
        """A first token has come."""
        self.ttft = ttft if not self.ttft else self.ttft + NEWEST * (ttft - self.ttft)
        self._measure(now, 0.0)
        if probe:
            # It is let in again, but has to get through an answer before it counts as well.
            self.until = 0.0
            self.row = max(0, self.open_after - 1)

    def completed(self) -> None:
        self.row = self.trips = 0

    def renewed(self) -> None:
        """It is another one by now (an engine that was started again): nothing is held against
        it."""
        self.row = self.trips = 0
        self.until = 0.0

    def failed(self, now: float, retry_after: float | None = None, *, probe: bool = False) -> None:
        """`retry_after`: seconds for which it has asked to be left alone."""
        self.failures += 1
        self.row += 1
        self._measure(now, 1.0)
        if not self.open_after:
            return
        if retry_after is not None:
            self.until = max(self.until, now + min(retry_after, LONGEST))
        elif self.row >= self.open_after and (probe or not self.until):
            self.until = now + min(self.open_seconds * 2**self.trips, LONGEST)
            self.trips = min(self.trips + 1, 16)

    def _measure(self, now: float, failed: float) -> None:
        self.failing += NEWEST * (failed - self.failing)
        self.measured = now
