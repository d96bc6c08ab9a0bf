"""An upstream that plays whole HTTP responses from files: `tests/data/faults/upstreams`."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

FAULTS: Final = Path(__file__).parents[1] / "data" / "faults"
_TYPES: Final = {
    ".sse": "text/event-stream",
    ".nd": "application/x-ndjson",
    ".json": "application/json",
}


def response(name: str) -> bytes:
    """The HTTP response of a file: raw, or a 200 with the file as its body."""
    file = FAULTS / "upstreams" / name
    body = file.read_bytes()
    if file.suffix == ".raw":
        return body
    kind = _TYPES[file.suffix]
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class RawUpstream:
    """Answers a request whose path begins with `/NAME/` with the response that is set for NAME.

    `requests`: the JSON bodies that came, by name; `bodies`: the same as bytes; `heads`: of the
    requests, up to the blank line.
    """

    def __init__(self) -> None:
        self.responses: dict[str, bytes | Callable[[dict[str, Any]], bytes]] = {}
        self.requests: dict[str, list[dict[str, Any]]] = {}
        self.bodies: dict[str, list[bytes]] = {}
        self.heads: dict[str, list[bytes]] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                name = head.split(b"/", 2)[1].decode()
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length))
                self.requests.setdefault(name, []).append(json.loads(body))
                self.bodies.setdefault(name, []).append(body)
                self.heads.setdefault(name, []).append(head)
                played = self.responses[name]
                answer = played(self.requests[name][-1]) if callable(played) else played
                writer.write(answer)
                await writer.drain()
                if b"connection: close" in answer.lower():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
