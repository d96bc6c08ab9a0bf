"""Who may call now: limits of keys and routes, budgets, and the queues of routes."""

import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Final, Literal

from msgspec import Struct

from legato.core.front import FrontRequest
from legato.gateway.hard_budgets import Cost, HardBudget, spent
from legato.gateway.route_queue import RouteQueue
from legato.gateway.token_limit import limit_tokens
from legato.policy import budgets
from legato.policy.budgets import Budget
from legato.policy.estimates import Answers
from legato.policy.keys import Key
from legato.policy.ledger import Price, Row
from legato.policy.limits import NO_LIMITS, Limits, buckets, least, merged, refusal
from legato.policy.rate_headers import anthropic_lines, openai_lines
from legato.policy.routing import Route, Router
from legato.store.live import Bucket, Level, Levels, Live, Permit


class RouteLimits(Struct, frozen=True):
    """What a route allows all its clients together. `queue` None: nobody has to wait."""

    limits: Limits = NO_LIMITS
    queue: RouteQueue | None = None


#: The price of a model that a route has; None: it is not known.
PriceOf = Callable[[Route, str], Price | None]


class Standing(Struct, frozen=True):
    """What is left to a key. `levels`: of its limits. `budgets`: its own, and its owner's."""

    limits: Limits
    levels: Levels
    budgets: dict[Literal["key", "owner"], tuple[Budget, Level]]


class Grant:
    """What admission gives one call, and takes back in `settle`.

    `lines`: header lines that tell what is left. `queued`: seconds that it waited for its turn.
    `hard`: budgets that cut it when they are spent (`hard_budgets.watch`).
    """

    __slots__ = ("_settle", "hard", "lines", "queued")

    def __init__(self) -> None:
        self._settle: list[Callable[[Row], None]] = []
        self.hard: list[HardBudget] = []
        self.lines = b""
        self.queued = 0.0

    def on_settled(self, act: Callable[[Row], None]) -> None:
        """What is done when the call has ended."""
        self._settle.append(act)

    def settle(self, row: Row) -> None:
        """The call has ended: what it was given is given back."""
        acts, self._settle = self._settle, []
        for act in acts:
            act(row)


