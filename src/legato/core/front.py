"""The interface of a front: one client format, both ways. Each file of `fronts/` is one."""

from typing import Any, Literal, Protocol

from msgspec import Struct

from legato.core.errors import ApiError
from legato.core.request import ChatRequest
from legato.core.subscriber import Subscriber

#: How a stream is kept alive in silence. comment: a comment of the event stream; chunk: an ordinary
#: event that says nothing, for clients that fail on comments.
Heartbeat = Literal["comment", "chunk"]


class FrontRequest(Struct):
    """A request as its front has read it.

    `chat`, `body`: as Chat Completions, typed and as JSON, whatever the client's format: what
    dialects are given. `source`: the body as it came, for upstreams whose dialect has the same
    `format`; None where it came as Chat Completions. `echo`: what the front itself needs again to
    write the answer. `beyond`: the refusal of what Chat Completions has no words for; it is raised
    where the request does not go out as it came. `is_whole`: its answer has to come in one piece,
    from an upstream that is sent the request as it came.
    """

    chat: ChatRequest
    body: bytes
    format: str = "chat"
    source: bytes | None = None
    echo: Any = None
    beyond: ApiError | None = None
    is_whole: bool = False


class Refusal(Struct, frozen=True):
    """An error as an answer with a status. `headers`: further ones, (name, value) each."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class AnswerHead(Struct, frozen=True):
    """What all frames of an answer have in common. `created` is in Unix seconds."""

    identity: str
    created: int
    model: str


class WriterOptions(Struct, frozen=True):
    """How a streamed answer is written.

    `limit`: bytes that may wait for a slow client before its upstream is paused.
    """

    shows_usage: bool = False
    shows_running_usage: bool = False
    pads: bool = False
    heartbeat: Heartbeat = "comment"
    limit: int = 4 * 1024 * 1024


class Sink(Protocol):
    """Takes the bytes of frames; HTTP's chunk framing is its own business."""

    def write(self, data: bytes) -> None:
        """One or more whole frames."""

    def finish(self, data: bytes) -> None:
        """The last frames of a stream; the body ends."""

    def on_full(self) -> None:
        """Called while more than the limit waits for a slow client."""


class Writer(Subscriber, Protocol):
    """A subscriber that writes a stream's frames to a client.

    `frames` and `size` (bytes) are what it has written.
    """

    frames: int
    size: int

    @property
    def response(self) -> bytes:
        """The whole answer, once it is complete; empty where the format does not repeat it."""
        ...

    def pause(self) -> None:
        """The client takes no more for now: what comes is coalesced."""

    def resume(self) -> None: ...
    def heartbeat(self, progress: float | None) -> None:
        """Keeps the line open; never counts as progress of the answer.

        `progress`: how much of the prompt the upstream has processed, 0 to 1, where it tells.
        """


class Aggregator(Subscriber, Protocol):
    """A subscriber that folds a stream into one answer. `error` is set where the stream failed."""

    error: ApiError | None

    def start_over(self) -> None:
        """Drops what has come: another upstream answers from the start."""

    def answer(self, head: AnswerHead) -> bytes:
        """The body of a 200."""
        ...


class Front(Protocol):
    """One client format. Functions have no state and do no I/O."""

    name: str
    passed_headers: bytes
    """What the names of headers begin with that go to upstreams of the same format; empty: none."""
    id_header: bytes
    """Where clients look for a request's id, beside `x-request-id`; empty: nowhere."""

    def parse(self, body: bytes) -> FrontRequest:
        """Reads and checks a request's body, which is `core.request.cleaned`. Raises `ApiError` 400
        that names the field as the client knows it."""
        ...

    def identity(self, request_id: str) -> str:
        """The id of the answer to a request (`req_…`)."""
        ...

    def heartbeat(self, wanted: Heartbeat | None, user_agent: bytes | None) -> Heartbeat:
        """The kind that a client gets; `wanted` is the server's setting."""
        ...

    def writer(
        self, head: AnswerHead, options: WriterOptions, sink: Sink, request: FrontRequest
    ) -> Writer: ...
    def aggregator(self, request: FrontRequest) -> Aggregator: ...
    def refusal(self, error: ApiError, request_id: str) -> Refusal:
        """An error before the first frame. `request_id`: of the request (`req_…`), or empty."""
        ...
