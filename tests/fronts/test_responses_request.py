"""A Responses request as Chat Completions: each item and each parameter, and what is refused."""

import json
from typing import Any

import msgspec
import pytest

from legato.core.errors import ApiError
from legato.core.signatures import carried
from legato.fronts.responses import RESPONSES

Json = dict[str, Any]

USER = {"role": "user", "content": "Hello"}
SUM: Json = {"type": "function", "name": "sum", "parameters": {"type": "object"}}


def translated(**body: Any) -> Json:
    """The Chat Completions request."""
    whole = {"model": "m", "input": "Hello"} | body
    request = RESPONSES.parse(json.dumps(whole).encode())
    assert request.format == "responses"
    assert json.loads(request.source or b"") == whole, "it stays as it came"
    return json.loads(request.body)


def messages(*items: Any, **body: Any) -> list[Json]:
    return translated(input=list(items), **body)["messages"]


def call(identity: str, name: str = "sum", **more: Any) -> Json:
    fields = {"type": "function_call", "call_id": identity, "name": name, "arguments": "{}"}
    return fields | more


def result(identity: str, output: Any = "3", kind: str = "function_call_output") -> Json:
    return {"type": kind, "call_id": identity, "output": output}


def chat_call(identity: str, name: str = "sum", arguments: str = "{}") -> Json:
    function = {"name": name, "arguments": arguments}
    return {"id": identity, "type": "function", "function": function}


def chat_calls(*calls: Json, content: str | None = None, **more: Any) -> Json:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)} | more


def chat_result(identity: str, content: Any = "3") -> Json:
    return {"role": "tool", "tool_call_id": identity, "content": content}


def answer(text: str) -> Json:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "role": "assistant", "id": "msg_1", "content": [part]}


def thought(summary: str = "", text: str = "", encrypted: str | None = None) -> Json:
    item: Json = {"type": "reasoning", "id": "rs_1", "summary": []}
    if summary:
        item["summary"] = [{"type": "summary_text", "text": summary}]
    if text:
        item["content"] = [{"type": "reasoning_text", "text": text}]
    return item | {"encrypted_content": encrypted}


NOT_GIVEN = "The result of this call was not given."
PNG = "data:image/png;base64,AAAA"
IMAGE = {"type": "input_image", "image_url": PNG}
CHAT_IMAGE = {"type": "image_url", "image_url": {"url": PNG}}
PDF = "data:application/pdf;base64,AAAA"

SIGNED = {"type": "thinking", "thinking": "hm", "signature": "s"}

