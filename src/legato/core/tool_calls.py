"""Tool calls of one choice, whatever an upstream does with their indices and ids (contract, 2)."""

import re
import secrets
from typing import Any, Final, cast

import msgspec

from legato.core.chunk import as_object, decoded
from legato.core.json_text import without_surrogates
from legato.core.merge import merge_call, to_builtins

#: Types of calls that have a name: it is in the member that is called after the type, beside the
#: text that comes in pieces. Calls of other types are passed on as they are.
_TEXTS: Final = {"function": "arguments", "custom": "input"}

_NOT_LEGAL: Final = re.compile(r"[^A-Za-z0-9_-]")


def legal_call_id(identity: str) -> str:
    """An id of letters that every server takes: Anthropic's takes fewer than some use."""
    return _NOT_LEGAL.sub("_", identity)


class _Piece:
    """What one delta says of a call. `members`: all but its index, id and type. `text`: its part of
    the arguments."""

    __slots__ = ("identity", "index", "kind", "members", "name", "text")

    def __init__(self, call: dict[str, Any]) -> None:
        call = {name: value for name, value in call.items() if value is not None}
        index, identity, kind = [call.pop(name, None) for name in ("index", "id", "type")]
        self.index = index if isinstance(index, int) else None
        self.identity = without_surrogates(identity) if isinstance(identity, str) else ""
        self.kind = kind if isinstance(kind, str) else ""
        self.members = call
        self.name = self.text = ""
        for holder in _TEXTS:
            if (fields := as_object(call.get(holder))) is not None:
                call[holder] = self._named(holder, fields)
        if not isinstance(call.get("function"), dict):
            call.pop("function", None)

    def _named(self, holder: str, fields: dict[str, Any]) -> dict[str, Any]:
        """The same without members that say nothing."""
        fields = {name: value for name, value in fields.items() if value is not None}
        name, text = fields.pop("name", None), fields.get(_TEXTS[holder], "")
        if holder == "function" and not isinstance(text, str):
            text = fields["arguments"] = msgspec.json.encode(text).decode()
        if isinstance(text, str):
            self.text = self.text or text
        if not isinstance(name, str) or not name:
            return fields
        self.name = self.name or name
        return {"name": name} | fields


class _Call:
    """One call. `identity`: the upstream's id, as soon as it says one. `number`: its index for the
    client, None until it goes out; until then its members are collected in `waiting`."""

    __slots__ = ("identity", "kind", "name", "number", "pieces", "waiting")

    def __init__(self) -> None:
        self.number: int | None = None
        self.identity = ""
        self.kind = ""
        self.name = ""
        self.pieces: list[str] = []  # of its arguments
        self.waiting: dict[str, Any] = {}

    @property
    def is_complete(self) -> bool:
        """It knows its name, or is of a type that has none."""
        return self.name != "" or (self.kind or "function") not in _TEXTS

    @property
    def is_whole(self) -> bool:
        """Its arguments are JSON: more of them would be another call's. Never of a `custom` call,
        whose input is any text."""
        if self.kind == "custom":
            return False
        text = without_surrogates("".join(self.pieces))
        return as_object(decoded(text.encode())) is not None

    def add(self, piece: _Piece) -> dict[str, Any]:
        """The members of `piece` without a name that is known already."""
        members = piece.members
        if self.name:
            members = {
                name: _nameless(value) if name in _TEXTS else value
                for name, value in members.items()
            }
        is_custom = "custom" in members and "function" not in members
        self.identity = self.identity or piece.identity
        self.kind = self.kind or piece.kind or ("custom" if is_custom else "")
        self.name = self.name or piece.name
        self.pieces.append(piece.text)
        return members

    def own(self, members: dict[str, Any]) -> dict[str, Any]:
        """The members that a call of its type has. Some servers write those of all types, empty
        where they are of another one."""
        if self.kind == "function":
            return members if "function" in members else members | {"function": {}}
        function = as_object(members.get("function"))
        if function is None or any(function.values()):
            return members
        return {name: each for name, each in members.items() if name != "function"}

    def is_another(self, piece: _Piece) -> bool:
        """Whether a piece, which seems to go on with this call, begins another one."""
        if not piece.name or not self.name:
            return False
        if piece.name != self.name or (piece.kind and self.kind and piece.kind != self.kind):
            return True
        differs = _differ(self, piece)
        if self.kind == "custom":
            return differs
        # With another id in each piece, arguments that are not whole go on. Two calls without any
        # are two.
        return self.is_whole or (differs and not any(self.pieces) and not piece.text)


