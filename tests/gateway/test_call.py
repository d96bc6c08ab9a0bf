"""Calls through the whole server, against the scripted upstream."""

import asyncio
import errno
import os
import re
import time
from pathlib import Path

import pytest

from legato.gateway import call
from legato.mock.server import MockServer, Script, Step
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Wire, ask, chat, request

TEXT = "Once upon a time, there was a stream."
MENDED = {
    "happy": TEXT,
    "crlf": TEXT,
    "cr": TEXT,
    "bom": TEXT,
    "gzip": TEXT,
    "odd-type": TEXT,
    "close-framed": TEXT,
    "role-every-chunk": TEXT,
    "role-never": TEXT,
    "jumpy": TEXT,
    "null-content": TEXT,
    "finish-merged": TEXT,
    "usage-early": TEXT,
    "usage-with-choices": TEXT,
    "usage-nowhere": TEXT,
    "no-blank-line": TEXT,
    "no-done": TEXT,
    "cut-late": TEXT,
    "multi-line": TEXT,
    "unknown-fields": TEXT,
    "finish-only": "",
    "huge-line": "x" * 1_000_000 + ".",
    "separators": 'a\u2028bc\u2029de\x85fg\\u2028"\n',
    "utf8-split": "Žluťoučký kůň 🐎👩‍👩‍👧 úpěl",
    "late-headers": TEXT,
    "late-token": TEXT,
}


@pytest.mark.parametrize("name", MENDED)
async def test_a_stream_comes_out_as_the_contract_says(legato: Running, name: str) -> None:
    body = chat(name, stream=True, stream_options={"include_usage": True})
    answer = await ask(legato.port, legato.key, body)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.done
    assert answer.text() == MENDED[name]
    assert answer.finishes() == ["stop"]
    chunks = answer.chunks
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["model"] == name
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert not any("role" in chunk["choices"][0]["delta"] for chunk in chunks[1:-1])
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] >= 0


@pytest.mark.parametrize("name", MENDED)
async def test_an_answer_that_is_not_streamed_is_the_same(legato: Running, name: str) -> None:
    answer = await ask(legato.port, legato.key, chat(name))
    assert answer.status == 200
    choice = answer.json["choices"][0]
    assert choice["message"]["content"] == MENDED[name]
    assert choice["finish_reason"] == "stop"
    assert answer.json["object"] == "chat.completion"


BROKEN_BEFORE = {
    "no-head": (502, "upstream_cut"),
    "cut-early": (502, "upstream_cut"),
    "empty": (502, "upstream_empty"),
    "error-first": (502, "gpu_lost"),
    "bad-json-first": (502, "upstream_malformed"),
    "error-body": (502, "overloaded"),
    "html": (502, "upstream_error"),
    "400": (400, "bad_param"),
    "401": (502, "upstream_401"),
    "429": (429, "upstream_rate_limited"),
    "500": (502, "upstream_500"),
    "503": (503, "upstream_503"),
    "too-long": (400, "context_length_exceeded"),
}


@pytest.mark.parametrize("name", BROKEN_BEFORE)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_before_the_first_chunk_is_a_status(
    legato: Running, name: str, stream: bool
) -> None:
    answer = await ask(legato.port, legato.key, chat(name, stream=stream))
    assert answer.error is not None
    assert (answer.status, answer.error["code"]) == BROKEN_BEFORE[name]
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.headers["x-legato-deployment"] == f"at-{name}"
    assert answer.headers["x-legato-attempts"] == "1"
    if name == "429":
        assert answer.headers["retry-after"] == "7"


BROKEN_AFTER = {
    "cut": "upstream_cut",
    "reset": "upstream_cut",
    "no-finish": "upstream_incomplete",
    "stall": "upstream_stalled",
    "bad-json": "upstream_malformed",
    "error-in-band": "gpu_lost",
    "error-then-done": "gpu_lost",
}


@pytest.mark.parametrize("name", BROKEN_AFTER)
async def test_a_failure_in_mid_stream_is_a_last_frame_without_done(
    legato: Running, name: str
) -> None:
    answer = await ask(legato.port, legato.key, chat(name, stream=True))
    assert answer.status == 200
    assert answer.text() == TEXT
    assert answer.error is not None
    assert answer.error["code"] == BROKEN_AFTER[name]
    assert not answer.done
    assert answer.finishes() == []
    assert b"[DONE]" not in answer.body


@pytest.mark.parametrize("name", BROKEN_AFTER)
async def test_a_failure_that_is_not_streamed_is_a_status(legato: Running, name: str) -> None:
    answer = await ask(legato.port, legato.key, chat(name))
    assert answer.status in (502, 504)
    assert answer.error is not None
    assert answer.error["code"] == BROKEN_AFTER[name]


