"""`GET /metrics`: at the server's port for who has the token, or at a port of its own."""

import asyncio
import hashlib
import hmac
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route as Path

from legato.core.errors import ApiError
from legato.server.metrics import CONTENT_TYPE, Metrics
from legato.server.uvicorn_server import Server

_PATH: Final = "/metrics"

#: Connections to the port of its own: a scraper needs one.
_MAX_CONNECTIONS: Final = 32

#: Seconds that a scrape may take while the server stops.
_DRAIN_SECONDS: Final = 1


def paths(metrics: Metrics, token: str | None) -> list[Path]:
    """The endpoint. `token` None: everyone may ask."""
    wanted = _digest(token.encode()) if token is not None else None

    async def read(request: Request) -> Response:
        if wanted is not None:
            _check(request, wanted)
        return Response(await metrics.scrape(), headers={"content-type": CONTENT_TYPE})

    return [Path(_PATH, read, methods=["GET"])]


def _check(request: Request, wanted: bytes) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        message = "Send the token of the metrics as `Authorization: Bearer TOKEN`."
        raise ApiError(401, "missing_token", message)
    # Digests are of one length, so that the time tells nothing of the token's.
    if not hmac.compare_digest(_digest(token.strip().encode("latin-1")), wanted):
        raise ApiError(401, "invalid_token", "This token of the metrics is not valid.")


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class MetricsServer:
    """A server for the metrics alone, in the same event loop."""

    def __init__(self, metrics: Metrics, host: str, port: int, token: str | None) -> None:
        self._address = (host, port)
        self._app = Starlette(
            routes=paths(metrics, token),
            exception_handlers={ApiError: _refused, HTTPException: _not_found},
        )
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """With port 0 in the settings it has the port that the system chose."""
        assert self._server is not None
        return f"{self._server.url}{_PATH}"

    async def start(self) -> None:
        """Raises OSError if the address cannot be used."""
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise OSError(f"metrics: cannot listen on {host}, port {port}: {reason}") from None
        config = uvicorn.Config(
            self._app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        config.load()
        server = self._server = _Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        self._task = asyncio.create_task(server.run_until_exit(listener), name="metrics")

    async def stop(self) -> None:
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task


class _Server(Server):
    """Signals are the main server's."""

    async def run_until_exit(self, listener: socket.socket) -> None:
        await self.main_loop()
        await self.shutdown(sockets=[listener])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"www-authenticate": "Bearer"}
    return PlainTextResponse(f"{error}\n", error.status, headers)


async def _not_found(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"The metrics are at {_PATH}.\n", error.status_code, error.headers)
