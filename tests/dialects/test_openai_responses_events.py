"""The Responses dialect: the events that come back, what a refusal means."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from legato import dialects
from legato.core.chunk import Chunk
from legato.core.dialect import OutgoingRequest, Quirks
from legato.core.errors import ApiError, UpstreamError
from legato.core.front import AnswerHead
from legato.core.request import parse
from legato.core.stream import State, Stream
from legato.dialects.openai_responses import (
    Reader,
    decoder,
    encode,
    models,
    no_stream,
    refusal,
    unstreamed,
)
from legato.fronts.chat_aggregator import ChatAggregator
from tests.support.pipeline import Sent, play
from tests.support.stream_order import Heard
from tests.support.transcripts import openai_responses as wire
from tests.support.transcripts.openai_responses import event


def heard(pieces: Iterable[bytes]) -> tuple[dict[str, Any], Stream]:
    """What a client gets that does not stream, of an answer that may not be whole."""
    stream, collector, reader, frames = (
        Stream(lambda: 0.0, 0.0),
        ChatAggregator(),
        Reader(),
        decoder(),
    )
    stream.subscribe(collector)
    try:
        for piece in pieces:
            for name, data in frames.feed(piece):
                chunk = reader.read(name, data)
                if chunk is not None:
                    stream.push(chunk)
        stream.end()
    except ApiError as error:
        stream.fail(error)
    return json.loads(collector.answer(AnswerHead("x", 1, "m"))), stream


def collected(*pieces: bytes) -> tuple[dict[str, Any], Stream]:
    """The same of a body that comes whole, and byte by byte."""
    body = b"".join(pieces)
    answer, stream = heard([body])
    again, other = heard(body[n : n + 1] for n in range(len(body)))
    assert (again, repr(other.error)) == (answer, repr(stream.error))
    return answer, stream


def choice(*pieces: bytes) -> dict[str, Any]:
    answer, stream = collected(wire.START, *pieces)
    assert stream.state is State.COMPLETE, stream.error
    return answer["choices"][0]


def message(*pieces: bytes) -> dict[str, Any]:
    """The message of an answer, without members that are null."""
    found = choice(*pieces)["message"]
    return {name: each for name, each in found.items() if each is not None and name != "role"}


def read(data: bytes, name: bytes = b"", reader: Reader | None = None) -> Chunk:
    chunk = (reader or Reader()).read(name, data)
    assert chunk is not None
    return chunk


def done(item: dict[str, Any], index: int = 0) -> bytes:
    return event("response.output_item.done", output_index=index, item=item)


def added(item: dict[str, Any], index: int = 0) -> bytes:
    return event("response.output_item.added", output_index=index, item=item)


END = wire.end(7, 3)


# Texts: out once, wherever they come

YES = wire.message("Yes.")
PLACE = {"item_id": "msg_0", "output_index": 0, "content_index": 0}
WHOLE_TEXT = event("response.output_text.done", **PLACE, text="Yes.", logprobs=[])
WHOLE_PART = event("response.content_part.done", **PLACE, part=YES["content"][0])
BARE = event("response.output_text.delta", delta="Yes.")

TEXTS: dict[str, tuple[bytes, ...]] = {
    "in deltas": (wire.text(0, "Ye", "s."), END),
    "in deltas, and again at the end": (wire.text(0, "Ye", "s."), wire.end(7, 3, YES)),
    "in the end of the text alone": (wire.opened(0), WHOLE_TEXT, END),
    "in the end of the text, where nothing was added": (WHOLE_TEXT, END),
    "in the end of the part alone": (wire.opened(0), WHOLE_PART, END),
    "in the end of the item alone": (done(YES), END),
    "in all the ends": (wire.opened(0), wire.closed(0, "Yes."), wire.end(7, 3, YES)),
    "in the ends, out of order": (wire.opened(0), done(YES), WHOLE_PART, WHOLE_TEXT, END),
    "in an end that comes twice": (done(YES), done(YES), END),
    "at the very end": (wire.end(7, 3, YES),),
    "at the very end, of an item that was begun": (wire.opened(0), wire.end(7, 3, YES)),
    "before the item": (wire.word(0, "Ye"), wire.opened(0), wire.word(0, "s."), done(YES), END),
    "without an id and an index": (BARE, wire.end(7, 3, YES)),
    "without an id and an index, between the ends": (wire.opened(0), BARE, done(YES), END),
    "under another id": (wire.word(0, "Yes.", item_id="x"), wire.closed(0, "Yes."), END),
    "under another index": (wire.word(0, "Yes.", output_index=7), wire.closed(0, "Yes."), END),
    "under another id at the very end": (
        wire.text(0, "Yes."),
        wire.end(7, 3, YES | {"id": "msg_9"}),
    ),
    "with empty deltas": (wire.word(0, ""), wire.word(0, "Yes."), wire.word(0, ""), END),
    "in events that are named, and have no type": (
        wire.START,
        b'event: response.output_text.delta\ndata: {"delta":"Yes."}\n\n',
        b'event: response.completed\ndata: {"response":{"status":"completed"}}\n\n',
    ),
    "with members that are null": (
        b'data: {"type":"response.output_text.delta","delta":"Yes.","item_id":null,'
        b'"output_index":null,"content_index":null,"logprobs":null,"error":null}\n\n',
        END,
    ),
    "with another end behind it": (wire.text(0, "Yes."), END, b"data: [DONE]\n\n"),
    "in two messages": (
        wire.text(0, "Ye"),
        wire.text(1, "s."),
        wire.end(7, 3, wire.message("Ye"), wire.message("s.", 1)),
    ),
    "in two messages at one place": (
        wire.word(0, "Ye", item_id="a"),
        done(wire.message("Ye") | {"id": "a"}),
        wire.word(0, "s.", item_id="b"),
        done(wire.message("s.") | {"id": "b"}),
        END,
    ),
    "in two messages under one id": (
        wire.word(0, "Ye"),
        done(wire.message("Ye")),
        wire.word(0, "s."),
        wire.end(7, 3, wire.message("Ye"), wire.message("s.")),
    ),
    "in two messages, of which one is whole": (
        wire.text(0, "Ye"),
        wire.end(7, 3, wire.message("Ye"), wire.message("s.", 1)),
    ),
    "in two parts, of which one is whole": (
        wire.word(0, "Ye"),
        done(YES | {"content": [{"type": "output_text", "text": each} for each in ("Ye", "s.")]}),
        END,
    ),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_comes_out_once(case: str) -> None:
    assert message(*TEXTS[case]) == {"content": "Yes."}


def test_a_refusal() -> None:
    part = {"type": "refusal", "refusal": "No."}
    whole = YES | {"content": [part]}
    deltas = [event("response.refusal.delta", **PLACE, delta=each) for each in ("N", "o.")]
    ends = event("response.refusal.done", **PLACE, refusal="No.")
    ends += event("response.content_part.done", **PLACE, part=part) + done(whole)
    for pieces in ((*deltas, ends), (ends,), (done(whole),)):
        found = choice(*pieces, wire.end(7, 3, whole))
        assert (found["message"]["content"], found["message"]["refusal"]) == ("", "No.")
        assert found["finish_reason"] == "stop"


LOGPROB = {"token": "Yes", "logprob": -0.5, "top_logprobs": [{"token": "No", "logprob": -2.0}]}
SHOWN = {
    "token": "Yes",
    "logprob": -0.5,
    "bytes": None,
    "top_logprobs": [{"token": "No", "logprob": -2.0, "bytes": None}],
}


@pytest.mark.parametrize("streamed", [True, False])
def test_logprobs_come_with_their_text_once(streamed: bool) -> None:
    whole = wire.message("Yes")
    whole["content"][0]["logprobs"] = [LOGPROB]
    delta = wire.word(0, "Yes", logprobs=[LOGPROB]) if streamed else b""
    found = choice(delta, done(whole), wire.end(7, 3, whole))
    assert found["message"]["content"] == "Yes"
    assert found["logprobs"] == {"content": [SHOWN], "refusal": None}


# Reasoning


def thought(index: int, kind: str, delta: str, part: int = 0) -> bytes:
    place = "summary_index" if kind == "reasoning_summary_text" else "content_index"
    fields = {"item_id": f"rs_{index}", "output_index": index, place: part, "delta": delta}
    return event(f"response.{kind}.delta", **fields)


def entry(**members: Any) -> dict[str, Any]:
    made = {"type": "reasoning.encrypted", "id": "rs_0", "data": "gAAAAAB", "summary": []}
    return made | {"format": "openai-responses-v1"} | members


def summaries(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "summary_text", "text": each} for each in texts]


PLAIN = {
    "id": "rs_0",
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Hm."}],
}
SUMMARY, TEXT = "reasoning_summary_text", "reasoning_text"
# events, the reasoning that is shown, what is to be sent back
REASONING: dict[str, tuple[tuple[bytes, ...], str | None, list[dict[str, Any]] | None]] = {
    "a summary": ((wire.thinking(0, "H", "m."),), "Hm.", [entry(summary=summaries("Hm."))]),
    "a summary in two parts": (
        (
            thought(0, SUMMARY, "A"),
            thought(0, SUMMARY, "a"),
            thought(0, SUMMARY, "B", 1),
            thought(0, SUMMARY, "b", 1),
            done(wire.reasoning(0, "Aa", "Bb")),
        ),
        "Aa\n\nBb",
        [entry(summary=summaries("Aa", "Bb"))],
    ),
    "the same whole": (
        (done(wire.reasoning(0, "Aa", "Bb")),),
        "Aa\n\nBb",
        [entry(summary=summaries("Aa", "Bb"))],
    ),
    "two items": (
        (wire.thinking(0, "A"), wire.thinking(1, "B")),
        "A\n\nB",
        [entry(summary=summaries("A")), entry(id="rs_1", summary=summaries("B"))],
    ),
    "nothing to show": ((done(wire.reasoning(0)),), None, [entry()]),
    "text": (
        (thought(0, TEXT, "H"), thought(0, TEXT, "m."), done(PLAIN)),
        "Hm.",
        [
            {
                "type": "reasoning.text",
                "id": "rs_0",
                "text": "Hm.",
                "summary": [],
                "format": "openai-responses-v1",
            }
        ],
    ),
    "text of an older name": ((thought(0, "reasoning", "Hm."),), "Hm.", None),
    "text, and its summary": (
        (
            thought(0, TEXT, "Hm."),
            thought(0, SUMMARY, "H."),
            done(PLAIN | wire.reasoning(0, "H.")),
        ),
        "Hm.",
        [entry(summary=summaries("H."), content=PLAIN["content"])],
    ),
    "a summary alone, that nobody can read again": (
        (done({"id": "rs_0", "type": "reasoning", "summary": summaries("Hm.")}),),
        "Hm.",
        None,
    ),
    "an item that nobody ended": ((thought(0, SUMMARY, "Hm."),), "Hm.", None),
    "an item that ended at the very end": (
        (thought(0, SUMMARY, "Hm."), wire.end(7, 3, wire.reasoning(0, "Hm."))),
        "Hm.",
        [entry(summary=summaries("Hm."))],
    ),
}


@pytest.mark.parametrize("case", REASONING)
def test_reasoning_is_shown_and_goes_back_as_it_came(case: str) -> None:
    pieces, shown, details = REASONING[case]
    ends = () if b"response.completed" in b"".join(pieces) else (END,)
    found = choice(*pieces, wire.text(5, "Yes."), *ends)["message"]
    assert found["content"] == "Yes."
    assert found.get("reasoning_content") == shown
    assert found.get("reasoning_details") == details
    body = json.dumps({"model": "m", "messages": [found]}).encode()
    sent = json.loads(encode(OutgoingRequest(body, parse(body), "m", Quirks())))
    items = [each for each in sent["input"] if each["type"] == "reasoning"]
    assert [each["id"] for each in items] == [each["id"] for each in details or ()]
    for item, each in zip(items, details or (), strict=True):
        assert item["summary"] == each["summary"]
        assert item.get("encrypted_content") == each.get("data")
    assert sent["input"][-1]["content"] == [{"type": "output_text", "text": "Yes."}]


# Tool calls

ARGUMENTS = '{"a": 1}'
ITEM = wire.call(0, "sum", ARGUMENTS)
BEGUN = wire.call(0, "sum", "")
AT = {"item_id": "fc_0", "output_index": 0}


def arguments(delta: str, **members: Any) -> bytes:
    return event("response.function_call_arguments.delta", **AT | members, delta=delta)


def all_arguments(text: str, **members: Any) -> bytes:
    return event("response.function_call_arguments.done", **AT | members, arguments=text)


CALLS: dict[str, tuple[bytes, ...]] = {
    "in deltas": (wire.tool(0, "sum", '{"a"', ": 1}"), wire.end(7, 3, ITEM)),
    "in the end of the arguments alone": (added(BEGUN), all_arguments(ARGUMENTS), END),
    "in the end of the item alone": (added(BEGUN), done(ITEM), END),
    "in one event": (done(ITEM), END),
    "at the very end": (wire.end(7, 3, ITEM),),
    "at its start": (added(ITEM), END),
    "at its start, and the end says nothing": (added(ITEM), done(BEGUN), END),
    "at its start, and in deltas": (added(ITEM), arguments(ARGUMENTS), done(ITEM), END),
    "before the item": (arguments('{"a"'), added(BEGUN), arguments(": 1}"), done(ITEM), END),
    "before the item, which has ended": (arguments(ARGUMENTS), done(ITEM), END),
    "before the item, which is at the very end": (arguments(ARGUMENTS), wire.end(7, 3, ITEM)),
    "before the item, with the name behind it": (
        arguments(ARGUMENTS),
        all_arguments(ARGUMENTS, name="sum"),
        done(ITEM),
        END,
    ),
    "without ids and indices": (
        added(BEGUN),
        arguments(ARGUMENTS, item_id=None, output_index=None),
        wire.end(7, 3, ITEM),
    ),
    "under another id": (added(BEGUN), arguments(ARGUMENTS, item_id="x"), done(ITEM), END),
    "with members that are null": (
        added(BEGUN),
        arguments(ARGUMENTS),
        done(ITEM | {"name": None, "arguments": None}),
        END,
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_comes_out_once(case: str) -> None:
    found = choice(*CALLS[case])
    assert found["finish_reason"] == "tool_calls"
    (call,) = found["message"]["tool_calls"]
    assert call == {
        "id": "call_0",
        "type": "function",
        "function": {"name": "sum", "arguments": ARGUMENTS},
    }


@pytest.mark.parametrize(
    "pieces",
    [
        (added(BEGUN), done(BEGUN), END),
        (added(BEGUN), END),
        (wire.end(7, 3, BEGUN),),
        (added(BEGUN), arguments(""), all_arguments(""), done(BEGUN), END),
    ],
)
def test_arguments_are_json_even_where_there_are_none(pieces: tuple[bytes, ...]) -> None:
    (call,) = message(*pieces)["tool_calls"]
    assert call["function"] == {"name": "sum", "arguments": "{}"}


def test_two_calls_at_once() -> None:
    """Their deltas alternate, and the second one was added first."""
    first, second = wire.call(0, "sum", ""), wire.call(1, "now", "")
    found = message(
        added(second, 1),
        added(first),
        arguments('{"a"'),
        arguments('{"b"', item_id="fc_1", output_index=1),
        arguments(": 1}"),
        arguments(": 2}", item_id="fc_1", output_index=1),
        done(first | {"arguments": ARGUMENTS}),
        done(second | {"arguments": '{"b": 2}'}, 1),
        END,
    )["tool_calls"]
    assert [(each["id"], each["function"]["arguments"]) for each in found] == [
        ("call_1", '{"b": 2}'),
        ("call_0", ARGUMENTS),
    ]


def test_two_calls_under_one_id() -> None:
    """Each is over when the next one begins."""
    found = message(
        wire.tool(0, "sum", ARGUMENTS),
        added(BEGUN | {"call_id": "call_1"}),
        arguments('{"b": 2}'),
        done(ITEM | {"call_id": "call_1", "arguments": '{"b": 2}'}),
        END,
    )["tool_calls"]
    assert [(each["id"], each["function"]["arguments"]) for each in found] == [
        ("call_0", ARGUMENTS),
        ("call_1", '{"b": 2}'),
    ]


def test_a_call_without_a_name_is_the_upstreams_failure() -> None:
    _, stream = collected(wire.START, arguments(ARGUMENTS), END)
    assert stream.error is not None
    assert "without naming it" in stream.error.message


def test_a_call_that_the_limit_cut_is_not_made_whole() -> None:
    found = choice(added(BEGUN), wire.incomplete("max_output_tokens", 7, 3))
    assert found["finish_reason"] == "length"
    assert found["message"]["tool_calls"][0]["function"]["arguments"] == ""


PATCH = {
    "id": "ctc_0",
    "type": "custom_tool_call",
    "call_id": "call_0",
    "name": "patch",
    "input": "*** Begin",
}


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_of_a_custom_tool(streamed: bool) -> None:
    kind, place = "response.custom_tool_call_input", {"item_id": "ctc_0", "output_index": 0}
    deltas = added(PATCH | {"input": ""})
    deltas += b"".join(event(f"{kind}.delta", **place, delta=each) for each in ("*** ", "Begin"))
    deltas += event(f"{kind}.done", **place, input="*** Begin")
    found = choice(deltas if streamed else b"", done(PATCH), wire.end(7, 3, PATCH))
    assert found["finish_reason"] == "tool_calls"
    assert found["message"]["tool_calls"] == [
        {
            "id": "call_0",
            "type": "custom",
            "custom": {"name": "patch", "input": "*** Begin"},
        }
    ]


def test_further_members_of_a_call_are_kept_and_go_back() -> None:
    item = ITEM | {"namespace": "ns", "caller": {"type": "direct"}}
    found = message(done(item), END)
    more = {"namespace": "ns", "caller": {"type": "direct"}}
    assert found["tool_calls"][0]["extra_content"] == {"openai": more}
    body = json.dumps({"model": "m", "messages": [{"role": "assistant"} | found]}).encode()
    (sent,) = json.loads(encode(OutgoingRequest(body, parse(body), "m", Quirks())))["input"]
    assert sent == {name: each for name, each in item.items() if name not in ("id", "status")}


# What comes beside

CITED = {"type": "url_citation", "start_index": 0, "end_index": 3, "url": "u", "title": "t"}
IN_CHAT = {
    "type": "url_citation",
    "url_citation": {"start_index": 0, "end_index": 3, "url": "u", "title": "t"},
}
OF_A_FILE = {"type": "file_citation", "file_id": "f", "index": 0, "filename": "a"}
SEARCHES = {"item_id": "ws_1", "output_index": 1}
SEARCHING = event("response.web_search_call.searching", **SEARCHES)
#: Events behind a text, and what the message has of them beside it.
KEPT: dict[str, tuple[bytes, dict[str, Any]]] = {
    "an item of a tool": (
        added(wire.SEARCH | {"status": "in_progress"}, 1) + done(wire.SEARCH, 1),
        {"extra_content": {"openai": {"items": [wire.SEARCH]}}},
    ),
    "an item that nobody ended": (
        added(wire.SEARCH, 1),
        {"extra_content": {"openai": {"items": [wire.SEARCH]}}},
    ),
    "an item at the very end": (
        wire.end(7, 3, YES, wire.SEARCH),
        {"extra_content": {"openai": {"items": [wire.SEARCH]}}},
    ),
    "an item's events": (
        SEARCHING + done(wire.SEARCH, 1),
        {
            "extra_content": {
                "openai": {
                    "items": [wire.SEARCH],
                    "events": [{"type": "response.web_search_call.searching"} | SEARCHES],
                }
            }
        },
    ),
    "an event that nobody knows": (
        event("response.mood", delta={"mood": "good"}, item=7),
        {
            "extra_content": {
                "openai": {
                    "events": [{"type": "response.mood", "delta": {"mood": "good"}, "item": 7}]
                }
            }
        },
    ),
    "a server's own event": (
        event("acme.limits", text=7),
        {"extra_content": {"openai": {"events": [{"type": "acme.limits", "text": 7}]}}},
    ),
    "citations": (
        event("response.output_text.annotation.added", **PLACE, annotation=CITED)
        + event("response.output_text.annotation.added", **PLACE, annotation=OF_A_FILE)
        + done(wire.message("Yes.") | {"content": [YES["content"][0] | {"annotations": [CITED]}]}),
        {"annotations": [IN_CHAT, OF_A_FILE]},
    ),
    "citations of the whole text": (
        done(YES | {"content": [YES["content"][0] | {"annotations": [CITED, OF_A_FILE]}]}),
        {"annotations": [IN_CHAT, OF_A_FILE]},
    ),
    "the phase": (
        done(YES | {"phase": "final_answer"}),
        {"extra_content": {"openai": {"phases": ["final_answer"]}}},
    ),
    "a part that is no text": (
        done(YES | {"content": [YES["content"][0], {"type": "output_image", "image": "x"}]}),
        {"extra_content": {"openai": {"parts": [{"type": "output_image", "image": "x"}]}}},
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_comes_beside_text_is_kept(case: str) -> None:
    events, more = KEPT[case]
    ends = b"" if b"response.completed" in events else END
    assert message(wire.word(0, "Yes."), events, ends) == {"content": "Yes."} | more


def test_further_members_of_the_response_come_with_its_finish() -> None:
    whole = wire.response("completed", service_tier="flex", debug={"a": "\u2028"}, tools=[{"a": 1}])
    answer, _ = collected(
        wire.START, wire.text(0, "Yes."), event("response.completed", response=whole, more=[7])
    )
    known = {"id", "object", "created", "model", "choices", "usage"}
    assert {name: each for name, each in answer.items() if name not in known} == {
        "service_tier": "flex",
        "debug": {"a": "\u2028"},
        "more": [7],
    }


# Ends


def ended(kind: str, **members: Any) -> bytes:
    return event(f"response.{kind}", response={"status": kind} | members)


FINISHES: dict[str, tuple[bytes, str]] = {
    "completed": (END, "stop"),
    "without a response": (event("response.completed"), "stop"),
    "the limit": (wire.incomplete("max_output_tokens", 7, 3), "length"),
    "a filter": (wire.incomplete("content_filter", 7, 3), "content_filter"),
    "an older word": (wire.incomplete("max_tokens", 7, 3), "length"),
    "incomplete by its status": (
        event(
            "response.completed",
            response={"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
        ),
        "content_filter",
    ),
    "a status that was forgotten": (
        event("response.completed", response={"status": "in_progress"}),
        "stop",
    ),
}


@pytest.mark.parametrize("case", FINISHES)
def test_finishes(case: str) -> None:
    events, finish = FINISHES[case]
    assert choice(wire.text(0, "Yes."), events)["finish_reason"] == finish


DIED: dict[str, Any] = {"code": "server_error", "message": "worker died"}
# the last event, status, code, a part of the message
FAILURES: dict[str, tuple[bytes, int, str, str]] = {
    "in the response": (ended("failed", error=DIED), 502, "server_error", "worker died"),
    "beside the response": (
        event("response.failed", response={"status": "failed", "error": None}, error=DIED),
        502,
        "server_error",
        "worker died",
    ),
    "around the response": (
        event("response.failed", response=None, **DIED),
        502,
        "server_error",
        "worker died",
    ),
    "a sentence": (ended("failed", error="worker died"), 502, "upstream_error", "worker died"),
    "without a reason": (ended("failed", error=None), 502, "upstream_error", "no reason"),
    "without a response": (event("response.failed"), 502, "upstream_error", "no reason"),
    "failed by its status": (
        event("response.completed", response={"status": "failed", "error": DIED}),
        502,
        "server_error",
        "worker died",
    ),
    "in a completed response": (ended("completed", error=DIED), 502, "server_error", "worker died"),
    "in a response under way": (
        ended("in_progress", error=DIED),
        502,
        "server_error",
        "worker died",
    ),
    "the rate": (
        ended(
            "failed",
            error={"code": "rate_limit_exceeded", "message": "Try again in 1.5s."},
        ),
        429,
        "rate_limit_exceeded",
        "1.5s",
    ),
    "a long prompt": (
        ended("failed", error={"code": "context_length_exceeded", "message": "It is too long."}),
        400,
        "context_length_exceeded",
        "too long",
    ),
    "a bad prompt": (
        ended("failed", error={"code": "invalid_prompt", "message": "No."}),
        400,
        "invalid_prompt",
        "No.",
    ),
    "our account": (
        ended("failed", error={"code": "insufficient_quota", "message": "Pay us."}),
        502,
        "upstream_quota",
        "used up",
    ),
    "cancelled": (ended("cancelled"), 502, "upstream_aborted", "`cancelled`"),
    "incomplete for no reason": (ended("incomplete"), 502, "upstream_aborted", "`incomplete`"),
    "incomplete for a reason that nobody knows": (
        wire.incomplete("melted", 7, 3),
        502,
        "upstream_aborted",
        "`melted`",
    ),
    "an error": (
        event("error", code="server_error", message="worker died", param=None),
        502,
        "server_error",
        "worker died",
    ),
    "an error in an object": (
        event("error", error={"type": "server_error", "message": "worker died"}),
        502,
        "server_error",
        "worker died",
    ),
    "an image that is none": (
        event("error", code="invalid_image", message="No image.", param=None),
        400,
        "invalid_image",
        "No image.",
    ),
    "an error without a type": (
        b'event: error\ndata: {"message":"worker died"}\n\n',
        502,
        "upstream_error",
        "worker died",
    ),
    "an error in a text's event": (
        wire.word(0, "x", error=DIED),
        502,
        "server_error",
        "worker died",
    ),
    "no last event": (b"", 502, "upstream_incomplete", "without a finish"),
    "another format's last event": (
        b"data: [DONE]\n\n",
        502,
        "upstream_incomplete",
        "without a finish",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures(case: str) -> None:
    events, status, code, words = FAILURES[case]
    _, stream = collected(wire.START, wire.text(0, "Yes."), events)
    error = stream.error
    assert stream.state is State.FAILED
    assert error is not None
    assert (error.status, error.code) == (status, code)
    assert words in error.message


@pytest.mark.parametrize("data", [b"", b"null", b"{}"])
def test_an_error_that_says_nothing_is_one(data: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        Reader().read(b"error", data)
    assert caught.value.code == "upstream_error"


# Usage

COUNTS = wire.usage(9, 7, cached=5, reasoning=2)
# what is reported, what the client gets of it
USAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all": (
        COUNTS,
        {
            "prompt_tokens": 9,
            "completion_tokens": 7,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    ),
    "a provider's own": (
        COUNTS | {"cost": 0.5},
        {"prompt_tokens": 9, "total_tokens": 16, "cost": 0.5},
    ),
    "without details": (
        {"input_tokens": 9, "output_tokens": 7},
        {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16},
    ),
    "with null for details": (
        COUNTS | {"input_tokens_details": None, "output_tokens_details": None},
        {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16},
    ),
    "under chat's names": (
        {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16},
        {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16},
    ),
}


@pytest.mark.parametrize("case", USAGES)
@pytest.mark.parametrize("kind", ["completed", "incomplete"])
def test_usage(case: str, kind: str) -> None:
    reported, expected = USAGES[case]
    details = {"reason": "max_output_tokens"}
    whole = wire.response(kind, usage=reported, incomplete_details=details)
    answer, _ = collected(wire.START, wire.word(0, "x"), event(f"response.{kind}", response=whole))
    assert answer["usage"] | expected == answer["usage"]
    assert not answer["usage"].keys() & {"input_tokens", "output_tokens", "input_tokens_details"}


def test_what_is_known_before_the_answer() -> None:
    reader = Reader()
    assert reader.identity is None
    read(
        json.dumps({"type": "response.created", "response": {"id": "resp_1"}}).encode(), b"", reader
    )
    read(json.dumps({"type": "response.completed", "response": {"id": "x"}}).encode(), b"", reader)
    assert (reader.identity, reader.prompt_tokens, reader.progress) == ("resp_1", 0, None)


# What is no part of an answer

PASSED_OVER = [
    b'{"type":"ping"}',
    b'{"type":"keepalive","sequence_number":3}',
    b'{"type":"response.queued","response":{"status":"queued"}}',
    b'{"type":"response.created"}',
    b'{"type":"response.in_progress","response":{"error":null}}',
    b'{"type":"response.content_part.added","part":{"type":"output_text","text":""}}',
    b'{"type":"response.content_part.done","part":{"type":"reasoning_text","text":"x"}}',
    b'{"type":"response.content_part.done","part":{"type":"output_image"}}',
    b'{"type":"response.content_part.done"}',
    b'{"type":"response.output_item.added"}',
    b'{"type":"response.output_item.done","item":{}}',
    b'{"type":"response.output_item.added","item":{"type":"message","id":7,"content":7}}',
    b'{"type":"response.output_item.done","item":{"type":"message","content":[7,{}]}}',
    b'{"type":"response.output_item.done","item":{"type":"reasoning","summary":7}}',
    b'{"type":"response.output_text.delta","delta":""}',
    b'{"type":"response.output_text.delta"}',
    b'{"type":"response.output_text.done"}',
    b'{"type":"response.reasoning_text.delta","delta":""}',
    b'{"type":"response.reasoning_text.done","text":"x"}',
    b'{"type":"response.reasoning_summary_part.added","part":{}}',
    b'{"type":"response.function_call_arguments.delta","delta":""}',
    b'{"type":"response.output_text.annotation.added","annotation":null}',
    b'{"type":null}',
    b"{}",
    b"",
    b" ",
    b"null",
    b" null ",
]


@pytest.mark.parametrize("data", PASSED_OVER)
def test_what_says_nothing_is_passed_over(data: bytes) -> None:
    chunk = read(data)
    assert (chunk.choices, chunk.fields or [], chunk.usage) == ([], [], None)


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"[]",
        b"7",
        b'"[DONE]"',
        b'{"type":7}',
        b'{"type":"response.completed","response":7}',
        b'{"type":"response.completed","response":{"output":7}}',
        b'{"type":"response.completed","x":NaN',
        b'{"type":"response.output_text.delta","delta":7}',
        b'{"type":"response.output_text.delta","delta":"\xff"}',
        b'{"type":"response.output_item.done","item":"x"}',
        b'{"type":"response.function_call_arguments.delta","output_index":"0"}',
        b'{"type":"response.created","response":' + b"[" * 100_000,
    ],
)
def test_what_is_no_event_is_the_upstreams_failure(data: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        Reader().read(b"", data)
    assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


def test_half_a_surrogate_pair_waits_in_arguments_alone() -> None:
    reader = Reader()
    item = r'{"type":"function_call","call_id":"c\ud83d","name":"f","arguments":""}'
    begun = '{"type":"response.output_item.added","output_index":0,"item":' + item + "}"
    (opened,) = read(begun.encode(), b"", reader).members()
    assert opened["delta"]["tool_calls"][0]["id"] == "c\ufffd"
    piece = (
        r'{"type":"response.function_call_arguments.delta","output_index":0,"delta":"{\"\ud83d"}'
    )
    (delta,) = read(piece.encode(), b"", reader).members()
    assert delta["delta"]["tool_calls"][0]["function"]["arguments"] == '{"\ud83d'


# The fast path


def numberless(body: bytes) -> list[bytes]:
    """The events of a server that does not number them."""
    lines = [json.loads(each[6:]) for each in body.split(b"\n") if each.startswith(b"data: ")]
    for each in lines:
        del each["sequence_number"]
    return [b"data: %b\n\n" % json.dumps(each).encode() for each in lines]


WORDS = [f"word {number} " for number in range(40)]
THOUGHTS = [thought(0, TEXT, each) for each in WORDS]


@pytest.mark.parametrize(
    ("deltas", "member"),
    [
        ([wire.opened(0), *(wire.word(0, each) for each in WORDS)], "content"),
        ([*THOUGHTS, wire.word(1, "Yes.")], "reasoning_content"),
    ],
)
def test_texts_that_are_alike_take_the_fast_path(
    monkeypatch: pytest.MonkeyPatch, deltas: list[bytes], member: str
) -> None:
    """It changes nothing: not even that the text is not sent again with its item."""
    output = [PLAIN | {"content": [{"type": "reasoning_text", "text": "".join(WORDS)}]}]
    if member == "content":
        output = [wire.message("".join(WORDS))]
    events = numberless(b"".join([wire.START, *deltas, wire.end(7, 3, *output)]))
    read, calls = Reader.read, list[bytes]()

    def counted(self: Reader, name: bytes, data: bytes) -> Chunk | None:
        calls.append(data)
        return read(self, name, data)

    monkeypatch.setattr(Reader, "read", counted)
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    chunks = [b"%x\r\n%b\r\n" % (len(each), each) for each in events]
    sent = Sent(b"", dialect=dialects.named("openai-responses"))
    fast = play(sent, [head, *chunks, b"0\r\n\r\n"], over_http=True, folds=False)
    assert len(calls) < len(WORDS), "most events are not read"
    calls.clear()
    assert (
        play(sent, [b"".join([head, *chunks, b"0\r\n\r\n"])], over_http=True, folds=False) == fast
    )
    assert len(calls) == len(events)
    assert Heard(fast.frames, "last").text(member=member) == "".join(WORDS)


# Refusals, and answers in one piece

# status, an error, our status, our code, is it the upstream's fault
REFUSALS: dict[str, tuple[int, dict[str, Any], int, str, bool]] = {
    "the caller's": (400, {"code": "unknown_parameter"}, 400, "unknown_parameter", False),
    "a long prompt": (
        400,
        {"code": "context_length_exceeded"},
        400,
        "context_length_exceeded",
        False,
    ),
    "our key": (401, {"code": "invalid_api_key"}, 502, "upstream_401", True),
    "no model": (404, {"code": "model_not_found"}, 502, "upstream_404", True),
    "the rate": (429, {"code": "rate_limit_exceeded"}, 429, "upstream_rate_limited", True),
    "our account": (429, {"code": "insufficient_quota"}, 502, "upstream_quota", True),
    "inside": (500, {"type": "server_error"}, 502, "upstream_500", True),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    status, fields, ours, code, theirs = REFUSALS[case]
    body = json.dumps({"error": {"message": "No.", "param": None} | fields}).encode()
    error = refusal(status, body, 7.0)
    assert (error.status, error.code) == (ours, code)
    assert isinstance(error, UpstreamError) == theirs


def test_the_list_of_models() -> None:
    assert models(b'{"object":"list","data":[{"id":"a"},{"id":"b"},{}]}') == ["a", "b"]


def piece(body: dict[str, Any]) -> tuple[dict[str, Any], Stream]:
    stream, collector, reader = Stream(lambda: 0.0, 0.0), ChatAggregator(), Reader()
    stream.subscribe(collector)
    try:
        for data in unstreamed(json.dumps(body).encode()):
            chunk = reader.read(b"", data)
            assert chunk is not None
            stream.push(chunk)
        stream.end()
    except ApiError as error:
        stream.fail(error)
    return json.loads(collector.answer(AnswerHead("x", 1, "m"))), stream


def test_a_whole_answer_with_all_that_it_can_hold() -> None:
    cited = YES["content"][0] | {"annotations": [CITED], "logprobs": [LOGPROB]}
    output = [
        wire.reasoning(0, "Hm."),
        wire.SEARCH,
        YES | {"content": [cited, {"type": "refusal", "refusal": "No."}]},
        ITEM,
        PATCH | {"call_id": "call_9"},
    ]
    answer, stream = piece(wire.response("completed", output=output, usage=COUNTS))
    assert stream.state is State.COMPLETE, stream.error
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 5
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Yes.",
                "refusal": "No.",
                "tool_calls": [
                    {
                        "id": "call_0",
                        "type": "function",
                        "function": {"name": "sum", "arguments": ARGUMENTS},
                    },
                    {
                        "id": "call_9",
                        "type": "custom",
                        "custom": {"name": "patch", "input": "*** Begin"},
                    },
                ],
                "reasoning_content": "Hm.",
                "reasoning_details": [entry(summary=summaries("Hm."))],
                "extra_content": {"openai": {"items": [wire.SEARCH]}},
                "annotations": [IN_CHAT],
            },
            "logprobs": {"content": [SHOWN], "refusal": None},
            "finish_reason": "tool_calls",
        }
    ]


# a response, the finish, the code of the error
PIECES: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "completed": (wire.response("completed", output=[YES]), "stop", None),
    "without a status": ({"object": "response", "output": [YES]}, "stop", None),
    "at its limit": (
        wire.response(
            "incomplete", output=[YES], incomplete_details={"reason": "max_output_tokens"}
        ),
        "length",
        None,
    ),
    "failed": (wire.response("failed", error=DIED), None, "server_error"),
    "failed, and nothing else": ({"status": "failed", "output": []}, None, "upstream_error"),
    "cancelled": (wire.response("cancelled", output=[YES]), None, "upstream_aborted"),
    "in the background": (wire.response("queued"), None, "upstream_empty"),
    "of a status that nobody knows": (wire.response("melted"), None, "upstream_incomplete"),
}


@pytest.mark.parametrize("case", PIECES)
def test_an_answer_in_one_piece(case: str) -> None:
    body, finish, code = PIECES[case]
    answer, stream = piece(body)
    assert (stream.error and stream.error.code) == code
    if finish is not None:
        (found,) = answer["choices"]
        assert (found["message"]["content"], found["finish_reason"]) == ("Yes.", finish)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"error":{"type":"server_error","message":"no"}}', 502, "server_error"),
        (b'{"object":"list","data":[]}', 502, "upstream_error"),
        (b"<html>", 502, "upstream_error"),
        (b"", 502, "upstream_error"),
    ],
)
def test_a_200_without_an_answer(body: bytes, status: int, code: str) -> None:
    assert unstreamed(body) == []
    error: ApiError = no_stream(body)
    assert (error.status, error.code) == (status, code)
