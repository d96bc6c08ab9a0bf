"""What is decided when the head of a request is complete, before its body is read."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from legato.mock.server import MockServer
from tests.conftest import Running, serving, settings_for, until
from tests.support.raw_upstream import FAULTS
from tests.support.wire import Wire, ask, chat, request

ORIGIN = "https://app.example"


@pytest.fixture
async def running(tmp_path: Path, scripted: MockServer) -> Any:
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["happy"],
        **{"server.cors_origins": [ORIGIN], "server.max_header_bytes": 2048},
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


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_a_key_in_another_header(running: Running, path: str) -> None:
    body = json.dumps(chat("happy")).encode() if "chat" in path else b""
    method = "POST" if body else "GET"
    for key, status in ((running.key, 200), ("lg-nobody", 401)):
        more = {"path": path, "method": method, "x-api-key": key}
        assert (await ask(running.port, None, body, **more)).status == status


async def test_a_query_is_no_part_of_the_path(running: Running) -> None:
    path = "/v1/chat/completions?beta=true"
    assert (await ask(running.port, running.key, chat("happy"), path=path)).status == 200


# Encodings


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br", "GZIP", "x-odd"])
async def test_an_encoding_that_is_not_taken_is_named(running: Running, encoding: str) -> None:
    more = {"content-encoding": encoding}
    answer = await ask(running.port, running.key, chat("happy"), **more)
    error = answer.json["error"]
    assert (answer.status, error["type"]) == (415, "invalid_request_error")
    assert error["code"] == "unsupported_encoding"
    assert encoding.lower() in error["message"]


async def test_the_fault_of_a_compressed_body(running: Running) -> None:
    answer = await played(running, "gzip-body.http")
    assert answer.status == 415
    assert "gzip" in answer.json["error"]["message"]


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
            assert (answer.headers.get(name) == "true") is allowed
            assert ("access-control-allow-origin" in answer.headers) is allowed
    async with await Wire.open(running.port) as wire:
        lines = [each for each in raw.split(b"\r\n") if b"rivate" not in each]
        wire.send(b"\r\n".join(lines))
        assert name not in (await wire.answer()).headers


# Upgrades


@pytest.mark.parametrize("offer", ["Upgrade", "Upgrade, HTTP2-Settings"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_offer_to_upgrade_loses_no_body(
    running: Running, offer: str, chunked: bool
) -> None:
    """As Java's client sends it, with the head in two reads: cut at every place of the head."""
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
    sent = ("\r\n".join(lines) + "\r\n\r\n").encode()
    size = len(sent)
    sent += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    async with await Wire.open(running.port) as wire:
        for place in (*range(1, size + 4, 7), size - 1, size, size + 1, len(sent) - 1):
            before = running.app.services.router.health["at-happy"].calls
            wire.send(sent[:place])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            wire.send(sent[place:] + sent)
            for _ in range(2):
                answer = await wire.answer()
                assert answer.status == 200
                assert answer.json["choices"][0]["message"]["content"].startswith("Once upon")
            assert running.app.services.router.health["at-happy"].calls == before + 2
