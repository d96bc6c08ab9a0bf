"""The fast path is invisible: generated conversations come out the same with it and without it.

`scripts/fuzz` checks a million of them.
"""

import os
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from legato.core.stream import Stream
from legato.fastpath.splice import Splice
from legato.fronts.chat_writer import ChatWriter
from legato.fronts.messages_blocks import BlockSequence
from legato.fronts.messages_relay import RelayedEvents
from legato.fronts.messages_writer import MessagesWriter
from legato.fronts.responses_writer import ResponsesWriter
from tests.support.oracle import conversation as parts
from tests.support.oracle.batch import check_many
from tests.support.oracle.compare import check, difference
from tests.support.oracle.conversation import (
    Action,
    Block,
    Conversation,
    Deployment,
    Exchange,
    FrontName,
    Script,
)
from tests.support.oracle.generate import conversation, drawn
from tests.support.oracle.play import Outcome, Plan, play
from tests.support.oracle.shrink import shrunk
from tests.support.oracle.summary import PROPERTY, SEED

SHARDS: Final = 4
CONVERSATIONS: Final = 20_000

#: The seed of tests that must find something each time.
FIXED: Final = 77

FRONTS: Final[tuple[FrontName, ...]] = ("chat", "messages", "responses", "completions")

BOM: Final = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "shard",
    [pytest.param(each, marks=pytest.mark.xdist_group(f"oracle {each}")) for each in range(SHARDS)],
)
def test_generated_conversations(shard: int, record_property: Callable[..., None]) -> None:
    seed = int(os.environ[SEED])
    numbers = range(shard, CONVERSATIONS, SHARDS)
    record_property(PROPERTY, (len(numbers), check_many(seed, numbers), seed))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_conversations_that_hypothesis_shrinks(source: Random) -> None:
    one = drawn(source)
    note(repr(one))
    check(one)


# Answers written out


def event(
    delta: bytes, *, number: int = 1, finish: bytes = b"null", created: bytes = b"1750000000"
) -> bytes:
    head = b'data: {"id":"chatcmpl-%d","object":"chat.completion.chunk","created":%b,"model":"m",'
    choice = b'"choices":[{"index":0,"delta":%b,"finish_reason":%b}]}\n\n'
    return head % (number, created) + choice % (delta, finish)


def answer(number: int = 1, *, created: bytes = b"1750000000") -> list[bytes]:
    """The events of an answer of fourteen words."""
    deltas = [b'{"role":"assistant","content":""}']
    deltas += [b'{"content":"word%d "}' % each for each in range(14)]
    events = [event(each, number=number, created=created) for each in deltas]
    last = event(b"{}", number=number, created=created, finish=b'"stop"')
    return [*events, last, b"data: [DONE]\n\n"]


def spoken(*answers: list[bytes], **options: Any) -> Conversation:
    """One call for each answer, an event an HTTP chunk, a chunk a read."""
    scripts = [[[Script([Block(each) for each in events])]] for events in answers]
    return Conversation([Exchange(scripts=each) for each in scripts], **options)


def with_bom(at: int) -> list[bytes]:
    events = answer(2)
    events[at] = BOM + events[at]
    return events


def with_event(at: int, odd: bytes) -> list[bytes]:
    events = answer(2)
    events.insert(at, odd)
    return events


MEMBERS: Final = (
    b'data: {"citations":["a"]}\n\n',
    b'data: {"id":"chatcmpl-2","choices":[],"citations":["a"]}\n\n',
    b'data: {"id":"chatcmpl-2","object":"chat.completion.chunk","created":1750000000,"model":"m",'
    b'"citations":["a"]}\n\n',
)


@pytest.mark.parametrize("at", [1, 2, 7, 15, 16])
@pytest.mark.parametrize("answers", [0, 1, 2])
def test_a_byte_order_mark_in_mid_stream(at: int, answers: int) -> None:
    """It is part of a field's name there, behind however many answers of the same upstream."""
    one = spoken(*map(answer, range(answers)), with_bom(at))
    row = check(one)[-1].row
    assert row is not None
    assert row["outcome"] == ("failed" if at == 15 else "complete")


@pytest.mark.parametrize("at", [1, 2, 7, 14])
@pytest.mark.parametrize("members", MEMBERS)
def test_members_without_a_choice_in_mid_stream(at: int, members: bytes) -> None:
    """They go out with the next frame."""
    for answers in range(3):
        outcomes = check(spoken(*map(answer, range(answers)), with_event(at, members)))
        frames = body(outcomes[-1])
        assert frames.count(b'"citations":["a"]') == 1
        assert frames.count(b"word") == 14