ITEMS: dict[str, tuple[list[Any], list[Json]]] = {
    "an item without a type": ([USER], [USER]),
    "text in a part": (
        [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
        [USER],
    ),
    "system and developer, at the beginning": (
        [{"role": "developer", "content": "a"}, {"role": "system", "content": "b"}, USER],
        [{"role": "system", "content": "a\n\nb"}, USER],
    ),
    "developer, in parts": (
        [
            {
                "role": "developer",
                "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_text", "text": "b"},
                ],
            },
            USER,
        ],
        [{"role": "system", "content": "a\n\nb"}, USER],
    ),
    "developer, in the middle": (
        [USER, {"role": "developer", "content": "a"}, USER],
        [USER, {"role": "system", "content": "a"}, USER],
    ),
    "an image and a file": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is it?"},
                    {"type": "input_image", "image_url": PNG, "detail": "low"},
                    {"type": "input_image", "image_url": PNG, "detail": "auto"},
                    {"type": "input_file", "file_data": PDF, "filename": "a.pdf"},
                    {"type": "input_file", "file_url": "https://example.com/a.pdf"},
                ],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": PNG}},
                    {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
                    {"type": "file", "file": {"file_data": "https://example.com/a.pdf"}},
                ],
            }
        ],
    ),
    "an answer": ([USER, answer("Hi"), USER], [USER, {"role": "assistant", "content": "Hi"}, USER]),
    "an answer as a string": (
        [USER, {"role": "assistant", "content": "Hi"}],
        [USER, {"role": "assistant", "content": "Hi"}],
    ),
    "a refusal": (
        [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
        [USER, {"role": "assistant", "content": None, "refusal": "No."}],
    ),
    "a turn with all there is": (
        [
            USER,
            thought("Why?"),
            answer("One moment."),
            call("c1"),
            call("c2"),
            result("c1"),
            result("c2", "4"),
        ],
        [
            USER,
            chat_calls(
                *(chat_call("c1"), chat_call("c2")),
                content="One moment.",
                reasoning_content="Why?",
            ),
            chat_result("c1"),
            chat_result("c2", "4"),
        ],
    ),
    "results in another order": (
        [USER, call("c1"), call("c2"), result("c2", "4"), result("c1")],
        [
            USER,
            chat_calls(chat_call("c1"), chat_call("c2")),
            chat_result("c1"),
            chat_result("c2", "4"),
        ],
    ),
    "one call after the other": (
        [USER, call("c1"), result("c1"), call("c2"), result("c2", "4")],
        [
            USER,
            chat_calls(chat_call("c1")),
            chat_result("c1"),
            chat_calls(chat_call("c2")),
            chat_result("c2", "4"),
        ],
    ),
    "a call without its result": (
        [USER, call("c1"), call("c2"), result("c2", "4"), USER],
        [
            USER,
            chat_calls(chat_call("c1"), chat_call("c2")),
            chat_result("c1", NOT_GIVEN),
            chat_result("c2", "4"),
            USER,
        ],
    ),
    "a result behind what followed": (
        [USER, call("c1"), USER, result("c1")],
        [USER, chat_calls(chat_call("c1")), chat_result("c1"), USER],
    ),
    "a result without its call": ([USER, result("c9"), USER], [USER, USER]),
    "a result in front of its call": (
        [USER, result("c1"), call("c1")],
        [USER, chat_calls(chat_call("c1")), chat_result("c1", NOT_GIVEN)],
    ),
    "two calls with one id": (
        [USER, call("c1"), result("c1", "1"), call("c1"), result("c1", "2")],
        [
            USER,
            chat_calls(chat_call("c1")),
            chat_result("c1", "1"),
            chat_calls(chat_call("c1")),
            chat_result("c1", "2"),
        ],
    ),
    "a result in parts of text": (
        [
            *(USER, call("c1")),
            result(
                "c1", [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
            ),
        ],
        [USER, chat_calls(chat_call("c1")), chat_result("c1", "a\nb")],
    ),
    "results with images": (
        [
            *(USER, call("c1"), call("c2"), call("c3")),
            result("c1", [{"type": "input_text", "text": "a"}, IMAGE]),
            result("c2", [IMAGE]),
            result("c3"),
        ],
        [
            USER,
            chat_calls(chat_call("c1"), chat_call("c2"), chat_call("c3")),
            chat_result("c1", "a"),
            chat_result("c2", "The result is in the next message."),
            chat_result("c3"),
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Content of the result of the tool call c1:"},
                    CHAT_IMAGE,
                    {"type": "text", "text": "Content of the result of the tool call c2:"},
                    CHAT_IMAGE,
                ],
            },
        ],
    ),
    "a call of a custom tool": (
        [
            USER,
            {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": 'a "b"\n'},
            result("c1", "done", "custom_tool_call_output"),
        ],
        [
            USER,
            chat_calls(chat_call("c1", "patch", '{"input":"a \\"b\\"\\n"}')),
            chat_result("c1", "done"),
        ],
    ),
    "a call in a namespace": (
        [USER, call("c1", "send", namespace="mail"), result("c1")],
        [USER, chat_calls(chat_call("c1", "mail__send")), chat_result("c1")],
    ),
    "reasoning in words comes before its summary": (
        [USER, thought("short", "long"), answer("Hi")],
        [USER, {"role": "assistant", "content": "Hi", "reasoning_content": "long"}],
    ),
    "encrypted reasoning": (
        [USER, thought("short", encrypted="gAAAA"), answer("Hi")],
        [
            USER,
            {
                "role": "assistant",
                "content": "Hi",
                "reasoning_details": [
                    {
                        "type": "reasoning.encrypted",
                        "id": "rs_1",
                        "data": "gAAAA",
                        "summary": [{"type": "summary_text", "text": "short"}],
                        "format": "openai-responses-v1",
                    }
                ],
            },
        ],
    ),
    "signed reasoning of another format": (
        [USER, thought("hm", encrypted=carried([SIGNED])), answer("Hi")],
        [
            USER,
            {
                "role": "assistant",
                "content": "Hi",
                "reasoning_content": "hm",
                "reasoning_details": [SIGNED],
            },
        ],
    ),
    "signed reasoning that was changed": (
        [USER, thought("hm", encrypted="legato-1.AAAA"), answer("Hi")],
        [USER, {"role": "assistant", "content": "Hi", "reasoning_content": "hm"}],
    ),
    "reasoning that led to nothing": ([USER, thought("Why?"), USER], [USER, USER]),
    "reasoning at the end": ([USER, thought("Why?")], [USER]),
    "empty reasoning": (
        [USER, thought(), answer("Hi")],
        [USER, {"role": "assistant", "content": "Hi"}],
    ),
    "items of hosted tools": (
        [
            USER,
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            {"type": "local_shell_call", "call_id": "c1", "action": {}},
            {"type": "local_shell_call_output", "call_id": "c1", "output": "x"},
            {"type": "nobody_knows"},
            answer("Hi"),
        ],
        [USER, {"role": "assistant", "content": "Hi"}],
    ),
}


