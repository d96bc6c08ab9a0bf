"""Tool calls of one choice, whatever an upstream does with their indices and ids (contract, 2)."""

import secrets
from typing import Any

import msgspec

from legato.core.chunk import as_object, decoded


class _Call:
    """One call as it has gone out. `identity`: the upstream's id, as soon as it says one."""

    __slots__ = ("arguments", "identity", "name", "number")

    def __init__(self, number: int, identity: str | None) -> None:
        self.number = number
        self.identity = identity
        self.name = ""
        self.arguments: list[str] = []

    @property
    def is_whole(self) -> bool:
        return as_object(decoded("".join(self.arguments).encode())) is not None


class ToolCalls:
    """Indices 0..n without holes, in order of first use; `id`, `type` and `name` sent once.

    To which call a piece belongs its index says, and where two calls share one, its id; where there
    is neither, it goes on with the last one. A new name begins a new call.
    """

    __slots__ = ("_at", "_calls", "_sent")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}  # the upstream's index -> the call that uses it now
        self._sent: set[str] = set()  # ids

    def mend(self, calls: list[Any]) -> list[dict[str, Any]]:
        return [self._mend(dict(call)) for each in calls if (call := as_object(each)) is not None]

    def _mend(self, piece: dict[str, Any]) -> dict[str, Any]:
        theirs = piece.get("index")
        theirs = theirs if isinstance(theirs, int) else None
        identity = piece.get("id")
        identity = identity if isinstance(identity, str) and identity else None
        function = dict(as_object(piece.get("function")) or {})
        name = function.pop("name", None)
        name = name if isinstance(name, str) else ""
        arguments = function.get("arguments")
        if arguments is None:
            function.pop("arguments", None)
        elif not isinstance(arguments, str):
            function["arguments"] = msgspec.json.encode(arguments).decode()
        call = self._known(theirs, identity, name)
        kind = piece.pop("type", None)
        piece.pop("id", None)
        if call is None:
            call = _Call(len(self._calls), identity)
            self._calls.append(call)
            function.setdefault("arguments", "")
            piece |= {"id": self._new_id(identity), "type": kind if isinstance(kind, str) else None}
            piece["type"] = piece["type"] or "function"
        call.identity = call.identity or identity
        call.arguments.append(function.get("arguments", ""))
        if name and not call.name:
            call.name = name
            function = {"name": name} | function
        if theirs is not None:
            self._at[theirs] = call
        return {"index": call.number} | piece | {"index": call.number, "function": function}

    def _new_id(self, identity: str | None) -> str:
        """Theirs, unless another call has it."""
        if identity is None or identity in self._sent:
            identity = f"call_{secrets.token_hex(12)}"
        self._sent.add(identity)
        return identity

    def _known(self, theirs: int | None, identity: str | None, name: str) -> _Call | None:
        """The call that a piece goes on with, or None where it begins a new one."""
        here = self._at.get(theirs) if theirs is not None else None
        if identity is not None and (here is None or here.identity not in (None, identity)):
            # At another index than before, or at one that has been used by another call.
            same = next((each for each in self._calls if each.identity == identity), None)
            elsewhere = same is not None and theirs is not None and name != ""
            return None if elsewhere else same
        if here is None and theirs is None and self._calls:
            here = self._calls[-1]
        return None if here is not None and _is_another(here, name) else here


def _is_another(call: _Call, name: str) -> bool:
    """Whether a piece with this name is of another call than `call`, which it seems to go on."""
    return bool(name and call.name and (name != call.name or call.is_whole))
