"""JSON that no client takes for more than one line."""

import re
from typing import Any, Final

import msgspec
from msgspec import Raw

from legato.core.errors import bad_gateway

# Line ends in JSON's white space break a frame; U+2028, U+2029 and U+0085 break clients that split
# lines the Unicode way. The latter three can stand only inside strings, where they may be escaped.
_SEPARATORS: Final = re.compile(b"\xe2\x80\xa8|\xe2\x80\xa9|\xc2\x85")
_ESCAPES: Final = {
    b"\xe2\x80\xa8": rb"\u2028",
    b"\xe2\x80\xa9": rb"\u2029",
    b"\xc2\x85": rb"\u0085",
}


#: What `decode_string` raises.
NO_TEXT: Final = (msgspec.DecodeError, UnicodeDecodeError)

#: The text of a JSON string, quotes and all.
decode_string: Final = msgspec.json.Decoder(str).decode


def text_of(quoted: bytes) -> str | None:
    """The text of a JSON string that is one line to every client as it stands; None where these
    bytes are not such a string, and nothing else."""
    try:
        text = decode_string(quoted)
    except NO_TEXT:
        return None
    if quoted.isascii() or text.isprintable():
        return text
    return None if any(each in text for each in "\u2028\u2029\x85") else text


def one_line(raw: bytes) -> bytes:
    """`raw` (JSON) such that no client can take it for more than one line.

    Raises `UpstreamError` where it is not UTF-8.
    """
    if b"\n" in raw or b"\r" in raw:
        raw = msgspec.json.format(raw, indent=-1)
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise bad_gateway("The upstream sent text that is not UTF-8.") from None
        raw = _SEPARATORS.sub(lambda match: _ESCAPES[match[0]], raw)
    return raw


def encoded(value: Any) -> bytes:
    """`value` as JSON on one line."""
    return one_line(msgspec.json.encode(value))


def merged_members(first: bytes, second: bytes) -> bytes:
    """Two lists of members as `Chunk.extras` has them, as one; of equal names the second counts."""
    members: dict[str, Raw] = {}
    for each in (first, second):
        members |= msgspec.json.decode(b"{%b}" % each[1:], type=dict[str, Raw])
    return b"," + msgspec.json.encode(members)[1:-1]
