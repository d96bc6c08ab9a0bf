"""Hard budgets with a deployment's usual timers: what is cut, when, and what the client is told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legato.core.errors import ApiError
from legato.gateway.hard_budgets import Cost, HardBudget, spent
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from legato.policy.budgets import Budget, bucket, parse
from legato.policy.estimates import Estimate
from legato.store.live_memory import LiveMemory
from tests.conftest import serving, settings_for, until
from tests.gateway.test_fallback import routed
from tests.gateway.test_limiter import Stage
from tests.support.wire import Answer, Wire, ask, chat, request

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


class Started:
    """A call that reserves `amount` tokens of a hard budget, 10 of them for its prompt."""

    def __init__(self, live: LiveMemory, budget: Budget, amount: int) -> None:
        self.live = live
        taken = bucket("key:a", budget, amount, 0.0)
        decision = live.take([taken])
        assert decision.permit is not None
        self.permit = decision.permit
        cost = Cost(Estimate(10, amount - 10), None)
        self.part = HardBudget(budget, taken, cost, decision)

    async def goes_on(self, used: int) -> bool:
        return await self.part.covers(self.live, used - 10)

    def end(self, used: int) -> None:
        self.part.release(self.live)
        self.live.settle(self.permit, used)


async def test_calls_together_spend_no_more_than_the_budget() -> None:
    live, budget = LiveMemory(lambda: 0.0), parse("100tokens", hard=True)
    first, second = Started(live, budget, 60), Started(live, budget, 60)
    assert [await first.goes_on(used) for used in (30, 60, 61)] == [True, True, False]
    assert [await second.goes_on(used) for used in (30, 40, 41)] == [True, True, False]
    first.end(61)
    second.end(41)
    assert live.spent == {"key:a:tokens:total": 102.0}
    assert not live.take([bucket("key:a", budget, 1, 0.0)].copy()).allowed
    assert live.permits == 0


async def test_a_call_reserves_more_while_there_is_more() -> None:
    """What another call gives back too."""
    live, budget = LiveMemory(lambda: 0.0), parse("1000tokens", hard=True)
    first, second = Started(live, budget, 20), Started(live, budget, 20)
    assert [await first.goes_on(used) for used in (15, 400, 700, 800)] == [True] * 4
    assert not await second.goes_on(900)
    first.end(800)
    assert [await second.goes_on(used) for used in (21, 199, 201)] == [True, True, False]
    second.end(201)
    assert live.permits == 0
    assert live.spent == {"key:a:tokens:total": 1001.0}


async def test_what_earlier_calls_spent_is_not_left() -> None:
    """Although each of them may reserve the whole budget."""
    live, budget = LiveMemory(lambda: 0.0), parse("60tokens", hard=True)
    first = Started(live, budget, 1000)
    assert [await first.goes_on(used) for used in (55, 60)] == [True, True]
    first.end(55)
    second = Started(live, budget, 1000)
    assert not second.part.covers_prompt


async def test_an_answer_is_not_read_on_without_its_client(
    tmp_path: Path, scripted: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a hard budget is spent meanwhile, though its deployment may drain for longer."""
    gone = asyncio.Event()

    async def watch(*_: Any) -> ApiError:
        await gone.wait()
        return spent(parse("300tokens"))

    monkeypatch.setattr("legato.gateway.call.watch", watch)
    scripted.scripts |= {"happy": Script(steps=[Step(say="word ", repeat=200), Step(stall=True)])}
    deploy = {"on_disconnect": "drain", "drain_seconds": 60.0, "stall_seconds": 60.0}
    settings = settings_for(tmp_path, await scripted.start(), SCRIPTS, deploy=deploy)
    async with serving(settings) as legato:
        stage = Stage(legato, scripted)
        stage.set(budget=parse("300tokens", hard=True))
        async with await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat("happy", stream=True)))
            await wire.head()
        connections = legato.server.server_state.connections
        await until(lambda: not connections, "the client is known to have left")
        gone.set()
        await until(lambda: not legato.server.server_state.tasks, "the call is settled")
        await stage.settled()
        assert [row["outcome"] for row in await legato.rows()] == ["cancelled"]


async def test_another_budget_that_only_warns_cuts_nothing(stage: Stage) -> None:
    """Even if it is spent."""
    stage.scripted.scripts |= {"happy": Script(steps=LONG)}
    stage.set(
        budget=parse("1tokens", action="warn"),
        owner="team",
        owners={"team": parse("1Mtokens", hard=True)},
    )
    for _ in range(2):
        answer = await ask(stage.legato.port, stage.legato.key, chat("happy", max_tokens=10))
        assert answer.status == 200
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
