"""Coalesces the chunks that a slow client has not taken yet, so that they cost only their text.

No token is dropped. A client that catches up gets one larger chunk in place of a thousand small
ones.
"""

from typing import Any

from legato.core.chunk import Chunk, Usage
from legato.core.json_text import encoded
from legato.core.merge import TextBuffer, merge_choice, to_builtins


class Coalescer:
    """Chunks of one stream that wait. `size`: bytes that came in, more than what is held."""

    __slots__ = ("_choices", "_extras", "_finishes", "_texts", "_usage_so_far", "size")

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, Any]] = {}
        self._finishes: list[dict[str, Any]] = []
        self._texts: dict[tuple[int, bool], TextBuffer] = {}  # inside `_choices`
        self._extras = b""
        self._usage_so_far: Usage | None = None
        self.size = 0

    def add(self, chunk: Chunk) -> None:
        self._extras = chunk.extras
        self._usage_so_far = chunk.usage_so_far
        self.size += len(chunk.raw or b"")
        text = self._texts.get((chunk.text_choice, chunk.is_reasoning))
        if text is not None:
            text.append(chunk.text)
            return
        for member in chunk.members():
            if member.get("finish_reason") is not None:
                self._finishes.append(member)
            else:
                merge_choice(self._choices.setdefault(member["index"], {}), member)
        if chunk.text_choice in self._choices:
            name = "reasoning_content" if chunk.is_reasoning else "content"
            text = self._choices[chunk.text_choice]["delta"].get(name)
            if isinstance(text, TextBuffer):
                self._texts[chunk.text_choice, chunk.is_reasoning] = text

    def take(self) -> list[Chunk]:
        """All of it in as few chunks as are legal: one delta per choice, then the finishes."""
        choices = self._choices
        merged = [
            member for index in sorted(choices) for member in _in_order(to_builtins(choices[index]))
        ]
        chunks = [
            Chunk(
                [],
                encoded([member]),
                extras=self._extras,
                fields=[member],
                usage_so_far=self._usage_so_far,
            )
            for member in (*merged, *self._finishes)
        ]
        self._choices.clear()
        self._texts.clear()
        self._finishes.clear()
        self.size = 0
        return chunks


def _in_order(member: dict[str, Any]) -> list[dict[str, Any]]:
    """Reasoning in front of what it led to."""
    delta = member["delta"]
    first = {name: delta[name] for name in ("role", "reasoning_content") if name in delta}
    rest = {name: value for name, value in delta.items() if name not in first and value}
    if "reasoning_content" not in first or not rest:
        return [member]
    alone = {"index": member["index"], "delta": first, "finish_reason": None}
    return [alone, member | {"delta": rest}]
