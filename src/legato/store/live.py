"""Live state of limits and budgets: what is taken at admission, what a settled call gives back.

The types, and the arithmetic that memory and Valkey share. A rate is stored as one number, the time
at which its bucket is full again (as in GCRA): it refills continuously, and a debt is a time that
lies further ahead than the bucket's period.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct, field

Kind = Literal["requests", "tokens", "day", "concurrent", "budget_usd", "budget_tokens"]

#: Kinds that refill with time.
RATES: Final = frozenset[Kind]({"requests", "tokens", "day"})
BUDGETS: Final = frozenset[Kind]({"budget_usd", "budget_tokens"})

#: Seconds to wait where only another call's end helps: when that comes is not known.
BUSY_SECONDS: Final = 1.0

#: Seconds by which a call may come too early. A time in seconds since 1970 is a double with a
#: resolution of a quarter of a microsecond, so a client that waits exactly may seem too early.
TOLERANCE: Final = 1e-6

#: Per cent of a budget at which the operator is alerted.
THRESHOLDS: Final = (50, 80, 100)


class Bucket(Struct, frozen=True):
    """One limit, and what a call takes of it.

    `name`: unique, the same on every replica (`key:ID:requests`, `route:NAME:tokens`, and for a
    budget its counter, `owner:NAME:usd:2026-11`). `capacity`: the limit. `seconds`: the period in
    which an empty bucket refills; for a budget the seconds until its period ends (0: never); 0 for
    `concurrent`. `amount`: a call that takes more than the capacity takes all of it. `blocks`:
    false for a budget that only warns.
    """

    name: str
    kind: Kind
    capacity: float
    seconds: float = 0.0
    amount: float = 1.0
    blocks: bool = True

    @property
    def taken(self) -> float:
        return self.amount if self.amount < self.capacity else self.capacity


class Used(Struct, frozen=True):
    """State of a bucket. `amount`: for a rate the seconds until it is full, for `concurrent` the
    permits that are held, for a budget what is spent. `reserved`: of a budget, by open calls."""

    amount: float = 0.0
    reserved: float = 0.0


class Level(Struct, frozen=True):
    """What is left of a limit: less than 0 if there is a debt, or if a call takes more than was
    left of a budget. `reset`: seconds until it is full again."""

    limit: float
    remaining: float
    reset: float


Levels = dict[Kind, Level]


class Permit(Struct):
    """What an admission grants; settled or released exactly once (again: no effect)."""

    id: str
    buckets: Sequence[Bucket]
    is_local: bool = False  # granted by this server alone, while Valkey was away
    is_settled: bool = False


class Decision(Struct):
    """Outcome of an admission.

    `retry_after`: a client that waits so many seconds, and is alone, gets in; infinite for a budget
    that is spent for good. `limiting` and `kind`: of the bucket that refused, where several did the
    one with the longest wait. `levels`: the bucket that refused, and of each other kind the
    one with the least left. `left`: of each budget what neither this call nor others have reserved,
    by the bucket's name. `is_available`: false if the live state is away and `fail` is `closed`.
    """

    allowed: bool
    retry_after: float = 0.0
    limiting: str | None = None
    kind: Kind | None = None
    levels: Levels = field(default_factory=dict[Kind, Level])
    left: dict[str, float] = field(default_factory=dict[str, float])
    permit: Permit | None = None
    is_available: bool = True

    @property
    def is_spent(self) -> bool:
        """Whether a budget refused that is used up, not only reserved by open calls."""
        return self.kind in BUDGETS and self.retry_after > BUSY_SECONDS


class Crossed(Struct, frozen=True):
    """A budget has passed one of `THRESHOLDS`. `name`: its counter. Amounts are in its unit."""

    name: str
    kind: Kind
    percent: int
    spent: float
    amount: float


class Live(Protocol):
    """Limits and budgets of all calls in progress."""

    @property
    def permits(self) -> int:
        """Permits that calls of this server hold."""
        ...

    @property
    def is_reachable(self) -> bool:
        """Whether what all servers share is known; always so in memory."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Call it when all calls are settled; what they settled is written."""
        ...

    async def load(self, spent: Mapping[str, float]) -> None:
        """Raises the counters of budgets to what the ledger says was spent, by counter."""
        ...

    async def admit(self, buckets: Sequence[Bucket]) -> Decision:
        """Takes from all buckets, or from none. No two of them have the same name."""
        ...

    async def levels(self, buckets: Sequence[Bucket]) -> Levels:
        """What is left, without taking anything."""
        ...

    def settle(self, permit: Permit, tokens: float, cost: float = 0.0) -> None:
        """What was reserved becomes the true number: the rest is given back; what was used beyond
        it is taken, and the bucket may go into debt. `cost`: US dollars. Does not wait."""
        ...

    def release(self, permit: Permit) -> None:
        """Gives everything back but the request itself."""
        ...


