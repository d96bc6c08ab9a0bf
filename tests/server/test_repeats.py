"""A connection's next request, compared with its last: whatever it is, it is answered as if it had
been parsed."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from legato.gateway.call import new_request_id
from legato.mock.server import MockServer
from legato.policy.keys import digest
from legato.server.repeats import Repeats
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Answer, Wire, chat, request

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer k\r\n"


class Exchange:
    """What the headers of a request have told."""

    def __init__(self, **said: Any) -> None:
        self.keep_alive = True
        self.expects_continue = False
        self.length = 0
        self.digest: bytes | None = b"d"
        self.quirks: tuple[bytes | None, ...] = (b"d", None, None)
        self.__dict__ |= said


def sent(body: bytes, head: bytes = HEAD, name: bytes = b"content-length: ") -> bytes:
    return b"%b%b%d\r\n\r\n%b" % (head, name, len(body), body)


def learnt(raw: bytes, **said: Any) -> Repeats:
    repeats = Repeats()
    body = raw.partition(b"\r\n\r\n")[2]
    repeats.note(Exchange(**{"length": len(body)} | said))  # type: ignore[arg-type]
    repeats.learn(raw)
    return repeats


@pytest.mark.parametrize("name", [b"content-length: ", b"Content-Length:", b"CONTENT-LENGTH:   "])
@pytest.mark.parametrize("size", [1, 8, 9, 10, 11, 98, 99, 100, 101, 998, 1001, 30_000])
def test_the_same_head_with_any_length(name: bytes, size: int) -> None:
    repeats = learnt(sent(b"x" * 12, name=name))
    assert repeats.body(sent(b"y" * size, name=name)) == b"y" * size
    assert repeats.body(sent(b"z" * 12, name=name)) == b"z" * 12


#: What is no whole request with the head of `sent(b"x" * 12)`.
OTHERS: dict[str, bytes] = {
    "nothing": b"",
    "a part of the head": sent(b"y" * 20)[:40],
    "no body yet": sent(b"y" * 20)[:-20],
    "a part of the body": sent(b"y" * 20)[:-1],
    "more than the body": sent(b"y" * 20) + b"y",
    "another request behind it": sent(b"y" * 20) * 2,
    "another path": sent(b"y").replace(b"/v1/", b"/v2/"),
    "another key": sent(b"y").replace(b"Bearer k", b"Bearer l"),
    "one more header": sent(b"y", HEAD + b"a: b\r\n"),
    "two lengths": sent(b"y" * 20, HEAD + b"content-length: 3\r\n"),
    "a length with a zero before it": sent(b"y" * 20).replace(b": 20", b": 020"),
    "a length with a sign": sent(b"y" * 20).replace(b": 20", b": +20"),
    "no length": HEAD + b"content-length: \r\n\r\n",
    "a length in words": sent(b"y" * 20).replace(b": 20", b": ab"),
    "a length in the body": sent(b"").replace(b": 0", b": 2") + b"12",
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_parsed(name: str) -> None:
    raw = OTHERS[name]
    expected = b"12" if name == "a length in the body" else None
    assert learnt(sent(b"x" * 12)).body(raw) == expected


#: What nothing is learnt from.
STRANGE: dict[str, tuple[bytes, dict[str, Any]]] = {
    "a stranger": (sent(b"x"), {"digest": None}),
    "the last request": (sent(b"x"), {"keep_alive": False}),
    "100-continue": (sent(b"x"), {"expects_continue": True}),
    "no length": (HEAD + b"\r\n", {}),
    "chunked as well": (sent(b"x", HEAD + b"transfer-encoding: chunked\r\n"), {}),
    "two lengths": (sent(b"x", HEAD + b"content-length: 1\r\n"), {}),
    "an upgrade": (sent(b"x", HEAD + b"upgrade: h2c\r\n"), {}),
    "a zero before the length": (sent(b"x").replace(b": 1", b": 01"), {"length": 1}),
    "two requests in one read": (sent(b"x") * 2, {"length": 1}),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_nothing_is_learnt_from(name: str) -> None:
    raw, said = STRANGE[name]
    repeats = learnt(raw, **said)
    assert repeats.body(raw) is None
    assert repeats.body(sent(b"x")) is None


def test_heads_that_never_come_again_are_not_learnt_for_ever() -> None:
    repeats = Repeats()
    for number in range(50):
        raw = sent(b"x", HEAD + b"trace: %d\r\n" % number)
        repeats.note(Exchange(length=1))  # type: ignore[arg-type]
        repeats.learn(raw)
    assert repeats.body(sent(b"x", HEAD + b"trace: 3\r\n")) == b"x", "one of the first"
    assert repeats.body(sent(b"x", HEAD + b"trace: 49\r\n")) is None


def test_ids_are_never_twice() -> None:
    ids = {new_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(each) for each in ids} == {len("req_") + 24}


# On a server


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


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies of the requests that were not parsed."""
    found: list[bytes] = []
    body = Repeats.body

    def watched(self: Repeats, raw: bytes) -> bytes | None:
        said = body(self, raw)
        if said is not None:
            found.append(said)
        return said

    monkeypatch.setattr(Repeats, "body", watched)
    return found


async def test_a_conversation_that_grows(running: Running, compared: list[bytes]) -> None:
    bodies = [chat("happy", stream=True, user="u" * size) for size in (1, 9, 99, 999, 2, 1500, 3)]
    found = await answers(running, [request(running.key, each) for each in bodies])
    assert all(each.done for each in found)
    assert len({each.headers["x-request-id"] for each in found}) == len(bodies)
    assert len(compared) >= len(bodies) - 3, "all but the first few are only compared"
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
    return sum(each._current is not None and each._current.more_body for each in connections)
