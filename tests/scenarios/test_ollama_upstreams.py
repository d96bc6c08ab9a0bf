"""Calls to servers that speak Ollama's dialect: the scripted one, as Legato hears it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from tests.conftest import Running, serving, settings_for
from tests.support.wire import ask, chat


@pytest.fixture
async def front(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Running]:
    origin = (await scripted.start()).removesuffix("/v1")
    settings = settings_for(
        tmp_path,
        origin,
        SCRIPTS,
        deploy={"dialect": "ollama", "first_token_seconds": 1.0, "stall_seconds": 0.5},
        **{"streams.gate_seconds": 0.2, "streams.heartbeat_seconds": 0.2},
    )
    async with serving(settings) as running:
        yield running


async def test_text_thoughts_and_tools_come_through(front: Running, scripted: MockServer) -> None:
    async def stream(model: str) -> Any:
        body = chat(model, stream=True, stream_options={"include_usage": True})
        answer = await ask(front.port, front.key, body)
        assert answer.done, answer.body
        assert answer.chunks[-1]["usage"]["prompt_tokens"] == 7
        return answer

    for model in ("happy", "crlf", "bom", "gzip", "finish-merged", "utf8-split", "separators"):
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
    assert played.request["stream"] is True
    assert "authorization" not in played.headers


async def test_an_answer_that_is_not_streamed_says_the_same(front: Running) -> None:
    answer = await ask(front.port, front.key, chat("thinking"))
    assert answer.json["choices"][0]["message"] == {
        "role": "assistant",
        "content": " Forty-two.",
        "refusal": None,
        "reasoning_content": "Let me think.",
    }
    answer = await ask(front.port, front.key, chat("tools"))
    calls = answer.json["choices"][0]["message"]["tool_calls"]
    assert [(each["id"], each["function"]) for each in calls] == [
        ("call_1", {"name": "sum", "arguments": '{"a":1,"b":2}'}),
        ("call_2", {"name": "now", "arguments": "{}"}),
    ]


# script, status, code; the status of what failed in mid-answer is 200. Errors have no codes there.
FAULTS = {
    "400": (400, "invalid_request"),
    "too-long": (400, "context_length_exceeded"),
    "401": (502, "upstream_401"),
    "429": (429, "upstream_rate_limited"),
    "500": (502, "upstream_500"),
    "503": (503, "upstream_503"),
    "error-body": (502, "upstream_error"),
    "error-first": (502, "upstream_error"),
    "error-in-band": (200, "upstream_error"),
    "error-then-done": (200, "upstream_error"),
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
