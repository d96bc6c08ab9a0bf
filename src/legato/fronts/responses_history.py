"""What a Responses request has to do with earlier ones, where responses are kept."""

import os
import re
from typing import Any, Final, cast

import msgspec
from msgspec import Struct, UnsetType
from msgspec.structs import replace

from legato.core.chunk import NOT_JSON
from legato.core.errors import ApiError
from legato.core.front import Front, FrontRequest
from legato.core.span_edit import with_members
from legato.fronts.responses_content import an_object
from legato.fronts.responses_request import Echo

Item = dict[str, Any]

#: What the ids of items begin with, by their type.
_PREFIXES: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


#: An id that an item is given here: an upstream would not know it, and OpenAI refuses one that does
#: not begin as its own do.
_GIVEN: Final = re.compile(r"[a-z]+_given_[0-9a-f]{24}")

#: The item that an error names.
_PLACE: Final = re.compile(r"\binput\[(\d+)\]")


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
    """None for what is no request: its parser says what is wrong with it. Raises `ApiError` 400
    for an item that is none."""
    try:
        members = _decode(body)
    except NOT_JSON:
        return None
    previous = members.previous_response_id
    if isinstance(previous, UnsetType) or not isinstance(previous, str) or not previous:
        previous = None
    given: Any = [] if members.input is None else members.input
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        return None
    found = cast("list[Any]", given)
    items = [_item(an_object(each, f"input[{n}]")) for n, each in enumerate(found)]
    return Turn(previous, members.store is not False, items)


def _item(item: Item) -> Item:
    """As it is listed: with an id and a type, the content of a message as parts."""
    kind = str(item.get("type") or "message")
    fresh: Item = {
        "id": f"{_PREFIXES.get(kind, 'item')}_given_{os.urandom(12).hex()}",
        "type": kind,
    }
    content = item.get("content")
    if kind == "message" and isinstance(content, str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        item = item | {"content": [{"type": part, "text": content}]}
    return fresh | {name: value for name, value in item.items() if value is not None}


def continued(body: bytes, history: list[Item], turn: Turn, front: Front) -> FrontRequest:
    """Reads the request with the whole conversation as its input, and without the id of an earlier
    response. Raises `ApiError` 400; it counts the items as the client does."""
    items = [_bare(each) for each in history + turn.items]
    try:
        body = with_members(body, {"input": items, "previous_response_id": None})
        request = front.parse(body)
    except ApiError as error:
        raise _counted(error, len(history)) from None
    if request.beyond is not None:
        request.beyond = _counted(request.beyond, len(history))
    return request


def _bare(item: Item) -> Item:
    """An item without an id that it was given here."""
    if not _GIVEN.fullmatch(str(item.get("id"))):
        return item
    return {name: value for name, value in item.items() if name != "id"}


def _counted(error: ApiError, earlier: int) -> ApiError:
    """An error about an item of this request, and not of the `earlier` ones."""
    place = _PLACE.match(error.param or "")
    if place is None or int(place[1]) < earlier:
        return error
    theirs, ours = place[0], f"input[{int(place[1]) - earlier}]"
    error.param = str(error.param).replace(theirs, ours)
    error.message = error.message.replace(theirs, ours)
    return error


def echoed(request: FrontRequest, turn: Turn) -> FrontRequest:
    """The request, whose answer will say what it goes on with, and whether it is kept."""
    echo: Echo = request.echo
    settings = msgspec.json.decode(b"{%b}" % echo.settings[1:])
    settings |= {"previous_response_id": turn.previous, "store": turn.is_kept}
    repeated = b"," + msgspec.json.encode(settings)[1:-1]
    request.echo = replace(echo, settings=repeated, is_kept=turn.is_kept, previous=turn.previous)
    return request
