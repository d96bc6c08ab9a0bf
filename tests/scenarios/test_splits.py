"""Any stream of an upstream, legal or mended or broken, cut at any bytes, gives the same frames; an
answer that is not streamed is their fold.

The table is every script in every dialect. It is cut in 100,000 ways, or in as many as the
environment's TEST_SPLITS says: `TEST_SPLITS=1000000 scripts/test tests/test_splits.py`.
"""

import json
import os
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.damage import DAMAGES, Damage, Damaged, damage, damaged, one_of_all
from tests.support.pipeline import (
    LONG,
    PIECES,
    SCRIPTED,
    Got,
    as_http,
    cut,
    letters,
    pin,
    play,
    table,
    ways,
)
from tests.support.stream_order import Heard, Json

SPLITS = int(os.environ.get("TEST_SPLITS", "60000"))
TABLE = table()
BYTES = sum(len(each.body) for each in TABLE.values() if len(each.body) < 100_000)


@pytest.fixture(autouse=True)
def no_garbage() -> None:
    """Nothing here opens anything: no need to collect garbage after every case."""


@pytest.fixture(autouse=True)
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch)


def share(name: str) -> int:
    """In how many ways a body is cut: the longer it is, the more places there are."""
    size = len(TABLE[name].body)
    return 1 + (SPLITS * size // BYTES if size < 100_000 else SPLITS // 5_000)


def test_the_table_is_cut_often_enough() -> None:
    assert sum(map(share, TABLE)) >= SPLITS


@pytest.mark.parametrize("name", TABLE)
def test_a_script_cut_anywhere_gives_the_same(name: str) -> None:
    upstream = TABLE[name]
    body = upstream.body
    whole = play(upstream, [body])
    is_legal(whole)
    assert play(upstream, letters(body) if len(body) < 100_000 else [body[:1], body[1:]]) == whole
    made = 0
    for made, pieces in enumerate(ways(body, share(name), name), 1):
        got = play(upstream, pieces, late=made % 4, folds=made % 8 == 0)
        assert got.frames == whole.frames, pieces
        assert got.answer in (None, whole.answer), pieces
    assert made == share(name)


@pytest.mark.parametrize("script", LONG)
@pytest.mark.parametrize("dialect", SCRIPTED)
def test_long_answers_come_out_whole(dialect: str, script: str) -> None:
    upstream = TABLE[f"{dialect}, {script}"]
    heard = Heard(play(upstream, [upstream.body]).frames, "last")
    assert heard.text(member="reasoning_content") == "".join(PIECES)
    assert heard.text() == "".join(PIECES)


IN_HTTP = [
    *(f"{dialect}, happy" for dialect in SCRIPTED),
    *(
        f"openai, {name}"
        for name in ("tools", "utf8-split", "crlf", "gzip", "no-done", "bad-json", "cut", "stall")
    ),
    *(f"openai, {name}" for name in ("error-first", "error-body", "html", "429", "empty")),
]


@pytest.mark.parametrize("name", IN_HTTP)
def test_the_bytes_of_http_may_be_cut_as_well(name: str) -> None:
    upstream = TABLE[name]
    whole = play(upstream, [upstream.body])
    answer = as_http(upstream, name)
    assert play(upstream, [answer], over_http=True) == whole
    assert play(upstream, letters(answer), over_http=True) == whole
    for number, pieces in enumerate(ways(answer, 200, name)):
        assert play(upstream, pieces, late=number % 4, over_http=True) == whole, pieces


def is_legal(got: Got) -> None:
    """The frames are in order, and the other answer is what a client makes of them."""
    heard = Heard(got.frames, "last")
    answer: Json = json.loads(got.answer or b"")
    if heard.error is not None:
        assert answer == {"error": heard.error}
        return
    assert answer.pop("choices") == heard.choices
    assert answer.pop("usage") == heard.usage
    head = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "public"}
    assert answer == head | {"object": "chat.completion"} | heard.extras


# Streams that are made up

QUICK = settings(deadline=None, database=None, max_examples=150)
PLACES = st.lists(st.floats(0, 1), max_size=30)


def at(body: bytes, places: list[float]) -> list[bytes]:
    return cut(body, [int(place * len(body)) for place in places])


def comes_out_whole(upstream: Damaged) -> Got:
    got = play(upstream.sent, [upstream.sent.body])
    is_legal(got)
    heard = Heard(got.frames, "last")
    assert heard.usage == upstream.usage
    result = [
        {
            "content": each["message"]["content"] or "",
            "reasoning": each["message"].get("reasoning_content", ""),
            "calls": [
                [call["id"], *call["function"].values()]
                for call in each["message"].get("tool_calls", ())
            ],
            "finish": each["finish_reason"],
        }
        for each in heard.choices
    ]
    assert result == upstream.answers
    return got


