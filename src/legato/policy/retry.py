"""Which failures before the first token are retried, how often, and after what delay."""

import random
from collections.abc import Callable
from typing import Final, Literal

from legato.core.errors import UpstreamError

FailureKind = Literal["connection", "busy", "server", "timeout", "empty", "configuration"]

#: Retries of one deployment within one call, by kind of failure. Falling back to another deployment
#: is always allowed. A timeout has already used its time; a wrong credential or address of ours
#: stays wrong.
RETRIES: Final[dict[FailureKind, int]] = {
    "connection": 2,
    "busy": 2,
    "server": 2,
    "timeout": 1,
    "empty": 1,
    "configuration": 0,
}

#: Seconds before the first retry of a deployment; doubled for each further retry.
BACKOFF: Final = 0.25

_KINDS: Final[dict[str, FailureKind]] = {
    "upstream_unreachable": "connection",
    "upstream_connect_timeout": "connection",
    "upstream_cut": "connection",
    "upstream_busy": "busy",
    "upstream_rate_limited": "busy",
    "upstream_409": "busy",
    "upstream_empty": "empty",
    "upstream_first_token_timeout": "timeout",
    "upstream_total_timeout": "timeout",
    "upstream_408": "timeout",
    "upstream_tls": "configuration",
    "upstream_proxy": "configuration",
    "upstream_quota": "configuration",
    "model_loading": "configuration",
    **{f"upstream_{status}": "configuration" for status in (401, 402, 403, 404, 405)},
}


def failure_kind(error: UpstreamError) -> FailureKind:
    return _KINDS.get(error.code, "busy" if error.status == 429 else "server")


class RetryBudget:
    """Attempts and time that one call may still use. `draw` returns numbers between 0 and 1."""

    __slots__ = ("_attempts", "_attempts_of", "_deadline", "_draw", "_failures", "_gate")

    def __init__(
        self,
        attempts: int,
        deadline: float,
        gate: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`attempts`: requests in total; `deadline`: after it no deployment is retried; `gate`:
        until then the status can still report a failure. A retry of the same deployment never
        waits past the gate."""
        self._attempts = attempts
        self._deadline = deadline
        self._gate = min(gate, deadline)
        self._draw = draw
        self._failures: dict[tuple[str, FailureKind], int] = {}
        self._attempts_of: dict[str, int] = {}

    def record_attempt(self, deployment: str) -> None:
        self._attempts -= 1
        self._attempts_of[deployment] = self._attempts_of.get(deployment, 0) + 1

    def allows(self, deployment: str, now: float) -> bool:
        """Whether one more request may go to `deployment`. The deadline does not apply to the first
        request to a deployment."""
        return self._attempts > 0 and (deployment not in self._attempts_of or now < self._deadline)

    def retry_delay(self, deployment: str, error: UpstreamError, now: float) -> float | None:
        """Seconds to wait before `deployment` is retried after `error`; None: no retry."""
        kind = failure_kind(error)
        failures = self._failures[deployment, kind] = self._failures.get((deployment, kind), 0) + 1
        if failures > RETRIES[kind]:
            return None
        delay = BACKOFF * 2 ** (self._attempts_of.get(deployment, 0) - 1) * (0.5 + self._draw())
        delay = max(delay, error.retry_after or 0.0)
        return delay if now + delay < self._gate else None
