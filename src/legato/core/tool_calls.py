"""Tool calls of one choice, whatever an upstream does with their indices and ids (contract, 2)."""

import secrets
from typing import Any

import msgspec

from legato.core.chunk import as_object, decoded


class _Call:
    """One call. `identity`: the upstream's id, as soon as it says one. `number`: its index for the
    client, None until it goes out; until then `piece` and `function` have its further members."""

    __slots__ = ("arguments", "function", "identity", "kind", "name", "number", "piece")

    def __init__(self, identity: str | None, kind: str) -> None:
        self.number: int | None = None
        self.identity = identity
        self.kind = kind
        self.name = ""
        self.arguments: list[str] = []
        self.piece: dict[str, Any] = {}
        self.function: dict[str, Any] = {}

    @property
    def is_whole(self) -> bool:
        return as_object(decoded("".join(self.arguments).encode())) is not None


class ToolCalls:
    """Indices 0..n without holes, in order of first use; `id`, `type` and `name` sent once, all
    three in the piece that opens the call, as OpenAI sends them and its clients read them.

    To which call a piece belongs its index says, and where two calls share one, its id; where there
    is neither, it goes on with the last one. A new name begins a new call.
    """

    __slots__ = ("_at", "_calls", "_sent")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}  # the upstream's index -> the call that uses it now
        self._sent: set[str] = set()  # ids

    @property
    def is_named(self) -> bool:
        """Every call that has begun has said what it calls."""
        return all(each.number is not None for each in self._calls)

    def normalize(self, calls: list[Any]) -> list[dict[str, Any]]:
        """The pieces that go out now: a call without a name waits for it."""
        objects = [call for each in calls if (call := as_object(each)) is not None]
        return [piece for call in objects if (piece := self._normalize(dict(call))) is not None]

    def forget_unnamed(self) -> None:
        """The upstream that has begun them says no more."""
        self._calls = [each for each in self._calls if each.number is not None]
        self._at = {at: each for at, each in self._at.items() if each.number is not None}

    def _normalize(self, piece: dict[str, Any]) -> dict[str, Any] | None:
        theirs = piece.pop("index", None)
        theirs = theirs if isinstance(theirs, int) else None
        identity = piece.pop("id", None)
        identity = identity if isinstance(identity, str) and identity else None
        kind = piece.pop("type", None)
        function = dict(as_object(piece.pop("function", None)) or {})
        name = function.pop("name", None)
        name = name if isinstance(name, str) else ""
        arguments = function.get("arguments")
        if arguments is None:
            function.pop("arguments", None)
        elif not isinstance(arguments, str):
            function["arguments"] = msgspec.json.encode(arguments).decode()
        call = self._known(theirs, identity, name)
        if call is None:
            call = _Call(identity, kind if isinstance(kind, str) else "function")
            self._calls.append(call)
        call.identity = call.identity or identity
        call.name = call.name or name
        call.arguments.append(function.get("arguments", ""))
        if theirs is not None:
            self._at[theirs] = call
        if call.number is not None:
            return {"index": call.number} | piece | {"function": function}
        call.piece |= piece
        call.function |= function
        return self._opening(call) if call.name or call.kind != "function" else None

    def _opening(self, call: _Call) -> dict[str, Any]:
        """The first piece of a call, with all that has been said of it."""
        call.number = sum(each.number is not None for each in self._calls)
        named = {"name": call.name} if call.name else {}
        function = named | call.function | {"arguments": "".join(call.arguments)}
        head = {"index": call.number, "id": self._new_id(call.identity), "type": call.kind}
        return head | call.piece | {"function": function}

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
