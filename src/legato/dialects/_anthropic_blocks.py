"""Blocks of content of an answer in Anthropic's format, while they are under way."""

from typing import Any

import msgspec
from msgspec import Struct

from legato.core.chunk import decoded, unknown_members
from legato.core.json_text import cleaned, without_surrogates
from legato.core.merge import merge_call, to_builtins


class Thought(Struct):
    """A thinking block in progress: clients send it back complete with their next request."""

    pieces: list[str]
    signature: str = ""

    def ending(self) -> list[dict[str, Any]]:
        if not self.signature:
            return []
        thinking = without_surrogates("".join(self.pieces))
        block = {"type": "thinking", "thinking": thinking, "signature": self.signature}
        return [details(block)]


class ToolCall(Struct):
    number: int
    given: Any  # the input that its block began with: void where deltas follow
    begun: bool = False  # some of its arguments have been sent

    def ending(self) -> list[dict[str, Any]]:
        if self.begun:
            return []
        given: Any = self.given or "{}"  # to a client, "" would be no JSON
        return [tool_call(self.number, given if isinstance(given, str) else _json(given))]


class OtherBlock(Struct):
    """A block of a type that is not known here, under way."""

    fields: dict[str, Any]
    pieces: list[str]  # of its input

    def ending(self) -> list[dict[str, Any]]:
        block = cleaned(to_builtins(self.fields))
        if text := without_surrogates("".join(self.pieces)):
            given = decoded(text.encode())
            block["input"] = text if given is None else given
        return [extra({"blocks": [block]})]


#: A block under way. Texts need no state.
Block = Thought | ToolCall | OtherBlock


def unknown_delta(block: Block | None, delta: dict[str, Any]) -> list[dict[str, Any]]:
    """A delta of a type that has no case of its own. Deltas of an unknown block are joined to it,
    whatever their types are."""
    if delta.get("type") == "citations_delta" and not isinstance(block, OtherBlock):
        return [{"citations": [delta["citation"]]}] if delta.get("citation") else []
    if isinstance(block, OtherBlock):
        merge_call(block.fields, {k: v for k, v in delta.items() if k != "type"})
        return []
    return [extra({"deltas": [delta]})]


def tool_call(number: int, arguments: str, block: dict[str, Any] | None = None) -> dict[str, Any]:
    """Arguments of a tool call; `block`: the one that begins it."""
    function: dict[str, Any] = {"arguments": arguments}
    call: dict[str, Any] = {"index": number, "function": function}
    if block is not None:
        call |= {"id": block.get("id"), "type": "function"}
        function["name"] = block.get("name")
        more = unknown_members(block, frozenset({"type", "id", "name", "input"}))
        call |= extra(more) if more else {}
    return {"tool_calls": [call]}


def _json(given: Any) -> str:
    return msgspec.json.encode(given).decode()


def details(block: dict[str, Any]) -> dict[str, Any]:
    """What a client is to send back with this turn, so that the model knows its own thoughts."""
    return {"reasoning_details": [block]}


def extra(members: dict[str, Any]) -> dict[str, Any]:
    return {"extra_content": {"anthropic": members}}
