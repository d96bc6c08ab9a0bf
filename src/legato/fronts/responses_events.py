"""Chunks of a stream as events of OpenAI's Responses API, and the output that they add up to.

Streamed or not, an answer is made here: a client that does not stream gets the output alone.
"""

import secrets
from typing import Any, Final

from legato.core.chunk import Chunk, as_object
from legato.core.finish import known_finish
from legato.core.media_types import parse_data_url
from legato.core.signatures import carried, shape_of
from legato.fronts.responses_content import objects
from legato.fronts.responses_input import REASONING_FORMAT
from legato.fronts.responses_items import (
    REFUSAL,
    SUMMARY,
    TEXT,
    CallItem,
    CustomCallItem,
    Emit,
    ImageItem,
    Item,
    MessageItem,
    Part,
    PartedItem,
    ReasoningItem,
)
from legato.fronts.responses_tools import ToolNames

Fields = dict[str, Any]

#: Finishes after which an answer is not complete: the reason that its client is told.
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}

#: In place of an index, for the one call in OpenAI's older form, which has neither index nor id.
_OLDER: Final = -1


def new_id(kind: str) -> str:
    """An id of ours: `msg_…`, `rs_…`, `fc_…`, `ctc_…`."""
    return f"{kind}_{secrets.token_hex(12)}"


