"""OpenAI's dialect: the request that goes out, the events that come back, what a refusal means."""

import json
from typing import Any

import pytest

from legato.core.chunk import Chunk
from legato.core.dialect import OutgoingRequest, Quirks
from legato.core.errors import ApiError, UpstreamError
from legato.core.request import parse
from legato.core.stream import Stream
from legato.dialects.openai import END, Reader, encode, headers, no_stream, refusal, unstreamed
from tests.fronts.test_chat_writer import Sink, check_body

HELLO = b'{"model":"public","messages":[{"role":"user","content":"Hello"}]'


def encoded(more: bytes = b"") -> bytes:
    body = HELLO + more + b"}"
    return encode(OutgoingRequest(body, parse(body), "theirs", Quirks()))


def test_a_request_byte_by_byte() -> None:
    assert encoded() == (
        b'{"model":"theirs","messages":[{"role":"user","content":"Hello"}],"stream":true,'
        b'"stream_options":{"include_usage":true}}'
    )


@pytest.mark.parametrize(
    "more",
    [
        b',"stream":false',
        b',"stream":true,"stream_options":{"include_usage":false,"include_obfuscation":true}',
        b',"stream":null,"stream_options":null',
    ],
)
def test_always_a_stream_always_with_usage(more: bytes) -> None:
    sent = json.loads(encoded(more))
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True}
    assert sent["model"] == "theirs"


UNKNOWN = {
    "numbers": b',"top_k":7,"exact":1.10,"big":' + b"9" * 100,
    "spaces": b',"guided":{ "regex" : "a.*" }',
    "escapes": rb',"x":"\u00e9\/\ud83d\udc0e"',
    "typed, but as it came": b',"temperature":0.70,"stop":[ "x" ]',
    "null": b',"x":null',
    "separators": ',"x":"\u2028"'.encode(),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_ours_to_say_goes_out_byte_by_byte(name: str) -> None:
    more = UNKNOWN[name]
    assert encoded(more) == (
        b'{"model":"theirs","messages":[{"role":"user","content":"Hello"}]'
        + more
        + b',"stream":true,"stream_options":{"include_usage":true}}'
    )


@pytest.mark.parametrize(
    ("key", "wanted"), [(None, []), ("", []), ("k", [("authorization", "Bearer k")])]
)
def test_headers(key: str | None, wanted: list[tuple[str, str]]) -> None:
    assert headers(key) == wanted


# What comes back

TEXT = '[{"index":0,"delta":{"content":"a"},"finish_reason":null}]'


def chunk(data: str, name: bytes = b"", reader: Reader | None = None) -> Chunk:
    read = (reader or Reader()).read(name, data.encode())
    assert read is not None
    return read


@pytest.mark.parametrize("data", [b"[DONE]", b" [DONE]", b"[DONE] "])
def test_done(data: bytes) -> None:
    assert Reader().read(b"", data) is END


# data, choices as JSON, usage, extras
SHAPES: dict[str, tuple[str, str, Any, str]] = {
    "plain": (
        f'{{"id":"x","object":"o","created":1,"model":"m","choices":{TEXT}}}',
        TEXT,
        None,
        "",
    ),
    "bare": (f'{{"choices":{TEXT}}}', TEXT, None, ""),
    "odd heads": (f'{{"id":7,"created":1.5,"model":null,"choices":{TEXT}}}', TEXT, None, ""),
    "spaces": (f' {{ "choices" : {TEXT} }} ', TEXT, None, ""),
    "usage null": (f'{{"choices":{TEXT},"usage":null}}', TEXT, None, ""),
    "usage": ('{"choices":[],"usage":{"a":1}}', "[]", {"a": 1}, ""),
    "usage beside choices": (f'{{"choices":{TEXT},"usage":{{"a":1}}}}', TEXT, {"a": 1}, ""),
    "usage alone": ('{"usage":{"a":1}}', "[]", {"a": 1}, ""),
    "choices null": ('{"choices":null,"usage":{"a":1}}', "[]", {"a": 1}, ""),
    "choices null, more unknown": ('{"choices":null,"x":1}', "[]", None, ',"x":1'),
    "tier": (f'{{"choices":{TEXT},"service_tier":"flex"}}', TEXT, None, ',"service_tier":"flex"'),
    "fingerprint": (
        f'{{"system_fingerprint":"f","choices":{TEXT}}}',
        TEXT,
        None,
        ',"system_fingerprint":"f"',
    ),
    "both": (
        f'{{"service_tier":"t","choices":{TEXT},"system_fingerprint":"f"}}',
        TEXT,
        None,
        ',"service_tier":"t","system_fingerprint":"f"',
    ),
    "unknown": (
        f'{{"provider":"p","choices":{TEXT},"cost":1.10,"usage":null}}',
        TEXT,
        None,
        ',"provider":"p","cost":1.10',
    ),
    "error null": (f'{{"error":null,"choices":{TEXT}}}', TEXT, None, ""),
    "named": (f'{{"choices":{TEXT}}}', TEXT, None, ""),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_of_a_chunk(name: str) -> None:
    data, raw, usage, extras = SHAPES[name]
    reader = Reader()
    for read in (chunk(data, reader=reader), chunk(data, b"message", reader=reader)):
        assert read.raw == raw.encode()
        assert [each.index for each in read.choices] == [0] * len(json.loads(raw))
        assert read.usage == usage
        assert sorted(read.extras.split(b",")) == sorted(extras.encode().split(b","))


def test_an_upstream_with_unknown_members_is_read_the_same_before_and_after() -> None:
    reader = Reader()
    plain = f'{{"id":"x","choices":{TEXT},"system_fingerprint":"f"}}'
    before = chunk(plain, reader=reader)
    chunk(f'{{"choices":{TEXT},"provider":"p"}}', reader=reader)
    after = chunk(plain, reader=reader)
    assert (before.raw, before.extras) == (after.raw, after.extras)
    assert before.members() == after.members()


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}, {"type": "x"}]}
#: content as it came, the delta as it is
PARTS: dict[str, tuple[Any, Any]] = {
    "text": ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], {"content": "ab"}),
    "thoughts": ([THOUGHT], {"reasoning_content": "hm"}),
    "thoughts as text": ([{"type": "thinking", "thinking": "hm"}], {"reasoning_content": "hm"}),
    "both": ([THOUGHT, {"type": "text", "text": "a"}], {"reasoning_content": "hm", "content": "a"}),
    "others": (
        [{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "a"}],
        {"content": "a", "content_parts": [{"type": "reference", "reference_ids": [1]}]},
    ),
    "nothing": ([], {}),
    "no parts": ([7, None], {"content_parts": [7, None]}),
    "odd parts": ([{"type": "text"}, {"type": "thinking", "thinking": 7}], {}),
}


