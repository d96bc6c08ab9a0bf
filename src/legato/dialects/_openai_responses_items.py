"""Output items of an answer in OpenAI's Responses format, while they are under way.

Most of an item comes in deltas, and all of it once more when it is done. Servers that copy the API
leave out events, or send other ids and indices with each: a whole text counts only where none of it
has come in deltas.
"""

from typing import Any, Final, cast

import msgspec
from msgspec import Struct, field

from legato.core.chunk import as_object, unknown_members
from legato.dialects._openai_responses_input import REASONING_FORMAT

#: A choice of a chunk.
Member = dict[str, Any]
Fields = dict[str, Any]

#: Types of items that are tool calls of the client's: the type of the call, and its text.
CALLS: Final = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}

#: Members of a call's item that have their place in a tool call.
_OF_CALL: Final = frozenset({"type", "id", "call_id", "name", "arguments", "input", "status"})

#: Stands between two parts of reasoning.
_GAP: Final = "\n\n"


class Item(Struct):
    """`number`: of a tool call. `fields`: what the item was added with. `begun`: parts of its
    content of which text has been sent, by their index. `shows`: whether the reasoning that is sent
    is its text or its summary, as soon as there is some."""

    kind: str
    number: int = -1
    fields: Fields = {}
    begun: set[int] = field(default_factory=set[int])
    cited: set[int] = field(default_factory=set[int])
    shows: str = ""
    is_named: bool = False
    is_done: bool = False


def member(delta: Fields, logprobs: Any = None) -> Member:
    choice: Member = {"index": 0, "delta": delta, "finish_reason": None}
    if isinstance(logprobs, list) and logprobs:
        tokens = [_token(as_object(each) or {}) for each in cast("list[Any]", logprobs)]
        name = "refusal" if "refusal" in delta else "content"
        choice["logprobs"] = {name: tokens}
    return choice


def _token(token: Fields) -> Fields:
    """A token with the members that it has to have in a chat completion."""
    others = token.get("top_logprobs")
    tokens = cast("list[Any]", others) if isinstance(others, list) else []
    bare = {"bytes": None}
    return bare | token | {"top_logprobs": [bare | (as_object(each) or {}) for each in tokens]}


def extra(members: Fields) -> Fields:
    return {"extra_content": {"openai": members}}


def annotation(fields: Fields) -> Fields:
    """The citation of an address has its members in an object in a chat completion."""
    if fields.get("type") != "url_citation" or "url_citation" in fields:
        return fields
    return {
        "type": "url_citation",
        "url_citation": {name: value for name, value in fields.items() if name != "type"},
    }


def objects(values: Any) -> list[Fields]:
    """Those members of a list that are objects."""
    if not isinstance(values, list):
        return []
    return [each for value in cast("list[Any]", values) if (each := as_object(value))]


