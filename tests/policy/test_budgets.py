"""Budgets: how they are written, and what they count."""

from datetime import UTC, datetime

import pytest

from legato.policy import budgets
from legato.policy.budgets import Budget
from legato.store.live import Decision

NOVEMBER = datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "budget", "again"),
    [
        ("10usd", Budget(10, "usd"), "10usd"),
        ("$10", Budget(10, "usd"), "10usd"),
        ("0.5 USD / Month", Budget(0.5, "usd", "month"), "0.5usd/month"),
        ("$.25/total", Budget(0.25, "usd"), "0.25usd"),
        ("2Mtokens/month", Budget(2e6, "tokens", "month"), "2000000tokens/month"),
        ("500k tokens", Budget(5e5, "tokens"), "500000tokens"),
        ("1.5Gtokens", Budget(1.5e9, "tokens"), "1500000000tokens"),
        ("1token", Budget(1, "tokens"), "1tokens"),
        ("2kusd", Budget(2000, "usd"), "2000usd"),
    ],
)
def test_a_budget_is_read_and_written(text: str, budget: Budget, again: str) -> None:
    assert budgets.parse(text) == budget
    assert str(budget) == again
    assert budgets.parse(again) == budget


def test_what_a_spent_budget_does() -> None:
    assert budgets.parse("1usd", action="warn") == Budget(1, "usd", "total", "warn")
    assert budgets.parse("1usd", hard=True) == Budget(1, "usd", hard=True)
    with pytest.raises(ValueError, match="it cannot only warn"):
        budgets.parse("1usd", action="warn", hard=True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "`` is not a budget; write it like one of: 10usd, 10usd/month, 500ktokens"),
        ("ten usd", "is not a budget"),
        ("10eur", "is not a budget"),
        ("-1usd", "is not a budget"),
        ("1e5usd", "is not a budget"),
        ("nanusd", "is not a budget"),
        ("10usd/week", "is not a budget"),
        ("10", "has no unit: add `usd` or `tokens`"),
        ("10/month", "has no unit"),
        ("$10usd", "has two units"),
        ("0usd", "is 0"),
        ("0.5tokens", "is not a whole number of tokens"),
    ],
)
def test_what_is_no_budget(text: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        budgets.parse(text)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (Budget(1, "usd"), "key:a:usd:total"),
        (Budget(1, "usd", "month"), "key:a:usd:2026-11"),
        (Budget(1, "tokens", "month"), "key:a:tokens:2026-11"),
    ],
)
def test_what_is_counted(budget: Budget, name: str) -> None:
    assert budgets.counter("key:a", budget, NOVEMBER) == name


@pytest.mark.parametrize(
    ("now", "begin", "end"),
    [
        ((2026, 11, 30, 23, 59), (2026, 11), (2026, 12)),
        ((2026, 12, 31, 23, 59), (2026, 12), (2027, 1)),
        ((2027, 1, 1), (2027, 1), (2027, 2)),
        ((2028, 2, 29, 12), (2028, 2), (2028, 3)),
    ],
)
def test_a_month(now: tuple[int, ...], begin: tuple[int, int], end: tuple[int, int]) -> None:
    def seconds(*date: int) -> float:
        year, month, *rest = date
        day, *time = rest or [1]
        return datetime(year, month, day, *time, tzinfo=UTC).timestamp()

    assert budgets.month(seconds(*now)) == (seconds(*begin), seconds(*end))


def test_the_bucket_of_a_budget() -> None:
    month = budgets.bucket("key:a", Budget(5, "usd", "month", "warn"), 0.25, NOVEMBER)
    assert (month.name, month.kind) == ("key:a:usd:2026-11", "budget_usd")
    assert (month.capacity, month.amount, month.seconds, month.blocks) == (5, 0.25, 30.0, False)
    total = budgets.bucket("owner:o", Budget(5, "tokens"), 100, NOVEMBER)
    assert (total.name, total.kind) == ("owner:o:tokens:total", "budget_tokens")
    assert (total.seconds, total.taken, total.blocks) == (0.0, 5, True)


def test_what_one_call_may_spend_of_a_hard_budget() -> None:
    bucket = budgets.bucket("key:a", Budget(5, "usd", hard=True), 0.5, NOVEMBER)
    decision = Decision(True, left={bucket.name: 2.0, "owner:o:usd:total": 0.0})
    assert budgets.allowance(bucket, decision) == 2.5
