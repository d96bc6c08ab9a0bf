"""Chunks to events of Anthropic's Messages API: one block open at a time, indices without gaps.

The writer sends the events and the aggregator folds them, so that an answer is the same whether it
is streamed or not.
"""

from typing import Any, Final, cast

import msgspec

from legato.core.chunk import Chunk, Usage, as_object, unknown_members
from legato.core.front import AnswerHead
from legato.core.usage import count
from legato.fronts.messages_blocks import (
    TEXT,
    THINKING,
    BlockSequence,
    Event,
    Fields,
    Piece,
    empty_block,
)
from legato.fronts.messages_thoughts import packed

#: What `finish_reason` is called here.
_STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}

#: Members of a delta, beside its text, that become events.
_SHOWN: Final = (b'"reasoning_details"', b'"citations"', b'"extra_content"')

#: Blocks of tools that the server runs itself whose input comes in deltas.
_WITH_INPUT: Final = frozenset({"server_tool_use", "mcp_tool_use"})

#: Deltas that are made here of other members. Further ones come as they are.
_OWN_DELTAS: Final = frozenset(
    {"text_delta", "thinking_delta", "signature_delta", "citations_delta", "input_json_delta"}
)


def message_start(head: AnswerHead) -> Event:
    """The first event. A stream does not tell the prompt's tokens before its end: they are 0."""
    message: Fields = {
        "id": head.identity,
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    }
    return {"type": "message_start", "message": message}


def messages_usage(usage: Usage) -> Fields:
    """OpenAI's usage as Anthropic counts: what was read from the cache, and what was written to it,
    is not part of `input_tokens`."""
    tokens = count(usage)
    read = min(tokens.cached, tokens.prompt)
    written = min(tokens.cache_writes, tokens.prompt - read)
    counts: Fields = {
        "input_tokens": tokens.prompt - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": tokens.completion,
    }
    if for_an_hour := min(tokens.hour_cache_writes, written):
        counts["cache_creation"] = {
            "ephemeral_5m_input_tokens": written - for_an_hour,
            "ephemeral_1h_input_tokens": for_an_hour,
        }
    if tokens.reasoning:
        counts["output_tokens_details"] = {"thinking_tokens": tokens.reasoning}
    return counts


def has_more(raw: bytes) -> bool:
    """Whether a chunk's `choices` may have something to show beside a text."""
    return any(name in raw for name in _SHOWN)


