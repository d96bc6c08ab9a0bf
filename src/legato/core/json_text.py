"""JSON text: decoding of what strict decoders refuse, and writing on one line."""

import json
import math
import re
from collections.abc import Container
from typing import Any, Final, cast

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

_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_decode_text: Final = msgspec.json.Decoder(str).decode

#: Names of members from the top of a JSON value down to a string; lists on the way have no name.
Path = tuple[str, ...]


def text_of(quoted: bytes) -> str | None:
    """The text of a JSON string that is one line to every client as it stands; None where these
    bytes are not such a string, and nothing else."""
    try:
        text = _decode_text(quoted)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if quoted.isascii() or text.isprintable():
        return text
    return None if any(each in text for each in "\u2028\u2029\x85") else text


def as_encoded(quoted: bytes) -> bytes:
    """A JSON string as `encoded` writes it: an upstream may escape more."""
    return encoded(_decode_text(quoted)) if b"\\" in quoted else quoted


def without_surrogates(text: str) -> str:
    """`text` that UTF-8 can encode: the halves of a surrogate pair are joined where they meet, and
    a half without the other is U+FFFD."""
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def decode_leniently(body: bytes, texts: Container[Path] = ()) -> Any:
    """The value of JSON that a strict decoder may refuse for one of these reasons alone:

    - NaN, Infinity or -Infinity outside strings, or a number that is larger than all floats: each
      is None
    - an escape of half a surrogate pair without the other half. It is U+FFFD, but stays in the
      strings at the paths `texts`: the other half may come with the next event

    Slow: for what strict decoding has refused. Raises `ValueError` or `RecursionError` for
    everything else that is not JSON, and for a body that is not UTF-8. A byte order mark is
    skipped.
    """
    text = body.decode("utf-8-sig")
    return _cleaned(json.loads(text, parse_constant=_as_none, parse_float=_finite), texts, ())


def cleaned(value: Any) -> Any:
    """A JSON value with `without_surrogates` applied to all of its strings."""
    return _cleaned(value, (), ())


def _as_none(constant: str) -> None:
    return None


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


def _cleaned(value: Any, texts: Container[Path], path: Path) -> Any:
    if isinstance(value, str):
        return value if path in texts else without_surrogates(value)
    if isinstance(value, list):
        return [_cleaned(each, texts, path) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {
            without_surrogates(name): _cleaned(each, texts, (*path, name))
            for name, each in members.items()
        }
    return value


def encode_leniently(value: Any) -> bytes:
    """`value` as JSON, also where strings in it hold half a surrogate pair: then it is escaped."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def one_line(raw: bytes) -> bytes:
    """`raw` (JSON) such that no client can take it for more than one line.

    Raises `UpstreamError` `upstream_malformed` where it is not UTF-8.
    """
    if b"\n" in raw or b"\r" in raw:
        raw = msgspec.json.format(raw, indent=-1)
    if not raw.isascii():
        check_utf8(raw)
        raw = _SEPARATORS.sub(lambda match: _ESCAPES[match[0]], raw)
    return raw


def check_utf8(raw: bytes) -> None:
    """Raises `UpstreamError` `upstream_malformed` where `raw` is not UTF-8."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        message = "The upstream sent text that is not UTF-8."
        raise bad_gateway(message, code="upstream_malformed") from None


def encoded(value: Any) -> bytes:
    """`value` as JSON on one line."""
    return one_line(msgspec.json.encode(value))


def merged_members(first: bytes, second: bytes) -> bytes:
    """Two lists of members as `Chunk.extras` has them, as one; of equal names the second counts."""
    if not first or not second or first == second:
        return first or second
    members: dict[str, Raw] = {}
    for each in (first, second):
        members |= msgspec.json.decode(b"{%b}" % each[1:], type=dict[str, Raw])
    return b"," + msgspec.json.encode(members)[1:-1]
