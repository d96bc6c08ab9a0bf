"""What an upstream says in each of its answers is compared, not read; and what comes of it is the
same."""

import gc
import itertools
import json
from typing import Any

import pytest

from legato.core.chunk import Chunk
from legato.core.stream import State
from legato.dialects.openai import Reader
from legato.fastpath.formula import Cut, Formulas
from legato.fastpath.template import Habit
from tests.support.through import WAYS, Through, chunks, event, of_another, played, text, words


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Any:
    """Once for all: after each test it would take longer than they do."""
    yield
    gc.collect()


# Bytes and their marks


@pytest.mark.parametrize("marks", [(b"17", b'"id"'), (b'"id"', b"17"), (b"17",), (b'"id"',), ()])
def test_what_was_cut_is_filled_again(marks: tuple[bytes, ...]) -> None:
    whole = b'{"a":"id","b":17,"c":"100%d %% %b"}'
    cut = Cut.of(whole, marks)
    assert cut is not None
    assert cut.filled(marks) == whole
    assert cut.marks(whole) == marks
    others = tuple(b"mark %d" % number for number in range(len(marks)))
    another = cut.filled(others)
    assert another is not None
    assert cut.marks(another) == others
    assert cut.size == len(whole) - sum(map(len, marks))
    assert cut.filled((*marks, b"one more")) is None


@pytest.mark.parametrize(
    ("whole", "marks"),
    [
        (b"{a a}", (b"a",)),  # twice
        (b"{a}", (b"b",)),  # not at all
        (b"{ab}", (b"a", b"b")),  # nothing between them
        (b"{abc}", (b"abc", b"b")),  # one in the other
        (b"a}", (b"a",)),  # nothing before it
        (b"{a", (b"a",)),
    ],
)
def test_what_cannot_be_cut(whole: bytes, marks: tuple[bytes, ...]) -> None:
    assert Cut.of(whole, marks) is None


@pytest.mark.parametrize(
    "other", [b"", b"{", b'{"a":1}', b'{"a":1,"b":2}!', b'{"b":2}', b'["a":1,"b":2}']
)
def test_marks_of_something_else(other: bytes) -> None:
    cut = Cut.of(b'{"a":1,"b":2}', (b"1", b"2"))
    assert cut is not None
    assert cut.marks(other) is None


# Answers

ROLE = event({"role": "assistant", "content": ""})
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
DONE = b"data: [DONE]\n\n"
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def usage_event(usage: Any) -> bytes:
    said = json.loads(event({})[6:]) | {"choices": [], "usage": usage}
    return b"data: %b\n\n" % json.dumps(said).encode()


BEGINNINGS: dict[str, list[bytes]] = {
    "a role": [ROLE],
    "a role with nulls": [event({"role": "assistant", "content": None, "refusal": None})],
    "a role with a text": [event({"role": "assistant", "content": "So: "})],
    "a role, a member that nobody knows": [event({"role": "assistant", "mood": "good"})],
    "a role with members at the top": [event({"role": "assistant"}, provider="p")],
    "a role with a fingerprint": [event({"role": "assistant"}, system_fingerprint="fp")],
    "a role with a usage": [event({"role": "assistant"}, usage=USAGE)],
    "two roles": [ROLE, ROLE],
    "a comment, a role": [b": here\n\n", ROLE],
    "no role": [],
}
MIDDLES: dict[str, list[bytes]] = {
    "words": words(4),
    "escapes": text("a\nb", '"', "\\n", "\t"),
    "thoughts": [event({"reasoning_content": "hm"}), *words(2)],
    "a call": [event({"tool_calls": [CALL]})],
    "text and a call": [*words(2), event({"tool_calls": [CALL]})],
    "nothing": [],
}
ENDINGS: dict[str, list[bytes]] = {
    "stop": [event({}, "stop"), DONE],
    "length, usage": [event({}, "length"), usage_event(USAGE), DONE],
    "another word": [event({}, "eos"), DONE],
    "tool calls": [event({}, "tool_calls"), DONE],
    "a fingerprint": [event({}, "stop", system_fingerprint="fp"), DONE],
    "with a usage": [event({}, "stop", usage=USAGE), DONE],
    "with a text": [event({"content": "!"}, "stop"), DONE],
    "with an empty text": [event({"content": ""}, "stop"), DONE],
    "with members of its own": [event({}, "stop", took=0.3), DONE],
    "twice": [event({}, "stop"), event({}, "stop"), DONE],
    "none": [DONE],
    "one that nobody knows": [event({}, "tired"), DONE],
}


