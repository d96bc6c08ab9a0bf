"""Parts of an answer in Anthropic's format: blocks of content under way, token counts."""

from typing import Any

import msgspec
from msgspec import Struct

from legato.core.chunk import Usage, as_object, decoded, unknown_members
from legato.core.json_text import cleaned, without_surrogates
from legato.core.merge import merge_call, to_builtins


class Thought(Struct):
    """A block of thinking under way: it goes back whole with the next request."""

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


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def prompt_tokens(usage: dict[str, Any]) -> int:
    """`input_tokens` is only what was neither read from the cache nor written to it."""
    return sum(
        _count(usage, name)
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )


def usage_of(counts: dict[str, Any]) -> Usage:
    prompt, completion = prompt_tokens(counts), _count(counts, "output_tokens")
    usage: Usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if "cache_read_input_tokens" in counts:
        cached = _count(counts, "cache_read_input_tokens")
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    details = as_object(counts.get("output_tokens_details")) or {}
    if "thinking_tokens" in details:
        reasoning = _count(details, "thinking_tokens")
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return usage
