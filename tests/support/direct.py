"""A client connection without a socket: each `send` is one read of the server, however short."""

import asyncio
from typing import Any

from tests.conftest import Running
from tests.support.wire import Wire


class Transport:
    """Records what the protocol does; what it writes goes to `reader`.

    `unsent`: bytes that the peer has not taken, as the protocol sees it.
    """

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader
        self.unsent = 0
        self.writes: list[bytes] = []
        self.is_closed = False
        self.is_aborted = False
        self.is_reading = True
        self.has_eof = False
        self.wrote_late = False  # behind the end of our side

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        if self.has_eof:
            self.wrote_late = True
            return
        self.reader.feed_data(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        assert not self.has_eof
        self.has_eof = True
        self.reader.feed_eof()

    def close(self) -> None:
        self.is_closed = True
        if not self.has_eof:
            self.has_eof = True
            self.reader.feed_eof()

    def abort(self) -> None:
        self.is_aborted = True
        self.close()

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class DirectWire(Wire):
    """One connection to the protocol of a running server."""

    def __init__(self, running: Running) -> None:
        super().__init__(asyncio.StreamReader(limit=1 << 24), None)  # type: ignore[arg-type]
        server = running.server
        self.transport = Transport(self.reader)
        self.protocol: Any = server.config.http_protocol_class(
            config=server.config, server_state=server.server_state, app_state={}
        )
        self.protocol.connection_made(self.transport)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)  # for what has been scheduled
        self.transport.is_closed = True
        self.protocol.connection_lost(None)
        assert not self.transport.wrote_late

    def send(self, data: bytes) -> None:
        if not self.transport.is_closed:
            self.protocol.data_received(data)
