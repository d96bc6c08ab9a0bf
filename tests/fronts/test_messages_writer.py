"""Frames of Messages: those of ours, those that are relayed, and what a slow client gets."""

import itertools
import json
import secrets
from typing import Any

import pytest

from legato.core.chunk import Chunk
from legato.core.dialect import Dialect
from legato.core.errors import bad_gateway
from legato.core.front import AnswerHead, WriterOptions
from legato.core.state import State
from legato.core.stream import Stream
from legato.dialects import anthropic, openai
from legato.fastpath.splice import Splice
from legato.fronts.messages_aggregator import MessagesAggregator
from legato.fronts.messages_writer import PING, MessagesWriter
from legato.mock import dialects as mock_dialects
from legato.mock.scripts import SCRIPTS
from legato.mock.steps import Script, Step
from legato.upstreams.connection import SHARE, Connection
from legato.upstreams.response import Response
from tests.fronts.test_messages_events import SIGNED, Sink, call, member, text_chunk
from tests.support.messages_order import MessagesBody, frames
from tests.support.pipeline import LONG, Sent, table
from tests.support.relay import HEAD as HTTP_HEAD
from tests.support.relay import WAYS, Side

Json = dict[str, Any]

HEAD = AnswerHead("msg_1", 1, "public")
USAGE: Json = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
CUT = bad_gateway("The upstream closed the connection.", code="upstream_cut")


def writer(**options: Any) -> tuple[MessagesWriter, Sink]:
    sink = Sink()
    return MessagesWriter(HEAD, WriterOptions(**options), sink), sink


def event(kind: str, **members: Any) -> Json:
    return {"type": kind, **members}


def wire(*events: Json) -> bytes:
    lines = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events]
    return "".join(lines).encode()


# One answer from an upstream's connection to a client's


class Relayed:
    """`told`: all that comes of an answer."""

    def __init__(self, dialect: Dialect, *, fast_path: bool, relays: bool) -> None:
        times = itertools.count()
        self.stream = Stream(lambda: next(times) / 1000, 0.0)
        self.stream.keep_delivered()
        self.stream.ask(relays=relays)
        self.writer, self.sink = writer()
        self.connection = Connection(Side())  # type: ignore[arg-type]
        self.connection.transport = Side()  # type: ignore[assignment]
        self.failures: list[Exception] = []
        response = Response(
            self.connection,
            self.stream,
            self.failures.append,
            dialect,
            (),
            fast_path=fast_path,
        )
        self.connection.send(b"", response)
        self.connection.data_received(HTTP_HEAD)
        self.fold: MessagesAggregator | None = None
        if fast_path:  # which serves one subscriber alone
            self.stream.subscribe(self.writer)
        else:
            self.fold = MessagesAggregator()
            self.stream.subscribe(self.writer, self.fold)

    @property
    def told(self) -> tuple[Any, ...]:
        delivered, timings = self.stream.delivered, self.stream.timings
        return (
            self.sink.body,
            self.stream.state,
            (self.writer.frames, self.writer.size),
            (timings.pieces, timings.reasoning),
            delivered.delivered if delivered is not None else None,
            [str(each) for each in self.failures],
        )


def played(
    reads: list[bytes], dialect: Dialect, *, fast_path: bool = True, relays: bool = False
) -> Relayed:
    relayed = Relayed(dialect, fast_path=fast_path, relays=relays)
    for read in reads:
        relayed.connection.data_received(read)
    return relayed


ESCAPED = Script(
    steps=[
        *(Step(say=each) for each in ("plain", "a\u2028b", 'q"', "\\", "\n", "é", "/", "\x7f")),
        *SCRIPTS["happy"].steps[-3:],
    ]
)
PLAYED = {
    **{name: SCRIPTS[name] for name in ("happy", "thinking", "tools", "separators")},
    **LONG,
    "escaped": ESCAPED,
}


def events_of(script: Script, name: str) -> list[bytes]:
    path, *_ = [path for path, dialect in mock_dialects.PATHS.items() if dialect == name]
    made = mock_dialects.for_path(path)
    assert made is not None
    dialect = made(script, {"model": "theirs"})
    return [part for step in script.steps if (part := dialect.encode(step))]


