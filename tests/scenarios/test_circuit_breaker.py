"""Circuit breakers: what opens one, what closes it, who may try while it is half-open, and what
says nothing of a deployment's health."""

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from legato.policy.health import Health
from legato.policy.routing import Route, Router
from tests.conftest import Running, until
from tests.gateway.test_fallback import REST, TEXT, played, routed, said
from tests.support.engines import MODEL, engines
from tests.support.wire import Wire, ask, chat, request


def health_of(legato: Running, name: str) -> Health:
    return legato.app.services.router.health[name]


def state_of(legato: Running, name: str) -> str:
    return health_of(legato, name).state(legato.app.services.clock())


def leave_alone(legato: Running, name: str, seconds: float) -> None:
    """Its breaker is open for so long; half-open where that is over."""
    health_of(legato, name).open_until = legato.app.services.clock() + seconds


# What opens it


def test_many_calls_that_break_at_once_are_one_outage() -> None:
    """Failures of calls that began before the breaker opened do not lengthen its time."""
    health = Health(open_after=5, open_seconds=10.0)
    calls = [health.begin(0.0) for _ in range(20)]
    for number, probe in enumerate(calls):
        health.record_failure(1.0 + number / 2, probe=probe)
        health.end(probe=probe)
    assert health.state(12.9) == "open", "from the fifth failure on"
    assert health.state(13.0) == "half-open"
    assert health.trips == 1


def test_failures_of_old_calls_count_no_trip_while_it_is_half_open() -> None:
    health = Health(open_after=2, open_seconds=10.0)
    old = [health.begin(0.0) for _ in range(4)]
    for probe in old[:2]:
        health.record_failure(0.0, probe=probe)
        health.end(probe=probe)
    health.record_failure(11.0, probe=old[2])
    health.end(probe=old[2])
    assert health.state(11.0) == "half-open"
    probe = health.begin(11.0)
    assert probe
    health.record_failure(12.0, probe=old[3])
    health.end(probe=old[3])
    health.record_failure(12.0, probe=probe)
    health.end(probe=probe)
    assert health.state(31.9) == "open", "the second trip: twice as long"
    assert health.state(32.0) == "half-open"


async def test_streams_that_are_cut_together_open_it_once(
    tmp_path: Path, scripted: MockServer
) -> None:
    scripted.scripts["later"] = Script(steps=[Step(say="Once"), Step(wait=0.5), Step(cut=True)])
    deploy = {"later": {"open_after": 3, "open_seconds": 30.0, "stall_seconds": 5.0}}
    async with routed(tmp_path, scripted, ["later"], deploy=deploy) as legato:
        calls = [asyncio.create_task(said(legato)) for _ in range(12)]
        await until(lambda: health_of(legato, "later").ttft and len(scripted.requests) == 12)
        for answer in await asyncio.gather(*calls):
            assert answer.error is not None
            assert answer.error["code"] == "upstream_cut"
        left = health_of(legato, "later").open_until - legato.app.services.clock()
        assert 20.0 < left <= 30.0
        assert (await said(legato)).status == 503


async def test_an_engine_that_is_ready_again_is_asked_at_once(tmp_path: Path) -> None:
    async with engines(tmp_path, {"name": MODEL}) as legato:
        engine, health = legato.app.engines[0], health_of(legato, MODEL)
        for _ in range(health.open_after):
            health.record_failure(legato.app.services.clock())
        body = chat(MODEL, max_tokens=2)
        assert (await ask(legato.port, legato.key, body)).status == 503
        before = engine.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        await until(lambda: engine.is_ready and engine.pid != before, "another child", 30.0)
        assert state_of(legato, MODEL) == "closed"
        assert (await ask(legato.port, legato.key, body)).status == 200


# What closes it


def test_an_older_calls_first_token_does_not_close_it() -> None:
    health = Health(open_after=5)
    older, newer = health.begin(0.0), health.begin(0.1)
    health.record_failure(0.2, retry_after=60.0, probe=newer)
    health.end(probe=newer)
    health.record_first_token(1.0, 1.0, probe=older)
    assert not health.allows(1.0)
    health.record_success()
    health.end(probe=older)
    assert not health.allows(60.1)
    assert health.allows(60.2)


