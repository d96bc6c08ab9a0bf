"""The event decoder against a simple reading of WHATWG's rules, over every way to cut the bytes."""

import itertools
import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legato.core.sse import Decoder, Event, EventTooLarge

BOM = b"\xef\xbb\xbf"
QUICK = settings(deadline=None, database=None, max_examples=600)


def oracle(body: bytes) -> tuple[list[Event], list[Event]]:
    """HTML 9.2.6, word by word, on the whole input at once: what `feed` gives, what `close` does.

    Two leniencies are added. `close`: the end of the input ends the last line and the last event.
    An object without `data:` in front of it is the data of an event, with all lines behind it.
    """
    if body.startswith(BOM):
        body = body[3:]
    lines: list[bytes] = []
    line = b""
    place = 0
    while place < len(body):
        byte = body[place : place + 1]
        if byte in (b"\r", b"\n"):
            lines.append(line)
            line = b""
            if body[place : place + 2] == b"\r\n":
                place += 1
        else:
            line += byte
        place += 1
    fed, state = _interpret(lines, (b"", None, False))
    closed, _ = _interpret([line, b""] if line else [b""], state)
    return fed, closed


def _interpret(
    lines: list[bytes], state: tuple[bytes, bytes | None, bool]
) -> tuple[list[Event], tuple[bytes, bytes | None, bool]]:
    kind, data, is_bare = state
    events: list[Event] = []
    for line in lines:
        if line == b"":
            if data is not None:
                events.append((kind, data[:-1]))  # without the last LF
            kind, data, is_bare = b"", None, False
        elif is_bare or (data is None and line.startswith(b"{")):
            data, is_bare = (data or b"") + line + b"\n", True
        elif line.startswith(b":"):
            pass
        else:
            name, value = line.split(b":", 1) if b":" in line else (line, b"")
            if value[:1] == b" ":
                value = value[1:]
            if name == b"event":
                kind = value
            elif name == b"data":
                data = (data or b"") + value + b"\n"
    return events, (kind, data, is_bare)


def read(pieces: Iterable[bytes]) -> tuple[list[Event], list[Event]]:
    decoder = Decoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events, decoder.close()


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges)]


def ways(body: bytes, number: int = 30, seed: int = 1) -> Iterator[list[bytes]]:
    """Whole, byte by byte, cut once at every place, and `number` times cut at random."""
    yield [body]
    yield [body[place : place + 1] for place in range(len(body))]
    for place in range(len(body) + 1):
        yield [body[:place], body[place:]]
    chance = random.Random(seed)
    for _ in range(number):
        times = chance.randint(2, 12)
        yield cut(body, [chance.randint(0, len(body)) for _ in range(times)])


