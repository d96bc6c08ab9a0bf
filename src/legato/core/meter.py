"""What a stream took: time to first token, the gaps between content frames, counts.

Times are seconds of the injected clock. TTFT counts from the receipt of the request, so it covers
the wait for an engine, a connection and the upstream's headers.
"""

from array import array
from typing import Final

#: Four buckets an octave, from a microsecond to an hour: a percentile is right to within
#: 25 %. What is longer shares the last bucket.
_STEPS: Final = 4
_OCTAVES: Final = 32


class Meter:
    __slots__ = ("_gaps", "first", "last", "longest_gap", "pieces", "reasoning", "received")

    def __init__(self, received: float) -> None:
        self.received = received
        self.first: float | None = None
        self.last: float = received
        self.longest_gap = 0.0
        self.pieces = 0  # chunks with content of any kind
        self.reasoning = 0  # those of them with reasoning
        self._gaps: array[int] | None = None

    @property
    def ttft(self) -> float | None:
        return None if self.first is None else self.first - self.received

    def content(self, now: float) -> None:
        """A content-bearing frame goes out at `now`."""
        self.pieces += 1
        gaps = self._gaps
        if gaps is None:
            self.first = now
            self._gaps = array("I", bytes(4 * _STEPS * _OCTAVES))
        else:
            gap = now - self.last
            if gap > self.longest_gap:
                self.longest_gap = gap
            micros = int(gap * 1e6) + 1
            octave = micros.bit_length() - 1
            step = (micros << 2 >> octave) & 3
            gaps[octave * _STEPS + step if octave < _OCTAVES else -1] += 1
        self.last = now

    def gaps(self, *fractions: float) -> list[float | None]:
        """For each fraction (ascending) the gap in seconds that so many of all gaps do not exceed;
        None where there was no gap."""
        gaps = self._gaps
        total = self.pieces - 1
        if gaps is None or total < 1:
            return [None for _ in fractions]
        found: list[float | None] = []
        seen = 0
        for bucket, number in enumerate(gaps):
            if not number:
                continue
            seen += number
            while len(found) < len(fractions) and seen >= fractions[len(found)] * total:
                found.append(min(_upper(bucket), self.longest_gap))
            if seen == total:
                break
        return found


def _upper(bucket: int) -> float:
    """The longest gap of a bucket, in seconds."""
    if bucket == _STEPS * _OCTAVES - 1:
        return float("inf")
    octave, step = divmod(bucket, _STEPS)
    return (1 << octave) * (1 + (step + 1) / _STEPS) / 1e6
