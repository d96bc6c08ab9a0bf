"""Deltas folded into one: for an answer that is not streamed, and for a slow client."""

from typing import Any, Final, cast

from legato.core.chunk import as_object

#: Pieces of text that are kept apart before they are joined: a small string costs fifty bytes more
#: than its letters.
_PIECES: Final = 256


class TextBuffer:
    """Text that grows. Joining it at every piece would copy all of it every time."""

    __slots__ = ("_blocks", "_pieces")

    def __init__(self, first: str) -> None:
        self._blocks: list[str] = []
        self._pieces = [first]

    def append(self, piece: str) -> None:
        self._pieces.append(piece)
        if len(self._pieces) >= _PIECES:
            self._blocks.append("".join(self._pieces))
            self._pieces.clear()

    def __str__(self) -> str:
        return "".join((*self._blocks, *self._pieces))


#: Members of deltas and tool calls that are strings and come whole, not in pieces.
_WHOLE: Final = frozenset({"role", "id", "type", "name", "thought_signature"})


def merge_choice(choice: dict[str, Any], member: dict[str, Any]) -> None:
    """Adds a chunk's choice to what has come of it: deltas are joined, the rest is replaced."""
    for name, value in member.items():
        if name == "delta":
            delta = choice.setdefault("delta", {})
            for key, piece in value.items():
                if key == "tool_calls":
                    _join_calls(delta.setdefault(key, {}), piece)
                else:
                    _join(delta, key, piece)
        elif name == "logprobs" and (more := as_object(value)) is not None:
            logprobs = as_object(choice.get("logprobs")) or {}
            choice["logprobs"] = logprobs
            for key, piece in more.items():
                _join(logprobs, key, piece)
        elif value is not None or name not in choice:
            choice[name] = value


def _join(owner: dict[str, Any], name: str, value: Any) -> None:
    """Text goes on, lists grow, objects are joined member by member, all else is replaced."""
    before = owner.get(name)
    if isinstance(value, str) and name not in _WHOLE:
        if isinstance(before, TextBuffer):
            before.append(value)
        else:
            owner[name] = TextBuffer(value)
    elif isinstance(value, list):
        if not isinstance(before, list):
            before = owner[name] = list[Any]()
        cast("list[Any]", before).extend(cast("list[Any]", value))
    elif (members := as_object(value)) is not None:
        inner = as_object(before)
        if inner is None:
            inner = owner[name] = dict[str, Any]()
        for key, part in members.items():
            _join(inner, key, part)
    elif value is not None or name not in owner:
        owner[name] = value


def _join_calls(calls: dict[int, dict[str, Any]], pieces: list[dict[str, Any]]) -> None:
    for piece in pieces:
        merge_call(calls.setdefault(int(piece["index"]), {}), piece)


def merge_call(call: dict[str, Any], piece: dict[str, Any]) -> None:
    """Adds a piece of a tool call to what has come of it."""
    for name, value in piece.items():
        _join(call, name, value)


def to_builtins(value: Any, name: str = "") -> Any:
    """What was folded, as JSON has it."""
    if isinstance(value, TextBuffer):
        return str(value)
    if isinstance(value, dict):
        members = cast("dict[Any, Any]", value)
        if name == "tool_calls":
            return [to_builtins(members[index]) for index in sorted(members)]
        return {key: to_builtins(each, key) for key, each in members.items()}
    if isinstance(value, list):
        return [to_builtins(each) for each in cast("list[Any]", value)]
    return value
