"""Sends the response that a script describes: as a stream, or as one JSON object."""

import asyncio
import gzip
from typing import Any, Final, Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from legato.mock.dialects import MockDialect, encode_body
from legato.mock.steps import Script, Step

#: The statuses of errors for which a script has none, by their type or code.
_STATUSES: Final = {
    "overloaded_error": 529,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "invalid_request_error": 400,
}


class RecordedRequest(Struct):
    """One request and the progress of its response.

    `headers`: by lower-case name, the last of each; `raw_headers`: all, in order, as received.
    `body`: as received.
    """

    model: str
    path: str
    request: dict[str, Any]
    headers: dict[str, str]
    content_tokens: int = 0  # deltas that were sent
    reasoning_tokens: int = 0
    is_complete: bool = False  # every step was sent
    is_disconnected: bool = False  # the client closed the connection before that
    received_at: float = 0.0  # seconds of the monotonic clock
    body: bytes = b""
    raw_headers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])


class Connection(Protocol):
    """The connection that a response is sent on."""

    def write(self, data: bytes) -> None: ...

    async def drained(self) -> None:
        """Waits until more may be written. Raises `ConnectionError`."""
        ...

    def end(self, *, reset: bool = False) -> None:
        """Closes the connection after the written data was sent; with `reset`, at once."""
        ...


class ScriptedResponse:
    """The response of a script to one request."""

    def __init__(
        self,
        connection: Connection,
        script: Script,
        dialect: type[MockDialect],
        recorded: RecordedRequest,
    ) -> None:
        self._connection = connection
        self._script = script
        self._dialect = dialect(script, recorded.request)
        self._recorded = recorded
        self._uncompressed: list[bytes] = []  # with gzip: the body so far, sent as one member

    async def send(self) -> None:
        script = self._script
        if script.head_after:
            await asyncio.sleep(script.head_after)
        if script.body is None and not script.no_head and self._is_whole():
            await self._send_whole()
            return
        if not script.no_head:
            self._send_head()
        if script.body is not None:
            await self._send(encode_body(self._dialect, script.body))
        if script.bom:
            await self._send(b"\xef\xbb\xbf")
        for step in script.steps:
            if await self._step(step):
                return
        await self._finish()

    def _is_whole(self) -> bool:
        """Whether the response is one JSON object and not a stream."""
        if self._dialect.whole() is None or self._script.streams == "always":
            return False
        return self._script.streams == "never" or not self._recorded.request.get("stream")

    async def _send_whole(self) -> None:
        """The steps as one JSON object; what happens in mid-stream happens after half of it."""
        for step in self._script.steps:
            if step.error is not None:
                await self._send_error(step.error)
                return
            if (
                step.stall
                or step.cut
                or step.reset
                or step.raw is not None
                or step.raw_hex is not None
            ):
                self._send_head("application/json")
                if self._recorded.content_tokens or self._recorded.reasoning_tokens:
                    whole = self._dialect.whole() or b""
                    await self._send(whole[: len(whole) // 2])
                if await self._step(step):
                    return
                break
            if step.comment is not None:
                await asyncio.sleep(step.every * (step.repeat - 1))
            elif step.wait is not None:
                await asyncio.sleep(step.wait)
            else:
                for _ in range(step.repeat):
                    self._encode(step)
        else:
            self._send_head("application/json")
            if self._script.steps:
                bom = b"\xef\xbb\xbf" if self._script.bom else b""
                await self._send(bom + (self._dialect.whole() or b""))
        await self._finish()

    async def _send_error(self, error: dict[str, Any]) -> None:
        script = self._script
        if script.status < 400:
            kind = str(error.get("type")), str(error.get("code"))
            status = next((_STATUSES[each] for each in kind if each in _STATUSES), 500)
            script = self._script = replace(script, status=status)
        self._send_head("application/json")
        dialect = type(self._dialect)(script, self._recorded.request)
        await self._send(dialect.encode_error(error))
        await self._finish()

    def _send_head(self, content_type: str | None = None) -> None:
        script = self._script
        if content_type is None:
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
