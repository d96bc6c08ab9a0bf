"""Gemini's dialect: the events that come back. Errors: test_gemini_errors."""

import json
from typing import Any

import pytest

from legato.core.chunk import Chunk
from legato.core.dialect import OutgoingRequest, Quirks
from legato.core.errors import UpstreamError
from legato.core.front import AnswerHead
from legato.core.merge import merge_choice, to_builtins
from legato.core.request import parse
from legato.core.stream import State, Stream
from legato.dialects.gemini import Reader, encode, unstreamed
from legato.fronts.chat_aggregator import ChatAggregator
from tests.support.transcripts import gemini as wire


def events(body: bytes) -> list[bytes]:
    return [line[6:] for line in body.split(b"\r\n") if line.startswith(b"data: ")]


def collected(*pieces: bytes) -> tuple[dict[str, Any], Stream]:
    """What a client gets that does not stream, of an answer that may not be whole."""
    stream, collector, reader = Stream(lambda: 0.0, 0.0), ChatAggregator(), Reader()
    stream.subscribe(collector)
    try:
        for data in events(b"".join(pieces)):
            chunk = reader.read(b"", data)
            assert chunk is not None, "only the end of the body is the end"
            stream.push(chunk)
        stream.end()
    except UpstreamError as error:
        stream.fail(error)
    return json.loads(collector.answer(AnswerHead("x", 1, "m"))), stream


def choice(*pieces: bytes) -> dict[str, Any]:
    answer, stream = collected(*pieces)
    assert stream.state is State.COMPLETE, stream.error
    return answer["choices"][0]


def read(data: str, reader: Reader | None = None) -> Chunk:
    chunk = (reader or Reader()).read(b"", data.encode())
    assert chunk is not None
    return chunk


def finished(reason: str, **more: Any) -> bytes:
    return wire.event(candidates=[{"finishReason": reason, **more}])


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
    ],
)
def test_finish_reasons(reason: str, finish: str) -> None:
    result = choice(wire.event(wire.text("Yes.")), finished(reason))
    assert (result["finish_reason"], result["message"]["content"]) == (finish, "Yes.")


@pytest.mark.parametrize(("reason", "finish"), [("STOP", "tool_calls"), ("MAX_TOKENS", "length")])
@pytest.mark.parametrize("apart", [True, False])
def test_whoever_called_a_function_stopped_for_it(reason: str, finish: str, apart: bool) -> None:
    called = wire.call("now")
    body = wire.event(called) + finished(reason) if apart else wire.end(reason, called)
    assert choice(body)["finish_reason"] == finish


@pytest.mark.parametrize(
    "reason", ["OTHER", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "NO_IMAGE", "melted"]
)
def test_a_reason_that_says_that_it_broke_is_no_finish(reason: str) -> None:
    result = finished(reason, finishMessage="Malformed function call: print(")
    _, stream = collected(wire.event(wire.text("Yes.")), result)
    assert stream.error is not None
    assert stream.error.code == "upstream_aborted"
    assert f"`{reason}`: Malformed" in stream.error.message


def test_an_answer_that_only_ends_is_not_whole() -> None:
    _, stream = collected(wire.event(wire.text("Yes.")))
    assert stream.error is not None
    assert stream.error.code == "upstream_incomplete"


def test_a_prompt_that_is_blocked_is_an_answer_that_was_filtered() -> None:
    blocked = {"blockReason": "PROHIBITED_CONTENT", "safetyRatings": []}
    result = choice(wire.event(promptFeedback=blocked))
    assert result["finish_reason"] == "content_filter"
    assert result["message"]["content"] == ""


