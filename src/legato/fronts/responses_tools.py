"""Tools of a Responses request as functions of a Chat Completions request, and the way back.

- `function`: a function
- `custom`, which takes any text: a function with one string, `input`; its grammar is in the
  description
- `namespace`: each of its tools is a function `namespace__name`
- tools that OpenAI runs itself (`web_search`, …) have no equivalent and are left out
"""

import hashlib
import re
from typing import Any, Final, cast

from msgspec import Struct

from legato.core.chunk import as_object
from legato.core.errors import ApiError, invalid

Fields = dict[str, Any]

#: The one parameter of the function that stands for a custom tool.
INPUT: Final = "input"

#: What the name of a function may consist of, and how long it may be.
_OTHERS: Final = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST: Final = 64

_JOINT: Final = "__"

#: Values of `tool_choice` that are the same in both formats.
_MODES: Final = ("auto", "none", "required")


class ToolName(Struct, frozen=True):
    """A tool as the client knows it. `namespace` empty: it is in none."""

    kind: str
    namespace: str
    name: str

    @property
    def is_custom(self) -> bool:
        return self.kind == "custom"


class ToolNames:
    """Which function stands for which tool, both ways."""

    __slots__ = ("_functions", "_tools")

    def __init__(self) -> None:
        self._functions: dict[tuple[str, str], str] = {}
        self._tools: dict[str, ToolName] = {}

    def __contains__(self, tool: ToolName) -> bool:
        """Whether the name is taken, by a tool of any type."""
        return (tool.namespace, tool.name) in self._functions

    def add(self, tool: ToolName) -> str:
        """The name of the function that stands for `tool`: always the same one for the same
        tools."""
        known = self._functions.get((tool.namespace, tool.name))
        if known is not None:
            return known
        name = _function_name(tool, self._tools)
        self._functions[tool.namespace, tool.name] = name
        self._tools[name] = tool
        return name

    def find(self, namespace: str, name: str) -> str | None:
        """The function of a tool, where there is such a tool. A tool of a namespace may be named
        without it."""
        found = self._functions.get((namespace, name))
        if found is not None or namespace:
            return found
        named = [each for (_, own), each in self._functions.items() if own == name]
        return named[0] if len(named) == 1 else None

    def within(self, namespace: str) -> list[str]:
        """The functions of all tools of a namespace."""
        return [each for (own, _), each in self._functions.items() if own == namespace]

    def tool(self, function: str) -> ToolName:
        """The tool that a function stands for. A model may call one that does not exist."""
        return self._tools.get(function) or ToolName("function", "", function)


def _function_name(tool: ToolName, taken: dict[str, ToolName]) -> str:
    """A legal name that no other tool has."""
    whole = f"{tool.namespace}{_JOINT}{tool.name}" if tool.namespace else tool.name
    name = _OTHERS.sub("_", whole) or "_"
    if len(name) <= _LONGEST and name not in taken:
        return name
    for attempt in range(len(taken) + 1):
        digest = hashlib.sha256(f"{tool.namespace}\0{tool.name}\0{attempt}".encode()).hexdigest()
        unique = f"{name[: _LONGEST - 9]}_{digest[:8]}"
        if unique not in taken:
            return unique
    raise AssertionError("more names are taken than there are tools")


class Tools(Struct):
    """`functions`: as Chat Completions has them. `hosted`: the types of those that were left
    out. `beyond`: the 400 for one of these that `tool_choice` demands: only an upstream that speaks
    Responses may have it."""

    names: ToolNames
    functions: list[Fields]
    hosted: list[str]
    beyond: ApiError | None = None


def read_tools(tools: list[Any] | None) -> Tools:
    """Raises `ApiError` 400 for a tool without the members that its type needs."""
    result = Tools(ToolNames(), [], [])
    for index, tool in enumerate(tools or ()):
        _read_tool(result, tool, f"tools[{index}]", "")
    return result


def _read_tool(result: Tools, value: Any, where: str, namespace: str) -> None:
    tool = as_object(value)
    if tool is None or not isinstance(tool.get("type"), str):
        raise _missing(f"{where}.type")
    match tool["type"]:
        case "function":
            _add(result, tool, where, namespace, _function(tool, where))
        case "custom":
            _add(result, tool, where, namespace, _custom(tool))
        case "namespace":
            name = _name(tool, where)
            inner = tool.get("tools")
            if not isinstance(inner, list):
                raise _missing(f"{where}.tools")
            for index, each in enumerate(cast("list[Any]", inner)):
                _read_tool(result, each, f"{where}.tools[{index}]", name)
        case kind:
            result.hosted.append(kind)


def _add(result: Tools, tool: Fields, where: str, namespace: str, function: Fields) -> None:
    name = ToolName(tool["type"], namespace, _name(tool, where))
    if name in result.names:
        raise invalid(
            f"`{where}.name`: there are two tools `{name.name}`.",
            param=f"{where}.name",
            code="invalid_value",
        )
    function = {"name": result.names.add(name)} | function
    result.functions.append({"type": "function", "function": function})


