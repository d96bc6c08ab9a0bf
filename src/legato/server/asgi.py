"""Requests to the ASGI application, answered by uvicorn's own request-response cycle."""

import asyncio
import logging
import urllib.parse
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from legato.gateway.call import new_request_id
from legato.server.exchange import DISCARD_BYTES, Connection
from legato.server.reader import RequestHead
from legato.server.static import UNAUTHENTICATED_BYTES

_LOG: Final = logging.getLogger("uvicorn.error")

#: Bytes of a body that wait for the application before reading stops.
BODY_AHEAD: Final = 64 * 1024


class _Cycle(RequestResponseCycle):
    """uvicorn's cycle, and the `status` of its answer; 0 before it."""

    status = 0

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.waiting_for_100_continue and self.more_body:
                # A client that gets no 100 may send the body or the next request.
                self.keep_alive = False
        await super().send(message)


class AsgiExchange:
    """One request to the ASGI application (`exchange.Exchange`)."""

    __slots__ = ("_connection", "_cycle")

    takes_body = True

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        self._connection = connection
        context, transport = connection.context, connection.transport
        parts = httptools.parse_url(head.url)
        raw_path = parts.path or b"/"
        request_id = new_request_id()
        scope: Any = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "method": head.method.decode("ascii"),
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "scheme": "https" if connection.is_secure else "http",
            "root_path": "",
            "path": urllib.parse.unquote(raw_path.decode("ascii")),
            "raw_path": raw_path,
            "query_string": parts.query or b"",
            "headers": head.headers,
            "state": {"request_id": request_id},
        }
        self._cycle = _Cycle(
            scope=scope,
            transport=transport,
            flow=connection,  # type: ignore[arg-type]
            logger=_LOG,
            access_logger=_LOG,
            access_log=False,
            default_headers=context.headers(request_id, head.fields.get(b"origin")),
            message_event=asyncio.Event(),
            expect_100_continue=head.expects_continue,
            keep_alive=head.keep_alive,
            on_response=self._on_response,
        )

    @property
    def keep_alive(self) -> bool:
        return self._cycle.keep_alive

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None:
        self._cycle.keep_alive = value

    @property
    def is_started(self) -> bool:
        return self._cycle.response_started

    @property
    def is_over(self) -> bool:
        return self._cycle.disconnected or self._cycle.response_complete

    @property
    def is_read(self) -> bool:
        return not self._cycle.more_body

    @property
    def discard_limit(self) -> int:
        return UNAUTHENTICATED_BYTES if self._cycle.status in (401, 403) else DISCARD_BYTES

    def begin(self) -> None:
        context = self._connection.context
        task = asyncio.get_running_loop().create_task(self._cycle.run_asgi(context.app))
        context.state.tasks.add(task)
        task.add_done_callback(context.state.tasks.discard)

    def append(self, data: bytes) -> None:
        self._cycle.body += data
        if len(self._cycle.body) > BODY_AHEAD:
            self._connection.pause_reading()
        self._cycle.message_event.set()

    def end(self) -> None:
        self._cycle.more_body = False
        self._cycle.message_event.set()

    def gone(self) -> None:
        self._cycle.disconnected = not self._cycle.response_complete
        self._cycle.message_event.set()

    def refused(self) -> bool:
        """The application receives a disconnect."""
        self.gone()
        if self.is_started:
            self._connection.transport.abort()  # the rest of the answer may never come
        return not self.is_started

    def pause(self) -> None:
        """The cycle awaits `Connection.drain` by itself."""

    def resume(self) -> None:
        """As above."""

    def _on_response(self) -> None:
        self._connection.answered(self)
