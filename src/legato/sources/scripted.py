"""An upstream that does as it is told: real HTTP on a real socket, every fault there is.

A script is a list of steps; the request's `model` names the script that is played. The tests of
this project use it for what a real upstream cannot be asked to do. Deterministic: the same script
sends the same bytes.
"""

import asyncio
import gzip
import time
from typing import Any, Literal, cast

import httptools
import msgspec
from msgspec import Struct, field

from legato.core.errors import ApiError


class Step(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that an upstream does. Exactly one member is set, but for `choice`."""

    say: str | None = None  # a chunk of content
    think: str | None = None  # a chunk of reasoning_content
    tool: dict[str, Any] | None = None  # a member of delta.tool_calls
    delta: dict[str, Any] | None = None  # a delta as it stands
    finish: str | None = None
    usage: dict[str, Any] | None = None  # a chunk with no choices
    chunk: dict[str, Any] | None = None  # a chunk as it stands
    done: bool = False  # data: [DONE]
    raw: str | None = None  # these bytes (UTF-8) into the body
    raw_hex: str | None = None  # these bytes into the body, for what is no UTF-8
    comment: str | None = None
    wait: float | None = None  # seconds
    cut: bool = False  # the connection is closed in the middle of the body
    reset: bool = False  # the same with a TCP reset
    stall: bool = False  # nothing more is said, and the connection stays
    choice: int = 0
    repeat: int = 1  # `say`, `think`, `raw`, `comment`: so many times, `every` seconds apart
    every: float = 0.0


class Script(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is answered to one request. Without `steps`, `body` is the whole answer."""

    says: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    head_after: float = 0.0  # seconds before the status line
    no_head: bool = False  # the connection ends, or stalls, before a status line
    body: str | None = None
    steps: list[Step] = field(default_factory=list)
    pieces: int = 0  # bytes of the body that go out at a time; 0: a step at a time
    line_end: str = "\n"
    bom: bool = False
    gzip: bool = False
    role: Literal["first", "never", "every"] = "first"
    framing: Literal["chunked", "close"] = "chunked"
    jumpy: bool = False  # another id and created in every chunk
    usage_always: bool = True  # a usage chunk is left out where the client did not ask for it
    then: "Script | None" = None  # the answer to the next request for the same model


class Played(Struct):
    """One request and what became of it."""

    model: str
    request: dict[str, Any]
    headers: dict[str, str]
    content_tokens: int = 0
    reasoning_tokens: int = 0
    whole: bool = False  # every step was played
    left: bool = False  # the peer closed before that
    at: float = 0.0


class Scripted:
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
            raise ApiError(404, "invalid_model", f"There is no script `{model}`; there are {known}")
        script = self._next.get(model) or self.scripts[name]
        if script.then is not None:
            self._next[model] = script.then
        return script

    def note(self) -> None:
        """Something has changed that a test may be waiting for."""
        self.changed.set()
        self.changed = asyncio.Event()


class _Connection(asyncio.Protocol):
    def __init__(self, server: Scripted) -> None:
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
        if not url.endswith(b"/chat/completions"):
            models = [{"id": name, "object": "model"} for name in self._server.scripts]
            self._plain(200, msgspec.json.encode({"object": "list", "data": models}))
            return
        request = cast(dict[str, Any], msgspec.json.decode(body))
        played = Played(str(request.get("model")), request, headers, at=time.monotonic())
        try:
            script = self._server.script(played.model)
        except ApiError as error:
            self._plain(404, error.as_json())
            return
        self._server.played.append(played)
        self._server.note()
        try:
            await _Play(self, script, played).run()
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

    def __init__(self, connection: _Connection, script: Script, played: Played) -> None:
        self._connection = connection
        self._script = script
        self._played = played
        self._number = 0
        self._roles: set[int] = set()
        self._packed: list[bytes] = []
        options = played.request.get("stream_options") or {}
        self._wants_usage = script.usage_always or bool(options.get("include_usage"))

    async def run(self) -> None:
        script = self._script
        if script.head_after:
            await asyncio.sleep(script.head_after)
        if not script.no_head:
            self._head()
        if script.body is not None:
            await self._send(script.body.encode())
        if script.bom:
            await self._send(b"\xef\xbb\xbf")
        for step in script.steps:
            if await self._step(step):
                return
        await self._finish()

    def _head(self) -> None:
        script = self._script
        kind = "text/event-stream" if script.body is None else "application/json"
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
        if step.comment is not None:
            return self._lines(f": {step.comment}", "")
        if step.done:
            return self._lines("data: [DONE]", "")
        if step.chunk is not None:
            return self._event(step.chunk)
        if step.usage is not None:
            said = {"choices": [], "usage": step.usage}
            return self._event(self._head_members() | said) if self._wants_usage else b""
        return self._event(self._head_members() | {"choices": [self._choice(step)]})

    def _choice(self, step: Step) -> dict[str, Any]:
        delta: dict[str, Any] = dict(step.delta or {})
        if step.say is not None:
            delta["content"] = step.say
            self._played.content_tokens += 1
        if step.think is not None:
            delta["reasoning_content"] = step.think
            self._played.reasoning_tokens += 1
        if step.tool is not None:
            delta["tool_calls"] = [step.tool]
            self._played.content_tokens += 1
        wanted = self._script.role
        if wanted == "every" or (wanted == "first" and step.choice not in self._roles):
            delta = {"role": "assistant"} | delta
        self._roles.add(step.choice)
        return {"index": step.choice, "delta": delta, "finish_reason": step.finish}

    def _head_members(self) -> dict[str, Any]:
        self._number += 1
        jump = self._number if self._script.jumpy else 1
        return {
            "id": f"scripted-{jump}",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000 + jump,
            "model": "scripted",
        }

    def _event(self, chunk: dict[str, Any]) -> bytes:
        return self._lines("data: " + msgspec.json.encode(chunk).decode(), "")

    def _lines(self, *lines: str) -> bytes:
        return "".join(line + self._script.line_end for line in lines).encode()

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
