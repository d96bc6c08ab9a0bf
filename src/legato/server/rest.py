"""All endpoints but the native ones, as a Starlette application on the same port."""

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import asdict
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route as Path
from starlette.types import ASGIApp

from legato.core.errors import ApiError, internal
from legato.gateway.kept_responses import KeptResponses
from legato.policy.health import Health as DeploymentHealth
from legato.policy.keys import Key, Keyring
from legato.policy.routing import Route, Router
from legato.server.asgi_decoding import DecodedRequests
from legato.server.context import NATIVE, front_at
from legato.server.count_tokens import PATH as COUNT_TOKENS
from legato.server.count_tokens import TokenCounts
from legato.server.kept import paths as kept_paths
from legato.server.model_lists import (
    anthropic_list,
    anthropic_model,
    codex_models,
    first_price,
    openai_list,
    openai_model,
)
from legato.upstreams.upstream import Upstream

#: A parameter that Codex alone sends with its request for the models.
_CODEX_QUERY: Final = "client_version"

#: The endpoint of the client format in which Anthropic's clients get errors, whatever the path.
_ANTHROPIC_PATH: Final = b"/v1/messages"


class Health(Protocol):
    """What the two health endpoints ask."""

    def ready(self) -> dict[str, Any]:
        """`{"ready": bool, ...}`: whether a call would be taken now, and what is missing."""
        ...


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


class _Endpoints:
    """What they answer. `clock`: the one that the router's health goes by."""

    def __init__(
        self,
        keyring: Keyring,
        router: Router,
        upstreams: Mapping[str, Upstream],
        health: Health,
        clock: Callable[[], float],
        admit_count: Callable[[Key], Awaitable[None]],
    ) -> None:
        self._keyring = keyring
        self._router = router
        self._upstreams = upstreams
        self._health = health
        self._clock = clock
        self._counts = TokenCounts(keyring, router, upstreams, clock, admit_count)

    @property
    def paths(self) -> list[BaseRoute]:
        return [
            *(Path(path, self.hello, methods=["GET"]) for path in ("/", "/api/hello")),
            Path("/v1/models", self.models, methods=["GET"]),
            Path("/v1/models/{model:path}", self.model, methods=["GET"]),
            Path("/legato/routes", self.routes, methods=["GET"]),
            Path(COUNT_TOKENS, self.count_tokens, methods=["POST"]),
            Path("/healthz", self.healthz, methods=["GET"]),
            Path("/readyz", self.readyz, methods=["GET"]),
        ]

    async def models(self, request: Request) -> Response:
        key, router = self._keyring.identify(request.scope["headers"]), self._router
        found = [
            self._described(*each)
            for each in router.models
            if router.is_for(key.allows, each[0]) and _wanted(each[1], request)
        ]
        if _speaks_anthropic(request):
            return _Json(anthropic_list(found))
        codex = {"models": codex_models(found)} if _CODEX_QUERY in request.query_params else {}
        return _Json(openai_list(found) | codex)

    async def model(self, request: Request) -> Response:
        key = self._keyring.identify(request.scope["headers"])
        name = request.path_params["model"]
        found = self._described(name, self._router.find_for(key.allows, name))
        return _Json(anthropic_model(found) if _speaks_anthropic(request) else found)

    async def routes(self, request: Request) -> Response:
        key, router = self._keyring.identify(request.scope["headers"]), self._router
        now = self._clock()
        found = [_route(each, router, now) for each in router.routes if key.allows(each.model)]
        return _Json({"object": "list", "data": found})

    async def count_tokens(self, request: Request) -> Response:
        return await self._counts(request)

    async def hello(self, _: Request) -> Response:
        # Claude Code asks HEAD / and this before its first request; any answer will do.
        return _Json({"name": "legato"})

    async def healthz(self, _: Request) -> Response:
        return _Json({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        state = self._health.ready()
        return _Json(state, status_code=200 if state["ready"] else 503)

    def _described(self, name: str, route: Route) -> dict[str, Any]:
        """A model, with the price of the first deployment that has one."""
        price = first_price(route, self._router.resolve(name), self._upstreams)
        return openai_model(name, route, price and asdict(price))


def application(
    *,
    keyring: Keyring,
    router: Router,
    upstreams: Mapping[str, Upstream],
    health: Health,
    clock: Callable[[], float],
    body_limit: int,
    admit_count: Callable[[Key], Awaitable[None]],
    kept: KeptResponses | None = None,
    more: Iterable[BaseRoute] = (),
) -> ASGIApp:
    """`clock`: the one that the router's health goes by. `kept`: responses that are kept.
    `admit_count`: raises `ApiError` where a key counts too often. `body_limit`: bytes, decoded.
    `more`: further endpoints."""

    async def native(_: Request) -> Response:
        # POST is answered by the protocol and never comes here, unless the path was spelt oddly.
        raise HTTPException(404)

    paths = [
        *_Endpoints(keyring, router, upstreams, health, clock, admit_count).paths,
        *kept_paths(keyring, kept),
        *more,
        *(Path(path.decode(), native, methods=[method.decode()]) for method, path in NATIVE),
    ]
    app = Starlette(
        routes=paths,
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _bug},
    )
    app.router.redirect_slashes = False
    return DecodedRequests(app, body_limit)


def _wanted(route: Route, request: Request) -> bool:
    provider = request.query_params.get("provider")
    capability = request.query_params.get("capability")
    return (provider is None or provider == route.owned_by) and (
        capability is None or capability in route.capabilities
    )


def _speaks_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def _route(route: Route, router: Router, now: float) -> dict[str, Any]:
    """A route as `legato routes` shows it."""
    health = router.health
    return {
        "model": route.model,
        "aliases": router.aliases_of(route),
        "strategy": route.strategy,
        "affinity": route.affinity,
        "deployments": [
            {"name": name, "weight": route.weights.get(name)} | _state(health[name], now)
            for name in route.deployments
        ],
    }


def _state(health: DeploymentHealth, now: float) -> dict[str, Any]:
    """How a deployment is doing. Times in seconds; `failing` is 0 to 1; None: nothing is known."""
    return {
        "state": health.state(now),
        "seconds_left": max(0.0, health.open_until - now) if health.open_until else None,
        "busy": health.busy,
        "calls": health.calls,
        "failures": health.failures,
        "ttft": health.ttft or None,
        "failing": health.failure_rate,
    }


def _refused(
    request: Request, error: ApiError, headers: Mapping[str, str] | None = None
) -> Response:
    path = _ANTHROPIC_PATH if _speaks_anthropic(request) else request.scope["path"].encode()
    # It has an id where our own protocol received it.
    refusal = front_at(path).refusal(error, getattr(request.state, "request_id", ""))
    more = {name.decode(): value.decode() for name, value in refusal.headers}
    if error.retry_after is not None:
        more["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return Response(
        refusal.body, refusal.status, {**(headers or {}), **more}, media_type="application/json"
    )


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _refused(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=error.headers)
        message = f"{request.method} is not allowed on {request.url.path}."
        problem = ApiError(405, "method_not_allowed", message)
    else:
        problem = ApiError(404, "unknown_path", f"There is nothing at {request.url.path}.")
    return _refused(request, problem, error.headers)


async def _bug(request: Request, _: Exception) -> Response:
    return _refused(request, internal())
