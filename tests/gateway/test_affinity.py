"""Routes with affinity: the calls of one session go to one deployment."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legato.cli.routes import Route, _model
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from legato.policy.sessions import by_preference
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Wire, ask, chat, request

NAMES = ("a", "b")


@pytest.fixture
async def mocks() -> AsyncIterator[dict[str, MockServer]]:
    broken = Script(steps=[*SCRIPTS["happy"].steps[:2], Step(raw="data: {\n\n")])
    servers = {name: MockServer(SCRIPTS | {"breaks": broken}) for name in NAMES}
    yield servers
    for server in servers.values():
        await until(lambda server=server: server.open_connections == 0, "no connection is left")
        await server.stop()


@pytest.fixture
async def running(tmp_path: Path, mocks: dict[str, MockServer]) -> AsyncIterator[Running]:
    bases = {name: await server.start() for name, server in mocks.items()}
    deployments: list[dict[str, Any]] = [
        {"name": name, "base_url": base, "model": "*", "open_after": 1, "open_seconds": 100}
        for name, base in bases.items()
    ]
    routes = [
        {"model": "*", "deployments": list(NAMES), "affinity": "session"},
        {"model": "happy", "deployments": list(NAMES)},
    ]
    settings = settings_for(
        tmp_path, None, deployments=deployments, routes=routes, aliases={"sticky": "thinking"}
    )
    async with serving(settings) as server:
        yield server


def asked(mocks: dict[str, MockServer]) -> list[str]:
    """The deployments that were asked, in no order."""
    return [name for name, server in mocks.items() for _ in server.requests]


def first_of(session: str) -> str:
    return by_preference(session, NAMES, {})[0]


def session_of(name: str) -> str:
    """A session that prefers this deployment."""
    return next(each for each in map(str, range(100)) if first_of(each) == name)


async def call(running: Running, model: str, session: str, **more: Any) -> str:
    """The deployment that answers."""
    headers = {"x-claude-code-session-id": session}
    answer = await ask(running.port, running.key, chat(model, **more), **headers)
    assert answer.status == 200, answer.body
    return answer.headers["x-legato-deployment"]


async def test_a_session_stays_with_one_deployment(running: Running) -> None:
    sessions = [f"s{number}" for number in range(8)]
    found = {
        session: {await call(running, "usage-early", session) for _ in range(5)}
        for session in sessions
    }
    assert found == {session: {first_of(session)} for session in sessions}
    assert {first_of(session) for session in sessions} == set(NAMES)


#: (headers, members) that name a session.
WAYS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "header": ({"session-id": "ID"}, {}),
    "cache key": ({}, {"prompt_cache_key": "ID"}),
    "user": ({}, {"metadata": {"user_id": '{"session_id": "ID"}'}}),
}


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_to_name_a_session(running: Running, way: str) -> None:
    headers, members = WAYS[way]
    for number in range(6):
        session = f"session {number}"
        body = chat("sticky") | {
            name: {k: v.replace("ID", session) for k, v in value.items()}
            if isinstance(value, dict)
            else value.replace("ID", session)
            for name, value in members.items()
        }
        more = {name: value.replace("ID", session) for name, value in headers.items()}
        answer = await ask(running.port, running.key, body, **more)
        assert answer.headers["x-legato-deployment"] == first_of(session)


async def test_the_prompt_names_a_session(running: Running, mocks: dict[str, MockServer]) -> None:
    for number in range(8):
        messages = [{"role": "user", "content": f"Task {number}"}]
        for _ in range(3):
            body = chat("thinking") | {"messages": messages}
            assert (await ask(running.port, running.key, body)).status == 200
            messages = [*messages, {"role": "assistant", "content": "Yes?"}, messages[0]]
    turns = Counter(
        (name, each.request["messages"][0]["content"])
        for name, server in mocks.items()
        for each in server.requests
    )
    assert set(turns.values()) == {3}, "all turns of a task at one deployment"
    assert set(asked(mocks)) == set(NAMES)


async def test_a_route_without_affinity(running: Running, mocks: dict[str, MockServer]) -> None:
    for number in range(6):
        await call(running, "happy", str(number))
    assert asked(mocks) == ["a"] * 6


@pytest.mark.parametrize("first", NAMES)
async def test_health_moves_a_session(
    running: Running, mocks: dict[str, MockServer], first: str
) -> None:
    session = session_of(first)
    (second,) = set(NAMES) - {first}
    mocks[first].scripts["thinking"] = SCRIPTS["500"]
    assert await call(running, "thinking", session) == second
    assert sorted(asked(mocks)) == ["a", "b"], "its first choice was asked, and failed"
    assert await call(running, "thinking", session) == second
    assert Counter(asked(mocks))[first] == 1, "its circuit breaker is open"
    mocks[first].scripts["thinking"] = SCRIPTS["thinking"]
    running.app.services.router.health[first].reset()
    assert await call(running, "thinking", session) == first


async def test_load_moves_calls(running: Running, mocks: dict[str, MockServer]) -> None:
    """Calls of one session that are open at once are not all left to one deployment."""
    session = session_of("b")
    wires: list[Wire] = []
    for _ in range(8):
        wire = await Wire.open(running.port)
        headers = {"session-id": session}
        wire.send(request(running.key, chat("stall", stream=True), **headers))
        await asyncio.wait_for(wire.head(), 10)
        wires.append(wire)
    found = Counter(asked(mocks))
    for wire in wires:
        await wire.__aexit__()
    assert found["b"] >= found["a"] > 0
    assert found["b"] <= 1.25 * 4 + 2
    await until(lambda: not running.server.server_state.tasks, "the calls are settled")
    assert await call(running, "usage-early", session) == "b"


async def test_what_is_shown(running: Running) -> None:
    async with running.client() as client:
        shown = (await client.get("/legato/routes")).json()["data"]
    assert {each["model"]: each["affinity"] for each in shown} == {"*": "session", "happy": "none"}
    two: list[Any] = [None, None]
    assert _model(Route("m", "order", two, ["n"], "session")) == "m (by session; also n)"
    assert _model(Route("m", "order", two)) == "m (order)"


#: Path and members of a request in another client format that names a session.
FORMATS: dict[str, dict[str, Any]] = {
    "/v1/messages": {
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Hello"}],
        "metadata": {"user_id": '{"device_id": "d", "session_id": "ID"}'},
    },
    "/v1/responses": {"input": "Hello", "prompt_cache_key": "ID"},
}


@pytest.mark.parametrize("path", FORMATS)
async def test_sessions_of_other_client_formats(running: Running, path: str) -> None:
    for number in range(6):
        session = f"session {number}"
        text = json.dumps({"model": "thinking"} | FORMATS[path]).replace("ID", session)
        answer = await ask(running.port, running.key, text.encode(), path=path)
        assert answer.status == 200, answer.body
        assert answer.headers["x-legato-deployment"] == first_of(session)