@pytest.mark.parametrize("created", [b"0170000000", b"0175000000", b"01750000000"])
def test_a_time_with_a_leading_zero(created: bytes) -> None:
    """It is no JSON, in one event as in all of them."""
    for answers in range(3):
        before = [answer(each, created=b"175000000%d" % each) for each in range(answers)]
        for odd in (
            answer(created=created),
            with_event(7, event(b'{"content":"odd"}', number=2, created=created)),
        ):
            row = check(spoken(*before, odd))[-1].row
            assert row is not None
            assert row["error"] == "upstream_malformed"


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("dialect", ["anthropic", "gemini", "openai", "openai-responses"])
def test_text_is_escaped_alike(dialect: str, front: FrontName) -> None:
    """Where an event is encoded anew, its text is, whatever escapes its upstream writes."""
    texts = [b'"word "'] * 4 + [
        rb'"\u00e9"',
        rb'"a\/b"',
        rb'"\u2028"',
        b'"\xe2\x80\xa8"',
        b'"\x7f"',
    ]
    forms = {
        "anthropic": b'data: {"type":"content_block_delta","index":0,"delta":'
        b'{"type":"text_delta","text":%b}}\n\n',
        "gemini": b'data: {"candidates":[{"content":{"parts":[{"text":%b}]},"index":0}]}\n\n',
        "openai": b'data: {"choices":[{"index":0,"delta":{"content":'
        b'[{"type":"text","text":%b}]}}]}\n\n',
        "openai-responses": b'data: {"type":"response.output_text.delta","delta":%b}\n\n',
    }
    one = spoken(
        [forms[dialect] % each for each in texts], deployments=[Deployment(dialect=dialect)]
    )
    one.exchanges[0].front = front
    check(one)


def test_an_upstream_that_breaks_behind_its_finish_and_one_that_has_nothing_to_add() -> None:
    """The call is over, and the finish of the first is none of the second's answer."""
    error = b'data: {"error":{"message":"it broke"}}\n\n'
    first = Script([Block(each) for each in [*answer()[:-1], error]])
    for second in (Script(), Script(end="lost"), Script([Block(b"data: [DONE]\n\n")])):
        one = Conversation(
            [Exchange(scripts=[[first], [second]])], [Deployment(), Deployment("sglang")]
        )
        (outcome,) = check(one)
        assert outcome.row is not None
        assert outcome.row["outcome"] == "failed"


@pytest.mark.parametrize("front", ["messages", "responses"])
def test_another_upstream_answers_where_the_first_event_is_not_utf_8(front: FrontName) -> None:
    """Events that are relayed wait for the answer to begin; it must not begin with one of these."""
    text = {
        "messages": b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
        b'"text":"a"},"x":"\xff"}\n\n',
        "responses": b'data: {"type":"response.output_text.delta","delta":"a","x":"\xff"}\n\n',
    }
    dialect = {"messages": "anthropic", "responses": "openai-responses"}[front]
    scripts = [[Script([Block(text[front])])], [Script([Block(each) for each in answer()])]]
    for gate_seconds in (0.0, 5.0):
        one = Conversation(
            [Exchange(front, scripts=scripts)],
            [Deployment(dialect=dialect), Deployment()],
            gate_seconds=gate_seconds,
        )
        (outcome,) = check(one)
        assert outcome.row is not None
        assert outcome.row["outcome"] == "complete"
        assert body(outcome).count(b"word") >= 14
        assert outcome.row["duration"] < 1


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("value", [b"1e400", b"NaN", rb'"\ud83d"'])
def test_a_member_that_strict_decoders_refuse(value: bytes, front: FrontName) -> None:
    """It does not break the fast path's first look at a choice."""
    for at in (3, 7):
        one = spoken(with_event(at, event(b'{"x":%b,"content":"odd"}' % value, number=2)))
        one.exchanges[0].front = front
        row = check(one)[-1].row
        assert row is not None
        assert row["outcome"] == "complete"


# The harness


def body(outcome: Outcome) -> bytes:
    return b"".join(data for _, data in outcome.client)


