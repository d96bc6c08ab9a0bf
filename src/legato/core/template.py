"""What is the same in one event after another of a stream: learnt once, then only compared.

Nearly all that differs between the chunks of an answer is the text. Of an event that begins and
ends like one that was decoded, only the text between has to be looked at; where that is plain (no
escape, no quote, nothing that ends a line), the event is the same JSON with another string in it.

What is compared is a block: the lines of one event, without the blank one behind them.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import UNSET

from legato.core.chunk import Choice, Chunk
from legato.core.lines import one_line

#: Stands where the text will, while a template is tried. Nobody writes this.
_PROBE: Final = b"~legato: text~"

#: The text of no chunk.
_NOTHING: Final[list[Choice]] = []

#: Events before it is worth while to learn of one: a short answer does not pay.
_FIRST: Final = 8

#: Events that may be learnt of for each so many that were then read by what had been learnt.
_TRIES: Final = 4


class Template:
    """`match` gives the chunk of an event, or None where it has to be decoded after all."""

    __slots__ = (
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

    def __init__(self) -> None:
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
        middle = block[len(head) : len(block) - len(tail)]
        try:
            text = middle.decode()
        except UnicodeDecodeError:
            return None
        if not text.isprintable() or '"' in text or "\\" in text:
            return None
        self._hits += 1
        before, after = self.raw
        raw = b"%b%b%b" % (before, middle, after)
        return Chunk(_NOTHING, raw, None, self.extras, None, self.plain, text, self.thinks)

    def learn(self, block: bytes, chunk: Chunk, read: Callable[[bytes], Chunk | None]) -> None:
        """Learns from an event and its chunk. `read` gives the chunk of a block."""
        self._seen += 1
        if self._seen < _FIRST:
            return
        text = _only_text(chunk)
        if text is None or self._learnt >= _TRIES + self._hits // _TRIES:
            return
        self._learnt += 1
        quoted = b'"%b"' % text.encode()
        if block.count(quoted) != 1 or _PROBE in block or b"\r" in block:
            return
        head, _, tail = block.partition(quoted)
        probe = read(b'%b"%b"%b' % (head, _PROBE, tail))
        if probe is None or _only_text(probe) != _PROBE.decode() or probe.extras != chunk.extras:
            return
        raw = one_line(probe.raw or msgspec.json.encode(probe.choices))
        before, found, after = raw.partition(_PROBE)
        choice = probe.choices[0]
        if not found or not isinstance(choice.index, int):
            return
        self.head, self.tail = head + b'"', b'"' + tail
        self._size = len(self.head) + len(self.tail)
        self.raw = (before, after)
        self.extras = probe.extras
        self.plain = choice.index
        self.thinks = choice.delta is not None and choice.delta.content is UNSET


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
    if len(said) != 1 or any(value is not UNSET for value in rest):
        return None
    text = said[0]
    plain = text.isprintable() and '"' not in text and "\\" not in text
    return text if text and plain else None
