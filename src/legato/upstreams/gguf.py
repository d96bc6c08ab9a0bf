"""Reads the metadata of a GGUF file, without the weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, Final

#: struct's format characters by GGUF's number types.
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"} | {
    10: "Q",
    11: "q",
    12: "d",
}
_ARCHITECTURE: Final = "general.architecture"
_STRING: Final = 8
_ARRAY: Final = 9


class GgufError(ValueError):
    """Not a GGUF file, or one that is cut off within its metadata."""


def metadata(path: Path, wanted: Collection[str]) -> dict[str, Any]:
    """The values of the `wanted` keys that the file has. Raises `GgufError`, `OSError`."""
    found: dict[str, Any] = {}
    with path.open("rb") as file:
        try:
            magic, version, _tensors, pairs = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or version not in (2, 3):
                raise GgufError(f"{path} is not a GGUF file")
            for _ in range(pairs):
                key = _string(file)
                value = _value(file, *struct.unpack("<I", file.read(4)))
                if key in wanted:
                    found[key] = value
                    if len(found) == len(wanted):
                        break
        except (EOFError, struct.error, KeyError, UnicodeDecodeError, OverflowError, MemoryError):
            raise GgufError(f"{path} is not a GGUF file, or an incomplete one") from None
    return found


def context_length(path: Path) -> int | None:
    """Tokens that the model was trained for; None if the file does not tell, or cannot be read."""
    try:
        kind = metadata(path, {_ARCHITECTURE}).get(_ARCHITECTURE)
        length = metadata(path, {key := f"{kind}.context_length"}).get(key)
    except (GgufError, OSError):
        return None
    return length if isinstance(length, int) and length > 0 else None


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _numbers(file, kind, 1)[0]
    kind, length = struct.unpack("<IQ", file.read(12))
    if kind in (_STRING, _ARRAY):
        return [_value(file, kind) for _ in range(length)]
    return _numbers(file, kind, length)


def _numbers(file: IO[bytes], kind: int, length: int) -> tuple[Any, ...]:
    form = f"<{length}{_NUMBERS[kind]}"
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _string(file: IO[bytes]) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data.decode()
