"""What is decided when the head of a request is complete, before its body is read."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from legato.mock.server import MockServer
from tests.conftest import Running, serving, settings_for, until
from tests.support.direct import DirectWire
from tests.support.raw_upstream import FAULTS
from tests.support.wire import Wire, ask, chat, request

ORIGIN = "https://app.example"
MOST = 20_000  # bytes of a body


@pytest.fixture
async def running(tmp_path: Path, scripted: MockServer) -> Any:
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["happy"],
        **{
            "server.cors_origins": [ORIGIN],
            "server.max_header_bytes": 2048,
            "server.max_body_bytes": MOST,
        },
    )
    async with serving(settings) as server:
        yield server


def head(key: str, length: int, *more: str, path: str = "/v1/chat/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {length}", *more]
    if key:
        lines.append(f"authorization: Bearer {key}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


# Authentication


@pytest.mark.parametrize("key", ["", "lg-nobody"])
@pytest.mark.parametrize("expects", [False, True])
async def test_a_wrong_key_is_refused_before_the_body(
    running: Running, key: str, expects: bool
) -> None:
    """Also where the client waits for leave to send: it gets none."""
    more = ["expect: 100-continue"] if expects else []
    async with await Wire.open(running.port) as wire:
        wire.send(head(key, 1000, *more))
        answer = await wire.answer()
        assert answer.status == 401
        assert answer.json["error"]["code"] == ("invalid_api_key" if key else "missing_api_key")
    assert await running.rows() == []


async def test_the_body_of_a_wrong_key_is_thrown_away(running: Running) -> None:
    """At most 64 KB of it are read; then the connection is closed."""
    size = 30 * 1024 * 1024
    async with await Wire.open(running.port) as wire:
        wire.send(head("lg-nobody", size))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        connections: Any = running.server.server_state.connections
        (protocol,) = connections
        sent = 0
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            while sent < size:
                wire.send(b"x" * 16_384)
                sent += 16_384
                await wire.writer.drain()
                await asyncio.sleep(0)
        assert sent < size
    assert protocol._discarded < 2 * 64 * 1024 + 256 * 1024, "one read over the limit at most"
    await until(lambda: not connections, "the connection is closed")


async def test_a_small_body_of_a_wrong_key_costs_no_connection(running: Running) -> None:
    async with await Wire.open(running.port) as wire:
        for key, status in (("lg-nobody", 401), (running.key, 200), ("lg-nobody", 401)):
            wire.send(request(key, chat("happy")))
            assert (await wire.answer()).status == status


#: What the headers `authorization` and `x-api-key` have, and the status of the answer.
KEYS: list[tuple[str | None, str | None, int]] = [
    (None, "KEY", 200),
    (None, " KEY ", 200),
    ("Bearer KEY", "lg-nobody", 200),
    ("bearer  KEY", None, 200),
    ("Basic abc", "KEY", 200),
    ("Bearer", "KEY", 200),
    ("Bearer lg-nobody", "KEY", 401),
    (None, "lg-nobody", 401),
    (None, "", 401),
    ("Basic KEY", None, 401),
    ("KEY", None, 401),
]


@pytest.mark.parametrize(("authorization", "api_key", "status"), KEYS)
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/models", "/v1/models/happy", "/legato/routes"]
)
async def test_the_headers_of_a_key(
    running: Running, path: str, authorization: str | None, api_key: str | None, status: int
) -> None:
    body = json.dumps(chat("happy")).encode() if "chat" in path else b""
    given = {"authorization": authorization, "x-api-key": api_key}
    more = {
        name: value.replace("KEY", running.key)
        for name, value in given.items()
        if value is not None
    }
    method = "POST" if body else "GET"
    answer = await ask(running.port, None, body, path=path, method=method, **more)
    assert answer.status == status


async def test_a_query_is_no_part_of_the_path(running: Running) -> None:
    path = "/v1/chat/completions?beta=true"
    assert (await ask(running.port, running.key, chat("happy"), path=path)).status == 200


# What agents ask first


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/?a=b", "/api/hello", "/api/hello?beta=true"])
async def test_a_greeting_is_answered_without_a_key(
    running: Running, method: str, path: str
) -> None:
    async with await Wire.open(running.port) as wire:
        wire.send(request(None, b"", path=path, method=method))
        answer = await wire.answer(head_only=method == "HEAD")
        assert answer.status == 200
        if method == "GET":
            assert answer.json == {"name": "legato"}
        wire.send(request(running.key, chat("happy")))
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses?a=b"])
async def test_a_websocket_is_declined_at_once(running: Running, path: str, key: bool) -> None:
    """With 426, on which clients go on without; the connection is good for the next request."""
    offer = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with await Wire.open(running.port) as wire:
        asked = request(running.key if key else None, b"", path=path, method="GET", **offer)
        for raw in (asked, asked.replace(b"content-length: 0\r\n", b"")):
            wire.send(raw)
            answer = await wire.answer()
            assert answer.status == 426
            assert answer.headers["upgrade"] == "HTTP/1.1"
            assert answer.headers["connection"] == "upgrade"
            assert answer.json["error"]["code"] == "websocket_not_supported"
            assert answer.json["error"]["type"] == "invalid_request_error"
        wire.send(request(running.key, chat("happy")))
        assert (await wire.answer()).status == 200


async def test_other_paths_ignore_an_upgrade(running: Running) -> None:
    """RFC 9110, section 7.8; Java's client offers h2c with every request."""
    offer = {
        "upgrade": "h2c",
        "connection": "Upgrade, HTTP2-Settings",
        "http2-settings": "AAMAAABk",
    }
    answer = await ask(running.port, running.key, b"", path="/v1/models", method="GET", **offer)
    assert answer.status == 200


