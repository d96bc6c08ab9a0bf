"""Limits and budgets from the settings."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from legato.gateway.limiter import Limiter, RouteLimits
from legato.gateway.route_queue import RouteQueue
from legato.policy.budgets import Budget, parse
from legato.policy.keys import Key
from legato.policy.routing import Route, Router
from legato.server.model_lists import first_price
from legato.settings import Settings
from legato.store.live import Live, OnCrossed
from legato.store.live_memory import LiveMemory
from legato.upstreams.upstream import Price, Upstream


def live(
    settings: Settings,
    clock: Callable[[], float],
    *,
    on_crossed: OnCrossed,
    on_state: Callable[[str | None], None],
    on_bug: Callable[[BaseException], None],
) -> Live:
    """Where limits in use are kept. `on_state` is told why Valkey is away, and
    with None when it is back."""
    if settings.live == "memory":
        return LiveMemory(clock, on_crossed)
    from legato.store.live_valkey import LiveValkey  # its client library takes memory

    return LiveValkey(
        settings.live,
        fail=settings.limits.fail,
        on_crossed=on_crossed,
        on_state=on_state,
        on_bug=on_bug,
        clock=clock,
    )


def limiter(
    settings: Settings,
    live: Live,
    router: Router,
    upstreams: Mapping[str, Upstream],
    clock: Callable[[], float],
) -> Limiter:
    def price_of(route: Route, model: str) -> Price | None:
        return first_price(route, router.resolve(model), upstreams)

    routes = {
        each.model: RouteLimits(
            each.limits,
            RouteQueue(each.max_concurrent, each.max_queue, each.queue_seconds, clock)
            if each.max_concurrent is not None
            else None,
        )
        for each in settings.routes
    }
    return Limiter(
        live,
        router,
        clock,
        price_of,
        tiers=settings.all_tiers,
        owners=owners(settings),
        routes=routes,
    )


def warnings(
    settings: Settings, keys: Iterable[Key], router: Router, upstreams: Mapping[str, Upstream]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings and keys that are probably mistakes: for each an event for the log, and its
    fields."""
    tiers, budgets = Counter[str](), list(owners(settings).values())
    for key in keys:
        if key.tier is not None and key.tier not in settings.all_tiers:
            tiers[key.tier] += 1
        if key.budget is not None:
            budgets.append(key.budget)
    for tier, count in tiers.items():
        yield "unknown_tier", {"tier": tier, "keys": count, "effect": "no limits of a tier"}
    if any(budget.unit == "usd" for budget in budgets):
        models = [
            name
            for name, route in router.models
            if first_price(route, router.resolve(name), upstreams) is None
        ]
        if models:
            yield "no_price", {"models": models, "effect": "budgets in usd do not count them"}


def owners(settings: Settings) -> dict[str, Budget]:
    return {
        name: parse(owner.budget, action=owner.action, hard=owner.hard)
        for name, owner in settings.owners.items()
    }