@pytest.mark.parametrize("case", ITEMS)
def test_items_are_messages(case: str) -> None:
    items, wanted = ITEMS[case]
    assert messages(*items) == wanted


def test_a_string_is_the_users() -> None:
    assert translated(input="Hello")["messages"] == [USER]


def test_instructions_come_first() -> None:
    developer = {"role": "developer", "content": "b"}
    assert messages(developer, USER, instructions="a") == [
        {"role": "system", "content": "a\n\nb"},
        USER,
    ]


SCHEMA = {"type": "object", "properties": {}}

PARAMETERS: dict[str, tuple[Json, Json]] = {
    "nothing": ({}, {}),
    "how much": ({"max_output_tokens": 100}, {"max_completion_tokens": 100}),
    "sampling": ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    "reasoning": (
        {"reasoning": {"effort": "high", "summary": "auto"}},
        {"reasoning_effort": "high"},
    ),
    "text": ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {}),
    "JSON": (
        {"text": {"format": {"type": "json_object"}}},
        {"response_format": {"type": "json_object"}},
    ),
    "JSON by a schema": (
        {
            "text": {
                "format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    "logprobs": ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    "logprobs of the tokens alone": (
        {"include": ["message.output_text.logprobs"]},
        {"logprobs": True},
    ),
    "who asks": (
        {"user": "u", "prompt_cache_key": "k", "service_tier": "flex"},
        {"user": "u", "prompt_cache_key": "k", "service_tier": "flex"},
    ),
    "who asks, by the newer name": ({"safety_identifier": "u"}, {"user": "u"}),
    "a stream": (
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
    ),
    "what has no equivalent": (
        {
            "store": True,
            "metadata": {"a": "b"},
            "truncation": "auto",
            "include": ["reasoning.encrypted_content"],
            "client_metadata": {"x": 1},
            "background": False,
            "service_tier": "auto",
            "parallel_tool_calls": True,
            "conversation": None,
            "nobody_knows": [1],
        },
        {},
    ),
}


@pytest.mark.parametrize("case", PARAMETERS)
def test_parameters(case: str) -> None:
    given, wanted = PARAMETERS[case]
    request = translated(**given)
    del request["model"], request["messages"]
    assert request == wanted


@pytest.mark.parametrize(
    ("choice", "given", "sent"),
    [
        (None, True, None),  # the default, and not every server knows the parameter
        ("auto", True, None),
        ("auto", False, False),
        ("required", True, True),
        ("required", None, None),
        ({"type": "function", "name": "sum"}, True, True),
    ],
)
def test_several_calls(choice: Any, given: bool | None, sent: bool | None) -> None:
    request = translated(tools=[SUM], tool_choice=choice, parallel_tool_calls=given)
    assert request.get("parallel_tool_calls") is sent


REFUSED: dict[str, tuple[Any, str, str | None]] = {
    "no JSON": (b"{", "invalid_json", None),
    "nothing": (b" ", "invalid_request", None),
    "no object": (b"[]", "invalid_value", None),
    "no model": ({"input": "Hello"}, "missing_required_parameter", "model"),
    "no input": ({"model": "m"}, "missing_required_parameter", "input"),
    "empty input": ({"input": []}, "invalid_value", "input"),
    "wrong type": ({"temperature": "hot"}, "invalid_value", "temperature"),
    "wrong range": ({"top_p": 2}, "invalid_value", "top_p"),
    "wrong type, deep": ({"reasoning": {"effort": 1}}, "invalid_value", "reasoning.effort"),
    "an item that is none": ({"input": ["Hello"]}, "invalid_value", "input[0]"),
    "a role that nobody has": (
        {"input": [USER, {"role": "tool", "content": ""}]},
        *("invalid_value", "input[1].role"),
    ),
    "content of a wrong type": (
        {"input": [{"role": "user", "content": 7}]},
        *("invalid_value", "input[0].content"),
    ),
    "a part without a type": (
        {"input": [{"role": "user", "content": [{"text": "Hello"}]}]},
        *("invalid_value", "input[0].content"),
    ),
    "a file without data": (
        {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
        *("missing_required_parameter", "input[0].content"),
    ),
    "a call without its id": (
        {"input": [{"type": "function_call", "name": "f", "arguments": ""}]},
        *("missing_required_parameter", "input[0].call_id"),
    ),
    "a result without its id": (
        {"input": [USER, {"type": "function_call_output", "output": "x"}]},
        *("missing_required_parameter", "input[1].call_id"),
    ),
    "a stored response": (
        {"previous_response_id": "resp_1"},
        *("previous_response_not_found", "previous_response_id"),
    ),
    "background": ({"background": True}, "unsupported_parameter", "background"),
    "a conversation": ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
    "a template": ({"prompt": {"id": "pmpt_1"}}, "unsupported_parameter", "prompt"),
    "a format of a wrong type": (
        {"text": {"format": {"type": "grammar"}}},
        *("invalid_value", "text.format.type"),
    ),
    "a schema without a name": (
        {"text": {"format": {"type": "json_schema", "schema": {}}}},
        *("missing_required_parameter", "text.format.name"),
    ),
    "a schema without itself": (
        {"text": {"format": {"type": "json_schema", "name": "n"}}},
        *("missing_required_parameter", "text.format.schema"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_as_the_client_knows_it(case: str) -> None:
    body, code, param = REFUSED[case]
    if isinstance(body, dict):
        whole = body if case.startswith("no ") else {"model": "m", "input": "Hello"} | body
        body = json.dumps(whole).encode()
    with pytest.raises(ApiError) as caught:
        RESPONSES.parse(body)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


BEYOND: dict[str, Json] = {
    "a part that nobody knows": {"role": "user", "content": [{"type": "input_video"}]},
    "an image in an answer": {"role": "assistant", "content": [{"type": "input_image"}]},
    "a stored image": {"role": "user", "content": [{"type": "input_image", "file_id": "f"}]},
    "a stored file": {"role": "user", "content": [{"type": "input_file", "file_id": "f"}]},
    "an item by its id": {"type": "item_reference", "id": "msg_1"},
    "an item by its id alone": {"id": "msg_1"},
}


@pytest.mark.parametrize("case", BEYOND)
def test_what_only_an_upstream_of_this_format_may_know(case: str) -> None:
    """It is refused where the request does not go out as it came."""
    body = {"model": "m", "input": [USER, BEYOND[case]]}
    refused = RESPONSES.parse(json.dumps(body).encode()).beyond
    assert refused is not None
    assert (refused.status, refused.code) == (400, "unsupported_parameter")
    assert refused.param == ("input[1].content" if "role" in BEYOND[case] else "input[1]")


def test_the_response_repeats_its_request() -> None:
    given: Json = {
        "instructions": "Be brief.",
        "max_output_tokens": 100,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": "s",
        "service_tier": "flex",
        "temperature": 0.5,
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "tool_choice": {"type": "function", "name": "sum"},
        "tools": [SUM, {"type": "web_search", "search_context_size": "low"}],
        "top_logprobs": 3,
        "top_p": 0.9,
        "truncation": "auto",
        "user": "u",
    }
    body = msgspec.json.encode({"model": "m", "input": "Hello", "store": True} | given)
    echo = RESPONSES.parse(body).echo
    repeated = json.loads(b"{%b}" % echo.settings[1:])
    given["tools"][0] = SUM | {"strict": None}
    assert {name: repeated[name] for name in given} == given
    assert (repeated["store"], repeated["background"]) == (False, False)
    assert repeated["previous_response_id"] is None