class MessagesEvents:
    """Turns the chunks of one answer into events. `blocks`: which one is open."""

    __slots__ = ("_calls", "_is_refused", "_stops", "blocks", "stop_reason", "stop_sequence")

    def __init__(self, stop_sequences: tuple[str, ...] = ()) -> None:
        self._stops = stop_sequences
        self._calls: dict[int, Fields] = {}  # the blocks of calls, by the chunks' index
        self._is_refused = False
        self.blocks = BlockSequence()
        self.stop_reason: str | None = None
        self.stop_sequence: str | None = None

    def add(self, chunk: Chunk) -> list[Event]:
        """The events of a chunk. The format has one choice: others are not looked at."""
        events: list[Event] = []
        if chunk.text_choice >= 0 and chunk.raw is not None and not has_more(chunk.raw):
            if chunk.text_choice == 0:
                self._text(THINKING if chunk.is_reasoning else TEXT, chunk.text, events)
            return events
        for member in chunk.members():
            if not member.get("index"):
                self._member(member, events)
        return events

    def end(self, usage: Usage) -> list[Event]:
        """The events behind the last block, and what was still waiting."""
        events: list[Event] = []
        self.blocks.release_all(events)
        self.blocks.close(events)
        reason = self.stop_reason or "end_turn"
        if reason == "tool_use" and not self._calls:
            reason = "end_turn"  # an agent would wait for a call that is not there
        ending = {"stop_reason": reason, "stop_sequence": self.stop_sequence}
        events.append({"type": "message_delta", "delta": ending, "usage": messages_usage(usage)})
        events.append({"type": "message_stop"})
        return events

    def _member(self, member: Fields, events: list[Event]) -> None:
        delta = as_object(member.get("delta")) or {}
        self._text(THINKING, delta.get("reasoning_content"), events)
        for detail in _objects(delta.get("reasoning_details")):
            self._detail(detail, events)
        self._text(TEXT, delta.get("content"), events)
        if delta.get("refusal"):
            self._is_refused = True
            self._text(TEXT, delta["refusal"], events)
        for citation in _objects(delta.get("citations")):
            self._put(TEXT, [{"type": "citations_delta", "citation": citation}], events)
        self._extra(as_object(delta.get("extra_content")) or {}, None, events)
        for call in _objects(delta.get("tool_calls")):
            self._call(call, events)
        if member.get("finish_reason") is not None:
            self._finish(member)

    def _finish(self, member: Fields) -> None:
        reason = str(member["finish_reason"])
        self.stop_reason = _STOP_REASONS.get(reason, "end_turn")
        if reason != "stop":
            return
        if self._is_refused:
            self.stop_reason = "refusal"
        found = member.get("stop_sequence")
        if found is None and member.get("stop_reason") in self._stops:
            found = member["stop_reason"]  # as vLLM calls it
        if isinstance(found, str):
            self.stop_reason, self.stop_sequence = "stop_sequence", found

    def _text(self, kind: str, text: Any, events: list[Event]) -> None:
        if isinstance(text, str) and text:
            self._put(kind, [{"type": f"{kind}_delta", kind: text}], events)

    def _detail(self, detail: Fields, events: list[Event]) -> None:
        """A block of thinking that is to come back with the next request. Text of other vendors'
        details has come as `reasoning_content`."""
        match detail.get("type"):
            case "thinking":
                thinking, signature = detail.get("thinking"), detail.get("signature")
                piece = Piece(
                    THINKING,
                    empty_block(THINKING),
                    [{"type": "signature_delta", "signature": str(signature or "")}],
                    closes=True,
                    signed=thinking if isinstance(thinking, str) else "",
                )
                self.blocks.take(piece, events)
            case "redacted_thinking" if isinstance(detail.get("data"), str):
                self._whole({"type": "redacted_thinking", "data": detail["data"]}, events)
            case "reasoning.encrypted":
                self._whole(packed(detail), events)
            case _:
                pass

    def _extra(self, extra: Fields, call_id: str | None, events: list[Event]) -> None:
        """What Anthropic's own blocks are in, and what other vendors want back: that is carried in
        a block of its own. `call_id`: of the tool call that it belongs to."""
        ours = as_object(extra.get("anthropic")) or {}
        if call_id is None:
            for block in _typed(ours.get("blocks")):
                self._server_block(block, events)
            for delta in _typed(ours.get("deltas")):
                key = self.blocks.open_key
                if key is not None and delta["type"] not in _OWN_DELTAS:
                    self.blocks.take(Piece(key, {}, [delta]), events)
        theirs = {name: each for name, each in extra.items() if name != "anthropic" and each}
        if theirs:
            entry: Fields = {"type": "extra_content", "extra_content": theirs}
            self._whole(packed(entry | ({"call_id": call_id} if call_id else {})), events)

    def _server_block(self, block: Fields, events: list[Event]) -> None:
        given = block.get("input")
        if block.get("type") in _WITH_INPUT and as_object(given) is not None:
            delta = {"type": "input_json_delta", "partial_json": _json(given)}
            self.blocks.take(Piece("", block | {"input": {}}, [delta], closes=True), events)
        else:
            self._whole(block, events)

    def _whole(self, block: Fields, events: list[Event]) -> None:
        self.blocks.take(Piece("", block, [], closes=True), events)

    def _call(self, call: Fields, events: list[Event]) -> None:
        number = int(call.get("index") or 0)
        function = as_object(call.get("function")) or {}
        extra = as_object(call.get("extra_content")) or {}
        if number not in self._calls:
            if not isinstance(function.get("name"), str):
                return  # a call of another type, which nobody has asked for
            identity = str(call.get("id") or "")
            block: Fields = {"type": "tool_use", "id": identity, "name": function.get("name")}
            more = unknown_members(as_object(extra.get("anthropic")) or {}, frozenset(block))
            self._calls[number] = block | {"input": {}} | more
            self._extra(extra, identity, events)
        arguments = function.get("arguments")
        deltas: list[Fields] = []
        if isinstance(arguments, str) and arguments:
            deltas.append({"type": "input_json_delta", "partial_json": arguments})
        self.blocks.take(Piece(f"call {number}", self._calls[number], deltas), events)

    def _put(self, kind: str, deltas: list[Fields], events: list[Event]) -> None:
        self.blocks.take(Piece(kind, empty_block(kind), deltas), events)


def _objects(value: Any) -> list[Fields]:
    """The objects in a list; a peer may send anything."""
    if not isinstance(value, list):
        return []
    return [each for each in map(as_object, cast("list[Any]", value)) if each is not None]


def _typed(value: Any) -> list[Fields]:
    """The objects in a list that say what they are."""
    return [each for each in _objects(value) if isinstance(each.get("type"), str)]


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
