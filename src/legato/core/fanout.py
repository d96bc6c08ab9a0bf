"""Merges several answers into one stream: `n` choices of an upstream that gives one at a time."""

from collections.abc import Callable

from legato.core import usage
from legato.core.chunk import Chunk, Usage
from legato.core.errors import ApiError, bad_gateway
from legato.core.stream import Stream
from legato.core.subscriber import WriteText


class Fanout:
    """`branches` are filled by one upstream call each; their choices come out of `into` under the
    branch's number. `into` is complete when all of them are, and fails with the first."""

    __slots__ = ("_left", "branches", "into")

    def __init__(self, into: Stream, count: int, clock: Callable[[], float]) -> None:
        self.into = into
        self._left = count
        self.branches = [Stream(clock, into.timings.received) for _ in range(count)]
        for index, branch in enumerate(self.branches):
            branch.subscribe(_Branch(self, index))

    def push(self, index: int, chunk: Chunk) -> None:
        members = chunk.members()
        if any(member["index"] for member in members):
            raise bad_gateway("The upstream sent more choices than it was asked for.")
        fields = [member | {"index": index} for member in members]
        self.into.push(Chunk([], extras=chunk.extras, fields=fields))

    def flush(self) -> None:
        self.into.flush()

    def complete(self) -> None:
        self._left -= 1
        if not self._left:
            total = usage.merged([branch.usage.reported for branch in self.branches])
            self.into.push(Chunk([], b"[]", usage=total))
            self.into.end()

    def fail(self, error: ApiError) -> None:
        self.into.fail(error)

    def stop(self) -> None:
        """One has failed: what still comes of the others is nobody's, and begins no answer."""
        for branch in self.branches:
            branch.unsubscribe()


class _Branch:
    """The subscriber of one branch."""

    __slots__ = ("_fanout", "_index", "fail", "flush")

    def __init__(self, fanout: Fanout, index: int) -> None:
        self._fanout = fanout
        self._index = index
        self.flush = fanout.flush
        self.fail = fanout.fail

    @property
    def is_paused(self) -> bool:
        return self._fanout.into.is_behind

    def push(self, chunk: Chunk) -> None:
        self._fanout.push(self._index, chunk)

    def relay(self, name: bytes, data: bytes) -> None:
        """Its choices are numbered anew: nothing is relayed."""

    def text_writer(self, chunk: Chunk, raw: tuple[bytes, bytes]) -> WriteText | None:
        return None

    def event_writer(self, event: bytes) -> WriteText | None:
        return None

    def complete(self, usage: Usage, extras: bytes) -> None:
        self._fanout.complete()
