"""The ledger: one row a call, whatever its outcome, and the numbers of whoever knows them."""

import asyncio
import contextlib
import gc
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.policy.ledger import Row
from legato.store.database import Database
from legato.store.ledger import Writer
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Wire, ask, chat, request


async def usage(data: str | Path, *arguments: str, database: str | None = None) -> dict[str, Any]:
    """What `legato usage --json` says, beside a running server or without one."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "legato", "usage", "--json", "--data", str(data), *arguments),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | ({"LEGATO_DATABASE": database} if database else {}),
    )
    out, _ = await child.communicate()
    assert child.returncode == 0
    return json.loads(out)


async def rows_of(legato: Running) -> list[dict[str, Any]]:
    await legato.app.ledger.flush()
    return (await usage(legato.app.settings.data))["rows"]


CASES: dict[str, tuple[str, str | None, str, int, int]] = {
    # script: outcome, error, provenance of the completion, completion and reasoning tokens
    "happy": ("complete", None, "exact", 10, 0),
    "thinking": ("complete", None, "exact", 7, 4),
    "usage-nowhere": ("complete", None, "counted", 10, 0),
    "reasoning-field": ("complete", None, "exact", 4, 2),
    "cut": ("failed", "upstream_cut", "counted", 10, 0),
    "usage-early": ("complete", None, "exact", 10, 0),
    "stall": ("failed", "upstream_stalled", "counted", 10, 0),
    "error-in-band": ("failed", "gpu_lost", "counted", 10, 0),
    "500": ("failed", "upstream_500", "none", 0, 0),
    "400": ("refused", "bad_param", "none", 0, 0),
    "finish-only": ("complete", None, "exact", 0, 0),
}


@pytest.mark.parametrize("stream", [True, False])
async def test_one_row_for_every_outcome(legato: Running, stream: bool) -> None:
    ids: dict[str, str] = {}
    for name in CASES:
        answer = await ask(legato.port, legato.key, chat(name, stream=stream))
        ids[answer.headers["x-request-id"].replace("req_", "chatcmpl-")] = name
    for name, row in [(ids[row["id"]], row) for row in await rows_of(legato)]:
        outcome, error, source, completion, reasoning = CASES[name]
        assert (row["outcome"], row["error"]) == (outcome, error), name
        assert row["completion_from"] == source, name
        assert (row["completion_tokens"], row["reasoning_tokens"]) == (completion, reasoning), name
        assert row["route"] == name
        assert row["deployments"] == f"at-{name}"
        assert row["duration"] > 0
        assert (row["ttft"] is not None) == (completion > 0), name
        if source == "exact":
            assert (row["prompt_tokens"], row["cached_tokens"]) == (7, 3)
        if stream and outcome == "complete":
            assert row["frames"] >= 2
            assert row["upstream_id"] == "scripted-1"
        del ids[row["id"]]
    assert not ids, "rows are missing"


async def test_who_asked_and_through_which_front(legato: Running) -> None:
    programs = {"claude-cli/2.1.197 (external, cli)": "claude-code/2.1.197", "": None}
    for user_agent in programs:
        await ask(legato.port, legato.key, chat("happy"), user_agent=user_agent)
    titled = {"user_agent": "OpenAI/JS 6.40.0", "x_title": "Roo Code"}
    await ask(legato.port, legato.key, chat("happy"), **titled)
    await ask(legato.port, legato.key, b"{", user_agent="curl/8.5.0")
    rows = await rows_of(legato)
    assert [row["agent"] for row in rows] == [*programs.values(), "roo-code", "curl/8.5.0"]
    assert {row["front"] for row in rows} == {"chat"}
    assert {(row["session"], row["stripped_reasoning"]) for row in rows} == {(None, 0)}
    (by_agent, by_front) = [
        await usage(legato.app.settings.data, "--by", each) for each in ("agent", "front")
    ]
    groups = [(row["agent"], row["calls"]) for row in by_agent["rows"]]
    assert groups == [(None, 1), ("claude-code/2.1.197", 1), ("curl/8.5.0", 1), ("roo-code", 1)]
    assert [(row["front"], row["calls"]) for row in by_front["rows"]] == [("chat", 4)]


async def test_refused_calls_and_strangers(legato: Running) -> None:
    for body in (b"{", chat("nothing"), chat("happy", n=0)):
        await ask(legato.port, legato.key, body)
    await ask(legato.port, "lg-nobody", chat("happy"))
    rows = await rows_of(legato)
    assert [(row["outcome"], row["error"]) for row in rows] == [
        ("refused", "invalid_json"),
        ("refused", "model_not_found"),
        ("refused", "invalid_value"),
    ]


async def test_a_client_that_leaves(legato: Running) -> None:
    for name, pieces in (("slow", 2), ("stall-early", 0)):
        async with await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat(name, stream=True)))
            await wire.head()
            for _ in range(pieces):
                await wire.chunk()
        await until(lambda: not legato.server.server_state.tasks)
    slow, stalled = await rows_of(legato)
    assert (slow["outcome"], stalled["outcome"]) == ("cancelled", "cancelled")
    assert slow["completion_from"] == "counted"
    assert slow["completion_tokens"] >= 1
    assert stalled["completion_from"] == "none"


async def test_no_text_of_a_conversation_is_stored(legato: Running) -> None:
    await ask(legato.port, legato.key, chat("happy", user="somebody"))
    await legato.app.ledger.flush()
    folder = legato.app.settings.data_dir
    files = [*folder.glob("legato.db*"), *folder.glob("journal/*")]
    assert len(files) > 2
    stored = b"".join(path.read_bytes() for path in files)
    for word in (b"Hello", b"Once upon", b"somebody", legato.key.encode()):
        assert word not in stored


async def test_500_calls_of_every_kind_add_up(legato: Running, scripted: MockServer) -> None:
    """The scripted upstream's own count is known: sums must be equal call by call."""
    draw = random.Random(7)
    kinds = ["happy", "thinking", "tools", "choices", "usage-nowhere", "cut", "500", "slow"]
    wanted: list[str] = [draw.choice(kinds) for _ in range(500)]
    room = asyncio.Semaphore(20)

    async def one(name: str) -> None:
        async with room, await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat(name, stream=True)))
            if name == "slow":
                await wire.head()
                for _ in range(draw.randrange(3)):
                    await wire.chunk()
            else:
                await wire.answer()

    await asyncio.gather(*(one(name) for name in wanted))
    await until(lambda: not legato.server.server_state.tasks)
    await legato.app.ledger.flush()
    report = await usage(legato.app.settings.data)
    rows = report["rows"]
    assert len(rows) == report["total"]["calls"] == 500
    assert len({row["id"] for row in rows}) == 500
    for name in kinds:
        of_kind = [row for row in rows if row["route"] == name]
        played = [each for each in scripted.requests if each.model == name]
        assert len(of_kind) == len(played) == wanted.count(name)
        if name != "slow":
            seen = sum(row["completion_tokens"] for row in of_kind)
            assert seen == sum(each.content_tokens + each.reasoning_tokens for each in played), name
            reasoned = sum(row["reasoning_tokens"] for row in of_kind)
            assert reasoned == sum(each.reasoning_tokens for each in played), name
    assert report["outcomes"]["cancelled"] == wanted.count("slow")
    for column in (
        "prompt_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "cached_tokens",
        "cache_write_tokens",
    ):
        assert report["total"][column] == sum(row[column] for row in rows)
    by_route = await usage(legato.app.settings.data, "--by", "route")
    assert {row["route"]: row["calls"] for row in by_route["rows"]} == {
        name: wanted.count(name) for name in set(wanted)
    }


