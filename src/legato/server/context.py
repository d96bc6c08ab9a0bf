"""What all client connections of one server share."""

from typing import Any, Final

from msgspec import Struct
from uvicorn.server import ServerState

from legato.core.front import Front
from legato.fronts.chat import CHAT
from legato.fronts.completions import COMPLETIONS
from legato.fronts.messages import MESSAGES
from legato.fronts.responses import RESPONSES
from legato.gateway.services import Services
from legato.server.cors import Cors, Headers
from legato.server.limits import Limits

#: The endpoints that are answered without ASGI: (method, path) and the client format of each.
NATIVE: Final[dict[tuple[bytes, bytes], Front]] = {
    (b"POST", b"/v1/chat/completions"): CHAT,
    (b"POST", b"/v1/completions"): COMPLETIONS,
    (b"POST", b"/v1/responses"): RESPONSES,
    (b"POST", b"/v1/messages"): MESSAGES,
}


def front_at(path: bytes) -> Front:
    """The client format of errors at `path`: that of its native endpoint, or of the one that it is
    below, else OpenAI's."""
    return next(
        (front for (_, at), front in NATIVE.items() if path == at or path.startswith(at + b"/")),
        CHAT,
    )


class ServerContext(Struct):
    """`state` and `app` are uvicorn's: tasks, connections; the ASGI application."""

    services: Services
    limits: Limits
    cors: Cors
    state: ServerState
    app: Any
    _headers: Headers | None = None  # uvicorn makes others every second
    _lines: bytes = b""

    def headers(self, request_id: str, origin: bytes | None) -> Headers:
        """The headers that every answer has, whatever its status."""
        return [
            *self.state.default_headers,
            (b"x-request-id", request_id.encode()),
            *self.cors.headers(origin),
        ]

    def lines(self, request_id: str, origin: bytes | None, *, keep_alive: bool) -> bytes:
        """The same as header lines, and `connection: close` where the connection ends."""
        headers = self.state.default_headers
        if headers is not self._headers:
            self._headers = headers
            self._lines = header_lines(headers)
        lines = b"%bx-request-id: %b\r\n" % (self._lines, request_id.encode())
        if origin is not None:
            lines += header_lines(self.cors.headers(origin))
        return lines if keep_alive else lines + b"connection: close\r\n"


def header_lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
