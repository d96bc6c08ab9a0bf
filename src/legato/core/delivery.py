"""The way from a stream to its subscribers."""

from typing import Final

from legato.core.chunk import Chunk, Usage
from legato.core.errors import ApiError, bad_gateway
from legato.core.json_text import check_utf8
from legato.core.subscriber import Subscriber

#: Bytes of events that may wait for an answer to begin. They are few and small, unless the upstream
#: says nothing but pings.
_MOST_HELD: Final = 8 * 1024 * 1024

#: What an event costs beside its data.
_EVENT: Final = 120


class Delivery:
    """Hands chunks and the end to all subscribers of one stream.

    Chunks that come before there is a subscriber wait for the first. There is one chance to
    subscribe, so that nobody gets an answer without its beginning.

    `relays`: the upstream speaks the client's own format: its events go out in place of chunks.
    They wait until the answer has begun, as another upstream may be asked before that.
    """

    __slots__ = ("_early", "_held", "_held_bytes", "relays", "subscribers")

    def __init__(self) -> None:
        self.subscribers: tuple[Subscriber, ...] = ()
        self._early: list[Chunk | tuple[bytes, bytes]] | None = []
        self._held: list[tuple[bytes, bytes]] | None = None
        self._held_bytes = 0
        self.relays = False

    def expect(self, relays: bool, *, begun: bool) -> None:
        """An upstream is asked. `begun`: whether the answer had begun before."""
        self.relays = relays
        self._held = [] if relays and not begun else None
        self._held_bytes = 0

    def relay(self, name: bytes, data: bytes) -> None:
        """An event as it came. Raises `UpstreamError` for too many before the answer, and for one
        that is not UTF-8: at once, so that what waits can be delivered."""
        if self._held is not None:
            check_utf8(data)
            self._held.append((name, data))
            self._held_bytes += len(data) + _EVENT
            if self._held_bytes > _MOST_HELD:
                self._held.clear()
                raise bad_gateway("The upstream sent too much before its answer began.")
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