class Limiter:
    """Admits calls.

    `tiers`, `owners` (budgets) and `routes`: by name, as configured. `clock`: seconds. `price_of`:
    the price of a model, by which budgets of money are reserved.
    """

    def __init__(
        self,
        live: Live,
        router: Router,
        clock: Callable[[], float],
        price_of: PriceOf = lambda route, model: None,
        *,
        tiers: Mapping[str, Limits] | None = None,
        owners: Mapping[str, Budget] | None = None,
        routes: Mapping[str, RouteLimits] | None = None,
    ) -> None:
        self.live = live
        self._router = router
        self._clock = clock
        self._price_of = price_of
        self._answers = Answers()
        self._tiers = tiers or {}
        self._owners = owners or {}
        self._routes = routes or {}
        self.limits_of = lru_cache(maxsize=10_000)(self._limits_of)

    async def admit(
        self, grant: Grant, key: Key, request: FrontRequest, on_admitted: Callable[[], None]
    ) -> None:
        """Fills in `grant`. A request that names no number of tokens gets what is allowed.
        `on_admitted` is called before it waits for its turn. Raises `ApiError` for a call that may
        not go on."""
        route = self._router.find_for(key.allows, request.chat.model)
        limits = self.limits_of(key.limits, key.tier)
        of_route = self._routes.get(route.model, _FREE)
        limit_tokens(request, least(limits.max_tokens, of_route.limits.max_tokens))
        taken, hard = self._buckets(key, route, limits, of_route.limits, request)
        if taken:
            decision = await self.live.admit(taken)
            grant.lines = _lines(decision.levels, request.format)
            if decision.permit is None:
                raise refusal(decision)
            grant.on_settled(partial(self._settle, decision.permit))
            for budget, bucket, cost in hard:
                part = HardBudget(budget, bucket, cost, decision)
                if not part.covers_prompt:
                    raise spent(budget)  # nothing could be answered
                grant.hard.append(part)
                grant.on_settled(lambda _, part=part: part.release(self.live))
        grant.on_settled(partial(self._learn, route.model, request.chat.choices))
        on_admitted()
        if of_route.queue is not None:
            grant.queued = await of_route.queue.enter(key.id)
            grant.on_settled(partial(self._leave, of_route.queue, self._clock()))

    async def tell(self, grant: Grant, key: Key, front: str) -> None:
        """Fills in what is left to a key, for a call that takes nothing. `front`: the client's
        format."""
        grant.lines = _lines(await self._levels(key), front)

    async def admit_count(self, key: Key) -> None:
        """Whether a key may have a prompt's tokens counted: as often as it may call, and beside its
        calls. Raises `ApiError` where it may not."""
        limits = self.limits_of(key.limits, key.tier)
        taken = buckets(f"key:{key.id}:counts", _requests(limits), 0.0)
        if taken:
            decision = await self.live.admit(taken)
            if decision.permit is None:
                raise refusal(decision)
            self.live.release(decision.permit)

    async def standing(self, key: Key) -> Standing:
        """What is left to a key now; takes nothing."""
        limits, levels = self.limits_of(key.limits, key.tier), await self._levels(key)
        left: dict[Literal["key", "owner"], tuple[Budget, Level]] = {}
        for whose, subject, budget in self._budgets(key):
            bucket = budgets.bucket(subject, budget, 0.0, time.time())
            found = await self.live.levels([bucket])
            left[whose] = budget, found[bucket.kind]
        return Standing(limits, levels, left)

    @property
    def waiting(self) -> dict[str, int]:
        """Calls that wait for their turn, by route, of those routes that have a queue."""
        return {
            name: each.queue.waiting
            for name, each in self._routes.items()
            if each.queue is not None
        }

    async def _levels(self, key: Key) -> Levels:
        limits = self.limits_of(key.limits, key.tier)
        return await self.live.levels(buckets(f"key:{key.id}", limits, 0.0))

    def _settle(self, permit: Permit, row: Row) -> None:
        self.live.settle(permit, row.prompt_tokens + row.completion_tokens, row.cost or 0.0)

    def _learn(self, route: str, choices: int, row: Row) -> None:
        """From keys without limits, too: answers of one route are alike."""
        if row.outcome == "complete":
            self._answers.learn(route, row.completion_tokens // choices)

    def _leave(self, queue: RouteQueue, since: float, row: Row) -> None:
        queue.leave(self._clock() - since)

    def _limits_of(self, own: Limits, tier: str | None) -> Limits:
        """A key whose tier is not configured any more has its own limits alone."""
        return merged(own, self._tiers.get(tier) if tier is not None else None)

    def _buckets(
        self, key: Key, route: Route, limits: Limits, of_route: Limits, request: FrontRequest
    ) -> tuple[list[Bucket], list[tuple[Budget, Bucket, Cost]]]:
        """All buckets, and those of hard budgets."""
        budgeted = self._budgets(key)
        if not budgeted and limits == of_route == NO_LIMITS:
            return [], []
        chat = request.chat
        asked = chat.max_completion_tokens or chat.max_tokens
        estimate = self._answers.estimate(route.model, request.body, asked, chat.choices)
        found = buckets(f"key:{key.id}", limits, estimate.tokens)
        found += buckets(f"route:{route.model}", of_route, estimate.tokens)
        hard: list[tuple[Budget, Bucket, Cost]] = []
        cost, now = Cost(estimate, self._price_of(route, chat.model)), time.time()
        for _, subject, budget in budgeted:
            amount = cost.amount(budget, estimate.completion)
            bucket = budgets.bucket(subject, budget, amount, now)
            found.append(bucket)
            if budget.hard:
                hard.append((budget, bucket, cost))
        return found, hard

    def _budgets(self, key: Key) -> list[tuple[Literal["key", "owner"], str, Budget]]:
        """(whose, subject, budget) of each that a call of the key takes from."""
        found: list[tuple[Literal["key", "owner"], str, Budget]] = []
        if key.budget is not None:
            found.append(("key", f"key:{key.id}", key.budget))
        if key.owner is not None and key.owner in self._owners:
            found.append(("owner", f"owner:{key.owner}", self._owners[key.owner]))
        return found


_FREE: Final = RouteLimits()


@lru_cache(maxsize=10_000)
def _requests(limits: Limits) -> Limits:
    """Those on requests alone."""
    return Limits(limits.requests_per_minute, requests_per_day=limits.requests_per_day)


def _lines(levels: Levels, front: str) -> bytes:
    """Of two limits on requests the one that is reached first is told."""
    day = levels.get("day")
    if day is not None and (
        "requests" not in levels or day.remaining < levels["requests"].remaining
    ):
        levels = {**levels, "requests": day}
    lines = openai_lines(levels)
    return lines + anthropic_lines(levels, time.time()) if front == "messages" else lines
