"""Lines that are slow, from the client or to it: who still reads is not cut, who does not is, and
nobody's time begins to run before it is his turn."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legato.core.chunk import Chunk
from legato.core.coalesce import Coalescer
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from tests.conftest import Running, serving, settings_for, until
from tests.scenarios.test_slow_client import narrow
from tests.support.fault_stage import _narrow as narrow_lines
from tests.support.wire import Answer, Wire, chat, request

Json = dict[str, Any]

#: Seconds for which a stream's status may wait, and a longer time, for which a request waits.
GATE = 1.0
UPLOAD = 1.3

#: Far more than a narrow line holds.
FAT = 1_500_000

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
END = [Step(finish="stop"), Step(usage=USAGE), Step(done=True)]
MANY = 20_000
FLOOD = Script(steps=[Step(say="word " * 20, repeat=MANY), *END])
ERROR = Step(error={"message": "The GPU fell off.", "code": "gpu_lost"})
SLOW_LINES: dict[str, Script] = {
    "fat": Script(steps=[Step(say="x" * FAT), *END]),
    "flood": FLOOD,
    "error": Script(steps=[Step(wait=0.2), ERROR]),
    "busy": Script(status=503, body="{}", then=SCRIPTS["happy"]),
    "late": Script(steps=[Step(wait=0.2), *SCRIPTS["happy"].steps]),
    "slow": Script(steps=[Step(say="x"), Step(wait=UPLOAD), *SCRIPTS["happy"].steps]),
    "thoughts": Script(
        steps=[Step(think="hm " * 200, repeat=700), Step(say="word " * 200, repeat=700), *END]
    ),
    "happy": SCRIPTS["happy"],
    "stall": SCRIPTS["stall"],
}


@contextlib.asynccontextmanager
async def fronting(
    tmp_path: Path, scripted: MockServer, *, attempts: int = 1, **more: Any
) -> AsyncIterator[Running]:
    """A server on whose lines little goes before they are full."""
    scripted.scripts |= SLOW_LINES
    base = await scripted.start()
    terms: Json = {"first_token_seconds": 8.0, "stall_seconds": 8.0, "open_after": 0}
    flags: Json = {
        "deployments": [
            {"name": f"at-{name}", "model": name, "base_url": base} | terms for name in SLOW_LINES
        ],
        "routes": [
            {
                "model": name,
                "deployments": [f"at-{name}"],
                "attempts": attempts,
                "retry_seconds": more.get("streams.gate_seconds", 30.0),
            }
            for name in SLOW_LINES
        ],
    }
    async with serving(settings_for(tmp_path, None, **flags, **more)) as running:
        narrow_lines(running)
        yield running


#: How an answer is framed: the version of HTTP, and further headers of the request.
FRAMINGS: dict[str, Json] = {
    "keep-alive": {},
    "close": {"connection": "close"},
    "HTTP/1.0": {"version": "1.0"},
}
BOTH = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def rest_is_text(body: bytes, *, stream: bool) -> None:
    """All of a fat answer is there."""
    if stream:
        assert body.endswith(b"data: [DONE]\n\n")
        assert body.count(b"x") >= FAT
    else:
        assert len(json.loads(body)["choices"][0]["message"]["content"]) == FAT


# Clients that read slowly, and clients that do not


IDLE = 0.8
PIECES = 60
PAUSE = 0.04  # seconds between two of them: three times as long as a line may be idle, in all


def idle(seconds: float) -> Json:
    """A connection is first looked at when a request on it would have had its time."""
    return {"server.idle_seconds": seconds, "server.request_seconds": seconds}


async def sip(wire: Wire) -> tuple[bytes, float]:
    """The body of an answer in small pieces, and how long it took."""
    began = time.monotonic()
    _, headers = await wire.head()
    if headers.get("transfer-encoding") == "chunked":
        pieces = []
        while size := int(await _line(wire), 16):
            pieces.append(await _slowly(wire, size))
            assert await wire.reader.readexactly(2) == b"\r\n"
        assert await wire.reader.readexactly(2) == b"\r\n"
        return b"".join(pieces), time.monotonic() - began
    length = headers.get("content-length")
    body = await _slowly(wire, int(length) if length else None)
    return body, time.monotonic() - began


async def _line(wire: Wire) -> bytes:
    return await wire.reader.readuntil(b"\r\n")


async def _slowly(wire: Wire, size: int | None) -> bytes:
    """`size` bytes; None: up to the end of the connection."""
    body = b""
    step = FAT // PIECES
    while size is None or len(body) < size:
        wanted = step if size is None else min(step, size - len(body))
        try:
            body += await wire.reader.readexactly(wanted)
        except asyncio.IncompleteReadError as error:
            body += error.partial
            break
        if wanted == step:
            await asyncio.sleep(PAUSE)
    assert size in (None, len(body)), "it was cut"
    return body


async def test_who_still_reads_is_never_idle(tmp_path: Path, scripted: MockServer) -> None:
    """However long it takes over the rest of an answer that is long complete, and however the
    answer is framed; the connection is good for the next call."""
    async with fronting(tmp_path, scripted, **idle(IDLE)) as legato:

        async def one(framing: str, stream: bool) -> None:
            async with await narrow(legato.port) as wire:
                asked = request(legato.key, chat("fat", stream=stream), **FRAMINGS[framing])
                wire.send(asked)
                body, took = await sip(wire)
                rest_is_text(body, stream=stream)
                assert took > 2 * IDLE, "it was not slow enough to show anything"
                if framing == "keep-alive":
                    wire.send(request(legato.key, chat("happy", stream=True)))
                    assert (await wire.answer()).done
                else:
                    assert await wire.reader.read() == b""

        ways = [(framing, stream) for framing in FRAMINGS for stream in (True, False)]
        await asyncio.gather(*(one(*way) for way in ways))


async def test_who_does_not_read_is_cut(tmp_path: Path, scripted: MockServer) -> None:
    """After `idle_seconds` in which not a byte of it went, whether the connection was to stay or to
    end behind the answer; what waited for the client is free then."""
    async with fronting(tmp_path, scripted, **idle(0.3)) as legato:
        state = legato.server.server_state
        async with contextlib.AsyncExitStack() as stack:
            for framing in FRAMINGS.values():
                for stream in (True, False):
                    wire = await stack.enter_async_context(await narrow(legato.port))
                    wire.send(request(legato.key, chat("fat", stream=stream), **framing))
            await until(lambda: state.total_requests == 6, "all are answered")
            await until(lambda: not state.tasks, "all are settled")
            await until(lambda: not state.connections, "nothing is kept for those who do not read")
            rows = await legato.rows()
    assert [row["outcome"] for row in rows] == ["complete"] * 6


async def test_who_stops_reading_is_cut_as_well(tmp_path: Path, scripted: MockServer) -> None:
    """It is the progress that counts, not that there was some once."""
    async with fronting(tmp_path, scripted, **idle(0.3)) as legato:
        state = legato.server.server_state
        async with await narrow(legato.port) as wire:
            wire.send(request(legato.key, chat("fat"), connection="close"))
            await wire.head()
            assert len(await wire.reader.readexactly(FAT // 3)) == FAT // 3
            await until(lambda: not state.connections, "it is cut")
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await wire.reader.readexactly(FAT - FAT // 3)


async def test_a_line_is_idle_from_when_its_answer_was_taken(
    tmp_path: Path, scripted: MockServer
) -> None:
    """Not from when it was given: who has just read it to its end has as long as anybody for the
    next request."""
    async with (
        fronting(tmp_path, scripted, **idle(60.0)) as legato,
        await narrow(legato.port) as wire,
    ):
        state, services = legato.server.server_state, legato.app.services
        wire.send(request(legato.key, chat("fat")))
        await until(lambda: state.total_requests == 1, "it is answered")
        rest_is_text((await wire.answer()).body, stream=False)
        services.timers.advance(services.clock() + 80.0)  # the timers' clock: the answer's is over
        wire.send(request(legato.key, chat("happy", stream=True)))
        assert (await wire.answer()).done


# Two answers on one line


@pytest.mark.parametrize("first", [False, True], ids=["whole", "stream"])
async def test_a_second_answer_on_a_full_line_waits_like_any_other(
    tmp_path: Path, scripted: MockServer, first: bool
) -> None:
    """The line is full already when it begins: nothing tells that it gets full. It is merged, the
    upstream waits, memory is bounded; nothing is dropped."""
    limit = 65_536
    async with fronting(tmp_path, scripted, **{"streams.backlog_bytes": limit}) as legato:
        state = legato.server.server_state
        async with await narrow(legato.port) as wire:
            wire.send(request(legato.key, chat("fat", stream=first)))
            await until(lambda: state.total_requests == 1, "the first is answered")
            (connection,) = state.connections
            full = connection.transport.get_write_buffer_size()  # type: ignore[union-attr]
            assert full > FAT // 2
            wire.send(request(legato.key, chat("flood", stream=True)))
            pools = [each.target.pool for each in legato.app.upstreams.values() if each.target]
            await until(
                lambda: any(
                    not each.transport.is_reading()
                    for pool in pools
                    for each in pool._open - pool._idle.keys()
                ),
                "the upstream waits",
            )
            played = scripted.requests[-1]
            assert (played.model, played.is_complete) == ("flood", False)
            unsent = connection.transport.get_write_buffer_size()  # type: ignore[union-attr]
            assert unsent < full + 2 * limit
            one = await wire.answer()
            rest_is_text(one.body, stream=first)
            two = await wire.answer()
    assert two.done
    assert two.text() == "word " * 20 * MANY
    assert two.finishes() == ["stop"]
    assert len(two.chunks) < MANY


# When time begins to run


async def send_slowly(wire: Wire, asked: bytes, seconds: float) -> None:
    """Head and half of the body, then nothing for a while, then the rest."""
    half = len(asked) - 20
    wire.send(asked[:half])
    await wire.writer.drain()
    await asyncio.sleep(seconds)
    wire.send(asked[half:])


async def test_the_gate_opens_for_a_whole_request(tmp_path: Path, scripted: MockServer) -> None:
    """What breaks soon after a request that took its time to arrive is a status: nothing has been
    committed while it was being sent. Time to first token is the client's, and counts all of it."""
    async with fronting(tmp_path, scripted, **{"streams.gate_seconds": GATE}) as legato:

        async def one(model: str) -> Answer:
            async with await Wire.open(legato.port) as wire:
                asked = request(legato.key, chat(model, stream=True))
                await send_slowly(wire, asked, UPLOAD)
                return await wire.answer()

        broken, late = await asyncio.gather(one("error"), one("late"))
        rows = {row["route"]: row for row in await legato.rows()}
    assert broken.status == 502
    assert broken.error is not None
    assert broken.error["code"] == "gpu_lost"
    assert late.done
    assert rows["late"]["ttft"] >= UPLOAD
    assert rows["late"]["duration"] >= rows["late"]["ttft"]
    assert rows["error"]["duration"] >= UPLOAD


