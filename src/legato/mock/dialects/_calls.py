"""Collects tool calls for dialects that send each call in one piece."""

from typing import Any

import msgspec
from msgspec import Struct

from legato.core.chunk import as_object


class ToolCall(Struct):
    name: str
    identity: str | None
    arguments: str = ""

    def parsed_arguments(self) -> dict[str, Any]:
        """The arguments; empty if they are not a JSON object."""
        try:
            return as_object(msgspec.json.decode(self.arguments)) or {}
        except msgspec.DecodeError:
            return {}


class ToolCallCollector:
    """Joins entries of OpenAI's `delta.tool_calls` to complete calls."""

    def __init__(self) -> None:
        self._calls: list[ToolCall] = []

    def add(self, entry: dict[str, Any]) -> None:
        function = entry.get("function") or {}
        name, identity = function.get("name"), entry.get("id")
        last = self._calls[-1] if self._calls else None
        if last is None or (identity != last.identity if identity else bool(name)):
            last = ToolCall(str(name), identity)
            self._calls.append(last)
        last.arguments += arguments_text(function)

    def take(self) -> list[ToolCall]:
        """The calls so far; the collector is empty afterwards."""
        taken, self._calls = self._calls, []
        return taken


def arguments_text(function: dict[str, Any]) -> str:
    """A function's arguments as text: scripts may also give them as an object."""
    arguments = function.get("arguments") or ""
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
