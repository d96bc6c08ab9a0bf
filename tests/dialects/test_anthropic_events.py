"""Anthropic's dialect: the events that come back, what a refusal means."""

import json
from typing import Any

import pytest

from legato.core.chunk import Chunk
from legato.core.dialect import OutgoingRequest, Quirks
from legato.core.errors import ApiError, UpstreamError
from legato.core.front import AnswerHead
from legato.core.merge import merge_choice, to_builtins
from legato.core.request import parse
from legato.core.stream import State, Stream
from legato.dialects.anthropic import Reader, encode, no_stream, refusal, unstreamed
from legato.fronts.chat_aggregator import ChatAggregator
from tests.support.transcripts import anthropic as wire


def events(body: bytes) -> list[bytes]:
    return [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]


def collected(*pieces: bytes) -> tuple[dict[str, Any], Stream]:
    """What a client gets that does not stream, of an answer that may not be whole."""
    stream, collector, reader = Stream(lambda: 0.0, 0.0), ChatAggregator(), Reader()
    stream.subscribe(collector)
    try:
        for data in events(b"".join(pieces)):
            chunk = reader.read(b"", data)
            if chunk is not None:
                stream.push(chunk)
        stream.end()
    except UpstreamError as error:
        stream.fail(error)
    return json.loads(collector.answer(AnswerHead("x", 1, "m"))), stream


def read(data: bytes, name: bytes = b"", reader: Reader | None = None) -> Chunk:
    chunk = (reader or Reader()).read(name, data)
    assert chunk is not None
    return chunk


def message(*blocks: bytes, reason: str = "end_turn") -> dict[str, Any]:
    answer, stream = collected(wire.start(9), *blocks, wire.end(reason, 3))
    assert stream.state is State.COMPLETE
    return answer["choices"][0]["message"]


NULLS: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "text_delta", "text": "x", "partial_json": None}, "x", ""),
    ({"type": "text_delta", "text": None}, "", ""),
    ({"type": "thinking_delta", "thinking": "hm", "text": None, "signature": None}, "", "hm"),
]


@pytest.mark.parametrize(("delta", "text", "thought"), NULLS)
def test_members_that_are_null_are_absent(delta: dict[str, Any], text: str, thought: str) -> None:
    event = {"type": "content_block_delta", "index": None, "delta": delta, "usage": None}
    chunk = read(json.dumps(event).encode())
    deltas = [each.get("delta") or {} for each in chunk.members()]
    assert "".join([each.get("content") or "" for each in deltas]) == text
    assert "".join([each.get("reasoning_content") or "" for each in deltas]) == thought


SIGNED = {"type": "thinking", "thinking": "Let me think.", "signature": "EqQBCgIYAhIM"}


def test_thoughts_are_kept_with_their_signature_and_go_back_as_they_came() -> None:
    hidden = {"type": "redacted_thinking", "data": "EmwK"}
    result = message(
        wire.thinking(0, "Let me", " think."),
        wire.block(1, hidden),
        wire.text(2, "Yes."),
        wire.tool(3, "sum", '{"a": 1}'),
        reason="tool_use",
    )
    assert result["reasoning_content"] == "Let me think."
    assert result["reasoning_details"] == [SIGNED, hidden]
    answered = {"role": "tool", "tool_call_id": "toolu_3", "content": "1"}
    body = json.dumps({"model": "m", "messages": [result, answered]}).encode()
    sent = json.loads(encode(OutgoingRequest(body, parse(body), "m", Quirks())))
    assert sent["messages"][0]["content"] == [
        SIGNED,
        hidden,
        {"type": "text", "text": "Yes."},
        {"type": "tool_use", "id": "toolu_3", "name": "sum", "input": {"a": 1}},
    ]


