"""What a request may say, and the sentence that tells what is wrong with it."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legato.core.errors import ApiError
from legato.core.request import ChatRequest, amended, as_text, cleaned, members, parse

Json = dict[str, Any]

HELLO: Json = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def body(**more: Any) -> bytes:
    return json.dumps(HELLO | more).encode()


def refused(data: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(data)
    assert caught.value.status == 400
    assert caught.value.type == "invalid_request_error"
    return caught.value


def test_the_least_there_can_be() -> None:
    request = parse(body())
    assert (request.model, request.messages[0].content) == ("m", "Hello")
    assert (request.choices, request.wants_usage, bool(request.stream)) == (1, False, False)
    optional = [name for name in request.__struct_fields__ if name not in HELLO]
    assert {getattr(request, name) for name in optional} == {None}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ACCEPTED: dict[str, list[Any]] = {
    "stream": [True, False],
    "temperature": [0, 2, 0.7, 2.0],
    "top_p": [0, 1, 0.5],
    "n": [1, 128],
    "max_tokens": [1, 10**6],
    "max_completion_tokens": [1, 10**6],
    "stop": ["x", ["x", "y"], []],
    "seed": [0, -1, 2**63 - 1, -(2**63)],
    "presence_penalty": [-2, 2, 0.0],
    "frequency_penalty": [-2, 2, 0.0],
    "logit_bias": [{}, {"50256": -100, "1": 100.0}],
    "logprobs": [True, False],
    "top_logprobs": [0, 1, 20],
    "tools": [[], [TOOL]],
    "tool_choice": [
        "auto",
        "none",
        "required",
        "any",
        {"type": "function", "function": {"name": "f"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}},
        {"type": "custom", "custom": {"name": "f"}},
    ],
    "parallel_tool_calls": [True, False],
    "response_format": [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
    ],
    "reasoning_effort": ["none", "minimal", "low", "medium", "high"],
    "thinking": [{"type": "enabled", "budget_tokens": 0}, {"type": "disabled"}],
    "thinking_budget_tokens": [-1, 0, 100],
    "user": ["", "me"],
    "prompt_cache_key": ["", "session"],
    "metadata": [{}, {"user_id": "me", "more": [1]}],
}


#: What a parameter is only allowed with.
BESIDE: dict[str, Json] = {"top_logprobs": {"logprobs": True}, "tool_choice": {"tools": [TOOL]}}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_a_parameter_takes(name: str) -> None:
    for value in [*ACCEPTED[name], None]:
        found = getattr(parse(body(**BESIDE.get(name, {}) | {name: value})), name)
        assert msgspec.to_builtins(found) == value or isinstance(value, dict | list)
        assert (found is None) is (value is None)


REFUSED: dict[str, list[Any]] = {
    "model": [None, 7, "", ["m"], {}],
    "messages": [None, "Hello", {}, []],
    "stream": ["true", 1, 0],
    "stream_options": [True, "x", []],
    "temperature": [-0.1, 2.1, "0.7", True, [1]],
    "top_p": [-0.1, 1.1, "1"],
    "n": [0, 129, 1.5, "1", True],
    "max_tokens": [0, -1, 0.5, "100", 2.5, 2**63],
    "max_completion_tokens": [0, -1, 0.5, "100", 2**63],
    "stop": [7, {"x": 1}],
    "seed": ["1", 0.5, [1], 2**63, 2**64, 2**70, -(2**63) - 1],
    "presence_penalty": [-2.1, 2.1, "0"],
    "frequency_penalty": [-2.1, 2.1, "0"],
    "logit_bias": [[1], "x"],
    "logprobs": [1, "true"],
    "top_logprobs": [-1, 21, "1"],
    "tools": [{}, "x", 7],
    "tool_choice": [7, ["auto"], True],
    "parallel_tool_calls": ["true", 1],
    "response_format": ["json", []],
    "reasoning_effort": ["extreme", 1, ""],
    "thinking": [True, "enabled", []],
    "thinking_budget_tokens": [-2, "1", 0.5],
    "user": [7, {}],
    "prompt_cache_key": [7, {}],
    "metadata": ["x", [], 7],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_value_is_named(name: str) -> None:
    for value in REFUSED[name]:
        error = refused(body(**{"stream": True} | {name: value}))
        assert error.param == name, value
        assert f"`{name}`" in error.message
        assert error.code == "invalid_value"
        assert error.message.endswith(".")


def test_every_parameter_is_in_the_tables() -> None:
    assert set(REFUSED) == set(ChatRequest.__struct_fields__)
    assert set(ACCEPTED) == set(ChatRequest.__struct_fields__) - {*HELLO, "stream_options"}


NESTED: dict[str, tuple[Json, str, str]] = {
    "role": ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role", "invalid_value"),
    "role missing": (
        {"messages": [*HELLO["messages"], {"content": "x"}]},
        "messages[1].role",
        "missing_required_parameter",
    ),
    "content": (
        {"messages": [{"role": "user", "content": 7}]},
        "messages[0].content",
        "invalid_value",
    ),
    "part": (
        {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
        "messages[0].content[0].type",
        "missing_required_parameter",
    ),
    "part's text": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]},
        "messages[0].content[0].text",
        "invalid_value",
    ),
    "message": ({"messages": ["Hello"]}, "messages[0]", "invalid_value"),
    "stop": ({"stop": ["x", 7]}, "stop[1]", "invalid_value"),
    "tool": ({"tools": [TOOL, {}]}, "tools[1].type", "missing_required_parameter"),
    "format": ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    "format's type": (
        {"response_format": {}},
        "response_format.type",
        "missing_required_parameter",
    ),
    "strict": (
        {"response_format": {"type": "json_schema", "json_schema": {"strict": "yes"}}},
        "response_format.json_schema.strict",
        "invalid_value",
    ),
    "budget": ({"thinking": {"budget_tokens": -1}}, "thinking.budget_tokens", "invalid_value"),
    "bias": ({"logit_bias": {"1": 101}}, "logit_bias[...]", "invalid_value"),
    "usage": (
        {"stream": True, "stream_options": {"include_usage": "yes"}},
        "stream_options.include_usage",
        "invalid_value",
    ),
    "refusal": (
        {"messages": [{"role": "assistant", "refusal": 7}]},
        "messages[0].refusal",
        "invalid_value",
    ),
    "part's refusal": (
        {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": 7}]}]},
        "messages[0].content[0].refusal",
        "invalid_value",
    ),
    **{
        f"tool result, {name}": (
            {"messages": [*HELLO["messages"], {"role": "tool", "content": "4"} | more]},
            "messages[1].tool_call_id",
            "missing_required_parameter",
        )
        for name, more in {
            "no id": {},
            "null as its id": {"tool_call_id": None},
            "an empty id": {"tool_call_id": ""},
        }.items()
    },
    "no schema": (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    "null as the schema": (
        {"response_format": {"type": "json_schema", "json_schema": None}},
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    "a schema without a name": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
        "missing_required_parameter",
    ),
    "a flat tool": (
        {"tools": [TOOL, {"type": "function", "name": "f", "parameters": {}}]},
        "tools[1].function",
        "missing_required_parameter",
    ),
    "null as the function": (
        {"tools": [{"type": "function", "function": None}]},
        "tools[0].function",
        "missing_required_parameter",
    ),
    "a function without a name": (
        {"tools": [{"type": "function", "function": {"parameters": {}}}]},
        "tools[0].function.name",
        "missing_required_parameter",
    ),
    "a function's name": (
        {"tools": [{"type": "function", "function": {"name": 7}}]},
        "tools[0].function.name",
        "invalid_value",
    ),
    "a function's parameters": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]},
        "tools[0].function.parameters",
        "invalid_value",
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_a_wrong_value_inside_is_named_with_its_way(name: str) -> None:
    more, param, code = NESTED[name]
    error = refused(body(**more))
    assert (error.param, error.code) == (param, code)


@pytest.mark.parametrize("name", HELLO)
def test_what_is_missing_is_named(name: str) -> None:
    error = refused(
        json.dumps({key: value for key, value in HELLO.items() if key != name}).encode()
    )
    assert (error.param, error.code) == (name, "missing_required_parameter")
    assert error.message == f"`{name}` is required."


@pytest.mark.parametrize("stream", [None, False])
def test_stream_options_are_for_streams(stream: bool | None) -> None:
    error = refused(body(stream=stream, stream_options={"include_usage": True}))
    assert error.param == "stream_options"
    assert parse(body(stream=stream, stream_options=None)).stream_options is None


@pytest.mark.parametrize(
    ("options", "wants"),
    [
        ({"include_usage": True}, True),
        ({"include_usage": False}, False),
        ({}, False),
        ({"x": 1}, False),
    ],
)
def test_usage_is_given_where_it_is_asked_for(options: Json, wants: bool) -> None:
    assert parse(body(stream=True, stream_options=options)).wants_usage is wants


F: Json = {"type": "function", "function": {"name": "f"}}
NO_CHOICE: dict[str, Json] = {
    "some tool of none": {"tool_choice": "required"},
    "some tool of an empty list": {"tools": [], "tool_choice": "required"},
    "some tool of null": {"tools": None, "tool_choice": "required"},
    "a tool of none": {"tool_choice": F},
    "a tool of an empty list": {"tools": [], "tool_choice": F},
    "tools of none": {"tool_choice": {"type": "allowed_tools"}},
    "a word, no tools": {"tool_choice": "any"},
    "another tool": {"tools": [TOOL], "tool_choice": F | {"function": {"name": "g"}}},
    "a flat one": {"tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}},
    "no name": {"tools": [TOOL], "tool_choice": F | {"function": {}}},
    "a name that is none": {"tools": [TOOL], "tool_choice": F | {"function": {"name": ["f"]}}},
    "a function that is none": {"tools": [TOOL], "tool_choice": F | {"function": "f"}},
}


@pytest.mark.parametrize("name", NO_CHOICE)
def test_a_tool_that_is_not_there_cannot_be_chosen(name: str) -> None:
    error = refused(body(**NO_CHOICE[name]))
    assert (error.param, error.code) == ("tool_choice", "invalid_value")
    assert "None" not in error.message


@pytest.mark.parametrize("tools", [{}, {"tools": []}, {"tools": None}])
@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_without_tools_a_choice_may_say_that_none_is_called(choice: Any, tools: Json) -> None:
    assert parse(body(tool_choice=choice, **tools)).tool_choice == choice


@pytest.mark.parametrize("more", [{}, {"logprobs": False}, {"logprobs": None}])
def test_alternatives_are_given_with_logprobs_alone(more: Json) -> None:
    assert refused(body(top_logprobs=1, **more)).param == "top_logprobs"
    assert parse(body(top_logprobs=0, **more)).top_logprobs == 0


NO_JSON: dict[str, bytes] = {
    "words": b"hello",
    "half": body()[:-1],
    "two": body() + body(),
    "single quotes": b"{'model': 'm'}",
    "nan": body()[:-1] + b', "temperature": NaN}',
    "infinity": body()[:-1] + b', "temperature": Infinity}',
    "nan in an unknown member": body()[:-1] + b', "x": NaN}',
    "comma at the end": body()[:-1] + b",}",
    "two byte order marks": b"\xef\xbb\xbf" * 2 + body(),
    "half a byte order mark": b"\xef\xbb" + body(),
    "utf-16": json.dumps(HELLO).encode("utf-16"),
    "no utf-8": body().replace(b"Hello", b"\xff"),
    "a surrogate in utf-8": body().replace(b"Hello", b"\xed\xa0\x80"),
    "half an escape": body().replace(b"Hello", rb"\ud80"),
    "a surrogate and a zero byte": body().replace(b"Hello", b"\\ud800\0"),
    "a control character": body().replace(b"Hello", b"a\nb"),
    "deep": body()[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep in a typed member": body()[:-1]
    + b', "tool_choice": '
    + b'{"a":' * 100_000
    + b"1"
    + b"}" * 100_001,
}


@pytest.mark.parametrize("name", NO_JSON)
def test_a_body_that_is_no_json(name: str) -> None:
    error = refused(cleaned(NO_JSON[name]))
    assert (error.code, error.param) == ("invalid_json", None)
    assert len(error.message) < 300


@pytest.mark.parametrize("data", [b"", b" ", b"\n\t\r\n"])
def test_a_body_that_is_empty(data: bytes) -> None:
    assert "empty" in refused(data).message


@pytest.mark.parametrize("data", [b"[]", b"7", b'"x"', b"null", b"true"])
def test_a_body_that_is_no_object(data: bytes) -> None:
    error = refused(data)
    assert error.param is None
    assert "object" in error.message


@pytest.mark.parametrize("digits", [30, 400, 5000])
@pytest.mark.parametrize("name", ["n", "max_tokens", "temperature", "seed"])
def test_huge_numbers_are_refused(name: str, digits: int) -> None:
    data = body()[:-1] + b', "%b": %b}' % (name.encode(), b"9" * digits)
    assert refused(data).param in (name, None)


def test_of_a_name_that_is_there_twice_the_last_counts_everywhere() -> None:
    """What was checked is what goes upstream."""
    data = body()[:-1] + b', "n": 5, "model": "other", "n": 2}'
    request = parse(data)
    assert (request.model, request.n) == ("other", 2)
    assert bytes(members(data)["model"]) == b'"other"'
    assert bytes(members(data)["n"]) == b"2"


def test_members_keep_what_nobody_knows_byte_by_byte() -> None:
    unknown = {
        "top_k": b"7",
        "exact": b"1.10",
        "big": b"9" * 400,
        "guided": rb'{ "regex" : "a.*\u00e9" , "n":[ 1,2 ] }',
        "žluť": b'"\xc5\xbe"',
    }
    data = body()[:-1] + b"".join(
        b', "%b": %b' % (name.encode(), value) for name, value in unknown.items()
    )
    data += b"}"
    parse(data)
    found = members(data)
    assert list(found) == [*HELLO, *unknown]
    assert {name: bytes(found[name]) for name in unknown} == unknown


def test_messages_of_all_kinds() -> None:
    messages: list[Json] = [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
        {"role": "assistant", "content": "a", "reasoning_content": "r", "refusal": None},
        {"role": "function", "name": "f", "content": "x"},
    ]
    request = parse(body(messages=messages))
    assert [each.role for each in request.messages] == [each["role"] for each in messages]


# What is cleaned


LONE = re.compile("[\ud800-\udfff]")

#: body -> what is read
CLEANED: dict[bytes, str] = {
    b'"a"': "a",
    b'\xef\xbb\xbf"a"': "a",
    rb'"a \ud83d b"': "a \ufffd b",
    rb'"a \uD83D b"': "a \ufffd b",
    rb'"\ude00"': "\ufffd",
    rb'"\ud83d\ude00"': "😀",
    rb'"\uD83D\uDE00"': "😀",
    rb'"\ude00\ud83d"': "\ufffd\ufffd",
    rb'"\ud83d\ud83d\ude00"': "\ufffd😀",
    rb'"\ud83d\ude00\ude00"': "😀\ufffd",
    rb'"\ud83d\n\ude00"': "\ufffd\n\ufffd",
    rb'"\\ud83d"': r"\ud83d",
    rb'"\\\ud83d"': "\\\ufffd",
    rb'"\\ud83d\ude00"': r"\ud83d" + "\ufffd",
    rb'"\ud83d\\ude00"': "\ufffd" + r"\ude00",
    rb'"\ud7ff\ue000"': "\ud7ff\ue000",
    b'"\xef\xbb\xbf"': "\ufeff",
}


@pytest.mark.parametrize("data", CLEANED)
def test_what_is_read_of_a_string(data: bytes) -> None:
    assert json.loads(cleaned(data)) == CLEANED[data]
    assert msgspec.json.decode(cleaned(data)) == CLEANED[data]


def test_a_body_that_is_clean_stays_the_same_object() -> None:
    for data in (body(), body().replace(b"Hello", rb"\ud83d\ude00 \\ud83d"), b"", b"{"):
        assert cleaned(data) is data


@pytest.mark.parametrize("x", [b'"\xff"', b'{"\xff": 1}', b'"\xed\xa0\x80"', b'"\xc3'])
def test_a_body_that_is_not_utf_8_is_refused_wherever_that_is(x: bytes) -> None:
    """Members that nobody reads go to upstreams as they came."""
    with pytest.raises(ApiError, match="UTF-8") as caught:
        as_text(body()[:-1] + b', "x": ' + x + b"}")
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_a_body_that_is_utf_8_is_cleaned() -> None:
    assert as_text(b'\xef\xbb\xbf"\xc3\xa9\\ud800"') == '"é\ufffd"'.encode()


ESCAPES = st.sampled_from(
    [
        *"aud8é\u2028😀",
        r"\\",
        r"\n",
        r"\"",
        r"\/",
        r"\u0041",
        r"\ud7ff",
        r"\ue000",
        r"\uffff",
        r"\ud83d",
        r"\uD83D",
        r"\uDBff",
        r"\ude00",
        r"\uDE00",
        r"\udfFF",
        r"\uD800",
    ]
)


@settings(deadline=None, database=None, max_examples=500)
@given(st.lists(ESCAPES, max_size=20), st.lists(ESCAPES, max_size=8))
def test_all_json_is_read_as_the_standard_library_reads_it(
    value: list[str], name: list[str]
) -> None:
    data = f'{{"{"".join(name)}": ["{"".join(value)}", 1.10]}}'.encode()
    read = json.loads(data)
    repaired = cleaned(data)
    replaced = {
        LONE.sub("\ufffd", key): [LONE.sub("\ufffd", each[0]), 1.1] for key, each in read.items()
    }
    assert json.loads(repaired) == replaced
    assert msgspec.json.decode(repaired) == replaced
    assert cleaned(repaired) is repaired
    assert b"1.10" in repaired


@settings(deadline=None, database=None, max_examples=300)
@given(st.binary(max_size=60), st.sampled_from([b"", rb"\ud83d", rb"\uDE00"]))
def test_any_bytes_can_be_cleaned(data: bytes, piece: bytes) -> None:
    repaired = cleaned(data + piece + data)
    assert cleaned(repaired.removeprefix(b"\xef\xbb\xbf")) == repaired.removeprefix(b"\xef\xbb\xbf")


# Null


def test_a_parameter_that_is_null_is_absent() -> None:
    data = body(max_completion_tokens=None, max_tokens=5, x=None, y=[None], z="null")
    parse(data)
    assert list(members(data)) == [*HELLO, "max_tokens", "x", "y", "z"]
    spaced = data.replace(b"null,", b" null ,")
    assert members(spaced) == members(data)
    changed = json.loads(amended(data, max_tokens=3, z=None))
    assert changed == HELLO | {"max_tokens": 3, "x": None, "y": [None]}