# Encodings


@pytest.mark.parametrize("encoding", ["br", "compress", "BR", "x-odd"])
async def test_an_encoding_that_is_not_taken_is_named(running: Running, encoding: str) -> None:
    more = {"content-encoding": encoding}
    answer = await ask(running.port, running.key, chat("happy"), **more)
    error = answer.json["error"]
    assert (answer.status, error["type"]) == (415, "invalid_request_error")
    assert error["code"] == "unsupported_encoding"
    assert encoding.lower() in error["message"]


@pytest.mark.parametrize(
    "lines",
    [["gzip", "br"], ["br", "identity"], ["identity, br"], ["gzip", "zstd"], ["gzip, gzip"]],
)
async def test_several_encodings(running: Running, lines: list[str]) -> None:
    more = [f"content-encoding: {each}" for each in lines]
    async with await Wire.open(running.port) as wire:
        wire.send(head(running.key, 2, *more) + b"{}")
        answer = await wire.answer()
    assert answer.status == 415
    assert answer.json["error"]["code"] == "unsupported_encoding"
    named = "br" if "br" in ", ".join(lines) else ", ".join(lines)
    assert f"`{named}`" in answer.json["error"]["message"]


async def test_a_compressed_body_from_a_file(running: Running) -> None:
    answer = await played(running, "gzip-body.http")
    assert answer.status == 404  # for its model: the body was read


async def test_identity_is_no_encoding(running: Running) -> None:
    more = {"content-encoding": "identity"}
    assert (await ask(running.port, running.key, chat("happy"), **more)).status == 200


async def played(running: Running, name: str) -> Any:
    """The answer to the bytes of a file."""
    raw = (FAULTS / "http" / name).read_bytes().replace(b"@KEY@", running.key.encode())
    async with await Wire.open(running.port) as wire:
        wire.send(raw)
        return await wire.answer()


# Cross-origin requests


async def test_errors_of_the_edge_can_be_read_by_a_page(
    tmp_path: Path, scripted: MockServer
) -> None:
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["happy"],
        **{"server.cors_origins": ["http://localhost:3000"], "server.max_body_bytes": 2048},
    )
    async with serving(settings) as running:
        answer = await played(running, "cors-413.http")
        assert answer.status == 413
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


@pytest.mark.parametrize("next_origin", ["", "origin: https://other.example\r\n"])
async def test_a_refusal_has_the_origin_of_its_own_request(
    running: Running, next_origin: str
) -> None:
    """Also where the next request came in the same read."""
    large = (
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\norigin: %b\r\nauthorization: Bearer %b\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (MOST + 1, b"x" * (MOST + 1))
    following = f"GET /v1/models HTTP/1.1\r\nhost: x\r\n{next_origin}\r\n".encode()
    async with DirectWire(running) as wire:
        wire.send(large % (ORIGIN.encode(), running.key.encode()) + body + following)
        answer = await wire.answer()
        assert answer.status == 413
        assert answer.headers["access-control-allow-origin"] == ORIGIN


REFUSED: dict[str, tuple[bytes, int]] = {
    "no key": (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n", 401),
    "no host": (b"POST /v1/chat/completions HTTP/1.1\r\n", 400),
    "large head": (b"GET /healthz HTTP/1.1\r\nhost: x\r\n", 431),
    "no path": (b"GET /nothing HTTP/1.1\r\nhost: x\r\n", 404),
    "no method": (b"PUT /v1/models HTTP/1.1\r\nhost: x\r\n", 405),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_each_refusal_has_an_id_and_its_origin(running: Running, name: str) -> None:
    start, status = REFUSED[name]
    more = {"large head": b"x-a: %b\r\n" % (b"a" * 4096)}
    for origin, allowed in ((ORIGIN, ORIGIN), ("https://other.example", None)):
        async with await Wire.open(running.port) as wire:
            wire.send(start + f"origin: {origin}\r\n".encode() + more.get(name, b"") + b"\r\n")
            answer = await wire.answer()
            assert answer.status == status
            assert answer.headers.get("access-control-allow-origin") == allowed
            assert answer.headers["x-request-id"].startswith("req_")


async def test_a_preflight_for_a_private_network(running: Running) -> None:
    raw = (FAULTS / "http" / "preflight-private-network.http").read_bytes()
    name = "access-control-allow-private-network"
    for origin, allowed in ((b"https://app.example", True), (b"https://other.example", False)):
        async with await Wire.open(running.port) as wire:
            wire.send(raw.replace(b"https://app.example", origin))
            answer = await wire.answer()
            assert answer.status == 204
            assert "content-length" not in answer.headers, "RFC 9110, section 8.6"
            assert (answer.headers.get(name) == "true") is allowed
            assert ("access-control-allow-origin" in answer.headers) is allowed
    async with await Wire.open(running.port) as wire:
        lines = [each for each in raw.split(b"\r\n") if b"rivate" not in each]
        wire.send(b"\r\n".join(lines))
        assert name not in (await wire.answer()).headers
