"""A client that reads slowly: nothing is dropped, memory is bounded, neighbours do not notice."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legato.core.chunk import Chunk
from legato.core.coalesce import Coalescer
from legato.mock.server import MockServer, Script, Step
from legato.server.uvicorn_server import MAX_UNSENT
from legato.store.ledger import summary
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Answer, Wire, ask, chat, request

MANY = 30_000
FLOOD = Script(
    "many chunks as fast as they go",
    steps=[
        Step(say="word ", repeat=MANY),
        Step(tool={"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}}),
        Step(tool={"index": 0, "function": {"arguments": "[1, "}}),
        Step(tool={"index": 0, "function": {"arguments": "2]"}}),
        Step(finish="stop"),
        Step(usage={"prompt_tokens": 1, "completion_tokens": MANY, "total_tokens": MANY + 1}),
        Step(done=True),
    ],
)


@pytest.fixture
async def slow(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Running]:
    scripted.scripts["flood"] = FLOOD
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["flood", "happy"],
        **{"streams.stall_client_seconds": 0.5, "streams.backlog_bytes": 65_536},
    )
    async with serving(settings) as running:
        yield running


async def narrow(port: int) -> Wire:
    """A connection that takes little before it is full."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", port))
    return Wire(*await asyncio.open_connection(sock=peer, limit=1024))


async def test_nothing_is_dropped(slow: Running, scripted: MockServer) -> None:
    async with await narrow(slow.port) as wire:
        wire.send(request(slow.key, chat("flood", stream=True)))
        await wire.head()
        played = scripted.requests[-1]
        # Without a reader the server merges, then lets the upstream wait.
        await until(lambda: not played.is_complete and played.content_tokens > 1000)
        pieces: list[bytes] = []
        while piece := await wire.chunk():
            pieces.append(piece)
    answer = Answer(200, {}, b"".join(pieces), pieces)
    assert answer.done
    assert answer.text() == "word " * MANY
    assert answer.finishes() == ["tool_calls"]
    assert len(answer.chunks) < MANY
    calls = [
        call
        for chunk in answer.chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", [])
    ]
    assert "".join(call["function"]["arguments"] for call in calls) == "[1, 2]"


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="not on this system")
async def test_the_kernel_is_not_filled_for_a_slow_client(slow: Running) -> None:
    """It would take megabytes unsent: what waits with us is merged, what waits there is not."""
    async with await narrow(slow.port):
        connections = slow.server.server_state.connections
        await until(lambda: connections, "it is connected")
        (connection,) = connections
        peer = connection.transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == MAX_UNSENT


async def test_a_client_that_takes_nothing_is_cut(slow: Running) -> None:
    async with await narrow(slow.port) as wire:
        wire.send(request(slow.key, chat("flood", stream=True)))
        await wire.head()
        await until(lambda: not slow.server.server_state.tasks, "the call is given up")
        assert (await ask(slow.port, slow.key, chat("happy", stream=True))).done
    await slow.app.ledger.flush()
    rows = (await summary(slow.app.database, 0))["rows"]
    assert [(row["outcome"], row["error"]) for row in rows] == [
        ("cancelled", "client_stalled"),
        ("complete", None),
    ]


def chunk(index: int = 0, finish: str | None = None, **delta: Any) -> Chunk:
    member = {"index": index, "delta": delta, "finish_reason": finish}
    return Chunk([], json.dumps([member]).encode(), fields=[member])


def test_a_backlog_is_as_few_chunks_as_are_legal() -> None:
    backlog = Coalescer()
    backlog.add(chunk(role="assistant", content=""))
    backlog.add(chunk(content="a"))
    backlog.add(chunk(1, content="x"))
    backlog.add(chunk(content="b", reasoning_content="r"))
    backlog.add(chunk(tool_calls=[{"index": 1, "function": {"arguments": "{"}}]))
    backlog.add(chunk(tool_calls=[{"index": 1, "function": {"arguments": "}"}}]))
    backlog.add(chunk(1, "stop"))
    backlog.add(chunk(finish="stop"))
    taken = [each.members()[0] for each in backlog.take()]
    assert [(each["index"], each["finish_reason"]) for each in taken] == [
        (0, None),
        (0, None),
        (1, None),
        (1, "stop"),
        (0, "stop"),
    ]
    assert taken[0]["delta"] == {"role": "assistant", "reasoning_content": "r"}
    assert taken[1]["delta"] == {
        "content": "ab",
        "tool_calls": [{"index": 1, "function": {"arguments": "{}"}}],
    }
    assert backlog.take() == []
