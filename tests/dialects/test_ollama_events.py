"""Ollama's dialect: the lines that come back, what a refusal means."""

import json
from typing import Any

import pytest

from legato.core.chunk import Chunk
from legato.core.errors import ApiError, UpstreamError
from legato.core.front import AnswerHead
from legato.core.merge import merge_choice, to_builtins
from legato.core.stream import State, Stream
from legato.dialects.ollama import Reader, no_stream, refusal, unstreamed
from legato.fronts.chat_aggregator import ChatAggregator
from tests.support.transcripts import ollama as wire


def collected(*lines: bytes) -> tuple[dict[str, Any], Stream]:
    """What a client gets that does not stream, of an answer that may not be whole."""
    stream, collector, reader = Stream(lambda: 0.0, 0.0), ChatAggregator(), Reader()
    stream.subscribe(collector)
    try:
        for line in b"".join(lines).splitlines():
            chunk = reader.read(b"", line)
            if chunk is not None:
                stream.push(chunk)
        stream.end()
    except UpstreamError as error:
        stream.fail(error)
    return json.loads(collector.answer(AnswerHead("x", 1, "m"))), stream


def choice(*lines: bytes) -> dict[str, Any]:
    answer, stream = collected(*lines)
    assert stream.state is State.COMPLETE, stream.error
    return answer["choices"][0]


def read(data: bytes, reader: Reader | None = None) -> Chunk:
    chunk = (reader or Reader()).read(b"", data)
    assert chunk is not None
    return chunk


def done(**members: Any) -> bytes:
    return wire.line(message={"role": "assistant", "content": ""}, done=True, **members)


@pytest.mark.parametrize(
    ("members", "finish"),
    [
        ({"done_reason": "stop"}, "stop"),
        ({"done_reason": "length"}, "length"),
        ({"done_reason": ""}, "stop"),
        ({}, "stop"),
    ],
)
def test_how_an_answer_ends(members: dict[str, Any], finish: str) -> None:
    result = choice(wire.say("Yes."), done(**members))
    assert (result["finish_reason"], result["message"]["content"]) == (finish, "Yes.")


@pytest.mark.parametrize("reason", ["load", "unload", "melted"])
def test_a_reason_that_is_no_end_of_an_answer_is_no_finish(reason: str) -> None:
    _, stream = collected(wire.say("Yes."), done(done_reason=reason))
    assert stream.error is not None
    assert stream.error.code == "upstream_aborted"
    assert reason in stream.error.message


@pytest.mark.parametrize(("reason", "finish"), [("stop", "tool_calls"), ("length", "length")])
@pytest.mark.parametrize("apart", [True, False])
def test_whoever_called_a_function_stopped_for_it(reason: str, finish: str, apart: bool) -> None:
    calls = [wire.call(0, "now")]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    whole = [wire.line(message=message, done=True, done_reason=reason)]
    lines = [wire.message(tool_calls=calls), done(done_reason=reason)] if apart else whole
    assert choice(*lines)["finish_reason"] == finish


def test_what_comes_after_the_end_is_read_as_before() -> None:
    """The end of the body is the end: text may come behind `done`, and so may an error."""
    reader = Reader()
    read(done(done_reason="stop"), reader)
    assert read(wire.say("more"), reader).members()[0]["delta"] == {"content": "more"}
    assert [each["finish_reason"] for each in read(done(), reader).members()] == ["stop"]
    with pytest.raises(UpstreamError) as caught:
        reader.read(b"", b"nonsense")
    assert caught.value.code == "upstream_malformed"
    with pytest.raises(UpstreamError) as caught:
        reader.read(b"", b'{"error":"melted"}')
    assert caught.value.code == "upstream_error"


def test_thoughts_text_and_calls_of_one_line_come_in_their_order() -> None:
    line = wire.message("Yes.", thinking="Hm", tool_calls=[wire.call(0, "sum", a=1)])
    fields = read(line).fields
    assert fields is not None
    assert [list(each["delta"]) for each in fields] == [
        ["reasoning_content"],
        ["content"],
        ["tool_calls"],
    ]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ('{ "a" : 1.10, "b": [1e3]}', '{"a":1.10,"b":[1e3]}'),
        ("{}", "{}"),
        ("null", "{}"),
        ('"{\\"a\\": 1}"', '{"a": 1}'),
    ],
)
def test_arguments_are_passed_on_number_by_number(arguments: str, wanted: str) -> None:
    call = f'{{"function":{{"name":"f","arguments":{arguments}}}}}'
    line = f'{{"message":{{"role":"assistant","content":"","tool_calls":[{call}]}}}}'
    result = choice(line.encode(), b"\n", done())["message"]["tool_calls"][0]
    assert result["function"] == {"name": "f", "arguments": wanted}


