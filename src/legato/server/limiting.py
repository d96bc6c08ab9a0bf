"""Limits and budgets from the settings, and what the ledger knows of budgets."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

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

#: Seconds after which all servers have written to the ledger what they spent while Valkey was away.
RELOAD_SECONDS: Final = 1.0


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


class SpentLoader:
    """Tells the live state what was spent of all budgets, as the ledger has it: before this server
    starts, and after Valkey was away. Then each server knows only of its own calls."""

    def __init__(
        self, database: Database, live: Live, on_bug: Callable[[BaseException], None]
    ) -> None:
        self._database = database
        self._live = live
        self._on_bug = on_bug
        self._reloading: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Raises the database's errors."""
        await self._live.load(await _spent(self._database, time.time()))

    def reload(self) -> None:
        """Loads it a little later, and again and again while the database is away."""
        if self._reloading is not None:
            self._reloading.cancel()
        self._reloading = asyncio.create_task(self._reload(), name="live state: spent")

    async def stop(self) -> None:
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.gather(self._reloading, return_exceptions=True)

    async def _reload(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                await self.load()
            except (SQLAlchemyError, OSError):
                continue
            except Exception as error:
                self._on_bug(error)
            return


async def _spent(database: Database, now: float) -> dict[str, float]:
    """By the name of the budget's counter. `now`: Unix seconds."""
    found: dict[str, float] = {}
    for column in ("key", "owner"):
        for period, since in (("month", month(now)[0]), ("total", 0.0)):
            for name, (dollars, tokens) in (await spent(database, column, since)).items():
                for unit, amount in (("usd", dollars), ("tokens", tokens)):
                    budget = Budget(1.0, unit, period)  # type: ignore[arg-type]
                    found[counter(f"{column}:{name}", budget, now)] = amount
    return found
