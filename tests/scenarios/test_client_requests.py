"""What clients send, and what the upstream gets of it in each dialect, or why it is not asked."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legato import dialects
from legato.mock.server import MockServer
from tests.conftest import Running, serving, settings_for
from tests.support.pipeline import SCRIPTED
from tests.support.wire import Answer, ask

ALL = tuple(dialects.NAMES)
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "d",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
HI = {"role": "user", "content": "hi"}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", **NAMED, "function": NAMED["function"] | {"arguments": "{}"}}],
}


def jpg(**part: Any) -> dict[str, Any]:
    url = f"data:image/jpg;base64,{PNG}"
    return {"type": "image_url", "image_url": {"url": url}} | part


@pytest.fixture
async def legato(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Running]:
    """A deployment of each dialect, by its name; `NAME-strict` drops nothing."""
    base = await scripted.start()
    scripted.scripts |= {
        f"{name}{more}": scripted.scripts["happy"] for name in ALL for more in ("", "-strict")
    }
    deployments = [
        {
            "name": f"{name}{more}",
            "model": f"{name}{more}",
            "dialect": name,
            "base_url": base if name.startswith("openai") else base.removesuffix("/v1"),
            "unsupported": "error" if more else "drop",
        }
        for name in ALL
        for more in ("", "-strict")
    ]
    async with serving(settings_for(tmp_path, None, deployments=deployments)) as running:
        yield running


async def send(legato: Running, model: str, body: dict[str, Any] | bytes, stream: bool) -> Answer:
    fields = {"model": model, "messages": [HI], "stream": stream}
    if isinstance(body, bytes):
        whole = json.dumps(fields).encode()[:-1] + b"," + body + b"}"
    else:
        whole = json.dumps(fields | body).encode()
    return await ask(legato.port, legato.key, whole)


def part_of(request: Any, path: str) -> Any:
    """The value at `messages.0.content` and the like."""
    for name in path.split("."):
        request = request[int(name)] if isinstance(request, list) else request.get(name)
    return request


def blocks(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def turns(*texts: str) -> list[dict[str, Any]]:
    return [
        {"role": ("user", "model")[n % 2], "parts": [{"text": text}]}
        for n, text in enumerate(texts)
    ]


REFUSED_EARLIER = [HI, {"role": "assistant", "content": None, "refusal": "no"}, HI]
REFUSED_IN_A_PART = [
    HI,
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    HI,
]
ANTHROPIC_HISTORY = [
    {"role": "user", "content": blocks("hi")},
    {"role": "assistant", "content": blocks("no")},
    {"role": "user", "content": blocks("hi")},
]

#: dialect, what the client sends, where the upstream has what of it
GETS: dict[str, tuple[str, dict[str, Any] | bytes, dict[str, Any]]] = {
    "a jpg, anthropic": (
        "anthropic",
        {"messages": [{"role": "user", "content": [jpg()]}]},
        {
            "messages.0.content.0.source": {
                "type": "base64",
                "media_type": "image/jpeg",
                "data": PNG,
            }
        },
    ),
    "a jpg, gemini": (
        "gemini",
        {"messages": [{"role": "user", "content": [jpg()]}]},
        {"contents.0.parts.0.inlineData": {"mimeType": "image/jpeg", "data": PNG}},
    ),
    "a jpg, ollama": (
        "ollama",
        {"messages": [{"role": "user", "content": [jpg()]}]},
        {"messages.0.images": [PNG]},
    ),
    "a jpg of a tool, anthropic": (
        "anthropic",
        {"messages": [HI, CALLED, {"role": "tool", "tool_call_id": "c1", "content": [jpg()]}]},
        {"messages.2.content.0.content.0.source.media_type": "image/jpeg"},
    ),
    "a jpg of an earlier answer, gemini": (
        "gemini",
        {"messages": [HI, {"role": "assistant", "content": "Here", "images": [jpg()]}, HI]},
        {
            "contents.1.parts": [
                {"text": "Here"},
                {"inlineData": {"mimeType": "image/jpeg", "data": PNG}},
            ]
        },
    ),
    "the system alone, anthropic": (
        "anthropic",
        {"messages": [{"role": "system", "content": "a"}]},
        {"messages": [{"role": "user", "content": blocks("a")}], "system": None},
    ),
    "the system alone, gemini": (
        "gemini",
        {"messages": [{"role": "developer", "content": "a"}]},
        {"contents": turns("a"), "systemInstruction": None},
    ),
    **{
        f"a refusal {where}, {dialect}": (dialect, {"messages": messages}, expected)
        for where, messages in (
            ("in the history", REFUSED_EARLIER),
            ("in a part", REFUSED_IN_A_PART),
        )
        for dialect, expected in (
            ("anthropic", {"messages": ANTHROPIC_HISTORY}),
            ("gemini", {"contents": turns("hi", "no", "hi")}),
            ("ollama", {"messages": [HI, {"role": "assistant", "content": "no"}, HI]}),
            ("openai", {"messages": messages}),
        )
    },
    "half of a surrogate pair, openai": (
        "openai",
        rb'"messages":[{"role":"user","content":"a \ud83d b"}],"x":{"\udE00":["\ud83d\ude00"]}',
        {"messages.0.content": "a \ufffd b", "x": {"\ufffd": ["😀"]}},
    ),
    "half of a surrogate pair, anthropic": (
        "anthropic",
        rb'"messages":[{"role":"user","content":"a \uD83D b"}]',
        {"messages.0.content.0.text": "a \ufffd b"},
    ),
    "half of a surrogate pair, gemini": (
        "gemini",
        rb'"messages":[{"role":"user","content":"a \uDE00 b"}]',
        {"contents.0.parts.0.text": "a \ufffd b"},
    ),
    "half of a surrogate pair, ollama": (
        "ollama",
        rb'"messages":[{"role":"user","content":"a \ud83d b"}]',
        {"messages.0.content": "a \ufffd b"},
    ),
    "null for the newer limit, anthropic": (
        "anthropic",
        {"max_completion_tokens": None, "max_tokens": 5},
        {"max_tokens": 5},
    ),
    "null for the newer limit, gemini": (
        "gemini",
        {"max_completion_tokens": None, "max_tokens": 5},
        {"generationConfig.maxOutputTokens": 5},
    ),
    "null for the newer limit, ollama": (
        "ollama",
        {"max_completion_tokens": None, "max_tokens": 5},
        {"options.num_predict": 5},
    ),
    "the largest seed, openai": ("openai", {"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
    "the least seed, ollama": ("ollama", {"seed": -(2**63)}, {"options.seed": -(2**63)}),
    "no alternatives, gemini": (
        "gemini",
        {"logprobs": True, "top_logprobs": 0},
        {"generationConfig": {"responseLogprobs": True}},
    ),
    "no alternatives, ollama": (
        "ollama",
        {"logprobs": True, "top_logprobs": 0},
        {"logprobs": True, "top_logprobs": None},
    ),
    "no alternatives, openai": (
        "openai",
        {"logprobs": True, "top_logprobs": 0},
        {"logprobs": True, "top_logprobs": 0},
    ),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", GETS)
async def test_what_the_upstream_gets(
    legato: Running, scripted: MockServer, case: str, stream: bool
) -> None:
    dialect, body, expected = GETS[case]
    answer = await send(legato, dialect, body, stream)
    assert answer.status == 200, answer.body
    sent = scripted.requests[-1].request
    assert {path: part_of(sent, path) for path in expected} == expected


#: who is asked, what the client sends, the `param`, words of the message
REFUSED: dict[str, tuple[tuple[str, ...], dict[str, Any], str, tuple[str, ...]]] = {
    "an empty user": (
        ("anthropic", "gemini"),
        {"messages": [{"role": "user", "content": ""}]},
        "messages[0].content",
        ("empty",),
    ),
    "an empty user behind a system": (
        ("anthropic", "gemini"),
        {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": []}]},
        "messages[1].content",
        ("empty",),
    ),
    "an empty user behind an answer": (
        ("anthropic", "gemini"),
        {"messages": [HI, {"role": "assistant", "content": "a"}, {"role": "user", "content": ""}]},
        "messages[2].content",
        ("empty",),
    ),
    "a flat tool": (
        ALL,
        {"tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]},
        "tools[0].function",
        ("tools[0].function",),
    ),
    "a second tool that is flat": (
        ALL,
        {"tools": [WEATHER, {"type": "function", "name": "f"}]},
        "tools[1].function",
        ("tools[1].function",),
    ),
    "a custom tool": (
        ("anthropic", "gemini"),
        {"tools": [WEATHER, {"type": "custom", "custom": {"name": "f"}}]},
        "tools[1]",
        ("`custom`",),
    ),
    "a choice that is none": (
        ("anthropic", "gemini", "ollama"),
        {"tools": [WEATHER], "tool_choice": "any"},
        "tool_choice",
        ("`any`", "`auto`"),
    ),
    "an object as the choice": (
        ("anthropic", "gemini", "ollama"),
        {"tools": [WEATHER], "tool_choice": {"type": "auto"}},
        "tool_choice",
        ("`auto`",),
    ),
    "some tools as the choice": (
        ("anthropic", "gemini", "ollama"),
        {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}},
        "tool_choice",
        ("`allowed_tools`",),
    ),
    "a call that has to be": (
        ("ollama",),
        {"tools": [WEATHER], "tool_choice": "required"},
        "tool_choice",
        ("`required`", "`none`"),
    ),
    "a function that has to be called": (
        ("ollama",),
        {"tools": [WEATHER], "tool_choice": NAMED},
        "tool_choice",
        ("`function`",),
    ),
    "no schema": (
        ALL,
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        ("is required",),
    ),
    "a choice of no tools": (ALL, {"tool_choice": NAMED}, "tool_choice", ("`tools`",)),
    "a call of no tools": (ALL, {"tool_choice": "required"}, "tool_choice", ("`tools`",)),
    "a call of an empty list": (
        ALL,
        {"tool_choice": "required", "tools": []},
        "tool_choice",
        ("`tools`",),
    ),
    "a tool that is not there": (
        ALL,
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tool_choice",
        ("`f`",),
    ),
    "a seed over 64 bits": (ALL, {"seed": 2**63}, "seed", ("9223372036854775807",)),
    "a seed under 64 bits": (ALL, {"seed": -(2**63) - 1}, "seed", ("-9223372036854775808",)),
    "a result without an id": (
        ALL,
        {"messages": [HI, CALLED, {"role": "tool", "content": "42"}], "tools": [WEATHER]},
        "messages[2].tool_call_id",
        ("tool_call_id",),
    ),
    "null as a result's id": (
        ALL,
        {
            "messages": [HI, CALLED, {"role": "tool", "content": "42", "tool_call_id": None}],
            "tools": [WEATHER],
        },
        "messages[2].tool_call_id",
        ("tool_call_id",),
    ),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", REFUSED)
async def test_what_no_upstream_is_asked_for(
    legato: Running, scripted: MockServer, case: str, stream: bool
) -> None:
    names, body, param, words = REFUSED[case]
    for name in [*names, *(f"{each}-strict" for each in names)]:
        answer = await send(legato, name, body, stream)
        assert answer.status == 400, answer.body
        error = answer.json["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert all(each in error["message"] for each in words), error
        assert "None" not in error["message"]
    assert scripted.requests == []


@pytest.mark.parametrize("provider", ["openai", "mistral", "moonshot", "deepseek"])
async def test_a_limit_arrives_beside_null_for_the_other_limit(
    tmp_path: Path, scripted: MockServer, provider: str
) -> None:
    base = await scripted.start()
    settings = settings_for(tmp_path, base, ["happy"], deploy={"provider": provider})
    limits = ("max_tokens", "max_completion_tokens")
    async with serving(settings) as legato:
        for given, other in (limits, limits[::-1]):
            answer = await send(legato, "happy", {given: 5, other: None}, True)
            assert answer.done
            sent = scripted.requests[-1].request
            assert [sent[name] for name in limits if name in sent] == [5]


async def test_what_a_dialect_does_not_take_another_deployment_is_asked_for(
    tmp_path: Path, scripted: MockServer
) -> None:
    base = await scripted.start()
    first = {"dialect": "ollama", "base_url": base.removesuffix("/v1"), "name": "first"}
    rest = {"base_url": base, "name": "rest"}
    deployments = [each | {"model": "happy"} for each in (first, rest)]
    routes = [{"model": "both", "deployments": ["first", "rest"]}]
    settings = settings_for(tmp_path, None, deployments=deployments, routes=routes)
    async with serving(settings) as legato:
        body = {"tools": [WEATHER], "tool_choice": "required"}
        answer = await send(legato, "both", body, True)
    assert answer.done
    assert [each.path for each in scripted.requests] == ["/v1/chat/completions"]


@pytest.mark.parametrize("dialect", SCRIPTED)
async def test_a_byte_order_mark_is_skipped(
    legato: Running, scripted: MockServer, dialect: str
) -> None:
    body = b"\xef\xbb\xbf" + json.dumps({"model": dialect, "messages": [HI]}).encode()
    answer = await ask(legato.port, legato.key, body)
    assert answer.status == 200, answer.body
    assert len(scripted.requests) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_that_is_not_there(
    legato: Running, scripted: MockServer, stream: bool
) -> None:
    answer = await send(legato, "nope", {}, stream)
    assert answer.status == 404
    error = answer.json["error"]
    assert (error["type"], error["code"]) == ("not_found_error", "model_not_found")
    async with legato.client() as client:
        listed = await client.get("/v1/models/nope")
    assert (listed.status_code, listed.json()["error"]["code"]) == (404, "model_not_found")
    assert scripted.requests == []