def _name(tool: Fields, where: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise _missing(f"{where}.name")
    return name


def _missing(param: str) -> ApiError:
    return invalid(f"`{param}` is required.", param=param, code="missing_required_parameter")


def _function(tool: Fields, where: str) -> Fields:
    parameters = tool.get("parameters")
    if parameters is not None and as_object(parameters) is None:
        param = f"{where}.parameters"
        raise invalid(f"`{param}` is not an object.", param=param, code="invalid_value")
    fields = {name: tool.get(name) for name in ("description", "parameters", "strict")}
    return {name: value for name, value in fields.items() if value is not None}


def _custom(tool: Fields) -> Fields:
    """The grammar cannot be enforced by another upstream; the model is told of it."""
    form = as_object(tool.get("format")) or {}
    described = [str(tool["description"])] if tool.get("description") else []
    definition = form.get("definition")
    if form.get("type") == "grammar" and isinstance(definition, str):
        syntax = form.get("syntax")
        kind = f" ({syntax})" if isinstance(syntax, str) else ""
        described.append(f"`{INPUT}` has to follow this grammar{kind}:\n{definition}")
    parameters = {
        "type": "object",
        "properties": {INPUT: {"type": "string", "description": "The whole input, as plain text."}},
        "required": [INPUT],
        "additionalProperties": False,
    }
    return {"description": "\n\n".join(described), "parameters": parameters}


# The choice


def apply_choice(tools: Tools, choice: Any) -> Fields:
    """`tools` and `tool_choice` of the Chat Completions request; neither where no tool is left.
    Sets `tools.beyond`.

    Raises `ApiError` 400 for a tool that is demanded and is not there.
    """
    functions = tools.functions
    chosen = as_object(choice)
    if chosen is not None and chosen.get("type") == "allowed_tools":
        functions, choice = _allowed(tools, chosen)
    elif chosen is not None:
        choice = _named(tools, chosen, "tool_choice")
    elif choice is not None and choice not in _MODES:
        raise _no_choice("tool_choice", choice)
    if functions:
        return {"tools": functions} | ({} if choice is None else {"tool_choice": choice})
    if choice == "required" and tools.hosted:
        tools.beyond = tools.beyond or _unsupported(tools.hosted[0])
    elif choice == "required":
        raise invalid(
            "`tool_choice` `required` is only allowed with `tools`.",
            param="tool_choice",
            code="invalid_value",
        )
    return {}


def _no_choice(param: str, choice: Any) -> ApiError:
    return invalid(
        f"`{param}` `{str(choice)[:100]}` is none of `auto`, `none`, `required` and an object.",
        param=param,
        code="invalid_value",
    )


def _unsupported(kind: str) -> ApiError:
    return invalid(
        f"`tool_choice` demands the tool `{kind[:100]}`, which the upstream does not have.",
        param="tool_choice",
        code="unsupported_parameter",
    )


def _named(tools: Tools, chosen: Fields, where: str) -> Fields | None:
    """The choice of one tool; None where it is hosted. Raises `ApiError` where it is unknown."""
    kind, name = chosen.get("type"), chosen.get("name")
    if not isinstance(kind, str):
        raise _missing(f"{where}.type")
    if kind not in ("function", "custom"):
        tools.beyond = _unsupported(kind)
        return None
    if not isinstance(name, str):
        raise _missing(f"{where}.name")
    namespace = chosen.get("namespace")
    function = tools.names.find(namespace if isinstance(namespace, str) else "", name)
    if function is None:
        raise invalid(
            f"`{where}` names `{name[:100]}`, which is not one of `tools`.",
            param="tool_choice",
            code="invalid_value",
        )
    return {"type": "function", "function": {"name": function}}


def _allowed(tools: Tools, chosen: Fields) -> tuple[list[Fields], str]:
    """A part of the tools, in the order of the request. Hosted ones are left out as ever."""
    mode, wanted = chosen.get("mode", "auto"), chosen.get("tools")
    if mode not in ("auto", "required"):
        raise _no_choice("tool_choice.mode", mode)
    if not isinstance(wanted, list):
        raise _missing("tool_choice.tools")
    names: set[str] = set()
    hosted: list[str] = []
    for index, each in enumerate(cast("list[Any]", wanted)):
        fields = as_object(each) or {}
        if fields.get("type") in ("function", "custom"):
            named = _named(tools, fields, f"tool_choice.tools[{index}]")
            names.update([named["function"]["name"]] if named is not None else [])
        elif fields.get("type") == "namespace":
            names.update(tools.names.within(_name(fields, f"tool_choice.tools[{index}]")))
        else:
            hosted.append(str(fields.get("type")))
    left = [each for each in tools.functions if each["function"]["name"] in names]
    if not left and hosted and mode == "required":
        tools.beyond = _unsupported(hosted[0])
        mode = "auto"
    return left, mode
