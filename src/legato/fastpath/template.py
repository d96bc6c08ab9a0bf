"""What is the same in one event after another of a stream: learnt once, then only compared.

Nearly all that differs between the chunks of an answer is the text. Of an event that begins and
ends like one that was decoded, only the text between has to be looked at; where that is plain (no
escape, no quote, nothing that ends a line), the event is the same JSON with another string in it.

What is compared is a block: the lines of one event, without the blank one behind them.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import UNSET, Struct

from legato.core.chunk import Choice, Chunk
from legato.core.json_text import one_line, text_of
from legato.fastpath.formula import Cut, Formulas

#: Stands where the text will, while a template is tried. Nobody writes this.
_PROBE: Final = b"~legato: text~"

#: What a delta of plain text has of anything else.
_NONE: Final = (UNSET,) * 5

#: The text of no chunk.
_NOTHING: Final[list[Choice]] = []

#: Events before it is worth while to learn of one where earlier answers were no help.
_FIRST: Final = 8

#: Events that may be learnt of for each so many that were then read by what had been learnt.
_TRIES: Final = 4

#: Shapes that are kept of one upstream.
_SHAPES: Final = 8


class Shape(Struct, frozen=True, gc=False):
    """What was learnt of one answer, without what is another in each: its id, its time."""

    cut: Cut  # the text is its last mark
    head: Cut | None  # what stands before the text, where all the rest is the same in each answer
    tail: bytes
    raw: tuple[bytes, bytes]
    extras: bytes

    @classmethod
    def of(cls, template: "Template", constants: tuple[bytes, ...]) -> "Shape | None":
        kept = b"\n".join((*template.raw, template.extras))
        if any(constant in kept for constant in constants):
            return None  # what would be said of the next answer is this one's
        whole = b"%b%b%b" % (template.head, _PROBE, template.tail)
        cut = Cut.of(whole, (*constants, _PROBE))
        if cut is None:
            return None
        head = Cut.of(template.head, constants)
        return cls(cut, head, template.tail, template.raw, template.extras)

    def around(self, constants: tuple[bytes, ...]) -> tuple[bytes, bytes] | None:
        """What comes before and after the text in an answer with these constants."""
        if self.head is not None:
            before = self.head.filled(constants)
            return None if before is None else (before, self.tail)
        whole = self.cut.filled((*constants, _PROBE))
        around = whole.split(_PROBE) if whole is not None else ()
        return (around[0], around[1]) if len(around) == 2 else None


class Habit:
    """How an upstream writes: the shapes of its events, for one answer after the other."""

    __slots__ = ("_shapes", "first", "formulas")

    def __init__(self) -> None:
        self.formulas = Formulas()
        self._shapes: dict[tuple[int, bool], Shape] = {}
        #: Of which choice the first text of an answer is, and whether it thinks.
        self.first: tuple[int, bool] = (0, False)

    def get(self, index: int, thinks: bool) -> Shape | None:
        """The last shape of events with text, or with thoughts, of a choice."""
        return self._shapes.get((index, thinks))

    def note(self, template: "Template", constants: tuple[bytes, ...]) -> None:
        key = (template.plain, template.thinks)
        if key not in self._shapes and len(self._shapes) >= _SHAPES:
            return
        shape = Shape.of(template, constants)
        if shape is not None:
            self._shapes[key] = shape


class Template:
    """`match` gives the chunk of an event, or None where it has to be decoded after all."""

    __slots__ = (
        "_habit",
        "_hits",
        "_learnt",
        "_seen",
        "_size",
        "extras",
        "head",
        "plain",
        "raw",
        "tail",
        "thinks",
    )

    def __init__(self, habit: Habit) -> None:
        self._habit = habit
        self.head = b"\xff"  # begins no JSON
        self.tail = b""
        self._size = 0
        self.raw = (b"", b"")
        self.extras = b""
        self.plain = -1
        self.thinks = False
        self._hits = 0
        self._learnt = 0
        self._seen = 0

    def match(self, block: bytes) -> Chunk | None:
        head, tail = self.head, self.tail
        if not (block.startswith(head) and block.endswith(tail)) or len(block) <= self._size:
            return None
        quoted = block[len(head) - 1 : len(block) - len(tail) + 1]
        text = text_of(quoted)
        if text is None:
            return None
        self._hits += 1
        before, after = self.raw
        raw = b"%b%b%b" % (before, quoted[1:-1], after)
        return Chunk(_NOTHING, raw, None, self.extras, None, self.plain, text, self.thinks)

    def expect(self, constants: tuple[bytes, ...]) -> None:
        """An answer with these constants has begun: its first text may be as that of the last."""
        index, thinks = self._habit.first
        shape = self._habit.get(index, thinks)
        around = shape.around(constants) if shape is not None else None
        if shape is not None and around is not None:
            self._set(around, shape.raw, shape.extras, index, thinks)

    def learn(
        self,
        block: bytes,
        chunk: Chunk,
        constants: tuple[bytes, ...],
        read: Callable[[bytes], Chunk | None],
    ) -> bool:
        """Learns from an event and its chunk; whether this template has it now.

        `constants`: JSON of the event that is the same in all of this answer, and another in the
        next one. `read` gives the chunk of a block."""
        text = _only_text(chunk)
        if text is None or self._learnt >= _TRIES + self._hits // _TRIES:
            return False
        choice = chunk.choices[0]
        index, thinks = choice.index, choice.delta is not None and choice.delta.content is UNSET
        assert isinstance(index, int)
        if not self._learnt and not self._hits:
            self._habit.first = (index, thinks)
        shape = self._habit.get(index, thinks)
        if shape is not None:
            around = shape.around(constants)
            if around is not None and block == b"%b%b%b" % (around[0], text.encode(), around[1]):
                self._learnt += 1
                self._set(around, shape.raw, shape.extras, index, thinks)
                return True
            self._seen += 1
            if self._seen < _FIRST:
                return False
        return self._try(block, chunk, text, constants, read)

    def _try(
        self,
        block: bytes,
        chunk: Chunk,
        text: str,
        constants: tuple[bytes, ...],
        read: Callable[[bytes], Chunk | None],
    ) -> bool:
        """Whether the event is still the same with another text in it."""
        self._learnt += 1
        quoted = b'"%b"' % text.encode()
        if block.count(quoted) != 1 or _PROBE in block or b"\r" in block:
            return False
        head, _, tail = block.partition(quoted)
        probe = read(b'%b"%b"%b' % (head, _PROBE, tail))
        if probe is None or _only_text(probe) != _PROBE.decode() or probe.extras != chunk.extras:
            return False
        raw = one_line(probe.raw or msgspec.json.encode(probe.choices))
        before, found, after = raw.partition(_PROBE)
        choice = probe.choices[0]
        if not found or not isinstance(choice.index, int):
            return False
        thinks = choice.delta is not None and choice.delta.content is UNSET
        around = (head + b'"', b'"' + tail)
        self._set(around, (before, after), probe.extras, choice.index, thinks)
        self._habit.note(self, constants)
        return True

    def _set(
        self,
        around: tuple[bytes, bytes],
        raw: tuple[bytes, bytes],
        extras: bytes,
        index: int,
        thinks: bool,
    ) -> None:
        self.head, self.tail = around
        self._size = len(self.head) + len(self.tail)
        self.raw = raw
        self.extras = extras
        self.plain = index
        self.thinks = thinks


def _only_text(chunk: Chunk) -> str | None:
    """The text of a chunk that adds plain text to one choice, and nothing else; else None."""
    if len(chunk.choices) != 1 or chunk.usage is not None:
        return None
    choice = chunk.choices[0]
    delta = choice.delta
    if delta is None or choice.finish_reason is not None or not isinstance(choice.index, int):
        return None
    said = [
        value
        for value in (delta.content, delta.reasoning_content)
        if value is not UNSET and value is not None
    ]
    rest = (delta.role, delta.reasoning, delta.refusal, delta.tool_calls, delta.function_call)
    if len(said) != 1 or rest != _NONE:
        return None
    text = said[0]
    plain = text.isprintable() and '"' not in text and "\\" not in text
    return text if text and plain else None
