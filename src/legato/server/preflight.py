"""The exchange that answers a preflight of a browser."""

from legato.gateway.call import new_request_id
from legato.server.cors import Headers
from legato.server.exchange import STATUS_LINES, Connection


class Preflight:
    """A preflight from an allowed origin and its answer (`exchange.Exchange`)."""

    __slots__ = ("_connection", "_headers", "_is_gone", "is_started", "keep_alive")

    def __init__(self, connection: Connection, headers: Headers, *, keep_alive: bool) -> None:
        self._connection = connection
        self._headers = headers
        self._is_gone = False
        self.is_started = False
        self.keep_alive = keep_alive

    @property
    def is_over(self) -> bool:
        return self._is_gone or self.is_started

    def begin(self) -> None:
        self.is_started = True
        lines = [b"%b: %b\r\n" % header for header in self._headers]
        lines.append(b"content-length: 0\r\nx-request-id: %b\r\n" % new_request_id().encode())
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        context = self._connection.context
        self._connection.transport.write(
            b"".join((STATUS_LINES[204], context.lines, *lines, b"\r\n"))
        )
        self._connection.answered(self)

    def append(self, data: bytes) -> None:
        """A preflight has no body that matters."""

    def end(self) -> None:
        """As above."""

    def gone(self) -> None:
        self._is_gone = True

    def refused(self) -> None:
        self._is_gone = True

    def pause(self) -> None:
        """Its answer is written at once."""

    def resume(self) -> None:
        """As above."""
