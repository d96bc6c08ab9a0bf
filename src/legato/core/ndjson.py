"""JSON objects one a line (application/x-ndjson), read incrementally.

Lines end with LF; a CR before it and blank lines are white space of JSON and mean nothing. At the
end of the body a line whose LF is missing still counts.
"""

from typing import Final

from legato.core.sse import Event, EventTooLarge

_BOM: Final = b"\xef\xbb\xbf"


class Decoder:
    """Bytes in, lines out: as `sse.Decoder`, each line an event without a name."""

    __slots__ = ("_held", "_limit", "_partial", "_started")

    def __init__(self, limit: int = 16 * 1024 * 1024) -> None:
        """`limit`: bytes of one line that may be held before `EventTooLarge` is raised."""
        self._partial: list[bytes] = []  # pieces of the line whose end has not come yet
        self._held = 0  # bytes in `_partial`
        self._started = False  # a byte order mark may still come
        self._limit = limit

    def feed(self, data: bytes) -> list[Event]:
        """The lines that `data` completes, in order."""
        # Only what is new is searched for line ends: a long line costs its length once.
        *whole, rest = data.split(b"\n")
        if whole and self._partial:
            whole[0] = b"".join((*self._partial, whole[0]))
            self._partial.clear()
            self._held = 0
        if rest:
            self._partial.append(rest)
            self._held += len(rest)
            if self._held > self._limit:
                raise EventTooLarge(f"an event is larger than {self._limit} bytes")
        return self._events(whole)

    @property
    def is_between(self) -> bool:
        return not self._partial

    def close(self) -> list[Event]:
        """The line left over at the end of the body, where only its LF is missing."""
        rest = b"".join(self._partial)
        self._partial.clear()
        self._held = 0
        return self._events([rest])

    def _events(self, lines: list[bytes]) -> list[Event]:
        if lines and not self._started:
            self._started = True
            lines[0] = lines[0].removeprefix(_BOM)
        # Proxies may put comments between the lines, or `data:` before them, as in an event stream.
        found = [each.strip().removeprefix(b"data:").lstrip() for each in lines]
        return [(b"", line) for line in found if line and not line.startswith(b":")]
