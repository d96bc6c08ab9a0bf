"""Events that are relayed, from upstreams that number, mix and null them: what a client reads."""

import json
from typing import Any

import pytest

from legato.core.errors import UpstreamError
from legato.core.stream import Stream
from legato.dialects import anthropic
from legato.fronts.messages_aggregator import MessagesAggregator
from tests.fronts.test_messages_writer import (
    DELTA,
    END,
    HEAD,
    START,
    STOP,
    TEXT,
    USAGE,
    event,
    played,
    relay,
    said,
    wire,
)
from tests.support.messages_order import MessagesBody, frames

Json = dict[str, Any]


def begun(index: int, kind: str, **members: Any) -> Json:
    return event("content_block_start", index=index, content_block={"type": kind, **members})


def added(index: int, kind: str, **members: Any) -> Json:
    return event("content_block_delta", index=index, delta={"type": kind, **members})


def tool(index: int, name: str, **members: Any) -> Json:
    return begun(index, "tool_use", id=f"t_{name}", name=name, **({"input": {}} | members))


def given(index: int, piece: str | None) -> Json:
    return added(index, "input_json_delta", partial_json=piece)


def stop(index: int) -> Json:
    return event("content_block_stop", index=index)


def call(name: str, **given: Any) -> Json:
    return {"type": "tool_use", "id": f"t_{name}", "name": name, "input": given}


def text(said: str) -> Json:
    return {"type": "text", "text": said}


