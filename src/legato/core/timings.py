"""What a stream took: time to first token, the gaps between content frames, counts.

Times are seconds of the injected clock. TTFT counts from the receipt of the request, so it covers
the wait for an engine, a connection and the upstream's headers.
"""

from array import array
from itertools import pairwise
from math import ceil
from typing import Final

#: Four buckets an octave, from a microsecond to an hour: a percentile is right to within
#: 25 %. What is longer shares the last bucket.
_STEPS: Final = 4
_OCTAVES: Final = 32


#: Gaps up to which a bucket's number is kept in two bytes.
_SMALL: Final = 65_535

#: Times that are kept as they are, until they are counted together: a chunk then touches nothing
#: but the end of an array.
PENDING: Final = 32

#: Copied, an array costs less than a new one.
_NONE: Final = array("d")


class Timings:
    __slots__ = (
        "_counted",
        "_first",
        "_gaps",
        "_last",
        "_longest",
        "reasoning",
        "received",
        "times",
    )

    def __init__(self, received: float) -> None:
        self.received = received
        self.reasoning = 0  # pieces with reasoning
        self.times = _NONE[:]  # of the pieces that are not counted yet
        self._counted = 0
        self._first: float | None = None
        self._last = received  # of those that are counted
        self._longest = 0.0
        self._gaps: array[int] | None = None

    def content(self, now: float) -> None:
        """A content-bearing frame goes out at `now`."""
        times = self.times
        times.append(now)
        if len(times) == PENDING:
            self.count()

    @property
    def pieces(self) -> int:
        """Chunks with content of any kind."""
        return self._counted + len(self.times)

    @property
    def first(self) -> float | None:
        if self._first is None and self.times:
            return self.times[0]
        return self._first

    @property
    def last(self) -> float:
        """When the last piece went out; before the first, when the request was received."""
        return self.times[-1] if self.times else self._last

    @property
    def ttft(self) -> float | None:
        first = self.first
        return None if first is None else first - self.received

    def _gaps_of_few(self, fractions: tuple[float, ...]) -> list[float | None]:
        """`gaps` of an answer so short that none of them has been counted."""
        gaps = sorted([after - before for before, after in pairwise(self.times)])
        return [gaps[ceil(fraction * len(gaps)) - 1] if gaps else None for fraction in fractions]

    def count(self) -> None:
        """Counts `times`, and drops them; due when there are `PENDING` of them."""
        times = self.times
        if not times:
            return
        self._counted += len(times)
        gaps, last = self._gaps, self._last
        if gaps is None:
            gaps = self._gaps = array("H", bytes(2 * _STEPS * _OCTAVES))
            last = self._first = times.pop(0)
        elif self._counted > _SMALL and gaps.typecode == "H":
            gaps = self._gaps = array("I", gaps)
        for now in times:
            gap = now - last
            last = now
            if gap > self._longest:
                self._longest = gap
            micros = int(gap * 1e6) + 1
            octave = micros.bit_length() - 1
            step = (micros << 2 >> octave) & 3
            gaps[octave * _STEPS + step if octave < _OCTAVES else -1] += 1
        self._last = last
        del times[:]

    def gaps(self, *fractions: float) -> list[float | None]:
        """For each fraction (ascending) the gap in seconds that so many of all gaps do not exceed:
        for 1 the longest, and exactly so. None where there was no gap."""
        gaps = self._gaps
        if gaps is None:
            return self._gaps_of_few(fractions)
        self.count()
        total = self._counted - 1
        found: list[float | None] = []
        seen = 0
        for bucket, number in enumerate(gaps):
            if not number:
                continue
            seen += number
            while len(found) < len(fractions) and seen >= fractions[len(found)] * total:
                found.append(min(_upper(bucket), self._longest))
            if seen == total:
                break
        return found


def _upper(bucket: int) -> float:
    """The longest gap of a bucket, in seconds."""
    if bucket == _STEPS * _OCTAVES - 1:
        return float("inf")
    octave, step = divmod(bucket, _STEPS)
    return (1 << octave) * (1 + (step + 1) / _STEPS) / 1e6
