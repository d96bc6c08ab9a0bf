"""What a deployment's own settings say: how long it is waited for, what becomes of the answer of a
client that has left."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Wire, ask, chat, request


@asynccontextmanager
async def deployed(tmp_path: Path, scripted: MockServer, **deploy: Any) -> AsyncIterator[Running]:
    base = await scripted.start()
    scripted.scripts["endless"] = Script(
        steps=[Step(say="x", repeat=10_000, every=0.01), Step(finish="stop")]
    )
    settings = settings_for(
        tmp_path,
        base,
        [*SCRIPTS, "endless"],
        deploy=deploy,
        **{"streams.gate_seconds": 0.1, "streams.heartbeat_seconds": 0.1},
    )
    async with serving(settings) as running:
        yield running


async def leave(legato: Running, body: dict[str, Any], pieces: int) -> None:
    async with await Wire.open(legato.port) as wire:
        wire.send(request(legato.key, body))
        if pieces:
            await wire.head()
        for _ in range(pieces):
            await wire.chunk()
        else:
            await until(lambda: legato.busy, "the upstream was asked")


@pytest.mark.parametrize("pieces", [0, 2])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_drained_answer_is_heard_to_its_end(
    tmp_path: Path, scripted: MockServer, stream: bool, pieces: int
) -> None:
    async with deployed(tmp_path, scripted, on_disconnect="drain") as legato:
        await leave(legato, chat("slow", stream=stream), pieces if stream else 0)
        await until(lambda: not legato.server.server_state.tasks, "the call is settled")
        assert scripted.requests[-1].is_complete
        said = await legato.rows()
        assert [(each["outcome"], each["completion_from"]) for each in said] == [
            ("cancelled", "exact")
        ]
        assert said[0]["completion_tokens"] == 10


@pytest.mark.parametrize("name", ["cut", "500", "stall"])
async def test_a_drained_answer_that_breaks_is_settled_once(
    tmp_path: Path, scripted: MockServer, name: str
) -> None:
    terms = {"on_disconnect": "drain", "drain_seconds": 0.3}
    async with deployed(tmp_path, scripted, **terms) as legato:
        scripted.scripts[name] = msgspec.structs.replace(SCRIPTS[name], head_after=0.1)
        await leave(legato, chat(name, stream=True), 0)
        await until(lambda: not legato.server.server_state.tasks, "the call is settled")
        said = await legato.rows()
        assert [each["outcome"] for each in said] == ["cancelled"]


async def test_what_never_ends_is_drained_up_to_a_cap(tmp_path: Path, scripted: MockServer) -> None:
    terms = {"on_disconnect": "drain", "drain_seconds": 0.2}
    async with deployed(tmp_path, scripted, **terms) as legato:
        await leave(legato, chat("endless", stream=True), 2)
        await until(
            lambda: scripted.requests[-1].is_disconnected, "the upstream sees its peer gone"
        )
        await until(lambda: not legato.server.server_state.tasks)
        said = await legato.rows()
        assert said[0]["outcome"] == "cancelled"
        assert said[0]["completion_from"] == "counted"
        assert said[0]["completion_tokens"] > 2


TIMERS = {
    "first token": ("stall-early", {"first_token_seconds": 0.2}, "upstream_first_token_timeout"),
    "stall": ("stall", {"stall_seconds": 0.2}, "upstream_stalled"),
    "total": ("endless", {"total_seconds": 0.3}, "upstream_total_timeout"),
    "total, before a token": ("stall-early", {"total_seconds": 0.2}, "upstream_total_timeout"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", TIMERS)
async def test_a_deployments_timers(
    tmp_path: Path, scripted: MockServer, case: str, stream: bool
) -> None:
    name, terms, code = TIMERS[case]
    async with deployed(tmp_path, scripted, **terms) as legato:
        answer = await ask(legato.port, legato.key, chat(name, stream=stream))
        assert answer.error is not None
        assert answer.error["code"] == code
        assert answer.status == (200 if stream else 504)
        seconds = next(iter(terms.values()))
        assert f"within {seconds} s" in answer.error["message"] or "stalled" in code
        assert not stream or b"[DONE]" not in answer.body


async def test_a_clients_patience_is_the_deployments(tmp_path: Path, scripted: MockServer) -> None:
    scripted.scripts["flood"] = Script(steps=[Step(say="x" * 10_000, repeat=3_000)])
    base = await scripted.start()
    deploy = {"stall_client_seconds": 0.3}
    settings = settings_for(tmp_path, base, ["flood"], deploy=deploy)
    async with serving(settings) as legato:
        wire = await Wire.open(legato.port)
        wire.send(request(legato.key, chat("flood", stream=True)))
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(
            lambda: scripted.requests and scripted.requests[-1].is_disconnected,
            "the upstream is let go",
        )
        await until(lambda: not legato.server.server_state.tasks)
        await wire.__aexit__()
        assert [each["error"] for each in await legato.rows()] == ["client_stalled"]