def test_what_is_played() -> None:
    (outcome,) = check(spoken(answer()))
    frames = body(outcome).split(b"\n\n")
    assert len(frames) == 1 + 14 + 1 + 1 + 1 + 1  # role, words, finish, usage, [DONE], nothing
    steps = [step for step, _ in outcome.client]
    assert len(set(steps)) == 14 + 1  # each word leaves in the step in which it comes
    assert outcome.row is not None
    assert outcome.row["outcome"] == "complete"
    assert outcome.row["frames"] == 17
    assert outcome.row["bytes"] == len(body(outcome))
    assert outcome.row["longest_gap"] == 1 / 64
    ((deployment, request),) = outcome.requests
    assert deployment == 0
    assert b'"model":"theirs"' in request


def test_a_client_that_pauses_gets_coalesced_frames() -> None:
    one = spoken(answer())
    blocks = one.exchanges[0].scripts[0][0].blocks
    blocks[4].before = (Action("pause"),)
    blocks[9].before = (Action("resume"),)
    (outcome,) = check(one)
    assert b'"content":"word3 word4 word5 word6 word7 "' in body(outcome)


def test_a_client_that_leaves_closes_the_upstream() -> None:
    one = spoken(answer())
    one.exchanges[0].scripts[0][0].blocks[5].before = (Action("leave"),)
    (outcome,) = check(one)
    assert outcome.row is not None
    assert outcome.row["outcome"] == "cancelled"
    assert "connection 0 is closed" in [what for _, what in outcome.notes]


def test_an_answer_that_is_continued() -> None:
    cut = Script([Block(each) for each in answer()[:8]], end="lost")
    rest = Script([Block(each) for each in answer()[8:]])
    one = Conversation(
        [Exchange(scripts=[[cut], [rest]])], [Deployment("vllm"), Deployment("llama.cpp")]
    )
    (outcome,) = check(one)
    assert [deployment for deployment, _ in outcome.requests] == [0, 1]
    continued = msgspec.json.decode(outcome.requests[1][1].partition(b"\r\n\r\n")[2])
    text = "".join(f"word{each} " for each in range(7))
    assert continued["messages"][-1] == {"role": "assistant", "content": text}
    assert body(outcome).count(b"word") == 14


def test_time_passes_for_heartbeats_and_limits() -> None:
    one = spoken(answer()[:3])
    script = one.exchanges[0].scripts[0][0]
    script.end = "silent"
    (outcome,) = check(one)
    assert body(outcome).count(b": keep-alive") == 5
    assert outcome.row is not None
    assert outcome.row["error"] == "upstream_stalled"