def test_calls_without_an_id_get_one() -> None:
    unnamed = {"function": {"name": "now", "arguments": {}}}
    lines = [wire.message(tool_calls=[unnamed] * number) for number in (2, 1)]
    result = choice(*lines, done())["message"]["tool_calls"]
    assert len({each["id"] for each in result}) == 3


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ({"prompt_eval_count": 9, "eval_count": 3}, (9, 3, 12)),
        ({"eval_count": 3}, (0, 3, 3)),
        ({"prompt_eval_count": 9}, (9, 0, 9)),
    ],
)
def test_usage(counts: dict[str, int], wanted: tuple[int, int, int]) -> None:
    usage = read(done(**counts)).usage
    assert usage is not None
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == wanted


def test_usage_that_is_not_told_is_counted() -> None:
    answer, _ = collected(wire.message(thinking="Hm"), wire.say("Yes", "."), done())
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}


def test_logprobs_in_openais_shape() -> None:
    yes = {"token": "Yes", "logprob": -0.5, "bytes": [89, 101, 115]}
    told = [{**yes, "top_logprobs": [yes]}, {"token": ".", "logprob": -1}]
    line = wire.line(message={"content": "Yes."}, logprobs=told, done=False)
    assert choice(line, done(logprobs=[yes]))["logprobs"]["content"] == [
        yes | {"top_logprobs": [yes]},
        {"token": ".", "logprob": -1, "bytes": None, "top_logprobs": []},
        yes | {"top_logprobs": []},
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"message":null}',
        b'{"message":{}}',
        b'{"message":{"content":"","thinking":"","tool_calls":[]},"done":false}',
        b'{"status":"loading","error":null}',
    ],
)
def test_what_says_nothing_is_passed_over(data: bytes) -> None:
    chunk = read(data)
    assert (chunk.choices, chunk.fields, chunk.usage) == ([], [], None)


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"[]",
        b"7",
        b'"[DONE]"',
        b"data: {}",
        b'{"message":{"content":NaN',
        b'{"message":7}',
        b'{"message":{"content":7}}',
        b'{"message":{"content":["x"]}}',
        b'{"message":{"tool_calls":{}}}',
        b'{"message":{"tool_calls":[{}]}}',
        b'{"message":{"tool_calls":[{"function":{"arguments":[]}}]}}',
        b'{"done":"yes"}',
        b'{"done_reason":7}',
        b'{"eval_count":-7}',
        b'{"message":{"content":"\xff"}}',
        b'{"x":' + b"[" * 100_000,
    ],
)
def test_what_is_no_line_of_an_answer_is_the_upstreams_failure(data: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        Reader().read(b"", data)
    assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("llama runner process has terminated", "has terminated"),
        ({"message": "no", "type": "server_error"}, "no"),
        (7, "gave no reason"),
        ("x" * 9000, "x" * 500),
    ],
)
@pytest.mark.parametrize("more", [{}, {"message": {"content": "Yes."}}, {"message": "no object"}])
def test_an_error_in_the_stream(result: Any, message: str, more: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as caught:
        read(json.dumps({"error": result} | more).encode())
    error = caught.value
    kind = result.get("type") if isinstance(result, dict) else None
    assert (error.status, error.code) == (502, kind or "upstream_error")
    if result != 7 or more != {"message": "no object"}:
        assert message in error.message
    assert len(error.message) <= 500


# status, what is sent, our status, code, is it the upstream's fault
REFUSALS: dict[str, tuple[int, str, int, str, bool]] = {
    "the caller's": (400, '"x" does not support thinking', 400, "invalid_request", False),
    "a long prompt": (
        400,
        "the input length exceeds the context length",
        400,
        "context_length_exceeded",
        False,
    ),
    "our key": (401, "unauthorized", 502, "upstream_401", True),
    "no model": (404, 'model "x" not found', 502, "upstream_404", True),
    "the rate": (429, "too many requests", 429, "upstream_rate_limited", True),
    "inside": (500, "llama runner process has terminated", 502, "upstream_500", True),
    "busy": (503, "server busy, please try again", 503, "upstream_503", True),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    status, result, ours, code, theirs = REFUSALS[name]
    error = refusal(status, json.dumps({"error": result}).encode(), 7.0)
    assert (error.status, error.code) == (ours, code)
    assert (result in error.message) == (status != 401), "our account is ours to know"
    assert isinstance(error, UpstreamError) == theirs
    assert error.retry_after == (7.0 if theirs else None)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b'{"error":{}}', b"\xff"])
def test_a_refusal_that_says_nothing(body: bytes) -> None:
    error = refusal(500, body)
    assert error.code == "upstream_500"
    assert "gave no reason" in error.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"no"}', "no"),
        (b'{"message":{"content":"x"},"done":true}', "not a stream"),
        (b"<html>", "not a stream"),
        (b"", "not a stream"),
        (b"[" * 100_000, "not a stream"),
    ],
)
def test_a_200_without_a_stream(body: bytes, message: str) -> None:
    error: ApiError = no_stream(body)
    assert (error.status, error.code) == (502, "upstream_error")
    assert message in error.message


def members(*lines: bytes) -> list[dict[str, Any]]:
    reader = Reader()
    return [each for line in b"".join(lines).splitlines() for each in read(line, reader).members()]


