"""Admission: the interface to limits and budgets in use, and the error for a refused call."""

import math
from typing import Final

from legato.core.errors import ApiError, service_unavailable
from legato.store.live import (
    BUDGETS,
    THRESHOLDS,
    Bucket,
    Crossed,
    Decision,
    Kind,
    Level,
    Levels,
    Live,
    OnCrossed,
    Permit,
)

__all__ = [
    "BUDGETS",
    "THRESHOLDS",
    "Bucket",
    "Crossed",
    "Decision",
    "Kind",
    "Level",
    "Levels",
    "Live",
    "OnCrossed",
    "Permit",
    "refusal",
]

_PERIODS: Final[dict[Kind, str]] = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "day": "requests per day",
    "concurrent": "calls at the same time",
}

#: Whose limits a bucket's subject has, for messages.
_SUBJECTS: Final = {"key": "this API key", "owner": "the owner of this API key"}


def refusal(decision: Decision) -> ApiError:
    """The error for a call that was not admitted. Its `retry_after` is in seconds and exact; in a
    header it has to be rounded up."""
    if not decision.is_available:
        return service_unavailable("The server cannot check limits now.", code="limits_unavailable")
    assert decision.kind is not None
    assert decision.limiting is not None
    wait = None if math.isinf(decision.retry_after) else decision.retry_after
    whose = _whose(decision.limiting)
    if decision.is_spent:
        until = "" if wait is None else " until the next period begins"
        message = f"The budget of {whose} is spent{until}."
        return ApiError(429, "insufficient_quota", message, retry_after=wait)
    if decision.kind in BUDGETS:
        message = f"What is left of the budget of {whose} is reserved by calls in progress."
        return ApiError(429, "rate_limit_exceeded", message, retry_after=wait)
    limit = decision.levels[decision.kind].limit
    message = f"The limit of {whose} is reached: {limit:.0f} {_PERIODS[decision.kind]}."
    return ApiError(429, "rate_limit_exceeded", message, retry_after=wait)


def _whose(bucket: str) -> str:
    kind, _, rest = bucket.partition(":")
    if kind == "route":
        return f"the model `{rest.rpartition(':')[0]}`"
    return _SUBJECTS.get(kind, "this server")
