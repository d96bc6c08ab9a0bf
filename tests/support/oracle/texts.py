"""Draws of chance, and the texts of generated answers, each as the JSON string that a server
writes."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any, Final, TypeVar

T = TypeVar("T")


class Draw:
    """Draws from one source of chance."""

    __slots__ = ("number", "source")

    def __init__(self, source: Random) -> None:
        self.source = source
        self.number = source.random  # 0 to 1

    def pick(self, among: Sequence[T]) -> T:
        return among[int(self.number() * len(among))]

    def chance(self, share: float) -> bool:
        return self.number() < share

    def between(self, least: int, most: int) -> int:
        return least + int(self.number() * (most - least + 1))


_WORDS: Final = (
    *("the", " quick", " brown", " fox", " jumps", " over", "Hello", " world", ".", ",", "!", " a"),
    *(" of", " to", "\n", "\n\n", " 42", "ing", " I", "'m", " (", ")", "```", "python", " 0", "é"),
    *(
        " naïve",
        "東京",
        "ž",
        " кот",
        "🐎",
        "👩‍🚀",
        '"',
        "\\",
        "\t",
        " <",
        ">",
        "</",
        "{",
        "}",
        "[",
        "]",
    ),
)

#: Texts that look like something else: markers, frames, JSON, HTTP, what a fast path might try.
_LOOKALIKES: Final = (
    "[DONE]",
    "data: [DONE]\n\n",
    'data: {"choices":[]}\n\n',
    "\r\n0\r\n\r\n",
    "2a\r\n",
    "\n\n",
    "\r\n",
    '"}}],"x":[{"',
    '"},"finish_reason":"stop"}]}',
    '","role":"assistant',
    "content",
    "null",
    "stop",
    "m",
    "theirs",
    "assistant",
    "chatcmpl-1",
    "chat.completion.chunk",
    "~legato: text~",
    ": keep-alive",
    "event: error\n",
    "\ufeff",
    "\ufeffdata: ",
    "%",
    "%b",
    "%s{}",
)

#: White space and what Unicode takes for the end of a line.
_SEPARATORS: Final = ("\u2028", "\u2029", "\x85", "a\u2028b", "\x0b", "\x0c", "\x1c", "\u200b")

#: JSON strings that no text is the source of: unusual escapes, halves of surrogate pairs, and what
#: is no JSON string at all.
_STRINGS: Final = (
    rb'"\u0041"',
    rb'"\u00e9t\u00e9"',
    rb'"a\/b"',
    rb'"\b\f"',
    rb'"\u0000"',
    rb'"\ud83d\ude00"',
    rb'"\uD83D\uDE00"',
    rb'"\u2028"',
    rb'"\u0085"',
    rb'"\ud83d"',
    rb'"\ude00"',
    rb'"hi \ud83d"',
    rb'"\ude00 ho"',
    rb'"\\ud83d"',
    b'"\x7f"',
    b'"\xc2\x85"',
    b'"\xef\xbf\xbd"',
    b'"\xef\xbb\xbf"',
)
_NO_STRINGS: Final = (
    b'"a\tb"',
    b'"a\nb"',
    b'"a\rb"',
    b'"\x00"',
    b'"\xc3"',
    b'"\xed\xa0\xbd"',
    b'"\xff"',
    rb'"\q"',
    rb'"\u12"',
    b'"open',
    b'"a"b"',
    b"'a'",
    b"a",
    b"7",
    b"true",
    b"NaN",
    b'["a"]',
    b'{"text":"a"}',
    b'[{"type":"text","text":"part"}]',
    b'[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"x"}]',
)

_encode_ascii: Final = json.JSONEncoder(ensure_ascii=True).encode
_encode_plain: Final = json.JSONEncoder(ensure_ascii=False).encode


def encoder(draw: Draw) -> Any:
    """How a server writes text: all of it in ASCII, or as it is."""
    encode = _encode_ascii if draw.chance(0.3) else _encode_plain
    return lambda text: encode(text).encode()


def word(draw: Draw) -> str:
    """Text as a model writes it."""
    return _WORDS[int(draw.number() * len(_WORDS))]


def odd_string(draw: Draw, encode: Any) -> bytes:
    """A JSON string that is seldom in an answer, and all the more easily read wrongly."""
    place = draw.number()
    if place < 0.3:
        return encode(draw.pick(_LOOKALIKES))
    if place < 0.4:
        return encode(draw.pick(_SEPARATORS)) if draw.chance(0.5) else _raw(draw.pick(_SEPARATORS))
    if place < 0.65:
        return draw.pick(_STRINGS)
    if place < 0.75:
        return b'""'
    if place < 0.8:
        return encode(word(draw) * draw.between(20, 400))
    if place < 0.803:
        return encode(word(draw) * draw.between(2000, 9000))
    if place < 0.95:
        return encode("".join(word(draw) for _ in range(draw.between(2, 30))))
    return draw.pick(_NO_STRINGS)


def _raw(text: str) -> bytes:
    return b'"%b"' % text.encode()


def thoughts_between_tags(draw: Draw, thoughts: list[str], opened: bool) -> list[str]:
    """Thoughts with their tags around them, in pieces cut anywhere."""
    text = ("" if opened else "<think>") + "".join(thoughts)
    text += draw.pick(("</think>", "</think>", "</think>\n\n", " </think>", "</thin", "</think"))
    if draw.chance(0.1):
        text = draw.pick((" ", "\n", "<", "<<think>", "x")) + text
    pieces: list[str] = []
    while text:
        size = draw.between(1, 9)
        pieces.append(text[:size])
        text = text[size:]
    return pieces
