"""`legato routes` and what it reads, GET /legato/routes: how the deployments are doing."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rich.cells import cell_len

from legato.cli.routes import Deployment, Route, _print_routes
from legato.mock.server import MockServer
from tests.cli.test_cli import cli
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Wire, ask, chat, request


@asynccontextmanager
async def running(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Running]:
    base = await scripted.start()
    settings = settings_for(
        tmp_path,
        None,
        deployments=[
            {"name": "broken", "base_url": base, "model": "500", "open_after": 1},
            {"name": "good", "base_url": base, "model": "happy", "open_seconds": 100},
            {"name": "long", "base_url": base, "model": "stall"},
        ],
        routes=[{"model": "both", "deployments": ["broken", "good"]}],
    )
    async with serving(settings) as legato:
        yield legato


async def test_what_a_server_says_of_its_deployments(tmp_path: Path, scripted: MockServer) -> None:
    async with running(tmp_path, scripted) as legato, legato.client() as client:

        async def states() -> dict[str, dict[str, float | str | None]]:
            body = (await client.get("/legato/routes")).json()
            assert body["object"] == "list"
            assert [(each["model"], each["strategy"]) for each in body["data"]] == [
                ("both", "order"),
                ("long", "order"),
            ]
            found = [each for route in body["data"] for each in route["deployments"]]
            return {each["name"]: each for each in found}

        fresh = {
            "weight": None,
            "state": "closed",
            "seconds_left": None,
            "busy": 0,
            "calls": 0,
            "failures": 0,
            "ttft": None,
            "failing": 0.0,
        }
        names = ("broken", "good", "long")
        assert await states() == {name: {"name": name} | fresh for name in names}

        assert (await ask(legato.port, legato.key, chat("both"))).status == 200
        async with await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat("long", stream=True)))
            await wire.head()
            await wire.chunk()
            found = await states()
        broken, good, long = (found[name] for name in names)
        assert (broken["state"], broken["calls"], broken["failures"]) == ("open", 1, 1)
        assert 0 < broken["seconds_left"] <= 10
        assert 0 < broken["failing"] < 1
        assert (good["state"], good["calls"], good["failures"]) == ("closed", 1, 0)
        assert good["ttft"] > 0
        assert (long["busy"], long["calls"]) == (1, 1)
        await until(lambda: not legato.server.server_state.tasks, "the call is settled")
        assert (await states())["long"]["busy"] == 0


async def test_it_takes_a_key(tmp_path: Path, scripted: MockServer) -> None:
    async with running(tmp_path, scripted) as legato, legato.client() as client:
        for headers in ({"authorization": "Bearer nobody's"}, {"authorization": ""}):
            response = await client.get("/legato/routes", headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"
        assert (await client.post("/legato/routes")).status_code == 405


async def test_the_command_shows_a_table(tmp_path: Path, scripted: MockServer) -> None:
    async with running(tmp_path, scripted) as legato:
        await ask(legato.port, legato.key, chat("both"))
        data = legato.app.settings.data
        where = ("routes", "--base-url", f"{legato.url}/v1", "--data", data)
        code, out, err = await cli(*where)
        assert (code, err) == (0, "")
        heading, broken, good, long = out.splitlines()
        assert heading.split() == [
            "model",
            "deployment",
            "state",
            "busy",
            "calls",
            "failures",
            "failing",
            "TTFT",
        ]
        assert broken.split()[:4] == ["both", "(order)", "broken", "open,"]
        assert good.split()[:5] == ["good", "closed", "0", "1", "0"]
        assert long.split() == ["long", "long", "closed", "0", "0", "0", "0%", "-"]
        code, out, _ = await cli(*where, "--json")
        assert code == 0
        assert [each["model"] for each in json.loads(out)] == ["both", "long"]
        code, out, err = await cli(*where, "--key", "lg-nobody")
        assert (code, out) == (1, "")
        assert err == "legato: This API key is not valid.\n"


@pytest.mark.parametrize("width", [60, 80])
def test_routes_fit_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    name = "a-deployment-in-a-far-away-region-with-a-long-name"
    deployments = [
        Deployment(f"{number}-{name}", None, state, left, 1000, 1_000_000, 1_000, 118.321, 0.99)
        for number, (state, left) in enumerate([("open", 299.5), ("half-open", None)])
    ]
    _print_routes([Route("company/" + name, "least-busy", deployments)])
    heading, first, second = capsys.readouterr().out.splitlines()
    assert all(cell_len(line) <= width for line in (heading, first, second))
    assert "open, 300 s left" in first
    assert "half-open" in second
    for line in (first, second):
        assert line.endswith(" 118.321 s")
    assert heading.endswith(" TTFT")


async def test_one_sentence_says_that_no_server_answers(tmp_path: Path) -> None:
    where = ("routes", "--data", str(tmp_path), "--base-url", "http://127.0.0.1:1/v1")
    message = "no server answers at http://127.0.0.1:1: start one with `legato serve`"
    assert await cli(*where) == (1, "", f"legato: {message}\n")


async def test_what_answers_may_be_another_server(scripted: MockServer) -> None:
    base = await scripted.start()
    code, out, err = await cli("routes", "--base-url", base)
    assert (code, out) == (1, "")
    assert "is not a Legato server" in err
    assert err.count("\n") == 1
