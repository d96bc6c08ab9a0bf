"""Compressed request bodies: decoded as they arrive, in bounded steps, up to a limit."""

import asyncio
import io
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import zstandard

from legato.core.errors import ApiError, invalid
from legato.server.cors import Headers
from legato.server.limits import too_large

#: Bytes that are decoded in one step. The event loop gets its turn between two of them.
STEP_BYTES: Final = 256 * 1024

#: Bytes that a decoder is given at once. It copies what is behind the end of a member.
_PIECE_BYTES: Final = 16 * 1024

#: What a call of a decoder counts in a step at least: members and frames may be empty.
_CALL_BYTES: Final = 1024

#: The largest zstd window: what a decoder has to support (RFC 9659, section 3).
_ZSTD_WINDOW: Final = 8 * 1024 * 1024

#: Bytes that zstd is given at once. Four of them may be a block of 128 KiB, and its decoder has no
#: limit on what one call returns: so that is 2 MiB.
_ZSTD_INPUT: Final = 64
_ZSTD_OUTPUT: Final = 32 * 1024

#: More than zlib has left to write once it has read all of its input: a few matches of 258 bytes.
_LAST_BYTES: Final = 64 * 1024

#: Values of `wbits`: gzip, zlib and raw deflate, each with any window.
_GZIP, _ZLIB, _RAW = 31, 15, -15


class Damaged(Exception):
    """The data is not what its encoding says."""


