"""What drains a stream, and what listens to its state: the interfaces of `core/stream.py`."""

from collections.abc import Callable
from typing import Final, Protocol

from legato.core.chunk import Chunk, Usage
from legato.core.errors import ApiError

#: Takes the JSON string of a text, quotes included, and the event of the upstream that it came in;
#: writes the frame that carries it.
WriteText = Callable[[bytes, bytes], None]


class Subscriber(Protocol):
    """Drains a stream. `push` may collect; `flush` says that nothing more comes in this turn."""

    @property
    def is_paused(self) -> bool:
        """Whether it collects because its own consumer is slow."""
        ...

    def push(self, chunk: Chunk) -> None: ...
    def relay(self, name: bytes, data: bytes) -> None:
        """An event of an upstream that speaks the client's own format, in place of `push`.

        `name`: of its `event:` line, or empty; `data`: its JSON. An upstream of another format may
        go on with the answer: then `push` is called from there on.
        """

    def flush(self) -> None: ...
    def complete(self, usage: Usage, extras: bytes) -> None:
        """`extras`: further members of the chunk with the usage, as `Chunk` has them."""
        ...

    def fail(self, error: ApiError) -> None: ...

    def text_writer(self, chunk: Chunk, raw: tuple[bytes, bytes]) -> WriteText | None:
        """For the fast path: writes frames that differ from that of `chunk` in their text alone.
        None where it cannot.

        `raw`: the `choices` array as JSON before and after the JSON string of the text.
        """
        ...

    def event_writer(self, event: bytes) -> WriteText | None:
        """The same for events that are relayed as they came, blank line included. `event`: one of
        them, with an empty text."""
        ...


class Listener(Protocol):
    """Is told of the states of one stream. Called from inside `push`, `flush`, `end` and `fail`."""

    def stream_opened(self) -> None:
        """The first chunk of an upstream that counts as an answer has come."""

    def stream_finished(self) -> None:
        """All choices have their finish, and the end did not come in the same read."""

    def stream_closed(self) -> None:
        """The stream is complete, failed or cancelled. Called once."""


class _NoListener:
    def stream_opened(self) -> None: ...
    def stream_finished(self) -> None: ...
    def stream_closed(self) -> None: ...


#: A listener to whom no state matters.
NO_LISTENER: Final[Listener] = _NoListener()


class FastPath(Protocol):
    """Takes the text events of a stream without decoding them, until it is closed."""

    def close(self) -> None: ...
