"""Who hears of a stream: what `core/stream.py` asks of them."""

from typing import Protocol

from legato.core.chunk import Chunk, Usage
from legato.core.errors import ApiError


class Subscriber(Protocol):
    """Drains a stream. `push` may collect; `flush` says that nothing more comes in this turn."""

    @property
    def is_paused(self) -> bool:
        """It collects, and somebody else is slow to take it."""
        ...

    def push(self, chunk: Chunk) -> None: ...
    def flush(self) -> None: ...
    def complete(self, usage: Usage, extras: bytes) -> None:
        """`extras`: further members of the chunk with the usage, as `Chunk` has them."""
        ...

    def fail(self, error: ApiError) -> None: ...


class Lane(Protocol):
    """Passes text on by itself, as long as nothing else comes."""

    @property
    def has_taken(self) -> bool: ...
    def shut(self) -> None: ...