class OutputItems:
    """The output of one answer: the items that are done, and those under way.

    A message or a reasoning item ends where an item of another kind begins; calls stay open until
    the end, because their pieces may come in any order.
    """

    __slots__ = ("_calls", "_carries", "_current", "_done", "_emit", "_finish", "_names", "_next")

    def __init__(self, names: ToolNames, emit: Emit, *, carries: bool = False) -> None:
        """`carries`: the client has asked for reasoning in a form in which it can be sent back."""
        self._names = names
        self._carries = carries
        self._emit = emit
        self._done: dict[int, bytes] = {}  # whole items as JSON, by their index
        self._calls: dict[int, CallItem] = {}  # by the index of the call
        self._current: MessageItem | ReasoningItem | None = None
        self._finish: str | None = None
        self._next = 0  # index of the next item

    @property
    def status(self) -> tuple[str, str | None]:
        """Of the response when it is over: `completed`, or `incomplete` and why."""
        reason = _INCOMPLETE.get(self._finish or "")
        return ("completed" if reason is None else "incomplete", reason)

    @property
    def current(self) -> MessageItem | ReasoningItem | None:
        """The item that texts are added to."""
        return self._current

    def output(self) -> bytes:
        """The items that are done, as a JSON array."""
        return b"[%b]" % b",".join([self._done[index] for index in sorted(self._done)])

    # From chunks

    def push(self, chunk: Chunk) -> None:
        if chunk.text_choice == 0:
            self._item(chunk.is_reasoning).add(SUMMARY if chunk.is_reasoning else TEXT, chunk.text)
            return
        for member in chunk.members():
            if member.get("index") == 0:
                self._add(as_object(member.get("delta")) or {}, member)

    def _item(self, is_reasoning: bool) -> PartedItem:
        """The open item for a text."""
        return self._reasoning() if is_reasoning else self._message()

    def _message(self) -> MessageItem:
        current = self._current
        if not isinstance(current, MessageItem):
            self._end_current()
            current = self._current = MessageItem(self._emit, new_id("msg"), self.take_index())
            current.begin()
        return current

    def _reasoning(self, identity: str | None = None) -> ReasoningItem:
        """`identity`: the item's where it is the upstream's own; another one's cannot be shown."""
        current = self._current
        if not isinstance(current, ReasoningItem) or (identity and current.identity != identity):
            self._end_current()
            index = self.take_index()
            current = self._current = ReasoningItem(self._emit, identity or new_id("rs"), index)
            current.begin()
        return current

    def is_done(self, index: int) -> bool:
        """Whether the item with this index is done."""
        return index in self._done

    def take_index(self) -> int:
        """That of the next item, which begins."""
        self._next += 1
        return self._next - 1

    def _add(self, delta: Fields, member: Fields) -> None:
        tokens = as_object(member.get("logprobs")) or {}
        if delta.get("reasoning_content"):
            self._reasoning().add(SUMMARY, delta["reasoning_content"])
        for detail in objects(delta.get("reasoning_details")):
            self._keep_encrypted(detail)
        if delta.get("content"):
            self._message().add(TEXT, delta["content"], _logprobs(tokens.get("content")))
        if delta.get("refusal"):
            self._message().add(REFUSAL, delta["refusal"])
        for annotation in objects(delta.get("annotations")):
            self._cite(annotation)
        for image in objects(delta.get("images")):
            self._image(image)
        for call in objects(delta.get("tool_calls")):
            self._call(call)
        if (older := as_object(delta.get("function_call"))) is not None:
            self._call({"index": _OLDER, "function": older})
        reason = member.get("finish_reason")
        if isinstance(reason, str):
            self._finish = known_finish(reason)

    def _keep_encrypted(self, detail: Fields) -> None:
        """Reasoning that its upstream wants back as it is. Encrypted by an upstream of this format,
        it has an id that belongs to it; signed by Anthropic's, it is carried."""
        data, identity = detail.get("data"), detail.get("id")
        if detail.get("format") == REASONING_FORMAT and isinstance(data, str):
            item = self._reasoning(identity if isinstance(identity, str) else None)
            item.encrypted = data
            self._end_current()
        elif self._carries and shape_of(detail) == "messages":
            self._reasoning().encrypted = carried([detail])
            self._end_current()

    def _cite(self, annotation: Fields) -> None:
        """The citation of an address; Chat Completions has its members in an object."""
        found = as_object(annotation.get("url_citation"))
        if annotation.get("type") != "url_citation" or found is None:
            return
        whole: Fields = {"start_index": 0, "end_index": 0, "title": "", "url": ""}
        self._message().cite({"type": "url_citation"} | whole | found)

    def _image(self, part: Fields) -> None:
        """An image that the model has made; one that is elsewhere cannot be shown."""
        found = parse_data_url((as_object(part.get("image_url")) or {}).get("url"))
        if found is not None:
            self._end_current()
            item = ImageItem(self._emit, new_id("ig"), self.take_index())
            item.begin()
            item.data = found[1]
            self._done[item.index] = item.finish("completed")

    def _call(self, piece: Fields) -> None:
        function = as_object(piece.get("function")) or {}
        item = self._calls.get(piece["index"])
        if item is None:
            self._end_current()
            tool = self._names.tool(str(function.get("name") or ""))
            kind, make = ("ctc", CustomCallItem) if tool.is_custom else ("fc", CallItem)
            call = str(piece.get("id") or new_id("call"))
            item = make(self._emit, new_id(kind), self.take_index(), call, tool)
            self._calls[piece["index"]] = item
            item.begin()
        arguments = function.get("arguments")
        if arguments and isinstance(arguments, str):
            item.add(arguments)

    def _end_current(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            self._done[current.index] = current.finish("completed")

    def end(self, status: str | None = None) -> None:
        """The answer is over: what is open ends. Where it is not complete, the item that came last
        is not either. `status`: the answer's, where an upstream of the same format has said it."""
        status = status or self.status[0]
        left: list[Item] = [*self._calls.values()]
        if self._current is not None:
            left.append(self._current)
        self._current, self._calls = None, {}
        for item in sorted(left, key=lambda each: each.index):
            is_last = item.index == self._next - 1
            self._done[item.index] = item.finish(status if is_last else "completed")

    # For the fast path

    def open_part(self, is_reasoning: bool) -> tuple[PartedItem, Part] | None:
        """The open item and its part that a text is added to; None where neither is open."""
        item = self._current
        kind = SUMMARY if is_reasoning else TEXT
        if item is None or item.open is None or item.open.kind is not kind:
            return None
        return item, item.open

    # From events of an upstream of the same format

    def adopt(self, item: MessageItem | ReasoningItem) -> None:
        """An upstream has begun an item: another one may go on with it."""
        self._current = item
        self.skip(item.index)

    def skip(self, index: int) -> None:
        """An item with this index has begun."""
        self._next = max(self._next, index + 1)

    def adopt_done(self, index: int, item: bytes) -> None:
        """An upstream's item is done: `item` is the whole of it as JSON."""
        self._done[index] = item
        self.skip(index)
        if self._current is not None and self._current.index == index:
            self._current = None


def _logprobs(tokens: Any) -> list[Any]:
    """Tokens with the members that Responses has; `bytes` is a list there."""
    return [_token(each) | {"top_logprobs": _tops(each)} for each in objects(tokens)]


def _tops(token: Fields) -> list[Fields]:
    return [_token(each) for each in objects(token.get("top_logprobs"))]


def _token(token: Fields) -> Fields:
    text = token.get("token")
    text = text if isinstance(text, str) else ""
    known = token.get("bytes")
    return {
        "token": text,
        "bytes": known if isinstance(known, list) else list(text.encode(errors="replace")),
        "logprob": token.get("logprob") or 0.0,
    }
