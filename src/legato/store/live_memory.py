"""Live state in the memory of one server."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from legato.store.live import (
    BUDGETS,
    RATES,
    Bucket,
    Crossed,
    Decision,
    Levels,
    OnCrossed,
    Permit,
    Used,
    allowed,
    crossed,
    levels,
    refused,
    truth,
    wait,
)

#: Buckets of each sort that are held. Beyond it the oldest go, also those that are not full: then
#: their keys get back what they have used.
MAX_BUCKETS: Final = 200_000

#: Old buckets that are looked at for each new one. Two, so that idle ones go faster than new ones
#: come.
LOOKED_AT: Final = 2


class _Spending(Struct):
    """A budget's counter. `ends`: when its period is over, on the clock; 0: never."""

    spent: float = 0.0
    reserved: float = 0.0
    reservations: int = 0
    ends: float = 0.0


class LiveMemory:
    """Buckets in dictionaries. Everything happens within one call, without waiting.

    `clock`: seconds, monotonic. `on_crossed` is called for each threshold of a budget, once.
    """

    is_reachable = True

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        on_crossed: OnCrossed | None = None,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self._clock = clock
        self._on_crossed = on_crossed
        self._max = max_buckets
        self._full_at: OrderedDict[str, float] = OrderedDict()  # rates
        self._held: dict[str, int] = {}  # concurrency; names without a permit are not in it
        self._budgets: OrderedDict[str, _Spending] = OrderedDict()
        self.permits = 0

    async def start(self) -> None:
        """There is nothing to start."""

    async def stop(self) -> None:
        """There is nothing to stop."""

    async def load(self, spent: Mapping[str, float]) -> None:
        for name, amount in spent.items():
            self.raise_spent(name, amount)

    async def admit(self, buckets: Sequence[Bucket]) -> Decision:
        return self.take(buckets)

    async def levels(self, buckets: Sequence[Bucket]) -> Levels:
        return self.left(buckets)

    def settle(self, permit: Permit, tokens: float, cost: float = 0.0) -> None:
        for each in self.give_back(permit, tokens, cost):
            if self._on_crossed is not None:
                self._on_crossed(each)

    def release(self, permit: Permit) -> None:
        self.settle(permit, 0.0)

    # Without waiting, for a server whose Valkey is away

    def take(self, buckets: Sequence[Bucket]) -> Decision:
        now = self._clock()
        used = [self._used(bucket, now) for bucket in buckets]
        for bucket, each in zip(buckets, used, strict=True):
            if wait(bucket, each):
                return refused(buckets, used)
        self.grant(buckets)
        return allowed(buckets, used, Permit("", buckets, is_local=True))

    def grant(self, buckets: Sequence[Bucket]) -> None:
        """Takes from all buckets, whether they allow it or not."""
        now = self._clock()
        for bucket in buckets:
            self._take(bucket, now)
        self.permits += 1

    def give_back(self, permit: Permit, tokens: float, cost: float) -> list[Crossed]:
        """Settles; returns the thresholds that were passed."""
        if permit.is_settled:
            return []
        permit.is_settled = True
        self.permits -= 1
        now, passed = self._clock(), list[Crossed]()
        for bucket in permit.buckets:
            kind = bucket.kind
            if kind == "tokens":
                self._correct(bucket, tokens - bucket.taken, now)
            elif kind == "concurrent":
                self._let_go(bucket)
            elif kind in BUDGETS:
                passed += self._spend(bucket, truth(bucket, tokens, cost), now)
        return passed

    def left(self, buckets: Sequence[Bucket]) -> Levels:
        now = self._clock()
        return levels(buckets, [self._used(bucket, now) for bucket in buckets], takes=False)

    def raise_spent(self, name: str, amount: float) -> None:
        """Raises a counter to what is known from elsewhere to be spent."""
        spending = self._budgets.get(name)
        if spending is None:
            self._budgets[name] = _Spending(amount)
        else:
            spending.spent = max(spending.spent, amount)

    def spent_of(self, name: str) -> float:
        """What is spent of one counter."""
        spending = self._budgets.get(name)
        return 0.0 if spending is None else spending.spent

    @property
    def spent(self) -> dict[str, float]:
        """What is spent, by counter."""
        return {name: spending.spent for name, spending in self._budgets.items()}

    # One bucket

    def _used(self, bucket: Bucket, now: float) -> Used:
        if bucket.kind in RATES:
            return Used(max(0.0, self._full_at.get(bucket.name, now) - now))
        if bucket.kind == "concurrent":
            return Used(self._held.get(bucket.name, 0))
        spending = self._budgets.get(bucket.name)
        return Used() if spending is None else Used(spending.spent, spending.reserved)

    def _take(self, bucket: Bucket, now: float) -> None:
        if bucket.kind in RATES:
            self._correct(bucket, bucket.taken, now)
        elif bucket.kind == "concurrent":
            self._held[bucket.name] = self._held.get(bucket.name, 0) + 1
        else:
            spending = self._spending(bucket, now)
            spending.reserved += bucket.taken
            spending.reservations += 1

    def _let_go(self, bucket: Bucket) -> None:
        held = self._held.pop(bucket.name, 0) - 1
        if held > 0:
            self._held[bucket.name] = held

    def _correct(self, bucket: Bucket, amount: float, now: float) -> None:
        """Takes an amount, or gives it back where it is negative."""
        full_at = self._full_at.get(bucket.name)
        if full_at is None:
            if amount <= 0:
                return
            self._make_room(now)
            full_at = now
        full_at = max(full_at, now) + amount * bucket.seconds / bucket.capacity
        self._full_at[bucket.name] = full_at

    def _spending(self, bucket: Bucket, now: float) -> _Spending:
        spending = self._budgets.get(bucket.name)
        if spending is None:
            self._forget_ended(now)
            spending = self._budgets[bucket.name] = _Spending()
        spending.ends = now + bucket.seconds if bucket.seconds else 0.0
        return spending

    def _spend(self, bucket: Bucket, amount: float, now: float) -> list[Crossed]:
        spending = self._spending(bucket, now)
        spending.reservations -= 1
        # Without one nothing is reserved, whatever the sums were rounded to.
        left = spending.reserved - bucket.taken if spending.reservations else 0.0
        spending.reserved = max(0.0, left)
        before, spending.spent = spending.spent, spending.spent + amount
        return crossed(bucket, before, spending.spent)

    # Bounds

    def _make_room(self, now: float) -> None:
        """Drops idle buckets before a new one comes. A full bucket needs no entry."""
        buckets = self._full_at
        for _ in range(min(LOOKED_AT, len(buckets))):
            name, full_at = buckets.popitem(last=False)
            if full_at > now and len(buckets) < self._max - 1:
                buckets[name] = full_at

    def _forget_ended(self, now: float) -> None:
        """Drops counters of periods that are over."""
        budgets = self._budgets
        for _ in range(min(LOOKED_AT, len(budgets))):
            name, spending = budgets.popitem(last=False)
            if not 0.0 < spending.ends < now or spending.reservations:
                budgets[name] = spending
