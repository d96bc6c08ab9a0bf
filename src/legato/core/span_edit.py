"""Changes members of a JSON object as text: every other byte stays as it came.

Signatures and cached prefixes of a prompt depend on the bytes of a request, so it is not encoded
again where it goes to an upstream of its own format.
"""

import re
from typing import Any, Final

import msgspec

#: Strings and brackets: all that is needed to know where the members of the outermost object are.
#: Nothing is tried twice (`*+`): else each letter of an image in base64 would cost 120 bytes.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],]', re.DOTALL)

_SPACE: Final = b" \t\r\n"

#: The number of an event in its stream. No text in a JSON string looks like its name: there the
#: quotes are escaped.
_NUMBER: Final = re.compile(rb'"sequence_number":(?:0|[1-9][0-9]{0,14})(?=[,}])')

#: Letters that hide how long an event's text is.
_PADDING: Final = re.compile(rb'"obfuscation":"[0-9A-Za-z+/=_~-]*"')


def with_number(event: bytes, number: int) -> bytes:
    """`event` with another `sequence_number`, wherever it has one without spaces."""
    return _NUMBER.sub(b'"sequence_number":%d' % number, event)


def with_padding(event: bytes, letters: bytes) -> bytes:
    """`event` with other letters of padding, wherever it has some."""
    return _PADDING.sub(b'"obfuscation":"%b"' % letters, event)


def with_members(text: bytes, changes: dict[str, Any]) -> bytes:
    """`text`, which is a JSON object, with other values for some of its members.

    A name that occurs twice is changed twice: readers differ in which one counts. One that does not
    occur is added in front of the others.
    """
    pieces: list[bytes] = []
    missing = dict(changes)
    copied = 0
    for name, begin, end in _members(text):
        if name in changes:
            missing.pop(name, None)
            pieces += (text[copied:begin], msgspec.json.encode(changes[name]))
            copied = end
    pieces.append(text[copied:])
    edited = b"".join(pieces)
    if not missing:
        return edited
    opened, _, rest = edited.partition(b"{")
    more = msgspec.json.encode(missing)[:-1]
    is_empty = rest.lstrip(_SPACE).startswith(b"}")
    return opened + more + (b"" if is_empty else b",") + rest


def _members(text: bytes) -> list[tuple[str, int, int]]:
    """(name, where its value begins, where it ends) of each member of the outermost object."""
    found: list[tuple[str, int, int]] = []
    depth = 0
    name: bytes | None = None
    begin = 0  # of the value of `name`, once its colon has come
    for token in _TOKEN.finditer(text):
        first = text[token.start()]
        if depth == 1 and name is None and first == ord('"'):
            name = token[0]
            begin = text.index(b":", token.end()) + 1
        elif first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
        if name is not None and ((first == ord(",") and depth == 1) or depth == 0):
            found.append(
                (msgspec.json.decode(name, type=str), *_trimmed(text, begin, token.start()))
            )
            name = None
    return found


def _trimmed(text: bytes, begin: int, end: int) -> tuple[int, int]:
    value = text[begin:end]
    return begin + len(value) - len(value.lstrip(_SPACE)), begin + len(value.rstrip(_SPACE))
