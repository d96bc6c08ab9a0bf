"""Several requests on one connection: each is answered by itself alone."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from legato.gateway.call import new_request_id
from legato.mock.server import MockServer
from legato.policy.keys import digest
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Answer, Wire, chat, request


def test_ids_are_never_twice() -> None:
    ids = {new_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(each) for each in ids} == {len("req_") + 24}


async def answers(running: Running, requests: list[bytes]) -> list[Answer]:
    """One behind the other on one connection."""
    async with await Wire.open(running.port) as wire:
        found: list[Answer] = []
        for each in requests:
            wire.send(each)
            found.append(await wire.answer())
        return found


@pytest.fixture
async def running(tmp_path: Path, scripted: MockServer) -> Any:
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["happy", "slow"],
        **{"server.max_body_bytes": 4_000, "server.cors_origins": ["https://app.example"]},
    )
    async with serving(settings) as server:
        yield server


async def test_a_conversation_that_grows(running: Running) -> None:
    bodies = [chat("happy", stream=True, user="u" * size) for size in (1, 9, 99, 999, 2, 1500, 3)]
    found = await answers(running, [request(running.key, each) for each in bodies])
    assert all(each.done for each in found)
    assert len({each.headers["x-request-id"] for each in found}) == len(bodies)
    assert [row["outcome"] for row in await running.rows()] == ["complete"] * len(bodies)


#: What comes on a connection whose requests have been alike, and what it is answered.
NEXT: dict[str, tuple[dict[str, Any], dict[str, str], int]] = {
    "the same": ({}, {}, 200),
    "not streamed": ({"stream": False}, {}, 200),
    "another model": ({"model": "nothing"}, {}, 404),
    "a mistake": ({"temperature": 9}, {}, 400),
    "too large": ({"user": "u" * 5_000}, {}, 413),
    "another header": ({}, {"traceparent": "00-1"}, 200),
    "its last": ({}, {"connection": "close"}, 200),
    "100-continue": ({}, {"expect": "100-continue"}, 200),
}


@pytest.mark.parametrize("name", NEXT)
async def test_what_comes_next(running: Running, name: str) -> None:
    changes, headers, status = NEXT[name]
    usual = request(running.key, chat("happy", stream=True))
    other = request(running.key, chat("happy", stream=True) | changes, **headers)
    found = await answers(running, [usual] * 4 + [other])
    assert [each.status for each in found] == [200] * 4 + [status]
    alone = (await answers(running, [other]))[0]
    assert (found[-1].headers.keys(), found[-1].closed) == (alone.headers.keys(), alone.closed)


@pytest.mark.parametrize("seed", range(4))
async def test_cut_anywhere(running: Running, seed: int) -> None:
    usual = request(running.key, chat("happy", stream=True))
    draw = random.Random(seed)
    async with await Wire.open(running.port) as wire:
        for _ in range(8):
            wire.send(usual)
            assert (await wire.answer()).done
            at = draw.randrange(1, len(usual))
            wire.send(usual[:at])
            await asyncio.sleep(0)
            wire.send(usual[at:] + usual)
            assert (await wire.answer()).done
            assert (await wire.answer()).done


async def test_a_key_that_is_revoked_between_two_requests(running: Running) -> None:
    usual = request(running.key, chat("happy", stream=True))
    async with await Wire.open(running.port) as wire:
        for _ in range(4):
            wire.send(usual)
            assert (await wire.answer()).done
        keyring = running.app.services.keyring
        known = keyring.find(digest(running.key.encode()))
        keyring.replace([])
        wire.send(usual)
        answer = await wire.answer()
        assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
        keyring.replace([known])
        wire.send(usual)
        assert (await wire.answer()).done


async def test_a_strangers_requests_are_refused_each_time(running: Running) -> None:
    found = await answers(running, [request("lg-nobody", chat("happy"))] * 5)
    assert [each.status for each in found] == [401] * 5


async def test_an_origin_is_answered_each_time(running: Running) -> None:
    usual = request(running.key, chat("happy", stream=True), origin="https://app.example")
    found = await answers(running, [usual] * 5)
    allowed = [each.headers.get("access-control-allow-origin") for each in found]
    assert allowed == ["https://app.example"] * 5


@pytest.mark.parametrize("key", ["the same key", "another key"])
async def test_what_was_read_in_pieces_is_not_taken_for_what_comes_next(
    running: Running, key: str
) -> None:
    """Another path, with a body as long: neither path nor key of the one stand for the other."""
    usual = request(running.key, chat("happy", stream=True))
    other = request(
        running.key if key == "the same key" else "lg-nobody",
        chat("happy", stream=True),
        path="/v1/nothing",
    )
    async with await Wire.open(running.port) as wire:
        for _ in range(2):
            wire.send(usual)
            assert (await wire.answer()).done
        head = usual.index(b"\r\n\r\n") + 4
        wire.send(usual[:head])
        await until(lambda: _reads(running) > 0, "the head has been read")
        wire.send(usual[head:])
        assert (await wire.answer()).done
        for _ in range(4):
            wire.send(other)
            assert (await wire.answer()).status == 404


def _reads(running: Running) -> int:
    """Requests whose head has been read, and whose body has not come."""
    connections: Any = running.server.server_state.connections
    currents = [each._pipeline.current for each in connections]
    return sum(each is not None and not each.is_started for each in currents)


@pytest.mark.parametrize("length", [10, 100, 1000, 10_000])
async def test_the_last_byte_in_another_read(
    tmp_path: Path, scripted: MockServer, length: int
) -> None:
    """A body is complete with its last byte, also in the third request with the same head."""
    settings = settings_for(tmp_path, await scripted.start(), ["happy"])
    body = json.dumps(chat("happy", stream=True, user="")).encode()
    body = body.replace(b'"user": ""', b'"user": "%b"' % (b"u" * max(0, length - len(body))))
    body = body.ljust(length) if length > 10 else b'{"a": "b"}'
    assert len(body) == length
    async with serving(settings) as server, await Wire.open(server.port) as wire:
        whole = request(server.key, body)
        assert whole.endswith(body)
        for _ in range(4):
            wire.send(whole[:-1])
            await until(lambda: _reads(server) > 0, "all but the last byte has been read")
            assert not server.server.server_state.tasks
            wire.send(whole[-1:])
            answer = await wire.answer()
            assert answer.status == (200 if length > 10 else 400)
