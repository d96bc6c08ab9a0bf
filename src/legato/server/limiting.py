"""Limits and budgets from the settings, and what the ledger knows of budgets."""

from collections.abc import Callable, Mapping

from legato.gateway.limiter import Limiter, RouteLimits
from legato.gateway.route_queue import RouteQueue
from legato.policy.budgets import Budget, counter, month, parse
from legato.policy.live import Live, OnCrossed
from legato.policy.routing import Route, Router
from legato.server.model_lists import first_price
from legato.settings import Settings
from legato.store.database import Database
from legato.store.ledger import spent
from legato.store.live_memory import LiveMemory
from legato.upstreams.upstream import Price, Upstream


def live(
    settings: Settings,
    clock: Callable[[], float],
    *,
    on_crossed: OnCrossed,
    on_state: Callable[[bool], None],
    on_bug: Callable[[BaseException], None],
) -> Live:
    """Where limits in use are kept. `on_state`: whether Valkey is reachable."""
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


async def load_spent(database: Database, live: Live, now: float) -> None:
    """Tells the live state what was spent of all budgets before this server started. `now`: Unix
    seconds."""
    found: dict[str, float] = {}
    for column in ("key", "owner"):
        for period, since in (("month", month(now)[0]), ("total", 0.0)):
            for name, (dollars, tokens) in (await spent(database, column, since)).items():
                for unit, amount in (("usd", dollars), ("tokens", tokens)):
                    budget = Budget(1.0, unit, period)  # type: ignore[arg-type]
                    found[counter(f"{column}:{name}", budget, now)] = amount
    await live.load(found)
