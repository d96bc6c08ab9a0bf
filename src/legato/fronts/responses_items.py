"""Output items of a Responses answer while they are under way, and the events that tell of them.

Texts are kept as the inside of a JSON string, in bytes: the fast path adds what it has not decoded.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from msgspec import Raw

from legato.core.json_text import encoded
from legato.core.merge import TextBuffer
from legato.fronts.responses_custom import InputDecoder
from legato.fronts.responses_tools import ToolName

Fields = dict[str, Any]

#: Takes an event: its type, and its members as JSON without the braces. `type` and
#: `sequence_number` are added by who takes it.
Emit = Callable[[str, bytes], None]

#: Events of each kind of part: the delta, the end of the text, and what the text is called there.
TEXT: Final = ("response.output_text", "text", "output_text")
REFUSAL: Final = ("response.refusal", "refusal", "refusal")
SUMMARY: Final = ("response.reasoning_summary_text", "text", "summary_text")
THOUGHT: Final = ("response.reasoning_text", "text", "reasoning_text")
Kind = tuple[str, str, str]

#: Kinds by the type of a part.
PART_KINDS: Final = {kind[2]: kind for kind in (TEXT, REFUSAL, SUMMARY, THOUGHT)}

ADDED: Final = "response.output_item.added"
DONE: Final = "response.output_item.done"


def members(**fields: Any) -> bytes:
    return encoded(fields)[1:-1]


class Part:
    """A part of an item whose text is under way. `text`: the inside of a JSON string.
    `is_told`: the event with the whole text has gone out."""

    __slots__ = ("_names", "annotations", "head", "index", "is_told", "kind", "logprobs", "text")

    def __init__(self, kind: Kind, index: int) -> None:
        self.kind = kind
        self.index = index
        self.text = bytearray()
        self.annotations: list[Fields] = []
        self.logprobs: list[Any] = []
        self.is_told = False
        self.head = b""  # members of its deltas, once there are any
        self._names = "summary_index" if kind is SUMMARY else "content_index"

    def place(self, item: "Item") -> Fields:
        return item.place() | {self._names: self.index}

    @property
    def frame(self) -> str:
        """What its own events begin with."""
        part = "reasoning_summary_part" if self.kind is SUMMARY else "content_part"
        return f"response.{part}"

    def whole(self) -> Fields:
        """The part as it is now."""
        _, name, kind = self.kind
        part: Fields = {"type": kind, name: Raw(b'"%b"' % bytes(self.text))}
        if self.kind is TEXT:
            part |= {"annotations": self.annotations, "logprobs": self.logprobs}
        return part


class Item(ABC):
    """An item that is under way."""

    __slots__ = ("emit", "identity", "index")

    def __init__(self, emit: Emit, identity: str, index: int) -> None:
        self.emit = emit
        self.identity = identity
        self.index = index

    def place(self) -> Fields:
        return {"item_id": self.identity, "output_index": self.index}

    @abstractmethod
    def whole(self, status: str) -> Fields:
        """The item as it is now."""

    def begin(self) -> None:
        item = self.whole("in_progress")
        self.emit(ADDED, members(output_index=self.index, item=item))

    def finish(self, status: str) -> bytes:
        """Emits its end; the whole item as JSON."""
        item = encoded(self.whole(status))
        self.emit(DONE, members(output_index=self.index, item=Raw(item)))
        return item


class PartedItem(Item):
    """An item that consists of parts, one after the other."""

    __slots__ = ("open", "parts")

    def __init__(self, emit: Emit, identity: str, index: int) -> None:
        super().__init__(emit, identity, index)
        self.parts: list[Part] = []
        self.open: Part | None = None

    def part(self, kind: Kind) -> Part:
        """The open part, which is of this kind."""
        if self.open is None or self.open.kind is not kind or self.open.is_told:
            self.close_part()
            index = sum((each.kind is SUMMARY) is (kind is SUMMARY) for each in self.parts)
            part = self.open = Part(kind, index)
            self.emit(f"{part.frame}.added", members(**part.place(self), part=part.whole()))
            self.parts.append(part)
        return self.open

    def delta_head(self, part: Part) -> tuple[str, bytes, bytes]:
        """Of the event with a text of `part`: its type, and its members before and after the JSON
        string of the text."""
        if not part.head:
            part.head = members(**part.place(self)) + b',"delta":'
        return f"{part.kind[0]}.delta", part.head, b',"logprobs":[]' if part.kind is TEXT else b""

    def add(self, kind: Kind, text: str, logprobs: list[Any] | None = None) -> None:
        part = self.part(kind)
        quoted = encoded(text)
        part.text += quoted[1:-1]
        name, head, tail = self.delta_head(part)
        if logprobs:
            part.logprobs += logprobs
            tail = b"," + members(logprobs=logprobs)
        self.emit(name, head + quoted + tail)

    def close_part(self) -> None:
        part, self.open = self.open, None
        if part is None:
            return
        name, text, _ = part.kind
        done: Fields = part.place(self) | {text: Raw(b'"%b"' % bytes(part.text))}
        if part.kind is TEXT:
            done["logprobs"] = part.logprobs
        if not part.is_told:
            self.emit(f"{name}.done", members(**done))
        self.emit(f"{part.frame}.done", members(**part.place(self), part=part.whole()))

    def finish(self, status: str) -> bytes:
        self.close_part()
        return super().finish(status)


class MessageItem(PartedItem):
    """Text and refusals."""

    __slots__ = ()

    def whole(self, status: str) -> Fields:
        return {
            "id": self.identity,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [each.whole() for each in self.parts],
        }

    def cite(self, annotation: Fields) -> None:
        """A citation of the text so far."""
        part = self.part(TEXT)
        place = part.place(self) | {"annotation_index": len(part.annotations)}
        part.annotations.append(annotation)
        event = members(**place, annotation=annotation)
        self.emit("response.output_text.annotation.added", event)


class ReasoningItem(PartedItem):
    """Reasoning. What upstreams show of it is a summary: agents show no other text."""

    __slots__ = ("encrypted",)

    def __init__(self, emit: Emit, identity: str, index: int) -> None:
        super().__init__(emit, identity, index)
        self.encrypted: str | None = None

    def whole(self, status: str) -> Fields:
        item: Fields = {
            "id": self.identity,
            "type": "reasoning",
            "summary": [each.whole() for each in self.parts if each.kind is SUMMARY],
        }
        thoughts = [each.whole() for each in self.parts if each.kind is THOUGHT]
        if thoughts:
            item["content"] = thoughts
        if self.encrypted is not None:
            item["encrypted_content"] = self.encrypted
        return item


class ImageItem(Item):
    """An image that the model has made. `data`: base64, as soon as it is there."""

    __slots__ = ("data",)

    def __init__(self, emit: Emit, identity: str, index: int) -> None:
        super().__init__(emit, identity, index)
        self.data: str | None = None

    def whole(self, status: str) -> Fields:
        kind = "image_generation_call"
        return {"id": self.identity, "type": kind, "status": status, "result": self.data}


class CallItem(Item):
    """A call of a tool of the client's."""

    __slots__ = ("_call", "_text", "_tool")

    def __init__(self, emit: Emit, identity: str, index: int, call: str, tool: ToolName) -> None:
        """`call`: the id of the call, which its result names."""
        super().__init__(emit, identity, index)
        self._call = call
        self._tool = tool
        self._text = TextBuffer("")

    def named(self, kind: str, status: str) -> Fields:
        tool = self._tool
        item: Fields = {"id": self.identity, "type": kind, "status": status, "call_id": self._call}
        item |= {"namespace": tool.namespace} if tool.namespace else {}
        return item | {"name": tool.name}

    def whole(self, status: str) -> Fields:
        return self.named("function_call", status) | {"arguments": str(self._text)}

    def add(self, piece: str) -> None:
        self._text.append(piece)
        event = members(**self.place(), delta=piece)
        self.emit("response.function_call_arguments.delta", event)

    def finish(self, status: str) -> bytes:
        done = self.place() | {"name": self._tool.name, "arguments": str(self._text)}
        self.emit("response.function_call_arguments.done", members(**done))
        return super().finish(status)


class CustomCallItem(CallItem):
    """A call of a tool that takes any text; the upstream calls a function with one string."""

    __slots__ = ("_decoder",)

    def __init__(self, emit: Emit, identity: str, index: int, call: str, tool: ToolName) -> None:
        super().__init__(emit, identity, index, call, tool)
        self._decoder = InputDecoder()

    def whole(self, status: str) -> Fields:
        return self.named("custom_tool_call", status) | {"input": str(self._text)}

    def add(self, piece: str) -> None:
        self._add_input(self._decoder.add(piece))

    def _add_input(self, text: str) -> None:
        if text:
            self._text.append(text)
            event = members(**self.place(), delta=text)
            self.emit("response.custom_tool_call_input.delta", event)

    def finish(self, status: str) -> bytes:
        self._add_input(self._decoder.close())
        done = members(**self.place(), input=str(self._text))
        self.emit("response.custom_tool_call_input.done", done)
        return Item.finish(self, status)
