"""The script `agent`: which tool it calls, with which arguments, what it makes of the result."""

import json
from typing import Any

import jsonschema
import pytest

from legato.mock.agent import COMMAND, arguments, steps, tool_result
from legato.mock.server import MockServer
from tests.support.played import PATHS, Json, meaning, play

SCHEMA: Json = {
    "type": "object",
    "properties": {"command": {"type": "string"}, "description": {"type": "string"}},
    "required": ["command", "description"],
    "additionalProperties": False,
}
ARGUMENTS = {"command": COMMAND, "description": "A harmless test."}


def chat_tool(name: str) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA}}


#: The same tools in the shape of each format: the second one runs a command.
TOOLS: dict[str, list[Json]] = {
    "openai": [chat_tool("read_file"), chat_tool("run_shell_command")],
    "anthropic": [
        {"name": "Read", "input_schema": SCHEMA},
        {"name": "Bash", "type": "custom", "input_schema": SCHEMA},
    ],
    "openai-responses": [
        {"type": "function", "name": "view_image", "parameters": SCHEMA},
        {"type": "function", "name": "exec_command", "parameters": SCHEMA},
        {"type": "web_search"},
    ],
}

#: A conversation whose tool has answered.
ANSWERED: dict[str, Json] = {
    "openai": {"messages": [{"role": "tool", "tool_call_id": "call_agent", "content": "hi there"}]},
    "anthropic": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "call_agent",
                        "content": [{"type": "text", "text": "hi there"}],
                    },
                    {"type": "text", "text": "<system-reminder>go on</system-reminder>"},
                ],
            }
        ]
    },
    "openai-responses": {
        "input": [
            {"type": "function_call_output", "call_id": "call_agent", "output": "hi there"},
        ]
    },
}


@pytest.mark.parametrize("dialect", PATHS)
async def test_it_calls_a_shell_and_repeats_its_result(scripted: MockServer, dialect: str) -> None:
    await scripted.start()
    played = await play(scripted, "agent", dialect, stream=True, tools=TOOLS[dialect])
    found = meaning(played, dialect)
    ((name, encoded),) = found.calls
    assert name in {"run_shell_command", "Bash", "exec_command"}
    assert json.loads(encoded) == ARGUMENTS
    assert found.finish == "tool_calls"
    asked: Json = {"tools": TOOLS[dialect]} | ANSWERED[dialect]
    played = await play(scripted, "agent", dialect, stream=True, **asked)
    found = meaning(played, dialect)
    assert (found.text, found.calls, found.finish) == ("The tool answered: hi there", (), "stop")


@pytest.mark.parametrize("tools", [None, [], [chat_tool("read_file")], "nonsense", [3]])
def test_without_a_shell_it_answers_with_text(tools: Any) -> None:
    text = "".join(each.say or "" for each in steps({"tools": tools}))
    assert text == "No tool of the request runs a command."


#: case: schema, arguments
SCHEMAS: dict[str, tuple[Json, Json]] = {
    "a list of words": (
        {"properties": {"command": {"type": "array", "items": {"type": "string"}}}},
        {"command": COMMAND.split()},
    ),
    "what is not required is left out": (
        {
            "properties": {"cmd": {"type": "string"}, "workdir": {"type": "string"}},
            "required": ["cmd"],
        },
        {"cmd": COMMAND},
    ),
    "other types": (
        {
            "properties": {
                "command": {"type": ["string", "null"]},
                "is_background": {"type": "boolean"},
                "timeout_ms": {"type": "integer"},
                "count": {"type": "number", "minimum": 3},
                "mode": {"enum": ["fast", "slow"]},
                "kind": {"const": "shell"},
                "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "paths": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                "env": {"type": "object"},
                "more": {"type": "object", "properties": {"a": {}}, "required": ["a"]},
            },
            "required": [
                *("command", "is_background", "timeout_ms", "count", "mode", "kind", "either"),
                *("paths", "env", "more"),
            ],
        },
        {
            "command": COMMAND,
            "is_background": False,
            "timeout_ms": 10_000,
            "count": 3,
            "mode": "fast",
            "kind": "shell",
            "either": 1,
            "paths": ["A harmless test."],
            "env": {},
            "more": {"a": "A harmless test."},
        },
    ),
    "none": ({}, {"command": COMMAND}),
}


@pytest.mark.parametrize("case", SCHEMAS)
def test_the_arguments_fit_the_schema(case: str) -> None:
    schema, expected = SCHEMAS[case]
    assert arguments(schema) == expected
    jsonschema.validate(expected, {"type": "object"} | schema)


#: case: a tool of the Responses API, the item that calls it
ITEMS: dict[str, tuple[Json, Json]] = {
    "custom": (
        {"type": "custom", "name": "shell"},
        {"type": "custom_tool_call", "name": "shell", "input": COMMAND},
    ),
    "namespace": (
        {
            "type": "namespace",
            "name": "box",
            "tools": [{"type": "function", "name": "bash", "parameters": SCHEMA}],
        },
        {
            "type": "function_call",
            "namespace": "box",
            "name": "bash",
            "arguments": json.dumps(ARGUMENTS, separators=(",", ":")),
        },
    ),
    "local_shell": (
        {"type": "local_shell"},
        {
            "type": "local_shell_call",
            "action": {"type": "exec", "command": COMMAND.split(), "env": {}},
        },
    ),
}


@pytest.mark.parametrize("case", ITEMS)
@pytest.mark.parametrize("stream", [True, False])
async def test_tools_of_other_types(scripted: MockServer, case: str, stream: bool) -> None:
    await scripted.start()
    tool, expected = ITEMS[case]
    played = await play(scripted, "agent", "openai-responses", tools=[tool], stream=stream)
    response = played.events[-1]["response"] if stream else played.json
    (item,) = response["output"]
    assert item | expected == item
    assert (item["call_id"], item["status"]) == ("call_agent", "completed")


#: case: request, text
RESULTS: dict[str, tuple[Json, str | None]] = {
    "none": ({"messages": [{"role": "user", "content": "x"}], "input": "x"}, None),
    "the last": (
        {"messages": [{"role": "tool", "content": "a"}, {"role": "tool", "content": "b"}]},
        "b",
    ),
    "parts": (
        {"messages": [{"role": "tool", "content": [{"type": "text", "text": "a"}]}]},
        "a",
    ),
    "an object": ({"input": [{"type": "function_call_output", "output": {"a": 1}}]}, '{"a":1}'),
    "nothing": ({"input": [{"type": "function_call_output"}]}, ""),
}


@pytest.mark.parametrize("case", RESULTS)
def test_the_result_of_a_tool(case: str) -> None:
    request, text = RESULTS[case]
    assert tool_result(request) == text