@pytest.mark.parametrize(
    ("first", "deltas", "reasoning", "details"),
    [
        pytest.param(
            {"thinking": "", "signature": ""},
            [{"type": "signature_delta", "signature": "Eq"}],
            None,
            [{"type": "thinking", "thinking": "", "signature": "Eq"}],
            id="not shown",
        ),
        pytest.param(
            {"thinking": ""},
            [
                {"type": "thinking_delta", "thinking": "Hm"},
                {"type": "signature_delta", "signature": ""},
            ],
            "Hm",
            None,
            id="not signed",
        ),
        pytest.param(
            {"thinking": "Let me think.", "signature": "EqQBCgIYAhIM"},
            [],
            "Let me think.",
            [SIGNED],
            id="whole",
        ),
    ],
)
def test_thoughts_of_other_shapes(
    first: dict[str, Any],
    deltas: list[dict[str, Any]],
    reasoning: str | None,
    details: list[dict[str, Any]] | None,
) -> None:
    block = wire.block(0, {"type": "thinking", **first}, *deltas)
    result = message(block, wire.text(1, "Yes."))
    assert result.get("reasoning_content") == reasoning
    assert result.get("reasoning_details") == details


def test_a_text_that_is_given_whole() -> None:
    assert message(wire.block(0, {"type": "text", "text": "Yes."}))["content"] == "Yes."


def test_arguments_are_json_even_where_there_are_none() -> None:
    result = message(wire.tool(0, "now"), wire.tool(1, "now", ""), reason="tool_use")
    assert [each["function"]["arguments"] for each in result["tool_calls"]] == ["{}", "{}"]


def test_what_is_known_before_the_answer() -> None:
    reader = Reader()
    read(events(wire.start(40, cached=900, written=60))[0], reader=reader)
    assert reader.identity == "msg_01"
    assert reader.prompt_tokens == 1000


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        ({}, (9, 3, {"cached_tokens": 0})),
        ({"input_tokens": 11, "cache_read_input_tokens": 5}, (16, 3, {"cached_tokens": 5})),
        ({"input_tokens": None, "cache_read_input_tokens": None}, (9, 3, {"cached_tokens": 0})),
        (
            {"cache_creation_input_tokens": 6},
            (15, 3, {"cached_tokens": 0, "cache_creation_tokens": 6}),
        ),
        (
            {"cache_read_input_tokens": 5, "cache_creation_input_tokens": 6},
            (20, 3, {"cached_tokens": 5, "cache_creation_tokens": 6}),
        ),
        (
            {
                "cache_creation_input_tokens": 6,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 2,
                    "ephemeral_1h_input_tokens": 4,
                },
            },
            (
                15,
                3,
                {
                    "cached_tokens": 0,
                    "cache_creation_tokens": 6,
                    "cache_creation_1h_tokens": 4,
                },
            ),
        ),
    ],
)
def test_usage_is_cumulative(last: dict[str, Any], wanted: tuple[int, int, Any]) -> None:
    answer, _ = collected(wire.start(9), wire.text(0, "Yes."), wire.end("end_turn", 3, **last))
    usage = answer["usage"]
    assert (
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage["prompt_tokens_details"],
    ) == wanted
    assert usage["total_tokens"] == wanted[0] + wanted[1]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
    ],
)
def test_stop_reasons(reason: str, finish: str) -> None:
    answer, _ = collected(wire.start(9), wire.text(0, "Yes."), wire.end(reason, 3))
    assert answer["choices"][0]["finish_reason"] == finish


def test_a_stop_reason_that_nobody_knows_is_no_finish() -> None:
    _, stream = collected(wire.start(9), wire.text(0, "Yes."), wire.end("melted", 3))
    assert stream.error is not None
    assert stream.error.code == "upstream_aborted"


PASSED_OVER = [
    b'{"type":"ping"}',
    b'{"type":"ping","index":"x"}',
    b'{"type":"something_new","delta":7,"index":{}}',
    b'{"type":"content_block_stop","index":7}',
    b'{"type":"content_block_delta","index":7,"delta":{"type":"input_json_delta","partial_json":"{"}}',
    b'{"type":"content_block_delta","index":0,"delta":{"type":"citations_delta","citation":{}}}',
    b'{"type":"content_block_delta","index":0,"delta":{}}',
    b'{"type":"something_new","delta":7,"of":NaN}',
    b'{"type":"content_block_delta","index":0}',
    b'{"type":"content_block_start","index":0,"content_block":{"type":"something_new"}}',
    b"{}",
    b"",
    b" ",
    b"null",
    b" null ",
]


