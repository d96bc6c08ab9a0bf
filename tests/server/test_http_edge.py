"""The edge is a whole HTTP/1.1 citizen, on the hot path as on the rest."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from tests.conftest import Running, serving, settings_for, until
from tests.support.wire import Wire, ask, chat, request


@pytest.fixture
async def tight(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Running]:
    """A server with small limits."""
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["happy", "slow"],
        **{
            "server.max_body_bytes": 10_000,
            "server.max_header_bytes": 4_000,
            "server.request_seconds": 0.3,
            "server.idle_seconds": 0.4,
            "server.max_connections": 5,
            "server.cors_origins": ["https://app.example"],
        },
    )
    async with serving(settings) as running:
        yield running


REFUSED: dict[str, tuple[Any, int, str | None, str | None]] = {
    "empty body": (b"", 400, "invalid_request", None),
    "broken JSON": (b'{"model": "happy", ', 400, "invalid_json", None),
    "not UTF-8": (b'{"model": "\xff"}', 400, "invalid_json", None),
    "not an object": (b"[1]", 400, "invalid_value", None),
    "deep nesting": (b"[" * 9_000, 400, None, None),
    "no model": (
        {"messages": [{"role": "user", "content": "hi"}]},
        400,
        "missing_required_parameter",
        "model",
    ),
    "no messages": ({"model": "happy"}, 400, "missing_required_parameter", "messages"),
    "empty messages": ({"model": "happy", "messages": []}, 400, "invalid_value", "messages"),
    "model is a number": (chat("happy") | {"model": 1}, 400, "invalid_value", "model"),
    "messages is text": ({"model": "x", "messages": "hi"}, 400, "invalid_value", "messages"),
    "role is unknown": (
        {"model": "x", "messages": [{"role": "boss", "content": "hi"}]},
        400,
        "invalid_value",
        "messages[0].role",
    ),
    "content is a number": (
        {"model": "x", "messages": [{"role": "user", "content": 1}]},
        400,
        "invalid_value",
        "messages[0].content",
    ),
    "temperature is text": (chat("happy", temperature="0.5"), 400, "invalid_value", "temperature"),
    "temperature is too high": (chat("happy", temperature=3), 400, "invalid_value", "temperature"),
    "max_tokens is 0": (chat("happy", max_tokens=0), 400, "invalid_value", "max_tokens"),
    "n is 0": (chat("happy", n=0), 400, "invalid_value", "n"),
    "stream is text": (chat("happy", stream="yes"), 400, "invalid_value", "stream"),
    "stream_options without stream": (
        chat("happy", stream_options={"include_usage": True}),
        400,
        "invalid_request",
        "stream_options",
    ),
    "unknown model": (chat("nothing"), 404, "model_not_found", "model"),
    "50 MB body": (b" " * 50_000_000, 413, "request_too_large", None),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_bad_bodies_are_refused_and_named(tight: Running, case: str) -> None:
    body, status, code, param = REFUSED[case]
    answer = await ask(tight.port, tight.key, body)
    assert answer.status == status
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    assert (await ask(tight.port, tight.key, chat("happy", stream=True))).done


PATHS = [
    ("GET", "/v1/chat/completions", 405),
    ("PUT", "/v1/chat/completions", 405),
    ("HEAD", "/v1/chat/completions", 405),
    ("POST", "/v1/nothing", 404),
    ("GET", "/", 200),
    ("POST", "/", 405),
    ("GET", "/nothing", 404),
    ("POST", "/v1/models", 405),
    ("GET", "/v1/models/nothing", 404),
    ("HEAD", "/healthz", 200),
    ("GET", "/healthz", 200),
    ("GET", "/readyz", 200),
    ("GET", "/v1/models", 200),
    ("GET", "/v1/models/happy", 200),
    ("OPTIONS", "/v1/chat/completions", 204),
    ("OPTIONS", "/v1/models", 204),
    ("POST", "/v1/chat/completions?x=1", 200),
    ("POST", "http://test/v1/chat/completions", 200),
]


@pytest.mark.parametrize(("method", "path", "status"), PATHS)
async def test_paths_and_methods(tight: Running, method: str, path: str, status: int) -> None:
    async with await Wire.open(tight.port) as wire:
        body = chat("happy") if method == "POST" else b""
        wire.send(request(tight.key, body, path=path, method=method))
        answer = await wire.answer(head_only=method == "HEAD")
        assert answer.status == status
        assert answer.headers["x-request-id"].startswith("req_")
        if status >= 400 and method != "HEAD":
            assert set(answer.json["error"]) == {"message", "type", "param", "code"}
        if status in (405, 204):
            assert answer.headers["allow"]
        # The connection is as good as before.
        wire.send(request(tight.key, chat("happy", stream=True)))
        assert (await wire.answer()).done


KEYS = [
    ({}, 401, "missing_api_key"),
    ({"authorization": "Basic abc"}, 401, "missing_api_key"),
    ({"authorization": "Bearer"}, 401, "missing_api_key"),
    ({"authorization": "Bearer lg-wrong"}, 401, "invalid_api_key"),
    ({"authorization": "Bearer \xff\xfe"}, 401, "invalid_api_key"),
]


@pytest.mark.parametrize(("headers", "status", "code"), KEYS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_keys(
    tight: Running, headers: dict[str, str], status: int, code: str, path: str
) -> None:
    method = "GET" if path == "/v1/models" else "POST"
    line = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    async with await Wire.open(tight.port) as wire:
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\n{line}content-length: 0\r\n\r\n"
        wire.send(head.encode("latin-1"))
        answer = await wire.answer()
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert answer.json["error"]["type"] == "authentication_error"


GARBAGE = {
    "noise": b"\x00\x01\x02 what\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "no host, hot": b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
    "two lengths": b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n"
    b"content-length: 2\r\n\r\nab",
    "length and chunked": b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
    b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "TLS hello": bytes.fromhex("1603010200010001fc0303") + b"x" * 200,
    "bad chunk": b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
    b"transfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("case", GARBAGE)
async def test_garbage_is_refused_and_the_server_serves_on(tight: Running, case: str) -> None:
    async with await Wire.open(tight.port) as wire:
        key = b"authorization: Bearer %b\r\nhost:" % tight.key.encode()
        wire.send(GARBAGE[case].replace(b"host:", key, 1))
        answer = await wire.answer()
        assert answer.status == 400
        assert answer.json["error"]["code"] == "invalid_http"
        assert answer.closed
    assert (await ask(tight.port, tight.key, chat("happy", stream=True))).done


@pytest.mark.parametrize("pieces", [1, 50])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_large_heads_are_refused(tight: Running, pieces: int, path: str) -> None:
    async with await Wire.open(tight.port) as wire:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-much: {'y' * 5_000}".encode()
        for start in range(0, len(head), len(head) // pieces):
            wire.send(head[start : start + len(head) // pieces])
            await wire.writer.drain()
            await asyncio.sleep(0)
        answer = await wire.answer()
        assert answer.status == 431
        assert answer.closed


@pytest.mark.parametrize("sent", [b"POST /v1/chat/comp", b"POST /v1/chat/completions HTTP/1.1\r\n"])
async def test_a_head_that_never_ends(tight: Running, sent: bytes) -> None:
    async with await Wire.open(tight.port) as wire:
        wire.send(sent)
        answer = await wire.answer()
        assert answer.status == 408
        assert answer.closed


async def test_a_body_that_never_ends(tight: Running) -> None:
    async with await Wire.open(tight.port) as wire:
        wire.send(request(tight.key, chat("happy"))[:-5])
        answer = await wire.answer()
        assert answer.status == 408
        assert answer.closed


async def test_idle_connections_are_closed(tight: Running) -> None:
    async with await Wire.open(tight.port) as wire:
        assert await asyncio.wait_for(wire.reader.read(), 5) == b""
    async with await Wire.open(tight.port) as wire:
        wire.send(request(tight.key, chat("happy", stream=True)))
        assert (await wire.answer()).done
        assert await asyncio.wait_for(wire.reader.read(), 5) == b""


async def test_a_long_stream_is_not_idle(tight: Running) -> None:
    """The answer takes longer than an idle connection, or a request, may."""
    answer = await ask(tight.port, tight.key, chat("slow", stream=True))
    assert answer.done


async def test_too_many_connections(tight: Running) -> None:
    wires = [await Wire.open(tight.port) for _ in range(5)]
    await until(lambda: len(tight.server.server_state.connections) == 5)
    async with await Wire.open(tight.port) as wire:
        answer = await wire.answer()
        assert answer.status == 503
        assert answer.json["error"]["code"] == "too_many_connections"
    for each in wires:
        await each.__aexit__()
    await until(lambda: len(tight.server.server_state.connections) == 0)
    assert (await ask(tight.port, tight.key, chat("happy", stream=True))).done


async def test_pipelined_requests_are_answered_in_order(tight: Running) -> None:
    async with await Wire.open(tight.port) as wire:
        wire.send(
            request(tight.key, chat("slow", stream=True))
            + request(tight.key, b"", path="/v1/models/slow", method="GET")
            + request(tight.key, chat("happy"))
            + request(None, chat("happy"))
            + request(tight.key, chat("happy", stream=True))
        )
        first = await wire.answer()
        assert first.done
        assert first.chunks[0]["model"] == "slow"
        assert (await wire.answer()).json["id"] == "slow"
        assert (await wire.answer()).json["object"] == "chat.completion"
        assert (await wire.answer()).status == 401
        assert (await wire.answer()).done


async def test_a_client_that_leaves_behind_pipelined_requests(
    tight: Running, scripted: MockServer
) -> None:
    async with await Wire.open(tight.port) as wire:
        for _ in range(4):
            wire.send(request(tight.key, chat("slow", stream=True)))
        await wire.head()
        await wire.chunk()
    await until(lambda: scripted.requests[-1].is_disconnected, "the upstream sees its peer gone")
    assert len(scripted.requests) == 1


async def test_requests_in_pieces(tight: Running) -> None:
    raw = request(tight.key, chat("happy", stream=True))
    async with await Wire.open(tight.port) as wire:
        for start in range(len(raw)):
            wire.send(raw[start : start + 1])
            await wire.writer.drain()
        assert (await wire.answer()).done


async def test_chunked_requests(tight: Running) -> None:
    raw = request(tight.key, chat("happy", stream=True))
    head, _, body = raw.partition(b"\r\n\r\n")
    head = head.replace(b"content-length: %d" % len(body), b"transfer-encoding: chunked")
    framed = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    async with await Wire.open(tight.port) as wire:
        wire.send(head + b"\r\n\r\n" + framed)
        assert (await wire.answer()).done


async def test_expect_continue(tight: Running) -> None:
    raw = request(tight.key, chat("happy", stream=True), expect="100-continue")
    head, _, body = raw.partition(b"\r\n\r\n")
    async with await Wire.open(tight.port) as wire:
        wire.send(head + b"\r\n\r\n")
        assert (await wire.head())[0] == 100
        wire.send(body)
        assert (await wire.answer()).done
        wire.send(request(tight.key, b" " * 20_000, expect="100-continue")[:-20_000])
        assert (await wire.answer()).status == 413


async def test_http_1_0_bodies_end_with_the_connection(tight: Running) -> None:
    async with await Wire.open(tight.port) as wire:
        wire.send(request(tight.key, chat("happy", stream=True), version="1.0"))
        status, headers = await wire.head()
        assert status == 200
        assert "transfer-encoding" not in headers
        assert headers["connection"] == "close"
        assert (await wire.reader.read()).endswith(b"data: [DONE]\n\n")


async def test_connection_close(tight: Running) -> None:
    answer = await ask(tight.port, tight.key, chat("happy", stream=True), connection="close")
    assert answer.done
    assert answer.closed


async def test_an_upgrade_nobody_offers_is_ignored(tight: Running) -> None:
    upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAM"}
    answer = await ask(tight.port, tight.key, chat("happy", stream=True), **upgrade)
    assert answer.done


async def test_cors(tight: Running) -> None:
    origin = {"origin": "https://app.example"}
    for body in (chat("happy", stream=True), chat("happy"), b"{"):
        answer = await ask(tight.port, tight.key, body, **origin)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "x-ratelimit-remaining-tokens"} < set(exposed)
        answer = await ask(tight.port, tight.key, body, origin="https://other.example")
        assert "access-control-allow-origin" not in answer.headers
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-a"}
    for path in ("/v1/chat/completions", "/v1/models"):
        answer = await ask(
            tight.port, tight.key, b"", path=path, method="OPTIONS", **origin, **asked
        )
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        methods = answer.headers["access-control-allow-methods"].split(", ")
        assert {"GET", "POST", "PATCH", "DELETE"} < set(methods)


async def test_tls(tmp_path: Path, scripted: MockServer) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    settings = settings_for(
        tmp_path,
        await scripted.start(),
        ["happy"],
        **{"server.tls_cert": str(cert), "server.tls_key": str(key)},
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with serving(settings) as running:
        assert running.url.startswith("https://")
        async with await Wire.open(running.port, ssl=context) as wire:
            for _ in range(2):
                wire.send(request(running.key, chat("happy", stream=True)))
                assert (await wire.answer()).done
        async with httpx.AsyncClient(verify=context, base_url=running.url) as client:
            models = await client.get("/v1/models", headers=running.auth)
            assert [each["id"] for each in models.json()["data"]] == ["happy"]


async def test_a_sigterm_lets_streams_finish(tight: Running) -> None:
    async with await Wire.open(tight.port) as wire:
        wire.send(request(tight.key, chat("slow", stream=True)))
        await wire.head()
        first = await wire.chunk()
        tight.server.should_exit = True
        rest = [first]
        while piece := await wire.chunk():
            rest.append(piece)
        assert b"".join(rest).endswith(b"data: [DONE]\n\n")
        assert await wire.reader.read() == b""


def test_every_script_has_a_line_about_itself() -> None:
    assert all(script.description for script in SCRIPTS.values())