def _nameless(fields: Any) -> Any:
    if not isinstance(fields, dict):
        return fields
    members = cast("dict[str, Any]", fields)
    return {name: value for name, value in members.items() if name != "name"}


class ToolCalls:
    """Indices 0..n without gaps, in order of first use; `id`, `type` and `name` sent once, all
    three in the piece that opens the call, as OpenAI sends them and its clients read them.

    The index of a piece says which call it belongs to; where two calls share an index, the id
    does; where there is neither, it belongs to the last call. A new name begins a new call, and a
    piece without a name begins none while its index has one: some servers make up another id for
    each piece.
    """

    __slots__ = ("_at", "_calls", "_ids", "_sent")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}  # the upstream's index -> the call that uses it now
        self._ids: dict[str, _Call] = {}  # each id that the upstream has used -> its call
        self._sent: set[str] = set()  # ids

    @property
    def any_sent(self) -> bool:
        """Whether a call, or the beginning of one, has gone out."""
        return any(each.number is not None for each in self._calls)

    @property
    def is_named(self) -> bool:
        """Every call that has begun knows its name."""
        return all(each.number is not None for each in self._calls)

    def normalize(self, calls: list[Any]) -> list[dict[str, Any]]:
        """The pieces that go out now: a call without a name waits for it."""
        objects = [call for each in calls if (call := as_object(each)) is not None]
        return [piece for call in objects if (piece := self._normalize(_Piece(call))) is not None]

    def forget_unnamed(self) -> None:
        """The upstream that has begun them says no more."""
        self._calls = [each for each in self._calls if each.number is not None]
        self._at = {at: each for at, each in self._at.items() if each.number is not None}
        self._ids = {name: each for name, each in self._ids.items() if each.number is not None}

    def _normalize(self, piece: _Piece) -> dict[str, Any] | None:
        call = self._known(piece)
        if call is None:
            call = _Call()
            self._calls.append(call)
        members = call.add(piece)
        if piece.index is not None:
            self._at[piece.index] = call
        if piece.identity:
            owner = self._ids.get(piece.identity)
            if owner is None or owner.identity != piece.identity:
                self._ids[piece.identity] = call
        if call.number is None:
            merge_call(call.waiting, members)
            return self._opening(call) if call.is_complete else None
        members = call.own(members)
        if all(each in ("", [], {}) for each in members.values()):
            return None
        return {"index": call.number} | members

    def _opening(self, call: _Call) -> dict[str, Any]:
        """The first piece of a call, with all that has come of it."""
        call.number = sum(each.number is not None for each in self._calls)
        call.kind = call.kind or "function"
        members = call.own(to_builtins(call.waiting))
        call.waiting = {}
        if call.kind == "function":
            members["function"].setdefault("arguments", "")
        head = {"index": call.number, "id": self._new_id(call.identity), "type": call.kind}
        return head | members

    def _new_id(self, identity: str) -> str:
        """Theirs, unless another call has it."""
        if not identity or identity in self._sent:
            identity = f"call_{secrets.token_hex(12)}"
        self._sent.add(identity)
        return identity

    def _known(self, piece: _Piece) -> _Call | None:
        """The call that a piece goes on with, or None where it begins a new one."""
        here = self._at.get(piece.index) if piece.index is not None else None
        same = self._ids.get(piece.identity) if piece.identity else None
        if same is not None and same is not here and (here is None or _differ(here, piece)):
            # At another index than before, or at one that another call has used since.
            is_new = same.is_another(piece)
            if here is None:
                is_new = piece.index is not None and piece.name != ""
            return None if is_new else same
        if here is None and piece.index is None and self._calls:
            here = self._calls[-1]
            if same is None and _differ(here, piece) and _begins(here, piece):
                return None
        return None if here is not None and here.is_another(piece) else here


def _differ(call: _Call, piece: _Piece) -> bool:
    """Whether both have an id, and not the same one."""
    return bool(call.identity and piece.identity) and call.identity != piece.identity


def _begins(last: _Call, piece: _Piece) -> bool:
    """Whether a piece without a name and without an index, but with a new id, begins a call behind
    `last`. Where it brings arguments and those of `last` are not whole, it goes on with them."""
    return not piece.name and (not piece.text or last.is_whole)
