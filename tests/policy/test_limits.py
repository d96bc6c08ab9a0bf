"""Limits of keys, tiers and routes; how a refusal is said."""

import math
from typing import Any

import pytest

from legato.policy import limits
from legato.policy.limits import NO_LIMITS, TIERS, Limits, refusal
from legato.store.live import Bucket, Decision, Kind, Level


def test_the_tiers_of_the_contract() -> None:
    assert {
        name: (tier.requests_per_minute, tier.tokens_per_minute, tier.requests_per_day)
        for name, tier in TIERS.items()
    } == {
        "free": (10, 40_000, 500),
        "basic": (50, 200_000, 10_000),
        "pro": (100, 1_000_000, 100_000),
        "enterprise": (None, None, None),
    }


@pytest.mark.parametrize(
    ("own", "tier", "both"),
    [
        (Limits(5), None, Limits(5)),
        (NO_LIMITS, TIERS["free"], TIERS["free"]),
        (Limits(5, concurrent=2), TIERS["free"], Limits(5, 40_000, 500, 2)),
        (Limits(1000), TIERS["free"], Limits(1000, 40_000, 500)),
        (NO_LIMITS, NO_LIMITS, NO_LIMITS),
    ],
)
def test_a_key_s_own_limits_go_before_its_tier_s(
    own: Limits, tier: Limits | None, both: Limits
) -> None:
    assert limits.merged(own, tier) == both


def test_the_buckets_of_a_call() -> None:
    assert limits.buckets("key:a", NO_LIMITS, 10) == []
    assert limits.buckets("route:x", Limits(max_tokens=5), 10) == []
    assert limits.buckets("key:a", Limits(1, 2, 3, 4), 10) == [
        Bucket("key:a:requests", "requests", 1, 60.0, 1.0),
        Bucket("key:a:day", "day", 3, 86_400.0, 1.0),
        Bucket("key:a:concurrent", "concurrent", 4, 0.0, 1.0),
        Bucket("key:a:tokens", "tokens", 2, 60.0, 10),
    ]


def test_the_lowest_of_limits() -> None:
    assert limits.least(None, None) is None
    assert limits.least(None, 7) == 7
    assert limits.least(5, 7) == 5


def refused(kind: Kind, name: str, wait: float, limit: float = 10) -> Decision:
    return Decision(False, wait, name, kind, {kind: Level(limit, 0, wait)})


LIMIT, QUOTA = "rate_limit_exceeded", "insufficient_quota"


@pytest.mark.parametrize(
    ("decision", "code", "wait", "message"),
    [
        (
            refused("requests", "key:k1:requests", 2.5),
            LIMIT,
            2.5,
            "The limit of this API key is reached: 10 requests per minute.",
        ),
        (
            refused("tokens", "route:a/b:c:tokens", 2.5, 1e6),
            LIMIT,
            2.5,
            "The limit of the model `a/b:c` is reached: 1000000 tokens per minute.",
        ),
        (
            refused("day", "owner:x:day", 9.0),
            LIMIT,
            9.0,
            "The limit of the owner of this API key is reached: 10 requests per day.",
        ),
        (
            refused("concurrent", "key:k1:concurrent", 1.0, 1),
            LIMIT,
            1.0,
            "The limit of this API key is reached: 1 call at the same time.",
        ),
        (
            refused("budget_usd", "owner:x:usd:total", math.inf),
            QUOTA,
            None,
            "The budget of the owner of this API key is spent.",
        ),
        (
            refused("budget_tokens", "key:k1:tokens:2026-11", 99.0),
            QUOTA,
            99.0,
            "The budget of this API key is spent until the next period begins.",
        ),
        (
            refused("budget_usd", "key:k1:usd:total", 1.0),
            LIMIT,
            1.0,
            "What is left of the budget of this API key is reserved by calls in progress.",
        ),
    ],
)
def test_a_refusal_says_what_is_used_up(
    decision: Decision, code: str, wait: float | None, message: str
) -> None:
    error = refusal(decision)
    found: Any = (error.status, error.code, error.retry_after, error.message)
    assert found == (429, code, wait, message)
    assert error.is_curable == (code == LIMIT)


def test_a_refusal_where_limits_cannot_be_checked() -> None:
    error = refusal(Decision(False, is_available=False))
    assert (error.status, error.code) == (503, "limits_unavailable")
