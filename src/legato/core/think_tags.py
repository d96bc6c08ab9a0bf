"""Chunk transforms for `<think>…</think>` in a model's text, split while it streams.

Constant work for each piece of text. What is held back is at most the beginning of a tag, and white
space before the first one.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Protocol

from legato.core.chunk import Chunk, as_object

OPEN: Final = "<think>"
CLOSE: Final = "</think>"

#: Characters of white space after which no opening tag is expected any more.
_BLANK: Final = 256


class _At(Enum):
    START = "start"  # nothing but white space has come: a tag may open
    REASONING = "reasoning"
    ANSWER = "answer"  # no tag opens any more


class Splitter(Protocol):
    """Splits the text of one choice. Both methods give (reasoning, answer)."""

    def feed(self, text: str) -> tuple[str, str]: ...

    def close(self) -> tuple[str, str]:
        """What was held back, at the end of the text."""
        ...


class TagSplitter:
    """Splits text whose reasoning stands between tags. A closing tag that the model writes again,
    after its reasoning, is dropped."""

    __slots__ = ("_at", "_has_reasoned", "_held", "_trim")

    def __init__(self, *, opened: bool = False) -> None:
        """`opened`: the prompt contains the opening tag, and the text begins inside."""
        self._at = _At.REASONING if opened else _At.START
        self._held: str = ""
        self._trim = opened  # white space next to a tag belongs to the tag
        self._has_reasoned = False  # a closing tag has come

    def feed(self, text: str) -> tuple[str, str]:
        if self._at is _At.ANSWER and not self._has_reasoned:
            return "", text
        text, self._held = self._held + text, ""
        reasoning = ""
        if self._at is _At.START:
            start = text.lstrip()
            if start.startswith(OPEN):
                self._at, self._trim = _At.REASONING, True
                text = start[len(OPEN) :]
            elif OPEN.startswith(start) and len(text) <= _BLANK:
                self._held = text
                return "", ""
            else:
                self._at = _At.ANSWER
                return "", text
        if self._at is _At.REASONING:
            thought, closed, text = text.partition(CLOSE)
            if not closed:
                thought, self._held = _without_partial_tag(thought)
                return self._trimmed(thought), ""
            reasoning = self._trimmed(thought)
            self._at, self._trim, self._has_reasoned = _At.ANSWER, True, True
        text, self._held = _without_partial_tag(text.replace(CLOSE, ""))
        return reasoning, self._trimmed(text)

    def close(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        return (held, "") if self._at is _At.REASONING else ("", held)

    def _trimmed(self, text: str) -> str:
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        return text


class ClosingTagFilter:
    """Drops closing tags from text whose reasoning is in a member of its own: small models write
    them again after their reasoning."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        text, self._held = _without_partial_tag((self._held + text).replace(CLOSE, ""))
        return "", text

    def close(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        return "", held


def _without_partial_tag(text: str) -> tuple[str, str]:
    """(`text` without what may be the beginning of a closing tag at its end, that beginning)."""
    for size in range(min(len(CLOSE) - 1, len(text)), 0, -1):
        if CLOSE.startswith(text[-size:]):
            return text[:-size], text[-size:]
    return text, ""


class ThinkTags:
    """A chunk transform: `content` split into `reasoning_content` and `content`."""

    __slots__ = ("_new", "_splitters")

    def __init__(self, new: Callable[[], Splitter] = TagSplitter) -> None:
        """`new` makes the splitter of each choice."""
        self._new = new
        self._splitters: dict[int, Splitter] = {}

    def passes(self, index: int) -> bool:
        """Whether no later chunk of the choice is changed: any text may hold a tag."""
        return False

    def transform(self, chunk: Chunk) -> Chunk:
        """The chunk with its content split; a finish brings out what was held back."""
        members = [self._member(dict(member)) for member in chunk.members()]
        return Chunk([], usage=chunk.usage, extras=chunk.extras, fields=members)

    def _member(self, member: dict[str, Any]) -> dict[str, Any]:
        index = member.get("index") or 0
        splitter = self._splitters.get(index)
        if splitter is None:
            splitter = self._splitters[index] = self._new()
        content = (as_object(member.get("delta")) or {}).get("content")
        reasoning, answer = splitter.feed(content) if isinstance(content, str) else ("", "")
        if member.get("finish_reason") is not None:
            more = splitter.close()
            reasoning, answer = reasoning + more[0], answer + more[1]
        return _with_texts(member, reasoning, answer)


def _with_texts(member: dict[str, Any], reasoning: str, answer: str) -> dict[str, Any]:
    """The choice with these texts in place of its content."""
    delta = dict(as_object(member.get("delta")) or {})
    delta.pop("content", None)
    if reasoning:
        delta["reasoning_content"] = (delta.get("reasoning_content") or "") + reasoning
    if answer:
        delta["content"] = answer
    return member | {"delta": delta}