KINDS: list[tuple[str, Dialect, bool]] = [
    ("openai", openai, False),
    ("anthropic", anthropic, False),
    ("anthropic", anthropic, True),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("script", PLAYED)
@pytest.mark.parametrize(("name", "dialect", "relays"), KINDS)
def test_the_fast_path_changes_nothing(
    name: str, dialect: Dialect, relays: bool, script: str, way: str
) -> None:
    reads = WAYS[way](events_of(PLAYED[script], name))
    with_it = played(reads, dialect, relays=relays)
    without = played(reads, dialect, relays=relays, fast_path=False)
    assert with_it.told == without.told
    body = MessagesBody(with_it.sink.body)
    assert body.is_whole
    whole = MessagesBody(played([b"".join(reads)], dialect, relays=relays).sink.body)
    assert body.message == whole.message


def test_the_fast_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above says nothing. What is relayed stays as it came, spaces included."""
    taken: list[bytes] = []
    take = Splice.take

    def watched(self: Splice, given: bytes) -> bool:
        is_taken = take(self, given)
        taken.extend([given] * is_taken)
        return is_taken

    monkeypatch.setattr(Splice, "take", watched)
    texts = [wire(said(f"word{each}")) for each in range(9)]
    reads = WAYS["a chunk a read"]([wire(START), wire(TEXT), *texts])
    relayed = played(reads, anthropic, relays=True)
    assert b"".join(texts) in relayed.sink.body
    assert len(taken) == 8
    taken.clear()
    played(WAYS["a chunk a read"](events_of(SCRIPTS["happy"], "openai")), openai)
    assert len(taken) == 8


# Relayed events


START = event(
    "message_start",
    message={
        "model": "claude",
        "id": "msg_theirs",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 1},
        "new": 1.0,
    },
)
TEXT = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
STOP = event("content_block_stop", index=0)
DELTA = event(
    "message_delta",
    delta={"stop_reason": "end_turn", "stop_sequence": None},
    usage={"output_tokens": 4},
)
END = event("message_stop")


def said(text: str, index: int = 0) -> Json:
    return event("content_block_delta", index=index, delta={"type": "text_delta", "text": text})


def relay(*events: Json | bytes, ends: bool = True) -> bytes:
    made, sink = writer()
    for each in events:
        made.relay(b"", each if isinstance(each, bytes) else json.dumps(each).encode())
    if ends:
        made.complete(USAGE, b"")
    else:
        made.fail(CUT)
    assert sink.closed == 1
    return sink.body


def test_events_come_back_as_they_came_but_for_id_and_model() -> None:
    ours = json.loads(json.dumps(START))
    ours["message"] |= {"id": "msg_1", "model": "public"}
    rest = (TEXT, event("ping"), said("a"), event("new", x=1), STOP, DELTA, END)
    assert relay(START, *rest) == wire(ours, *rest)


def test_nothing_ends_an_answer_that_failed() -> None:
    """Also where its end had come."""
    for events in ((START, TEXT, said("a")), (START, TEXT, said("a"), STOP, DELTA, END), ()):
        body = relay(*events, ends=False)
        kinds = [kind for kind, _ in frames(body)]
        assert kinds[-1] == "error"
        assert not {"message_delta", "message_stop"} & set(kinds)
        assert ("content_block_stop" in kinds) is (STOP in events)


MENDED: dict[str, tuple[list[Json | bytes], list[str]]] = {
    "no start": (
        [TEXT, said("a"), STOP, DELTA, END],
        ["message_start", "content_block_start", "content_block_delta", "content_block_stop"],
    ),
    "two starts": (
        [START, START, TEXT, STOP, DELTA, END],
        ["message_start", "content_block_start", "content_block_stop"],
    ),
    "no start of the block": (
        [START, said("a"), STOP, DELTA, END],
        ["message_start", "content_block_start", "content_block_delta", "content_block_stop"],
    ),
    "no stop of the block": (
        [START, TEXT, said("a"), DELTA, END],
        ["message_start", "content_block_start", "content_block_delta", "content_block_stop"],
    ),
    "no stop between blocks": (
        [START, TEXT, said("a"), TEXT | {"index": 1}, STOP | {"index": 1}, DELTA, END],
        [
            "message_start",
            *("content_block_start", "content_block_delta", "content_block_stop"),
            *("content_block_start", "content_block_stop"),
        ],
    ),
    "two stops": (
        [START, TEXT, STOP, STOP, DELTA, END],
        ["message_start", "content_block_start", "content_block_stop"],
    ),
    "a text behind the end": (
        [START, TEXT, said("a"), DELTA, said("b"), END],
        [
            *("message_start", "content_block_start", "content_block_delta"),
            *("content_block_delta", "content_block_stop"),
        ],
    ),
    "no end": (
        [START, TEXT, STOP, DELTA],
        ["message_start", "content_block_start", "content_block_stop"],
    ),
    "another API's end": (
        [START, TEXT, STOP, DELTA, END, b"[DONE]"],
        ["message_start", "content_block_start", "content_block_stop"],
    ),
    "no usage": (
        [
            event("message_start", message=START["message"] | {"usage": None}),
            DELTA | {"usage": None},
            END,
        ],
        ["message_start"],
    ),
}


@pytest.mark.parametrize("name", MENDED)
def test_what_is_no_legal_order_is_mended(name: str) -> None:
    events, kinds = MENDED[name]
    body = MessagesBody(relay(*events))
    assert body.is_whole
    assert body.types == [*kinds, "message_delta", "message_stop"]
    assert body.message["id"] == "msg_1"
    assert body.message["model"] == "public"


def test_a_start_behind_a_heartbeat_is_ours_with_their_usage_at_the_end() -> None:
    made, sink = writer()
    made.heartbeat(None)
    for each in (START, TEXT, said("a"), STOP, DELTA, END):
        made.relay(b"", json.dumps(each).encode())
    made.complete(USAGE, b"")
    body = MessagesBody(sink.body)
    assert body.types.count("message_start") == 1
    counts = body.message["usage"]
    assert (counts["input_tokens"], counts["output_tokens"]) == (5, 4)


FILLED: dict[str, tuple[Json, int]] = {
    "text": ({"type": "text", "text": "a"}, 1),
    "thinking": ({"type": "thinking", "thinking": "a", "signature": "c2ln"}, 2),
    "a call": ({"type": "tool_use", "id": "t", "name": "sum", "input": {"a": 1}}, 1),
    "nothing": ({"type": "text", "text": ""}, 0),
    "another block": ({"type": "redacted_thinking", "data": "x"}, 0),
}


@pytest.mark.parametrize("name", FILLED)
def test_a_block_that_begins_with_its_content_is_told_in_deltas(name: str) -> None:
    """Clients that read the deltas alone would lose it."""
    block, deltas = FILLED[name]
    start = event("content_block_start", index=0, content_block=block)
    body = MessagesBody(relay(START, start, STOP, DELTA, END))
    assert body.content == [block]
    assert body.types.count("content_block_delta") == deltas


HALVES = [
    rb'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\ud83d"}}',
    rb'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\ude00b"}}',
]


def test_a_surrogate_pair_in_two_events_is_joined() -> None:
    assert MessagesBody(relay(START, TEXT, *HALVES, STOP, DELTA, END)).content[0]["text"] == "a😀b"


def test_what_is_no_json_to_a_client_is_not_relayed_as_it_came() -> None:
    body = relay(START, TEXT, b'{"type":"new","x":NaN}', said("a\u2028b"), STOP, DELTA, END)
    assert dict(frames(body))["new"] == {"type": "new", "x": None}
    assert (
        MessagesBody(
            body.replace(b"event: new\n", b"event: ping\n").replace(
                b'{"type":"new","x":null}', b'{"type": "ping"}'
            )
        ).content[0]["text"]
        == "a\u2028b"
    )


# Another upstream goes on


def continued(*relayed: Json, chunks: list[Chunk]) -> MessagesBody:
    made, sink = writer()
    for each in relayed:
        made.relay(b"", json.dumps(each).encode())
    for chunk in chunks:
        made.push(chunk)
    made.push(member({}, "stop"))
    made.complete(USAGE, b"")
    return MessagesBody(sink.body)


def test_another_upstream_goes_on_in_the_same_block() -> None:
    body = continued(START, TEXT, said("a"), chunks=[member({"content": "b"})])
    assert [each["text"] for each in body.content] == ["ab"]
    assert body.message["usage"]["input_tokens"] == 9


def test_another_upstream_goes_on_behind_a_closed_block() -> None:
    body = continued(START, TEXT, said("a"), STOP, DELTA, chunks=[member({"content": "b"})])
    assert [each["text"] for each in body.content] == ["a", "b"]


def test_nothing_is_added_to_thinking_that_is_signed() -> None:
    thinking = event(
        "content_block_start",
        index=0,
        content_block={"type": "thinking", "thinking": "", "signature": ""},
    )
    signature = event(
        "content_block_delta", index=0, delta={"type": "signature_delta", "signature": "c2ln"}
    )
    more = [member({"reasoning_content": "x"})]
    body = continued(START, thinking, signature, chunks=more)
    assert [each["signature"] for each in body.content] == ["c2ln", ""]


# A client that is slow, or waits


def test_a_heartbeat_is_a_ping_in_a_legal_stream() -> None:
    made, sink = writer()
    made.heartbeat(0.5)
    made.heartbeat(None)
    made.push(text_chunk("a"))
    made.flush()
    made.heartbeat(None)
    made.push(member({}, "stop"))
    made.complete(USAGE, b"")
    assert sink.body.count(PING) == 3
    assert MessagesBody(sink.body).content == [{"type": "text", "text": "a"}]


def test_a_failure_before_anything_is_an_error_alone() -> None:
    made, sink = writer()
    made.fail(CUT)
    message = "The upstream closed the connection. Try again later."
    expected = {"type": "overloaded_error", "message": message}
    assert frames(sink.body) == [("error", {"type": "error", "error": expected})]


def slow_chunks() -> list[Chunk]:
    return [
        *(member({"reasoning_content": each}) for each in "ab"),
        member({"reasoning_details": [SIGNED]}),
        *(member({"content": each}) for each in "cdef"),
        member(call(0, "{", "sum")),
        member(call(0, "}")),
    ]


@pytest.mark.parametrize("before", range(9))
def test_a_slow_client_gets_the_same_in_fewer_frames(before: int) -> None:
    quick, quick_sink = writer()
    slow, slow_sink = writer()
    for number, chunk in enumerate(slow_chunks()):
        if number == before:
            slow.pause()
            assert slow.is_paused
        quick.push(chunk)
        slow.push(chunk)
        slow.flush()
    slow.heartbeat(None)
    slow.resume()
    for each in (quick, slow):
        each.push(member({}, "tool_calls"))
        each.complete(USAGE, b"")
    assert MessagesBody(slow_sink.body).message == MessagesBody(quick_sink.body).message
    assert slow.frames == slow_sink.body.count(b"event: ")
    assert slow.frames <= quick.frames
    assert slow.size == len(slow_sink.body)


def test_a_slow_client_gets_relayed_events_as_they_came() -> None:
    events = (TEXT, said("a"), said("b"), STOP)
    made, sink = writer()
    made.pause()
    for each in events:
        made.relay(b"", json.dumps(each).encode())
    made.flush()
    assert sink.body == b""
    made.resume()
    assert sink.body.endswith(wire(*events))


def test_a_slow_client_is_told_of_past_a_limit() -> None:
    full: list[int] = []
    for relays in (False, True):
        made, sink = writer(limit=100)
        sink.on_full = lambda: full.append(1)  # type: ignore[method-assign]
        made.pause()
        for _ in range(40):
            if relays:
                made.relay(b"", json.dumps(said("words")).encode())
            else:
                made.push(text_chunk("words"))
        assert full
        full.clear()


# An answer that is not streamed


def test_relayed_events_fold_to_the_message_that_they_say() -> None:
    aggregator = MessagesAggregator()
    for each in (START, TEXT, said("a"), said("b"), STOP, DELTA | {"new_top": 1}, END):
        aggregator.relay(b"", json.dumps(each).encode())
    aggregator.complete(USAGE, b"")
    assert json.loads(aggregator.answer(HEAD)) == START["message"] | {
        "id": "msg_1",
        "model": "public",
        "content": [{"type": "text", "text": "ab"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 5, "output_tokens": 4},
        "new_top": 1,
    }


def test_a_text_behind_the_end_is_folded_as_well() -> None:
    aggregator = MessagesAggregator()
    for each in (START, TEXT, said("a"), DELTA, said("b"), END):
        aggregator.relay(b"", json.dumps(each).encode())
    aggregator.complete(USAGE, b"")
    assert json.loads(aggregator.answer(HEAD))["content"] == [{"type": "text", "text": "ab"}]


def folded(*chunks: Chunk, finish: str = "tool_calls") -> MessagesAggregator:
    aggregator = MessagesAggregator()
    for each in (*chunks, member({}, finish)):
        aggregator.push(each)
    aggregator.complete(USAGE, b"")
    return aggregator


def test_a_call_whose_arguments_are_no_json_is_no_answer() -> None:
    """A client would run the tool with an input that the model did not write."""
    aggregator = folded(member(call(0, '{"a":', "sum")))
    assert aggregator.error is not None
    assert "`sum`" in aggregator.error.message
    cut_short = folded(member(call(0, '{"a":', "sum")), finish="length")
    assert cut_short.error is None
    assert json.loads(cut_short.answer(HEAD))["stop_reason"] == "max_tokens"


def test_another_upstream_answers_from_the_start() -> None:
    aggregator = MessagesAggregator()
    aggregator.push(member({"content": "a"}))
    aggregator.start_over()
    for each in (member({"content": "b"}), member({}, "stop")):
        aggregator.push(each)
    aggregator.complete(USAGE, b"")
    assert json.loads(aggregator.answer(HEAD))["content"] == [{"type": "text", "text": "b"}]


# Whatever upstreams send

SENT = {
    name: each
    for name, each in table().items()
    if each.status == 200
    and each.headers.get("content-type") == "text/event-stream"
    and "content-encoding" not in each.headers
    and len(each.body) < SHARE  # more is read in several turns of an event loop
}


def answered(upstream: Sent, *, relays: bool, fast_path: bool, size: int) -> MessagesBody:
    relayed = Relayed(upstream.dialect, fast_path=fast_path, relays=relays)
    body = upstream.body
    for at in range(0, len(body), size):
        piece = body[at : at + size]
        relayed.connection.data_received(b"%x\r\n%b\r\n" % (len(piece), piece))
    if upstream.end == "whole":
        relayed.connection.data_received(b"0\r\n\r\n")
    stream = relayed.stream
    if not stream.done and not relayed.failures and stream.state is State.FINISHED:
        stream.end()
    if not stream.done:
        stream.fail(relayed.failures[0] if relayed.failures else CUT)  # type: ignore[arg-type]
    assert relayed.sink.closed == 1
    answer = MessagesBody(relayed.sink.body)
    fold = relayed.fold
    if fold is not None and answer.is_whole:
        assert json.loads(fold.answer(HEAD)) == answer.message
    elif fold is not None:
        assert fold.error is not None
    return answer


@pytest.mark.parametrize("name", SENT)
def test_every_script_gives_a_legal_stream(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * size)  # of ids that are made up
    upstream = SENT[name]
    ways = itertools.product((True, False), (1 << 20, 100))
    bodies = [answered(upstream, relays=False, fast_path=f, size=s) for f, s in ways]
    if upstream.dialect is anthropic:
        ways = itertools.product((True, False), (1 << 20, 100))
        bodies += [answered(upstream, relays=True, fast_path=f, size=s) for f, s in ways]
    first, *rest = [(each.is_whole, each.error, blocks(each)) for each in bodies]
    for each in rest:
        assert each == first


def blocks(body: MessagesBody) -> list[Json]:
    return body.content if body.message else []
