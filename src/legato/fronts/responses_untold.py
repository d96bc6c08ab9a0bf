"""Items of an upstream that speaks Responses which only its last event tells of.

Some servers leave out the events of an item, or give the whole answer in one piece. Clients take
the text from its deltas, and an item from its `output_item.done`: they get both.
"""

from typing import Any, Final

from legato.fronts.responses_content import objects
from legato.fronts.responses_events import OutputItems, new_id
from legato.fronts.responses_items import (
    ADDED,
    DONE,
    PART_KINDS,
    Emit,
    MessageItem,
    members,
)

Fields = dict[str, Any]

#: Members of an item that come in events of their own, as they are when it is added.
_NOT_YET: Final[Fields] = {
    "arguments": "",
    "content": [],
    "input": "",
    "status": "in_progress",
    "summary": [],
}

#: Types of calls: the member with their text, and what the events of it begin with.
_CALLS: Final = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
}


class BegunItems:
    """The items that an upstream's events have begun, by type, in order: in its last event they
    are in the same order, whatever their ids and indices are."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: dict[str, list[tuple[int, str]]] = {}

    def note(self, index: int, item: Fields) -> None:
        """An event has the item with this index."""
        places = self._places.setdefault(str(item.get("type")), [])
        place = (index, str(item.get("id")))
        if place not in places:
            places.append(place)

    def tell_rest(self, output: Any, items: OutputItems, emit: Emit) -> None:
        """The events that are missing of the items of `output`, which is the upstream's."""
        seen: dict[str, int] = {}
        for fields in objects(output):
            kind = str(fields.get("type"))
            count = seen[kind] = seen.get(kind, 0) + 1
            places = self._places.get(kind, [])
            if count > len(places):
                index = items.take_index()
                _tell(index, fields, emit)
            else:
                index, _ = places[count - 1]
                if items.is_done(index):
                    continue
            emit(DONE, members(output_index=index, item=fields))


def _tell(index: int, fields: Fields, emit: Emit) -> None:
    """The events of a whole item but for the last."""
    begun = {name: _NOT_YET.get(name, value) for name, value in fields.items()}
    emit(ADDED, members(output_index=index, item=begun))
    item = MessageItem(emit, str(fields.get("id") or new_id("item")), index)
    for part in [*objects(fields.get("summary")), *objects(fields.get("content"))]:
        kind = PART_KINDS.get(str(part.get("type")))
        text = part.get(kind[1]) if kind is not None else None
        if kind is not None and text and isinstance(text, str):
            item.add(kind, text)
            for annotation in objects(part.get("annotations")):
                item.cite(annotation)
            item.close_part()
    name, event = _CALLS.get(str(fields.get("type")), ("", ""))
    text = fields.get(name)
    if text and isinstance(text, str):
        emit(f"{event}.delta", members(**item.place(), delta=text))
        named = {"name": fields.get("name")} if name == "arguments" else {}
        emit(f"{event}.done", members(**item.place(), **named, **{name: text}))