@pytest.mark.parametrize("data", PASSED_OVER)
def test_what_is_not_known_is_passed_over(data: bytes) -> None:
    chunk = read(data)
    assert (chunk.choices, chunk.fields, chunk.usage) == ([], None, None)


@pytest.mark.parametrize("data", [b'{"type":"message_stop"}', b"[DONE]", b" [DONE] "])
def test_the_end(data: bytes) -> None:
    assert Reader().read(b"", data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"[]",
        b"7",
        b'"[DONE]"',
        b'"x"',
        b'{"type":"message_stop","x":NaN',
        b'{"type":7}',
        b'{"type":"message_start","message":7}',
        b'{"type":"message_delta","delta":7}',
        b'{"type":"content_block_delta","index":"0"}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":7}}',
        b'{"type":"content_block_start","content_block":"x"}',
        b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"\xff"}}',
        b'{"type":"message_start","message":' + b"[" * 100_000,
    ],
)
def test_what_is_no_event_is_the_upstreams_failure(data: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        Reader().read(b"", data)
    assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


# data, status, code, message
ERRORS: dict[str, tuple[str, int, str, str]] = {
    "overloaded": (
        '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
        503,
        "overloaded_error",
        "Overloaded",
    ),
    "rate": (
        '{"type":"error","error":{"type":"rate_limit_error","message":"Slow"},"request_id":"r"}',
        429,
        "rate_limit_error",
        "Slow",
    ),
    "time": ('{"type":"error","error":{"type":"timeout_error"}}', 504, "timeout_error", "reason"),
    "inside": (
        '{"type":"error","error":{"type":"api_error","message":"Internal"}}',
        502,
        "api_error",
        "Internal",
    ),
    "our key": (
        '{"type":"error","error":{"type":"authentication_error","message":"Bad"}}',
        502,
        "upstream_401",
        "our key",
    ),
    "OpenAI's shape": (
        '{"error":{"code":500,"type":"server_error","message":"no"}}',
        502,
        "server_error",
        "no",
    ),
    "text": ('{"error":"no"}', 502, "upstream_error", "no"),
    "nothing": ('{"type":"error"}', 502, "upstream_error", "gave no reason"),
    "odd": ('{"type":"error","error":{"type":7,"message":[]}}', 502, "upstream_error", "reason"),
    "long": (f'{{"error":"{"x" * 9000}"}}', 502, "upstream_error", "x" * 500),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_in_the_stream(name: str) -> None:
    data, status, code, result = ERRORS[name]
    with pytest.raises(UpstreamError) as caught:
        Reader().read(b"error", data.encode())
    error = caught.value
    assert (error.status, error.code) == (status, code)
    assert result in error.message
    assert len(error.message) <= 500


# status, body, our status, code, is it the upstream's fault
REFUSALS: dict[str, tuple[int, str, int, str, bool]] = {
    "the caller's": (400, "invalid_request_error: top_k: no", 400, "invalid_request", False),
    "a long prompt": (
        400,
        "invalid_request_error: prompt is too long: 208310 tokens > 200000 maximum",
        400,
        "context_length_exceeded",
        False,
    ),
    "no room for the answer": (
        400,
        "invalid_request_error: input length and `max_tokens` exceed context limit: 1 + 2 > 2",
        400,
        "context_length_exceeded",
        False,
    ),
    "a body too large": (413, "request_too_large: Big", 400, "request_too_large", False),
    "our key": (401, "authentication_error: invalid x-api-key", 502, "upstream_401", True),
    "our bill": (402, "billing_error: Pay", 502, "upstream_402", True),
    "our rights": (403, "permission_error: No", 502, "upstream_403", True),
    "no model": (404, "not_found_error: model: x", 502, "upstream_404", True),
    "the rate": (429, "rate_limit_error: Slow", 429, "upstream_rate_limited", True),
    "inside": (500, "api_error: Internal", 502, "upstream_500", True),
    "overloaded": (529, "overloaded_error: Overloaded", 503, "upstream_529", True),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    status, result, ours, code, theirs = REFUSALS[name]
    kind, _, text = result.partition(": ")
    body = json.dumps({"type": "error", "error": {"type": kind, "message": text}}).encode()
    error = refusal(status, body, 7.0)
    assert (error.status, error.code) == (ours, code)
    assert (text in error.message) == (status not in (401, 402, 403)), "our account is ours to know"
    assert isinstance(error, UpstreamError) == theirs
    assert error.retry_after == (7.0 if theirs else None)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b'{"error":{}}', b"\xff"])
def test_a_refusal_that_says_nothing(body: bytes) -> None:
    error = refusal(500, body)
    assert error.code == "upstream_500"
    assert "gave no reason" in error.message


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"type":"error","error":{"type":"overloaded_error"}}', 503, "overloaded_error"),
        (b'{"type":"message","content":[]}', 502, "upstream_error"),
        (b"<html>", 502, "upstream_error"),
        (b"", 502, "upstream_error"),
    ],
)
def test_a_200_without_a_stream(body: bytes, status: int, code: str) -> None:
    error: ApiError = no_stream(body)
    assert (error.status, error.code) == (status, code)


