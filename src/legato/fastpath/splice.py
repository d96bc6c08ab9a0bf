"""The fast path: takes the text out of an upstream's event and puts it into a client's frame.

Most chunks of an answer differ from the one before in their text alone. Such an event is compared
with a pattern and not decoded; its JSON string is carried to the client as it stands. The oracle is
a run without the fast path: it gives the same bytes, ledger rows and continuations.

With many streams a chunk costs the memory that it touches, which has left the processor's caches
since the last one. So all that a chunk needs is in one small object.
"""

from typing import Final

from legato.core.chunk import Chunk
from legato.core.json_text import encoded, text_of
from legato.core.stream import Stream
from legato.fastpath.pattern import Pattern, Read, has_text, learn, steady

#: Matches no event.
_CLOSED: Final = b"\n"

#: The end of an event whose data is one JSON object. Anthropic writes up to 15 spaces before it.
_LAST: Final = b"}\n\n"

#: Patterns that are learnt of one stream before any event has matched one.
_FIRST_TRIES: Final = 4

#: Events that have to match for each further pattern that is learnt.
_MATCHES_PER_TRY: Final = 4


class Splice:
    """Takes events of nothing but text, for as long as nothing else happens to the stream."""

    __slots__ = (
        "_head",
        "_index",
        "_is_encoded",
        "_is_reasoning",
        "_note",
        "_tail",
        "_unpadded",
        "_varies",
        "_write",
        "matches",
    )

    def __init__(self, stream: Stream, chunk: Chunk, pattern: Pattern) -> None:
        """It is closed from the start where the stream or its subscriber does not allow it."""
        self._head = _CLOSED
        self._tail = pattern.tail
        # The tail without its last brace, and without spaces before that; empty where it has none.
        ends = pattern.tail.endswith(_LAST)
        self._unpadded = pattern.tail.removesuffix(_LAST).rstrip(b" ") if ends else b""
        self._index = chunk.text_choice
        self._is_encoded = pattern.is_encoded
        self._is_reasoning = chunk.is_reasoning
        self._note = stream.note_text
        self._varies = pattern.varies
        event = pattern.head + pattern.tail
        self._write = stream.enter_fast_path(self, chunk, pattern.raw, event)
        self.matches = 0
        if self._write is not None:
            self._head = pattern.head

    @property
    def is_open(self) -> bool:
        return self._head is not _CLOSED

    def take(self, event: bytes) -> bool:
        """Takes one event, its blank line included. False where it is anything else; then
        nothing has happened."""
        head, tail = self._head, self._tail
        like = steady(event) if self._varies else event
        if not like.startswith(head):
            return False
        end = len(like) - len(tail) if like.endswith(tail) else self._end_of_text(like)
        if end <= len(head):
            return False
        quoted = like[len(head) - 1 : end + 1]
        text = text_of(quoted)
        write = self._write
        if not text or write is None:
            return False
        self._note(text, self._index, self._is_reasoning)
        write(encoded(text) if self._is_encoded else quoted, event)
        self.matches += 1
        return True

    def _end_of_text(self, event: bytes) -> int:
        """Where the text of an event ends whose tail has more or fewer spaces before its last
        brace; 0 where it differs in something else."""
        unpadded = self._unpadded
        if not unpadded or not event.endswith(_LAST):
            return 0
        event = event.removesuffix(_LAST).rstrip(b" ")
        return len(event) - len(unpadded) if event.endswith(unpadded) else 0

    def close(self) -> None:
        """The next event is decoded."""
        self._head = _CLOSED
        self._write = None


class Splicer:
    """Makes the splices of one stream, one after the other."""

    __slots__ = ("_splice", "_tries")

    def __init__(self) -> None:
        self._splice: Splice | None = None
        self._tries = _FIRST_TRIES

    def enter(self, stream: Stream, event: bytes, chunk: Chunk, read: Read) -> Splice | None:
        """The splice for events like `event`, which was just decoded to `chunk`.

        None where each event has to be decoded. What is tried is bounded by what has matched, so
        that a stream whose events never look alike costs little more than without.
        """
        last, self._splice = self._splice, None
        if last is not None:
            self._tries += last.matches // _MATCHES_PER_TRY
        if self._tries <= 0 or not has_text(event, chunk):
            return None
        self._tries -= 1
        pattern = learn(event, chunk, read)
        if pattern is None:
            return None
        splice = self._splice = Splice(stream, chunk, pattern)
        return splice if splice.is_open else None
