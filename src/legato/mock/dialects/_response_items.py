"""The output items of a response that have deltas: their events from the first to the last."""

from typing import Any, Final

from msgspec import Struct

#: The prefix of an item's id.
_PREFIXES: Final = {
    "message": "msg",
    "refusal": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
}

#: The events of the deltas of each kind, without `.delta` and `.done`.
_DELTAS: Final = {
    "message": "response.output_text",
    "refusal": "response.refusal",
    "reasoning": "response.reasoning_summary_text",
    "function_call": "response.function_call_arguments",
    "custom_tool_call": "response.custom_tool_call_input",
}

#: The member of a `done` event, and of a call, that has the complete text.
_TEXTS: Final = {
    "message": "text",
    "refusal": "refusal",
    "reasoning": "text",
    "function_call": "arguments",
    "custom_tool_call": "input",
}

#: The events of the part that the text is in, and the member of the item with its parts.
_PARTS: Final = {
    "message": ("response.content_part", "content"),
    "refusal": ("response.content_part", "content"),
    "reasoning": ("response.reasoning_summary_part", "summary"),
}


class Item(Struct):
    """`kind`: the item's type; `refusal` is a message that refuses. `fields`: the item as it
    stands, with its text once it has ended. `index`: of its output.

    The methods return events without their sequence numbers.
    """

    kind: str
    index: int
    fields: dict[str, Any]
    text: str = ""

    def start(self) -> list[dict[str, Any]]:
        """The item without its text, and its part."""
        empty = self.fields | {"status": "in_progress"} | self._content("", parts=False)
        events = [{"type": "response.output_item.added", "output_index": self.index, "item": empty}]
        if self.kind in _PARTS:
            events.append(self._part("added", ""))
        return events

    def extend(self, text: str) -> list[dict[str, Any]]:
        self.text += text
        delta: dict[str, Any] = {"delta": text}
        if self.kind == "message":
            delta["logprobs"] = []
        return [self._event(f"{_DELTAS[self.kind]}.delta", **delta)] if text else []

    def settle(self, status: str) -> None:
        """Completes the fields with the text so far."""
        self.fields |= {"status": status} | self._content(self.text)

    def end(self, status: str) -> list[dict[str, Any]]:
        self.settle(status)
        done: dict[str, Any] = {_TEXTS[self.kind]: self.text}
        if self.kind == "message":
            done["logprobs"] = []
        elif self.kind == "function_call":
            done["name"] = self.fields["name"]
        events = [self._event(f"{_DELTAS[self.kind]}.done", **done)]
        if self.kind in _PARTS:
            events.append(self._part("done", self.text))
        item = dict(self.fields)
        return [
            *events,
            {"type": "response.output_item.done", "output_index": self.index, "item": item},
        ]

    def _content(self, text: str, *, parts: bool = True) -> dict[str, Any]:
        if self.kind in _PARTS:
            return {_PARTS[self.kind][1]: [self._of_part(text)] if parts else []}
        return {_TEXTS[self.kind]: text}

    def _of_part(self, text: str) -> dict[str, Any]:
        if self.kind == "reasoning":
            return {"type": "summary_text", "text": text}
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _part(self, what: str, text: str) -> dict[str, Any]:
        return self._event(f"{_PARTS[self.kind][0]}.{what}", part=self._of_part(text))

    def _event(self, kind: str, **members: Any) -> dict[str, Any]:
        event = {"type": kind, "item_id": self.fields["id"], "output_index": self.index}
        if self.kind in _PARTS:
            event["summary_index" if self.kind == "reasoning" else "content_index"] = 0
        return event | members


def new_item(kind: str, index: int, members: dict[str, Any]) -> Item:
    type_ = "message" if kind == "refusal" else kind
    fields = {"id": f"{_PREFIXES[kind]}_{index}", "type": type_, "status": "in_progress"}
    if type_ == "message":
        fields["role"] = "assistant"
    item = Item(kind, index, fields | members)
    item.fields |= item.start()[0]["item"]
    return item
