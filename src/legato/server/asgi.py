"""Requests for anything but the hot endpoint: uvicorn's own cycle, and the ASGI application."""

import asyncio
import logging
import urllib.parse
from collections.abc import Callable
from typing import Any, Final, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

_LOG: Final = logging.getLogger("uvicorn.error")

#: Bytes of a body that wait for the application before reading stops.
BODY_AHEAD: Final = 64 * 1024

Headers = list[tuple[bytes, bytes]]


class Flow(Protocol):
    """What the cycle asks of the connection it is on."""

    write_paused: bool

    async def drain(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


def cycle(
    flow: Flow,
    transport: asyncio.Transport,
    parser: Any,
    url: bytes,
    headers: Headers,
    usual_headers: Headers,
    on_response: Callable[[], None],
) -> RequestResponseCycle:
    """The cycle of a request whose headers have been read. Raises where `url` is none."""
    version = parser.get_http_version()
    parts = httptools.parse_url(url)
    raw_path = parts.path or b"/"
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
    return RequestResponseCycle(
        scope=scope,
        transport=transport,
        flow=flow,  # type: ignore[arg-type]
        logger=_LOG,
        access_logger=_LOG,
        access_log=False,
        default_headers=usual_headers,
        message_event=asyncio.Event(),
        expect_100_continue=any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        ),
        keep_alive=version != "1.0" and parser.should_keep_alive(),
        on_response=on_response,
    )


def append(cycle: RequestResponseCycle, flow: Flow, body: bytes) -> None:
    """A piece of the request's body."""
    cycle.body += body
    if len(cycle.body) > BODY_AHEAD:
        flow.pause_reading()
    cycle.message_event.set()


def end(cycle: RequestResponseCycle) -> None:
    """The request is complete."""
    cycle.more_body = False
    cycle.message_event.set()
