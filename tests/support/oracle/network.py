"""Upstreams without sockets: what is written to them is recorded, what they answer is scripted."""

from collections import deque
from collections.abc import Callable
from typing import Any

from tests.support.oracle.conversation import Block, Read, Script, reads
from tests.support.oracle.loop import VirtualLoop

#: Ports of deployments begin here.
FIRST_PORT = 8000

#: What answers a request for which there is no script.
_UNAVAILABLE = reads(
    Script(
        [Block(b'{"error":{"message":"nothing is scripted"}}')],
        status=503,
        headers=(("content-type", "application/json"),),
        framing="length",
    )
)


class PlannedResponse:
    """One response. Its steps are made when it is asked for, as many never are."""

    __slots__ = ("_script", "_steps")

    def __init__(self, script: Script) -> None:
        self._script = script
        self._steps: list[Read] | None = None

    @property
    def steps(self) -> list[Read]:
        if self._steps is None:
            self._steps = reads(self._script)
        return self._steps


class Transport:
    """The gateway's end of one connection to an upstream."""

    def __init__(self, network: "Upstreams", number: int, deployment: int) -> None:
        self._network = network
        self.number = number
        self.deployment = deployment
        self.protocol: Any = None
        self.reads: deque[Read] = deque()
        self.is_paused = False
        self._is_closing = False

    def get_extra_info(self, name: str) -> None:
        """It has no socket."""

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: bytes) -> None:
        if not self._is_closing:
            self._network.asked(self, data)

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def abort(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self.reads.clear()
            self._network.note(f"connection {self.number} is closed")
            self._network.loop.call_soon(self.protocol.connection_lost, None)

    close = abort

    @property
    def can_read(self) -> bool:
        return bool(self.reads) and not self.is_paused and not self._is_closing

    def step(self) -> Read:
        return self.reads.popleft()

    def deliver(self, read: Read) -> None:
        if self._is_closing:
            return
        if read.data:
            try:
                self.protocol.data_received(read.data)
            except Exception as error:
                self._network.loop.problems.append(f"data_received: {error!r}")
        if read.is_lost and not self._is_closing:
            self._is_closing = True
            self._network.note(f"connection {self.number} is lost")
            self.protocol.connection_lost(None)


class Upstreams:
    """All upstreams of one conversation.

    `requests`: (deployment, bytes) of each request, in order. `on_note` is called with what happens
    to connections.
    """

    def __init__(self, on_note: Callable[[str], None]) -> None:
        self.loop = VirtualLoop(self)
        self.requests: list[tuple[int, bytes]] = []
        self.transports: list[Transport] = []
        self.note = on_note
        self._responses: list[deque[PlannedResponse]] = []
        self._made = 0

    def expect(self, responses: list[list[PlannedResponse]]) -> None:
        """The responses to the requests of the next call, by deployment."""
        self._responses = [deque(each) for each in responses]
        self.requests = []

    def connect(self, factory: Callable[[], Any], port: int) -> Any:
        transport = Transport(self, self._made, port - FIRST_PORT)
        self._made += 1
        self.transports = [each for each in self.transports if not each.is_closing()]
        self.transports.append(transport)
        protocol = transport.protocol = factory()
        protocol.connection_made(transport)
        return transport, protocol

    def asked(self, transport: Transport, request: bytes) -> None:
        self.requests.append((transport.deployment, request))
        number = transport.deployment
        left = self._responses[number] if number < len(self._responses) else None
        transport.reads.extend(left.popleft().steps if left else _UNAVAILABLE)

    @property
    def can_read(self) -> bool:
        return any(each.can_read for each in self.transports)

    def next_read(self, step: int) -> tuple[Transport, Read] | None:
        """The next step of one of the connections, in rotation among those with something to
        read."""
        if len(self.transports) == 1:  # as in most conversations
            (transport,) = self.transports
            return (transport, transport.step()) if transport.can_read else None
        ready = [each for each in self.transports if each.can_read]
        if not ready:
            return None
        transport = ready[step % len(ready)]
        return transport, transport.step()