CASES: dict[str, tuple[bytes, list[Event], list[Event]]] = {
    "nothing": (b"", [], []),
    "one event": (b"data: x\n\n", [(b"", b"x")], []),
    "no space": (b"data:x\n\n", [(b"", b"x")], []),
    "two spaces keep one": (b"data:  x\n\n", [(b"", b" x")], []),
    "two events": (b"data: x\n\ndata: y\n\n", [(b"", b"x"), (b"", b"y")], []),
    "crlf": (b"data: x\r\n\r\ndata: y\r\n\r\n", [(b"", b"x"), (b"", b"y")], []),
    "cr": (b"data: x\r\rdata: y\r\r", [(b"", b"x"), (b"", b"y")], []),
    "all three line ends": (b"data: a\rdata: b\ndata: c\r\n\r", [(b"", b"a\nb\nc")], []),
    "lf cr is two ends": (b"data: a\n\rdata: b\n\r", [(b"", b"a"), (b"", b"b")], []),
    "cr lf lf is two ends": (b"data: a\r\n\ndata: b\r\r\n", [(b"", b"a"), (b"", b"b")], []),
    "several lines": (b"data: {\ndata: }\n\n", [(b"", b"{\n}")], []),
    "empty data line": (b"data:\n\n", [(b"", b"")], []),
    "empty data with a space": (b"data: \n\n", [(b"", b"")], []),
    "two empty data lines": (b"data\ndata\n\n", [(b"", b"\n")], []),
    "data without colon": (b"data\n\n", [(b"", b"")], []),
    "name": (b"event: error\ndata: x\n\n", [(b"error", b"x")], []),
    "name after data": (b"data: x\nevent: e\n\n", [(b"e", b"x")], []),
    "last name counts": (b"event: a\nevent: b\ndata: x\n\n", [(b"b", b"x")], []),
    "name is forgotten": (b"event: a\n\ndata: x\n\n", [(b"", b"x")], []),
    "name of one event": (b"event: a\ndata: x\n\ndata: y\n\n", [(b"a", b"x"), (b"", b"y")], []),
    "name without data": (b"event: a\n\n", [], []),
    "comment": (b": ping\n\n", [], []),
    "comment without space": (b":ping\ndata: x\n\n", [(b"", b"x")], []),
    "comment inside an event": (b"data: a\n:c\ndata: b\n\n", [(b"", b"a\nb")], []),
    "comment and event in one read": (b": c\n\ndata: x\n\n", [(b"", b"x")], []),
    "event and comment in one read": (b"data: x\n\n: c\n\n", [(b"", b"x")], []),
    "id and retry": (b"id: 7\nretry: 10\ndata: x\n\n", [(b"", b"x")], []),
    "unknown field": (b"foo: bar\ndata: x\n\n", [(b"", b"x")], []),
    "field with a space before it": (b" data: y\ndata: x\n\n", [(b"", b"x")], []),
    "fields are case-sensitive": (b"Data: y\nDATA: z\ndata: x\n\n", [(b"", b"x")], []),
    "longer field name": (b"database: y\ndata: x\n\n", [(b"", b"x")], []),
    "colons in the value": (b"data: a:b: c\n\n", [(b"", b"a:b: c")], []),
    "blank lines first": (b"\n\n\ndata: x\n\n", [(b"", b"x")], []),
    "blank lines between": (b"data: x\n\n\n\n\ndata: y\n\n", [(b"", b"x"), (b"", b"y")], []),
    "three line ends": (b"data: x\n\n\n", [(b"", b"x")], []),
    "bom": (BOM + b"data: x\n\n", [(b"", b"x")], []),
    "two boms": (BOM + BOM + b"data: x\n\n", [], []),
    "bom alone": (BOM, [], []),
    "bom and a blank line": (BOM + b"\n\ndata: x\n\n", [(b"", b"x")], []),
    "bom later": (b"data: x\n\n" + BOM + b"data: y\n\n", [(b"", b"x")], []),
    "half a bom": (BOM[:2] + b"data: x\n\ndata: y\n\n", [(b"", b"y")], []),
    "bom in the data": (b"data: " + BOM + b"\n\n", [(b"", BOM)], []),
    "unicode": ("data: žluť 🐎\n\n".encode(), [(b"", "žluť 🐎".encode())], []),
    "unicode separators": (
        "data: a\u2028b\u2029c\x85d\x0b\x0c\n\n".encode(),
        [(b"", "a\u2028b\u2029c\x85d\x0b\x0c".encode())],
        [],
    ),
    "bytes that are no utf-8": (b"data: \xff\xfe\n\n", [(b"", b"\xff\xfe")], []),
    "nul": (b"data: \0\n\n", [(b"", b"\0")], []),
    "blank line missing": (b"data: x\n\ndata: [DONE]\n", [(b"", b"x")], [(b"", b"[DONE]")]),
    "line end missing": (b"data: x\n\ndata: [DONE]", [(b"", b"x")], [(b"", b"[DONE]")]),
    "cr and blank line missing": (b"data: [DONE]\r", [], [(b"", b"[DONE]")]),
    "name and no blank line": (b"event: e\ndata: x", [], [(b"e", b"x")]),
    "several lines, no blank line": (b"data: a\ndata: b", [], [(b"", b"a\nb")]),
    "a field name at the end": (b"data", [], [(b"", b"")]),
    "a comment at the end": (b"data: x\n: c", [], [(b"", b"x")]),
    "an object without a field": (b': c\n\n{"a":1}\n\n', [(b"", b'{"a":1}')], []),
    "one on several lines": (
        b'{\n "a": 1\n}\n\ndata: x\n\n',
        [(b"", b'{\n "a": 1\n}'), (b"", b"x")],
        [],
    ),
    "one at the end": (b'data: x\n\n{"a":1}', [(b"", b"x")], [(b"", b'{"a":1}')]),
    "one with a name": (b'event: error\n{"a":1}\n\n', [(b"error", b'{"a":1}')], []),
    "one behind data": (b'data: x\n{"a":1}\n\n', [(b"", b"x")], []),
}


