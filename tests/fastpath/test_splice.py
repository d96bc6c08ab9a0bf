"""The fast path gives what decoding every event gives, however the bytes come."""

import asyncio
import gc
import itertools
from typing import Any

import pytest

from legato.core.stream import State
from legato.fastpath import splice
from legato.fastpath.splice import Splice
from legato.upstreams.connection import SHARE
from tests.support.relay import (
    END,
    WAYS,
    Relay,
    chunks,
    event,
    played,
    second,
    text,
    words,
)


def padded(events: list[bytes]) -> list[bytes]:
    """With more or fewer spaces before the last brace, as Anthropic has them."""
    return [
        each.removesuffix(b"}\n\n") + b" " * (number * 7 % 16) + b"}\n\n"
        for number, each in enumerate(events)
    ]


STREAMS: dict[str, list[bytes]] = {
    "spaces before the last brace": padded(words(40)),
    "a space behind the last brace": [each.replace(b"}\n\n", b"} \n\n") for each in words(40)],
    "padding of other lengths": [
        each.replace(b"}\n\n", b',"obfuscation":"%b"}\n\n' % (b"x" * (number % 7)))
        for number, each in enumerate(words(40))
    ],
    "words": words(40),
    "sizes of two, three and four digits": text(
        *("x" * size for size in (*range(1, 140), 3900, 3950, 4000, 5000, 3, 4))
    ),
    "what looks like a field's name": text(*(f"data: event: {each}" for each in range(40))),
    "escapes between": [*words(12), *text('"', "\\", "\n", "\t"), *words(12)],
    "other scripts": text(*("naïve", "東京", "👩‍🚀", " ", "\u2028", "é" * 90) * 3),
    "thoughts, then words": [
        *(event({"reasoning_content": f"hm{each}"}) for each in range(16)),
        *words(16),
    ],
    "another fingerprint": [
        *words(12),
        event({"content": "x"}, system_fingerprint="fp"),
        *words(12),
    ],
    "another choice's": [*words(12), second({"content": "x"}), *words(12), second({}, "stop")],
    "a call between": [
        *words(16),
        event({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f"}}]}),
        *words(16),
    ],
    "comments between": [*words(12), b": ping\n\n", *words(12), b":\n\n", *words(3)],
    "two events a chunk": [first + second for first, second in itertools.pairwise(words(20))],
    "thoughts between tags": text(
        "<think>",
        " ",
        *(f"hm{each} " for each in range(16)),
        "a < b ",
        "<",
        "b> ",
        *(f"hm{each} " for each in range(9)),
        "so.</th",
        "ink>",
        "\n",
        *("word " * 20).split(),
        "<think>no",
    ),
    "a tag that never closes": text("<think>hm", *(f" hm{each}" for each in range(16)), "</thin"),
    "no text in it": [*words(12), *text("", "", ""), *words(12)],
}


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Any:
    """Once for all: after each test it would take longer than they do."""
    yield
    gc.collect()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The events that the fast path took."""
    events: list[bytes] = []
    take = Splice.take

    def watched(self: Splice, event: bytes) -> bool:
        is_taken = take(self, event)
        if is_taken:
            events.append(event)
        return is_taken

    monkeypatch.setattr(Splice, "take", watched)
    return events


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing kept": {"keeps": False},
    "kept": {},
    "padding": {"pads": True},
    "usage": {"shows_usage": True},
}


#: Ways to cut in which an HTTP chunk comes whole in a read, framed as most servers do it.
FAST_WAYS = ("a chunk a read", "two chunks a read")


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("way", WAYS)
def test_a_client_reads_the_same(
    name: str, way: str, taken: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.upstreams.connection.SHARE", 1 << 20)  # no read is shared out
    reads = WAYS[way]([*STREAMS[name], *END])
    for options in OPTIONS.values():
        taken.clear()
        fast = played(reads, **options)
        assert fast.stream.state is State.COMPLETE
        if way in FAST_WAYS and name != "two events a chunk":
            assert len(taken) > 5, "the fast path was not taken"
        assert played(reads, fast_path=False, **options).told == fast.told


@pytest.mark.parametrize("tags", ["thoughts between tags", "a tag that never closes"])
def test_text_with_think_tags_is_decoded(tags: str, taken: list[bytes]) -> None:
    reads = chunks([*STREAMS[tags], *END])
    assert played(reads, tags=True).told == played(reads, tags=True, fast_path=False).told
    assert not taken


@pytest.mark.parametrize(
    "constant", ["word3 ", "~legato: text~", r"\"word3 \"", "w"], ids=lambda each: repr(each)
)
def test_constants_that_look_like_text(constant: str, taken: list[bytes]) -> None:
    """What stands in an event more than once, or looks like the probe, is not its text."""
    events = [each.replace(b"chatcmpl-41f", constant.encode()) for each in [*words(24), *END]]
    relay = played(chunks(events))
    assert relay.told == played(chunks(events), fast_path=False).told
    assert relay.stream.state is State.COMPLETE
    assert taken


def test_each_chunk_with_a_time_of_its_own(taken: list[bytes]) -> None:
    """Some upstreams count `created` up within an answer: a new pattern is learnt for each."""
    events = [
        each.replace(b"1700000000", b"%d" % (1700000000 + number // 12))
        for number, each in enumerate(words(60))
    ]
    assert played(chunks([*events, *END])).frames.count(b"word") == 60
    assert len(taken) == 55


def test_patterns_that_match_too_seldom_are_given_up(taken: list[bytes]) -> None:
    """Each of them matches three events, which is one fewer than earn another try."""
    events = [
        each.replace(b"1700000000", b"%d" % (1700000000 + number // 4))
        for number, each in enumerate(words(60))
    ]
    assert played(chunks([*events, *END])).frames.count(b"word") == 60
    assert len(taken) == 4 * 3


def test_spaces_before_the_last_brace_are_no_difference(taken: list[bytes]) -> None:
    events = padded(words(60))
    assert played(chunks([*events, *END])).frames.count(b"word") == 60
    assert len(taken) == 59


#: The end of these events behind their text, but for its last brace.
UNCLOSED = words(1)[0].partition(b"word0 ")[2].removesuffix(b"}\n\n")


@pytest.mark.parametrize(
    "last",
    [
        b'"},"finish_reason":null}], }\n\n',
        b'"},"finish_reason":null}]}\n',
        b'"} }\n\n',
        b'" }}]}\n\n',
        UNCLOSED + b", }\n\n",
        UNCLOSED + b"]}\n\n",
        UNCLOSED + b"X}\n\n",
        UNCLOSED + b"\n}\n\n",
        UNCLOSED + b" \n\n",
    ],
)
def test_what_only_looks_like_more_spaces_is_decoded(last: bytes, taken: list[bytes]) -> None:
    events = words(12)
    before, _, _ = events[-1].partition(b"word11")
    odd = [*events[:-1], before + b"odd" + last]
    relay, wanted = (played(chunks(odd), fast_path=each) for each in (True, False))
    assert relay.told == wanted.told
    assert not [each for each in taken if b"odd" in each]


def test_events_that_are_never_alike_are_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[bytes] = []
    learn = splice.learn
    monkeypatch.setattr(splice, "learn", lambda *each: tried.append(b"") or learn(*each))
    events = [
        each.replace(b"chatcmpl-41f", b"chatcmpl-%d" % number)
        for number, each in enumerate(words(60))
    ]
    assert played(chunks([*events, *END])).frames.count(b"word") == 60
    assert len(tried) == 4


def test_half_a_character_is_the_upstream_s_failure(taken: list[bytes]) -> None:
    relay = played(chunks(words(16)))
    assert taken
    relay.connection.data_received(chunks([words(1)[0].replace(b"word0", b"wor\xc3")])[0])
    assert relay.failures


def test_what_only_looks_like_an_http_chunk_is_text_of_a_longer_one() -> None:
    """Bytes inside an HTTP chunk's body that are framed like one are no chunk of their own."""
    plain = chunks(words(16))
    inner = plain[12]
    long = b"%x\r\n: %b\n\n\r\n" % (len(inner) + 4, inner)
    relay = Relay()
    for read in (*plain[:12], long[:6], inner, long[6 + len(inner) :], *plain[13:]):
        relay.connection.data_received(read)
    assert relay.frames.count(b"word12") <= 1
    assert relay.writer.frames <= 17


@pytest.mark.parametrize("what", ["a pause", "a client that leaves", "another upstream"])
def test_what_closes_the_fast_path(what: str, taken: list[bytes]) -> None:
    relay = played(chunks(words(16)))
    assert taken
    frames = len(relay.client.written)
    if what == "a pause":
        relay.stream.leave_fast_path()
        relay.writer.pause()
    elif what == "a client that leaves":
        relay.stream.unsubscribe()
    else:
        relay.stream.continue_elsewhere()
    taken.clear()
    relay.connection.data_received(chunks(words(1))[0])
    assert not taken
    assert (len(relay.client.written) > frames) == (what == "another upstream")
    assert relay.stream.timings.pieces == 17
    assert relay.writer.frames == 17 + (what == "another upstream")
    assert relay.writer.size == len(relay.frames)


def test_with_usage_in_every_chunk_each_is_decoded(taken: list[bytes]) -> None:
    played(chunks([*words(20), *END]), shows_usage=True, shows_running_usage=True)
    assert not taken


@pytest.mark.parametrize("at_once", [2, 3, 7, 16])
def test_the_frames_of_a_read_leave_in_one_write(at_once: int, taken: list[bytes]) -> None:
    sent = chunks([*words(1 + 16 * at_once), *END])
    reads = [sent[0], *(b"".join(sent[at : at + at_once]) for at in range(1, len(sent), at_once))]
    relay = Relay()
    before = len(relay.client.written)
    for read in reads:
        relay.connection.data_received(read)
    assert len(taken) == 16 * at_once
    assert len(relay.client.written) - before == len(reads)
    assert relay.frames.count(b"word") == relay.stream.timings.pieces == 1 + 16 * at_once
    assert relay.writer.frames == 1 + relay.stream.timings.pieces + 1  # a role, a finish
    assert relay.writer.size == len(relay.frames)


#: What stands among chunks of text in one read.
AMONG: dict[str, bytes] = {
    "another size": chunks(words(1))[0].replace(b"\r\n", b"0\r\n", 1),
    "a sign before the size": b"+" + chunks(words(1))[0],
    "a comment": chunks([b": ping\n\n"])[0],
    "another event": chunks([event({"refusal": "no"})])[0],
    "an empty text": chunks(text(""))[0],
    "two events": chunks([b"".join(words(2))])[0],
    "two lines, with a carriage return between": chunks(
        [words(1)[0].replace(b', "choices"', b',\rdata: "choices"')]
    )[0],
    "not JSON": chunks([event({"content": "~"}).replace(b"~", b"\\q")])[0],
    "white space in the place of a quote": chunks(
        [event({"content": "~"}).replace(b'"~"', b'\t"~"')]
    )[0],
    "a member in the text's place": chunks(
        [event({"content": "~"}).replace(b'"~"', b'"~", "z": "~"')]
    )[0],
    "a line's end of another kind": chunks(text("\u2028"))[0],
    "members without a choice": chunks([event({}).replace(b'"choices": [{', b'"x": [{')])[0],
    "a byte order mark": chunks([b"\xef\xbb\xbf" + words(1)[0]])[0],
    "a number that is none": chunks([words(1)[0].replace(b"1700000000", b"01700000000")])[0],
    "NaN": chunks([words(1)[0].replace(b"1700000000", b"NaN")])[0],
}


@pytest.mark.parametrize("name", AMONG)
@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_what_stands_among_chunks_of_text(name: str, at: int) -> None:
    sent = chunks(words(8))
    between = [*sent[4:]]
    between.insert(at, AMONG[name])
    for reads in ([*sent[:4], b"".join(between)], [*sent[:4], *between]):
        reads += chunks(END)
        assert played(reads).told == played(reads, fast_path=False).told


async def test_a_long_read_is_shared_out_over_turns() -> None:
    events = [event({"content": "x" * 1000}) for _ in range(SHARE // 200)]
    relay = Relay()
    relay.connection.data_received(b"".join(chunks([*events, *END])))
    first = relay.stream.timings.pieces
    assert 0 < first < 40
    while not relay.stream.done:
        before = relay.stream.timings.pieces
        await asyncio.sleep(0)
        assert relay.stream.timings.pieces - before < 40
    assert relay.stream.timings.pieces == len(events)
