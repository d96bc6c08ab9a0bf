"""The interface of a front: one client format, both ways. Each file of `fronts/` is one."""

from typing import Literal, Protocol

from msgspec import Struct

from legato.core.errors import ApiError
from legato.core.request import ChatRequest
from legato.core.subscriber import Subscriber

#: How a stream is kept alive in silence. comment: a comment of the event stream; chunk: an ordinary
#: event that says nothing, for clients that fail on comments.
Heartbeat = Literal["comment", "chunk"]


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

    def parse(self, body: bytes) -> ChatRequest:
        """Reads and checks a request's body. Raises `ApiError` 400 that names the field."""
        ...

    def identity(self, request_id: str) -> str:
        """The id of the answer to a request (`req_…`)."""
        ...

    def heartbeat(self, wanted: Heartbeat | None, user_agent: bytes | None) -> Heartbeat:
        """The kind that a client gets; `wanted` is the server's setting."""
        ...

    def writer(self, head: AnswerHead, options: WriterOptions, sink: Sink) -> Writer: ...
    def aggregator(self) -> Aggregator: ...
    def render_error(self, error: ApiError) -> bytes:
        """The JSON body of an answer with an error status."""
        ...