def end_of(through: Through) -> tuple[Any, ...]:
    stream = through.stream
    failures = [str(each) for each in through.failures]
    return (*through.told, stream.usage, failures, bool(stream.done))


def ended(events: list[bytes], habit: Habit | None, way: str = "a chunk a read") -> tuple[Any, ...]:
    through = Through(habit, wants_usage=True)
    for read in WAYS[way](events):
        through.connection.data_received(read)
    return end_of(through)


@pytest.mark.parametrize("middle", MIDDLES)
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_second_answer_is_as_if_it_were_the_first(
    beginning: str, middle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.upstreams.connection.SHARE", 1 << 20)  # no read is shared out
    for ending, way in itertools.product(ENDINGS, ["a chunk a read", "two chunks a read"]):
        habit = Habit()
        events = [*BEGINNINGS[beginning], *MIDDLES[middle], *ENDINGS[ending]]
        for _ in range(2):
            ended([of_another(each) for each in events], habit)
        assert ended(events, habit, way) == ended(events, None, way), (ending, way)
    # What was learnt of all of these endings is known at each of them.
    habit = Habit()
    for each in (*ENDINGS, *ENDINGS):
        events = [*BEGINNINGS[beginning], *MIDDLES[middle], *ENDINGS[each]]
        assert ended(events, habit) == ended(events, None), each


@pytest.mark.parametrize(
    ("before", "after"), list(itertools.permutations(["a role", "two roles", "no role"], 2))
)
@pytest.mark.parametrize("middles", list(itertools.permutations(MIDDLES, 2)), ids=repr)
def test_an_answer_that_goes_otherwise(before: str, after: str, middles: tuple[str, str]) -> None:
    habit = Habit()
    for _ in range(2):
        events = [*BEGINNINGS[before], *MIDDLES[middles[0]], *ENDINGS["stop"]]
        ended([of_another(each) for each in events], habit)
    for ending in ("stop", "tool calls", "length, usage"):
        events = [*BEGINNINGS[after], *MIDDLES[middles[1]], *ENDINGS[ending]]
        assert ended(events, habit) == ended(events, None)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The events that were decoded."""
    found: list[bytes] = []
    reads = Reader.read

    def watched(self: Reader, name: bytes, data: bytes) -> Chunk | None:
        found.append(data)
        return reads(self, name, data)

    monkeypatch.setattr(Reader, "read", watched)
    return found


def test_what_is_known_is_not_decoded(read: list[bytes]) -> None:
    habit = Habit()
    events = [ROLE, *words(5), *ENDINGS["length, usage"]]
    played(chunks([of_another(each) for each in events]), habit)
    assert len(read) > 5
    read.clear()
    assert played(chunks(events), habit).stream.state is State.COMPLETE
    assert read == [b"[DONE]"]


OTHER_USAGES: dict[str, bytes] = {
    "other numbers": usage_event({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}),
    "details": usage_event(USAGE | {"completion_tokens_details": {"reasoning_tokens": 2}}),
    "under other names": usage_event({"input_tokens": 9, "output_tokens": 4}),
    "none": usage_event(None),
    "an empty one": usage_event({}),
    "a word": usage_event("many"),
    "a number": usage_event(3),
    "a list": usage_event([USAGE]),
    "half of one": usage_event(USAGE).replace(b"}}", b"}"),
    "too much": usage_event(USAGE).replace(b"}}", b"}}}"),
    "and a member": usage_event(USAGE).replace(b"}}", b'}, "a": {}}'),
    "and another usage": usage_event(USAGE).replace(b"}}", b'}, "usage": {"prompt_tokens": 7}}'),
    "and a choice": usage_event(USAGE).replace(b"}}", b'}, "choices": [{"delta": {}}]}'),
    "nested without an end": usage_event(USAGE).replace(b"}}", b', "a": ' + b"[" * 3000 + b"}}"),
    "not UTF-8": usage_event(USAGE).replace(b"}}", b', "\xff": 1}}'),
    "over two lines": usage_event(USAGE).replace(b", ", b",\n").replace(b"\n", b" ", 5),
    "a line that ends twice": usage_event(USAGE).replace(b"}}", b"\r}}"),
    "of another answer": of_another(usage_event(USAGE)),
}


@pytest.mark.parametrize("said", OTHER_USAGES)
def test_a_usage_that_is_said_otherwise(said: str) -> None:
    """What stands in its place is read, and nothing else is taken for one."""
    habit = Habit()
    usual = [ROLE, *words(3), *ENDINGS["length, usage"]]
    for _ in range(2):
        ended([of_another(each) for each in usual], habit)
    events = [ROLE, *words(3), event({}, "length"), OTHER_USAGES[said], DONE]
    assert ended(events, habit) == ended(events, None)
    assert ended(usual, habit) == ended(usual, None)


@pytest.mark.parametrize(
    "more",
    [{"system_fingerprint": "fp"}, {"provider": "p"}, {"took": [USAGE]}, {"completion_tokens": 3}],
)
def test_an_upstream_that_says_more_with_its_usage(more: dict[str, Any]) -> None:
    habit = Habit()
    with_more = json.loads(usage_event(USAGE)[6:]) | more
    last = b"data: %b\n\n" % json.dumps(with_more).encode()
    events = [ROLE, *words(3), event({}, "stop"), last, DONE]
    for _ in range(20):
        ended([of_another(each) for each in events], habit)
        assert ended(events, habit) == ended(events, None)
    assert habit.formulas.usages >= 0


def test_what_an_answer_is_called_is_known_without_decoding() -> None:
    reader = Reader(formulas := Formulas())
    reader.read(b"", of_another(ROLE)[6:-2])
    assert reader.identity == "chatcmpl-another"
    another = Reader(formulas)
    assert another.recall(ROLE[:-2]) is not None
    assert (another.identity, another.constants) == (
        "chatcmpl-41f",
        (b'"chatcmpl-41f"', b"1700000000"),
    )


@pytest.mark.parametrize(
    "event", [ROLE.replace(b'"chatcmpl-41f"', said) for said in (b"7", b'"a\\u', b'"', b"{}", b"")]
)
def test_an_opening_with_something_else_for_its_id_is_read(event: bytes) -> None:
    reader = Reader(formulas := Formulas())
    reader.read(b"", of_another(ROLE)[6:-2])
    assert Reader(formulas).recall(event[:-2]) is None


def test_a_call_that_was_never_named_is_not_ended_by_heart() -> None:
    habit = Habit()
    usual = [ROLE, *words(3), *ENDINGS["stop"]]
    played(chunks([of_another(each) for each in usual]), habit)
    unnamed = event({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})
    through = Through(habit)
    for part in chunks([ROLE, *words(3), unnamed, *ENDINGS["stop"]]):
        through.connection.data_received(part)
    assert "called a tool" in str(through.failures[0])


def test_an_upstream_that_never_ends_twice_alike() -> None:
    """Nothing grows with it."""
    habit = Habit()
    for number in range(50):
        last = event({}, "stop", system_fingerprint=f"fp{number}")
        played(chunks([ROLE, *words(2), last, DONE]), habit)
    assert len(habit.formulas._finishes) == 8


def test_long_events_are_not_kept() -> None:
    habit = Habit()
    long = "x" * 5000
    role = event({"role": "assistant"}, system_fingerprint=long)
    played(chunks([role, *words(2), event({}, "stop", system_fingerprint=long), DONE]), habit)
    assert habit.formulas._opening is None
    assert not habit.formulas._finishes