async def test_retry_after_holds_though_another_call_is_answered(
    tmp_path: Path, scripted: MockServer
) -> None:
    busy = msgspec.structs.replace(SCRIPTS["429"], headers={"retry-after": "60"})
    scripted.scripts["some"] = msgspec.structs.replace(SCRIPTS["late-token"], then=busy)
    deploy = {"some": {"open_after": 5, "first_token_seconds": 5.0, "stall_seconds": 5.0}}
    async with routed(tmp_path, scripted, ["some"], deploy=deploy) as legato:
        older = asyncio.create_task(said(legato))
        await until(lambda: scripted.requests, "the first is under way")
        assert (await said(legato)).status == 429
        assert (await older).done
        answer = await said(legato)
        assert answer.status == 503
        assert 30 < int(answer.headers["retry-after"]) <= 60
        assert len(scripted.requests) == 2


# Who may try while it is half-open


def test_the_end_of_another_call_does_not_let_a_second_one_in() -> None:
    health = Health(open_after=1, open_seconds=1.0)
    long, failing = health.begin(0.0), health.begin(0.0)
    health.record_failure(0.0, probe=failing)
    health.end(probe=failing)
    probe = health.begin(2.0)
    assert (long, failing, probe) == (False, False, True)
    health.end(probe=long)
    assert not health.allows(2.0), "one is probing"
    assert not health.begin(2.0)
    health.end(probe=probe)
    assert health.allows(2.0)


async def test_one_of_many_calls_tries_it(tmp_path: Path, scripted: MockServer) -> None:
    """All of them planned with it, while it was half-open; who comes second leaves it alone."""
    scripted.scripts["first"] = msgspec.structs.replace(SCRIPTS["500"], head_after=0.2)
    scripted.scripts["tried"] = msgspec.structs.replace(SCRIPTS["500"], head_after=0.3)
    deploy = {
        "first": {"first_token_seconds": 5.0},
        "tried": {"first_token_seconds": 5.0, "open_after": 1, "open_seconds": 60.0},
    }
    names = ["first", "tried"]
    async with routed(tmp_path, scripted, names, route={"attempts": 2}, deploy=deploy) as legato:
        leave_alone(legato, "tried", 0.0)
        assert state_of(legato, "tried") == "half-open"
        answers = await asyncio.gather(*(said(legato) for _ in range(20)))
        assert {answer.status for answer in answers} == {502}
        assert played(scripted).count("tried") == 1
        assert state_of(legato, "tried") == "open"


async def test_a_longer_one_that_is_open_is_passed_over(
    tmp_path: Path, scripted: MockServer
) -> None:
    lengths = {"too-long": 4096, "thinking": 8192, "happy": 131072}
    deploy = {name: {"context_length": length} for name, length in lengths.items()}
    deploy["thinking"]["open_after"] = 5
    async with routed(tmp_path, scripted, lengths, deploy=deploy) as legato:
        leave_alone(legato, "thinking", 60.0)
        assert (await said(legato)).text() == TEXT
        assert played(scripted) == ["too-long", "happy"]


async def test_a_longer_one_that_another_call_is_trying_is_passed_over(
    tmp_path: Path, scripted: MockServer
) -> None:
    lengths = {"too-long": 4096, "slow": 8192, "happy": 131072}
    deploy = {name: {"context_length": length} for name, length in lengths.items()}
    deploy["slow"]["open_after"] = 5
    async with routed(tmp_path, scripted, lengths, deploy=deploy) as legato:
        leave_alone(legato, "slow", 0.0)
        probe = health_of(legato, "slow").begin(legato.app.services.clock())
        assert probe
        assert (await said(legato)).text() == TEXT
        assert played(scripted) == ["too-long", "happy"]
        health_of(legato, "slow").end(probe=probe)


