"""What a call is given: its client, and what all calls share."""

from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct

from legato.core.timers import Timers
from legato.policy.keys import Keyring
from legato.policy.ledger import Row, SettledCall
from legato.policy.routing import Router
from legato.upstreams.upstream import Upstream


class Client(Protocol):
    """The client's side of one call, as the server's protocol gives it."""

    authorization: bytes | None
    digest: bytes | None
    """Of the key, where it is the one of the connection's last request."""
    body: bytes
    received: float
    begun: float
    """When all of the request was there, and it was its turn."""
    request_id: str

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """A whole answer. `lines`: headers of its own, as they are sent."""

    def start(self, lines: bytes) -> None:
        """Commits a 200 and a stream of events; its head goes out with the first of them."""

    def flush(self) -> None:
        """Sends the head, where no event came with it."""

    def write(self, data: bytes) -> None: ...

    def direct(self) -> Callable[[bytes], None] | None:
        """What takes chunks of HTTP as `write` makes them; None where it does not."""
        ...

    def finish(self, data: bytes) -> None:
        """Writes the last of a stream, and ends its body."""

    def abort(self) -> None:
        """Closes the connection without another word."""

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the peer has not taken."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether more waits for the peer than it should: what comes next had better be merged."""
        ...

    @property
    def is_secure(self) -> bool:
        """Whether the client's line is encrypted, as far as a proxy of ours tells."""
        ...


class Ledger(Protocol):
    """Takes a row when a call begins and again when it is settled."""

    @property
    def is_full(self) -> bool: ...
    def put(self, identity: str, entry: Row | SettledCall) -> None: ...


class Services(Struct):
    """What all calls share."""

    keyring: Keyring
    router: Router
    ledger: Ledger
    upstreams: dict[str, Upstream]
    timers: Timers
    clock: Callable[[], float]
    on_bug: Callable[[BaseException], None]
    """Hears of an exception that is nobody's fault but ours."""
    gate_seconds: float = 5.0
    heartbeat_seconds: float = 10.0
    stall_client_seconds: float = 120.0
    backlog_bytes: int = 4 * 1024 * 1024
    padding: Literal["auto", "on", "off"] = "auto"
