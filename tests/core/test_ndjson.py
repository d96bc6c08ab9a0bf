"""The line decoder against a simple reading of its rules, over every way to cut the bytes."""

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legato.core.ndjson import Decoder
from legato.core.sse import Event, EventTooLarge

BOM = b"\xef\xbb\xbf"
QUICK = settings(deadline=None, database=None, max_examples=300)


def oracle(body: bytes) -> tuple[list[Event], list[Event]]:
    """What `feed` gives of a whole body, what `close` does."""
    *lines, rest = body.removeprefix(BOM).split(b"\n")
    fed = [(b"", line.strip()) for line in lines if line.strip()]
    return fed, [(b"", rest.strip())] if rest.strip() else []


def read(pieces: list[bytes]) -> tuple[list[Event], list[Event]]:
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)], decoder.close()


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges)]


def ways(body: bytes) -> Iterator[list[bytes]]:
    yield [body]
    yield [body[place : place + 1] for place in range(len(body))]
    draw = random.Random(body)
    for _ in range(50):
        yield cut(body, [draw.randrange(len(body) + 1) for _ in range(draw.randrange(6))])


# body, lines that `feed` gives, lines that `close` does
CASES: dict[str, tuple[bytes, list[bytes], list[bytes]]] = {
    "nothing": (b"", [], []),
    "one": (b'{"a":1}\n', [b'{"a":1}'], []),
    "two": (b"{}\n[]\n", [b"{}", b"[]"], []),
    "no end": (b"{}\n{}", [b"{}"], [b"{}"]),
    "only half": (b'{"a', [], [b'{"a']),
    "CRLF": (b"{}\r\n{}\r\n", [b"{}", b"{}"], []),
    "CRLF without LF": (b"{}\r", [], [b"{}"]),
    "blank lines": (b"\n\r\n{}\n \n\t\n{}\n\n", [b"{}", b"{}"], []),
    "spaces around": (b"  {} \n", [b"{}"], []),
    "spaces alone": (b" \r", [], []),
    "a byte order mark": (BOM + b"{}\n{}", [b"{}"], [b"{}"]),
    "a byte order mark alone": (BOM, [], []),
    "a byte order mark too late": (b"{}\n" + BOM + b"{}\n", [b"{}", BOM + b"{}"], []),
    "separators of Unicode": ('"\u2028\x85"\n'.encode(), ['"\u2028\x85"'.encode()], []),
    "no UTF-8": (b"\xff\xfe\n", [b"\xff\xfe"], []),
}


@pytest.mark.parametrize("name", CASES)
def test_a_body_reads_the_same_however_it_is_cut(name: str) -> None:
    body, fed, closed = CASES[name]
    wanted = ([(b"", each) for each in fed], [(b"", each) for each in closed])
    assert oracle(body) == wanted, "the oracle and the table disagree"
    for pieces in ways(body):
        assert read(pieces) == wanted, pieces


PIECES = [b"{}", b'{"a": 1}', b"\n", b"\r\n", b"\r", b" ", "ž🐎".encode(), b"\xff", BOM, b"x" * 50]


@QUICK
@given(st.lists(st.sampled_from(PIECES), max_size=25), st.lists(st.integers(0, 200), max_size=20))
def test_any_body_cut_anywhere_is_its_lines(parts: list[bytes], places: list[int]) -> None:
    body = b"".join(parts)
    wanted = oracle(body)
    assert read(cut(body, [min(place, len(body)) for place in places])) == wanted
    assert read(parts) == wanted
    assert read([body[place : place + 1] for place in range(len(body))]) == wanted


LIMIT = 100


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("before", [b"", b"{}\n"])
def test_a_line_that_does_not_end_is_not_held_for_ever(size: int, before: bytes) -> None:
    decoder = Decoder(LIMIT)
    body = before + b"x" * (LIMIT + 1)
    with pytest.raises(EventTooLarge, match=str(LIMIT)):
        for place in range(0, len(body), size):
            decoder.feed(body[place : place + size])


@pytest.mark.parametrize("size", [1, 3, 17, 64])
def test_the_limit_is_one_lines_not_the_streams(size: int) -> None:
    """What is counted as held is given back: ten thousand bytes of small lines pass."""
    body = b'{"content":"some text"}\r\n' * 400
    decoder = Decoder(LIMIT)
    seen = [
        each
        for place in range(0, len(body), size)
        for each in decoder.feed(body[place : place + size])
    ]
    assert seen == [(b"", b'{"content":"some text"}')] * 400
    assert decoder.close() == []


def test_a_megabyte_in_small_pieces_costs_its_length_once() -> None:
    """Pieces of an unfinished line are kept as they come, and joined once, at its end."""
    decoder = Decoder()
    line = b"x" * 1_000_000
    pieces = [line[place : place + 100] for place in range(0, len(line), 100)]
    for number, piece in enumerate(pieces, 1):
        assert decoder.feed(piece) == []
        assert decoder._partial[-1] is piece
        assert len(decoder._partial) == number
    assert decoder.feed(b"\n") == [(b"", line)]
    assert decoder._partial == []
