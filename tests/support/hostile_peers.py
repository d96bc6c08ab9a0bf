"""Peers that are no upstream: what a deployment's address may lead to before any HTTP is spoken."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

import trustme


@contextmanager
def nobody() -> Iterator[str]:
    """An address that refuses connections for as long as this holds it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


class Stranger:
    """Takes connections and TLS's first words; what it then does is its `manner`.

    silent: nothing; hang-up: closes; plain: answers in HTTP; untrusted: shows a certificate that
    nobody has vouched for. It does so `after` seconds.
    """

    def __init__(self) -> None:
        self.manner = "silent"
        self.after = 0.0
        self.taken = 0
        self.open_connections = 0
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(self.context)
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Door(self), "127.0.0.1", 0)
        return f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


class _Door(asyncio.Protocol):
    def __init__(self, stranger: Stranger) -> None:
        self._stranger = stranger
        self._manner = stranger.manner
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._stranger.open_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._stranger.open_connections -= 1
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """The client's hello, in one piece; behind it comes only what breaks off the handshake."""
        if self._timer is None:
            self._stranger.taken += 1
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._stranger.after, self._answer, data)

    def _answer(self, hello: bytes) -> None:
        if self._transport is None:
            return
        if self._manner == "untrusted":
            self._transport.write(self._handshake(hello))
        elif self._manner == "plain":
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        elif self._manner == "hang-up":
            self._transport.close()

    def _handshake(self, hello: bytes) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        incoming.write(hello)
        with suppress(ssl.SSLWantReadError):  # for the client's consent, which does not come
            self._stranger.context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
        return outgoing.read()