OnCrossed = Callable[[Crossed], None]


def wait(bucket: Bucket, used: Used) -> float:
    """Seconds until the bucket allows the call; 0 if it does so now."""
    if bucket.kind in RATES:
        early = used.amount + bucket.taken * bucket.seconds / bucket.capacity - bucket.seconds
        return early if early > TOLERANCE else 0.0
    if bucket.kind == "concurrent":
        return BUSY_SECONDS if used.amount + bucket.amount > bucket.capacity else 0.0
    # A budget admits while something is left of it: an estimate must not block what could be used.
    if not bucket.blocks or used.amount + used.reserved < bucket.capacity:
        return 0.0
    if used.amount < bucket.capacity:
        return BUSY_SECONDS
    return max(bucket.seconds, 2 * BUSY_SECONDS) if bucket.seconds else math.inf


def level(bucket: Bucket, used: Used, *, takes: bool) -> Level:
    """What is left once the call has taken its amount; with `takes` false, before it does."""
    taken = bucket.taken if takes else 0.0
    if bucket.kind in RATES:
        reset = used.amount + taken * bucket.seconds / bucket.capacity
        left = bucket.capacity - reset * bucket.capacity / bucket.seconds
    elif bucket.kind == "concurrent":
        reset, left = 0.0, bucket.capacity - used.amount - taken
    else:
        reset, left = bucket.seconds, bucket.capacity - used.amount - used.reserved - taken
    return Level(bucket.capacity, left, reset)


def levels(buckets: Sequence[Bucket], used: Sequence[Used], *, takes: bool) -> Levels:
    """The tightest bucket of each kind: the one with the least left."""
    found: Levels = {}
    for bucket, each in zip(buckets, used, strict=True):
        new, old = level(bucket, each, takes=takes), found.get(bucket.kind)
        if old is None or (new.remaining, -new.reset) < (old.remaining, -old.reset):
            found[bucket.kind] = new
    return found


def refused(buckets: Sequence[Bucket], used: Sequence[Used]) -> Decision:
    """The decision where at least one bucket does not allow the call."""
    waits = [wait(bucket, each) for bucket, each in zip(buckets, used, strict=True)]
    longest = max(waits)
    at = waits.index(longest)
    limiting, found = buckets[at], levels(buckets, used, takes=False)
    found[limiting.kind] = level(limiting, used[at], takes=False)
    return Decision(False, longest, limiting.name, limiting.kind, found)


def allowed(buckets: Sequence[Bucket], used: Sequence[Used], permit: Permit) -> Decision:
    left = {
        bucket.name: level(bucket, each, takes=True).remaining
        for bucket, each in zip(buckets, used, strict=True)
        if bucket.kind in BUDGETS
    }
    return Decision(True, levels=levels(buckets, used, takes=True), left=left, permit=permit)


def truth(bucket: Bucket, tokens: float, cost: float) -> float:
    """What a settled call has used of the bucket, in its unit."""
    return cost if bucket.kind == "budget_usd" else tokens


def crossed(bucket: Bucket, before: float, after: float) -> list[Crossed]:
    """The thresholds that a budget has passed."""
    if before == after:
        return []
    return [
        Crossed(bucket.name, bucket.kind, percent, after, bucket.capacity)
        for percent in THRESHOLDS
        if before < bucket.capacity * percent / 100 * (1 - 1e-9) <= after  # sums are rounded
    ]
