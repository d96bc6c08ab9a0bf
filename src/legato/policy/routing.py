"""Public model ids and the deployments that answer for them."""

from collections.abc import Iterable

from msgspec import Struct

from legato.core.errors import ApiError


class Route(Struct, frozen=True):
    """A public model id. `deployments` are names, in the order in which they are asked."""

    model: str
    deployments: tuple[str, ...]
    owned_by: str = "legato"
    context_length: int | None = None
    capabilities: tuple[str, ...] = ("chat", "streaming")
    created: int = 0


class Router:
    __slots__ = ("_routes",)

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = {route.model: route for route in routes}

    @property
    def routes(self) -> tuple[Route, ...]:
        return tuple(self._routes.values())

    def find(self, model: str) -> Route:
        """Raises `ApiError` 404 where nothing here has that name."""
        route = self._routes.get(model)
        if route is None:
            raise ApiError(
                404,
                "invalid_model",
                f"There is no model `{model}` here; GET /v1/models lists those there are.",
                param="model",
            )
        return route
