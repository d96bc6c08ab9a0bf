"""The way from a stream to its subscribers."""

from legato.core.chunk import Chunk, Usage
from legato.core.errors import ApiError
from legato.core.json_text import check_utf8
from legato.core.subscriber import Subscriber


class Delivery:
    """Hands chunks and the end to all subscribers of one stream.

    Chunks that come before there is a subscriber wait for the first. There is one chance to
    subscribe, so that nobody gets an answer without its beginning.

    `relays`: the upstream speaks the client's own format: its events go out in place of chunks.
    They wait until the answer has begun, as another upstream may be asked before that.
    """

    __slots__ = ("_early", "_held", "relays", "subscribers")

    def __init__(self) -> None:
        self.subscribers: tuple[Subscriber, ...] = ()
        self._early: list[Chunk | tuple[bytes, bytes]] | None = []
        self._held: list[tuple[bytes, bytes]] | None = None
        self.relays = False

    def expect(self, relays: bool, *, begun: bool) -> None:
        """An upstream is asked. `begun`: whether the answer had begun before."""
        self.relays = relays
        self._held = [] if relays and not begun else None

    def relay(self, name: bytes, data: bytes) -> None:
        """An event as it came. Raises `UpstreamError` where it is not UTF-8: at once, so that what
        waits can be delivered."""
        if self._held is not None:
            check_utf8(data)
            self._held.append((name, data))
        elif self._early is not None:
            check_utf8(data)
            self._early.append((name, data))
        else:
            for each in self.subscribers:
                each.relay(name, data)

    def begin(self) -> None:
        """The answer has begun."""
        held, self._held = self._held, None
        for name, data in held or ():
            self.relay(name, data)

    def subscribe(self, subscribers: tuple[Subscriber, ...]) -> None:
        """Each gets all that has come so far. Raises `RuntimeError` when called again."""
        if self._early is None:
            raise RuntimeError("the stream has been delivered to others already")
        self.subscribers = subscribers
        early, self._early = self._early, None
        for each in early:
            if isinstance(each, tuple):
                self.relay(*each)
            else:
                self._push(each)

    def unsubscribe(self) -> None:
        """What still comes goes nowhere."""
        self.subscribers = ()
        self._early = None

    @property
    def is_behind(self) -> bool:
        """Whether a subscriber has not taken yet what has come."""
        return any(each.is_paused for each in self.subscribers)

    def push(self, chunk: Chunk) -> None:
        if self.relays:
            return
        if self._early is not None:
            self._early.append(chunk)
        else:
            self._push(chunk)

    def _push(self, chunk: Chunk) -> None:
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