async def test_heartbeats_begin_with_a_whole_request(tmp_path: Path, scripted: MockServer) -> None:
    """None goes out just because the request has been long on its way."""
    timers = {"streams.gate_seconds": 0.05, "streams.heartbeat_seconds": GATE}
    async with (
        fronting(tmp_path, scripted, **timers) as legato,
        await Wire.open(legato.port) as wire,
    ):
        await send_slowly(wire, request(legato.key, chat("late", stream=True)), UPLOAD)
        answer = await wire.answer()
    assert answer.done
    assert answer.comments == []


async def test_retries_begin_with_a_whole_request(tmp_path: Path, scripted: MockServer) -> None:
    """There is as much time for them as for a request that came at once."""
    timers = {"streams.gate_seconds": GATE}
    async with fronting(tmp_path, scripted, attempts=2, **timers) as legato:
        async with await Wire.open(legato.port) as wire:
            await send_slowly(wire, request(legato.key, chat("busy")), UPLOAD)
            answer = await wire.answer()
        (row,) = await legato.rows()
    assert answer.status == 200
    assert (row["outcome"], row["attempts"]) == ("complete", 2)


async def test_a_request_s_time_begins_with_its_turn(tmp_path: Path, scripted: MockServer) -> None:
    """Behind another one on the same connection it waits longer than gate, heartbeats and retries
    give it: none of them has begun."""
    timers = {"streams.gate_seconds": GATE, "streams.heartbeat_seconds": GATE}
    async with fronting(tmp_path, scripted, attempts=2, **timers) as legato:

        async def behind_another(model: str) -> Answer:
            async with await Wire.open(legato.port) as wire:
                for each in ("slow", model):
                    wire.send(request(legato.key, chat(each, stream=True)))
                assert (await wire.answer()).done
                return await wire.answer()

        models = ("error", "busy", "late")
        broken, busy, late = await asyncio.gather(*map(behind_another, models))
        rows = {row["route"]: row for row in await legato.rows()}
    assert broken.status == 502
    assert broken.error is not None
    assert broken.error["code"] == "gpu_lost"
    assert busy.done
    assert rows["busy"]["attempts"] == 2
    assert late.done
    assert late.comments == []
    assert rows["late"]["ttft"] >= UPLOAD, "the time to first token is the client's"


