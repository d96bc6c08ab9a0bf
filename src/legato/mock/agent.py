"""The script `agent`: calls a shell tool of the request, then repeats a part of its result.

The request is read by its shape, not by its path: programs send tools in the shape of one API to
the path of another.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from legato.core.chunk import as_object
from legato.mock.steps import Step

#: Names of tools that run a command, in lower case.
SHELLS: Final = frozenset(
    {
        "bash",
        "shell",
        "shell_command",
        "exec",
        "exec_command",
        "execute_command",
        "local_shell",
        "run_command",
        "run_in_terminal",
        "run_shell_command",
        "run_terminal_cmd",
        "terminal",
    }
)

#: The command that the tool is called with: it changes nothing.
COMMAND: Final = "echo legato-mock"

#: Characters of a tool's result that the answer repeats.
REPEATED: Final = 200

_COMMANDS: Final = frozenset({"command", "cmd", "commands", "script", "input", "code"})
_RESULTS: Final = frozenset(
    {
        "tool_result",
        "function_call_output",
        "custom_tool_call_output",
        "local_shell_call_output",
        "shell_call_output",
    }
)
_USAGE: Final = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


class _Tool(Struct):
    name: str
    kind: str  # "function", "custom", "local_shell" or "shell"
    schema: dict[str, Any] = field(default_factory=dict[str, Any])
    namespace: str | None = None


def steps(request: dict[str, Any]) -> list[Step]:
    """The answer to a request: a call of its first shell tool, or text."""
    result = tool_result(request)
    if result is not None:
        return _text(f"The tool answered: {result[:REPEATED]}")
    tools = _tools(request.get("tools"))
    for tool in tools:
        if tool.name.lower() in SHELLS:
            return [_call(tool), *_end("tool_calls")]
    return _text("No tool of the request runs a command.")


def tool_result(request: dict[str, Any]) -> str | None:
    """The text of the last tool result in a request; None if it has none."""
    found: str | None = None
    for message in _objects(request.get("messages")):
        if message.get("role") == "tool":
            found = _text_of(message.get("content"))
        for part in _objects(message.get("content")):
            if part.get("type") in _RESULTS:
                found = _text_of(part.get("content"))
    for item in _objects(request.get("input")):
        if item.get("type") in _RESULTS:
            found = _text_of(item.get("output"))
    return found


def arguments(schema: dict[str, Any]) -> dict[str, Any]:
    """Arguments that a tool's JSON schema allows: its required members, and its command."""
    members = as_object(schema.get("properties")) or {}
    if not members:
        return {"command": COMMAND}  # a tool of the vendor's, whose arguments are known
    required = schema.get("required")
    wanted = [str(each) for each in required] if isinstance(required, list) else []
    if not any(name in _COMMANDS for name in wanted):
        wanted += [name for name in members if name in _COMMANDS][:1]
    return {name: _value(name, as_object(members.get(name)) or {}) for name in wanted}


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    for each in value if isinstance(value, list) else ():
        if (found := as_object(each)) is not None:
            yield found


def _text_of(value: Any) -> str:
    """Text, or the text of parts; anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(str(part.get("text") or "") for part in _objects(value))
    return "" if value is None else msgspec.json.encode(value).decode()


def _tools(value: Any, namespace: str | None = None) -> Iterator[_Tool]:
    for tool in _objects(value):
        kind = str(tool.get("type") or "function")
        if kind == "namespace":
            yield from _tools(tool.get("tools"), str(tool.get("name")))
        elif kind in {"local_shell", "shell"}:
            yield _Tool(kind, kind)
        else:
            inner = as_object(tool.get("function")) or as_object(tool.get("custom")) or tool
            schema = as_object(inner.get("parameters", inner.get("input_schema")))
            # Anthropic's tools may be called `custom` as well, but have a schema.
            custom = "custom" if kind == "custom" and schema is None else "function"
            yield _Tool(str(inner.get("name")), custom, schema or {}, namespace)


def _call(tool: _Tool) -> Step:
    if tool.kind in {"local_shell", "shell"}:
        item: dict[str, Any] = {"type": f"{tool.kind}_call", "call_id": "call_agent"}
        if tool.kind == "shell":
            action: dict[str, Any] = {"commands": [COMMAND]}
        else:
            action = {"type": "exec", "command": COMMAND.split(), "env": {}}
        return Step(item=item | {"action": action, "status": "completed"})
    entry: dict[str, Any] = {"index": 0, "id": "call_agent", "type": tool.kind}
    if tool.kind == "custom":
        entry["custom"] = {"name": tool.name, "input": COMMAND}
    else:
        encoded = msgspec.json.encode(arguments(tool.schema)).decode()
        entry["function"] = {"name": tool.name, "arguments": encoded}
        if tool.namespace is not None:
            entry["function"]["namespace"] = tool.namespace
    return Step(tool=entry)


def _value(name: str, schema: dict[str, Any]) -> Any:
    """A value that `schema` allows for the member `name`."""
    if "const" in schema:
        return schema["const"]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return _value(name, as_object(choices[0]) or {})
    if schema.get("enum"):
        return schema["enum"][0]
    kinds = schema.get("type")
    return _of_kind(name, str(kinds[0] if isinstance(kinds, list) else kinds), schema)


def _of_kind(name: str, kind: str, schema: dict[str, Any]) -> Any:
    match kind:
        case "array" if name in _COMMANDS:
            return COMMAND.split()
        case "array":
            return [_value("", as_object(schema.get("items")) or {})] * schema.get("minItems", 0)
        case "object":
            return arguments(schema) if schema.get("properties") else {}
        case "boolean":
            return False
        case "integer" | "number":
            return schema.get("minimum", 10_000 if "timeout" in name else 1)
        case "null":
            return None
        case _:
            return COMMAND if name in _COMMANDS else "A harmless test."


def _text(text: str) -> list[Step]:
    words: Iterable[str] = text.split(" ")
    first, *rest = words
    return [Step(say=first), *(Step(say=f" {word}") for word in rest), *_end("stop")]


def _end(reason: str) -> list[Step]:
    return [Step(finish=reason), Step(usage=dict(_USAGE)), Step(done=True)]
