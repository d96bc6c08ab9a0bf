"""Health of a deployment: averages for routing, and a circuit breaker.

Times are seconds of the caller's clock. Averages decay with a half-life of one minute, so that a
deployment that was slow or failed is tried again.
"""

from typing import Final, Literal

from msgspec import Struct

HALF_LIFE: Final = 60.0

#: The weight of the newest value in an average.
NEWEST_WEIGHT: Final = 0.2

#: The longest time, in seconds, for which a breaker opens.
MAX_OPEN_SECONDS: Final = 300.0

#: Assumed seconds to the first token of a deployment that has only failed so far.
ASSUMED_TTFT: Final = 10.0

State = Literal["closed", "open", "half-open"]


class Health(Struct):
    """Health of one deployment.

    The breaker opens after `open_after` consecutive failures (0: never), for `open_seconds` at
    first and twice as long each further time. Then it is half-open: one call, the probe, may try,
    and its outcome closes or reopens the breaker. Calls that began before the breaker opened do not
    reopen it: twenty of them that fail together are one outage.
    """

    open_after: int = 5
    open_seconds: float = 10.0
    busy: int = 0  # calls in progress
    calls: int = 0
    failures: int = 0  # of all calls
    ttft: float = 0.0  # average seconds; 0: unknown
    failure_rate: float = 0.0  # average, 0 to 1
    measured_at: float = 0.0  # when the averages were last updated
    consecutive_failures: int = 0
    open_until: float = 0.0  # 0: the breaker is closed
    trips: int = 0  # times the breaker opened since it was last closed by a complete answer
    probing: bool = False

    def state(self, now: float) -> State:
        if not self.open_until:
            return "closed"
        return "open" if now < self.open_until else "half-open"

    def allows(self, now: float) -> bool:
        return not self.open_until or (now >= self.open_until and not self.probing)

    def score(self, now: float) -> float:
        """Expected seconds to a first token, failures included; lower is better. Unknown: 0."""
        decay = 0.5 ** ((now - self.measured_at) / HALF_LIFE)
        failure_rate = self.failure_rate * decay
        # A deployment that has only failed has no TTFT: without an assumed one it would win.
        ttft = self.ttft * decay or failure_rate * ASSUMED_TTFT
        return ttft / max(0.01, 1.0 - failure_rate)

    # Events of a call

    def begin(self, now: float) -> bool:
        """Counts a call as started. True if it is the probe: the caller passes that as `probe` to
        the methods below."""
        self.busy += 1
        self.calls += 1
        if not self.open_until or self.probing or now < self.open_until:
            return False
        self.probing = True
        return True

    def end(self, *, probe: bool = False) -> None:
        """Counts a call as ended, whatever its outcome."""
        self.busy -= 1
        if probe:
            self.probing = False

    def record_first_token(self, now: float, ttft: float, *, probe: bool = False) -> None:
        self.ttft = ttft if not self.ttft else self.ttft + NEWEST_WEIGHT * (ttft - self.ttft)
        self._update_failure_rate(now, 0.0)
        if probe:
            # The breaker closes, but until an answer is complete one more failure reopens it.
            self.open_until = 0.0
            self.consecutive_failures = max(0, self.open_after - 1)

    def record_success(self) -> None:
        """Counts an answer that was complete."""
        self.consecutive_failures = self.trips = 0

    def record_failure(
        self, now: float, retry_after: float | None = None, *, probe: bool = False
    ) -> None:
        """`retry_after`: seconds, as in the deployment's `Retry-After` header."""
        self.failures += 1
        self.consecutive_failures += 1
        self._update_failure_rate(now, 1.0)
        if not self.open_after:
            return
        if retry_after is not None:
            self.open_until = max(self.open_until, now + min(retry_after, MAX_OPEN_SECONDS))
        elif self.consecutive_failures >= self.open_after and (probe or not self.open_until):
            self.open_until = now + min(self.open_seconds * 2**self.trips, MAX_OPEN_SECONDS)
            self.trips = min(self.trips + 1, 16)

    def reset(self) -> None:
        """Closes the breaker: the process behind the deployment was replaced, for example by a
        restart of the local engine."""
        self.consecutive_failures = self.trips = 0
        self.open_until = 0.0

    def _update_failure_rate(self, now: float, failed: float) -> None:
        self.failure_rate += NEWEST_WEIGHT * (failed - self.failure_rate)
        self.measured_at = now
