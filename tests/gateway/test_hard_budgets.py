"""Hard budgets with a deployment's usual timers: what is cut, when, and what the client is told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from legato.policy.budgets import parse
from tests.conftest import serving, settings_for
from tests.gateway.test_fallback import routed
from tests.gateway.test_limiter import Stage
from tests.support.wire import Answer, ask, chat

#: How each of the formats says that an answer is complete.
ENDS = {
    "/v1/chat/completions": b"[DONE]",
    "/v1/messages": b"message_stop",
    "/v1/responses": b"response.completed",
}

LONG = [Step(say="word ", repeat=1000, every=0.002), *SCRIPTS["happy"].steps[-3:]]


@pytest.fixture
async def stage(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Stage]:
    settings = settings_for(tmp_path, await scripted.start(), SCRIPTS)
    async with serving(settings) as legato:
        yield Stage(legato, scripted)


async def say(stage: Stage, path: str, *, stream: bool) -> Answer:
    body: dict[str, Any] = chat("happy", stream=stream)
    if path == "/v1/messages":
        body["max_tokens"] = 4000
    if path == "/v1/responses":
        body["input"] = body.pop("messages")
    return await ask(stage.legato.port, stage.legato.key, body, path=path)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ENDS)
async def test_an_answer_is_cut_in_time(stage: Stage, path: str, stream: bool) -> None:
    """However long its deployment may take to a first token."""
    stage.scripted.scripts |= {"happy": Script(steps=LONG)}
    stage.set(budget=parse("60tokens", hard=True))
    answer = await say(stage, path, stream=stream)
    assert answer.status == (200 if stream else 429)
    assert ENDS[path] not in answer.body
    assert b"The budget of 60tokens is spent." in answer.body
    assert answer.body.count(b"word ") < 700
    await stage.settled()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_that_takes_more_than_there_is(stage: Stage, stream: bool) -> None:
    """Nobody waits for an answer that could only be cut."""
    stage.set(budget=parse("60tokens", hard=True))
    body = chat("stall-early", stream=stream)
    body["messages"][0]["content"] = "word " * 500
    async with asyncio.timeout(10):
        answer = await ask(stage.legato.port, stage.legato.key, body)
    assert (answer.status, answer.json["error"]["code"]) == (429, "insufficient_quota")
    assert not stage.scripted.requests
    await stage.settled()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_is_cut_while_another_deployment_is_asked(
    tmp_path: Path, scripted: MockServer, stream: bool
) -> None:
    """It may never answer."""
    scripted.scripts |= {
        "first": Script(steps=[Step(say="word ", repeat=200), Step(cut=True)]),
        "second": Script(steps=[Step(stall=True)]),
    }
    deploy = {"second": {"continue": "prefill", "first_token_seconds": 60.0}}
    async with routed(tmp_path, scripted, ["first", "second"], deploy=deploy) as legato:
        stage = Stage(legato, scripted)
        stage.set(budget=parse("60tokens", hard=True))
        async with asyncio.timeout(10):
            answer = await ask(legato.port, legato.key, chat("public", stream=stream))
        assert len(scripted.requests) == 2
        assert b"The budget of 60tokens is spent." in answer.body
        assert b"[DONE]" not in answer.body
        await stage.settled()


async def test_a_budget_that_only_warns_cuts_nothing(stage: Stage) -> None:
    stage.scripted.scripts |= {"happy": Script(steps=LONG)}
    stage.set(budget=parse("60tokens", action="warn", hard=True))
    assert b"[DONE]" in (await say(stage, "/v1/chat/completions", stream=True)).body
