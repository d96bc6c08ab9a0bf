"""The upstream's answers, in any of `upstream_formats`.

Every answer has its own id, `created` time and fingerprint, and every content chunk its own text.
Templates are split at the text once an answer, so that a chunk costs the upstream little CPU: it
shares a core with the clients that are measured.
"""

import random
import string
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

#: Events (templates) that are written as one HTTP chunk, and several such chunks.
Events = tuple[bytes, ...]
Values = dict[bytes, bytes]

#: Text of content chunks, as it stands between JSON's quotes: tokens of several lengths, some with
#: escapes, some with several bytes a character. Used in turn. No "@": it marks the time.
TOKENS: Final = tuple(
    token.encode()
    for token in (
        *(" the", " relay", " passes", " each", " chunk", " on", " as", " soon", " as", " it"),
        *(" arrives", ".", " A", " café", " in", " Zürich", ",", " for", " example", ":"),
        *("\\n\\n", "-", " **", "first", "**", " token", " latency", "\\n", "-", " through", "put"),
        *("\\n\\n", "He", " answers", ' \\"', "yes", '\\"', " and", " leaves", " at", " 17", ":"),
        *("30", "。", "你好", "、", "世界", " 🙂", " int", "eroper", "ability", " C", ":\\\\"),
        *("temp", " requires", " careful", " measurement", " —", " of", " every", " single"),
        *(" step", "!"),
    )
)

#: Bytes of a time stamp: "@", nanoseconds in 19 digits, "@".
STAMP_BYTES: Final = 21

_TEXT: Final = b"%(text)b"
_ALPHANUMERIC: Final = string.ascii_letters + string.digits
RANDOM: Final = random.Random(1)
#: A prime number of them, so that a token is not always followed by as many.
_SPACES: Final = tuple(b" " * RANDOM.randrange(16) for _ in range(61))


class Format(Struct, frozen=True, kw_only=True):
    """How one server writes an answer. `%(name)b` in a template is a value of the answer.

    `head`: the HTTP head. `opening`: what is sent with it, in HTTP chunks. `role`: what precedes
    the first content; `joins_role`: in one HTTP chunk with it. `content`: the event of a text,
    which stands at `%(text)b`. `end`: what follows the last content. `values`: makes an answer's
    values from the time in seconds; `created` and the token counts are added. `created_per_chunk`:
    `created` is the time of the chunk, not of the answer. `pads`: up to 15 spaces stand before the
    last brace of a content event, as many as chance has it.
    """

    name: str
    head: bytes
    opening: tuple[Events, ...] = ()
    role: bytes = b""
    joins_role: bool = False
    content: bytes
    end: tuple[Events, ...]
    values: Callable[[int], Values]
    created_per_chunk: bool = False
    pads: bool = False
    tokens: tuple[bytes, ...] = TOKENS

    @property
    def text_bytes(self) -> float:
        """Bytes of text in a content chunk, on average, with its time stamp."""
        return STAMP_BYTES + sum(map(len, self.tokens)) / len(self.tokens)


class Answer:
    """The bytes of one answer with `chunks` content chunks.

    `thinks`: the first half of the text is between think tags, each split over two chunks.
    """

    __slots__ = (
        "_afters",
        "_before",
        "_chunks",
        "_number",
        "_second",
        "_thinks",
        "_tokens",
        "_values",
        "format",
    )

    def __init__(self, style: Format, number: int, chunks: int, *, thinks: bool = False) -> None:
        """`number`: of the answer; it chooses where in its tokens the text begins."""
        self.format = style
        self._number = number
        self._chunks = chunks
        self._thinks = thinks
        self._tokens = style.tokens
        now = int(time.time())
        self._values = style.values(now) | {
            b"date": _http_date(now),
            b"completion": b"%d" % chunks,
            b"total": b"%d" % (chunks + 9),
        }
        self._set_created(now)

    def opening(self) -> bytes:
        """The HTTP head and what is sent with it."""
        return self.format.head % self._values + self._http_chunks(self.format.opening)

    def content(self, at: int, now: int) -> bytes:
        """Content chunk `at`, from 0, sent at `now` (monotonic nanoseconds), in its HTTP chunk."""
        if self.format.created_per_chunk and now // 1_000_000_000 != self._second:
            self._set_created(int(time.time()))
        if at == 0 or self._thinks:
            return self._first_or_tagged(at, now)
        token = self._tokens[(at + self._number) % len(self._tokens)]
        before, after = self._before, self._afters[(at + self._number) % len(self._afters)]
        size = len(before) + STAMP_BYTES + len(token) + len(after)
        return b"%x\r\n%b@%019d@%b%b\r\n" % (size, before, now, token, after)

    def end(self) -> bytes:
        """What follows the last content chunk, with the end of the HTTP body."""
        return self._http_chunks(self.format.end) + b"0\r\n\r\n"

    def prepared(self, number: int) -> list[bytes]:
        """So many different content chunks, which carry a number in place of the time."""
        return [self.content(each, each) for each in range(1, number + 1)]

    def _first_or_tagged(self, at: int, now: int) -> bytes:
        before, after = _tags(at, self._chunks) if self._thinks else (b"", b"")
        token = self._tokens[(at + self._number) % len(self._tokens)]
        texts = [b"%b@%019d@%b%b" % (before, now, token, after)]
        if at == 0 and self._thinks:
            texts.insert(0, b"<thi")
        events = [b"%b%b%b" % (self._before, text, self._afters[0]) for text in texts]
        if at == 0 and self.format.role:
            role = self.format.role % self._values
            if self.format.joins_role:
                events[0] = role + events[0]
            else:
                events.insert(0, role)
        return b"".join(map(_http_chunk, events))

    def _set_created(self, now: int) -> None:
        self._values[b"created"] = b"%d" % now
        before, _, after = self.format.content.partition(_TEXT)
        self._before, after = before % self._values, after % self._values
        end = after.rindex(b"}")
        spaces = _SPACES if self.format.pads else (b"",)
        self._afters = [b"%b%b%b" % (after[:end], each, after[end:]) for each in spaces]
        self._second = time.monotonic_ns() // 1_000_000_000

    def _http_chunks(self, groups: tuple[Events, ...]) -> bytes:
        return b"".join(_http_chunk(b"".join(events) % self._values) for events in groups)


def _tags(at: int, chunks: int) -> tuple[bytes, bytes]:
    """What stands before and after the text of content chunk `at`. With less than four chunks,
    thinking does not end."""
    if at == 0:
        return b"nk>", b""
    if chunks >= 4 and at == chunks // 2 - 1:
        return b"", b"</th"
    if chunks >= 4 and at == chunks // 2:
        return b"ink>", b""
    return b"", b""


def _http_chunk(data: bytes) -> bytes:
    """RFC 9112, section 7.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _http_date(now: int) -> bytes:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)).encode()


def alphanumeric(length: int) -> bytes:
    return "".join(RANDOM.choices(_ALPHANUMERIC, k=length)).encode()


def hexadecimal(length: int) -> bytes:
    return b"%0*x" % (length, RANDOM.getrandbits(4 * length))


def head(*lines: bytes) -> bytes:
    common = (b"HTTP/1.1 200 OK", b"transfer-encoding: chunked", b"cache-control: no-cache")
    return b"\r\n".join((*common, *lines)) + b"\r\n\r\n"
