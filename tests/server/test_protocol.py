"""One connection, read by read: the order of answers, refusals among them, limits and timers."""

import asyncio
import gc
import json
import random
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from legato.core.errors import ApiError
from legato.core.front import Refusal
from legato.fronts.chat import ChatFront
from legato.mock.server import MockServer
from legato.policy.keys import Keyring
from legato.server.context import NATIVE
from legato.server.exchange import Exchange, NativeExchange
from legato.server.protocol import DISCARD_SECONDS, PIPELINE_BYTES, LegatoProtocol
from legato.server.static import UNAUTHENTICATED_BYTES
from tests.conftest import Running, serving, settings_for, until
from tests.support.direct import DirectWire
from tests.support.wire import chat, request

ORIGIN: Final = "https://app.example"
BODY: Final = 4_000
HEADER: Final = 2_000
SECONDS: Final = 5.0  # for a request
IDLE: Final = 20.0

OTHER_PATH: Final = "/v1/other"


class OtherFront(ChatFront):
    """A front that renders errors in its own way."""

    name = "other"

    def refusal(self, error: ApiError, request_id: str) -> Refusal:
        return Refusal(error.status, json.dumps({"other": error.code}).encode())


@pytest.fixture
async def running(
    tmp_path: Path, scripted: MockServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    monkeypatch.setitem(NATIVE, (b"POST", OTHER_PATH.encode()), OtherFront())
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["happy", "slow"],
        **{
            "server.max_body_bytes": BODY,
            "server.max_header_bytes": HEADER,
            "server.request_seconds": SECONDS,
            "server.idle_seconds": IDLE,
            "server.cors_origins": [ORIGIN],
        },
    )
    async with serving(settings) as server:
        yield server


def pass_time(running: Running, seconds: float) -> None:
    """The timers are asked as if that time had passed; the clock of everything else stands."""
    running.app.timers.advance(running.app.clock() + seconds)


# The order of answers


def broken(key: str) -> dict[str, tuple[bytes, int]]:
    """Requests that are refused and end their connection."""
    start = f"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer {key}\r\n".encode()
    chunked = start + b"host: x\r\ntransfer-encoding: chunked\r\n\r\n"
    return {
        "garbage": (b"\x00\x01 what\r\n\r\n", 400),
        "no host": (start + b"\r\n", 400),
        "large head": (start + b"host: x\r\na: %b\r\nb: c\r\n\r\n" % (b"a" * HEADER), 431),
        "large head without an end": (start + b"host: x\r\na: %b" % (b"a" * HEADER), 431),
        "large body": (request(key, b" " * 70_000)[:-10_000], 413),
        "large body in chunks": (chunked + b"ffff\r\n" + b" " * 0xFFFF, 413),
        "bad chunk": (chunked + b"2\r\n  \r\nzz\r\n", 400),
        "large body for the application": (
            request(key, b" " * 70_000, path="/v1/models", method="GET"),
            413,
        ),
        "large body of a stranger": (request("lg-nobody", b" " * 70_000)[:-10_000], 401),
        "chunked body of a stranger": (chunked.replace(key.encode(), b"lg-nobody") + b"1\r\n", 401),
    }


def pieces_of(data: bytes, way: str) -> list[bytes]:
    if way == "whole":
        return [data]
    draw = random.Random(way)
    places = sorted(draw.sample(range(1, len(data)), k=8))
    return [data[a:b] for a, b in zip([0, *places], [*places, None], strict=True)]


@pytest.mark.parametrize("way", ["whole", "cut 1", "cut 2", "cut 3"])
@pytest.mark.parametrize("name", broken("k"))
async def test_a_broken_request_is_refused_in_its_turn(
    running: Running, name: str, way: str
) -> None:
    """What came whole before it is answered first, and nothing behind it."""
    data, status = broken(running.key)[name]
    before = [
        request(running.key, chat("happy", stream=True)),
        request(running.key, b"", path="/v1/models/happy", method="GET"),
        request("lg-nobody", chat("happy")),
        request(running.key, chat("happy")),
    ]
    after = request(running.key, chat("happy"))
    async with DirectWire(running) as wire:
        for piece in pieces_of(b"".join(before) + data + after, way):
            wire.send(piece)
        assert (await wire.answer()).done
        assert (await wire.answer()).json["id"] == "happy"
        assert (await wire.answer()).status == 401
        assert (await wire.answer()).json["object"] == "chat.completion"
        answer = await wire.answer()
        assert (answer.status, answer.closed) == (status, True)
        pass_time(running, DISCARD_SECONDS + 1)
        assert wire.transport.is_closed
    assert [row["outcome"] for row in await running.rows()] == ["complete"] * 2