@pytest.mark.parametrize("name", CASES)
def test_a_body_reads_the_same_however_it_is_cut(name: str) -> None:
    body, fed, closed = CASES[name]
    assert oracle(body) == (fed, closed), "the oracle and the table disagree"
    for pieces in ways(body):
        assert read(pieces) == (fed, closed), pieces


def test_two_cuts_at_all_places() -> None:
    """Every pair of cuts through what has one of each: BOM, line ends, fields, comment, no end."""
    body = BOM + b"event: e\r\ndata: a\rdata\n\r\n:c\n\ndata: b\n\n\rdata: c\r\n\r\ndata: d"
    wanted = oracle(body)
    assert [len(each) for each in wanted] == [3, 1]
    for first in range(len(body) + 1):
        for second in range(first, len(body) + 1):
            pieces = [body[:first], body[first:second], body[second:]]
            assert read(pieces) == wanted, pieces


PIECES = [
    b"data:",
    b"data",
    b"data: x",
    b"data:  y",
    b"data: {}\n\n",
    b"data: a\ndata: b\n\n",
    b"event: e",
    b"event",
    b"event:\n",
    b"id: 1",
    b"retry: 5",
    b"foo: bar",
    b"{",
    b'{"a":1}\n',
    b":c",
    b": ping\n\n",
    b":",
    b" ",
    b"\r",
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\r\n\r\n",
    BOM,
    BOM[:1],
    BOM[1:],
    "ž🐎".encode(),
    "\u2028".encode(),
    b"\xff",
    b"\0",
]


@QUICK
@given(st.lists(st.sampled_from(PIECES), max_size=25), st.lists(st.integers(0, 200), max_size=20))
def test_any_body_cut_anywhere_is_what_the_rules_say(parts: list[bytes], places: list[int]) -> None:
    body = b"".join(parts)
    pieces = cut(body, [min(place, len(body)) for place in places])
    wanted = oracle(body)
    assert read(pieces) == wanted
    assert read([body]) == wanted
    assert read([body[place : place + 1] for place in range(len(body))]) == wanted


@QUICK
@given(st.lists(st.sampled_from(PIECES), max_size=25))
def test_pieces_as_a_server_writes_them_are_what_the_rules_say(parts: list[bytes]) -> None:
    """Reads that end where events do: the way that needs to keep nothing."""
    assert read(parts) == oracle(b"".join(parts))


LIMIT = 100
TOO_LARGE = {
    "one line": b"data: " + b"x" * LIMIT,
    "many lines": b"data: xxxx\n" * 30,
    "many empty lines": b"data\n" * (LIMIT + 10),
    "a comment": b":" + b"x" * (LIMIT + 1),
    "a name": b"event: " + b"x" * LIMIT,
}


@pytest.mark.parametrize("name", TOO_LARGE)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_that_does_not_end_is_not_held_for_ever(name: str, size: int) -> None:
    decoder = Decoder(LIMIT)
    body = TOO_LARGE[name]
    with pytest.raises(EventTooLarge, match=str(LIMIT)):
        for place in range(0, len(body), size):
            decoder.feed(body[place : place + size])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 64, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_the_limit_is_one_events_not_the_streams(size: int, end: bytes) -> None:
    """What is counted as held is given back: ten thousand bytes of small events pass."""
    event = b": c" + end * 2 + b"event: e" + end + b"data: a" + end + b"data: b" + end * 2
    body = BOM + event * 300
    decoder = Decoder(LIMIT if size < LIMIT else LIMIT + size)
    seen = [
        each
        for place in range(0, len(body), size)
        for each in decoder.feed(body[place : place + size])
    ]
    assert seen == [(b"e", b"a\nb")] * 300
    assert decoder.close() == []


def test_a_megabyte_in_small_pieces_costs_its_length_once() -> None:
    """Pieces of an unfinished line are kept as they come, and joined once, at its end."""
    decoder = Decoder()
    line = b"data: " + b"x" * 1_000_000
    pieces = [line[place : place + 100] for place in range(0, len(line), 100)]
    for number, piece in enumerate(pieces, 1):
        assert decoder.feed(piece) == []
        if number > 1:  # the first may still be looked at for a byte order mark
            assert decoder._partial[-1] is piece
        assert len(decoder._partial) == number
    assert decoder.feed(b"\n") == []
    assert not decoder._partial
    assert decoder.feed(b"\n") == [(b"", b"x" * 1_000_000)]
