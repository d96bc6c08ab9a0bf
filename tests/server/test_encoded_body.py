"""Compressed request bodies: every encoding, cut anywhere, damaged, and larger than they look."""

import asyncio
import gzip
import json
import random
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import zstandard
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from legato.core.errors import ApiError
from legato.mock.server import MockServer
from legato.server import encoded_body
from legato.server.asgi_decoding import DecodedRequests
from legato.server.encoded_body import STEP_BYTES, EncodedBody
from tests.conftest import Running, serving, settings_for
from tests.support.direct import DirectWire
from tests.support.wire import Wire, ask, chat, request

LIMIT: Final = 4 * 1024 * 1024


def _raw_deflate(data: bytes) -> bytes:
    writer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return writer.compress(data) + writer.flush()


def _zstd(data: bytes, **parameters: Any) -> bytes:
    settings = zstandard.ZstdCompressionParameters.from_level(3, **parameters)
    writer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return writer.compress(data) + writer.flush()


Encode = Callable[[bytes], bytes]

#: (name of the encoding, what encodes) of each way to write it.
ENCODERS: Final[dict[str, tuple[bytes, Encode]]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"x-gzip", gzip.compress),
    "gzip in two members": (
        b"gzip",
        lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]),
    ),
    "gzip, stored": (b"gzip", lambda data: gzip.compress(data, 0)),
    "deflate": (b"deflate", zlib.compress),
    "deflate without a header": (b"deflate", _raw_deflate),
    "zstd": (b"zstd", _zstd),
    "zstd with a checksum": (b"zstd", lambda data: _zstd(data, write_checksum=True)),
    "zstd in two frames": (b"zstd", lambda data: _zstd(data[:9]) + _zstd(data[9:])),
}

BODY: Final = json.dumps(chat("happy")).encode()


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


async def decoded(encoding: bytes, pieces: list[bytes], limit: int = LIMIT) -> bytes:
    body = EncodedBody(encoding, limit)
    for piece in pieces:
        body.append(piece)
    return await body.finish()


@pytest.mark.parametrize("size", [1, 2, 7, 1_000_000])
@pytest.mark.parametrize("name", ENCODERS)
async def test_each_encoding_cut_anywhere(name: str, size: int) -> None:
    encoding, encode = ENCODERS[name]
    assert await decoded(encoding, pieces_of(encode(BODY), size)) == BODY


@pytest.mark.parametrize("name", ENCODERS)
async def test_large_bodies(name: str) -> None:
    """Random text, and text that takes a thousandth of its size."""
    encoding, encode = ENCODERS[name]
    draw = random.Random(name)
    for data in (draw.randbytes(2 * STEP_BYTES + 1), b"a" * (3 * STEP_BYTES), b"ab" * STEP_BYTES):
        assert await decoded(encoding, pieces_of(encode(data), 64 * 1024), len(data)) == data


@pytest.mark.parametrize("rest", range(-3, 4))
async def test_an_end_behind_a_full_step(rest: int) -> None:
    """All input is read when the step ends, and some output is not written yet."""
    for size in (STEP_BYTES + rest, STEP_BYTES + 100 * rest, 2 * STEP_BYTES + rest):
        data = b"a" * size
        assert await decoded(b"deflate", [_raw_deflate(data)]) == data


@pytest.mark.parametrize("name", ENCODERS)
async def test_data_that_ends_early(name: str) -> None:
    encoding, encode = ENCODERS[name]
    whole = encode(BODY)
    for size in (0, 1, 2, 5, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ApiError) as caught:
            await decoded(encoding, [whole[:size]])
        assert (caught.value.status, caught.value.code) == (400, "invalid_encoding")
        assert "ends in the middle" in caught.value.message
        assert encoding.decode() in caught.value.message


@pytest.mark.parametrize("size", [1, 1_000_000])
@pytest.mark.parametrize("name", ENCODERS)
async def test_damaged_data(name: str, size: int) -> None:
    encoding, encode = ENCODERS[name]
    whole = encode(BODY)
    for broken in (b"\xff" * 20, BODY, whole + b"\xffmore", b"\xff" * 9 + whole):
        with pytest.raises(ApiError) as caught:
            await decoded(encoding, pieces_of(broken, size))
        assert (caught.value.status, caught.value.code) == (400, "invalid_encoding")
        assert "is not valid" in caught.value.message


@pytest.mark.parametrize("name", ENCODERS)
async def test_the_limit_is_on_the_decoded_size(name: str) -> None:
    encoding, encode = ENCODERS[name]
    data = encode(b"a" * 10_000)
    assert len(await decoded(encoding, [data], 10_000)) == 10_000
    with pytest.raises(ApiError) as caught:
        await decoded(encoding, [data], 9_999)
    assert (caught.value.status, caught.value.code) == (413, "request_too_large")