@pytest.mark.parametrize("name", broken("k"))
async def test_a_broken_request_alone(running: Running, name: str) -> None:
    data, status = broken(running.key)[name]
    async with DirectWire(running) as wire:
        wire.send(data)
        answer = await wire.answer()
        assert (answer.status, answer.closed) == (status, True)
    assert await running.rows() == []


async def test_a_broken_request_behind_the_last(running: Running) -> None:
    async with DirectWire(running) as wire:
        wire.send(request(running.key, chat("happy", stream=True), connection="close"))
        wire.send(b"\x00")
        answer = await wire.answer()
        assert (answer.done, answer.closed) == (True, True)


@pytest.mark.parametrize(("size", "ends"), [(UNAUTHENTICATED_BYTES, False), (1 << 17, True)])
async def test_a_refused_request_whose_body_is_small_costs_no_connection(
    running: Running, size: int, ends: bool
) -> None:
    stranger = request("lg-nobody", b" " * size)
    async with DirectWire(running) as wire:
        wire.send(stranger[:200])
        answer = await wire.answer()
        assert (answer.status, answer.closed) == (401, ends)
        wire.send(stranger[200:] + request(running.key, chat("happy")))
        if not ends:
            assert (await wire.answer()).status == 200
        assert len(wire.transport.writes) == (1 if ends else 2)


async def test_nothing_is_answered_behind_the_last_answer(running: Running) -> None:
    """HTTP/1.0 ends here with its first answer, whatever the client hopes."""
    stranger = request(None, b"{}", version="1.0", connection="keep-alive")
    async with DirectWire(running) as wire:
        wire.send(stranger * 3)
        answer = await wire.answer()
        assert (answer.status, answer.closed) == (401, True)


async def test_a_request_that_breaks_when_its_turn_has_just_come(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = LegatoProtocol.answered
    head = request(running.key, b"", expect="100-continue")
    head = head.replace(b"content-length: 0", b"transfer-encoding: chunked")
    async with DirectWire(running) as wire:

        def then_broken(self: LegatoProtocol, exchange: Exchange) -> None:
            answered(self, exchange)
            if exchange.is_read:
                wire.send(b"zz\r\n")

        monkeypatch.setattr(LegatoProtocol, "answered", then_broken)
        wire.send(request(running.key, chat("slow", stream=True)) + head)
        assert (await wire.answer()).done
        answer = await wire.answer()
        assert (answer.status, answer.closed) == (400, True)
        assert not any(each.startswith(b"HTTP/1.1 100") for each in wire.transport.writes)


OFFERS: Final = ("Upgrade", "Upgrade, HTTP2-Settings")


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_offer_to_upgrade_loses_no_body(
    running: Running, offer: str, chunked: bool
) -> None:
    """As Java's client makes it: cut at every place, also behind another request."""
    body = json.dumps(chat("happy")).encode()
    framing = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Connection: {offer}",
        framing,
        "Host: x",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
        "Upgrade: h2c",
        f"authorization: Bearer {running.key}",
    ]
    asked = ("\r\n".join(lines) + "\r\n\r\n").encode()
    asked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    before = request(running.key, b"", path="/healthz", method="GET")
    async with DirectWire(running) as wire:
        for place in range(1, len(asked), 3):
            wire.send(before + asked[:place])
            wire.send(asked[place:])
            assert (await wire.answer()).json == {"status": "ok"}
            answer = await wire.answer()
            assert answer.status == 200
            assert answer.json["choices"][0]["message"]["content"].startswith("Once upon")


