"""What a request may say, and the sentence that tells what is wrong with it."""

import json
from typing import Any

import msgspec
import pytest

from legato.core.errors import ApiError
from legato.core.request import ChatRequest, members, parse

Json = dict[str, Any]

HELLO: Json = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(autouse=True)
def no_garbage() -> None:
    """Nothing here opens anything: no need to collect garbage after every case."""


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
    "seed": [0, -1, 2**63, 2**70],
    "presence_penalty": [-2, 2, 0.0],
    "frequency_penalty": [-2, 2, 0.0],
    "logit_bias": [{}, {"50256": -100, "1": 100.0}],
    "logprobs": [True, False],
    "top_logprobs": [0, 20],
    "tools": [[], [TOOL]],
    "tool_choice": ["auto", "none", {"type": "function", "function": {"name": "f"}}],
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
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_a_parameter_takes(name: str) -> None:
    for value in [*ACCEPTED[name], None]:
        said = getattr(parse(body(**{name: value})), name)
        assert msgspec.to_builtins(said) == value or isinstance(value, dict | list)
        assert (said is None) is (value is None)


REFUSED: dict[str, list[Any]] = {
    "model": [None, 7, "", ["m"], {}],
    "messages": [None, "Hello", {}, []],
    "stream": ["true", 1, 0],
    "stream_options": [True, "x", []],
    "temperature": [-0.1, 2.1, "0.7", True, [1]],
    "top_p": [-0.1, 1.1, "1"],
    "n": [0, 129, 1.5, "1", True],
    "max_tokens": [0, -1, 0.5, "100", 2.5],
    "max_completion_tokens": [0, -1, 0.5, "100"],
    "stop": [7, {"x": 1}],
    "seed": ["1", 0.5, [1]],
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


NO_JSON: dict[str, bytes] = {
    "words": b"hello",
    "half": body()[:-1],
    "two": body() + body(),
    "single quotes": b"{'model': 'm'}",
    "nan": body()[:-1] + b', "temperature": NaN}',
    "infinity": body()[:-1] + b', "temperature": Infinity}',
    "nan in an unknown member": body()[:-1] + b', "x": NaN}',
    "comma at the end": body()[:-1] + b",}",
    "a bom": b"\xef\xbb\xbf" + body(),
    "utf-16": json.dumps(HELLO).encode("utf-16"),
    "no utf-8": body().replace(b"Hello", b"\xff"),
    "half a surrogate": body().replace(b"Hello", rb"\ud800"),
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
    error = refused(NO_JSON[name])
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
def test_huge_numbers_are_refused_or_taken_never_a_crash(name: str, digits: int) -> None:
    data = body()[:-1] + b', "%b": %b}' % (name.encode(), b"9" * digits)
    try:
        request = parse(data)
    except ApiError as error:
        assert error.status == 400  # noqa: PT017 - either is right
    else:
        assert name in ("seed", "max_tokens")
        assert getattr(request, name) == int("9" * digits)


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
    kept = members(data)
    assert list(kept) == [*HELLO, *unknown]
    assert {name: bytes(kept[name]) for name in unknown} == unknown


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