def members(body: bytes) -> list[dict[str, Any]]:
    """The choices of all chunks, as the reader gives them."""
    reader = Reader()
    chunks = [reader.read(b"", data) for data in events(body)]
    return [each for chunk in chunks if chunk is not None for each in chunk.members()]


def folded(body: bytes) -> dict[str, Any]:
    choice: dict[str, Any] = {}
    for each in members(body):
        merge_choice(choice, each)
    return to_builtins(choice)["delta"]


ROME = {"city": "Rome"}
# what the block begins with, pieces of its arguments, the arguments
INPUTS: dict[str, tuple[Any, list[str], str]] = {
    "twice": (ROME, ['{"city":"Rome"}'], '{"city":"Rome"}'),
    "twice, the second time in pieces": (ROME, ["", '{"city"', ':"Rome"}'], '{"city":"Rome"}'),
    "twice, and not the same": (ROME, ['{"city":"Oslo"}'], '{"city":"Oslo"}'),
    "at the start": (ROME, [], '{"city":"Rome"}'),
    "at the start, and an empty delta": (ROME, ["", ""], '{"city":"Rome"}'),
    "at the start, as text": ('{"city": "Rome"}', [], '{"city": "Rome"}'),
    "in deltas": ({}, ['{"city"', ':"Rome"}'], '{"city":"Rome"}'),
    "nowhere": ({}, [], "{}"),
    "null": (None, [], "{}"),
}


@pytest.mark.parametrize("case", INPUTS)
@pytest.mark.parametrize("stops", [True, False], ids=["stop", "no stop"])
def test_input_of_the_start_counts_only_where_no_delta_follows(case: str, stops: bool) -> None:
    given, pieces, arguments = INPUTS[case]
    first = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": given}
    deltas = [{"type": "input_json_delta", "partial_json": each} for each in pieces]
    body = wire.block(0, first, *deltas)
    if not stops:
        body = body[: body.rindex(b"event:")]
    (call,) = folded(wire.start(3) + body + wire.end("tool_use", 2))["tool_calls"]
    assert call["id"] == "toolu_1"
    assert call["function"] == {"name": "get_weather", "arguments": arguments}


def test_a_block_that_did_not_stop_ends_where_another_begins() -> None:
    """Servers that copy the API count blocks wrong, or do not end them."""
    blocks = [wire.tool(0, "now", whole=ROME), wire.tool(0, "sum", whole=ROME)]
    body = b"".join(each[: each.rindex(b"event:")] for each in blocks)
    calls = folded(wire.start(3) + body + wire.end("tool_use", 2))["tool_calls"]
    assert [each["function"]["arguments"] for each in calls] == ['{"city":"Rome"}'] * 2