async def test_a_bug_in_reading_a_head_is_ours(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("a bug")

    bugs: list[BaseException] = []
    running.app.services.on_bug = bugs.append
    async with DirectWire(running) as wire:
        wire.send(request(running.key, chat("happy"))[:-1])
        monkeypatch.setattr(Keyring, "identify", fails)
        wire.send(b"}" + request(running.key, chat("happy")))
        assert (await wire.answer()).status == 200
        answer = await wire.answer()
        assert (answer.status, answer.json["error"]["code"]) == (500, "internal_error")
    assert [str(each) for each in bugs] == ["a bug"]


# Bodies that are not wanted


async def discarded(wire: DirectWire, most: int) -> int:
    """Bytes that can be sent until the connection is closed."""
    sent = 0
    while not wire.transport.is_closed and sent < most:
        wire.send(b"x" * 4096)
        sent += 4096
        await asyncio.sleep(0)
    return sent


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
@pytest.mark.parametrize("framing", ["content-length: 31457280", "transfer-encoding: chunked"])
async def test_the_body_of_a_stranger_is_not_read(
    running: Running, path: str, framing: str
) -> None:
    """At most 64 KB of it, and none of it stays in memory."""
    method = "GET" if path == "/v1/models" else "POST"
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: lg-nobody\r\n{framing}\r\n\r\n"
    async with DirectWire(running) as wire:
        wire.send(head.encode())
        answer = await wire.answer()
        assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
        if "chunked" in framing:
            wire.send(b"1e00000\r\n")
        sent = await discarded(wire, 30 << 20)
        assert UNAUTHENTICATED_BYTES <= sent <= UNAUTHENTICATED_BYTES + 2 * 4096
        assert wire.transport.is_aborted


async def test_the_body_of_a_stranger_is_not_kept_while_others_are_answered(
    running: Running,
) -> None:
    """Behind another request it waits for its refusal; its body waits in the kernel."""
    async with DirectWire(running) as wire:
        wire.send(request(running.key, chat("slow", stream=True)))
        wire.send(request("lg-nobody", b"x" * (30 << 20))[:200])
        sent = 0
        tracemalloc.start()
        while wire.transport.is_reading:
            wire.send(b"x" * 4096)
            sent += 4096
        allocated, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert PIPELINE_BYTES - 4096 <= sent <= PIPELINE_BYTES + 4096
        assert allocated < sent / 4
        assert (await wire.answer()).done
        assert (await wire.answer()).status == 401
        assert wire.transport.is_reading


async def test_a_refused_body_is_read_so_that_the_answer_can_be(running: Running) -> None:
    """A client of ours gets its 413, although it reads nothing before it has sent all."""
    async with DirectWire(running) as wire:
        wire.send(request(running.key, b"x" * (1 << 20))[:300])
        assert (await wire.answer()).status == 413
        assert await discarded(wire, 1 << 20) == 1 << 20
        assert not wire.transport.is_closed
        pass_time(running, DISCARD_SECONDS + 1)
        assert wire.transport.is_closed


async def test_who_takes_a_long_answer_gets_it_before_a_refusal_ends_the_connection(
    running: Running,
) -> None:
    async with DirectWire(running) as wire:
        large = request(running.key, b"x" * (UNAUTHENTICATED_BYTES + 1))
        wire.send(request(running.key, chat("happy")) + large[:300])
        assert (await wire.answer()).status == 200
        assert (await wire.answer()).status == 413
        wire.transport.unsent = 9
        for unsent in range(8, 0, -1):
            pass_time(running, DISCARD_SECONDS + 1)
            wire.transport.unsent = unsent
            assert not wire.transport.is_closed
        wire.transport.unsent = 0
        pass_time(running, 2 * DISCARD_SECONDS + 2)
        assert wire.transport.is_closed


EXPECTING: Final[dict[str, tuple[str | None, str, str, int]]] = {
    "a stranger": (None, "/v1/chat/completions", "", 401),
    "an encoding": ("key", "/v1/chat/completions", "br", 415),
    "too large": ("key", "/v1/chat/completions", "", 413),
    "no such path": ("key", "/v1/nothing", "", 404),
}


@pytest.mark.parametrize("name", EXPECTING)
async def test_who_is_refused_instead_of_told_to_go_on(running: Running, name: str) -> None:
    """It may send its body or its next request: the connection ends (RFC 9110, section 10.1.1)."""
    who, path, encoding, status = EXPECTING[name]
    body = b"x" * (5000 if status == 413 else 100)
    more = {"expect": "100-continue"} | ({"content-encoding": encoding} if encoding else {})
    key = running.key if who else None
    asked = request(key, body, path=path, **more)[: -len(body)]
    async with DirectWire(running) as wire:
        wire.send(asked)
        answer = await wire.answer()
        assert (answer.status, answer.closed) == (status, True)
        assert not any(each.startswith(b"HTTP/1.1 100") for each in wire.transport.writes)


async def test_a_100_is_for_who_waits_for_it(running: Running) -> None:
    asked = request(running.key, chat("happy"), expect="100-continue")
    size = asked.index(b"\r\n\r\n") + 4
    for at, version, expected in ((size, b"1.1", 1), (size + 1, b"1.1", 0), (size, b"1.0", 0)):
        async with DirectWire(running) as wire:
            raw = asked.replace(b"HTTP/1.1", b"HTTP/" + version)
            wire.send(raw[:at])
            wire.send(raw[at:])
            assert (await wire.answer()).status == 200
            sent = [each.startswith(b"HTTP/1.1 100") for each in wire.transport.writes]
            assert sent.count(True) == expected


# Errors in the format of the endpoint


def on_other_path(key: str) -> dict[str, tuple[bytes, str]]:
    start = f"POST {OTHER_PATH}?beta=1 HTTP/1.1\r\nauthorization: Bearer {key}\r\n".encode()
    return {
        "no key": (request(None, b"{}", path=OTHER_PATH), "missing_api_key"),
        "no host": (start + b"\r\n", "invalid_http"),
        "large head": (
            start + b"host: x\r\na: %b\r\nb: c\r\n" % (b"a" * HEADER),
            "headers_too_large",
        ),
        "large body": (request(key, b" " * 5000, path=OTHER_PATH), "request_too_large"),
        "bad chunk": (
            start + b"host: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "invalid_http",
        ),
        "encoding": (
            request(key, b"{}", path=OTHER_PATH, **{"content-encoding": "br"}),
            "unsupported_encoding",
        ),
        "bad JSON": (request(key, b"{", path=OTHER_PATH), "invalid_json"),
        "late": (start + b"host: x\r\n", "request_timeout"),
        "late body": (request(key, b"{}", path=OTHER_PATH)[:-1], "request_timeout"),
        "other method": (request(key, b"", path=OTHER_PATH, method="PUT"), "method_not_allowed"),
    }


@pytest.mark.parametrize("name", on_other_path("k"))
async def test_errors_have_the_format_of_their_endpoint(running: Running, name: str) -> None:
    data, code = on_other_path(running.key)[name]
    async with DirectWire(running) as wire:
        wire.send(data)
        if "late" in name:
            pass_time(running, SECONDS + 1)
        answer = await wire.answer()
        assert answer.json == {"other": code}
        assert answer.headers["content-type"] == "application/json"


async def test_another_path_has_the_usual_format(running: Running) -> None:
    async with DirectWire(running) as wire:
        wire.send(b"GET /v1/models HTTP/1.1\r\n\r\n")
        assert (await wire.answer()).json["error"]["code"] == "invalid_http"


# Timers


@pytest.mark.parametrize("sent", [20, 60, -1])
@pytest.mark.parametrize("with_origin", [False, True])
async def test_a_request_that_does_not_arrive(
    running: Running, sent: int, with_origin: bool
) -> None:
    asked = request(running.key, chat("happy"))
    if with_origin:
        asked = asked.replace(b"host: test", b"origin: %b\r\nhost: test" % ORIGIN.encode())
        sent = sent if sent < 0 else sent + 60
    async with DirectWire(running) as wire:
        wire.send(asked[:sent])
        pass_time(running, SECONDS - 1)
        assert wire.transport.writes == []
        pass_time(running, SECONDS + 1)
        answer = await wire.answer()
        assert (answer.status, answer.closed) == (408, True)
        assert answer.headers["x-request-id"].startswith("req_")
        allowed = answer.headers.get("access-control-allow-origin")
        assert allowed == (ORIGIN if with_origin else None)


async def test_a_body_that_does_not_arrive_behind_its_answer(running: Running) -> None:
    """The request has been answered: its answer stays the only one."""
    async with DirectWire(running) as wire:
        wire.send(request("lg-nobody", chat("happy"))[:-1])
        assert (await wire.answer()).status == 401
        assert not wire.transport.has_eof
        pass_time(running, SECONDS + 1)
        assert len(wire.transport.writes) == 1
        assert wire.transport.has_eof


async def test_the_time_for_which_we_do_not_read_is_not_the_client_s(running: Running) -> None:
    """A large request behind an answer that takes its time is left in the kernel."""
    body = json.dumps(chat("happy")).encode()
    small = request(running.key, body)
    many = PIPELINE_BYTES // len(small) + 2
    services, start = running.app.services, running.app.clock()
    async with DirectWire(running) as wire:
        wire.send(request(running.key, chat("slow", stream=True)))
        for _ in range(many):
            wire.send(small)
        assert not wire.transport.is_reading
        wire.send(small[:-1])  # had been read by then
        for times in (1, 2, 3):
            services.clock = lambda times=times: start + times * (SECONDS + 1)
            running.app.timers.advance(services.clock())
        services.clock = lambda: start + 4 * SECONDS  # its time begins when it is read from again
        assert (await wire.answer()).done
        await until(lambda: wire.transport.is_reading, "it is read from again")
        running.app.timers.advance(start + 5 * SECONDS - 0.1)
        wire.send(small[-1:])
        for _ in range(many + 1):
            assert (await wire.answer()).status == 200


async def test_empty_lines_are_no_request(running: Running) -> None:
    """They do not keep a connection open."""
    async with DirectWire(running) as wire:
        wire.send(request(running.key, chat("happy")))
        assert (await wire.answer()).status == 200
        wire.send(b"\r\n")
        pass_time(running, 2 * IDLE)
        assert wire.transport.is_closed


ASKED: Final = ("a stream", "a whole answer", "the application", "a stranger")


@pytest.mark.parametrize("last", ASKED)
async def test_a_connection_that_has_answered_is_idle(running: Running, last: str) -> None:
    asked = {
        "a stream": request(running.key, chat("happy", stream=True)),
        "a whole answer": request(running.key, chat("happy")),
        "the application": request(running.key, b"", path="/healthz", method="GET"),
        "a stranger": request("lg-nobody", chat("happy")),
    }
    async with DirectWire(running) as wire:
        for name in (*ASKED, last):
            wire.send(asked[name][:-1])
            pass_time(running, 2 * SECONDS / 3)
            wire.send(asked[name][-1:])
            await wire.answer()
            pass_time(running, IDLE - 1)
            assert not wire.transport.is_closed
        for times in (1.5, 3.0):
            pass_time(running, times * IDLE)
        assert wire.transport.is_closed


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
async def test_an_answer_that_is_never_taken_ends_with_the_idle_time(
    running: Running, path: str
) -> None:
    """Also of the application, and also where the connection was to end behind it."""
    method, body = ("GET", b"") if path == "/v1/models" else ("POST", chat("happy"))
    asked = request(running.key, body, path=path, method=method, connection="close")
    async with DirectWire(running) as wire:
        wire.transport.unsent = 1000
        wire.send(asked)
        assert (await wire.answer()).status == 200
        assert wire.transport.is_closed
        assert not wire.transport.is_aborted
        for times in (1.5, 3.0):
            pass_time(running, times * IDLE)
        assert wire.transport.is_aborted


# Memory


async def test_a_connection_keeps_nothing_of_what_it_has_answered(running: Running) -> None:
    def exchanges() -> int:
        return sum(isinstance(each, NativeExchange) for each in gc.get_objects())

    async with DirectWire(running) as wire:
        for at in (-1, 10, None):
            asked = request(running.key, chat("happy", stream=True))
            wire.send(asked[:at])
            wire.send(asked[at:] if at is not None else b"")
            assert (await wire.answer()).done
            await until(lambda: not exchanges(), "nothing of the request is left")
            assert wire.protocol._reader is None
