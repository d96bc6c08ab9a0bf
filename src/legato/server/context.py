"""What all client connections of one server share."""

from typing import Any, Final

from msgspec import Struct
from uvicorn.server import ServerState

from legato.core.front import Front
from legato.fronts.chat import CHAT
from legato.gateway.services import Services
from legato.server.cors import Cors
from legato.server.limits import Limits

#: The endpoints that are answered without ASGI: (method, path) and the client format of each.
NATIVE: Final[dict[tuple[bytes, bytes], Front]] = {(b"POST", b"/v1/chat/completions"): CHAT}

#: The client format in which errors are told where no native endpoint was asked.
DEFAULT: Final[Front] = CHAT


class ServerContext(Struct):
    """`state` and `app` are uvicorn's: tasks, connections; the ASGI application."""

    services: Services
    limits: Limits
    cors: Cors
    state: ServerState
    app: Any
    _headers: list[tuple[bytes, bytes]] | None = None  # uvicorn makes others every second
    _lines: bytes = b""

    @property
    def lines(self) -> bytes:
        """The header lines of every answer."""
        headers = self.state.default_headers
        if headers is not self._headers:
            self._headers = headers
            self._lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        return self._lines
