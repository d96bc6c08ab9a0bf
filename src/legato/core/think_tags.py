"""`<think>…</think>` in a model's text, told apart while it streams.

Only where a deployment says that its model writes it. Constant work a piece of text; what is held
back is at most the beginning of a tag, and white space before the first one.
"""

from enum import Enum
from typing import Any, Final, Literal

import msgspec

from legato.core.chunk import Chunk, as_object
from legato.core.json_text import encoded
from legato.core.normalize import ChoiceState
from legato.fastpath.through import Through

OPEN: Final = "<think>"
CLOSE: Final = "</think>"

#: Characters of white space, before a tag could open, after which none is expected any more.
_BLANK: Final = 256

#: Stands for a text, where only what is around it is wanted.
_PROBE: Final = b"~text~"


class _At(Enum):
    START = "start"  # nothing but white space has come: a tag may open
    THINKING = "thinking"
    ANSWER = "answer"  # for good: a tag in the answer's own text is text


class Splitter:
    """The text of one choice. `feed` gives (reasoning, answer), either of them possibly empty."""

    __slots__ = ("_at", "_held", "_trim")

    def __init__(self, *, opened: bool = False) -> None:
        """`opened`: the prompt has opened the tag, and the text begins inside."""
        self._at = _At.THINKING if opened else _At.START
        self._held = ""
        self._trim = opened  # white space next to a tag belongs to the tag

    def feed(self, text: str) -> tuple[str, str]:
        text = self._held + text
        self._held = ""
        reasoning = ""
        if self._at is _At.START:
            start = text.lstrip()
            if start.startswith(OPEN):
                self._at, self._trim = _At.THINKING, True
                text = start[len(OPEN) :]
            elif OPEN.startswith(start) and len(text) <= _BLANK:
                self._held = text
                return "", ""
            else:
                self._at = _At.ANSWER
        if self._at is _At.THINKING:
            thought, closed, rest = text.partition(CLOSE)
            if not closed:
                keep = _begins(thought)
                if keep:
                    thought, self._held = thought[:-keep], thought[-keep:]
                return self._trimmed(thought), ""
            reasoning = self._trimmed(thought)
            self._at, self._trim = _At.ANSWER, True
            text = rest
        return reasoning, self._trimmed(text)

    @property
    def passes(self) -> Literal["thoughts", "answer"] | None:
        """As what the next text without a `<` goes through as it is; None where it may not."""
        if self._held or self._trim or self._at is _At.START:
            return None
        return "thoughts" if self._at is _At.THINKING else "answer"

    def close(self) -> tuple[str, str]:
        """What was held back, at the end: no tag after all."""
        held, self._held = self._held, ""
        return (held, "") if self._at is _At.THINKING else ("", held)

    def _trimmed(self, text: str) -> str:
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        return text


def _begins(text: str) -> int:
    """How many characters at the end of `text` may be the beginning of a closing tag."""
    for size in range(min(len(CLOSE) - 1, len(text)), 0, -1):
        if CLOSE.startswith(text[-size:]):
            return size
    return 0


class Thinking:
    """Chunks in which reasoning is marked as such, of chunks in which it stands between tags."""

    __slots__ = ("_opened", "_splitters")

    def __init__(self, *, opened: bool = False) -> None:
        self._opened = opened
        self._splitters: dict[int, Splitter] = {}

    def split(self, chunk: Chunk) -> Chunk:
        """The same chunk with `content` told apart; a finish brings out what was held back."""
        if chunk.plain >= 0 and not chunk.thinks:
            return self._plain(chunk)
        members = [self._member(dict(member)) for member in chunk.members()]
        return Chunk([], usage=chunk.usage, extras=chunk.extras, fields=members)

    def rest(self, through: Through, index: int) -> Through | None:
        """In the middle of thoughts, and behind them, texts need not be looked at."""
        splitter = self._splitters.get(index)
        if splitter is None or through.thinks or splitter.passes is None:
            return None
        if splitter.passes == "answer":
            return through
        raw = _as_thoughts(through.raw, index)
        return None if raw is None else Through(raw, True, CLOSE[0])

    def _plain(self, chunk: Chunk) -> Chunk:
        reasoning, answer = self._splitter(chunk.plain).feed(chunk.text)
        if answer == chunk.text:
            return chunk
        members = [_told_apart(dict(member), reasoning, answer) for member in chunk.members()]
        return Chunk([], extras=chunk.extras, fields=members)

    def _splitter(self, index: int) -> Splitter:
        splitter = self._splitters.get(index)
        if splitter is None:
            splitter = self._splitters[index] = Splitter(opened=self._opened)
        return splitter

    def _member(self, member: dict[str, Any]) -> dict[str, Any]:
        index = member.get("index") or 0
        splitter = self._splitter(index)
        content = (as_object(member.get("delta")) or {}).get("content")
        reasoning, answer = splitter.feed(content) if isinstance(content, str) else ("", "")
        if member.get("finish_reason") is not None:
            more = splitter.close()
            reasoning, answer = reasoning + more[0], answer + more[1]
        return _told_apart(member, reasoning, answer)


def _told_apart(member: dict[str, Any], reasoning: str, answer: str) -> dict[str, Any]:
    """A choice with these in place of its content."""
    delta = dict(as_object(member.get("delta")) or {})
    delta.pop("content", None)
    if reasoning:
        delta["reasoning_content"] = (delta.get("reasoning_content") or "") + reasoning
    if answer:
        delta["content"] = answer
    return member | {"delta": delta}


def _as_thoughts(raw: tuple[bytes, bytes], index: int) -> tuple[bytes, bytes] | None:
    """JSON around the text of a choice, for the same text as reasoning."""
    members = msgspec.json.decode(_PROBE.join(raw), type=list[dict[str, Any]])
    mended = ChoiceState(index).mend(_told_apart(members[0], _PROBE.decode(), ""))
    before, found, after = encoded(mended).partition(_PROBE)
    return (before, after) if found and len(mended) == 1 else None