@pytest.mark.parametrize("name", ENCODERS)
async def test_a_bomb_costs_no_more_than_the_limit(name: str) -> None:
    encoding, encode = ENCODERS[name]
    if "stored" in name:
        return  # as large as it looks
    bomb = pieces_of(encode(b"\0" * (8 * LIMIT)), 64 * 1024)
    tracemalloc.start()
    try:
        with pytest.raises(ApiError) as caught:
            await decoded(encoding, bomb)
        assert caught.value.status == 413
        # One step of zstd may be 2 MiB.
        assert tracemalloc.get_traced_memory()[1] < LIMIT + 3 * 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_what_waits_counts_too() -> None:
    """Data that arrives faster than it is decoded is held compressed, within the same limit."""
    body = EncodedBody(b"gzip", LIMIT)
    bomb = b"".join(gzip.compress(b"\0" * STEP_BYTES) for _ in range(600))
    with pytest.raises(ApiError, match=f"over {LIMIT} bytes"):
        for _ in range(LIMIT // STEP_BYTES - 1):
            body.append(bomb)


async def test_a_window_that_is_too_large() -> None:
    """A frame's head may ask for gigabytes."""
    with pytest.raises(ApiError, match="not valid zstd"):
        await decoded(b"zstd", [_zstd(b"abc" * 100, window_log=25)])


async def test_much_is_decoded_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[bool] = []
    step = EncodedBody.step

    def noted(self: EncodedBody) -> None:
        threads.append(threading.current_thread() is not threading.main_thread())
        step(self)

    monkeypatch.setattr(EncodedBody, "step", noted)
    assert len(await decoded(b"gzip", [gzip.compress(b"a" * 3 * STEP_BYTES)])) == 3 * STEP_BYTES
    assert threads[0] is False
    assert threads[1:]
    assert all(threads[1:])


@pytest.mark.parametrize(
    ("encoding", "encode"), [(b"gzip", gzip.compress), (b"zstd", zstandard.compress)]
)
async def test_much_input_for_little_is_decoded_aside(
    encoding: bytes, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty members and frames: reading them takes time, and they are no progress."""
    steps: list[int] = []
    step = EncodedBody.step

    def counted(self: EncodedBody) -> None:
        steps.append(1)
        step(self)

    monkeypatch.setattr(EncodedBody, "step", counted)
    body = EncodedBody(encoding, LIMIT)
    body.append(encode(b"") * 5000 + encode(BODY))
    assert len(steps) == 1
    assert await body.finish() == BODY
    assert len(steps) > 10


async def test_a_client_that_leaves_stops_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    body = EncodedBody(b"gzip", LIMIT)
    body.append(gzip.compress(b"a" * (LIMIT // 2)))
    steps: list[int] = []
    entered, left = threading.Event(), threading.Event()
    step = EncodedBody.step

    def slow(self: EncodedBody) -> None:
        steps.append(1)
        entered.set()
        assert left.wait(10)
        step(self)

    monkeypatch.setattr(EncodedBody, "step", slow)
    task = asyncio.create_task(body.finish())
    await asyncio.to_thread(entered.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left.set()
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)
    assert len(steps) == 1


# Over HTTP


@pytest.fixture
async def running(tmp_path: Path, scripted: MockServer) -> Any:
    base = await scripted.start()
    settings = settings_for(tmp_path, base, ["happy"], **{"server.max_body_bytes": LIMIT})
    async with serving(settings) as server:
        yield server


@pytest.mark.parametrize("name", ENCODERS)
async def test_a_compressed_request(running: Running, name: str) -> None:
    encoding, encode = ENCODERS[name]
    long = chat("happy") | {"user": "u" * 50_000}
    for body in (BODY, json.dumps(long).encode()):
        data = encode(body)
        more = {"content-encoding": encoding.decode().upper()}
        answer = await ask(running.port, running.key, data, **more)
        assert answer.status == 200, answer.body
    assert len(await running.rows()) == 2


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/messages/count_tokens"])
async def test_endpoints_of_other_formats(running: Running, path: str) -> None:
    """The last one is the application's."""
    text: dict[str, Any] = {"input": "Hello"} if "responses" in path else chat("happy")
    body = json.dumps(text | {"model": "happy"} | ({} if "input" in text else {"max_tokens": 9}))
    for data, status in ((_zstd(body.encode()), 200), (_zstd(body.encode())[:-1], 400)):
        answer = await ask(
            running.port, running.key, data, path=path, **{"content-encoding": "zstd"}
        )
        assert answer.status == status, answer.body
        answer = await ask(
            running.port,
            None,
            data,
            path=path,
            **{"x-api-key": running.key} | {"content-encoding": "zstd"},
        )
        assert answer.status == status, answer.body
    answer = await ask(running.port, running.key, b"{}", path=path, **{"content-encoding": "br"})
    assert answer.status == 415


async def test_a_large_one_byte_by_byte_and_one_behind_it(running: Running) -> None:
    """Much of it is decoded in a thread; requests are answered in their order all the same."""
    large = chat("happy") | {"user": "u" * (8 * STEP_BYTES)}
    data = gzip.compress(json.dumps(large).encode())
    first = request(running.key, data, **{"content-encoding": "gzip"})
    second = request(running.key, b"", path="/v1/models/happy", method="GET")
    async with DirectWire(running) as wire:
        for piece in pieces_of(first, 500):
            wire.send(piece)
        wire.send(second)
        assert (await wire.answer()).json["object"] == "chat.completion"
        assert (await wire.answer()).json["id"] == "happy"


#: (body, status, code) of what is refused.
REFUSED: Final = {
    "damaged": (b"{}", 400, "invalid_encoding"),
    "cut": (gzip.compress(BODY)[:-1], 400, "invalid_encoding"),
    "empty": (b"", 400, "invalid_encoding"),
    "no JSON": (gzip.compress(b"{"), 400, "invalid_json"),
    "a bomb": (gzip.compress(b"\0" * (LIMIT + 1)), 413, "request_too_large"),
    "a large bomb": (gzip.compress(b"\0" * (20 * LIMIT)), 413, "request_too_large"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_refused(running: Running, name: str) -> None:
    data, status, code = REFUSED[name]
    async with await Wire.open(running.port) as wire:
        wire.send(request(running.key, data, **{"content-encoding": "gzip"}))
        answer = await wire.answer()
        assert (answer.status, answer.json["error"]["code"]) == (status, code)
        if not answer.closed:
            wire.send(request(running.key, chat("happy")))
            assert (await wire.answer()).status == 200


async def test_a_client_that_leaves_while_its_body_is_decoded(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, left = threading.Event(), threading.Event()
    catch_up = EncodedBody._catch_up

    def held(self: EncodedBody) -> None:
        entered.set()
        assert left.wait(10)
        catch_up(self)

    monkeypatch.setattr(encoded_body.EncodedBody, "_catch_up", held)
    data = gzip.compress(json.dumps(chat("happy") | {"user": "u" * (4 * STEP_BYTES)}).encode())
    async with await Wire.open(running.port) as wire:
        wire.send(request(running.key, data, **{"content-encoding": "gzip"}))
        await asyncio.to_thread(entered.wait, 10)
    left.set()
    assert (await ask(running.port, running.key, chat("happy"))).status == 200
    assert len(await running.rows()) == 1


# The ASGI application


async def _asked(data: list[bytes], encoding: str | None) -> tuple[bytes | ApiError, int]:
    """(what the application reads, how many messages were received)."""

    async def echo(request: Request) -> Response:
        found.append(await request.body())
        return Response()

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        found.append(error)
        return Response(status_code=error.status)

    async def receive() -> dict[str, Any]:
        messages.append(1)
        return {"type": "http.request", "body": data.pop(0), "more_body": bool(data)}

    async def send(_: Any) -> None: ...

    found: list[bytes | ApiError] = []
    messages: list[int] = []
    inner = Starlette(
        routes=[Route("/", echo, methods=["POST"])], exception_handlers={ApiError: refused}
    )
    headers = [(b"content-encoding", encoding.encode())] if encoding else []
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    await DecodedRequests(inner, LIMIT)(scope, receive, send)
    return found[0], len(messages)


@pytest.mark.parametrize("name", ENCODERS)
async def test_the_application_reads_what_was_encoded(name: str) -> None:
    encoding, encode = ENCODERS[name]
    pieces = pieces_of(encode(BODY), 30)
    assert await _asked(list(pieces), encoding.decode()) == (BODY, len(pieces))


@pytest.mark.parametrize("encoding", [None, "identity"])
async def test_the_application_reads_plain_bodies(encoding: str | None) -> None:
    assert (await _asked([b"ab", b"c"], encoding))[0] == b"abc"


#: (body, encoding, status) of what the application may not read.
UNREAD: Final = {
    "damaged": (BODY, "gzip", 400),
    "cut": (gzip.compress(BODY)[:-1], "gzip", 400),
    "another encoding": (BODY, "br", 415),
    "a bomb": (gzip.compress(b"\0" * (LIMIT + 1)), "gzip", 413),
}


@pytest.mark.parametrize("name", UNREAD)
async def test_what_the_application_refuses(name: str) -> None:
    data, encoding, status = UNREAD[name]
    found, _ = await _asked([data], encoding)
    assert isinstance(found, ApiError)
    assert found.status == status
