"""`GET /v1/usage`: a key's own numbers, and what is left of its limits and budgets."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple, replace
from sqlalchemy.exc import OperationalError

from legato.gateway.limiter import Limiter
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.policy.budgets import parse
from legato.policy.keys import create
from legato.policy.ledger import Outcome, Row
from legato.policy.limits import Limits
from legato.server import usage
from legato.store import keys
from legato.store.ledger import OUTCOMES
from legato.store.live_memory import LiveMemory
from legato.store.retention import delete_batch
from legato.store.tables import calls
from legato.store.upsert import Upsert
from tests.conftest import Running, serving, settings_for, until
from tests.support.fault_table import usage as scripted_usage
from tests.support.wire import ask, chat

NUMBERS = ("calls", "prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    """A server whose ledger is empty, without upstreams."""
    async with serving(settings_for(tmp_path, None, **{"engine.models": []})) as running:
        yield running


async def write(legato: Running, rows: list[Row]) -> None:
    async with legato.app.database.begin() as connection:
        await connection.execute(calls.delete())
    if rows:
        upsert = Upsert(legato.app.database, lambda error: pytest.fail(str(error)))
        await upsert.write([astuple(row) for row in rows])


async def add_key(legato: Running, name: str) -> tuple[str, str]:
    """(id, secret) of another key."""
    identity, secret, digest = create()
    await keys.add(legato.app.database, identity, name, digest)
    await until(lambda: any(key.id == identity for key in legato.app.services.keyring))
    return identity, secret


def own(legato: Running) -> Any:
    return next(iter(legato.app.services.keyring))


async def get(legato: Running, query: str = "", secret: str | None = None) -> httpx.Response:
    async with httpx.AsyncClient(base_url=legato.url) as client:
        headers = {"authorization": f"Bearer {secret or legato.key}"}
        return await client.get(f"/v1/usage{query}", headers=headers)


def recent(**fields: Any) -> Row:
    return Row(**{"received": time.time() - 60, "outcome": "complete"} | fields)


names = st.sampled_from(["", "a", "b", "'; DROP TABLE calls; --"])


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_a_key_sees_its_own_rows_alone(server: Running, data: st.DataObject) -> None:
    mine = own(server).id
    others = st.sampled_from([mine, "key_other", None, mine[:-1], mine.upper(), "%", ""])
    row = st.builds(
        recent,
        id=st.uuids().map(str),
        key=others,
        owner=st.just("team"),
        route=names,
        session=names,
        agent=names,
        deployments=st.lists(st.sampled_from("ab"), max_size=2).map(",".join),
        outcome=st.sampled_from(get_args(Outcome)),
        prompt_tokens=st.integers(1, 1000),
        completion_tokens=st.integers(0, 1000),
        cost=st.none() | st.integers(0, 8).map(float),
    )
    rows = data.draw(st.lists(row, max_size=10, unique_by=lambda each: each.id))
    await write(server, rows)
    chosen = [each for each in rows if each.key == mine]
    for by in usage.BY:
        answer = await get(server, f"?by={by}&since=1h")
        assert answer.status_code == 200
        report = answer.json()
        assert report["total"]["calls"] == len(chosen)
        assert report["total"]["prompt_tokens"] == sum(each.prompt_tokens for each in chosen)
        for name in NUMBERS:
            assert sum(each[name] for each in report["rows"]) == report["total"][name]
        assert sum(report["outcomes"].values()) == len(chosen)
        costs = [each["cost"] for each in report["rows"] if each["cost"] is not None]
        assert (sum(costs) if costs else None) == report["total"]["cost"]
        if by in ("route", "session", "agent", "outcome"):
            assert {each[by] for each in report["rows"]} == {getattr(each, by) for each in chosen}


async def test_the_numbers_are_those_of_the_calls(tmp_path: Path, scripted: MockServer) -> None:
    settings = settings_for(tmp_path, await scripted.start(), ["happy", "thinking"])
    async with serving(settings) as legato:
        _, secret = await add_key(legato, "other")
        for model in ("happy", "thinking", "happy"):
            await ask(legato.port, legato.key, chat(model))
        report = (await get(legato, "?by=route")).json()
        nothing = (await get(legato, secret=secret)).json()
    assert report["object"] == "usage"
    assert report["by"] == "route"
    assert report["outcomes"] == dict.fromkeys(OUTCOMES, 0) | {"complete": 3}
    found = {row["route"]: row for row in report["rows"]}
    assert {name: row["calls"] for name, row in found.items()} == {"happy": 2, "thinking": 1}
    tokens = scripted_usage(SCRIPTS["happy"])
    assert found["happy"]["prompt_tokens"] == 2 * tokens["prompt_tokens"]
    assert found["happy"]["completion_tokens"] == 2 * tokens["completion_tokens"]
    assert (nothing["by"], nothing["total"]["calls"], nothing["rows"]) == ("day", 0, [])


async def test_what_retention_deleted_is_told_apart(server: Running) -> None:
    rows = [recent(id=str(each), key=own(server).id, prompt_tokens=5) for each in range(2)]
    await write(server, [*rows, recent(id="other", key="key_other")])
    assert (await get(server)).json()["deleted"] is None
    assert await delete_batch(server.app.database, time.time()) == 3
    report = (await get(server)).json()
    assert (report["total"]["calls"], report["rows"]) == (0, [])
    assert (report["deleted"]["calls"], report["deleted"]["prompt_tokens"]) == (2, 10)


async def test_what_is_older_is_left_out(server: Running) -> None:
    mine = own(server).id
    old = recent(id="old", key=mine)
    old.received -= 7200
    await write(server, [old, recent(id="new", key=mine)])
    assert (await get(server, "?since=1h")).json()["total"]["calls"] == 1
    assert (await get(server, "?since=3h")).json()["total"]["calls"] == 2


async def test_what_is_left(server: Running) -> None:
    services, now = server.app.services, 0.0
    live = LiveMemory(lambda: now)
    key = replace(
        own(server),
        limits=Limits(10, 40_000, None, 3, 4096),
        budget=parse("10usd/month"),
        owner="team",
    )
    services.keyring.replace([key])
    owners = {"team": parse("2Mtokens")}
    services.limiter = Limiter(live, services.router, lambda: now, owners=owners)
    report = (await get(server)).json()
    assert report["limits"] == {
        "requests_per_minute": {"limit": 10, "remaining": 10, "reset_seconds": 0},
        "tokens_per_minute": {"limit": 40_000, "remaining": 40_000, "reset_seconds": 0},
        "concurrent": {"limit": 3, "remaining": 3, "reset_seconds": 0},
        "max_tokens": {"limit": 4096},
    }
    reset = report["budget"].pop("reset_seconds")
    assert 0 < reset <= 31 * 86_400
    assert report["budget"] == {"unit": "usd", "period": "month", "limit": 10, "remaining": 10}
    owned = {"unit": "tokens", "period": "total", "limit": 2e6, "remaining": 2e6}
    assert report["owner_budget"] == owned | {"reset_seconds": None}
    await live.load({f"owner:{key.owner}:tokens:total": 500.0})
    assert (await get(server)).json()["owner_budget"]["remaining"] == 2e6 - 500
    assert live.permits == 0, "asking takes nothing"


async def test_a_key_without_limits(server: Running) -> None:
    report = (await get(server)).json()
    assert (report["limits"], report["budget"], report["owner_budget"]) == ({}, None, None)


MISTAKES = {
    "?since=1y": ("since", "invalid_value", "`since`: `1y` is not a time such as 30m, 24h"),
    "?since=7d'%20OR%201=1": ("since", "invalid_value", "is not a time"),
    "?by=key": ("by", "invalid_value", "`by` is one of day, route, outcome"),
    "?by=owner": ("by", "invalid_value", "`by` is one of"),
    "?by=": ("by", "invalid_value", "`by` is one of"),
    "?by=day;drop": ("by", "invalid_value", "`by` is one of"),
    "?key=key_other": ("key", "unknown_parameter", "`key` is not a parameter"),
}


@pytest.mark.parametrize("query", MISTAKES)
async def test_mistakes(server: Running, query: str) -> None:
    answer = await get(server, query)
    param, code, message = MISTAKES[query]
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]


async def test_without_a_key_there_is_nothing(server: Running) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        missing = await client.get("/v1/usage")
    wrong = await get(server, secret="lg-wrong")
    assert [missing.status_code, wrong.status_code] == [401, 401]
    codes = [each.json()["error"]["code"] for each in (missing, wrong)]
    assert codes == ["missing_api_key", "invalid_api_key"]


async def test_too_many_rows_are_refused(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_ROWS", 2)
    mine = own(server).id
    rows = [recent(id=str(number), key=mine, session=str(number)) for number in range(3)]
    await write(server, rows[:2])
    assert len((await get(server, "?by=session")).json()["rows"]) == 2
    await write(server, rows)
    answer = await get(server, "?by=session")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "too_many_rows"
    assert (await get(server, "?by=day")).json()["total"]["calls"] == 3


async def test_a_database_that_is_away(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> None:
        raise OperationalError("SELECT secret", {}, OSError("postgresql://user:secret@host"))

    with monkeypatch.context() as patched:
        patched.setattr(server.app.ledger, "flush", away)
        answer = await get(server)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "ledger_unavailable"
    assert "secret" not in answer.text
    server.app.ledger.is_reachable = False
    assert (await get(server)).status_code == 503
    server.app.ledger.is_reachable = True
    assert (await get(server)).status_code == 200