#: What lies between the start and the end of an answer, and the blocks that a client makes of it.
ODD: dict[str, tuple[list[Json], list[Json]]] = {
    "a gap in the indices": (
        [begun(1, "text", text=""), said("a", 1), stop(1), tool(5, "b"), given(5, "{}"), stop(5)],
        [text("a"), call("b")],
    ),
    "all blocks have index 0": (
        [TEXT, said("a"), STOP, tool(0, "b"), given(0, '{"x":1}'), STOP],
        [text("a"), call("b", x=1)],
    ),
    "the same without ends": (
        [TEXT, said("a"), tool(0, "b"), given(0, '{"x":1}')],
        [text("a"), call("b", x=1)],
    ),
    "calls that are mixed": (
        [
            *(tool(0, "a"), tool(1, "b"), given(0, '{"x"'), given(1, '{"y"'), given(0, ":1}")),
            *(given(1, ":2}"), STOP, stop(1)),
        ],
        [call("a", x=1), call("b", y=2)],
    ),
    "a call that ends behind the next one": (
        [tool(0, "a"), given(0, '{"x"'), tool(1, "b"), given(1, "{}"), stop(1), given(0, ":1}")],
        [call("a", x=1), call("b")],
    ),
    "texts that are mixed": (
        [TEXT, begun(1, "text", text=""), said("a"), said("b", 1), STOP, stop(1)],
        [text(""), text(""), text("a"), text("b")],
    ),
    "a block that begins twice": (
        [tool(0, "a"), tool(0, "a"), given(0, '{"x":1}'), STOP],
        [call("a", x=1)],
    ),
    "a block that is null": (
        [event("content_block_start", index=0, content_block=None), said("a"), STOP],
        [text("a")],
    ),
    "texts that are null": (
        [
            *(begun(0, "thinking", thinking=None), added(0, "thinking_delta", thinking=None)),
            *(added(0, "thinking_delta", thinking="a"), STOP),
            *(begun(1, "text", text=None), added(1, "text_delta", text=None), said("b", 1)),
            *(stop(1), tool(2, "c", input=None), given(2, None), stop(2)),
        ],
        [{"type": "thinking", "thinking": "a", "signature": ""}, text("b"), call("c")],
    ),
    "all that an event may have, as null": (
        [
            TEXT | {"delta": None, "message": None, "usage": None, "error": None},
            event(
                "content_block_delta",
                index=0,
                content_block=None,
                delta={"type": "text_delta", "text": "a", "thinking": None, "stop_reason": None},
            ),
            STOP | {"delta": None, "content_block": None},
        ],
        [text("a")],
    ),
    "no index": (
        [
            {"type": "content_block_start", "content_block": text("")},
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
            {"type": "content_block_stop", "index": None},
        ],
        [text("a")],
    ),
    "text in a block of another kind": (
        [begun(0, "redacted_thinking", data="x"), said("a"), STOP],
        [{"type": "redacted_thinking", "data": "x"}, text("a")],
    ),
    "the input with the start and once more": (
        [tool(0, "a", input={"x": 1}), given(0, '{"x":1}'), STOP],
        [call("a", x=1)],
    ),
    "the input with the start alone": (
        [tool(0, "a", input={"x": 1}), tool(1, "b", input='{"y":2}')],
        [call("a", x=1), call("b", y=2)],
    ),
    "a signature of nothing": (
        [added(0, "signature_delta", signature="c2ln"), TEXT, said("a"), STOP],
        [text("a")],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_blocks_are_put_in_order(name: str) -> None:
    events, blocks = ODD[name]
    body = MessagesBody(relay(START, *events, DELTA, END))
    assert body.content == blocks
    aggregator = MessagesAggregator()
    for each in (START, *events, DELTA, END):
        aggregator.relay(b"", json.dumps(each).encode())
    aggregator.complete(USAGE, b"")
    assert json.loads(aggregator.answer(HEAD))["content"] == blocks


@pytest.mark.parametrize("place", [0, 7])
def test_the_fast_path_keeps_our_index(place: int) -> None:
    """A text that is not in the block that the client has open is not relayed as it came."""
    words = [said(f"word{each}", place) for each in range(8)]
    start = begun(place, "text", text="")
    events = [wire(each) for each in (START, start, *words, stop(place), DELTA, END)]
    reads = [b"%x\r\n%b\r\n" % (len(each), each) for each in events]
    body = MessagesBody(played([*reads, b"0\r\n\r\n"], anthropic, relays=True).sink.body)
    assert body.content == [text("".join(f"word{each}" for each in range(8)))]


def end(reason: str | None, **counts: Any) -> Json:
    return event("message_delta", delta={"stop_reason": reason}, usage=counts)


#: The ends of an answer, and what a client reads: the reason, the counts of tokens.
ENDS: dict[str, tuple[list[Json], str, tuple[int, int]]] = {
    "once": ([end("max_tokens", output_tokens=4)], "max_tokens", (5, 4)),
    "twice": (
        [end("end_turn", output_tokens=4, input_tokens=7), end("tool_use", output_tokens=6)],
        "tool_use",
        (7, 6),
    ),
    "and its usage behind it": (
        [end("max_tokens", output_tokens=0), end(None, output_tokens=6)],
        "max_tokens",
        (5, 6),
    ),
    "no counts": ([end("end_turn")], "end_turn", (9, 4)),
    "counts that are null": (
        [end("end_turn", input_tokens=None, output_tokens=None, cache_read_input_tokens=0)],
        "end_turn",
        (5, 4),
    ),
    "all that an event may have, as null": (
        [
            event(
                "message_delta",
                index=None,
                content_block=None,
                delta={"type": None, "text": None, "stop_reason": "max_tokens"},
                usage={"output_tokens": 4},
            )
        ],
        "max_tokens",
        (5, 4),
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_there_is_one_end(name: str) -> None:
    ends, reason, counts = ENDS[name]
    events = (START, TEXT, said("a"), STOP, *ends, END)
    message = MessagesBody(relay(*events)).message
    aggregator = MessagesAggregator()
    for each in events:
        aggregator.relay(b"", json.dumps(each).encode())
    aggregator.complete(USAGE, b"")
    for each in (message, json.loads(aggregator.answer(HEAD))):
        assert each["stop_reason"] == reason
        usage = each["usage"]
        assert (usage["input_tokens"], usage["output_tokens"]) == counts
    assert json.loads(aggregator.answer(HEAD))["type"] == "message"


def test_what_comes_behind_the_end_of_an_answer_is_before_it() -> None:
    new = event("x_new", x=1)
    body = relay(START, TEXT, said("a"), DELTA, new, said("b"), STOP, END)
    assert MessagesBody(body).content == [text("ab")]
    assert [kind for kind, _ in frames(body)][-3:] == ["message_delta", "x_new", "message_stop"]


@pytest.mark.parametrize("member", ["type", "role", "content", "usage"])
def test_members_of_the_start_that_are_null(member: str) -> None:
    start = event("message_start", message=START["message"] | {member: None}, index=None)
    body = MessagesBody(relay(start, TEXT, said("a"), STOP, DELTA, END))
    assert body.content == [text("a")]
    assert (body.message["type"], body.message["role"]) == ("message", "assistant")


def test_a_start_with_half_of_its_usage() -> None:
    start = event("message_start", message=START["message"] | {"usage": {"input_tokens": 5}})
    _, sent = frames(relay(start, TEXT, STOP, DELTA, END))[0]
    assert sent["message"]["usage"] == {"input_tokens": 5, "output_tokens": 0}


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n\r\n"])
def test_no_type_of_an_event_breaks_a_frame(separator: str) -> None:
    """A client would read events that nobody has sent."""
    forged = f'x{separator}event: message_stop\ndata: {{"type": "message_stop"}}'
    body = relay(START, event(forged), TEXT, said("a"), STOP, DELTA, END)
    assert b"x\n" not in body
    assert MessagesBody(body).content == [text("a")]


def test_an_event_of_a_new_type_goes_out_as_it_came() -> None:
    odd = b'{"type": "x_new",  "index": "a", "delta": {"type": 1}}'
    plain = b'{"type": "x_new",  "index": "a"}'
    body = relay(START, plain, odd, DELTA, END)
    assert b"event: x_new\ndata: " + plain in body
    assert {"type": "x_new", "index": "a", "delta": {"type": 1}} in [
        each for _, each in frames(body)
    ]


SEARCH = begun(1, "server_tool_use", id="s", name="web_search", input={})

#: What has come of an answer, and whether another upstream can go on with it.
CUT_SHORT: dict[str, tuple[list[Json], bool]] = {
    "in a text": ([], True),
    "behind a text": ([STOP], True),
    "in a block of the server's": ([STOP, SEARCH, given(1, '{"q"')], False),
    "at the begin of one": ([STOP, SEARCH], False),
    "behind one": ([STOP, SEARCH, given(1, "{}"), stop(1)], False),
    "in a call": ([STOP, tool(1, "a"), given(1, '{"x"')], False),
}


@pytest.mark.parametrize("name", CUT_SHORT)
@pytest.mark.parametrize("fast_path", [True, False])
def test_nobody_goes_on_behind_half_of_a_block(name: str, fast_path: bool) -> None:
    """The client has seen it, and would take it for whole."""
    events, can_continue = CUT_SHORT[name]
    body = wire(START, TEXT, said("a"), said("b"), *events)
    read = b"%x\r\n%b\r\n" % (len(body), body)
    relayed = played([read], anthropic, fast_path=fast_path, relays=True)
    delivered = relayed.stream.delivered
    assert delivered is not None
    assert delivered.is_exact is can_continue


@pytest.mark.parametrize("size", [20, 100_000])
def test_events_before_the_answer_have_an_end(size: int) -> None:
    """They wait for it, since another upstream may be asked; pings are no progress."""
    stream = Stream(lambda: 0.0, 0.0)
    stream.ask(relays=True)
    for _ in range(9):
        stream.relay(b"ping", b"x" * size)
    with pytest.raises(UpstreamError, match="too much before its answer"):
        for _ in range((9 << 20) // size):
            stream.relay(b"ping", b"x" * size)
    stream.ask(relays=True)
    stream.relay(b"ping", b"x" * size)