# a picture as Ollama sends it, its address
PICTURES: dict[str, tuple[str, str]] = {
    "PNG": ("iVBORw0KGgoAAAA", "data:image/png;base64,iVBORw0KGgoAAAA"),
    "JPEG": ("/9j/4AAQ", "data:image/jpeg;base64,/9j/4AAQ"),
    "GIF": ("R0lGODlh", "data:image/gif;base64,R0lGODlh"),
    "WebP": ("UklGRiQA", "data:image/webp;base64,UklGRiQA"),
    "unknown": ("AAAA", "data:image/png;base64,AAAA"),
    "an address": ("https://a.example/b.png", "https://a.example/b.png"),
    "with its type": ("data:image/bmp;base64,AAAA", "data:image/bmp;base64,AAAA"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures(case: str) -> None:
    data, url = PICTURES[case]
    found = members(wire.message("Here", images=[data]), wire.message(images=[data, data]))
    assert [each["delta"] for each in found[:1]] == [{"content": "Here"}]
    pictures = [each["delta"]["images"] for each in found[1:]]
    assert [len(each) for each in pictures] == [1, 2]
    assert [each for some in pictures for each in some] == [
        {"type": "image_url", "image_url": {"url": url}, "index": number} for number in range(3)
    ]


def test_members_that_nobody_knows_are_kept() -> None:
    reader = Reader()
    assert read(wire.line(status="loading"), reader).extras == b',"status":"loading"'
    line = wire.line(message={"content": "a", "mood": "good", "empty": []}, done=False, x=[7])
    chunk = read(line, reader)
    assert [each["delta"] for each in chunk.members()] == [{"content": "a"}, {"mood": "good"}]
    assert json.loads(b"{%b}" % chunk.extras[1:]) == {"x": [7]}


@pytest.mark.parametrize("message", [{"content": "a"}, {"thinking": "a"}])
def test_lines_of_text_are_stateless(message: dict[str, str]) -> None:
    reader = Reader()
    cloud = {"remote_model": "m", "remote_host": "https://a.example"}
    chunk = read(wire.line(message={"role": "assistant"} | message, done=False, **cloud), reader)
    assert reader.is_stateless(chunk)
    assert chunk.extras == b""
    calls = wire.message("a", tool_calls=[wire.call(0, "now")])
    assert not reader.is_stateless(read(calls, reader)), "calls are counted"


def test_a_finish_is_said_as_often_as_it_came() -> None:
    found = members(done(done_reason="stop"), wire.say("Hello"), done(done_reason="length"))
    assert [each["finish_reason"] for each in found] == ["stop", None, "length"]


def test_arguments_with_half_a_surrogate_pair_are_json() -> None:
    call = r'{"id":"\ud83d","function":{"name":"f","arguments":{"a":"\ud83d","b":NaN}}}'
    line = f'{{"message":{{"role":"assistant","content":"","tool_calls":[{call}]}}}}'
    (found,) = members(line.encode())
    (piece,) = found["delta"]["tool_calls"]
    assert piece["id"] == "\ufffd"
    assert piece["function"]["arguments"] == '{"a":"\ufffd","b":null}'


@pytest.mark.parametrize("indent", [None, 2])
def test_a_whole_answer_with_all_that_it_can_hold(indent: int | None) -> None:
    """On one line or several: a server that does not stream may write it for people to read."""
    yes = {"token": "Yes", "logprob": -0.5, "bytes": [89, 101, 115], "top_logprobs": []}
    message = {
        "role": "assistant",
        "content": "Yes.",
        "thinking": "Hm",
        "images": ["AAAA"],
        "tool_calls": [wire.call(0, "sum", a=1), wire.call(1, "now")],
        "mood": "good",
    }
    fields = {"model": "m", "message": message, "done": True, "done_reason": "stop"}
    fields |= {"logprobs": [yes], "prompt_eval_count": 3, "eval_count": 2, "x": "\u2028"}
    (data,) = unstreamed(json.dumps(fields, indent=indent).encode())
    chunk = read(data)
    choice: dict[str, Any] = {}
    for each in chunk.members():
        merge_choice(choice, each)
    assert to_builtins(choice) == {
        "index": 0,
        "delta": {
            "reasoning_content": "Hm",
            "content": "Yes.",
            "images": [
                {
                    "type": "image_url",
                    "image_url": {"url": "data:image/png;base64,AAAA"},
                    "index": 0,
                }
            ],
            "mood": "good",
            "tool_calls": [
                {
                    "index": number,
                    "id": f"call_{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }
                for number, (name, arguments) in enumerate([("sum", '{"a":1}'), ("now", "{}")])
            ],
        },
        "logprobs": {"content": [yes]},
        "finish_reason": "tool_calls",
    }
    assert chunk.extras == b',"x":"\\u2028"'
    assert chunk.usage is not None
    assert chunk.usage["total_tokens"] == 5


def test_a_whole_answer_with_nan_and_half_a_pair() -> None:
    body = rb'{"message":{"content":"hi \ud83d"},"done":true,"x":NaN,"eval_count":2}'
    (data,) = unstreamed(body)
    assert [each["delta"] for each in read(data).members()] == [{"content": "hi \ud83d"}, {}]
