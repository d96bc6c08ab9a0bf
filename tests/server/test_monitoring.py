"""`/metrics`: who may ask, where it is served, and what a running server tells."""

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from legato.gateway.limiter import Limiter, RouteLimits
from legato.gateway.route_queue import RouteQueue
from legato.mock.server import MockServer
from legato.policy.ledger import Row
from legato.policy.model_names import not_found
from legato.policy.routing import Route, Router
from legato.server import gauges
from legato.server.app import App
from legato.server.metrics import Metrics
from legato.store.live import Crossed
from legato.store.live_memory import LiveMemory
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import ask, chat

TOKEN = "t0ken-of-the-metrics"

LABELS = ("outcome", "kind", "route", "deployment", "front", "state", "model")


def served(tmp_path: Path, upstream: str | None, models: Any = (), **metrics: Any) -> Any:
    more = {f"metrics.{name}": value for name, value in metrics.items()}
    engine = {} if upstream is not None else {"engine.models": []}
    return serving(settings_for(tmp_path, upstream, models, **more, **engine))


async def get(url: str, token: str | None = None, method: str = "GET") -> httpx.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient() as client:
        return await client.request(method, url, headers=headers)


def values(text: str) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, in the order of `LABELS`."""
    return {
        (
            sample.name.removeprefix("legato_"),
            *(sample.labels[each] for each in LABELS if each in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def told(legato: Running) -> dict[tuple[str, ...], float]:
    answer = await get(f"{legato.url}/metrics", TOKEN)
    assert answer.status_code == 200
    return values(answer.text)


# Who may ask


async def test_without_a_token_and_a_port_there_are_none(tmp_path: Path) -> None:
    async with served(tmp_path, None) as legato:
        answer = await get(f"{legato.url}/metrics", legato.key)
        assert legato.app.services.on_settled is None
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_path"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_token"),
        (TOKEN, "missing_token"),
        (f"Basic {TOKEN}", "missing_token"),
        ("Bearer", "invalid_token"),
        ("Bearer wrong", "invalid_token"),
        (f"Bearer {TOKEN}x", "invalid_token"),
        (f"Bearer {TOKEN[:-1]}", "invalid_token"),
        ("Bearer t\xf6ken", "invalid_token"),
        ("Bearer KEY", "invalid_token"),  # an API key
    ],
)
async def test_a_token_is_needed(tmp_path: Path, header: str | None, code: str) -> None:
    async with served(tmp_path, None, token=TOKEN) as legato:
        value = header.replace("KEY", legato.key).encode("latin-1") if header else None
        headers = {} if value is None else {b"authorization": value}
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{legato.url}/metrics", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == code
    assert TOKEN not in answer.text
    assert "legato_" not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_token_opens_them(tmp_path: Path, scheme: str) -> None:
    async with served(tmp_path, None, token=TOKEN) as legato:
        async with httpx.AsyncClient() as client:
            headers = {"authorization": f"{scheme} {TOKEN}"}
            answer = await client.get(f"{legato.url}/metrics", headers=headers)
        post = await get(f"{legato.url}/metrics", TOKEN, "POST")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert values(answer.text)[("database_reachable",)] == 1
    assert post.status_code == 405


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_a_port_of_their_own(tmp_path: Path, token: str | None) -> None:
    async with served(tmp_path, None, port=0, token=token) as legato:
        url = legato.app.monitoring.server.url
        assert url.startswith("http://127.0.0.1:")
        assert f":{legato.port}/" not in url
        assert (await get(url, token)).status_code == 200
        assert (await get(url, token, "HEAD")).status_code == 200
        assert (await get(url.replace("metrics", "v1/models"), token)).status_code == 404
        assert (await get(f"{legato.url}/metrics", token or "x")).status_code == 404
        for wrong in (None, "wrong"):
            answer = await get(url, wrong)
            assert answer.status_code == (200 if token is None else 401)
            assert ("legato_" in answer.text) == (token is None)
    with pytest.raises(httpx.ConnectError):  # it ends with the server
        await get(url, token)


async def test_a_client_that_says_nothing_does_not_keep_the_server_from_ending(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, None, port=0) as legato:
        url = httpx.URL(legato.app.monitoring.server.url)
        _, writer = await asyncio.open_connection("127.0.0.1", url.port)
        _, second = await asyncio.open_connection("127.0.0.1", url.port)
        second.write(b"GET /metr")
    for each in (writer, second):
        each.close()


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = settings_for(tmp_path, None, **{"metrics.port": port, "engine.models": []})
        app = App(settings, {})
        with pytest.raises(
            OSError, match=rf"metrics: cannot listen on 127.0.0.1, port {port}: Addr"
        ):
            await app.open()
        await app.close()


# What they tell


async def test_calls_are_counted_under_configured_names(
    tmp_path: Path, scripted: MockServer
) -> None:
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["happy"],
        **{"metrics.token": TOKEN, "aliases": {"other": "happy"}},
    )
    async with serving(settings) as legato:
        for model in ("happy", "other", "secret-model"):
            await ask(legato.port, legato.key, chat(model, stream=True))
        found = await told(legato)
        text = (await get(f"{legato.url}/metrics", TOKEN)).text
        (key,) = legato.app.services.keyring
    where = ("happy", "at-happy", "chat")
    assert found[("calls_total", "complete", *where)] == 2
    assert found[("calls_total", "refused", "none", "none", "chat")] == 1
    assert found[("tokens_total", "completion", *where)] == 20
    assert found[("first_token_seconds_count", *where)] == 2
    assert found[("call_seconds_count", *where)] == 2
    assert [each for each in (key.id, legato.key, "secret-model", "other") if each in text] == []
    assert "_created" not in text


async def test_streams_in_progress(tmp_path: Path, scripted: MockServer) -> None:
    models = ["stall", "happy"]
    async with served(tmp_path, await scripted.start(), models, token=TOKEN) as legato:
        found = await told(legato)
        assert (found[("open_streams",)], found[("permits", "at-stall")]) == (0, 0)
        async with httpx.AsyncClient(headers=legato.auth, base_url=legato.url) as client:
            path, body = "/v1/chat/completions", chat("stall", stream=True)
            async with client.stream("POST", path, json=body) as answer:
                assert answer.status_code == 200
                found = await told(legato)
                assert (found[("open_streams",)], found[("permits", "at-stall")]) == (1, 1)
                unstreamed = asyncio.create_task(ask(legato.port, legato.key, chat("stall")))
                await until(lambda: len(scripted.requests) == 2)
                assert (await told(legato))[("open_streams",)] == 1
                unstreamed.cancel()
        await until(lambda: legato.app.services.open_streams == 0)
        await until(lambda: legato.busy == 0)
        found = await told(legato)
    assert found[("permits", "at-stall")] == 0
    assert found[("calls_total", "cancelled", "stall", "at-stall", "chat")] == 2


@pytest.mark.parametrize("name", ["happy", "500", "400", "cut", "unknown"])
@pytest.mark.parametrize("stream", [True, False])
async def test_no_stream_stays_open(
    tmp_path: Path, scripted: MockServer, name: str, stream: bool
) -> None:
    models = ["happy", "500", "400", "cut"]
    async with served(tmp_path, await scripted.start(), models, token=TOKEN) as legato:
        await ask(legato.port, legato.key, chat(name, stream=stream))
        await ask(legato.port, legato.key, b"{")
        await until(lambda: legato.app.services.open_streams == 0)


async def test_breakers(tmp_path: Path, scripted: MockServer) -> None:
    deploy = {"open_after": 1, "open_seconds": 60.0}
    settings = settings_for(
        tmp_path, await scripted.start(), ["500"], deploy=deploy, **{"metrics.token": TOKEN}
    )
    async with serving(settings) as legato:
        states = ("closed", "open", "half-open")
        found = await told(legato)
        assert [found[("breaker", "at-500", each)] for each in states] == [1, 0, 0]
        await ask(legato.port, legato.key, chat("500"))
        found = await told(legato)
        assert [found[("breaker", "at-500", each)] for each in states] == [0, 1, 0]


@asynccontextmanager
async def queued(legato: Running, route: str) -> AsyncIterator[None]:
    """One call of the route goes on, and another waits."""
    services = legato.app.services
    queue = RouteQueue(1, 10, 60.0, services.clock)
    services.limiter = Limiter(
        LiveMemory(), services.router, services.clock, routes={route: RouteLimits(queue=queue)}
    )
    await queue.enter("a")
    waiting = asyncio.create_task(queue.enter("b"))
    await until(lambda: queue.waiting == 1)
    yield
    queue.leave(1.0)
    await waiting
    queue.leave(1.0)


async def test_queues_and_what_is_reachable(tmp_path: Path, scripted: MockServer) -> None:
    async with served(tmp_path, await scripted.start(), ["happy"], token=TOKEN) as legato:
        found = await told(legato)
        assert found[("live_state_reachable",)] == found[("database_reachable",)] == 1
        assert found[("journal_bytes",)] == found[("journal_rows",)] == 0
        async with queued(legato, "happy"):
            limiter = legato.app.services.limiter
            limiter.live.is_reachable = False  # type: ignore[misc]
            legato.app.ledger.is_reachable = False
            found = await told(legato)
            assert found[("waiting", "happy")] == 1
            assert found[("live_state_reachable",)] == found[("database_reachable",)] == 0
        assert (await told(legato))[("waiting", "happy")] == 0
        answer = await ask(legato.port, legato.key, chat("happy"))
        assert answer.status == 200
        assert (await told(legato))[("journal_bytes",)] > 0


async def test_a_failure_to_count_fails_no_call(
    tmp_path: Path, scripted: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, await scripted.start(), ["happy"], token=TOKEN) as legato:
        bugs: list[BaseException] = []
        legato.app.services.on_bug = bugs.append
        assert legato.app.monitoring is not None
        monkeypatch.setattr(legato.app.monitoring.metrics, "observe", lambda row: 1 / 0)
        answer = await ask(legato.port, legato.key, chat("happy", stream=True))
        assert answer.status == 200
        await until(lambda: bugs)
        assert isinstance(bugs[0], ZeroDivisionError)
        await until(lambda: legato.app.services.open_streams == 0)


# The route of a model


def test_the_route_of_a_model() -> None:
    routes = [Route("smol", ("a",)), Route("claude-*", ("b",))]
    find = gauges.route_of(Router(routes, aliases={"opus": "claude-opus-5", "s": "smol"}))
    for model, wanted in {
        "smol": "smol",
        "s": "smol",
        "opus": "claude-*",
        "claude-x": "claude-*",
        "claude-*": None,
        "unknown": None,
        "x" * 10_000_000: None,
        "": None,
    }.items():
        assert find(model) == wanted
        assert find(model) == wanted


def test_routes_of_models_are_kept_within_bounds() -> None:
    asked: list[str] = []

    class Counting(Router):
        def find(self, model: str) -> Route:
            asked.append(model)
            raise not_found(model)

    find = gauges.route_of(Counting([]))
    assert find("a") is find("a") is None
    assert asked == ["a"], "looked up once"
    for number in range(5000):
        find(f"model {number}")
    find("a")
    assert asked[-1] == "a", "and forgotten for others"


# The docs


def test_the_docs_tell_each_metric(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(
            r"^\| `(legato_\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE
        )
    }
    router = Router([Route("smol", ("a",))])
    limiter = Limiter(LiveMemory(), router, time.monotonic)
    services: Any = SimpleNamespace(
        router=router, limiter=limiter, clock=time.monotonic, open_streams=0
    )
    ledger: Any = SimpleNamespace(waiting=0, journal_bytes=0, is_reachable=True)
    found = gauges.gauges(services, ledger, [])
    metrics = Metrics(lambda model: model, found)
    metrics.observe(Row("one", 0.0, route="smol", outcome="complete", prompt_tokens=1, cost=1.0))
    metrics.crossed(Crossed("key:1:usd:total", "budget_usd", 50, 1.0, 2.0))
    text = metrics.render().decode()
    known = {
        name: (kind, set[str]()) for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", text, re.M)
    }
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.M):
        base = name if name in known else name.rpartition("_")[0]
        known[base][1].update(set(re.findall(r'(\w+)="', labels)) - {"le"})
    for gauge in found:
        known[f"legato_{gauge.name}"][1].update(gauge.labels)
    assert documented == known
