"""Budgets: how much money, or how many tokens, a key or an owner may spend."""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from legato.store.live import Bucket, Decision

Unit = Literal["usd", "tokens"]
Period = Literal["month", "total"]
Action = Literal["warn", "block"]

_FORM: Final = re.compile(
    r"(?P<dollar>\$)?\s*(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<factor>[kMG])?\s*"
    r"(?P<unit>usd|tokens?)?\s*(?:/\s*(?P<period>month|total))?",
    re.IGNORECASE,
)
_FACTORS: Final = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_EXAMPLES: Final = "10usd, 10usd/month, 500ktokens, 2Mtokens/month"


class Budget(Struct, frozen=True, forbid_unknown_fields=True):
    """`amount`: in `unit`. `period`: a calendar month in UTC, or the whole life of its subject.
    `action`: whether calls are refused once it is spent. `hard`: calls in progress are then cut;
    not with `warn`."""

    amount: Annotated[float, Meta(gt=0, le=1e15)]
    unit: Unit
    period: Period = "total"
    action: Action = "block"
    hard: bool = False

    def __str__(self) -> str:
        """The form that `parse` reads."""
        number = f"{self.amount:.10f}".rstrip("0").rstrip(".")
        return f"{number}{self.unit}{'/month' if self.period == 'month' else ''}"


def parse(text: str, *, action: Action = "block", hard: bool = False) -> Budget:
    """`10usd`, `$10/month`, `2Mtokens/month`; without a period it is for good.

    Raises ValueError, with a message that names the fix.
    """
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise ValueError(f"`{text}` is not a budget; write it like one of: {_EXAMPLES}")
    named = (form["unit"] or "").lower()
    if bool(named) == bool(form["dollar"]):
        wrong = "has two units" if named else "has no unit: add `usd` or `tokens`"
        raise ValueError(f"the budget `{text}` {wrong}; examples: {_EXAMPLES}")
    unit: Unit = "tokens" if named.startswith("token") else "usd"
    amount = float(form["number"]) * _FACTORS[(form["factor"] or "").lower()]
    if not amount:
        raise ValueError(f"the budget `{text}` is 0: it has to be more; to stop a key, revoke it")
    if unit == "tokens" and amount != int(amount):
        raise ValueError(f"the budget `{text}` is not a whole number of tokens")
    period: Period = "month" if (form["period"] or "").lower() == "month" else "total"
    return Budget(amount, unit, period, action, hard)


def counter(subject: str, budget: Budget, now: float) -> str:
    """The name of what a budget counts: `key:ID:usd:2026-11`, `owner:NAME:tokens:total`.

    `subject`: `key:ID` or `owner:NAME`. `now`: Unix seconds. Budgets of one subject with the same
    unit and period count the same; a call takes from one of them.
    """
    period = _month(int(now // 3600))[0] if budget.period == "month" else "total"
    return f"{subject}:{budget.unit}:{period}"


def month(now: float) -> tuple[float, float]:
    """Begin and end of the calendar month in UTC, in Unix seconds."""
    return _month(int(now // 3600))[1:]


@lru_cache(maxsize=4)
def _month(hour: int) -> tuple[str, float, float]:
    """Name, begin and end of the month of an hour since 1970."""
    begin = datetime.fromtimestamp(hour * 3600, UTC).replace(day=1, hour=0)
    years, months = divmod(begin.month, 12)
    end = begin.replace(year=begin.year + years, month=months + 1)
    return begin.strftime("%Y-%m"), begin.timestamp(), end.timestamp()


def bucket(subject: str, budget: Budget, amount: float, now: float) -> Bucket:
    """What a call reserves of a budget. `amount`: estimated, in the budget's unit."""
    return Bucket(
        counter(subject, budget, now),
        "budget_usd" if budget.unit == "usd" else "budget_tokens",
        budget.amount,
        month(now)[1] - now if budget.period == "month" else 0.0,
        amount,
        blocks=budget.action == "block",
    )


def allowance(taken: Bucket, decision: Decision) -> float:
    """What the admitted call may spend of a hard budget before it is cut: its reservation, and what
    nobody has reserved."""
    return decision.levels[taken.kind].remaining + taken.taken
