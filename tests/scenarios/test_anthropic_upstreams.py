"""Calls to servers that speak Anthropic's dialect: the scripted one, as Anthropic's own SDK and
Legato hear it, and llama.cpp's."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from legato.configuration import load
from legato.engine.catalog import Catalog
from legato.mock.dialects.anthropic import SIGNATURE
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from tests.conftest import Running, serving, settings_for
from tests.support.wire import ask, chat

THINKING = "smollm2-135m-thinking"
TEXT = "Once upon a time, there was a stream."
THOUGHT = {"type": "thinking", "thinking": "Let me think.", "signature": SIGNATURE}
USAGE = {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}


# Anthropic's SDK


@pytest.fixture
async def sdk(scripted: MockServer) -> AsyncIterator[anthropic.AsyncAnthropic]:
    origin = (await scripted.start()).removesuffix("/v1")
    async with anthropic.AsyncAnthropic(base_url=origin, api_key="k", max_retries=0) as client:
        yield client


async def final(client: anthropic.AsyncAnthropic, model: str) -> dict[str, Any]:
    messages: Any = [{"role": "user", "content": "Hello"}]
    async with client.messages.stream(model=model, max_tokens=9, messages=messages) as stream:
        async for event in stream:
            # The SDK builds its types without a check; what it gave away is checked here.
            type(event).model_validate(event.to_dict())
        message = await stream.get_final_message()
    return message.to_dict()


@pytest.mark.parametrize(
    ("script", "reason", "content"),
    [
        ("happy", "end_turn", [{"type": "text", "text": TEXT}]),
        ("crlf", "end_turn", [{"type": "text", "text": TEXT}]),
        ("finish-merged", "end_turn", [{"type": "text", "text": TEXT}]),
        ("usage-early", "end_turn", [{"type": "text", "text": TEXT}]),
        ("finish-only", "end_turn", []),
        ("thinking", "end_turn", [THOUGHT, {"type": "text", "text": " Forty-two."}]),
        (
            "tools",
            "tool_use",
            [
                {"type": "tool_use", "id": "call_1", "name": "sum", "input": {"a": 1, "b": 2}},
                {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
            ],
        ),
    ],
)
async def test_the_scripted_server_speaks_as_anthropics_sdk_has_it(
    sdk: anthropic.AsyncAnthropic, script: str, reason: str, content: list[dict[str, Any]]
) -> None:
    message = await final(sdk, script)
    assert (message["stop_reason"], message["content"]) == (reason, content)
    usage = message["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (4, 3)


async def test_the_scripted_servers_errors_are_the_sdks(sdk: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.APIStatusError, match="The GPU fell off"):
        await final(sdk, "error-in-band")
    with pytest.raises(anthropic.BadRequestError, match="top_k"):
        await final(sdk, "400")
    with pytest.raises(anthropic.RateLimitError):
        await final(sdk, "429")
    with pytest.raises(anthropic.NotFoundError):
        await final(sdk, "nothing")


# Legato in front of the scripted server


@pytest.fixture
async def front(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Running]:
    origin = (await scripted.start()).removesuffix("/v1")
    settings = settings_for(
        tmp_path,
        origin,
        SCRIPTS,
        deploy={
            "dialect": "anthropic",
            "api_key": "their-key",
            "first_token_seconds": 1.0,
            "stall_seconds": 0.5,
        },
        **{"streams.gate_seconds": 0.2, "streams.heartbeat_seconds": 0.2},
    )
    async with serving(settings) as running:
        yield running


async def test_text_thoughts_and_tools_come_through(front: Running, scripted: MockServer) -> None:
    async def stream(model: str) -> Any:
        body = chat(model, stream=True, stream_options={"include_usage": True})
        answer = await ask(front.port, front.key, body)
        assert answer.done, answer.body
        usage = answer.chunks[-1]["usage"]
        assert usage | USAGE == usage
        return answer

    for model in ("happy", "crlf", "gzip", "finish-merged", "utf8-split", "separators"):
        answer = await stream(model)
        result = "".join(step.say or "" for step in SCRIPTS[model].steps)
        assert (answer.text(), answer.finishes()) == (result, ["stop"])
    answer = await stream("thinking")
    assert answer.text(member="reasoning_content") == "Let me think."
    assert answer.text() == " Forty-two."
    assert answer.chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}
    answer = await stream("tools")
    assert answer.finishes() == ["tool_calls"]
    played = scripted.requests[-1]
    assert played.request["messages"][0]["content"][0]["type"] == "text"
    assert played.headers["x-api-key"] == "their-key"
    assert played.headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("for_an_hour", [0, 150, 200])
async def test_cache_writes_have_their_price(
    tmp_path: Path, scripted: MockServer, for_an_hour: int, stream: bool
) -> None:
    details = {"cached_tokens": 300, "cache_creation_tokens": 200}
    if for_an_hour:
        details["cache_creation_1h_tokens"] = for_an_hour
    counts = {"prompt_tokens": 1000, "completion_tokens": 1, "prompt_tokens_details": details}
    scripted.scripts["writes"] = Script(
        steps=[Step(usage=counts), Step(say="Yes."), Step(finish="stop"), Step(done=True)]
    )
    origin = (await scripted.start()).removesuffix("/v1")
    price = {"prompt": 4e6, "completion": 20e6, "cached": 0.4e6, "cache_write": 5e6}
    deploy = {"dialect": "anthropic", "price": price}
    async with serving(settings_for(tmp_path, origin, ["writes"], deploy=deploy)) as legato:
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        answer = await ask(legato.port, legato.key, chat("writes", **more))
        usage = answer.chunks[-1]["usage"] if stream else answer.json["usage"]
        assert (usage["prompt_tokens"], usage["prompt_tokens_details"]) == (1000, details)
        (row,) = await legato.rows()
    assert (row["prompt_tokens"], row["cached_tokens"]) == (1000, 300)
    assert row["cache_write_tokens"] == 200
    written = (200 - for_an_hour) * 5 + for_an_hour * 8
    assert row["cost"] == pytest.approx(500 * 4 + 300 * 0.4 + written + 1 * 20)


async def test_an_answer_that_is_not_streamed_says_the_same(front: Running) -> None:
    answer = await ask(front.port, front.key, chat("thinking"))
    assert answer.json["choices"][0]["message"] == {
        "role": "assistant",
        "content": " Forty-two.",
        "refusal": None,
        "reasoning_content": "Let me think.",
        "reasoning_details": [THOUGHT],
    }
    answer = await ask(front.port, front.key, chat("tools"))
    calls = answer.json["choices"][0]["message"]["tool_calls"]
    assert [(each["id"], each["function"]) for each in calls] == [
        ("call_1", {"name": "sum", "arguments": '{"a": 1, "b": 2}'}),
        ("call_2", {"name": "now", "arguments": "{}"}),
    ]


# script, status, code; the status of what failed in mid-answer is 200
FAULTS = {
    "400": (400, "invalid_request"),  # the vendor has a type for each status, and no codes
    "too-long": (400, "context_length_exceeded"),
    "401": (502, "upstream_401"),
    "429": (429, "upstream_rate_limited"),
    "500": (502, "upstream_500"),
    "error-body": (502, "overloaded"),
    "error-first": (502, "gpu_lost"),
    "error-in-band": (200, "gpu_lost"),
    "error-then-done": (200, "gpu_lost"),
    "bad-json": (200, "upstream_malformed"),
    "no-finish": (200, "upstream_incomplete"),
    "empty": (502, "upstream_empty"),
    "html": (502, "upstream_error"),
    "stall": (200, "upstream_stalled"),
}


async def test_faults_mean_the_same_as_in_any_dialect(front: Running) -> None:
    heard = {}
    for script in FAULTS:
        answer = await ask(front.port, front.key, chat(script, stream=True))
        assert answer.error is not None, (script, answer.body)
        assert b"[DONE]" not in answer.body
        heard[script] = (answer.status, answer.error["code"])
    assert heard == FAULTS


# llama.cpp's own /v1/messages

#: Qwen's way of calling tools, but for their results, of which a small model makes nothing.
TOOLS_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\nYou are a helpful assistant.\\n\\n# Tools\\n\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\n\\nFor each call, return a JSON object within <tool_call></tool_call>:' }}
{{- '\\n<tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == "assistant" and message.tool_calls %}
{{- '<|im_start|>assistant' }}
{%- for call in message.tool_calls %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role != "tool" %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def asked_before(city: str) -> list[dict[str, Any]]:
    """A small model does what it sees done."""
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    call = {"id": f"call_{city}", "type": "function", "function": function}
    return [
        {"role": "user", "content": f"Weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "Sunny"},
    ]


async def test_llama_cpps_own_messages_api(tmp_path: Path) -> None:
    empty, template = tmp_path / "empty.toml", tmp_path / "tools.jinja"
    empty.write_text("")
    template.write_text(TOOLS_TEMPLATE)
    file = Catalog(load(empty).models_dir).pull(THINKING)
    models = [
        {"name": THINKING},
        {"name": "tools", "path": str(file), "template": str(template)},
    ]
    flags = {"data": str(tmp_path / "engines"), "server.port": 0, "engine.models": models}
    flags |= {"engine.threads": 1, "engine.slots": 2}  # two engines: more would wait for each other
    files = {THINKING: file, "tools": file}
    async with serving(load(empty, flags, {}), files) as engines:
        deployments = []
        for engine in engines.app.engines:
            await engine.wait_ready()
            assert engine.upstream.target is not None
            deployments.append(
                {
                    "name": engine.model.name,
                    "model": engine.model.name,
                    "dialect": "anthropic",
                    "base_url": f"http://{engine.upstream.target.pool.endpoint.authority}",
                    "api_key": engine.key,
                }
            )
        settings = settings_for(tmp_path, None, deployments=deployments)
        async with serving(settings) as front:
            options = {"stream": True, "stream_options": {"include_usage": True}}
            body = chat(THINKING, max_tokens=400, reasoning_effort="low", **options)
            answer = await ask(front.port, front.key, body)
            assert answer.done, answer.body
            assert answer.text(member="reasoning_content")
            assert answer.chunks[-1]["usage"]["completion_tokens"] > 0
            answer = await ask(front.port, front.key, chat("tools", max_tokens=5, **options))
            assert answer.done
            assert answer.text()
            messages = [each for city in ("Rome", "Oslo", "Bern") for each in asked_before(city)]
            messages.append({"role": "user", "content": "Weather in Paris?"})
            body = chat(
                "tools",
                messages=messages,
                tools=[WEATHER],
                temperature=0,
                max_tokens=99,
                **options,
            )
            answer = await ask(front.port, front.key, body)
            assert answer.finishes() == ["tool_calls"], answer.body
            deltas = [
                call
                for chunk in answer.chunks
                for choice in chunk["choices"]
                for call in choice["delta"].get("tool_calls", ())
            ]
            assert deltas[0]["function"]["name"] == "get_weather"
            arguments = "".join(each["function"]["arguments"] for each in deltas)
            assert json.loads(arguments) == {"city": "Paris"}
            assert len(deltas) > 2, "the arguments come in pieces"
