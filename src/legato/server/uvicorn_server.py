"""A uvicorn server with its own signal handling, wake-ups and socket options."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType
from typing import Final

import uvicorn

#: Bytes of unsent data that the kernel accepts for one connection. For a slow client it would
#: buffer megabytes; data that stays here can be coalesced with what follows.
MAX_UNSENT: Final = 64 * 1024

#: Seconds between updates of the `date` header.
TICK_SECONDS: Final = 1.0


class Server(uvicorn.Server):
    """A uvicorn server that shuts down gracefully on a signal and does not raise it again.

    uvicorn polls `should_exit` ten times a second; here setting it wakes the main loop.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        self._loop = asyncio.get_running_loop()
        self._exit = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        return self._exit.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:  # type: ignore[override]
        if value:
            self._exit.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            for listening in (each for server in self.servers for each in server.sockets):
                # Accepted connections inherit it.
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT)

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._exit.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def handle(number: int, frame: FrameType | None) -> None:
            self._loop.call_soon_threadsafe(shut_down)

        def shut_down() -> None:
            # A second signal ends running calls at once.
            self.force_exit = self.should_exit
            self.should_exit = True

        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {each: signal.signal(each, handle) for each in signals}
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    @property
    def url(self) -> str:
        """The server's address; with port 0 in the settings, the port that the system chose."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
            host, f"[{host}]" if ":" in host else host
        )
        return f"{'https' if self.config.ssl else 'http'}://{host}:{port}"
