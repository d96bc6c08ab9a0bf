"""Tool calls for voices whose dialect says them whole."""

from typing import Any

import msgspec
from msgspec import Struct

from legato.core.chunk import as_object


class Call(Struct):
    name: str
    identity: str | None
    arguments: str = ""

    def given(self) -> dict[str, Any]:
        """The arguments; what is no object in JSON is none."""
        try:
            return as_object(msgspec.json.decode(self.arguments)) or {}
        except msgspec.DecodeError:
            return {}


class Calls:
    """Pieces of OpenAI's `delta.tool_calls`, gathered until something else is said."""

    def __init__(self) -> None:
        self._calls: list[Call] = []

    def add(self, tool: dict[str, Any]) -> None:
        function = tool.get("function") or {}
        name, identity = function.get("name"), tool.get("id")
        last = self._calls[-1] if self._calls else None
        if last is None or (identity != last.identity if identity else bool(name)):
            last = Call(str(name), identity)
            self._calls.append(last)
        said = function.get("arguments") or ""
        last.arguments += said if isinstance(said, str) else msgspec.json.encode(said).decode()

    def take(self) -> list[Call]:
        taken, self._calls = self._calls, []
        return taken