def test_the_fast_path_takes_a_good_part_of_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else there would be nothing to compare."""
    taken = texts = 0
    take, note_text = Splice.take, Stream.note_text

    def counted(self: Splice, event: bytes) -> bool:
        nonlocal taken
        is_taken = take(self, event)
        taken += is_taken
        return is_taken

    def noted(self: Stream, *values: Any) -> None:
        nonlocal texts
        texts += 1
        note_text(self, *values)

    monkeypatch.setattr(Splice, "take", counted)
    monkeypatch.setattr(Stream, "note_text", noted)
    for number in range(300):
        play(Plan.of(conversation(FIXED, number)), "fast path")
    assert taken > texts / 5
    before = taken
    for number in range(50):
        play(Plan.of(conversation(FIXED, number)), "decode everything")
    assert taken == before


@pytest.mark.parametrize("writer", [MessagesWriter, ResponsesWriter])
def test_the_fast_path_takes_a_good_part_of_what_is_relayed(
    writer: type[MessagesWriter | ResponsesWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = relayed = 0
    event_writer, relay = writer.event_writer, writer.relay

    def counting(self: Any, event: bytes) -> Any:
        write = event_writer(self, event)

        def counted(quoted: bytes, event: bytes) -> None:
            nonlocal taken
            taken += 1
            assert write is not None
            write(quoted, event)

        return counted if write is not None else None

    def counted_relay(self: Any, name: bytes, data: bytes) -> None:
        nonlocal relayed
        relayed += b"delta" in data
        relay(self, name, data)

    monkeypatch.setattr(writer, "event_writer", counting)
    monkeypatch.setattr(writer, "relay", counted_relay)
    for number in range(600):
        play(Plan.of(conversation(FIXED, number)), "fast path")
    assert taken > relayed / 8


def test_a_conversation_can_be_made_again() -> None:
    for number in range(200):
        one = conversation(FIXED, number)
        assert one == conversation(FIXED, number)
        assert eval(repr(one), vars(parts)) == one
    assert conversation(FIXED, 0) != conversation(FIXED + 1, 0)


# Faults that the fast path might have


def skips_a_mark(patch: pytest.MonkeyPatch) -> None:
    take = Splice.take
    patch.setattr(Splice, "take", lambda self, event: take(self, event.removeprefix(BOM)))


def passes_over_members(patch: pytest.MonkeyPatch) -> None:
    take = Splice.take

    def taken(self: Splice, event: bytes) -> bool:
        return take(self, event) or (self.is_open and b"citations" in event)

    patch.setattr(Splice, "take", taken)


def takes_a_leading_zero(patch: pytest.MonkeyPatch) -> None:
    take = Splice.take

    def taken(self: Splice, event: bytes) -> bool:
        return take(self, event.replace(b'"created":0', b'"created":'))

    patch.setattr(Splice, "take", taken)


def never_closes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Splice, "close", lambda self: None)


def drops_members(patch: pytest.MonkeyPatch) -> None:
    writer = ChatWriter.text_writer

    def writes(self: ChatWriter, chunk: Any, raw: Any) -> Any:
        return writer(self, replace(chunk, extras=b""), raw)

    patch.setattr(ChatWriter, "text_writer", writes)


def counts_no_frames(patch: pytest.MonkeyPatch) -> None:
    text_writer = ChatWriter.text_writer

    def writes(self: ChatWriter, chunk: Any, raw: Any) -> Any:
        write = text_writer(self, chunk, raw)

        def wrong(quoted: bytes, event: bytes) -> None:
            assert write is not None
            write(quoted, event)
            self.frames -= 1

        return wrong if write is not None else None

    patch.setattr(ChatWriter, "text_writer", writes)


def counts_thoughts_as_text(patch: pytest.MonkeyPatch) -> None:
    enter = Stream.enter_fast_path

    def entered(self: Stream, fast_path: Any, *event: Any) -> Any:
        fast_path._is_reasoning = False
        return enter(self, fast_path, *event)

    patch.setattr(Stream, "enter_fast_path", entered)


def relays_numbers_as_they_came(patch: pytest.MonkeyPatch) -> None:
    event_writer = ResponsesWriter.event_writer

    def writes(self: ResponsesWriter, event: bytes) -> Any:
        write = event_writer(self, event)

        def wrong(quoted: bytes, event: bytes) -> None:
            assert write is not None
            write(quoted, event)
            self._parts[-1] = event

        return wrong if write is not None else None

    patch.setattr(ResponsesWriter, "event_writer", writes)


def notes_no_text_that_it_relays(patch: pytest.MonkeyPatch) -> None:
    event_writer = ResponsesWriter.event_writer

    def writes(self: ResponsesWriter, event: bytes) -> Any:
        write = event_writer(self, event)
        found = self._items.open_part(is_reasoning=False)

        def wrong(quoted: bytes, event: bytes) -> None:
            assert write is not None
            assert found is not None
            before = bytes(found[1].text)
            write(quoted, event)
            found[1].text[:] = before

        return wrong if write is not None else None

    patch.setattr(ResponsesWriter, "event_writer", writes)


def relays_behind_half_of_a_pair(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RelayedEvents, "is_plain", True)


def forgets_thoughts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BlockSequence, "note_thinking", lambda self, text: None)


FAULTS: Final[tuple[Callable[[pytest.MonkeyPatch], None], ...]] = (
    skips_a_mark,
    passes_over_members,
    takes_a_leading_zero,
    never_closes,
    drops_members,
    counts_no_frames,
    counts_thoughts_as_text,
    relays_numbers_as_they_came,
    notes_no_text_that_it_relays,
    relays_behind_half_of_a_pair,
    forgets_thoughts,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: each.__name__)
def test_a_fault_is_found_and_made_small(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError) as failure:
        check_many(FIXED, range(5000))
    monkeypatch.undo()
    _, _, rest = str(failure.value).partition("Conversation(")
    small = eval("Conversation(" + rest.partition("\n\n")[0], vars(parts))
    assert sum(len(script.blocks) for each in small.exchanges for script in each.scripts[0]) <= 8
    assert difference(small) is None
    fault(monkeypatch)
    assert difference(small) is not None


def test_the_smallest_of_a_failure_without_cause_is_one_call() -> None:
    assert shrunk(conversation(FIXED, 1), lambda each: True).exchanges == [Exchange(scripts=[[]])]