@QUICK
@given(damaged(), PLACES)
def test_what_is_damaged_comes_out_whole_however_it_is_cut(
    upstream: Damaged, places: list[float]
) -> None:
    whole, sent = comes_out_whole(upstream), upstream.sent
    assert play(sent, letters(sent.body)) == whole
    assert play(sent, at(sent.body, places), late=len(places) // 2) == whole


@QUICK
@given(damaged(), st.floats(0, 1), st.sampled_from(["whole", "cut", "stalled"]), PLACES)
def test_what_breaks_off_gives_the_same_however_it_is_cut(
    upstream: Damaged, share: float, end: str, places: list[float]
) -> None:
    body = upstream.sent.body[: int(share * len(upstream.sent.body))]
    sent = msgspec.structs.replace(upstream.sent, body=body, end=end)
    whole = play(sent, [body])
    is_legal(whole)
    assert play(sent, letters(body)) == whole
    assert play(sent, at(body, places), late=len(places) // 2) == whole


@pytest.mark.parametrize("done", DAMAGES, ids=lambda each: each.__name__.replace("_", " "))
@settings(QUICK, max_examples=5)
@given(data=st.data())
def test_each_damage_is_one_and_is_mended(done: Damage, data: st.DataObject) -> None:
    unhurt = one_of_all(data.draw).sent().body
    upstream = damage(one_of_all(data.draw), {done})
    assert upstream.sent.body != unhurt
    comes_out_whole(upstream)


# The checker is worth something only if it can fail


def frame(*members: Json, **more: Any) -> bytes:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: %b\n\n" % json.dumps(head | {"choices": members} | more).encode()


def says(delta: Json, finish: str | None = None, index: int = 0) -> bytes:
    return frame({"index": index, "delta": delta, "finish_reason": finish})


ROLE = says({"role": "assistant", "content": ""})
WORD = says({"content": "a"})
STOP = says({}, "stop")
DONE = b"data: [DONE]\n\n"
BROKE = b'data: {"error":{"message":"","type":"","param":null,"code":""}}\n\n'
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}

ILLEGAL = {
    "nothing": b"",
    "no end": ROLE + WORD + STOP,
    "no finish": ROLE + WORD + DONE,
    "no role": WORD + STOP + DONE,
    "two roles": ROLE + ROLE + WORD + STOP + DONE,
    "a role with text": says({"role": "assistant", "content": "a"}) + STOP + DONE,
    "two finishes": ROLE + STOP + STOP + DONE,
    "text behind the finish": ROLE + STOP + WORD + DONE,
    "text in the finish": ROLE + says({"content": "a"}, "stop") + DONE,
    "a finish of its own": ROLE + says({}, "error") + DONE,
    "a hole in the indices": says({"role": "assistant", "content": ""}, index=1) + DONE,
    "one of two finished": ROLE + says({"role": "assistant", "content": ""}, index=1) + STOP + DONE,
    "something behind the end": ROLE + STOP + DONE + b": hello\n\n",
    "an end behind an error": ROLE + WORD + BROKE + DONE,
    "text behind an error": ROLE + BROKE + WORD,
    "a name": b"event: message\n" + ROLE + STOP + DONE,
    "an id": b"id: 1\n\n" + ROLE + STOP + DONE,
    "usage that nobody asked for": ROLE + STOP + frame(usage={}) + DONE,
    "usage null that nobody asked for": ROLE + frame(usage=None) + STOP + DONE,
    "another id": ROLE + STOP.replace(b'"x"', b'"y"') + DONE,
    "a raw separator": ROLE + WORD.replace(b'"a"', '"\u2028"'.encode()) + STOP + DONE,
    "half a character": ROLE + WORD.replace(b'"a"', b'"\xc5"') + STOP + DONE,
    "no blank line": ROLE + WORD[:-1] + STOP + DONE,
    "an id of a call twice": ROLE + says({"tool_calls": [CALL]}) * 2 + STOP + DONE,
    "a hole in the calls": ROLE + says({"tool_calls": [CALL | {"index": 1}]}) + STOP + DONE,
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_the_checker_sees_what_is_wrong(name: str) -> None:
    assert Heard(ROLE + WORD + STOP + DONE).text() == "a"
    with pytest.raises((AssertionError, UnicodeDecodeError)):
        Heard(ILLEGAL[name])