@pytest.mark.parametrize("case", PARTS)
def test_content_in_parts(case: str) -> None:
    content, delta = PARTS[case]
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    read = chunk(json.dumps({"choices": [choice]}))
    assert read.members() == [choice | {"delta": delta}]
    assert read.choices[0].index == 0


COUNTS = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
#: where an event says it, and what of it is not OpenAI's already
PLACES: dict[str, tuple[Any, Any]] = {
    "Groq's": ({"choices": [], "x_groq": {"id": "r", "usage": COUNTS}}, {}),
    "Groq's, nothing sent": ({"choices": [], "x_groq": {"id": "r"}}, None),
    "Groq's, no object": ({"choices": [], "x_groq": 7}, None),
    "in the choice": ({"choices": [{"index": 0, "delta": {}, "usage": COUNTS}]}, {}),
    "in the choice, no object": ({"choices": [{"index": 0, "delta": {}, "usage": "x"}]}, None),
    "cached, as DeepSeek says it": (
        {"usage": COUNTS | {"prompt_cache_hit_tokens": 1, "prompt_cache_miss_tokens": 0}},
        {"prompt_tokens_details": {"cached_tokens": 1}},
    ),
    "cached, as Moonshot says it": (
        {"usage": COUNTS | {"cached_tokens": 1}},
        {"prompt_tokens_details": {"cached_tokens": 1}},
    ),
    "cached, in both places": (
        {"usage": COUNTS | {"cached_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}},
        {"prompt_tokens_details": {"cached_tokens": 0}},
    ),
    "by other names": (
        {
            "usage": {
                "input_tokens": 1,
                "output_tokens": 2,
                "total_tokens": 3,
                "output_tokens_details": {"reasoning_tokens": 1},
            }
        },
        {"completion_tokens_details": {"reasoning_tokens": 1}},
    ),
    "thoughts beside the completion": (
        {
            "usage": {
                "prompt_tokens": 1,
                "completion_tokens": 2,
                "total_tokens": 8,
                "completion_tokens_details": {"reasoning_tokens": 5},
            }
        },
        {"completion_tokens": 7, "total_tokens": 8},
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_usage_in_another_place_or_shape(case: str) -> None:
    event, more = PLACES[case]
    usage = chunk(json.dumps(event)).usage
    if more is None:
        assert not usage
    else:
        assert usage is not None
        assert {name: usage[name] for name in COUNTS | more} == COUNTS | more


def test_a_choice_as_it_is_typed() -> None:
    (choice,) = chunk(
        '{"choices":[{"index":2,"delta":{"reasoning":"r","x":1},"finish_reason":"stop"}]}'
    ).choices
    assert (choice.index, choice.finish_reason, choice.delta.reasoning) == (2, "stop", "r")


# name, data, status, code, message
ERRORS: dict[str, tuple[bytes, str, int, str, str]] = {
    "object": (b"", '{"error":{"message":"no","code":"c","type":"t"}}', 502, "c", "no"),
    "type alone": (b"", '{"error":{"message":"no","type":"t"}}', 502, "t", "no"),
    "text": (b"", '{"error":"no"}', 502, "upstream_error", "no"),
    "list": (b"", '{"error":[1]}', 502, "upstream_error", "gave no reason"),
    "message null": (b"", '{"error":{"message":null}}', 502, "upstream_error", "gave no reason"),
    "detail": (b"", '{"error":{"detail":"no"}}', 502, "upstream_error", "no"),
    "code 429": (b"", '{"error":{"message":"no","code":429}}', 429, "upstream_error", "no"),
    "code 503": (b"", '{"error":{"message":"no","code":503}}', 503, "upstream_error", "no"),
    "code 408": (b"", '{"error":{"message":"no","code":408}}', 504, "upstream_error", "no"),
    "code 401": (b"", '{"error":{"message":"no","code":401}}', 502, "upstream_401", "our key"),
    "code 413": (b"", '{"error":{"message":"no","code":413}}', 400, "invalid_request", "no"),
    "too long": (
        b"",
        '{"error":{"message":"longer than the model\'s context length","code":400}}',
        400,
        "context_length_exceeded",
        "longer",
    ),
    "code 7": (b"", '{"error":{"message":"no","code":7}}', 502, "upstream_error", "no"),
    "beside choices": (b"", f'{{"choices":{TEXT},"error":"no"}}', 502, "upstream_error", "no"),
    "object error": (
        b"",
        '{"object":"error","message":"no","code":400}',
        400,
        "invalid_request",
        "no",
    ),
    "object error, spaces": (
        b"",
        '{ "object": "error", "message": "no" }',
        502,
        "upstream_error",
        "no",
    ),
    "event": (b"error", '{"message":"no","type":"t"}', 502, "t", "no"),
    "event and error": (b"error", '{"error":{"message":"no"}}', 502, "upstream_error", "no"),
    "event alone": (b"error", "{}", 502, "upstream_error", "gave no reason"),
    "event with choices": (b"error", '{"choices":[]}', 502, "upstream_error", "gave no reason"),
    "a long message": (b"", f'{{"error":"{"x" * 9000}"}}', 502, "upstream_error", "x" * 500),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("opened", [False, True], ids=["first", "after unknown members"])
def test_an_error_in_the_stream(name: str, opened: bool) -> None:
    event, data, status, code, message = ERRORS[name]
    reader = Reader()
    if opened:
        chunk('{"choices":[],"provider":"p"}', reader=reader)
    with pytest.raises(ApiError) as caught:
        reader.read(event, data.encode())
    error = caught.value
    assert (error.status, error.code) == (status, code)
    assert isinstance(error, UpstreamError) == (status != 400)
    assert message in error.message
    assert len(error.message) <= 500


MALFORMED: dict[str, str] = {
    "words": "hello",
    "half": f'{{"choices":{TEXT}',
    "two": "{}{}",
    "list": "[]",
    "text": '"x"',
    "choices object": '{"choices":{}}',
    "choices text": '{"choices":"x"}',
    "choice text": '{"choices":["x"]}',
    "index text": '{"choices":[{"index":"0","delta":{}}]}',
    "delta text": '{"choices":[{"index":0,"delta":"x"}]}',
    "content number": '{"choices":[{"index":0,"delta":{"content":7}}]}',
    "finish number": '{"choices":[{"index":0,"delta":{},"finish_reason":7}]}',
    "usage number": '{"usage":7}',
    "usage list": '{"usage":[],"x":1}',
    "nan, and half": '{"choices":[],"x":NaN',
    "half a surrogate pair, and half": r'{"choices":[],"x":"\ud83d',
    "nan for choices": '{"choices":[NaN]}',
    "a number": "7",
    "true": "true",
    "list of chunks": f'[{{"choices":{TEXT}}}]',
    "not UTF-8": '{"choices":[],"x":"\udcff"}',
    "done in quotes": '"[DONE]"',
    "deep choices": '{"choices":' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep unknown member": '{"x":' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep delta": '{"choices":[{"index":0,"delta":{"x":' + "[" * 9000 + "]" * 9000 + "}}]}",
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("opened", [False, True], ids=["first", "after unknown members"])
def test_what_is_no_chunk_is_the_upstreams_failure(name: str, opened: bool) -> None:
    reader = Reader()
    if opened:
        chunk('{"choices":[],"provider":"p"}', reader=reader)
    with pytest.raises(UpstreamError) as caught:
        reader.read(b"", MALFORMED[name].encode(errors="surrogateescape"))
    assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


@pytest.mark.parametrize(
    ("result", "progress"),
    [
        ('{"total":100,"processed":25}', 0.25),
        ('{"total":100,"processed":100,"cache":3}', 1.0),
        ('{"total":100,"processed":900}', 1.0),
        ('{"total":100,"processed":-5}', 0.0),
        ('{"total":100}', 0.0),
        ('{"total":0,"processed":0}', None),
        ("{}", None),
        ("null", None),
        ("7", None),
        ('{"total":"x","processed":1}', None),
        ('{"total":10,"processed":"1"}', None),
        ('{"total":10,"processed":null}', None),
    ],
)
def test_the_prefills_progress_is_noted_or_passed_over(result: str, progress: float | None) -> None:
    reader = Reader()
    read = chunk(f'{{"choices":[],"prompt_progress":{result}}}', reader=reader)
    assert reader.progress == progress
    assert read.extras == b"", "it is not the client's business"


# status, body, our status, code, part of the message, is it the upstream's fault
REFUSALS: dict[str, tuple[int, str, int, str, str, bool]] = {
    "400": (400, '{"error":{"message":"no","code":"c"}}', 400, "c", "no", False),
    "400 without code": (400, '{"error":{"message":"no"}}', 400, "invalid_request", "no", False),
    "400 page": (400, "<html>", 400, "invalid_request", "gave no reason", False),
    "400 too long by code": (
        400,
        '{"error":{"message":"no","code":"context_length_exceeded"}}',
        400,
        "context_length_exceeded",
        "no",
        False,
    ),
    "400 too long by llama.cpp": (
        400,
        '{"error":{"code":400,"message":"no","type":"exceed_context_size_error"}}',
        400,
        "context_length_exceeded",
        "no",
        False,
    ),
    "400 too long by words": (
        400,
        '{"error":{"message":"maximum context length is 8"}}',
        400,
        "context_length_exceeded",
        "maximum",
        False,
    ),
    "413 too long": (
        413,
        '{"message":"over the context size"}',
        400,
        "context_length_exceeded",
        "over",
        False,
    ),
    "422": (422, '{"detail":"no"}', 400, "invalid_request", "no", False),
    "413": (413, '{"error":"big"}', 400, "invalid_request", "big", False),
    "401": (
        401,
        '{"error":{"message":"bad key","code":"k"}}',
        502,
        "upstream_401",
        "our key (401)",
        True,
    ),
    "403": (403, "", 502, "upstream_403", "403", True),
    "404": (404, '{"error":{"message":"no model"}}', 502, "upstream_404", "no model", True),
    "408": (408, "", 504, "upstream_408", "408", True),
    "429": (429, '{"error":"slow"}', 429, "upstream_rate_limited", "slow", True),
    "500": (500, '{"error":{"message":"no","code":"c"}}', 502, "upstream_500", "no", True),
    "502": (502, "<html>", 502, "upstream_502", "502", True),
    "503": (503, "", 503, "upstream_503", "503", True),
    "504": (504, "", 504, "upstream_504", "504", True),
    "302": (302, "", 502, "upstream_302", "302", True),
    "500 list": (500, "[]", 502, "upstream_500", "gave no reason", True),
    "500 number": (500, "7", 502, "upstream_500", "gave no reason", True),
    "500 deep": (500, "[" * 100_000, 502, "upstream_500", "gave no reason", True),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_refusal_means(name: str) -> None:
    status, body, ours, code, message, theirs = REFUSALS[name]
    error = refusal(status, body.encode(), 3.0)
    assert (error.status, error.code) == (ours, code)
    assert message in error.message
    assert isinstance(error, UpstreamError) is theirs
    assert error.retry_after == (3.0 if theirs else None)


@pytest.mark.parametrize(
    ("param", "shown"), [('"top_k"', "top_k"), ("null", None), ("7", None), ('["x"]', None)]
)
def test_the_field_that_an_upstream_names_is_passed_on(param: str, shown: str | None) -> None:
    error = refusal(400, b'{"error":{"message":"no","param":%b}}' % param.encode())
    assert error.param == shown


def test_bytes_that_are_no_utf8_in_a_refusal() -> None:
    assert refusal(500, b'{"error":"\xff"}').code == "upstream_500"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'{"error":{"message":"no","code":"c"}}', "c", "no"),
        (b'{"object":"error","message":"no"}', "upstream_error", "no"),
        (b"<html>", "upstream_error", "not a stream"),
        (b"", "upstream_error", "not a stream"),
        (b'{"choices":[]}', "upstream_error", "not a stream"),
        (b"\xff", "upstream_error", "not a stream"),
        (b"[" * 100_000, "upstream_error", "not a stream"),
    ],
    ids=["error", "object", "page", "empty", "answer", "bytes", "deep"],
)
def test_what_200_without_a_stream_means(body: bytes, code: str, message: str) -> None:
    error = no_stream(body)
    assert isinstance(error, ApiError)
    assert (error.status, error.code) == (502, code)
    assert message in error.message


# Members that nobody here knows, and events that are read leniently

ROLE = '[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]'
LAST = '[{"index":0,"delta":{},"finish_reason":"stop"}]'
USAGE_CHUNK = '{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
FILTERED = '{"choices":[],"system_fingerprint":null,"prompt_filter_results":[{"prompt_index":0}]}'


def extras(read: Chunk) -> dict[str, Any]:
    return json.loads(b"{%b}" % read.extras[1:])


# events in order; the members of each chunk
MEMBERS: dict[str, tuple[list[str], list[dict[str, Any]]]] = {
    "before the role": (
        [FILTERED, f'{{"choices":{ROLE}}}', f'{{"choices":{TEXT}}}', USAGE_CHUNK],
        [{"system_fingerprint": None, "prompt_filter_results": [{"prompt_index": 0}]}, {}, {}, {}],
    ),
    "with the role": (
        [f'{{"choices":{ROLE},"provider":"P","x_first":1}}', f'{{"choices":{TEXT}}}'],
        [{"provider": "P", "x_first": 1}, {}],
    ),
    "with the finish": ([f'{{"choices":{LAST},"x":1}}', USAGE_CHUNK], [{"x": 1}, {}]),
    "behind the finish, with a choice": (
        [
            f'{{"choices":{LAST}}}',
            '{"choices":[{"index":0,"delta":{"content":""}}],"citations":["a"]}',
        ],
        [{}, {"citations": ["a"]}],
    ),
    "behind the finish, without a choice": (
        [f'{{"choices":{LAST}}}', '{"choices":[],"citations":["a"]}'],
        [{}, {"citations": ["a"]}],
    ),
    "behind the finish, in front of the usage": (
        [f'{{"choices":{LAST}}}', '{"choices":[],"x":1}', USAGE_CHUNK],
        [{}, {"x": 1}, {}],
    ),
    "with the usage": (
        [f'{{"choices":{LAST}}}', USAGE_CHUNK.replace("[],", '[],"x":1,')],
        [{}, {"x": 1}],
    ),
    "with a running usage": (
        [USAGE_CHUNK.replace("[],", '[],"x":1,'), f'{{"choices":{TEXT}}}', f'{{"choices":{TEXT}}}'],
        [{"x": 1}, {}, {}],
    ),
    "without a choice, again and again": (
        ['{"x":1}', '{"choices":null,"y":2}', '{"choices": [ ],"x":3}', f'{{"choices":{TEXT}}}'],
        [{"x": 1}, {"y": 2}, {"x": 3}, {}],
    ),
    "a fingerprint without a choice": (
        [
            '{"choices":[],"system_fingerprint":"f"}',
            f'{{"choices":{TEXT}}}',
            f'{{"choices":{TEXT}}}',
        ],
        [{"system_fingerprint": "f"}, {}, {}],
    ),
    "null in between": (
        ['{"x":1}', "null", "", f'{{"choices":{TEXT}}}', "null"],
        [{"x": 1}, {}, {}, {}, {}],
    ),
}


@pytest.mark.parametrize("case", MEMBERS)
@pytest.mark.parametrize("name", [b"", b"message"])
def test_a_chunk_has_the_unknown_members_of_its_event(case: str, name: bytes) -> None:
    """With or without a choice: `core.stream` sends those of the latter with the next frame."""
    events, wanted = MEMBERS[case]
    reader = Reader()
    read = [chunk(each, name, reader) for each in events]
    assert [extras(each) for each in read] == wanted
    for each in read:
        assert bool(each.choices) is (each.raw != b"[]")


def delta_event(delta: str) -> str:
    return f'{{"id":"c1","choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}'


# delta; its text, whether that is a thought
THOUGHTS: dict[str, tuple[str, str, bool]] = {
    "content null": ('{"content":null,"reasoning_content":"hm"}', "hm", True),
    "content null behind it": ('{"reasoning_content":"hm","content":null}', "hm", True),
    "content empty": ('{"content":"","reasoning_content":"ok"}', "ok", True),
    "thought null": ('{"content":"Hello","reasoning_content":null}', "Hello", False),
    "thought empty": ('{"content":" world","reasoning_content":""}', " world", False),
    "content alone": ('{"content":"a"}', "a", False),
    "thought alone": ('{"reasoning_content":"a"}', "a", True),
}


@pytest.mark.parametrize("case", THOUGHTS)
def test_thoughts_beside_null_are_thoughts(case: str) -> None:
    delta, text, thinks = THOUGHTS[case]
    reader = Reader()
    for before in (None, *THOUGHTS):
        if before is not None:
            chunk(delta_event(THOUGHTS[before][0]), reader=reader)
        (choice,) = chunk(delta_event(delta), reader=reader).choices
        assert choice.is_text_only
        assert choice.delta is not None
        assert (choice.delta.reasoning_content if thinks else choice.delta.content) == text
        assert not (choice.delta.content if thinks else choice.delta.reasoning_content)


def test_nan_in_logprobs_is_null() -> None:
    logprobs = '{"content":[{"token":"NaN","logprob":-Infinity,"top_logprobs":[{"logprob":NaN}]}]}'
    event = delta_event('{"content":"Hello"}').replace('"finish', f'"logprobs":{logprobs},"finish')
    read = chunk(event)
    (member,) = read.members()
    assert member["logprobs"]["content"] == [
        {"token": "NaN", "logprob": None, "top_logprobs": [{"logprob": None}]}
    ]
    assert (read.choices[0].delta.content, read.raw is None) == ("Hello", False)
    assert b"NaN," not in (read.raw or b"")


# delta with a half, the same as it is handed on
HALVES: dict[str, tuple[str, Any]] = {
    "content": (r'{"content":"\ud83d"}', {"content": "\ud83d"}),
    "thoughts": (r'{"reasoning_content":"\ude00"}', {"reasoning_content": "\ude00"}),
    "thoughts by another name": (r'{"reasoning":"\ude00"}', {"reasoning": "\ude00"}),
    "a refusal": (r'{"refusal":"\ud83d"}', {"refusal": "\ud83d"}),
    "content in parts": (
        r'{"content":[{"type":"text","text":"a\ud83d"},{"type":"thinking","thinking":"\ude00"}]}',
        {"content": "a\ud83d", "reasoning_content": "\ude00"},
    ),
    "arguments": (
        r'{"tool_calls":[{"id":"\ud83d","function":{"name":"\ud83d","arguments":"\ud83d"}}]}',
        {"tool_calls": [{"id": "\ufffd", "function": {"name": "\ufffd", "arguments": "\ud83d"}}]},
    ),
    "arguments of a custom call": (
        r'{"tool_calls":[{"custom":{"name":"\ud83d","input":"\ud83d"}}]}',
        {"tool_calls": [{"custom": {"name": "\ufffd", "input": "\ud83d"}}]},
    ),
    "arguments that are an object": (
        r'{"tool_calls":[{"function":{"name":"f","arguments":{"a":"\ud83d"}}}]}',
        {"tool_calls": [{"function": {"name": "f", "arguments": {"a": "\ufffd"}}}]},
    ),
    "the older calls": (
        r'{"function_call":{"arguments":"\ud83d"}}',
        {"function_call": {"arguments": "\ud83d"}},
    ),
    "members that nobody knows": (
        r'{"content":"a","x":{"content":"\ud83d"},"\ud83d":1}',
        {"content": "a", "x": {"content": "\ufffd"}, "\ufffd": 1},
    ),
}


@pytest.mark.parametrize("case", HALVES)
@pytest.mark.parametrize("opened", [False, True], ids=["first", "after unknown members"])
def test_half_a_surrogate_pair_stays_in_texts_alone(case: str, opened: bool) -> None:
    delta, wanted = HALVES[case]
    reader = Reader()
    if opened:
        chunk('{"choices":[],"provider":"p"}', reader=reader)
    event = delta_event(delta)[:-1] + r',"x":"\ud83d","usage":{"prompt_tokens":3,"y":"\ud83d"}}'
    read = chunk(event.replace('"c1"', r'"c\ud83d"'), reader=reader)
    assert read.members() == [{"index": 0, "delta": wanted, "finish_reason": None}]
    assert extras(read)["x"] == "\ufffd"
    assert read.usage == {"prompt_tokens": 3, "y": "\ufffd"}
    if not opened:
        assert reader.identity == "c\ufffd"
    after = chunk(delta_event('{"content":"a"}'), reader=reader)
    assert after.choices[0].is_text_only


def test_an_error_with_half_a_surrogate_pair_is_one() -> None:
    with pytest.raises(UpstreamError) as caught:
        Reader().read(b"", rb'{"error":{"message":"no \ud83d","x":NaN}}')
    assert (caught.value.code, caught.value.message) == ("upstream_error", "no \ufffd")
    assert refusal(500, rb'{"error":"no \ud83d"}').message.endswith("no \ufffd")


WHOLE: dict[str, Any] = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello world",
                "reasoning_content": "Hm",
                "refusal": None,
                "images": [{"type": "image_url", "image_url": {"url": "u"}}],
                "annotations": [{"type": "url_citation"}],
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "b", "type": "custom", "custom": {"name": "p", "input": "x"}},
                ],
            },
            "logprobs": {"content": [{"token": "Hello", "logprob": -0.5}], "refusal": None},
            "finish_reason": "tool_calls",
            "content_filter_results": {"hate": {"filtered": False}},
        },
        {"index": 1, "message": {"content": None, "refusal": "No."}, "finish_reason": "stop"},
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    "timings": {"per_second": 1.5},
    "service_tier": "default",
}