class Items:
    """All items of one answer."""

    __slots__ = ("_at", "_ids", "_last", "_thought", "calls", "seen")

    def __init__(self) -> None:
        self._ids: dict[str, Item] = {}
        self._at: dict[int, Item] = {}  # by their index
        self._last: Item | None = None
        self._thought: tuple[Item, int] | None = None  # of which part reasoning came last
        self.seen: dict[str, list[Item]] = {}  # by their type
        self.calls = 0

    def find(
        self, kind: str, identity: str | None, index: int | None, *, is_whole: bool = False
    ) -> Item:
        """The item under way that an event belongs to; a new one where none does. `is_whole`: the
        event repeats what has come, and may come behind the item's end."""
        item = self._ids.get(identity) if identity else None
        if is_whole and item is not None and item.kind == kind:
            return item
        if item is None and index is not None:
            item = self._at.get(index)
        elif item is None and not identity:
            item = self._last
        if item is None or item.is_done or item.kind != kind:
            item = self._begin(kind)
        if identity:
            self._ids[identity] = item
        if index is not None:
            self._at[index] = item
        return item

    def _begin(self, kind: str) -> Item:
        item = self._last = Item(kind)
        if kind in CALLS:
            item.number = self.calls
            self.calls += 1
        self.seen.setdefault(kind, []).append(item)
        return item

    def add(self, fields: Fields, index: int | None) -> list[Member]:
        """An item begins."""
        item = self.find(_kind(fields), _identity(fields), index)
        item.fields = fields
        return self._opening(item, fields) if item.kind in CALLS else []

    def finish(self, fields: Fields, index: int | None) -> list[Member]:
        """An item is done: what has not been sent of it."""
        return self._finish(
            self.find(_kind(fields), _identity(fields), index, is_whole=True), fields
        )

    def rest(self, output: Any, *, is_complete: bool) -> list[Member]:
        """The answer ends: what has not been sent of its `output`, and of items that nobody ended.
        Items of one type are in the same order there, whatever their ids and indices are."""
        members: list[Member] = []
        places: dict[str, int] = {}
        for fields in objects(output):
            kind = _kind(fields)
            place = places[kind] = places.get(kind, -1) + 1
            seen = self.seen.get(kind, [])
            item = seen[place] if place < len(seen) else self._begin(kind)
            members += self._finish(item, fields)
        for items in self.seen.values():
            for item in items:
                if not item.is_done and (is_complete or item.kind not in CALLS):
                    members += self._finish(item, {})
        return members

    def _finish(self, item: Item, fields: Fields) -> list[Member]:
        if item.is_done:
            return []
        item.is_done = True
        fields = item.fields | {name: each for name, each in fields.items() if each is not None}
        match item.kind:
            case "message":
                parts = objects(fields.get("content"))
                members = [
                    each for n, part in enumerate(parts) for each in self.part(item, n, part)
                ]
                phase = fields.get("phase")
                return members + ([member(extra({"phases": [phase]}))] if phase else [])
            case "reasoning":
                return self._finish_reasoning(item, fields)
            case kind if kind in CALLS:
                return self._finish_call(item, fields)
            case _:
                return [member(extra({"items": [fields]}))]

    # Messages

    def part(self, item: Item, place: int, part: Fields) -> list[Member]:
        """A whole part of a message: what has not been sent of it."""
        members: list[Member] = []
        text = part.get("text", part.get("refusal"))
        if not isinstance(text, str):
            return [member(extra({"parts": [part]}))]
        if text and place not in item.begun:
            item.begun.add(place)
            name = "refusal" if part.get("type") == "refusal" else "content"
            members.append(member({name: text}, part.get("logprobs")))
        citations = objects(part.get("annotations"))
        if citations and place not in item.cited:
            item.cited.add(place)
            members.append(member({"annotations": [annotation(each) for each in citations]}))
        return members

    # Tool calls

    def call(self, item: Item, text: str) -> list[Member]:
        """A part of a call's text."""
        if not text:
            return []
        item.begun.add(0)
        kind, name = CALLS[item.kind]
        return [member({"tool_calls": [{"index": item.number, kind: {name: text}}]})]

    def end_call(self, item: Item, fields: Fields) -> list[Member]:
        """A call's text is complete: what has not been sent of it. An id and a name that have not
        come yet come with the end of the item; what is said of them here counts where it does not.
        """
        _, name = CALLS[item.kind]
        item.fields = {n: fields[n] for n in ("name", name) if fields.get(n)} | item.fields
        text = fields.get(name)
        return self.call(item, text) if isinstance(text, str) and 0 not in item.begun else []

    def _finish_call(self, item: Item, fields: Fields) -> list[Member]:
        kind, name = CALLS[item.kind]
        members = self._opening(item, fields)
        if 0 in item.begun:
            return members
        text = fields.get(name) or item.fields.get(name)
        if not isinstance(text, str):
            text = msgspec.json.encode(text).decode() if text else ""
        if not text and kind == "function":
            text = "{}"  # to a client, "" would be no JSON
        return members + self.call(item, text)

    def _opening(self, item: Item, fields: Fields) -> list[Member]:
        fields = item.fields | fields
        name = fields.get("name")
        if item.is_named or not isinstance(name, str) or not name:
            return []
        item.is_named = True
        kind, text = CALLS[item.kind]
        call: Fields = {"index": item.number, "id": fields.get("call_id") or fields.get("id")}
        call |= {"type": kind, kind: {"name": name, text: ""}}
        more = unknown_members(fields, _OF_CALL)
        return [member({"tool_calls": [call | (extra(more) if more else {})]})]

    # Reasoning

    def reasoning(self, item: Item, shows: str, place: int, text: str) -> str:
        """The reasoning to send for a delta of an item's `text` or `summary`, whichever came first;
        empty for the other one. Parts are kept apart."""
        item.shows = item.shows or shows
        if not text or item.shows != shows:
            return ""
        before, self._thought = self._thought, (item, place)
        is_same = before is None or (before[0] is item and before[1] == place)
        return text if is_same else _GAP + text

    def _finish_reasoning(self, item: Item, fields: Fields) -> list[Member]:
        texts, summaries = [
            [
                text
                for each in objects(fields.get(name))
                if isinstance(text := each.get("text"), str)
            ]
            for name in ("content", "summary")
        ]
        members: list[Member] = []
        if not item.shows:
            shows, text = ("text", "".join(texts)) if texts else ("summary", _GAP.join(summaries))
            text = self.reasoning(item, shows, 0, text)
            if text:
                members.append(member({"reasoning_content": text}))
        entry = _details(fields, "".join(texts))
        return members + ([member({"reasoning_details": [entry]})] if entry else [])


def _kind(fields: Fields) -> str:
    kind = fields.get("type")
    return kind if isinstance(kind, str) else ""


def _identity(fields: Fields) -> str | None:
    identity = fields.get("id")
    return identity if isinstance(identity, str) else None


def _details(fields: Fields, text: str) -> Fields | None:
    """What a client is to send back with this turn, so that the model knows its own reasoning.
    None where the upstream would not take it back: it stores nothing, and knows no item by its id.
    """
    data = fields.get("encrypted_content")
    entry: Fields = {"type": "reasoning.encrypted", "id": fields.get("id"), "data": data}
    if not isinstance(data, str) or not data:
        if not text:
            return None
        entry = {"type": "reasoning.text", "id": fields.get("id"), "text": text}
    elif text:
        entry["content"] = fields.get("content")
    return entry | {"summary": fields.get("summary") or [], "format": REASONING_FORMAT}