# Thoughts of a slow client


def member(index: int = 0, finish: str | None = None, **delta: Any) -> Chunk:
    result = {"index": index, "delta": delta, "finish_reason": finish}
    return Chunk([], json.dumps([result]).encode(), fields=[result])


def test_thoughts_and_text_are_merged_apart() -> None:
    """Two chunks a choice, thoughts first: no client has to know that one may have both."""
    backlog = Coalescer()
    backlog.add(member(role="assistant", content=""))
    for piece in "ab":
        backlog.add(member(reasoning_content=piece))
    for piece in "cd":
        backlog.add(member(content=piece))
    backlog.add(member(1, reasoning_content="x"))
    backlog.add(member(1, tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]))
    backlog.add(member(2, content="y"))
    backlog.add(member(3, reasoning_content="z"))
    backlog.add(member(finish="stop"))
    taken = [(each["index"], each["delta"]) for chunk in backlog.take() for each in chunk.members()]
    result = [
        (index, {name: value for name, value in delta.items() if name != "role"})
        for index, delta in taken
    ]
    assert result == [
        (0, {"reasoning_content": "ab"}),
        (0, {"content": "cd"}),
        (1, {"reasoning_content": "x"}),
        (1, {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        (2, {"content": "y"}),
        (3, {"reasoning_content": "z"}),
        (0, {}),
    ]
    roles = [delta for _, delta in taken if "role" in delta]
    assert roles == [taken[0][1]], "the role is the first thing of its choice"
    assert backlog.take() == []


async def test_a_slow_client_gets_thoughts_before_what_they_led_to(
    tmp_path: Path, scripted: MockServer
) -> None:
    """All of the backlog is one read for it, in which thoughts end and text begins."""
    async with fronting(tmp_path, scripted, **{"streams.backlog_bytes": 1 << 26}) as legato:
        state = legato.server.server_state
        async with await narrow(legato.port) as wire:
            wire.send(request(legato.key, chat("thoughts", stream=True)))
            await until(lambda: any(each.write_paused for each in state.connections), "it is full")
            await until(lambda: not state.tasks, "the call is settled")
            answer = await wire.answer()
    assert answer.done
    assert answer.text(member="reasoning_content") == "hm " * 200 * 700
    assert answer.text() == "word " * 200 * 700
    assert len(answer.chunks) < 700, "nothing was merged"
    deltas = [each["delta"] for chunk in answer.chunks for each in chunk["choices"]]
    kinds = [
        name for delta in deltas for name in ("reasoning_content", "content") if delta.get(name)
    ]
    assert kinds == sorted(kinds, reverse=True), "a thought came behind the text"
    assert not any({"reasoning_content", "content"} <= delta.keys() for delta in deltas)
