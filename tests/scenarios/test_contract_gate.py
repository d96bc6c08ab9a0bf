"""The contract, section 4, over the wire: when the status is said, what silence is, and what
becomes of clients that go. The first line of each docstring is the sentence that it holds."""

import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import until
from tests.support.contract_server import ALL, ContractServer, built, heard
from tests.support.wire import Answer, Wire, chat, request

pytestmark = pytest.mark.asyncio(loop_scope="module")


TEXT = "Once upon a time, there was a stream."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def contract(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ContractServer]:
    async with built(tmp_path_factory.mktemp("house")) as contract:
        yield contract


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Any:
    """Once for all: after each test it would take longer than they do."""
    yield
    gc.collect()


@pytest.mark.parametrize("stream", [True, False])
async def test_the_status_waits_for_the_first_chunk(contract: ContractServer, stream: bool) -> None:
    """The status waits for the first real chunk, so that true status codes work."""
    status, error = await contract.refused("late-error", stream=stream)
    assert (status, error["code"]) == (502, "gpu_lost")


async def test_the_status_does_not_wait_for_ever(contract: ContractServer) -> None:
    """At most `gate_seconds`; then 200 is committed and comments keep the line open."""
    with contract.timers(gate=0.01, heartbeat=0.01):
        async with await Wire.open(contract.legato.port) as wire:
            wire.send(request(contract.legato.key, chat("stall-early", stream=True)))
            status, headers = await wire.head()
            assert status == 200
            assert headers["content-type"].startswith("text/event-stream")
            for _ in range(3):
                assert await wire.chunk() == b": keep-alive\n\n"


@pytest.mark.parametrize("model", ["hasty/stall-early", "hasty/comments-only"])
async def test_comments_are_no_first_token(contract: ContractServer, model: str) -> None:
    """Comments never count as progress, ours or the upstream's: the timer of the first token runs
    on under them."""
    with contract.timers(gate=0.01, heartbeat=0.01):
        said = heard(await contract.ask(model, stream=True))
    assert said.comments
    assert set(said.comments) == {b": keep-alive"}
    assert said.error is not None
    assert said.error["code"] == "upstream_first_token_timeout"
    assert not said.chunks


@pytest.mark.parametrize("gate", [0.01, 30.0])
@pytest.mark.parametrize("model", ["hasty/stall", "hasty/murmur"])
async def test_comments_are_no_progress(contract: ContractServer, model: str, gate: float) -> None:
    """Heartbeat: `: keep-alive` in silence. The timer of a stall runs from the last real chunk."""
    with contract.timers(gate=gate, heartbeat=0.01):
        said = heard(await contract.ask(model, stream=True))
    assert set(said.comments) == {b": keep-alive"}
    assert said.text() == TEXT
    assert said.error is not None
    assert said.error["code"] == "upstream_stalled"


async def test_a_stream_that_speaks_has_no_heartbeat(contract: ContractServer) -> None:
    """Heartbeats are for silence."""
    said = await contract.stream("apart")
    assert said.done
    assert said.comments == []


@pytest.mark.parametrize("model", ["late-headers", "late-token"])
async def test_a_first_token_is_timed_from_the_request(
    contract: ContractServer, model: str
) -> None:
    """Time to first token is measured from the receipt of the request."""
    with contract.timers(gate=0.01, heartbeat=0.01):
        said = await contract.stream(model)
    assert said.done
    assert said.comments
    row = await contract.row()
    assert row["ttft"] > 0.29, "the wait of 0.3 s for the upstream is a part of it"
    assert row["duration"] >= row["ttft"]


# The client


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_ends_the_generation(
    contract: ContractServer, stream: bool
) -> None:
    """Client gone: generation is cancelled upstream at once, the slot and every permit is released,
    and what was produced is in the ledger, labelled."""
    legato = contract.legato
    async with await Wire.open(legato.port) as wire:
        wire.send(request(legato.key, chat("5-words", stream=stream)))
        await until(lambda: legato.busy == 1, "the upstream was asked")
        if stream:
            assert (await wire.head())[0] == 200
            answer = Answer(200, {}, await wire.chunk())
            while len(answer.text()) < len("".join(step.say or "" for step in FIVE)):
                answer.body += await wire.chunk()
        wire.writer.transport.abort()
    await until(
        lambda: contract.scripted.requests[-1].is_disconnected, "the upstream sees its peer gone"
    )
    row = await contract.row()
    assert legato.busy == 0
    assert not any(each.busy for each in legato.app.services.router.health.values())
    assert row["outcome"] == "cancelled"
    if stream:
        assert (row["completion_tokens"], row["completion_from"]) == (5, "counted")


FIVE = ALL["5-words"].steps[:5]


async def test_a_client_that_goes_may_be_heard_out(contract: ContractServer) -> None:
    """Or drained, per deployment, where the provider bills it anyway."""
    legato = contract.legato
    async with await Wire.open(legato.port) as wire:
        wire.send(request(legato.key, chat("drained/apart", stream=True)))
        await wire.head()
        await wire.chunk()
        wire.writer.transport.abort()
    row = await contract.row()
    assert contract.scripted.requests[-1].is_complete
    assert (row["outcome"], row["completion_tokens"]) == ("cancelled", 10)
    assert row["completion_from"] == "exact"