async def test_a_stop_at_any_moment_leaves_nothing_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.store.ledger.BATCH_SECONDS", 0.0)
    database = await Database.open(tmp_path)
    moments = random.Random(1)
    gc.disable()  # what is left is found late
    for number in range(100):
        writer = Writer(database, lambda error: pytest.fail(str(error)))
        for row in range(5):
            writer.put(f"{number}-{row}", Row(f"{number}-{row}", 0.0))
        then = time.monotonic() + 0.005 * moments.random()
        while time.monotonic() < then:
            await asyncio.sleep(0)
        await writer.stop()
        with contextlib.closing(sqlite3.connect(tmp_path / "legato.db", timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert other.execute("SELECT count(*) FROM calls").fetchone() == (5 * number + 5,)
    gc.enable()
    await database.close()


async def test_rows_left_open_by_a_crash(tmp_path: Path, scripted: MockServer) -> None:
    base = await scripted.start()
    config = tmp_path / "legato.toml"
    config.write_text(
        f'[[deployments]]\nname = "stall"\nbase_url = "{base}"\nmodel = "stall"\n'
        "[server]\nport = 0\n"
    )
    data = tmp_path / "data"
    command = ["-m", "legato", "serve", "--config", str(config), "--data", str(data)]
    child = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    port = 0
    while not port:
        line = (await child.stdout.readline()).decode()
        assert line or child.returncode is None
        if line.startswith("Legato is listening"):
            port = int(line.rpartition(":")[2])
    key = (data / "key").read_text().strip()
    wires = [await Wire.open(port) for _ in range(50)]
    for wire in wires:
        wire.send(request(key, chat("stall", stream=True)))
    for wire in wires:
        await wire.head()
        await wire.chunk()

    async def opened() -> int:
        return (await usage(data))["outcomes"]["open"]

    while await opened() < 50:
        pass
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    for wire in wires:
        await wire.__aexit__()
    settings = settings_for(tmp_path, base, ["happy"], data=str(data))
    async with serving(settings, key=key):
        report = await usage(data)
    assert report["outcomes"]["interrupted"] == report["total"]["calls"] == 50
    assert len({row["id"] for row in report["rows"]}) == 50


def test_usage_at_a_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "legato", "usage", "--data", str(tmp_path)]
    empty = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0 calls: none" in empty.stdout
    wrong = subprocess.run([*command, "--since", "soon"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--since" in wrong.stderr


def test_every_script_is_known_by_the_table() -> None:
    assert set(CASES) <= set(SCRIPTS)
