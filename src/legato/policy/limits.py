"""Limits of keys, tiers and routes, the buckets that a call takes from, and the error for a call
that is refused."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from legato.core.errors import ApiError, service_unavailable
from legato.store.live import BUDGETS, Bucket, Decision, Kind

Count = Annotated[int, Meta(ge=1, le=1_000_000_000_000_000)]

MINUTE: Final = 60.0
DAY: Final = 86_400.0


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What a key, a tier or a route allows; None: no limit.

    `concurrent`: calls in progress. `max_tokens`: tokens that one call may ask to be generated.
    """

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    requests_per_day: Count | None = None
    concurrent: Count | None = None
    max_tokens: Count | None = None


NO_LIMITS: Final = Limits()

#: Tiers that exist without configuration.
TIERS: Final[dict[str, Limits]] = {
    "free": Limits(10, 40_000, 500),
    "basic": Limits(50, 200_000, 10_000),
    "pro": Limits(100, 1_000_000, 100_000),
    "enterprise": NO_LIMITS,
}


def merged(own: Limits, tier: Limits | None) -> Limits:
    """A key's own limits, and its tier's where it has none."""
    if tier is None:
        return own
    return replace(
        tier, **{name: value for name, value in asdict(own).items() if value is not None}
    )


def tiers(configured: Mapping[str, Limits]) -> dict[str, Limits]:
    """All tiers: what is configured changes single limits of `TIERS`, or adds tiers."""
    added = {name: merged(limits, TIERS.get(name)) for name, limits in configured.items()}
    return TIERS | added


def buckets(subject: str, limits: Limits, tokens: float) -> list[Bucket]:
    """The buckets that a call takes from.

    `subject`: whose limits they are: `key:ID`, `route:NAME`. `tokens`: an estimate of those of the
    prompt and those that may be generated.
    """
    found = list(_buckets(subject, limits))
    if limits.tokens_per_minute is not None:
        capacity = limits.tokens_per_minute
        found.append(Bucket(f"{subject}:tokens", "tokens", capacity, MINUTE, tokens))
    return found


@lru_cache(maxsize=10_000)
def _buckets(subject: str, limits: Limits) -> tuple[Bucket, ...]:
    """Those from which each call takes one."""
    found: list[Bucket] = []
    if limits.requests_per_minute is not None:
        found.append(Bucket(f"{subject}:requests", "requests", limits.requests_per_minute, MINUTE))
    if limits.requests_per_day is not None:
        found.append(Bucket(f"{subject}:day", "day", limits.requests_per_day, DAY))
    if limits.concurrent is not None:
        found.append(Bucket(f"{subject}:concurrent", "concurrent", limits.concurrent))
    return tuple(found)


def least(*limits: int | None) -> int | None:
    """The lowest of several limits; None: there is none."""
    return min((each for each in limits if each is not None), default=None)


_PERIODS: Final[dict[Kind, str]] = {
    "requests": "request{s} per minute",
    "tokens": "token{s} per minute",
    "day": "request{s} per day",
    "concurrent": "call{s} at the same time",
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
    what = _PERIODS[decision.kind].format(s="" if limit == 1 else "s")
    message = f"The limit of {whose} is reached: {limit:.0f} {what}."
    return ApiError(429, "rate_limit_exceeded", message, retry_after=wait)


def _whose(bucket: str) -> str:
    kind, _, rest = bucket.partition(":")
    if kind == "route":
        return f"the model `{rest.rpartition(':')[0]}`"
    return _SUBJECTS.get(kind, "this server")
