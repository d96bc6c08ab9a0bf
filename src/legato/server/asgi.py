"""Requests to the ASGI application, answered by uvicorn's own request-response cycle."""

import asyncio
import logging
import urllib.parse
from typing import Any, Final, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from legato.gateway.call import new_request_id
from legato.server.context import ServerContext
from legato.server.exchange import Exchange

_LOG: Final = logging.getLogger("uvicorn.error")

#: Bytes of a body that wait for the application before reading stops.
BODY_AHEAD: Final = 64 * 1024

Headers = list[tuple[bytes, bytes]]


class Flow(Protocol):
    """What the cycle needs of the connection it is on."""

    context: ServerContext
    transport: asyncio.Transport
    write_paused: bool

    async def drain(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def answered(self, exchange: Exchange) -> None: ...


class AsgiExchange:
    """One request to the ASGI application (`exchange.Exchange`)."""

    __slots__ = ("_cycle", "_flow", "_is_started")

    def __init__(self, flow: Flow, parser: Any, url: bytes, headers: Headers) -> None:
        """`parser`: httptools', which has just read the head. Raises where `url` is none."""
        self._flow = flow
        self._is_started = False
        version = parser.get_http_version()
        parts = httptools.parse_url(url)
        raw_path = parts.path or b"/"
        transport = flow.transport
        scope: Any = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "scheme": "https" if is_ssl(transport) else "http",
            "root_path": "",
            "path": urllib.parse.unquote(raw_path.decode("ascii")),
            "raw_path": raw_path,
            "query_string": parts.query or b"",
            "headers": headers,
            "state": {},
        }
        origin = next((value for name, value in headers if name == b"origin"), None)
        self._cycle = RequestResponseCycle(
            scope=scope,
            transport=transport,
            flow=flow,  # type: ignore[arg-type]
            logger=_LOG,
            access_logger=_LOG,
            access_log=False,
            default_headers=[
                *flow.context.state.default_headers,
                *flow.context.cors.headers(origin),
                (b"x-request-id", new_request_id().encode()),
            ],
            message_event=asyncio.Event(),
            expect_100_continue=any(
                name == b"expect" and value.lower() == b"100-continue" for name, value in headers
            ),
            keep_alive=version != "1.0" and parser.should_keep_alive(),
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
        return self._is_started

    @property
    def is_over(self) -> bool:
        return self._cycle.disconnected or self._cycle.response_complete

    def begin(self) -> None:
        self._is_started = True
        context = self._flow.context
        task = asyncio.get_running_loop().create_task(self._cycle.run_asgi(context.app))
        context.state.tasks.add(task)
        task.add_done_callback(context.state.tasks.discard)

    def append(self, data: bytes) -> None:
        if self._cycle.response_complete:
            return
        self._cycle.body += data
        if len(self._cycle.body) > BODY_AHEAD:
            self._flow.pause_reading()
        self._cycle.message_event.set()

    def end(self) -> None:
        if not self._cycle.response_complete:
            self._cycle.more_body = False
            self._cycle.message_event.set()

    def gone(self) -> None:
        if not self._cycle.disconnected:
            self._cycle.disconnected = not self._cycle.response_complete
            self._cycle.message_event.set()

    def refused(self) -> None:
        self._cycle.response_complete = True

    def pause(self) -> None:
        """The cycle awaits `Flow.drain` by itself."""

    def resume(self) -> None:
        """As above."""

    def _on_response(self) -> None:
        self._flow.answered(self)
