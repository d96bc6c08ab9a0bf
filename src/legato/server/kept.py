"""`/v1/responses/{id}`: reading and deleting responses that are kept."""

from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path

from legato.core.errors import ApiError, invalid
from legato.gateway.kept_responses import KeptResponses
from legato.policy.keys import Keyring

#: Items of a list, if the client names no number, and at most.
_USUAL: Final = 20
_MOST: Final = 100
_DIGITS: Final = 3

Item = dict[str, Any]


def paths(keyring: Keyring, kept: KeptResponses | None) -> list[Path]:
    """The endpoints. `kept` None: nothing is kept, and nothing is found."""

    def whose(request: Request) -> tuple[KeptResponses, str, str]:
        key = keyring.identify(request.scope["headers"])
        identity = request.path_params["response"]
        if kept is None:
            raise ApiError(
                404,
                "response_not_found",
                f"There is no response `{identity[:100]}`: responses are not kept here.",
            )
        return kept, identity, key.id

    async def read(request: Request) -> Response:
        store, identity, key = whose(request)
        response = await store.find(identity, key)
        if request.query_params.get("stream") == "true":
            raise invalid(
                f"The response `{identity[:100]}` is complete, and its stream is not kept: leave"
                " `stream` out.",
                param="stream",
                code="unsupported_parameter",
            )
        return _json(response.response)

    async def delete(request: Request) -> Response:
        store, identity, key = whose(request)
        await store.delete(identity, key)
        return _json(
            msgspec.json.encode({"id": identity, "object": "response.deleted", "deleted": True})
        )

    async def input_items(request: Request) -> Response:
        store, identity, key = whose(request)
        response = await store.find(identity, key)
        items: list[Item] = msgspec.json.decode(response.items)[: response.inputs]
        return _json(msgspec.json.encode(page(items, dict(request.query_params))))

    async def cancel(request: Request) -> Response:
        store, identity, key = whose(request)
        await store.find(identity, key)
        raise invalid(
            f"The response `{identity[:100]}` is complete: only a background response can be"
            " cancelled."
        )

    path = "/v1/responses/{response}"
    return [
        Path(path, read, methods=["GET"]),
        Path(path, delete, methods=["DELETE"]),
        Path(f"{path}/input_items", input_items, methods=["GET"]),
        Path(f"{path}/cancel", cancel, methods=["POST"]),
    ]


def page(items: list[Item], query: dict[str, str]) -> Item:
    """One page of a list, as OpenAI's API has it. Raises `ApiError` 400 for a parameter that is
    none."""
    order, limit = query.get("order", "desc"), query.get("limit", str(_USUAL))
    if order not in ("asc", "desc"):
        raise invalid("`order` is `asc` or `desc`.", param="order", code="invalid_value")
    is_number = limit.isascii() and limit.isdigit() and len(limit) <= _DIGITS
    if not is_number or not 1 <= int(limit) <= _MOST:
        raise invalid(
            f"`limit` is a number from 1 to {_MOST}.", param="limit", code="invalid_value"
        )
    found = items if order == "asc" else items[::-1]
    if (after := query.get("after")) is not None:
        places = [number for number, each in enumerate(found) if each.get("id") == after]
        if not places:
            raise invalid(
                f"`after` names no item: `{after[:100]}`.", param="after", code="invalid_value"
            )
        found = found[places[0] + 1 :]
    shown = found[: int(limit)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0].get("id") if shown else None,
        "last_id": shown[-1].get("id") if shown else None,
        "has_more": len(found) > len(shown),
    }


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
