"""The mock upstream: an HTTP server whose responses follow scripts.

A script is a list of steps. The request's `model` selects the script, its path the dialect. Tests
use it to reproduce faults that a real upstream does not produce on demand. It is deterministic: the
same script sends the same bytes.
"""

import asyncio
import gzip
import time
from typing import Any, cast

import httptools
import msgspec
from msgspec import Struct

from legato.core.chunk import as_object, decoded
from legato.core.errors import ApiError, invalid
from legato.mock import dialects as mock_dialects
from legato.mock.steps import Script, Step


class RecordedRequest(Struct):
    """One request and the progress of its response."""

    model: str
    path: str
    request: dict[str, Any]
    headers: dict[str, str]
    content_tokens: int = 0  # deltas that were sent
    reasoning_tokens: int = 0
    is_complete: bool = False  # every step was sent
    is_disconnected: bool = False  # the client closed the connection before that
    received_at: float = 0.0  # seconds of the monotonic clock


class MockServer:
    """The server. `requests`: all requests so far, in order. `changed` is set, and replaced, when
    one of them or a connection changes."""

    def __init__(self, scripts: dict[str, Script], *, default: str | None = None) -> None:
        """`default`: the script for models without a script of that name."""
        self.scripts = dict(scripts)
        self.requests: list[RecordedRequest] = []
        self.open_connections = 0
        self._default = default
        self._next: dict[str, Script] = {}
        self._server: asyncio.Server | None = None
        self.changed = asyncio.Event()

    async def start(self, host: str = "127.0.0.1", port: int = 0, ssl: Any = None) -> str:
        """Starts to listen; returns the base URL for a deployment."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port, ssl=ssl)
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{'https' if ssl else 'http'}://{host}:{port}/v1"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def next_script(self, model: str, request: dict[str, Any]) -> Script:
        """The script for the next request. Raises `ApiError` 404. Here `request`, the body, makes
        no difference."""
        name = model if model in self.scripts else self._default
        if name is None:
            known = ", ".join(self.scripts)
            raise ApiError(
                404, "model_not_found", f"There is no script `{model}`; the scripts are {known}"
            )
        script = self._next.get(model) or self.scripts[name]
        if script.then is not None:
            self._next[model] = script.then
        return script

    def notify(self) -> None:
        """Wakes up tests that wait for `changed`."""
        self.changed.set()
        self.changed = asyncio.Event()


class _Connection(asyncio.Protocol):
    def __init__(self, server: MockServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._headers: dict[str, str] = {}
        self._body = b""
        self._url = b""
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.open_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open_connections -= 1
        self._transport = None
        self._writable.set()
        if self._task is not None:
            self._task.cancel()
        self._server.notify()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        headers, body, url = self._headers, self._body, self._url
        self._headers, self._body, self._url = {}, b"", b""
        self._task = asyncio.create_task(self._answer(url, headers, body))

    async def _answer(self, url: bytes, headers: dict[str, str], body: bytes) -> None:
        path = url.decode("latin-1")
        dialect = mock_dialects.for_path(path)
        if dialect is None:
            models = mock_dialects.model_list(path, self._server.scripts)
            self._send_json(200, msgspec.json.encode(models))
            return
        request = as_object(decoded(body))
        if request is None:
            problem = invalid("The request body is not a JSON object.", code="invalid_json")
            self._send_json(400, dialect(Script(), {}).encode_error(problem.as_object()["error"]))
            return
        model = dialect.model(path, request)
        recorded = RecordedRequest(model, path, request, headers, received_at=time.monotonic())
        try:
            script = self._server.next_script(model, request)
        except ApiError as error:
            encoded = dialect(Script(), request).encode_error(error.as_object()["error"])
            self._send_json(404, encoded)
            return
        self._server.requests.append(recorded)
        self._server.notify()
        try:
            await _ScriptedResponse(self, script, dialect(script, request), recorded).send()
            recorded.is_complete = True
        except (asyncio.CancelledError, ConnectionError):
            recorded.is_disconnected = True
        finally:
            self._server.notify()

    def _send_json(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\n"
        self.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def drained(self) -> None:
        await self._writable.wait()
        if self._transport is None:
            raise ConnectionResetError

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def end(self, *, reset: bool = False) -> None:
        """Closes the connection after the written data was sent; with `reset`, at once."""
        if self._transport is not None:
            if reset:
                self._transport.abort()
            else:
                self._transport.close()


class _ScriptedResponse:
    """Sends the response that a script describes on one connection."""

    def __init__(
        self,
        connection: _Connection,
        script: Script,
        dialect: mock_dialects.MockDialect,
        recorded: RecordedRequest,
    ) -> None:
        self._connection = connection
        self._script = script
        self._dialect = dialect
        self._recorded = recorded
        self._uncompressed: list[bytes] = []  # with gzip: the body so far, sent as one member

    async def send(self) -> None:
        script = self._script
        if script.head_after:
            await asyncio.sleep(script.head_after)
        if not script.no_head:
            self._send_head()
        if script.body is not None:
            await self._send(mock_dialects.encode_body(self._dialect, script.body))
        if script.bom:
            await self._send(b"\xef\xbb\xbf")
        for step in script.steps:
            if await self._step(step):
                return
        await self._finish()

    def _send_head(self) -> None:
        script = self._script
        is_stream = script.body is None
        content_type = self._dialect.content_type if is_stream else "application/json"
        headers = {"content-type": content_type} | script.headers
        if script.gzip:
            headers["content-encoding"] = "gzip"
        if script.framing == "chunked":
            headers["transfer-encoding"] = "chunked"
        else:
            headers["connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._connection.write(f"HTTP/1.1 {script.status} Scripted\r\n{lines}\r\n".encode())

    async def _step(self, step: Step) -> bool:
        """Performs a step; True if it ended the connection."""
        if step.wait is not None:
            await asyncio.sleep(step.wait)
        elif step.stall:
            await self._flush_gzip()
            await asyncio.Event().wait()
        elif step.cut or step.reset:
            await self._flush_gzip()
            self._connection.end(reset=step.reset)
            return True
        else:
            for number in range(step.repeat):
                if number and step.every:
                    await asyncio.sleep(step.every)
                await self._send(self._encode(step))
        return False

    def _encode(self, step: Step) -> bytes:
        if step.raw is not None:
            return step.raw.encode()
        if step.raw_hex is not None:
            return bytes.fromhex(step.raw_hex)
        self._recorded.content_tokens += step.say is not None or step.tool is not None
        self._recorded.reasoning_tokens += step.think is not None
        return self._dialect.encode(step)

    async def _send(self, data: bytes) -> None:
        if self._script.gzip:
            self._uncompressed.append(data)
            return
        size = self._script.pieces or len(data)
        for start in range(0, len(data), size or 1):
            self._write(data[start : start + size])
            if self._script.pieces:
                await asyncio.sleep(0)  # one iteration of the loop: the peer reads it separately
            await self._connection.drained()

    def _write(self, data: bytes) -> None:
        if self._script.framing == "chunked":
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._connection.write(data)

    async def _flush_gzip(self) -> None:
        if self._uncompressed:
            self._write(gzip.compress(b"".join(self._uncompressed), mtime=0))
            self._uncompressed.clear()

    async def _finish(self) -> None:
        await self._flush_gzip()
        if self._script.no_head:
            self._connection.end()
        elif self._script.framing == "chunked":
            self._connection.write(b"0\r\n\r\n")
        else:
            self._connection.end()
