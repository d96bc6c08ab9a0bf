"""The mock upstream: an HTTP server whose responses follow scripts.

A script is a list of steps. The request's `model` selects the script, its path the dialect. Tests
use it to reproduce faults that a real upstream does not produce on demand. It is deterministic: the
same script sends the same bytes.
"""

import asyncio
import time
from typing import Any, Final, cast

import httptools
import msgspec
from msgspec.structs import replace

from legato.core.chunk import as_object, decoded
from legato.core.errors import ApiError, invalid
from legato.mock import agent
from legato.mock import dialects as mock_dialects
from legato.mock.counting import count_words
from legato.mock.response import RecordedRequest, ScriptedResponse
from legato.mock.steps import Script, Step

__all__ = ["MockServer", "RecordedRequest", "Script", "Step"]

#: Where the Messages API counts tokens.
_COUNT: Final = "/v1/messages/count_tokens"


class MockServer:
    """The server. `requests`: the last requests, in order, with their bytes as they were received.
    `changed` is set, and replaced, when one of them or a connection changes."""

    def __init__(
        self,
        scripts: dict[str, Script],
        *,
        default: str | None = None,
        kept_requests: int = 10_000,
        kept_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        """`default`: the script for models without a script of that name. `kept_requests`,
        `kept_bytes`: limits of `requests`, the latter on its bodies; past one, the oldest are
        dropped. The latest is always kept."""
        self.scripts = dict(scripts)
        self.requests: list[RecordedRequest] = []
        self._kept_requests = kept_requests
        self._kept_bytes = kept_bytes
        self._bytes = 0
        self.origin = ""  # once it has started: its URL without a path
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
        self.origin = f"{'https' if ssl else 'http'}://{host}:{port}"
        return f"{self.origin}/v1"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def script(self, model: str) -> Script:
        """The script for the next request of a model. Raises `ApiError` 404."""
        name = model if model in self.scripts else self._default
        if name is None:
            known = ", ".join(self.scripts)
            raise ApiError(
                404, "model_not_found", f"There is no script `{model}`; the scripts are {known}"
            )
        return self._next.get(model) or self.scripts[name]

    def next_script(self, model: str, request: dict[str, Any]) -> Script:
        """The same, and the next request gets what follows. Here `request`, the body, makes no
        difference. Raises `ApiError` 404."""
        script = self.script(model)
        if script.then is not None:
            self._next[model] = script.then
        return script

    def record(self, request: RecordedRequest) -> None:
        self.requests.append(request)
        self._bytes += len(request.body)
        if self._bytes > self._kept_bytes:  # others may have removed some
            self._bytes = sum(len(each.body) for each in self.requests)
        while len(self.requests) > 1 and (
            len(self.requests) > self._kept_requests or self._bytes > self._kept_bytes
        ):
            self._bytes -= len(self.requests.pop(0).body)
        self.notify()

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
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
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
        self._headers.append((name, value))

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        headers, body, url = self._headers, bytes(self._body), self._url
        self._headers, self._body, self._url = [], bytearray(), b""
        self._task = asyncio.create_task(self._answer(url, headers, body))

    async def _answer(self, url: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        path = url.decode("latin-1")
        counts = path.partition("?")[0].endswith(_COUNT)
        dialect = mock_dialects.for_path(path.replace(_COUNT, "/v1/messages") if counts else path)
        if dialect is None:
            models = mock_dialects.model_list(path, self._server.scripts)
            self._send_json(200, msgspec.json.encode(models))
            return
        request = as_object(decoded(body))
        if request is None:
            problem = invalid("The request body is not a JSON object.", code="invalid_json")
            self._refuse(dialect, problem)
            return
        recorded = RecordedRequest(
            dialect.model(path, request),
            path,
            request,
            {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers},
            body=body,
            raw_headers=headers,
            received_at=time.monotonic(),
        )
        try:
            script = self._script(recorded, dialect, counts=counts)
        except ApiError as error:
            self._refuse(dialect, error)
            return
        self._server.record(recorded)
        if counts and script.status < 400:
            count = {"input_tokens": count_words(request)}
            self._send_json(200, msgspec.json.encode(count))
            recorded.is_complete = True
            return
        try:
            await ScriptedResponse(self, script, dialect, recorded).send()
            recorded.is_complete = True
        except (asyncio.CancelledError, ConnectionError):
            recorded.is_disconnected = True
        finally:
            self._server.notify()

    def _script(
        self, recorded: RecordedRequest, dialect: type[mock_dialects.MockDialect], *, counts: bool
    ) -> Script:
        """The script of a request; one that counts tokens does not use it up. Raises `ApiError`."""
        model, server = recorded.model, self._server
        script = server.script(model) if counts else server.next_script(model, recorded.request)
        name = mock_dialects.name_of(dialect)
        if script.dialects and name not in script.dialects and not counts:
            known = " and ".join(f"`{each}`" for each in script.dialects)
            raise invalid(
                f"The script `{model}` has bytes of {known} and cannot be played in `{name}`.",
                code="script_of_another_dialect",
            )
        if script.agent:
            return replace(script, steps=agent.steps(recorded.request))
        return script

    def _refuse(self, dialect: type[mock_dialects.MockDialect], error: ApiError) -> None:
        described = error.as_object()["error"]
        encoded = dialect(Script(status=error.status), {}).encode_error(described)
        self._send_json(error.status, encoded)

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