class _Decoder(Protocol):
    """Decodes one encoding."""

    @property
    def is_complete(self) -> bool:
        """Whether the data may end here."""
        ...

    def decode(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        """(what was decoded, the rest of `data`). Stops soon behind `limit` decoded bytes, and at
        the end of a member or frame. Raises `Damaged`."""
        ...


class _Inflater:
    """gzip, with any number of members, or deflate."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._inflate = zlib.decompressobj(wbits)

    @property
    def is_complete(self) -> bool:
        return self._inflate.eof

    def decode(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        if self._inflate.eof:
            if self._wbits != _GZIP:
                raise Damaged
            self._inflate = zlib.decompressobj(_GZIP)
        inflate = self._inflate
        try:
            decoded = inflate.decompress(data, limit)
            rest = inflate.unconsumed_tail or inflate.unused_data
            if not rest and not inflate.eof and len(decoded) >= limit:
                # All input has been read, but the end of its output was over the limit of one step.
                decoded += inflate.decompress(b"", _LAST_BYTES)
        except zlib.error:
            raise Damaged from None
        return decoded, rest


class _Deflate:
    """`deflate`: what zlib writes, or without its header, as some clients send it."""

    def __init__(self) -> None:
        self._inflater: _Inflater | None = None
        self._first = b""  # the first byte, until the second has come

    @property
    def is_complete(self) -> bool:
        return self._inflater is not None and self._inflater.is_complete

    def decode(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        if self._inflater is None:
            data, self._first = self._first + data, b""
            if len(data) < 2:
                self._first = data
                return b"", b""
            # RFC 1950, section 2.2: the method, and a multiple of 31.
            has_header = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._inflater = _Inflater(_ZLIB if has_header else _RAW)
        return self._inflater.decode(data, limit)


class _Zstd:
    """zstd, with any number of frames."""

    def __init__(self) -> None:
        self._source = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._frame: Any = None

    @property
    def is_complete(self) -> bool:
        return self._frame is not None and self._frame.eof

    def decode(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        view, at, size = memoryview(data), 0, 0
        decoded: list[bytes] = []
        while at < len(data) and size < limit:
            if self._frame is None or self._frame.eof:
                self._frame = self._source.decompressobj(write_size=_ZSTD_OUTPUT)
            piece = view[at : at + _ZSTD_INPUT]
            try:
                decoded.append(self._frame.decompress(piece))
            except zstandard.ZstdError:
                raise Damaged from None
            size += len(decoded[-1])
            at += len(piece) - len(self._frame.unused_data)
            if self._frame.eof:
                break
        return b"".join(decoded), data[at:]


_DECODERS: Final[dict[bytes, Callable[[], _Decoder]]] = {
    b"gzip": lambda: _Inflater(_GZIP),
    b"x-gzip": lambda: _Inflater(_GZIP),  # RFC 9110, section 8.4.1.3
    b"deflate": _Deflate,
    b"zstd": _Zstd,
}

#: Names of encodings that leave a body as it is.
_PLAIN: Final = (b"", b"identity")


def encoding_of(headers: Headers) -> bytes:
    """The encoding of a request's body; empty where it is none. Raises `ApiError` 415 for one that
    is not taken, and for several."""
    values = [value for name, value in headers if name == b"content-encoding"]
    names = [each.strip().lower() for value in values for each in value.split(b",")]
    encodings = [name for name in names if name not in _PLAIN]
    for name in encodings:
        if name not in _DECODERS:
            raise _unsupported(f"The content encoding `{name.decode('latin-1')}` is not supported")
    if len(encodings) > 1:
        listed = b", ".join(encodings).decode("latin-1")
        raise _unsupported(f"Several content encodings (`{listed}`) are not supported")
    return encodings[0] if encodings else b""


def _unsupported(problem: str) -> ApiError:
    message = f"{problem}: send gzip, deflate or zstd, or the body as it is."
    return ApiError(415, "unsupported_encoding", message)


class EncodedBody:
    """The body of one request, decoded piece by piece.

    It holds what has been decoded, and what has come and is not decoded yet; both together are
    limited. `limit`: bytes.
    """

    __slots__ = (
        "_decoded",
        "_decoder",
        "_encoding",
        "_is_damaged",
        "_is_dropped",
        "_left",
        "_limit",
        "_size",
        "_waiting",
    )

    def __init__(self, encoding: bytes, limit: int) -> None:
        self._encoding = encoding.decode("ascii")
        self._decoder = _DECODERS[encoding]()
        self._limit = limit
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes that are decoded
        self._left = 0  # bytes that wait
        self._decoded = io.BytesIO()  # grows in place, and gives its bytes without a copy
        self._is_damaged = False
        self._is_dropped = False

    def append(self, data: bytes) -> None:
        """Takes a piece, and decodes one step. Raises `ApiError` 413."""
        if self._is_damaged:
            return
        for at in range(0, len(data), _PIECE_BYTES):
            self._waiting.append(data[at : at + _PIECE_BYTES])
        self._left += len(data)
        self.step()
        self._check(self._size + self._left)

    def step(self) -> None:
        """Decodes up to about `STEP_BYTES`, less where much is read for little. Raises `ApiError`
        413."""
        left = STEP_BYTES
        while self._waiting and left > 0 and not self._is_dropped:
            piece = self._waiting.popleft()
            try:
                decoded, rest = self._decoder.decode(piece, left)
            except Damaged:
                self._is_damaged = True  # the answer comes once the body is complete
                self._clear()
                return
            if rest:
                self._waiting.appendleft(rest)
            left -= max(len(decoded), _CALL_BYTES)
            self._left -= len(piece) - len(rest)
            self._size += len(decoded)
            self._check(self._size)
            self._decoded.write(decoded)

    async def finish(self) -> bytes:
        """The decoded body, which is complete. What is not decoded yet is much, and is decoded in a
        thread. Raises `ApiError`: 413, 400 for damaged data."""
        if self._waiting:
            try:
                await asyncio.to_thread(self._catch_up)
            except asyncio.CancelledError:
                self.drop()
                raise
        if self._is_damaged:
            raise _damaged(f"The request body is not valid {self._encoding} data.")
        if not self._decoder.is_complete:
            raise _damaged(f"The request body ends in the middle of its {self._encoding} data.")
        decoded = self._decoded.getvalue()
        self._decoded = io.BytesIO()
        return decoded

    def drop(self) -> None:
        """Nobody wants it any more: a thread that decodes it stops after the current step."""
        self._is_dropped = True

    def _catch_up(self) -> None:
        while self._waiting and not self._is_dropped:
            self.step()

    def _clear(self) -> None:
        self._waiting.clear()
        self._size = self._left = 0
        self._decoded = io.BytesIO()

    def _check(self, size: int) -> None:
        if size > self._limit:
            self._clear()
            raise too_large(self._limit)


def _damaged(problem: str) -> ApiError:
    return invalid(problem, code="invalid_encoding")
