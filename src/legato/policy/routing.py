"""Routes: public model ids, their deployments, and the order in which these are tried."""

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from msgspec import Struct

from legato.core.errors import service_unavailable
from legato.policy.health import Health
from legato.policy.model_names import Patterns, is_pattern, not_found, resolved
from legato.policy.sessions import by_preference, with_overloaded_last

#: Which deployment is tried first. order: as configured, or at random by weight if there are
#: weights; least-busy: fewest calls in progress; fastest: lowest expected time to a first token,
#: failures included.
Strategy = Literal["order", "least-busy", "fastest"]

#: session: the calls of one session go to one deployment, whose prompt cache knows it.
Affinity = Literal["none", "session"]


class Route(Struct, frozen=True):
    """A public model id or a pattern of them, and its deployments, by name. `contexts`: the context
    lengths of those deployments for which it is known, in tokens."""

    model: str
    deployments: tuple[str, ...]
    strategy: Strategy = "order"
    affinity: Affinity = "none"
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

    def with_longer_context(self, deployment: str) -> tuple[str, ...]:
        """The deployments with a longer context than `deployment`, shortest first."""
        contexts = self.contexts
        if deployment not in contexts:
            return ()
        found = [name for name in contexts if contexts[name] > contexts[deployment]]
        return tuple(sorted(found, key=contexts.__getitem__))


class Router:
    """Looks up routes and plans calls.

    `aliases`: names that stand for others, public or matched by a pattern. `draw` returns numbers
    between 0 and 1.
    """

    __slots__ = ("_aliases", "_draw", "_patterns", "_routes", "health")

    def __init__(
        self,
        routes: Iterable[Route],
        health: Mapping[str, Health] | None = None,
        draw: Callable[[], float] = random.random,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._routes = {route.model: route for route in routes}
        self._patterns = Patterns(filter(is_pattern, self._routes))
        self._aliases = resolved(aliases or {})
        self._draw = draw
        self.health: dict[str, Health] = dict(health or {})
        for route in self._routes.values():
            for name in route.deployments:
                self.health.setdefault(name, Health())

    @property
    def routes(self) -> tuple[Route, ...]:
        return tuple(self._routes.values())

    @property
    def models(self) -> list[tuple[str, Route]]:
        """The names that clients may ask for, aliases included, and the route of each. What a
        pattern matches is not known."""
        exact = [(name, route) for name, route in self._routes.items() if not is_pattern(name)]
        return exact + [(alias, self.find(alias)) for alias in self._aliases]

    def aliases_of(self, route: Route) -> list[str]:
        return [alias for alias in self._aliases if self.find(alias) is route]

    def resolve(self, model: str) -> str:
        """The name that an alias stands for; any other name as it is."""
        return self._aliases.get(model, model)

    def find(self, model: str) -> Route:
        """The route of a model or an alias; that of a pattern where none has exactly this name.
        Raises `ApiError` 404 if there is none."""
        name = self.resolve(model)
        route = self._routes.get(name)
        if route is not None and not is_pattern(name):
            return route
        pattern = self._patterns.find(name)
        if pattern is None:
            raise not_found(model)
        return self._routes[pattern]

    def find_for(self, allows: Callable[[str], bool], model: str) -> Route:
        """The route of a model that its client may ask for, as `allows` tells of a name. Raises
        `ApiError` 404, the same where there is none and where it is not for this client."""
        if not self.is_for(allows, model):
            raise not_found(model)
        return self.find(model)

    def is_for(self, allows: Callable[[str], bool], model: str) -> bool:
        """Whether a client may ask for a model by this name: by an alias also where it may ask for
        what that stands for."""
        return allows(model) or allows(self.resolve(model))

    def plan(self, route: Route, now: float, session: str | None = None) -> list[str]:
        """The deployments to try, in order. `session`: the key of the call's, where the route has
        affinity. Raises `ApiError` 503 if the circuit breakers of all of them are open."""
        health = self.health
        names = route.deployments
        if len(names) == 1 and not health[names[0]].open_until:
            return [names[0]]
        names = self.ordered(route, now, session)
        plan = [name for name in names if health[name].allows(now)]
        if not plan:
            wait = min(health[name].open_until for name in names) - now
            error = service_unavailable(
                "No deployment of this model is healthy.", code="no_deployment"
            )
            error.retry_after = max(wait, 1.0)
            raise error
        return plan

    def allows(self, name: str, now: float) -> bool:
        return self.health[name].allows(now)

    def ordered(self, route: Route, now: float, session: str | None = None) -> tuple[str, ...]:
        """All deployments of the route, healthy or not, in the order to try."""
        names, weights, health = route.deployments, route.weights, self.health
        if len(names) == 1:
            return names
        if session is not None and route.affinity == "session":
            preferred = by_preference(session, names, weights)
            busy = {name: health[name].busy for name in names}
            return tuple(with_overloaded_last(preferred, busy, weights))
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
        # The first one is drawn by weight, the second by weight from the rest, and so on.
        return tuple(
            sorted(names, key=lambda name: -(self._draw() ** (1 / weights.get(name, 1.0))))
        )
