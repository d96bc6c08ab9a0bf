"""Answers that are known before the body of their request: to preflights, and refusals."""

from typing import Final

from legato.core.errors import ApiError
from legato.core.front import Front
from legato.gateway.call import new_request_id
from legato.server.context import header_lines
from legato.server.cors import Headers
from legato.server.exchange import DISCARD_BYTES, STATUS_LINES, Connection
from legato.server.reader import RequestHead

#: Bytes of the body of a request without a valid key that are read and thrown away at most.
UNAUTHENTICATED_BYTES: Final = 64 * 1024


class StaticExchange:
    """A request whose body is not kept, and its answer (`exchange.Exchange`)."""

    __slots__ = (
        "_body",
        "_connection",
        "_is_gone",
        "_is_started",
        "_lines",
        "_may_be_read",
        "_origin",
        "_request_id",
        "_status",
        "is_read",
        "keep_alive",
    )

    takes_body = False

    def __init__(
        self,
        connection: Connection,
        status: int,
        headers: Headers,
        body: bytes = b"",
        *,
        origin: bytes | None,
        head: RequestHead | None,
        request_id: str = "",
    ) -> None:
        """`head`: None where it is not known; then the connection ends behind the answer."""
        self._connection = connection
        self._status = status
        self._lines = header_lines(headers)
        self._body = body
        self._origin = origin
        self._request_id = request_id
        self._is_gone = False
        self._is_started = False
        self.is_read = False
        self.keep_alive = head is not None and head.keep_alive
        # A client that gets no 100 may send the body or the next request.
        self._may_be_read = (
            head is not None
            and not head.expects_continue
            and (head.length or 0) <= UNAUTHENTICATED_BYTES
            and b"transfer-encoding" not in head.fields
        )

    @classmethod
    def refusal(
        cls,
        connection: Connection,
        front: Front,
        error: ApiError,
        *,
        origin: bytes | None,
        head: RequestHead | None = None,
        headers: Headers | None = None,
    ) -> "StaticExchange":
        """Answers with an error. `headers`: further ones."""
        request_id = new_request_id()
        refusal = front.refusal(error, request_id)
        return cls(
            connection,
            refusal.status,
            [(b"content-type", b"application/json"), *refusal.headers, *(headers or ())],
            refusal.body,
            origin=origin,
            head=head,
            request_id=request_id,
        )

    @property
    def discard_limit(self) -> int:
        return UNAUTHENTICATED_BYTES if self._status in (401, 403) else DISCARD_BYTES

    @property
    def is_started(self) -> bool:
        return self._is_started

    @property
    def is_over(self) -> bool:
        return self._is_gone or self._is_started

    def begin(self) -> None:
        self._is_started = True
        if not self.is_read and not self._may_be_read:
            # Else all of the body would have to be read before the next request.
            self.keep_alive = False
        lines = self._connection.context.lines(
            self._request_id or new_request_id(), self._origin, keep_alive=self.keep_alive
        )
        # RFC 9110, section 8.6: a 204 has none.
        length = b"" if self._status == 204 else b"content-length: %d\r\n" % len(self._body)
        parts = (STATUS_LINES[self._status], self._lines, length, lines, b"\r\n", self._body)
        self._connection.transport.write(b"".join(parts))
        self._connection.answered(self)

    def append(self, data: bytes) -> None:
        """It is not kept."""

    def end(self) -> None:
        self.is_read = True

    def gone(self) -> None:
        self._is_gone = True

    def refused(self) -> bool:
        self.keep_alive = False
        return False

    def pause(self) -> None:
        """Its answer is written at once."""

    def resume(self) -> None:
        """As above."""
