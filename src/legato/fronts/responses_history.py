"""What a Responses request has to do with earlier ones, where responses are kept."""

import os
from typing import Any, Final, cast

import msgspec
from msgspec import Struct, UnsetType
from msgspec.structs import replace

from legato.core.chunk import NOT_JSON, as_object
from legato.core.front import FrontRequest
from legato.core.span_edit import with_members
from legato.fronts.responses_request import Echo

Item = dict[str, Any]

#: What the ids of items begin with, by their type.
_PREFIXES: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class _Members(Struct, gc=False):
    input: Any = None
    store: Any = None
    previous_response_id: Any = msgspec.UNSET


_decode: Final = msgspec.json.Decoder(_Members).decode


class Turn(Struct, frozen=True):
    """How a request goes on with an earlier response, and whether its own is kept.

    `previous`: the id of the earlier one. `items`: its own input, each item with an id.
    """

    previous: str | None
    is_kept: bool
    items: list[Item]


def read(body: bytes) -> Turn | None:
    """None for what is no request: its parser says what is wrong with it."""
    try:
        members = _decode(body)
    except NOT_JSON:
        return None
    previous = members.previous_response_id
    if isinstance(previous, UnsetType) or not isinstance(previous, str) or not previous:
        previous = None
    given = members.input
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    found = cast("list[Any]", given) if isinstance(given, list) else []
    items = [_item(each) for entry in found if (each := as_object(entry)) is not None]
    return Turn(previous, members.store is not False, items)


def _item(item: Item) -> Item:
    """As it is listed: with an id and a type, the content of a message as parts."""
    kind = str(item.get("type") or "message")
    fresh: Item = {"id": f"{_PREFIXES.get(kind, 'item')}_{os.urandom(12).hex()}", "type": kind}
    content = item.get("content")
    if kind == "message" and isinstance(content, str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        item = item | {"content": [{"type": part, "text": content}]}
    return fresh | {name: value for name, value in item.items() if value is not None}


def continued(body: bytes, items: list[Item]) -> bytes:
    """The request with a whole conversation as its input, and without the id of an earlier one."""
    return with_members(body, {"input": items, "previous_response_id": None})


def echoed(request: FrontRequest, turn: Turn) -> FrontRequest:
    """The request, whose answer will say what it goes on with, and whether it is kept."""
    echo: Echo = request.echo
    settings = msgspec.json.decode(b"{%b}" % echo.settings[1:])
    settings |= {"previous_response_id": turn.previous, "store": turn.is_kept}
    repeated = b"," + msgspec.json.encode(settings)[1:-1]
    request.echo = replace(echo, settings=repeated, is_kept=turn.is_kept, previous=turn.previous)
    return request
