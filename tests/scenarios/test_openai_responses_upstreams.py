"""Calls to an upstream that speaks OpenAI's Responses API, over real sockets."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Running, serving, settings_for
from tests.support.raw_upstream import RawUpstream
from tests.support.transcripts import openai_responses as wire
from tests.support.wire import Answer, ask, chat

EVENTS = "text/event-stream"


def response(body: bytes, status: int = 200, kind: str = EVENTS) -> bytes:
    head = f"HTTP/1.1 {status} OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def refused(message: str, param: str) -> bytes:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return response(json.dumps({"error": error}).encode(), 400, "application/json")


DIED = {"code": "server_error", "message": "worker died"}
FAILED = wire.event("response.failed", response=wire.response("failed", error=DIED))

#: What the deployment of that name answers.
PLAYED: dict[str, bytes] = {
    name: response(wire.TRANSCRIPTS[name])
    for name in ("text", "thinking", "tools", "length", "error")
} | {
    "whole": response(wire.WHOLE, kind="application/json"),
    "failed": response(wire.START + wire.opened(0) + wire.word(0, "Once") + FAILED),
    "failed-first": response(wire.START + FAILED),
    "no-end": response(wire.START + wire.text(0, "Once")),
    "too-long": refused("Your input exceeds the context window of this model.", "input"),
}


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    upstream = RawUpstream()
    yield upstream
    await upstream.stop()


@pytest.fixture
async def front(tmp_path: Path, upstream: RawUpstream) -> AsyncIterator[Running]:
    """A deployment for each of `PLAYED`, under its name, and one for `asked`."""
    base = await upstream.start()
    deployments: list[dict[str, Any]] = []
    for number, name in enumerate((*PLAYED, "asked")):
        upstream.responses[str(number)] = PLAYED.get(name, b"")
        deployments.append(
            {
                "name": name,
                "model": "theirs",
                "dialect": "openai-responses",
                "base_url": f"{base}/{number}/v1",
                "streams": name != "whole",
                "open_after": 0,
            }
        )
    routes = [
        {"model": each["name"], "deployments": [each["name"]], "attempts": 1}
        for each in deployments
    ]
    routes.append({"model": "after-a-failure", "deployments": ["failed-first", "text"]})
    settings = settings_for(tmp_path, None, deployments=deployments, routes=routes)
    async with serving(settings) as running:
        yield running


async def streamed(front: Running, model: str, **fields: Any) -> Answer:
    body = chat(model, stream=True, stream_options={"include_usage": True}, **fields)
    return await ask(front.port, front.key, body)


def asked(upstream: RawUpstream, play: Callable[[dict[str, Any]], bytes]) -> str:
    """The deployment that answers as `play` says."""
    upstream.responses[str(len(PLAYED))] = play
    return "asked"


def requests(upstream: RawUpstream) -> list[dict[str, Any]]:
    return upstream.requests.get(str(len(PLAYED)), [])


async def test_text_reasoning_and_tools_come_through(front: Running) -> None:
    answer = await streamed(front, "text")
    assert answer.done, answer.body
    assert (answer.text(), answer.finishes()) == ("Once upon a time.", ["stop"])
    answer = await streamed(front, "thinking")
    assert answer.text(member="reasoning_content") == "Let me think."
    assert answer.text() == "Forty-two."
    usage = answer.chunks[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (9, 7)
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 2}
    answer = await streamed(front, "tools")
    assert answer.finishes() == ["tool_calls"]
    answer = await streamed(front, "length")
    assert answer.finishes() == ["length"]


async def test_an_answer_that_is_not_streamed_says_the_same(front: Running) -> None:
    """Neither by the client's wish nor by the upstream's."""
    for model, words in (("thinking", "Forty-two."), ("whole", "Forty-two.")):
        answer = await ask(front.port, front.key, chat(model))
        message = answer.json["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == (words, "Let me think.")
        assert message["reasoning_details"][0]["data"] == "gAAAAAB"
    assert (await streamed(front, "whole")).finishes() == ["tool_calls"]
    calls = message["tool_calls"]
    assert calls[0]["function"] == {"name": "sum", "arguments": '{"a": 1, "b": 2}'}


async def test_a_second_turn_has_the_reasoning_of_the_first(
    front: Running, upstream: RawUpstream
) -> None:
    model = asked(upstream, lambda _: PLAYED["thinking"])
    first = await ask(front.port, front.key, chat(model, reasoning_effort="low"))
    hello, message = {"role": "user", "content": "Hello"}, first.json["choices"][0]["message"]
    await ask(front.port, front.key, chat(model, messages=[hello, message, hello]))
    once, again = requests(upstream)
    assert once["reasoning"] == {"effort": "low", "summary": "auto"}
    assert (once["store"], once["stream"]) == (False, True)
    kinds = [each.get("type", each.get("role")) for each in again["input"]]
    assert kinds == ["user", "reasoning", "message", "user"]
    assert again["input"][1] == wire.reasoning(0, "Let me think.")


UNASKED: dict[str, tuple[bytes, Callable[[dict[str, Any]], bool]]] = {
    "encrypted reasoning": (
        refused("Encrypted content is not supported with this model.", "include"),
        lambda body: "include" in body,
    ),
    "a summary": (
        refused(
            "Your organization must be verified to generate reasoning summaries.",
            "reasoning.summary",
        ),
        lambda body: "summary" in body["reasoning"],
    ),
}


@pytest.mark.parametrize("case", UNASKED)
async def test_what_is_ours_and_is_refused_is_not_asked_for_again(
    front: Running, upstream: RawUpstream, case: str
) -> None:
    refusal, is_asked = UNASKED[case]
    model = asked(upstream, lambda body: refusal if is_asked(body) else PLAYED["text"])
    for _ in range(2):
        answer = await streamed(front, model, reasoning_effort="low")
        assert answer.done, answer.body
    assert [is_asked(each) for each in requests(upstream)] == [True, False, False]


async def test_choices_are_asked_for_one_by_one(front: Running, upstream: RawUpstream) -> None:
    model = asked(upstream, lambda _: PLAYED["text"])
    answer = await streamed(front, model, n=2)
    assert [answer.text(n) for n in range(2)] == ["Once upon a time."] * 2
    assert answer.chunks[-1]["usage"]["completion_tokens"] == 6
    assert ["n" in each for each in requests(upstream)] == [False, False]


# model, status, code; the status of what failed in mid-answer is 200
FAULTS = {
    "failed": (200, "server_error"),
    "error": (200, "server_error"),
    "failed-first": (502, "server_error"),
    "no-end": (200, "upstream_incomplete"),
    "too-long": (400, "context_length_exceeded"),
}


async def test_faults_mean_the_same_as_in_any_dialect(front: Running) -> None:
    heard = {}
    for model in FAULTS:
        answer = await streamed(front, model)
        assert answer.error is not None, (model, answer.body)
        assert b"[DONE]" not in answer.body
        heard[model] = (answer.status, answer.error["code"])
    assert heard == FAULTS


async def test_another_deployment_is_asked_where_nothing_has_come(front: Running) -> None:
    answer = await streamed(front, "after-a-failure")
    assert answer.text() == "Once upon a time."
    assert answer.headers["x-legato-deployment"] == "text"