CITED = {"type": "web_search_result_location", "url": "https://a.example", "cited_text": "Yes"}
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
FOUND = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [{"type": "web_search_result", "url": "https://a.example", "page_age": None}],
}
# body, what the answer has beside its text `Yes.`
KEPT: dict[str, tuple[bytes, dict[str, Any]]] = {
    "a tool of the server's own": (
        wire.block(
            1,
            SEARCH,
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"query"'},
            {"type": "input_json_delta", "partial_json": ': "x"}'},
        )
        + wire.block(2, FOUND),
        {"extra_content": {"anthropic": {"blocks": [SEARCH | {"input": {"query": "x"}}, FOUND]}}},
    ),
    "input that is no JSON": (
        wire.block(1, SEARCH, {"type": "input_json_delta", "partial_json": "{"}),
        {"extra_content": {"anthropic": {"blocks": [SEARCH | {"input": "{"}]}}},
    ),
    "input of the start": (
        wire.block(1, SEARCH | {"input": ROME}),
        {"extra_content": {"anthropic": {"blocks": [SEARCH | {"input": ROME}]}}},
    ),
    "a block in deltas that nobody knows": (
        wire.block(
            1,
            {"type": "compaction", "content": "a"},
            {"type": "compaction_delta", "content": "b", "list": [1]},
            {"type": "compaction_delta", "content": "c", "list": [2]},
        ),
        {
            "extra_content": {
                "anthropic": {"blocks": [{"type": "compaction", "content": "abc", "list": [1, 2]}]}
            }
        },
    ),
    "citations in deltas": (
        wire.block(
            1,
            {"type": "text", "text": "", "citations": []},
            {"type": "citations_delta", "citation": CITED},
            {"type": "citations_delta", "citation": {"type": "page_location"}},
        ),
        {"citations": [CITED, {"type": "page_location"}]},
    ),
    "citations of a whole text": (
        wire.block(1, {"type": "text", "text": "", "citations": [CITED]}),
        {"citations": [CITED]},
    ),
    "a delta that nobody knows": (
        wire.block(1, {"type": "text", "text": ""}, {"type": "mood_delta", "mood": "good"}),
        {"extra_content": {"anthropic": {"deltas": [{"type": "mood_delta", "mood": "good"}]}}},
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_comes_beside_text_is_kept(case: str) -> None:
    body, more = KEPT[case]
    whole = wire.start(3) + wire.text(0, "Yes.") + body + wire.end("end_turn", 2)
    assert folded(whole) == {"content": "Yes."} | more


@pytest.mark.parametrize("case", ["a tool of the server's own", "citations of a whole text"])
def test_a_block_that_nobody_ends_is_kept(case: str) -> None:
    body, more = KEPT[case]
    body = body[: body.rindex(b"event:")]
    whole = wire.start(3) + wire.text(0, "Yes.") + body + wire.end("end_turn", 2)
    assert folded(whole) == {"content": "Yes."} | more


def test_further_members_of_a_tool_call_are_kept() -> None:
    first = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    body = wire.block(0, first | {"caller": {"type": "direct"}}) + wire.end("tool_use", 2)
    (call,) = folded(wire.start(3) + body)["tool_calls"]
    assert call["extra_content"] == {"anthropic": {"caller": {"type": "direct"}}}


def test_further_members_of_the_message_come_with_its_finish_once() -> None:
    start = json.loads(events(wire.start(9))[0])
    start["message"]["container"] = {"id": "container_1"}
    reader = Reader()
    read(json.dumps(start).encode(), reader=reader)
    ending = {
        "type": "message_delta",
        "delta": {"stop_reason": "stop_sequence", "stop_sequence": "END", "stop_details": None},
        "context_management": {"applied_edits": [{"type": "\u2028"}]},
        "usage": {"output_tokens": 3},
    }
    chunk = read(json.dumps(ending).encode(), reader=reader)
    assert b"\\u2028" in chunk.extras
    assert json.loads(b"{%b}" % chunk.extras[1:]) == {
        "container": {"id": "container_1"},
        "context_management": {"applied_edits": [{"type": "\u2028"}]},
    }
    finish = {"index": 0, "delta": {}, "finish_reason": "stop", "stop_sequence": "END"}
    assert chunk.members() == [finish]
    assert chunk.usage is not None
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    assert read(json.dumps(end).encode(), reader=reader).extras == b""


@pytest.mark.parametrize("data", [b"", b"null"])
def test_an_error_that_says_nothing_is_one(data: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        Reader().read(b"error", data)
    assert caught.value.code == "upstream_error"


HALF_EVENT = '{"type":"content_block_delta","index":0,"delta":{"type":"%s","%s":"%s"}}'


def test_half_a_surrogate_pair_in_arguments_and_in_signed_thoughts() -> None:
    reader = Reader()
    begun = '{"type":"content_block_start","index":0,"content_block":%s}'
    read((begun % '{"type":"thinking","thinking":"\\ud83d"}').encode(), reader=reader)
    read((HALF_EVENT % ("thinking_delta", "thinking", r"\ude00 a\ud83d")).encode(), reader=reader)
    read((HALF_EVENT % ("signature_delta", "signature", "Eq")).encode(), reader=reader)
    ended = read(b'{"type":"content_block_stop","index":0}', reader=reader).members()
    (details,) = ended[0]["delta"]["reasoning_details"]
    assert details["thinking"] == "😀 a\ufffd", "it goes back, and is sent as it is"
    tool = r'{"type":"tool_use","id":"t\ud83d","name":"f","input":{"a":"\ud83d"}}'
    (opened,) = read((begun % tool).encode(), reader=reader).members()
    assert opened["delta"]["tool_calls"][0]["id"] == "t\ufffd"
    piece = HALF_EVENT % ("input_json_delta", "partial_json", r"{\"a\":\"\ud83d")
    (delta,) = read(piece.encode(), reader=reader).members()
    assert delta["delta"]["tool_calls"][0]["function"]["arguments"] == '{"a":"\ud83d'


WHOLE: dict[str, Any] = {
    "id": "msg",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "container": {"id": "c"},
    "content": [
        {"type": "thinking", "thinking": "Hm", "signature": "Eq"},
        {"type": "redacted_thinking", "data": "Em"},
        {"type": "text", "text": "Hello", "citations": [CITED]},
        SEARCH | {"input": ROME},
        FOUND,
        {"type": "text", "text": " world"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": ROME},
        {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "cache_read_input_tokens": 1, "output_tokens": 2},
}


def test_a_whole_answer_with_all_that_it_can_hold() -> None:
    reader = Reader()
    chunks = [reader.read(b"", each) for each in unstreamed(json.dumps(WHOLE).encode())]
    assert chunks.pop() is None
    choice: dict[str, Any] = {}
    for chunk in chunks:
        assert chunk is not None
        for each in chunk.members():
            merge_choice(choice, each)
    last = chunks[-1]
    assert last is not None
    assert json.loads(b"{%b}" % last.extras[1:]) == {"container": {"id": "c"}}
    assert last.usage is not None
    assert (last.usage["prompt_tokens"], last.usage["completion_tokens"]) == (4, 2)
    assert reader.identity == "msg"
    whole = to_builtins(choice)
    assert whole["finish_reason"] == "tool_calls"
    assert whole["delta"] == {
        "reasoning_content": "Hm",
        "reasoning_details": [WHOLE["content"][0], WHOLE["content"][1]],
        "content": "Hello world",
        "citations": [CITED],
        "extra_content": {"anthropic": {"blocks": [WHOLE["content"][3], FOUND]}},
        "tool_calls": [
            {
                "index": number,
                "id": f"toolu_{number + 1}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for number, (name, arguments) in enumerate([("f", '{"city":"Rome"}'), ("g", "{}")])
        ],
    }


def test_a_whole_answer_with_nan_and_half_a_pair() -> None:
    body = rb'{"type":"message","content":[{"type":"text","text":"hi \ud83d"}],"x":NaN,'
    body += rb'"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":NaN}}'
    reader = Reader()
    chunks = [reader.read(b"", each) for each in unstreamed(body)]
    found = [each for chunk in chunks if chunk is not None for each in chunk.members()]
    assert found[0]["delta"] == {"content": "hi \ufffd"}
    assert found[-1]["finish_reason"] == "stop"
