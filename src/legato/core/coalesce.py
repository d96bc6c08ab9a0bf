"""What a client has not been able to take yet: its deltas merged, so that it costs its text.

No token is dropped. A client that catches up gets one larger chunk instead of a thousand small
ones.
"""

from typing import Any

from legato.core.chunk import Chunk
from legato.core.json_text import encoded
from legato.core.merge import TextBuffer, merge_choice, to_builtins


class Coalescer:
    """Chunks of one stream, waiting. `size`: bytes of what came in, more than what it holds."""

    __slots__ = ("_choices", "_extras", "_finishes", "_texts", "size")

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, Any]] = {}
        self._finishes: list[dict[str, Any]] = []
        self._texts: dict[tuple[int, bool], TextBuffer] = {}  # of `_choices`: where plain text goes
        self._extras = b""
        self.size = 0

    def add(self, chunk: Chunk) -> None:
        self._extras = chunk.extras
        self.size += len(chunk.raw or b"")
        text = self._texts.get((chunk.plain, chunk.thinks))
        if text is not None and chunk.raw is not None and b'"logprobs":{' not in chunk.raw:
            text.append(chunk.text)
            return
        for member in chunk.members():
            if member.get("finish_reason") is not None:
                self._finishes.append(member)
            else:
                merge_choice(self._choices.setdefault(member["index"], {}), member)
        if chunk.plain in self._choices:
            name = "reasoning_content" if chunk.thinks else "content"
            text = self._choices[chunk.plain]["delta"].get(name)
            if isinstance(text, TextBuffer):
                self._texts[chunk.plain, chunk.thinks] = text

    def take(self) -> list[Chunk]:
        """All of it in as few chunks as are legal: a delta a choice, then the finishes."""
        choices = self._choices
        merged = [
            each for index in sorted(choices) for each in _in_order(to_builtins(choices[index]))
        ]
        chunks = [
            Chunk([], encoded([member]), extras=self._extras, fields=[member])
            for member in (*merged, *self._finishes)
        ]
        self._choices.clear()
        self._texts.clear()
        self._finishes.clear()
        self.size = 0
        return chunks


def _in_order(member: dict[str, Any]) -> list[dict[str, Any]]:
    """Thoughts in front of what they led to."""
    delta = member["delta"]
    first = {name: delta[name] for name in ("role", "reasoning_content") if name in delta}
    rest = {name: said for name, said in delta.items() if name not in first and said}
    if "reasoning_content" not in first or not rest:
        return [member]
    alone = {"index": member["index"], "delta": first, "finish_reason": None}
    return [alone, member | {"delta": rest}]