def as_delta(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice of an answer in one piece as the stream's event has it."""
    fields = {name: value for name, value in choice.items() if name != "message"}
    message = choice["message"]
    if "tool_calls" in message:
        calls = [{"index": index} | call for index, call in enumerate(message["tool_calls"])]
        message = message | {"tool_calls": calls}
    return fields | {"delta": message}


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_whole_answer_with_all_that_it_can_hold(bom: str) -> None:
    body = (bom + json.dumps(WHOLE)).encode()
    (data,) = unstreamed(body)
    reader = Reader()
    read = chunk(data.decode(), reader=reader)
    assert read.members() == [as_delta(each) for each in WHOLE["choices"]]
    assert not any(each.is_text_only for each in read.choices)
    assert read.usage == WHOLE["usage"]
    assert extras(read) == {"timings": {"per_second": 1.5}, "service_tier": "default"}
    assert reader.identity == "c1"


def test_a_whole_answer_with_nan_and_half_a_pair() -> None:
    body = json.dumps(WHOLE).replace("Hello world", r"hi \ud83d").replace("-0.5", "NaN")
    (data,) = unstreamed(body.replace("1.5", "Infinity").encode())
    read = chunk(data.decode())
    first, second = read.members()
    assert first["delta"]["content"] == "hi \ufffd", "no other half will come"
    assert first["logprobs"]["content"] == [{"token": "Hello", "logprob": None}]
    assert second == as_delta(WHOLE["choices"][1])
    assert extras(read)["timings"] == {"per_second": None}


@pytest.mark.parametrize("case", PARTS)
def test_content_in_parts_of_a_whole_answer(case: str) -> None:
    content, delta = PARTS[case]
    choice = {"index": 0, "message": {"content": content}, "finish_reason": "stop"}
    (data,) = unstreamed(json.dumps({"choices": [choice]}).encode())
    assert chunk(data.decode()).members() == [as_delta(choice | {"message": delta})]


def test_a_message_beside_a_delta_is_not_passed_on_unread() -> None:
    both = {"index": 0, "delta": {"content": "a"}, "message": {"content": "a"}}
    both["finish_reason"] = None
    (choice,) = chunk(json.dumps({"choices": [both]})).choices
    assert not choice.is_text_only


# A role that is repeated with each text. choices; whether it is text alone then

ROLES: dict[str, tuple[str, bool]] = {
    "with a text": (
        '{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":null}',
        True,
    ),
    "with a thought": (
        '{"index":0,"delta":{"role":"assistant","reasoning_content":"a"},"finish_reason":null,"x":1}',
        True,
    ),
    "without a text": (
        '{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}',
        False,
    ),
    "with a finish": (
        '{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":"stop"}',
        False,
    ),
    "another one": (
        '{"index":0,"delta":{"role":"tool","content":"a"},"finish_reason":null}',
        False,
    ),
    "spaced out": (
        '{"index":0,"delta": {"role":"assistant","content":"a"},"finish_reason":null}',
        False,
    ),
    "another delta": (
        '{"index":0,"delta": {"role":"assistant","content":"a"},"finish_reason":null,'
        '"x":{"delta":{"role":"assistant","y":1}}}',
        False,
    ),
}


@pytest.mark.parametrize("case", ROLES)
def test_a_role_that_is_repeated_with_each_text(case: str) -> None:
    choice, is_text_only = ROLES[case]
    read = chunk(f'{{"choices":[{choice}]}}')
    assert read.choices[0].is_text_only is is_text_only
    (member,), (sent,) = read.members(), json.loads(f"[{choice}]")
    assert ("role" in member["delta"]) is not is_text_only or case == "with a finish"
    assert {**member, "delta": {**member["delta"], "role": "-"}} == {
        **sent,
        "delta": {**sent["delta"], "role": "-"},
    }


def test_a_role_in_each_chunk_is_sent_once_and_the_texts_as_they_came() -> None:
    stream, reader = Stream(lambda: 0.0, 0.0), Reader()
    sink = Sink()
    stream.subscribe(sink.writer)
    for text in ("a", "b", "c"):
        delta = f'{{"role":"assistant","content":"{text}"}}'
        stream.push(
            chunk(
                f'{{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}', reader=reader
            )
        )
    stream.push(chunk(f'{{"choices":{LAST}}}', reader=reader))
    stream.end()
    assert sink.body.count(b'"role"') == 1
    checked = check_body(sink.body)
    assert checked.choices[0]["content"] == "abc"
