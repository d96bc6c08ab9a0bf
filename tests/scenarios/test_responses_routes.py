"""Responses clients in front of routes: another deployment goes on, and a request of the shape that
a coding agent sends."""

import json
from pathlib import Path
from typing import Any

import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from tests.conftest import serving, settings_for
from tests.gateway.test_fallback import REST, TEXT, routed
from tests.support.responses_order import Told, check_response
from tests.support.wire import ask

Json = dict[str, Any]

PATH = "/v1/responses"

# Another deployment goes on


@pytest.mark.parametrize("stream", [True, False])
async def test_another_deployment_goes_on(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    scripted.scripts["rest"] = REST
    deploy = {"rest": {"continue": "prefill"}}
    async with routed(tmp_path, scripted, ["cut", "rest"], deploy=deploy) as legato:
        body = {"model": "public", "input": "Hello", "stream": stream, "max_output_tokens": 50}
        answer = await ask(legato.port, legato.key, body, path=PATH)
        if stream:
            told = Told(answer.body)
            assert [each["type"] for each in told.response["output"]] == ["message"]
            text = told.text
        else:
            text = check_response(answer.json)["output"][0]["content"][0]["text"]
        assert text == TEXT + " And on."
        sent = scripted.requests[-1].request
        assert sent["messages"][-1] == {"role": "assistant", "content": TEXT}
        assert sent["max_completion_tokens"] == 40
        (row,) = await legato.rows()
        assert row["outcome"] == "complete"


async def test_another_is_asked_before_the_first_token(
    tmp_path: Path, scripted: MockServer
) -> None:
    async with routed(tmp_path, scripted, ["cut-early", "happy"]) as legato:
        body = {"model": "public", "input": "Hello", "stream": True}
        answer = await ask(legato.port, legato.key, body, path=PATH)
        assert Told(answer.body).text == TEXT


# A coding agent


def agent_request(model: str) -> Json:
    """The members and tools that Codex sends, in words of our own."""
    grammar = "start: begin hunk+ end\nbegin: /\\*\\*\\* Begin Patch\\n/"
    shell = {
        "type": "object",
        "properties": {"cmd": {"type": "string"}, "workdir": {"type": "string"}},
        "required": ["cmd"],
        "additionalProperties": False,
    }
    page = {"type": "object", "properties": {"url": {"type": "string"}}}
    thought = {"type": "summary_text", "text": "Look at the files first."}
    return {
        "model": model,
        "input": [
            {
                "type": "message",
                "role": "developer",
                "content": [
                    {"type": "input_text", "text": "You are a coding agent."},
                    {"type": "input_text", "text": "The sandbox is read-only."},
                ],
            },
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "Fix the test."}],
            },
            {"type": "reasoning", "summary": [thought], "encrypted_content": None},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "I look."}],
            },
            {
                "type": "function_call",
                "name": "exec_command",
                "arguments": '{"cmd":"ls"}',
                "call_id": "call_ls",
            },
            {
                "type": "custom_tool_call",
                "name": "apply_patch",
                "input": "*** Begin Patch\n",
                "call_id": "call_patch",
                "status": "completed",
            },
            {"type": "function_call_output", "call_id": "call_ls", "output": "a.py\n"},
            {"type": "custom_tool_call_output", "call_id": "call_patch", "output": "Done."},
            {
                "type": "function_call",
                "namespace": "browser",
                "name": "open",
                "arguments": '{"url":"http://127.0.0.1"}',
                "call_id": "call_open",
            },
        ],
        "tools": [
            {
                "type": "function",
                "name": "exec_command",
                "description": "Runs a command.",
                "strict": False,
                "parameters": shell,
            },
            {
                "type": "custom",
                "name": "apply_patch",
                "description": "Edits files.",
                "format": {"type": "grammar", "syntax": "lark", "definition": grammar},
            },
            {
                "type": "namespace",
                "name": "browser",
                "description": "A browser.",
                "tools": [
                    {"type": "function", "name": "open", "strict": False, "parameters": page}
                ],
            },
            {"type": "web_search", "external_web_access": False},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199-a",
        "text": {"verbosity": "low"},
        "client_metadata": {"installation": "x"},
    }


def agent_script() -> Script:
    calls = [
        ("exec_command", '{"cmd":"ls"}'),
        ("apply_patch", json.dumps({"input": "*** Begin Patch\n*** End Patch"})),
        ("browser__open", "{}"),
    ]
    steps = [Step(think="Three calls.")]
    for index, (name, arguments) in enumerate(calls):
        head = {"index": index, "id": f"call_{name}", "type": "function"}
        steps.append(Step(tool=head | {"function": {"name": name, "arguments": ""}}))
        for at in range(0, len(arguments), 5):
            piece = {"arguments": arguments[at : at + 5]}
            steps.append(Step(tool={"index": index, "function": piece}))
    return Script(steps=[*steps, *SCRIPTS["tools"].steps[-3:]])


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini", "ollama"])
async def test_a_coding_agent(tmp_path: Path, scripted: MockServer, dialect: str) -> None:
    scripted.scripts["agent"] = agent_script()
    base = await scripted.start()
    upstream = base if dialect == "openai" else base.removesuffix("/v1")
    body = agent_request("agent")
    settings = settings_for(tmp_path, upstream, ["agent"], deploy={"dialect": dialect})
    async with serving(settings) as legato:
        answer = await ask(legato.port, legato.key, body, path=PATH)
    told = Told(answer.body)
    assert told.reasoning == "Three calls."
    calls = [each for each in told.done if each["type"] != "reasoning"]
    assert [(each["type"], each["name"], each.get("namespace")) for each in calls] == [
        ("function_call", "exec_command", None),
        ("custom_tool_call", "apply_patch", None),
        ("function_call", "open", "browser"),
    ]
    assert calls[1]["input"] == "*** Begin Patch\n*** End Patch"
    assert told.response["tools"] == body["tools"]
    assert told.response["usage"]["input_tokens_details"]["cached_tokens"] >= 0
    if dialect == "openai":
        check_agents_chat(scripted.requests[-1].request)


def check_agents_chat(sent: Json) -> None:
    """What a chat upstream is asked on behalf of the agent."""
    assert [each["role"] for each in sent["messages"]] == [
        *("system", "user", "assistant", "tool", "tool", "assistant", "tool"),
    ]
    system, _, turn, listing, patched, opening, missing = sent["messages"]
    assert system["content"] == "You are a coding agent.\n\nThe sandbox is read-only."
    assert (turn["content"], turn["reasoning_content"]) == (
        *("I look.", "Look at the files first."),
    )
    assert [each["id"] for each in turn["tool_calls"]] == ["call_ls", "call_patch"]
    assert listing["content"] == "a.py\n"
    assert patched["tool_call_id"] == "call_patch"
    assert opening["tool_calls"][0]["function"]["name"] == "browser__open"
    assert missing["content"] == "The result of this call was not given."
    assert [each["function"]["name"] for each in sent["tools"]] == [
        *("exec_command", "apply_patch", "browser__open"),
    ]
    assert sent["prompt_cache_key"] == "0199-a"
    assert sent["reasoning_effort"] == "medium"
    known = {"model", "messages", "stream", "stream_options", "tools", "tool_choice"}
    assert sent.keys() - known == {"prompt_cache_key", "reasoning_effort"}
