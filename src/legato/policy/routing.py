"""Public model ids and the deployments that answer for them: who is asked, in which order.

Deciding does no I/O.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from msgspec import Struct

from legato.core.errors import ApiError, service_unavailable
from legato.policy.health import Health

#: order: as they are named (with weights: by their shares); least-busy: the fewest calls first;
#: fastest: the shortest time to a first token, failures reckoned in.
Strategy = Literal["order", "least-busy", "fastest"]


class Route(Struct, frozen=True):
    """A public model id. `deployments` are names; `contexts` their lengths, where known."""

    model: str
    deployments: tuple[str, ...]
    strategy: Strategy = "order"
    weights: dict[str, float] = {}
    attempts: int = 3
    retry_seconds: float = 30.0
    max_continuations: int = 1
    count_both_prompts: bool = False
    contexts: dict[str, int] = {}
    owned_by: str = "legato"
    context_length: int | None = None
    capabilities: tuple[str, ...] = ("chat", "streaming")
    created: int = 0
    price: dict[str, float] | None = None

    def longer(self, than: str) -> tuple[str, ...]:
        """The deployments with a longer context than that of `than`, the shortest first."""
        known = self.contexts
        found = [name for name in known if known[name] > known.get(than, 0)]
        return tuple(sorted(found, key=known.__getitem__)) if than in known else ()


class Router:
    """Finds routes and plans calls. `draw` gives numbers between 0 and 1."""

    __slots__ = ("_draw", "_routes", "health")

    def __init__(
        self,
        routes: Iterable[Route],
        health: Mapping[str, Health] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._routes = {route.model: route for route in routes}
        self._draw = draw
        self.health: dict[str, Health] = dict(health or {})
        for route in self._routes.values():
            for name in route.deployments:
                self.health.setdefault(name, Health())

    @property
    def routes(self) -> tuple[Route, ...]:
        return tuple(self._routes.values())

    def find(self, model: str) -> Route:
        """Raises `ApiError` 404 where nothing here has that name."""
        route = self._routes.get(model)
        if route is None:
            raise ApiError(
                404,
                "model_not_found",
                f"There is no model `{model}` here; GET /v1/models lists those there are.",
                param="model",
            )
        return route

    def plan(self, route: Route, now: float) -> list[str]:
        """The deployments that may be asked now, the first first. Raises `ApiError` 503 where all
        of them are to be left alone."""
        health = self.health
        names = route.deployments
        if len(names) == 1 and not health[names[0]].until:
            return [names[0]]
        names = self.ordered(route, now)
        plan = [name for name in names if health[name].allows(now)]
        if not plan:
            wait = min(health[name].until for name in names) - now
            error = service_unavailable(
                "No deployment of this model is healthy.", code="no_deployment"
            )
            error.retry_after = max(wait, 1.0)
            raise error
        return plan

    def allows(self, name: str, now: float) -> bool:
        return self.health[name].allows(now)

    def ordered(self, route: Route, now: float) -> tuple[str, ...]:
        """All of its deployments, the one to be asked first first."""
        names, weights, health = route.deployments, route.weights, self.health
        if len(names) == 1:
            return names
        if route.strategy == "least-busy":
            return tuple(
                sorted(names, key=lambda name: (health[name].busy + 1) / weights.get(name, 1.0))
            )
        if route.strategy == "fastest":
            return tuple(
                sorted(names, key=lambda name: health[name].score(now) / weights.get(name, 1.0))
            )
        if not weights:
            return names
        # The first one is drawn by its share, the second by its share of the rest, and so on.
        return tuple(
            sorted(names, key=lambda name: -(self._draw() ** (1 / weights.get(name, 1.0))))
        )
