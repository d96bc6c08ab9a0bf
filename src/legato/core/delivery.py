"""The way from a stream to its subscribers."""

from legato.core.chunk import Chunk, Usage
from legato.core.errors import ApiError
from legato.core.subscriber import Subscriber


class Delivery:
    """Hands chunks and the end to all subscribers of one stream.

    Chunks that come before there is a subscriber wait for the first. There is one chance to
    subscribe, so that nobody gets an answer without its beginning.
    """

    __slots__ = ("_early", "subscribers")

    def __init__(self) -> None:
        self.subscribers: tuple[Subscriber, ...] = ()
        self._early: list[Chunk] | None = []

    def subscribe(self, subscribers: tuple[Subscriber, ...]) -> None:
        """Each gets all that has come so far. Raises `RuntimeError` when called again."""
        if self._early is None:
            raise RuntimeError("the stream has been delivered to others already")
        self.subscribers = subscribers
        early, self._early = self._early, None
        for chunk in early:
            self.push(chunk)

    def unsubscribe(self) -> None:
        """What still comes goes nowhere."""
        self.subscribers = ()
        self._early = None

    @property
    def is_behind(self) -> bool:
        """Whether a subscriber has not taken yet what has come."""
        return any(each.is_paused for each in self.subscribers)

    def push(self, chunk: Chunk) -> None:
        if self._early is not None:
            self._early.append(chunk)
            return
        for each in self.subscribers:
            each.push(chunk)

    def flush(self) -> None:
        for each in self.subscribers:
            each.flush()

    def complete(self, total: Usage, extras: bytes) -> None:
        for each in self.subscribers:
            each.complete(total, extras)

    def fail(self, error: ApiError) -> None:
        for each in self.subscribers:
            each.fail(error)
