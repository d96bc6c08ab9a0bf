"""OpenAI's Responses API, as OpenAI, xAI and servers that copy it speak it.

What a chat completion has no member for, a client gets in these:

- `delta.reasoning_details`: items of reasoning, to be sent back as they came
- `delta.annotations`: the citations of a text
- `delta.extra_content.openai`: `items`, whole items of other types, among them those of tools that
  the server runs itself; `events`, events of other types; `parts`, parts of a message that are not
  text; `phases`, the phase of each message
- `extra_content.openai` of a tool call: further members of its item
- further members of the response: top level, with the finish
"""

from typing import Any, Final

import msgspec

from legato.core import sse
from legato.core.chunk import NOT_JSON, Choice, Chunk, Delta, as_extras, as_object, decoded
from legato.core.json_text import cleaned, decode_leniently
from legato.core.upstream_errors import event_failure, is_failure, no_stream, unreadable
from legato.dialects import _openai_responses_end as end
from legato.dialects import _openai_responses_events as events
from legato.dialects._openai_responses_end import refusal
from legato.dialects._openai_responses_events import Event, Response, decode_event
from legato.dialects._openai_responses_items import (
    Items,
    Member,
    annotation,
    extra,
    member,
)
from legato.dialects._openai_responses_request import encode
from legato.dialects.openai import headers, models, models_path

__all__ = [
    "Reader",
    "client_format",
    "decoder",
    "encode",
    "ends_with_body",
    "headers",
    "models",
    "models_path",
    "no_stream",
    "path",
    "reader",
    "refusal",
    "unstreamed",
]

#: The client format whose requests and events an upstream of this dialect takes as they are.
client_format: Final = "responses"


def path(model: str, *, streams: bool = True) -> str:
    return "/responses"


#: An answer is a stream of events.
decoder: Final = sse.Decoder


#: A finish is sent once.
ends_with_body: Final = False


def reader() -> "Reader":
    return Reader()


