"""Calls to servers that speak Gemini's dialect: the scripted one, as Google's own SDK and Legato
hear it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from legato.mock.dialects.gemini import SIGNATURE
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from tests.conftest import Running, serving, settings_for
from tests.support.wire import ask, chat

TEXT = "Once upon a time, there was a stream."
USAGE = {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}
EXTRA = {"google": {"thought_signature": SIGNATURE}}


# Google's SDK


@pytest.fixture
async def sdk(scripted: MockServer) -> AsyncIterator[genai.Client]:
    origin = (await scripted.start()).removesuffix("/v1")
    client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=origin))
    yield client
    await client.aio.aclose()
    client.close()


async def heard(client: genai.Client, model: str) -> list[types.GenerateContentResponse]:
    stream = await client.aio.models.generate_content_stream(model=model, contents="Hello")
    return [each async for each in stream]


def parts(said: list[types.GenerateContentResponse]) -> list[types.Part]:
    return [
        part
        for each in said
        for candidate in each.candidates or ()
        for part in (candidate.content and candidate.content.parts) or ()
    ]


@pytest.mark.parametrize(
    "script", ["happy", "crlf", "gzip", "finish-merged", "usage-early", "role-every-chunk"]
)
async def test_the_scripted_server_speaks_as_googles_sdk_has_it(
    sdk: genai.Client, scripted: MockServer, script: str
) -> None:
    said = await heard(sdk, script)
    assert "".join(each.text or "" for each in said) == TEXT
    last = said[-1]
    assert last.candidates is not None
    assert last.candidates[0].finish_reason is types.FinishReason.STOP
    assert last.response_id == "scripted"
    usage = last.usage_metadata
    assert usage is not None
    assert (usage.prompt_token_count, usage.candidates_token_count) == (7, 10)
    assert (usage.cached_content_token_count, usage.total_token_count) == (3, 17)
    assert scripted.requests[-1].headers["x-goog-api-key"] == "k"


async def test_thoughts_and_calls_as_googles_sdk_has_them(sdk: genai.Client) -> None:
    said = await heard(sdk, "thinking")
    thoughts = [part.text for part in parts(said) if part.thought]
    assert thoughts == ["Let", " me", " think", "."]
    assert "".join(part.text or "" for part in parts(said) if not part.thought) == " Forty-two."
    usage = said[-1].usage_metadata
    assert usage is not None
    assert (usage.thoughts_token_count, usage.candidates_token_count) == (4, 3)
    called = [part for part in parts(await heard(sdk, "tools")) if part.function_call]
    assert [part.function_call.model_dump(exclude_none=True) for part in called] == [
        {"id": "call_1", "name": "sum", "args": {"a": 1, "b": 2}},
        {"id": "call_2", "name": "now", "args": {}},
    ]
    assert [part.thought_signature is not None for part in called] == [True, False]


async def test_the_scripted_servers_errors_are_the_sdks(sdk: genai.Client) -> None:
    for script, status in (("400", 400), ("401", 401), ("429", 429), ("nothing", 404)):
        with pytest.raises(errors.ClientError) as caught:
            await heard(sdk, script)
        assert caught.value.code == status
    with pytest.raises(errors.APIError, match="The GPU fell off"):
        await heard(sdk, "error-in-band")


# Legato in front of the scripted server


@pytest.fixture
async def front(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Running]:
    origin = (await scripted.start()).removesuffix("/v1")
    settings = settings_for(
        tmp_path,
        origin,
        SCRIPTS,
        deploy={
            "dialect": "gemini",
            "n": "native",
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
        said = "".join(step.say or "" for step in SCRIPTS[model].steps)
        assert (answer.text(), answer.finishes()) == (said, ["stop"])
    answer = await stream("thinking")
    assert answer.text(member="reasoning_content") == "Let me think."
    assert answer.text() == " Forty-two."
    assert answer.chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}
    answer = await stream("tools")
    assert answer.finishes() == ["tool_calls"]
    assert answer.chunks[-1]["usage"]["completion_tokens"] == 4
    played = scripted.requests[-1]
    assert played.request["contents"][0]["role"] == "user"
    assert played.headers["x-goog-api-key"] == "their-key"


async def test_an_answer_that_is_not_streamed_says_the_same(front: Running) -> None:
    answer = await ask(front.port, front.key, chat("thinking"))
    assert answer.json["choices"][0]["message"] == {
        "role": "assistant",
        "content": " Forty-two.",
        "refusal": None,
        "reasoning_content": "Let me think.",
    }
    answer = await ask(front.port, front.key, chat("tools"))
    assert answer.json["choices"][0]["message"]["tool_calls"] == [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "sum", "arguments": '{"a":1,"b":2}'},
            "extra_content": EXTRA,
        },
        {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
    ]
    answer = await ask(front.port, front.key, chat("choices", n=3))
    said = [each["message"]["content"] for each in answer.json["choices"]]
    assert said == ["one0 two0 three0", "one1 two1 three1", "one2 two2 three2"]


# script, status, code; the status of what failed in mid-answer is 200
FAULTS = {
    "400": (400, "invalid_request"),
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
    "cut": (200, "upstream_cut"),
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