@pytest.mark.parametrize("name", ["stall-early", "comments-only"])
async def test_silence_is_bridged_by_comments_and_ends_in_an_error(
    legato: Running, name: str
) -> None:
    answer = await ask(legato.port, legato.key, chat(name, stream=True))
    assert answer.status == 200
    assert answer.comments
    assert set(answer.comments) == {b": keep-alive"}
    assert answer.error is not None
    assert answer.error["code"] == "upstream_first_token_timeout"


async def test_nothing_is_written_behind_an_end_that_a_timer_brings(
    tmp_path: Path, scripted: MockServer
) -> None:
    """A heartbeat is due in the same turn as the end of a stall: the connection stays in order."""
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["stall", "happy"],
        deploy={"stall_seconds": 0.2},
        **{"streams.gate_seconds": 0.2, "streams.heartbeat_seconds": 0.2},
    )
    async with serving(settings) as legato, await Wire.open(legato.port) as wire:
        wire.send(request(legato.key, chat("stall", stream=True)))
        answer = await wire.answer()
        assert answer.error is not None
        assert answer.error["code"] == "upstream_stalled"
        wire.send(request(legato.key, chat("happy", stream=True)))
        assert (await wire.answer()).text() == TEXT


async def test_the_gate_opens_in_time_where_nothing_else_is_due(
    tmp_path: Path, scripted: MockServer
) -> None:
    """Heartbeats and all other timers are far off."""
    timers = {"streams.gate_seconds": 0.1, "streams.heartbeat_seconds": 60.0}
    settings = settings_for(tmp_path, await scripted.start(), ["stall-early"], **timers)
    async with serving(settings) as legato, await Wire.open(legato.port) as wire:
        wire.send(request(legato.key, chat("stall-early", stream=True)))
        async with asyncio.timeout(5):
            status, _ = await wire.head()
    assert status == 200


async def test_a_chunk_goes_out_when_it_arrives(legato: Running) -> None:
    """Chunks that come apart leave apart: nothing is held back one frame."""
    answer = await ask(legato.port, legato.key, chat("slow", stream=True))
    assert answer.done
    assert len(answer.pieces) >= 10


async def test_calls_that_are_under_way_are_in_the_ledger(legato: Running) -> None:
    """Each of them, also where they begin at the same time: a server may die at any moment."""
    async with await Wire.open(legato.port) as first, await Wire.open(legato.port) as second:
        for wire in (first, second):
            wire.send(request(legato.key, chat("slow", stream=True)))
        for wire in (first, second):
            await wire.head()
        rows = await legato.rows()
        assert [(row["route"], row["outcome"]) for row in rows] == [("slow", "open")] * 2
        (key,) = legato.app.services.keyring
        for row in rows:
            assert row["key"] == key.id
            assert time.time() - 10 < row["received"] <= time.time()


async def test_a_client_that_leaves_takes_its_upstream_along(
    legato: Running, scripted: MockServer
) -> None:
    async with await Wire.open(legato.port) as wire:
        wire.send(request(legato.key, chat("slow", stream=True)))
        await wire.head()
        await wire.chunk()
    played = scripted.requests[-1]
    await until(lambda: played.is_disconnected, "the upstream sees its peer gone")
    assert played.content_tokens < 10


async def test_a_client_that_leaves_before_the_first_token(
    legato: Running, scripted: MockServer
) -> None:
    async with await Wire.open(legato.port) as wire:
        wire.send(request(legato.key, chat("stall-early", stream=True)))
        await until(lambda: scripted.requests, "the upstream was asked")
    await until(lambda: scripted.requests[-1].is_disconnected, "the upstream sees its peer gone")


async def test_a_client_that_leaves_at_once(legato: Running, scripted: MockServer) -> None:
    """Request and end in one turn of the event loop, before the call has had its first."""
    for _ in range(20):
        async with await Wire.open(legato.port) as wire:
            wire.send(request(legato.key, chat("stall-early", stream=True)))
            await wire.writer.drain()
            wire.writer.transport.abort()
    await until(lambda: not legato.server.server_state.connections, "they are gone")
    await until(lambda: not legato.server.server_state.tasks, "calls are settled")
    assert all(each.is_disconnected or each.is_complete for each in scripted.requests)


async def test_connections_are_used_again(legato: Running, scripted: MockServer) -> None:
    for _ in range(3):
        assert (await ask(legato.port, legato.key, chat("happy", stream=True))).done
    assert scripted.open_connections == 1


async def test_a_connection_is_kept_whose_body_ends_soon_after_the_answer(
    legato: Running, scripted: MockServer
) -> None:
    steps = [*scripted.scripts["happy"].steps, Step(wait=0.2)]
    scripted.scripts["happy"] = Script(steps=steps)
    assert (await ask(legato.port, legato.key, chat("happy", stream=True))).done
    (first,) = scripted.requests
    assert not first.is_complete
    await until(lambda: first.is_complete or first.is_disconnected)
    assert not first.is_disconnected