class Reader:
    """Events of one answer to chunks (`core.dialect.Reader`)."""

    __slots__ = ("_items", "_place", "identity", "progress", "prompt_tokens")

    holds_block: bool = False

    def __init__(self) -> None:
        self._items = Items()
        self._place: tuple[Any, ...] = ()  # the part of which text came last
        self.progress: float | None = None
        self.prompt_tokens = 0
        self.identity: str | None = None

    def is_stateless(self, chunk: Chunk) -> bool:
        # That a part has begun is noted once; its text is not kept.
        delta = chunk.choices[0].delta if chunk.choices else None
        return delta is not None and bool(delta.content or delta.reasoning_content)

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        try:
            event = decode_event(data)
        except NOT_JSON as error:
            return self._read_odd(name, data, error)
        if event.type == events.TEXT and event.delta and not event.logprobs and not event.error:
            self._begin_part(event)
            return _text(Delta(content=event.delta))
        if event.type in events.REASONING and event.delta and not event.error:
            text = self._reasoning(event)
            return _text(Delta(reasoning_content=text)) if text else Chunk([])
        return self._other(event, data, name)

    def _read_odd(self, name: bytes, data: bytes, error: Exception) -> Chunk | None:
        """An event that is none as it stands. Raises `UpstreamError` where it is none at all:
        `error` says why. One of an unknown type may look like anything."""
        match data.strip():
            case b"[DONE]":
                return None  # OpenAI has no such event here, but servers that copy both APIs may
            case b"" | b"null":
                return self._other(Event(), data, name)
            case _:
                pass
        fields: Any = None
        try:
            fields = decode_leniently(data, events.TEXTS)
            event = msgspec.convert(fields, Event)
        except (*NOT_JSON, ValueError):
            kind = (as_object(fields) or {}).get("type")
            if not isinstance(kind, str) or "." not in kind or kind in events.KNOWN:
                raise unreadable(name, data, error) from None
            event = Event(kind)
        return self._other(event, msgspec.json.encode(cleaned(fields)), name)

    def _other(self, event: Event, data: bytes, name: bytes) -> Chunk | None:
        """`data`: the event's JSON, where members are looked for that `event` does not have;
        `name`: the event's, which counts where the data has no type. Raises `ApiError` for an
        error."""
        kind = event.type = event.type or name.decode("ascii", "replace")
        if kind == "error":
            fields = as_object(decoded(data))
            raise end.failure(fields) if fields else unreadable(b"error", data, ValueError())
        if kind in events.ENDS:
            return self._end(event, data)
        if kind in events.STATES:
            return self._start(event)
        if kind not in events.KNOWN or kind in events.SILENT or event.error not in events.NOTHING:
            return _unknown(kind, data, name)
        return _chunk(self._members(event, data))

    def _members(self, event: Event, data: bytes) -> list[Member]:
        kind, items = event.type or "", self._items
        match kind:
            case "response.output_text.delta" | "response.refusal.delta" if event.delta:
                self._begin_part(event)
                name = "content" if kind == events.TEXT else "refusal"
                return [member({name: event.delta}, event.logprobs)]
            case "response.output_text.done" if event.text:
                return self._part(event, {"text": event.text, "logprobs": event.logprobs})
            case "response.refusal.done" if event.refusal:
                return self._part(event, {"type": "refusal", "refusal": event.refusal})
            case "response.content_part.done" if event.part:
                return self._part(event, event.part)
            case "response.output_text.annotation.added" if event.annotation:
                item = items.find("message", event.item_id, event.output_index)
                item.cited.add(event.content_index or 0)
                return [member({"annotations": [annotation(event.annotation)]})]
            case "response.output_item.added" if event.item:
                return items.add(event.item, event.output_index)
            case "response.output_item.done" if event.item:
                self._place = ()
                return items.finish(event.item, event.output_index)
            case _ if kind in events.CALL_DELTAS or kind in events.WHOLE_CALLS:
                return self._call(event, data)
            case _ if kind in events.REASONING:
                text = self._reasoning(event)
                return [member({"reasoning_content": text})] if text else []
            case _:
                return []

    # Messages, calls, reasoning

    def _begin_part(self, event: Event) -> None:
        place = (event.item_id, event.output_index, event.content_index)
        if place != self._place:
            item = self._items.find("message", event.item_id, event.output_index)
            item.begun.add(event.content_index or 0)
            self._place = place

    def _part(self, event: Event, part: dict[str, Any]) -> list[Member]:
        """A whole part. What is no text comes again with its item."""
        text = part.get("text", part.get("refusal"))
        if not isinstance(text, str) or part.get("type") == "reasoning_text":
            return []
        item = self._items.find("message", event.item_id, event.output_index, is_whole=True)
        return self._items.part(item, event.content_index or 0, part)

    def _call(self, event: Event, data: bytes) -> list[Member]:
        kind, index = event.type or "", event.output_index
        if kind in events.CALL_DELTAS:
            item = self._items.find(events.CALL_DELTAS[kind], event.item_id, index)
            return self._items.call(item, event.delta or "")
        item = self._items.find(events.WHOLE_CALLS[kind], event.item_id, index, is_whole=True)
        return self._items.end_call(item, as_object(decoded(data)) or {})

    def _reasoning(self, event: Event) -> str:
        item = self._items.find("reasoning", event.item_id, event.output_index)
        place = event.summary_index or event.content_index or 0
        shows = events.REASONING[event.type or ""]
        return self._items.reasoning(item, shows, place, event.delta or "")

    # Its begin and its end

    def _identify(self, event: Event) -> Response:
        response = event.response or Response()
        if self.identity is None and event.response is not None:
            self.identity = (response.id or "")[:200]
        return response

    def _start(self, event: Event) -> Chunk:
        response = self._identify(event)
        for error in (event.error, response.error):
            if error not in events.NOTHING:
                raise end.failure(error)
        return Chunk([])

    def _end(self, event: Event, data: bytes) -> Chunk:
        response = self._identify(event)
        fields = as_object(decoded(data)) or {}
        status = end.status_of(event.type or "", response)
        reason, error = end.finish_of(status, response), response.error or event.error
        if reason is None or error not in events.NOTHING:
            raise end.failed(status, error, fields)
        members = self._items.rest(response.output, is_complete=status == "completed")
        if reason == "stop" and self._items.calls:
            reason = "tool_calls"
        members.append({"index": 0, "delta": {}, "finish_reason": reason})
        usage = end.usage_of(response.usage) if response.usage else None
        return Chunk([], usage=usage, extras=as_extras(end.unknown_of(fields)), fields=members)


def _unknown(kind: str, data: bytes, name: bytes) -> Chunk:
    """An event that is not known: an error of the upstream, one that says nothing, or one of a tool
    that the upstream runs itself."""
    failure = event_failure(name, data)
    if failure is not None:
        raise failure
    fields = as_object(decoded(data))
    if kind in events.KNOWN or not fields:
        return Chunk([])
    fields = {name: each for name, each in fields.items() if name != "sequence_number"}
    return _chunk([member(extra({"events": [{"type": kind} | fields]}))])


def _text(delta: Delta) -> Chunk:
    return Chunk([Choice(delta=delta, index=0, finish_reason=None)])


def _chunk(members: list[Member]) -> Chunk:
    return Chunk([], fields=members) if members else Chunk([])


def unstreamed(body: bytes) -> list[bytes]:
    """The one event has the whole response, whose items no event had before."""
    response = as_object(decoded(body)) or {}
    is_response = response.get("object") == "response" or "status" in response
    if not is_response or not isinstance(response.get("output"), list):
        return []
    if response.get("status") not in ("failed", "cancelled") and is_failure(response):
        return []
    kind = f"response.{response.get('status') or 'completed'}"
    return [msgspec.json.encode({"type": kind, "response": response})]
