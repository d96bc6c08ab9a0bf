"""An upstream that does as it is told: real HTTP on a real socket, every fault there is.

A script is a list of steps; the request's `model` names the script that is played, its path the
dialect (`voices`). The tests of this project use it for what a real upstream cannot be asked to do.
Deterministic: the same script sends the same bytes.
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


class Played(Struct):
    """One request and what became of it."""

    model: str
    path: str
    request: dict[str, Any]
    headers: dict[str, str]
    content_tokens: int = 0
    reasoning_tokens: int = 0
    whole: bool = False  # every step was played
    left: bool = False  # the peer closed before that
    at: float = 0.0


class MockServer:
    """The server. `played` tells, in order, what was asked and what was sent."""

    def __init__(self, scripts: dict[str, Script], *, default: str | None = None) -> None:
        """`default`: the script for models that no script is named after."""
        self.scripts = dict(scripts)
        self.played: list[Played] = []
        self.open_connections = 0
        self._default = default
        self._next: dict[str, Script] = {}
        self._server: asyncio.Server | None = None
        self.changed = asyncio.Event()

    async def start(self, host: str = "127.0.0.1", port: int = 0, ssl: Any = None) -> str:
        """Listens; gives the base URL for a deployment."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port, ssl=ssl)
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{'https' if ssl else 'http'}://{host}:{port}/v1"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def script(self, model: str) -> Script:
        name = model if model in self.scripts else self._default
        if name is None:
            known = ", ".join(self.scripts)
            raise ApiError(
                404, "model_not_found", f"There is no script `{model}`; there are {known}"
            )
        script = self._next.get(model) or self.scripts[name]
        if script.then is not None:
            self._next[model] = script.then
        return script

    def note(self) -> None:
        """Something has changed that a test may be waiting for."""
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
        self._server.note()

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
        speaker = mock_dialects.of(path)
        if speaker is None:
            self._plain(200, msgspec.json.encode(mock_dialects.listing(path, self._server.scripts)))
            return
        request = as_object(decoded(body))
        if request is None:
            says = invalid("The request body is no JSON object.", code="invalid_json")
            self._plain(400, speaker(Script(), {}).error(says.as_object()["error"]))
            return
        model = speaker.model(path, request)
        played = Played(model, path, request, headers, at=time.monotonic())
        try:
            script = self._server.script(model)
        except ApiError as error:
            self._plain(404, speaker(Script(), request).error(error.as_object()["error"]))
            return
        self._server.played.append(played)
        self._server.note()
        try:
            await _Play(self, script, speaker(script, request), played).run()
            played.whole = True
        except (asyncio.CancelledError, ConnectionError):
            played.left = True
        finally:
            self._server.note()

    def _plain(self, status: int, body: bytes) -> None:
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
        """Ends the connection; what was written is sent first unless it is reset."""
        if self._transport is not None:
            if reset:
                self._transport.abort()
            else:
                self._transport.close()


class _Play:
    """One script on its way to one client."""

    def __init__(
        self,
        connection: _Connection,
        script: Script,
        dialect: mock_dialects.MockDialect,
        played: Played,
    ) -> None:
        self._connection = connection
        self._script = script
        self._dialect = dialect
        self._played = played
        self._packed: list[bytes] = []

    async def run(self) -> None:
        script = self._script
        if script.head_after:
            await asyncio.sleep(script.head_after)
        if not script.no_head:
            self._head()
        if script.body is not None:
            await self._send(mock_dialects.body(self._dialect, script.body))
        if script.bom:
            await self._send(b"\xef\xbb\xbf")
        for step in script.steps:
            if await self._step(step):
                return
        await self._finish()

    def _head(self) -> None:
        script = self._script
        kind = self._dialect.kind if script.body is None else "application/json"
        headers = {"content-type": kind} | script.headers
        if script.gzip:
            headers["content-encoding"] = "gzip"
        if script.framing == "chunked":
            headers["transfer-encoding"] = "chunked"
        else:
            headers["connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._connection.write(f"HTTP/1.1 {script.status} Scripted\r\n{lines}\r\n".encode())

    async def _step(self, step: Step) -> bool:
        """True where nothing comes after it."""
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
                await self._send(self._bytes(step))
        return False

    def _bytes(self, step: Step) -> bytes:
        if step.raw is not None:
            return step.raw.encode()
        if step.raw_hex is not None:
            return bytes.fromhex(step.raw_hex)
        self._played.content_tokens += step.say is not None or step.tool is not None
        self._played.reasoning_tokens += step.think is not None
        return self._dialect.say(step)

    async def _send(self, data: bytes) -> None:
        if self._script.gzip:
            self._packed.append(data)
            return
        size = self._script.pieces or len(data)
        for start in range(0, len(data), size or 1):
            self._piece(data[start : start + size])
            if self._script.pieces:
                await asyncio.sleep(0)  # a turn of the loop: its own read at the other end
            await self._connection.drained()

    def _piece(self, data: bytes) -> None:
        if self._script.framing == "chunked":
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._connection.write(data)

    async def _flush_gzip(self) -> None:
        if self._packed:
            self._piece(gzip.compress(b"".join(self._packed), mtime=0))
            self._packed.clear()

    async def _finish(self) -> None:
        await self._flush_gzip()
        if self._script.no_head:
            self._connection.end()
        elif self._script.framing == "chunked":
            self._connection.write(b"0\r\n\r\n")
        else:
            self._connection.end()