async def test_a_body_that_does_not_end_is_given_up_behind_the_answer(
    legato: Running, scripted: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.gateway.dispatch.LINGER", 0.1)
    steps = [*scripted.scripts["happy"].steps, Step(stall=True)]
    scripted.scripts["happy"] = Script(steps=steps)
    assert (await ask(legato.port, legato.key, chat("happy", stream=True))).done
    await until(lambda: scripted.requests[0].is_disconnected, "the upstream sees its peer gone")


@pytest.mark.parametrize("stream", [True, False])
async def test_no_call_begins_that_nobody_could_keep_account_of(
    legato: Running, scripted: MockServer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("legato.store.ledger.MAX_QUEUE", 0)
    answer = await ask(legato.port, legato.key, chat("happy", stream=stream))
    assert answer.error is not None
    assert (answer.status, answer.error["code"]) == (503, "busy")
    assert answer.error["message"].startswith("The server cannot keep account of more calls now.")
    assert scripted.requests == []


async def test_no_call_begins_while_the_disk_is_full(
    legato: Running, scripted: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("legato.store.ledger.RETRY_SECONDS", 0.01)
    with monkeypatch.context() as patched:
        patched.setattr("legato.store.journal.os.write", full)
        for _ in range(2):  # the first finds it out
            answer = await ask(legato.port, legato.key, chat("happy"))
            assert answer.error is not None
            assert (answer.status, answer.error["code"]) == (503, "busy")
    assert scripted.requests == []
    await until(lambda: not legato.app.ledger.is_full, "there is room again")
    assert (await ask(legato.port, legato.key, chat("happy"))).status == 200
    assert [row["outcome"] for row in await legato.rows()] == ["refused", "complete"]


async def test_a_call_that_runs_ends_well_while_the_disk_is_full(
    legato: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with await Wire.open(legato.port) as wire:
        wire.send(request(legato.key, chat("slow", stream=True)))
        await wire.head()
        monkeypatch.setattr("legato.store.journal.os.write", full)
        while piece := await wire.chunk():
            last = piece
    assert last.endswith(b"data: [DONE]\n\n")
    await until(lambda: not legato.server.server_state.tasks, "the call is settled")
    assert [row["outcome"] for row in await legato.rows()] == ["complete"]


async def test_a_kept_connection_that_died_is_no_failure(
    legato: Running, scripted: MockServer
) -> None:
    """The upstream closes a kept connection when the next request is on its way."""
    assert (await ask(legato.port, legato.key, chat("happy", stream=True))).done
    legato.app.upstreams["at-no-head"].target = legato.app.upstreams["at-happy"].target
    answer = await ask(legato.port, legato.key, chat("no-head", stream=True))
    assert answer.error is not None
    assert len([each for each in scripted.requests if each.model == "no-head"]) == 2


async def test_unknown_members_of_chunks_survive(legato: Running) -> None:
    answer = await ask(legato.port, legato.key, chat("unknown-fields", stream=True))
    first = answer.chunks[1]
    assert first["provider"] == "Somebody"
    assert first["choices"][0]["native"] is True
    assert first["choices"][0]["delta"]["annotations"] == [{"n": 1}]


@pytest.mark.parametrize("usage", [False, True])
async def test_unknown_members_beside_the_usage_survive(
    legato: Running, scripted: MockServer, usage: bool
) -> None:
    """Also where the client does not see the usage itself."""
    steps = [
        each for each in scripted.scripts["happy"].steps if each.usage is None and not each.done
    ]
    result = {
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 10},
        "citations": [7],
    }
    scripted.scripts["happy"] = Script(steps=[*steps, Step(chunk=result), Step(done=True)])
    body = chat("happy", stream=True, stream_options={"include_usage": usage})
    answer = await ask(legato.port, legato.key, body)
    assert answer.done
    assert answer.body.count(b'"citations":[7]') == 1
    assert bool(answer.chunks[-1].get("usage")) is usage
    assert answer.chunks[-1]["citations"] == [7]


async def test_unknown_parameters_of_requests_survive(
    legato: Running, scripted: MockServer
) -> None:
    body = chat("happy", stream=True, top_k=7, guided={"regex": "a.*"}, stop=["x"])
    assert (await ask(legato.port, legato.key, body)).done
    asked = scripted.requests[-1].request
    assert asked["top_k"] == 7
    assert asked["guided"] == {"regex": "a.*"}
    assert asked["stop"] == ["x"]
    assert asked["stream_options"] == {"include_usage": True}
    assert asked["model"] == "happy"


def test_ids_are_cut_from_random_bytes_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes] = []
    urandom = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: drawn.append(urandom(size)) or drawn[-1])
    monkeypatch.setattr(call, "_ids", call._random())
    ids = [call.new_request_id() for _ in range(200)]
    assert all(re.fullmatch("req_[0-9a-f]{24}", each) for each in ids)
    assert len(set(ids)) == 200
    used = "".join(each[-16:] for each in ids)
    assert b"".join(drawn).hex().startswith(used)
    assert len(drawn) == 4
