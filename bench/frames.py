"""`scripts/bench padding`: the sizes of frames with and without padding, as docs/padding.svg.

Frames are made by the server's own writer, one for each piece of English text that may be a token:
words with the space before them, and punctuation. It comes out the same every time.
"""

import argparse
import re
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec

from bench import plot
from legato.core.chunk import Chunk
from legato.fronts.chat_writer import ChatWriter

ROOT: Final = Path(__file__).parent.parent
#: English that is always at hand.
TEXT: Final = ROOT / "LICENSE"
PIECE: Final = re.compile(r" ?[A-Za-z]{1,12}| ?[0-9]|\s+|[^\sA-Za-z0-9]+")


class Sizes:
    """Counts the frames of each size."""

    def __init__(self, found: Counter[int]) -> None:
        self._found = found

    def write(self, data: bytes) -> None:
        self._found[len(data)] += 1

    def direct(self) -> None:
        """They are not sent as chunks."""

    def finish(self, data: bytes) -> None:
        """The end is not of interest."""


def sizes(pieces: list[str], *, pads: bool) -> Counter[int]:
    """How many frames there are of each size, in bytes."""
    found: Counter[int] = Counter()
    writer = ChatWriter(
        identity="chatcmpl-0123456789abcdef0123456789abcdef",
        created=1_800_000_000,
        model="smollm2-135m",
        wants_usage=False,
        pads=pads,
        sink=Sizes(found),
    )
    for piece in pieces:
        delta = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
        writer.push(Chunk([], msgspec.json.encode([delta])))
        writer.flush()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench padding", description=__doc__)
    parser.add_argument("--svg", type=Path, default=ROOT / "docs", metavar="FOLDER")
    given = parser.parse_args()
    pieces = PIECE.findall(TEXT.read_text())
    plain, padded = sizes(pieces, pads=False), sizes(pieces, pads=True)
    shares = {
        name: {size: 100 * count / len(pieces) for size, count in found.items()}
        for name, found in (("without padding", plain), ("with padding", padded))
    }
    file = given.svg / "padding.svg"
    title = f"Sizes of {len(pieces):,} frames, a token each"
    plot.histogram(file, title, "bytes of a frame", "% of the frames", shares)
    print(f"without padding: {len(plain)} sizes, {min(plain)} to {max(plain)} bytes")
    print(f"with padding: {', '.join(f'{n:,} of {size} bytes' for size, n in padded.items())}")
    print(f"written: {file}")
    return 0
