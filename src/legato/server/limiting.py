"""Limits and budgets from the settings."""

from collections.abc import Callable, Mapping

from legato.gateway.limiter import Limiter, RouteLimits
from legato.gateway.route_queue import RouteQueue
from legato.policy.budgets import Budget, parse
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


def owners(settings: Settings) -> dict[str, Budget]:
    return {
        name: parse(owner.budget, action=owner.action, hard=owner.hard)
        for name, owner in settings.owners.items()
    }
