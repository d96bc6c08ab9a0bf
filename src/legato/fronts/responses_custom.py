"""Takes the input of a custom tool out of the arguments of the function that stands for it."""

import json
import re
from typing import Any, Final

from legato.core.chunk import as_object, decoded
from legato.core.json_text import without_surrogates
from legato.fronts.responses_tools import INPUT

#: What the arguments begin with.
_HEAD: Final = re.compile(rf'\s*\{{\s*"{INPUT}"\s*:\s*"')

#: The inside of a JSON string, as far as it is complete. Line ends are taken as they are, and so is
#: a backslash that begins no escape: models write them.
_INSIDE: Final = re.compile(
    r'(?:[^"\\]|\\(?:u[0-9a-fA-F]{4}|u(?=[0-9a-fA-F]{0,3}[^0-9a-fA-F])|[^u]))*'
)

#: The first half of a surrogate pair at the end: the other half has yet to come.
_HALF: Final = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}$")

#: A backslash: in group 1 what it escapes, where that is anything that JSON has.
_ESCAPE: Final = re.compile(r'\\(\\|["/bfnrt]|u[0-9a-fA-F]{4})|\\')


class InputDecoder:
    """Decodes the string in `{"input": "…"}` while the arguments come in pieces.

    Arguments that begin with anything else are held until they are whole.
    """

    __slots__ = ("_held", "_is_inside", "_is_over")

    def __init__(self) -> None:
        self._held = ""  # arguments that have not been decoded
        self._is_inside = False
        self._is_over = False

    def add(self, piece: str) -> str:
        """What is new of the input."""
        if self._is_over:
            return ""
        self._held += piece
        if not self._is_inside:
            head = _HEAD.match(self._held)
            if head is None:
                return ""
            self._is_inside = True
            self._held = self._held[head.end() :]
        return self._decode()

    def _decode(self) -> str:
        inside = _INSIDE.match(self._held)
        end = inside.end() if inside is not None else 0
        self._is_over = self._held[end : end + 1] == '"'
        if not self._is_over and (half := _HALF.search(self._held, 0, end)) is not None:
            end = half.start()
        text, self._held = self._held[:end], self._held[end:]
        return _unescaped(text)

    def close(self) -> str:
        """What is left, at the end of the arguments."""
        held, self._held = self._held, ""
        if self._is_over:
            return ""
        if self._is_inside:
            return "\ufffd" if _HALF.match(held) else ""
        return _meant(held)


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    text = _ESCAPE.sub(lambda found: found[0] if found[1] else r"\\", text)
    return without_surrogates(json.loads(f'"{text}"', strict=False))


def _meant(arguments: str) -> str:
    """The input in arguments of another shape: the one string that they hold, or all of them."""
    value: Any = decoded(arguments.encode())
    if isinstance(value, str):
        return value
    fields = as_object(value)
    if fields is None:
        return arguments
    text = fields.get(INPUT)
    if text is None and len(fields) == 1:
        (text,) = fields.values()
    return text if isinstance(text, str) else arguments
