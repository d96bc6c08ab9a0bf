"""The short cut for text: it gives what the usual way gives, however the bytes come."""

import asyncio
import gc
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from legato.core.stream import State
from legato.fastpath.lane import Lane
from legato.fastpath.template import Habit
from legato.upstreams import response as answer
from legato.upstreams.connection import SHARE
from tests.support.through import (
    END,
    IDENTITY,
    WAYS,
    Through,
    chunks,
    event,
    of_another,
    played,
    second,
    text,
    words,
)

STREAMS: dict[str, list[bytes]] = {
    "words": words(40),
    "sizes of two, three and four digits": text(
        *("x" * size for size in (*range(1, 140), 3900, 3950, 4000, 5000, 3, 4))
    ),
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
    """The reads that went the short way."""
    seen: list[bytes] = []

    def watched(take: Callable[[Lane, bytes], bool]) -> Callable[[Lane, bytes], bool]:
        def watching(self: Lane, data: bytes) -> bool:
            done = take(self, data)
            if done:
                seen.append(data)
            return done

        return watching

    monkeypatch.setattr(Lane, "take", watched(Lane.take))
    monkeypatch.setattr(Lane, "take_all", watched(Lane.take_all))
    return seen


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "options",
    [{}, {"keeps": False}, {"pads": True}, {"wants_usage": True}, {"tags": True, "pads": True}],
    ids=repr,
)
@pytest.mark.parametrize("earlier", ["no earlier answer", "an earlier answer", "another one"])
def test_a_client_reads_the_same(
    name: str,
    way: str,
    earlier: str,
    options: dict[str, Any],
    taken: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("legato.upstreams.connection.SHARE", 1 << 20)  # no read is shared out
    reads = WAYS[way]([*STREAMS[name], *END])
    habit = Habit()
    if earlier != "no earlier answer":
        before = STREAMS[name if earlier == "an earlier answer" else "another fingerprint"]
        played(chunks([of_another(each) for each in [*before, *END]]), habit)
        taken.clear()
    short = played(reads, habit, **options).told
    if way == "a chunk a read" and name != "two events a chunk":
        assert taken, "the short way was never gone"
    with monkeypatch.context() as patched:
        patched.setattr(answer, "between", lambda *_: None)
        usual = played(reads, **options).told
    assert short == usual
    assert short[1] is State.COMPLETE


def test_what_one_answer_taught_the_next_one_knows(taken: list[bytes]) -> None:
    """From its second word on, however short it is."""
    habit = Habit()
    played(chunks([of_another(each) for each in [*words(3), *END]]), habit)
    assert len(taken) == 2
    taken.clear()
    role = event({"role": "assistant", "content": ""})
    assert played(chunks([role, *words(5), *END]), habit).stream.state is State.COMPLETE
    assert len(taken) == 4


@pytest.mark.parametrize(
    ("identity", "created"),
    [("1700000000", 1700000000), ("m", 5), ("x", 0), ("~legato: text~", 1700000000)],
)
def test_an_answer_whose_constants_are_no_marks(
    identity: str, created: int, taken: list[bytes]
) -> None:
    """What stands in an event more than once, or looks like a text, is not taken for one."""

    def odd(events: list[bytes]) -> list[bytes]:
        said = json.dumps(identity).encode()
        return [
            each.replace(f'"{IDENTITY}"'.encode(), said).replace(b"1700000000", b"%d" % created)
            for each in events
        ]

    habit = Habit()
    for events in (odd([*words(12), *END]), [*words(12), *END], odd([*words(12), *END])):
        through = played(chunks(events), habit)
        assert through.stream.state is State.COMPLETE
        kept = through.stream.kept
        assert kept is not None
        assert kept.delivered.content == "".join(f"word{each} " for each in range(12))


def test_thoughts_between_tags_go_the_short_way(taken: list[bytes]) -> None:
    events = text(
        "<think>", "hm", *("hm " for _ in range(20)), "</think>", *("a " for _ in range(20))
    )
    through = played(chunks([*events, *END]), tags=True)
    assert through.stream.timings.reasoning == 21
    assert len(taken) >= 38


def test_what_is_one_answers_own_is_not_said_of_the_next() -> None:
    """A time of its own that happens to be the answer's."""

    def timed(events: list[bytes], time: int) -> list[bytes]:
        first = event({"role": "assistant", "content": ""}).replace(b"1700000000", b"%d" % time)
        return [
            first,
            *(each.replace(b'"created": 1700000000', b'"at": %d' % time) for each in events),
        ]

    habit = Habit()
    played(chunks(timed([*words(12), *END], 1700000000)), habit)
    later = played(chunks(timed([*words(12), *END], 1700000077)), habit)
    assert later.frames.count(b'"at":1700000077') == 14
    assert b"1700000000" not in later.frames


def test_half_a_letter_is_the_upstreams_failure_as_ever(taken: list[bytes]) -> None:
    through = played(chunks(words(16)))
    assert taken
    through.connection.data_received(chunks([words(1)[0].replace(b"word0", b"wor\xc3")])[0])
    assert through.failures


def test_what_only_looks_like_a_chunk_is_text_of_a_longer_one(taken: list[bytes]) -> None:
    """The framing of a chunk inside another chunk's body is no framing."""
    plain = chunks(words(16))
    inner = plain[12]
    long = b"%x\r\n: %b\n\n\r\n" % (len(inner) + 4, inner)
    through = Through()
    for read in (*plain[:12], long[:6], inner, long[6 + len(inner) :], *plain[13:]):
        through.connection.data_received(read)
    assert through.frames.count(b"word12") <= 1
    assert through.writer.frames <= 17


@pytest.mark.parametrize("what", ["a pause", "a client that leaves", "another upstream"])
def test_what_ends_the_short_way(what: str, taken: list[bytes]) -> None:
    through = played(chunks(words(16)))
    assert taken
    frames = len(through.client.written)
    if what == "a pause":
        through.stream.look_at_each()
        through.writer.pause()
    elif what == "a client that leaves":
        through.stream.detach()
    else:
        through.stream.go_on()
    taken.clear()
    through.connection.data_received(chunks(words(1))[0])
    assert not taken
    assert (len(through.client.written) > frames) == (what == "another upstream")
    assert through.stream.timings.pieces == 17
    assert through.writer.frames == 17 + (what == "another upstream")
    assert through.writer.size == len(through.frames)


@pytest.mark.parametrize("options", [{"running_usage": dict}, {"is_chunked": False}])
def test_a_client_for_whom_there_is_no_short_way(
    options: dict[str, Any], taken: list[bytes]
) -> None:
    played(chunks([*words(20), *END]), **options)
    assert not taken


@pytest.mark.parametrize("at_once", [2, 3, 7, 16])
def test_several_chunks_a_read_go_the_short_way(at_once: int, taken: list[bytes]) -> None:
    sent = chunks([*words(1 + 16 * at_once), *END])
    reads = [sent[0], *(b"".join(sent[at : at + at_once]) for at in range(1, len(sent), at_once))]
    through = Through()
    through.stream.kept = None
    for read in reads:
        through.connection.data_received(read)
    assert taken == reads[1:-1]
    assert through.frames.count(b"word") == through.stream.timings.pieces == 1 + 16 * at_once
    assert through.writer.frames == 1 + through.stream.timings.pieces + 1  # a role, a finish
    assert through.writer.size == len(through.frames)


#: What stands among chunks of text in one read.
AMONG: dict[str, bytes] = {
    "another size": chunks(words(1))[0].replace(b"\r\n", b"0\r\n", 1),
    "a comment": chunks([b": ping\n\n"])[0],
    "another event": chunks([event({"refusal": "no"})])[0],
    "an empty text": chunks(text(""))[0],
    "two events": chunks([b"".join(words(2))])[0],
    "not JSON": chunks([event({"content": "~"}).replace(b"~", b"\\q")])[0],
    "a line's end of another kind": chunks(text("\u2028"))[0],
}


@pytest.mark.parametrize("name", AMONG)
@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_all_of_a_read_or_none(name: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = chunks(words(8))
    between = [*sent[4:]]
    between.insert(at, AMONG[name])
    reads = [*sent[:4], b"".join(between), *chunks(END)]

    def ended() -> tuple[Any, ...]:
        through = Through()
        through.stream.kept = None
        for read in reads:
            through.connection.data_received(read)
        stream = through.stream
        failures = [str(each) for each in through.failures]
        return through.frames, stream.state, stream.timings.pieces, through.writer.frames, failures

    short = ended()
    monkeypatch.setattr(answer, "between", lambda *_: None)
    assert short == ended()


async def test_a_long_read_is_shared_out_over_turns() -> None:
    events = [event({"content": "x" * 1000}) for _ in range(SHARE // 200)]
    through = Through()
    through.connection.data_received(b"".join(chunks([*events, *END])))
    first = through.stream.timings.pieces
    assert 0 < first < 40
    while not through.stream.done:
        seen = through.stream.timings.pieces
        await asyncio.sleep(0)
        assert through.stream.timings.pieces - seen < 40
    assert through.stream.timings.pieces == len(events)