def test_usage_after_the_finish_is_the_last_word() -> None:
    answer, _ = collected(
        wire.event(wire.text("Yes."), prompt=9, completion=1),
        wire.end("STOP", prompt=9, thoughts=2, completion=3),
        wire.line({"usageMetadata": {"promptTokenCount": 9, "toolUsePromptTokenCount": 4}})
        + wire.event(prompt=9, thoughts=2, completion=4),
    )
    assert answer["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 6,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_what_searches_and_tools_of_its_own_read_is_prompt() -> None:
    counts = {"promptTokenCount": 9, "toolUsePromptTokenCount": 4, "candidatesTokenCount": 1}
    usage = read(json.dumps({"usageMetadata": counts})).usage
    assert usage is not None
    assert (usage["prompt_tokens"], usage["total_tokens"]) == (13, 14)


def test_signatures_are_kept_and_go_back_as_they_came() -> None:
    signed = {"google": {"thought_signature": "CiQBy1n8"}}
    result = choice(
        wire.event(wire.thought("Let me think.") | {"thoughtSignature": "AAAA"}),
        wire.event(wire.text("I will")),
        wire.event(wire.text("") | wire.SIGNED),
        wire.event(wire.call("sum", a=1) | wire.SIGNED, wire.call("now")),
        wire.end("STOP"),
    )["message"]
    assert result["extra_content"] == signed
    assert [each.get("extra_content") for each in result["tool_calls"]] == [signed, None]
    results = [
        {"role": "tool", "tool_call_id": each["id"], "content": "1"}
        for each in result["tool_calls"]
    ]
    body = json.dumps({"model": "m", "messages": [result, *results]}).encode()
    sent = json.loads(encode(OutgoingRequest(body, parse(body), "gemini-3-pro", Quirks())))
    identities = [each["id"] for each in result["tool_calls"]]
    assert sent["contents"][0]["parts"] == [
        {"text": "I will", **wire.SIGNED},
        {"functionCall": {"name": "sum", "args": {"a": 1}, "id": identities[0]}, **wire.SIGNED},
        {"functionCall": {"name": "now", "args": {}, "id": identities[1]}},
    ]


def test_calls_of_several_candidates_are_counted_apart() -> None:
    stream, collector, reader = Stream(lambda: 0.0, 0.0), ChatAggregator(), Reader()
    stream.subscribe(collector)
    candidates = [
        {"index": index, "content": {"parts": [wire.call("now"), wire.call("sum", n=index)]}}
        for index in (1, 0)
    ]
    plain = {"index": 2, "content": {"parts": [wire.text("Yes.")]}, "finishReason": "STOP"}
    ends = [{"index": index, "finishReason": "STOP"} for index in (0, 1)]
    for result in ([*candidates, plain], ends):
        chunk = reader.read(b"", json.dumps({"candidates": result}).encode())
        assert chunk is not None
        stream.push(chunk)
    stream.end()
    answer = json.loads(collector.answer(AnswerHead("x", 1, "m")))
    found = [
        [each["function"]["arguments"] for each in one["message"].get("tool_calls", ())]
        for one in answer["choices"]
    ]
    # Ours are numbered as they come.
    assert found == [["{}", '{"n":1}'], ["{}", '{"n":0}'], []]
    finishes = [each["finish_reason"] for each in answer["choices"]]
    assert finishes == ["tool_calls", "tool_calls", "stop"]


def test_arguments_are_passed_on_number_by_number() -> None:
    part = '{"functionCall":{"name":"f","args":{ "a" : 1.10, "b":[ 1e3 ], "c":{"d": null} }}}'
    chunk = read(f'{{"candidates":[{{"content":{{"parts":[{part}]}}}}]}}')
    assert chunk.fields is not None
    function = chunk.fields[0]["delta"]["tool_calls"][0]["function"]
    assert function["arguments"] == '{"a":1.10,"b":[ 1e3 ],"c":{"d": null}}'


def test_logprobs_in_openais_shape() -> None:
    yes, no = {"token": "é", "logProbability": -0.5}, {"token": "no", "logProbability": -1.5}
    result = {
        "content": {"parts": [{"text": "é"}]},
        "logprobsResult": {
            "chosenCandidates": [yes, {}],
            "topCandidates": [{"candidates": [yes, no]}],
        },
    }
    there = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    answer = choice(wire.event(candidates=[result]), wire.end("STOP"))
    assert answer["logprobs"] == {
        "content": [
            there
            | {"top_logprobs": [there, {"token": "no", "logprob": -1.5, "bytes": [110, 111]}]},
            {"token": "", "logprob": 0.0, "bytes": [], "top_logprobs": []},
        ],
        "refusal": None,
    }


def test_logprobs_of_a_text_that_was_said_before() -> None:
    late = {"finishReason": "STOP", "logprobsResult": {"chosenCandidates": [{"token": "x"}]}}
    answer = choice(wire.event(wire.text("x")), wire.event(candidates=[late]))
    assert answer["logprobs"]["content"][0]["token"] == "x"


def test_the_answers_id_is_known() -> None:
    reader = Reader()
    assert reader.identity is None
    read('{"responseId":"Q2aWaOe5"}', reader)
    read('{"responseId":"another"}', reader)
    assert reader.identity == "Q2aWaOe5"


@pytest.mark.parametrize(
    "data",
    [
        "{}",
        '{"candidates":null}',
        '{"candidates":[]}',
        '{"candidates":[{}]}',
        '{"candidates":[{"content":{}}]}',
        '{"candidates":[{"content":{"parts":null}}]}',
        '{"candidates":[{"content":{"parts":[]},"finishReason":null}]}',
        '{"candidates":[{"content":{"parts":[{"text":""},{"text":null},{"thought":true}]}}]}',
        '{"candidates":[{"content":{"parts":[{"inlineData":{}},{"executableCode":null}]}}]}',
        '{"candidates":[{"safetyRatings":[],"groundingMetadata":{},"avgLogprobs":NaN}]}',
        '{"candidates":[{"finishReason":"FINISH_REASON_UNSPECIFIED"}]}',
        '{"promptFeedback":{}}',
        '{"candidates":[{}],"promptFeedback":{"blockReason":"SAFETY"}}',
        '{"error":null,"somethingNew":[7]}',
    ],
)
def test_what_says_nothing_is_passed_over(data: str) -> None:
    chunk = read(data)
    assert (chunk.choices, chunk.fields, chunk.usage) == ([], [], None)


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"[]",
        b"7",
        b'"[DONE]"',
        b"[DONE]",
        b'{"candidates":[{"index":NaN',
        b'{"candidates":{}}',
        b'{"candidates":[null]}',
        b'{"candidates":[{"index":-1}]}',
        b'{"candidates":[{"index":"0"}]}',
        b'{"candidates":[{"content":"x"}]}',
        b'{"candidates":[{"content":{"parts":[7]}}]}',
        b'{"candidates":[{"content":{"parts":[{"text":7}]}}]}',
        b'{"candidates":[{"content":{"parts":[{"functionCall":{"args":[]}}]}}]}',
        b'{"candidates":[{"finishReason":7}]}',
        b'{"usageMetadata":{"promptTokenCount":-7}}',
        b'{"usageMetadata":{"promptTokenCount":"7"}}',
        b'{"responseId":"\xff"}',
        b'{"x":' + b"[" * 100_000,
        b'{"error":' + b"[" * 100_000,
    ],
)
def test_what_is_no_event_is_the_upstreams_failure(data: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        Reader().read(b"", data)
    assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


def members(*candidates: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of events, each with one candidate, as the reader gives them."""
    reader = Reader()
    events = [json.dumps({"candidates": [each]}) for each in candidates]
    return [each for event in events for each in read(event, reader).members()]


def answer(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"content": {"role": "model", "parts": list(parts)}, "index": 0} | more


def picture(number: int = 0, url: str = "data:image/png;base64,AAAA") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}, "index": number}


PNG = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
CODE = {"executableCode": {"language": "PYTHON", "code": "1 + 1"}}
RESULT = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}}
SOUND = {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "AAAA"}}


def google(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"extra_content": {"google": more | ({"parts": list(parts)} if parts else {})}}


SIGNATURE = {"thought_signature": wire.SIGNED["thoughtSignature"]}
# parts of one event, the deltas; None: the part as it came
PARTS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "a picture": ([PNG], [{"images": [picture()]}]),
    "text and a picture": ([{"text": "Here"}, PNG], [{"content": "Here"}, {"images": [picture()]}]),
    "two pictures": ([PNG, PNG], [{"images": [picture()]}, {"images": [picture(1)]}]),
    "a picture, signed": ([PNG | wire.SIGNED], [{"images": [picture()]} | google(**SIGNATURE)]),
    "a picture elsewhere": (
        [{"fileData": {"mimeType": "image/webp", "fileUri": "https://a.example/b"}}],
        [{"images": [picture(url="https://a.example/b")]}],
    ),
    "a picture of a thought": ([PNG | {"thought": True}], [google(PNG | {"thought": True})]),
    "a picture without a type": ([{"inlineData": {"data": "x"}}], None),
    "no data": ([{"inlineData": {"mimeType": "image/png"}}], None),
    "data that is no text": ([{"inlineData": {"mimeType": "image/png", "data": 7}}], None),
    "data that is no object": ([{"inlineData": "x"}], None),
    "sound": ([SOUND], None),
    "a document": ([{"fileData": {"mimeType": "text/text_only", "fileUri": "u"}}], None),
    "code": ([CODE | wire.SIGNED], None),
    "code and what came of it": ([CODE, RESULT], [google(CODE), google(RESULT)]),
    "code of a thought": ([CODE | {"thought": True}], None),
    "a part that nobody knows": ([{"somethingNew": {"of": [7]}}], None),
    "text with more members": (
        [{"text": "a", "partMetadata": {"x": 1}}],
        [{"content": "a"} | google({"partMetadata": {"x": 1}})],
    ),
    "signed text with more members": (
        [{"text": "a", "partMetadata": {"x": 1}} | wire.SIGNED],
        [{"content": "a"} | google({"partMetadata": {"x": 1}}, **SIGNATURE)],
    ),
    "a thought with more members": (
        [{"text": "a", "thought": True, "partMetadata": {"x": 1}} | wire.SIGNED],
        [{"reasoning_content": "a"} | google({"partMetadata": {"x": 1}})],
    ),
    "a signature alone": ([{"text": ""} | wire.SIGNED], [google(**SIGNATURE)]),
}


@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("finish", [None, "STOP"])
def test_parts_of_each_kind(case: str, finish: str | None) -> None:
    """What has no place in OpenAI's format comes as it is."""
    parts, deltas = PARTS[case]
    found = members(answer(*parts, **({"finishReason": finish} if finish else {})))
    if finish:
        assert found.pop() == {"index": 0, "delta": {}, "finish_reason": "stop"}
    wanted = deltas if deltas is not None else [google(parts[0])]
    assert [each["delta"] for each in found] == wanted
    assert all(each["finish_reason"] is None for each in found)


def test_a_function_call_with_more_members() -> None:
    part = wire.call("now") | {"partMetadata": {"x": 1}} | wire.SIGNED
    (found,) = members(answer(part))
    (call,) = found["delta"].pop("tool_calls")
    assert call["extra_content"] == google(**SIGNATURE)["extra_content"]
    assert found["delta"] == google({"partMetadata": {"x": 1}})


def test_pictures_are_numbered_over_all_events_by_candidate() -> None:
    found = members(answer(PNG), answer(PNG, index=1), answer(PNG, PNG))
    assert [each["delta"]["images"][0]["index"] for each in found] == [0, 0, 1, 2]


GROUNDED = {"groundingChunks": [{"web": {"uri": "https://a.example"}}]}
RATED = [{"category": "HARM_CATEGORY_HARASSMENT", "probability": "NEGLIGIBLE"}]


def test_further_members_of_a_candidate_are_the_choices_own() -> None:
    """With the text that they come with, else in front of the finish; each once."""
    more = {"groundingMetadata": GROUNDED, "safetyRatings": RATED, "tokenCount": 7}
    found = members(
        answer({"text": "a"}, safetyRatings=RATED),
        answer({"text": "b"}, {"text": "c"}, finishReason="STOP", **more),
        {"finishReason": "STOP", "citationMetadata": {"citationSources": [{"uri": "u"}]}},
    )
    head = {"index": 0, "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert found == [
        head | {"delta": {"content": "a"}, "safetyRatings": RATED},
        head | {"delta": {"content": "b"}} | more,
        head | {"delta": {"content": "c"}},
        end,
        head | {"delta": {}, "citationMetadata": {"citationSources": [{"uri": "u"}]}},
        end,
    ]


def test_further_members_of_an_event_are_of_its_chunk() -> None:
    reader = Reader()
    feedback = {"safetyRatings": RATED}
    first = read(json.dumps({"promptFeedback": feedback, "modelVersion": "m"}), reader)
    assert first.members() == []
    assert json.loads(b"{%b}" % first.extras[1:]) == {"promptFeedback": feedback}
    second = read(json.dumps({"candidates": [answer({"text": "a"})]}), reader)
    assert second.extras == b""
    assert reader.is_stateless(second)


STOP = {"finishReason": "STOP"}
# Candidates as they came: an answer that is `Hello world` or a part of it, and its finishes.
STOPS: dict[str, tuple[list[dict[str, Any]], str, int]] = {
    "in each event": (
        [answer({"text": "Hello"}, **STOP), answer({"text": " world"}, **STOP)],
        "Hello world",
        2,
    ),
    "before the text": (
        [answer(**STOP), answer(**STOP), answer({"text": "Hello"}), answer(**STOP)],
        "Hello",
        3,
    ),
    "in the middle": (
        [
            answer({"text": "Hello"}, **STOP),
            answer({"text": " world"}),
            answer({"text": ""}, **STOP),
        ],
        "Hello world",
        2,
    ),
}


@pytest.mark.parametrize("case", STOPS)
def test_a_finish_is_said_as_often_as_it_came(case: str) -> None:
    """Which of them is the last, only the end of the body tells."""
    candidates, text, times = STOPS[case]
    found = members(*candidates)
    assert "".join(each["delta"].get("content", "") for each in found) == text
    assert [each["finish_reason"] for each in found if each["finish_reason"]] == ["stop"] * times
    assert all(not each["delta"] for each in found if each["finish_reason"])


def test_numbers_that_are_none_are_null() -> None:
    """Protocol buffers write them as strings (the JSON mapping of proto3), others as words."""
    data = """{"candidates":[{"content":{"parts":[{"text":"a"}]},"avgLogprobs":NaN,"logprobsResult":
      {"chosenCandidates":[{"token":"a","logProbability":"-Infinity"},{"token":"b",
      "logProbability":-Infinity},{"token":"c","logProbability":-1}]}}],
      "usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":null}}"""
    chunk = read(data)
    (found,) = chunk.members()
    assert [each["logprob"] for each in found["logprobs"]["content"]] == [None, None, -1.0]
    assert "avgLogprobs" not in found
    assert chunk.usage is not None
    assert chunk.usage["total_tokens"] == 3


def test_arguments_with_half_a_surrogate_pair_are_json() -> None:
    part = r'{"functionCall":{"name":"f\ud83d","args":{"a":"\ud83d","b":1}}}'
    chunk = read(f'{{"candidates":[{{"content":{{"parts":[{part}]}}}}]}}')
    function = chunk.members()[0]["delta"]["tool_calls"][0]["function"]
    assert function == {"name": "f\ufffd", "arguments": '{"a":"\ufffd","b":1}'}


def test_an_error_that_says_nothing_is_one() -> None:
    with pytest.raises(UpstreamError) as caught:
        Reader().read(b"error", b"null")
    assert caught.value.code == "upstream_error"


@pytest.mark.parametrize("listed", [True, False])
def test_a_whole_answer_with_all_that_it_can_hold(listed: bool) -> None:
    parts = [
        {"text": "Hm", "thought": True},
        {"text": "Hello"},
        CODE,
        RESULT,
        {"text": " world"} | wire.SIGNED,
        PNG,
        wire.call("f", a=1) | wire.SIGNED,
    ]
    first = answer(*parts, **STOP, safetyRatings=RATED, groundingMetadata=GROUNDED)
    first["logprobsResult"] = {"chosenCandidates": [{"token": "Hello", "logProbability": -0.5}]}
    second = answer({"text": "Yes"}, finishReason="MAX_TOKENS", index=1)
    counts = {"promptTokenCount": 3, "candidatesTokenCount": 2, "thoughtsTokenCount": 1}
    event = {"candidates": [first, second], "usageMetadata": counts, "responseId": "r1"}
    event |= {"modelVersion": "m", "promptFeedback": {"safetyRatings": RATED}}
    body = json.dumps([event] if listed else event).encode()
    reader = Reader()
    (data,) = unstreamed(body)
    chunk = read(data.decode(), reader)
    choices: dict[int, dict[str, Any]] = {}
    for each in chunk.members():
        merge_choice(choices.setdefault(each["index"], {}), each)
    logprob = {"token": "Hello", "logprob": -0.5, "bytes": [*b"Hello"], "top_logprobs": []}
    call = {"index": 0, "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert to_builtins(choices[0]) == {
        "index": 0,
        "delta": {
            "reasoning_content": "Hm",
            "content": "Hello world",
            "images": [picture()],
            "tool_calls": [call | google(**SIGNATURE)],
            **google(CODE, RESULT, **SIGNATURE),
        },
        "finish_reason": "tool_calls",
        "safetyRatings": RATED,
        "groundingMetadata": GROUNDED,
        "logprobs": {"content": [logprob]},
    }
    assert to_builtins(choices[1]) == {
        "index": 1,
        "delta": {"content": "Yes"},
        "finish_reason": "length",
    }
    assert json.loads(b"{%b}" % chunk.extras[1:]) == {"promptFeedback": {"safetyRatings": RATED}}
    assert chunk.usage is not None
    assert chunk.usage["total_tokens"] == 6
    assert reader.identity == "r1"


def test_a_list_of_events_with_nan_and_half_a_pair() -> None:
    event = r'{"candidates":[{"content":{"parts":[{"text":"%s"}]},"x":NaN,"y":"\ud83d"}]}'
    body = "[" + event % r"hi \ud83d" + "," + event % r"\ude00 ok" + "]"
    found = [each for data in unstreamed(body.encode()) for each in read(data.decode()).members()]
    assert [each["delta"]["content"] for each in found] == ["hi \ud83d", "\ude00 ok"]
    assert {each["y"] for each in found} == {"\ufffd"}
