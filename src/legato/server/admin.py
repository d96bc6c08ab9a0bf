"""The admin API, `/admin/v1`: who may use it, and how its operations are called."""

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from legato.core.chunk import NOT_JSON
from legato.core.errors import ApiError, invalid
from legato.policy.keys import Key, Keyring
from legato.store.audit import Actor

PREFIX: Final = "/admin/v1"

#: Methods that change nothing: a viewer may use them.
_READING: Final = ("GET", "HEAD")

_JSON: Final = "application/json"


class Call(Struct, frozen=True):
    """One request: what is in its path, its query and its body, as the operation declares them."""

    by: Actor
    path: Mapping[str, str]
    query: Any
    body: Any


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """An operation that has no parameters in its query."""


class Operation(Struct, frozen=True):
    """One operation: an endpoint, and what its description in the OpenAPI document is made of.

    `run` returns an object of the type `answer`. `body`: the type of the request's body, None:
    there is none. `errors`: further statuses that it may have, beside those of all operations.
    """

    method: str
    path: str
    name: str
    summary: str
    run: Callable[[Call], Awaitable[Any]]
    answer: Any
    query: type[Struct] = NoQuery
    body: Any = None
    status: int = 200
    errors: tuple[int, ...] = ()


class Admin:
    """An ASGI application that lets admin keys in alone.

    No key, or one that is not good: 401. An ordinary key, or a viewer's where something would be
    written: 403; that is decided before path, query and body are looked at.
    """

    def __init__(
        self,
        operations: list[Operation],
        *,
        admins: Keyring,
        keyring: Keyring,
        trusted_proxies: frozenset[str] = frozenset(),
    ) -> None:
        """`admins`: the admin keys; `keyring`: all others. `trusted_proxies`: addresses whose
        `x-forwarded-for` tells where a request comes from."""
        self._admins = admins
        self._keyring = keyring
        self._trusted = trusted_proxies
        paths: dict[str, dict[str, Operation]] = {}
        for each in operations:
            paths.setdefault(each.path, {})[each.method] = each
        self._router: ASGIApp = Router(
            [Route(path, _endpoint(found), methods=list(found)) for path, found in paths.items()],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = self._identify(scope["headers"])
        if key.role != "admin" and scope["method"] not in _READING:
            raise ApiError(
                403, "admin_role_required", "This is a viewer's key, which can only read."
            )
        origin = origin_of(scope, self._trusted)
        scope["state"] = {**scope.get("state", {}), "actor": Actor(f"key:{key.id}", origin)}
        await self._router(scope, receive, send)

    def _identify(self, headers: list[tuple[bytes, bytes]]) -> Key:
        """Raises `ApiError` 401 or 403."""
        try:
            return self._admins.identify(headers)
        except ApiError as error:
            if error.code != "invalid_api_key":
                raise
        self._keyring.identify(headers)
        raise ApiError(
            403,
            "admin_key_required",
            "This API key makes calls, and is not an admin key. Create one with "
            "`legato keys create NAME --role admin`.",
        )


def _endpoint(operations: Mapping[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of one path. `operations`: by method."""

    async def endpoint(request: Request) -> Response:
        operation = operations["GET" if request.method == "HEAD" else request.method]
        query = _query(request, operation.query)
        body = await _body(request, operation.body)
        try:
            answer = await operation.run(
                Call(request.state.actor, request.path_params, query, body)
            )
        except (OSError, SQLAlchemyError):
            raise ApiError(503, "database_unavailable", "The database cannot be reached.") from None
        return Response(
            msgspec.json.encode(answer),
            operation.status,
            {"cache-control": "no-store"},  # an answer may have a secret in it
            media_type=_JSON,
        )

    return endpoint


def origin_of(scope: Scope, trusted_proxies: frozenset[str]) -> str:
    """The address that a request comes from. Of what proxies say, only the last part was written
    by one that is trusted."""
    peer = str((scope.get("client") or ("unknown",))[0])
    if peer not in trusted_proxies:
        return peer
    lines = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    for each in reversed(b",".join(lines).decode("latin-1").split(",")):
        try:
            address = str(ipaddress.ip_address(each.strip()))
        except ValueError:
            return peer
        if address not in trusted_proxies:
            return address
    return peer


def _query(request: Request, type_: type[Struct]) -> Any:
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise invalid(f"`{_short(name)}` is given twice.", param=_short(name))
        given[name] = value
    try:
        return msgspec.convert(given, type_, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None


async def _body(request: Request, type_: Any) -> Any:
    if type_ is None:
        return None
    kind = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    if kind != _JSON:
        raise ApiError(
            415, "unsupported_media_type", "Send the body as `Content-Type: application/json`."
        )
    body = await request.body()
    try:
        return msgspec.convert(_with_integers(msgspec.json.decode(body)), type_)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except NOT_JSON as error:
        problem = f"The request body is not valid JSON: {error}"
        raise invalid(problem, code="invalid_json") from None


def _with_integers(value: Any) -> Any:
    """`value` with 5 for 5.0, which is an integer for JSON Schema, as for JavaScript."""
    if isinstance(value, dict):
        return {name: _with_integers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_integers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _invalid(error: msgspec.ValidationError) -> ApiError:
    """msgspec's sentence, with the field's path. It never has the value in it, but may have the
    name of an unknown field."""
    problem, _, path = str(error).partition(" - at `$")
    if "matching regex" in problem:
        problem = "A character is not allowed, or there is none"
    field = path.rstrip("`").lstrip(".") or None
    where = f"`{_short(field)}`: " if field else ""
    return invalid(f"{where}{_short(problem)}.", param=field and _short(field))


def _short(text: str) -> str:
    return text[:300].encode("utf-8", "replace").decode()
