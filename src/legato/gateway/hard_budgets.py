"""Cuts calls that have spent a hard budget.

A call may spend what is reserved for it, and reserves more while its answer comes. So calls in
progress together do not spend more than the budget, but for the tokens that come between two looks.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from legato.core.errors import ApiError
from legato.policy.budgets import Budget, granted
from legato.policy.estimates import Estimate
from legato.policy.ledger import Price
from legato.store.live import Bucket, Decision, Live, Permit

#: Seconds after which it is looked again what a call has spent.
LOOK_SECONDS: Final = 0.5

#: Looks ahead for which tokens are reserved, at the speed at which they have come.
LOOKS_AHEAD: Final = 2


class Cost(Struct, frozen=True):
    """What a call is taken to use. `price` None: it costs nothing that is known."""

    estimate: Estimate
    price: Price | None

    def amount(self, budget: Budget, completion: int) -> float:
        """With so many tokens of an answer, in the budget's unit."""
        prompt = self.estimate.prompt
        if budget.unit == "tokens":
            return prompt + completion
        if self.price is None:
            return 0.0
        return (prompt * self.price.prompt + completion * self.price.completion) / 1e6


class HardBudget:
    """One call's part of a hard budget. `bucket`: what the call reserved at its admission."""

    def __init__(self, budget: Budget, bucket: Bucket, cost: Cost, decision: Decision) -> None:
        self.budget = budget
        self._bucket = bucket
        self._cost = cost
        self._reserved = granted(bucket, decision)
        self._used = cost.amount(budget, 0)
        self._permits: list[Permit] = []

    @property
    def covers_prompt(self) -> bool:
        """Whether something could be answered."""
        return self._used <= self._reserved

    async def covers(self, live: Live, completion: int) -> bool:
        """Whether the call may go on; reserves more where it soon needs more. `completion`: tokens
        that have come."""
        used = self._cost.amount(self.budget, completion)
        needed = used + LOOKS_AHEAD * (used - self._used) - self._reserved
        self._used = used
        if needed <= 0:
            return True
        bucket = replace(self._bucket, amount=max(needed, self._bucket.amount))
        decision = await live.admit([bucket])
        if decision.permit is not None:
            self._permits.append(decision.permit)
            self._reserved += granted(bucket, decision)
        elif not decision.is_available:
            return True  # what is left is not known
        return used <= self._reserved

    def release(self, live: Live) -> None:
        """Gives back what was reserved while the answer came; the call's own permit is settled to
        what all of it cost."""
        permits, self._permits = self._permits, []
        for permit in permits:
            live.release(permit)


async def watch(
    live: Live, budgets: Sequence[HardBudget], completion: Callable[[], int]
) -> ApiError:
    """Returns when the call has spent one of the budgets. `completion`: tokens that have come."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for each in budgets:
            if not await each.covers(live, completion()):
                return spent(each.budget)


def spent(budget: Budget) -> ApiError:
    return ApiError(429, "insufficient_quota", f"The budget of {budget} is spent.")
