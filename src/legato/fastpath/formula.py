"""Events that an upstream says alike in each of its answers: how it begins one, how it ends one,
how it says what that has used.

Only the answer's constants differ in them, its id and its time, and the usage. What such an event
comes to is kept with the bytes around those; in the next answer it is not decoded, but compared.
"""

from typing import Any, Final

from msgspec import Struct

from legato.core.chunk import Chunk
from legato.core.errors import ApiError
from legato.core.json_text import encoded
from legato.core.normalize import ChoiceState

#: Bytes of an event that is kept at most.
_LONGEST: Final = 4096

#: Openings that are looked at of one upstream: some say something in each, or never the same.
_OPENINGS: Final = 8

#: Ways to end an answer that are kept of one upstream.
_FINISHES: Final = 8

#: Events with a usage that are learnt from, of one upstream.
_USAGES: Final = 8


class Cut(Struct, frozen=True, gc=False):
    """Bytes without their marks: what is another in each of them."""

    begin: bytes  # what stands before the first mark
    behind: tuple[tuple[int, bytes], ...]  # which mark is the next, and what stands behind it
    form: bytes  # the same for `%`
    is_even: bool  # the marks are in their order
    size: int  # of all but the marks

    @classmethod
    def of(cls, whole: bytes, marks: tuple[bytes, ...]) -> "Cut | None":
        """None where a mark is not there exactly once, or nothing stands between it and another, or
        an end."""
        if any(whole.count(mark) != 1 for mark in marks):
            return None
        found = sorted((whole.index(mark), which) for which, mark in enumerate(marks))
        pieces: list[bytes] = []
        end = 0
        for begin, which in found:
            pieces.append(whole[end:begin])
            end = begin + len(marks[which])
        pieces.append(whole[end:])
        if not all(pieces):
            return None
        form = b"%b".join([piece.replace(b"%", b"%%") for piece in pieces])
        order = [which for _, which in found]
        behind = tuple(zip(order, pieces[1:], strict=True))
        return cls(pieces[0], behind, form, order == sorted(order), sum(map(len, pieces)))

    def filled(self, marks: tuple[bytes, ...]) -> bytes | None:
        """The same with these marks; None where it takes another number of them."""
        if len(marks) != len(self.behind):
            return None
        if self.is_even:
            return self.form % marks
        return self.form % tuple([marks[which] for which, _ in self.behind])

    def marks(self, whole: bytes) -> tuple[bytes, ...] | None:
        """The marks with which this is `whole`; None where there are none."""
        if not whole.startswith(self.begin):
            return None
        marks = [b""] * len(self.behind)
        end = len(self.begin)
        for which, piece in self.behind:
            begin, end = end, whole.find(piece, end)
            if end < 0:
                return None
            marks[which] = whole[begin:end]
            end += len(piece)
        return tuple(marks) if end == len(whole) else None


class Formulas:
    """What is known by heart of one upstream. `constants` are JSON, an answer's id the first."""

    __slots__ = ("_finishes", "_opening", "_tries", "_usage", "usages")

    def __init__(self) -> None:
        self._opening: Cut | None = None
        self._tries = _OPENINGS
        self._finishes: dict[Cut, Chunk] = {}
        self._usage: tuple[Cut, bytes] | None = None  # what stands before and behind it
        self.usages = _USAGES  # events that may still be learnt from

    def begin(self, event: bytes) -> tuple[bytes, ...] | None:
        """The constants of an answer that begins with `event` as others have begun: by saying
        nothing."""
        marks = self._opening.marks(event) if self._opening is not None else None
        if marks is None or (len(marks) > 1 and not marks[1].isdigit()):
            return None  # a second one is when the answer was begun
        self._tries = _OPENINGS
        return marks

    def finish(self, event: bytes, constants: tuple[bytes, ...]) -> Chunk | None:
        """The chunk of an event that ends an answer with these constants as others have ended."""
        size = len(event) - sum(map(len, constants))
        for cut, chunk in self._finishes.items():
            if cut.size == size and cut.filled(constants) == event:
                return chunk
        return None

    def usage(self, event: bytes, constants: tuple[bytes, ...]) -> bytes | None:
        """What stands in an event in the place of a usage, where nothing else is said in it."""
        if self._usage is None:
            return None
        before, after = self._usage[0].filled(constants), self._usage[1]
        if before is None or not (event.startswith(before) and event.endswith(after)):
            return None
        said = event[len(before) : len(event) - len(after)]
        return None if b"\n" in said or b"\r" in said else said  # of an event that is one line

    def note_opening(self, event: bytes, constants: tuple[bytes, ...], chunk: Chunk) -> None:
        """The first event of an answer, and its chunk."""
        if not self._tries or len(event) > _LONGEST:
            return
        self._tries -= 1
        choice = ChoiceState(0)
        if not _mended(choice, chunk) and not choice.begun:
            self._opening = Cut.of(event, constants)

    def note_finish(self, event: bytes, constants: tuple[bytes, ...], chunk: Chunk) -> None:
        """An event with a finish, and its chunk."""
        index = chunk.choices[0].index
        if len(self._finishes) >= _FINISHES or len(event) > _LONGEST or not isinstance(index, int):
            return
        choice = ChoiceState(index)
        choice.begun = True
        members = _mended(choice, chunk)
        cut = Cut.of(event, constants)
        if cut is None or len(members) != 1 or members[0]["delta"]:
            return
        raw = encoded(members)
        # What would be said of the next answer must not be this one's.
        if not any(each in raw or each in chunk.extras for each in constants):
            self._finishes[cut] = Chunk([], raw, extras=chunk.extras, ends=index)

    def note_usage(self, event: bytes, usage: bytes, constants: tuple[bytes, ...]) -> None:
        """An event that says a usage, and nothing else. `usage`: the JSON of it in there."""
        self.usages -= 1
        if len(event) > _LONGEST or event.count(usage) != 1:
            return
        before, _, after = event.partition(usage)
        cut = Cut.of(before, constants)
        if cut is not None:
            self._usage = cut, after


def _mended(choice: ChoiceState, chunk: Chunk) -> list[dict[str, Any]]:
    """What goes out of a chunk's one choice. Nothing, where that is a failure: the stream tells."""
    try:
        return choice.mend(chunk.members()[0])
    except ApiError:
        choice.begun = True
        return []