async def test_one_that_is_open_does_not_go_on(tmp_path: Path, scripted: MockServer) -> None:
    scripted.scripts |= {"one": REST, "two": REST}
    deploy = {name: {"continue": "prefill", "open_after": 5} for name in ("one", "two")}
    async with routed(tmp_path, scripted, ["cut", "one", "two"], deploy=deploy) as legato:
        leave_alone(legato, "one", 60.0)
        assert (await said(legato)).text() == TEXT + " And on."
        assert played(scripted) == ["cut", "two"]
        leave_alone(legato, "two", 60.0)
        answer = await said(legato)
        assert answer.text() == TEXT
        assert answer.error is not None
        assert answer.error["code"] == "upstream_cut"


# The fastest


def test_one_that_has_only_failed_is_not_first() -> None:
    """Until what was seen of it is old, and it is worth another try."""
    route = Route("m", ("failing", "slow", "untried"), strategy="fastest")
    health = {"failing": Health(open_after=0), "slow": Health(), "untried": Health()}
    for second in range(50):
        health["failing"].record_failure(
            float(second), probe=health["failing"].begin(float(second))
        )
        health["failing"].end()
        health["slow"].record_first_token(
            float(second), 3.0, probe=health["slow"].begin(float(second))
        )
        health["slow"].record_success()
        health["slow"].end()
    plan = Router([route], health, random.Random(5).random).plan(route, 50.0)
    assert plan == ["untried", "slow", "failing"]


def test_a_single_failure_is_enough_to_be_behind_one_that_answers() -> None:
    route = Route("m", ("failed", "well"), strategy="fastest")
    health = {"failed": Health(), "well": Health()}
    health["failed"].record_failure(0.0)
    health["well"].record_first_token(0.0, 0.2)
    assert Router([route], health).plan(route, 0.0) == ["well", "failed"]


# What says nothing of it


async def test_our_own_limit_of_connections_opens_nothing(
    tmp_path: Path, scripted: MockServer
) -> None:
    limits = {"max_connections": 1, "connect_seconds": 0.1}
    slow = {"first_token_seconds": 9.0, "stall_seconds": 9.0, "open_after": 1}
    deploy = {"stall": limits | slow}
    route = {"attempts": 1}
    async with (
        routed(tmp_path, scripted, ["stall"], deploy=deploy, route=route) as legato,
        await Wire.open(legato.port) as wire,
    ):
        wire.send(request(legato.key, chat("public", stream=True)))
        await wire.head()
        for answer in await asyncio.gather(*(said(legato) for _ in range(3))):
            assert answer.error is not None
            assert answer.error["code"] == "upstream_busy"
        assert state_of(legato, "stall") == "closed"
        assert health_of(legato, "stall").failures == 0


OURS: dict[str, tuple[Script, str, dict[str, Any], str]] = {
    "it said another thing": (
        Script(steps=[Step(say="Twice"), Step(finish="stop")]),
        "replay",
        {"seed": 1, "temperature": 0},
        "upstream_diverged",
    ),
    "nothing is left of the limit": (REST, "prefill", {"max_tokens": 10}, "cannot_continue"),
}


@pytest.mark.parametrize("case", OURS)
async def test_what_cannot_be_joined_opens_nothing(
    tmp_path: Path, scripted: MockServer, case: str
) -> None:
    script, how, more, code = OURS[case]
    scripted.scripts["first"] = msgspec.structs.replace(SCRIPTS["cut"], then=script)
    deploy = {
        "first": {"model": "first"},
        "second": {"model": "first", "continue": how, "open_after": 1},
    }
    async with routed(tmp_path, scripted, ["first", "second"], deploy=deploy) as legato:
        answer = await said(legato, **more)
        assert answer.error is not None
        assert answer.error["code"] == "upstream_cut"
        (row,) = await legato.rows()
        assert row["errors"] == f"upstream_cut,{code}"
        assert state_of(legato, "second") == "closed"
        assert health_of(legato, "second").failures == 0
