"""What a call is given: its client, and what all calls share."""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from msgspec import Struct

from legato.core.front import Heartbeat
from legato.core.timers import Timers
from legato.gateway.kept_responses import KeptResponses
from legato.gateway.limiter import Limiter
from legato.policy.keys import Keyring
from legato.policy.ledger import Row
from legato.policy.routing import Router
from legato.upstreams.upstream import Upstream


class Client(Protocol):
    """The client's side of one call, as the server's exchange implements it.

    `received` and `begun` are seconds of the server's clock: when the request's first bytes came,
    and when all of it was there and its turn had come. `passed`: header lines that go to upstreams
    of the client's own format.
    """

    body: bytes
    received: float
    begun: float
    request_id: str
    user_agent: bytes | None
    title: bytes | None
    """The header `x-title`: the client's name, where its user agent is a library's."""
    passed: bytes
    session_headers: Mapping[bytes, bytes]
    """Those that tell which session a call belongs to (`policy.sessions`)."""

    @property
    def is_encoded(self) -> bool:
        """Whether the body is compressed: it is there after `decode`."""
        ...

    async def decode(self) -> None:
        """Decodes the body. Raises `ApiError` 400 or 413."""

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Sends a whole answer. `lines`: further headers, as they are sent."""

    def start(self, lines: bytes) -> None:
        """Commits a 200 with a stream of events; its head goes out with the first of them."""

    def flush(self) -> None:
        """Sends the head, where no event came with it."""

    def write(self, data: bytes) -> None: ...
    def finish(self, data: bytes) -> None:
        """Writes the last of a stream, and ends its body."""

    def abort(self) -> None:
        """Closes the connection at once."""

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the peer has not taken."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether more waits for the peer than should: what comes next had better be coalesced."""
        ...

    @property
    def is_secure(self) -> bool:
        """Whether the client's line is encrypted, as far as a trusted proxy tells."""
        ...


class Ledger(Protocol):
    """Takes a row when a call is admitted and again when it is settled; of a call that is never
    admitted once, if at all."""

    @property
    def is_full(self) -> bool: ...
    def put(self, identity: str, row: Row) -> None: ...
    def put_refused(self, identity: str, row: Row) -> None: ...


class Services(Struct):
    """What all calls share. `on_bug` is called with an exception that is our own fault."""

    keyring: Keyring
    router: Router
    ledger: Ledger
    limiter: Limiter
    upstreams: dict[str, Upstream]
    timers: Timers
    clock: Callable[[], float]
    on_bug: Callable[[BaseException], None]
    gate_seconds: float = 5.0
    heartbeat_seconds: float = 10.0
    heartbeat: Heartbeat | None = None
    stall_client_seconds: float = 120.0
    backlog_bytes: int = 4 * 1024 * 1024
    padding: Literal["auto", "on", "off"] = "auto"
    kept_responses: KeptResponses | None = None  # None: nothing is kept
    on_settled: Callable[[Row], None] | None = None  # told of each call once it has ended
    open_streams: int = 0  # streamed answers in progress, from admission on
