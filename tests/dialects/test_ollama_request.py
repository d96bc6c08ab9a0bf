"""Ollama's dialect: the request that goes out. What comes back: test_dialects and
test_dialect_ollama."""

import json
from typing import Any

import pytest

from legato.core.dialect import Delivered, OutgoingRequest, Quirks
from legato.core.errors import ApiError, UpstreamError
from legato.core.request import parse
from legato.dialects.ollama import encode, headers, models, models_path, path

HELLO = [{"role": "user", "content": "Hello"}]


def encoded(
    members: dict[str, Any] | None = None, facts: Quirks | None = None, **more: Any
) -> dict[str, Any]:
    body = json.dumps({"model": "public", "messages": HELLO} | (members or {})).encode()
    return json.loads(
        encode(OutgoingRequest(body, parse(body), "qwen3:8b", facts or Quirks(), **more))
    )


def test_a_request_byte_by_byte() -> None:
    body = b'{"model":"public","messages":[{"role":"user","content":"Hello"}],"stream":false}'
    assert encode(OutgoingRequest(body, parse(body), "theirs", Quirks())) == (
        b'{"model":"theirs","messages":[{"role":"user","content":"Hello"}],"stream":true,'
        b'"truncate":false}'
    )


@pytest.mark.parametrize("key", [None, "", "k"])
def test_headers_and_paths(key: str | None) -> None:
    assert headers(key) == ([("authorization", "Bearer k")] if key else [])
    assert path("any") == "/api/chat"
    assert models_path() == "/api/tags"
    assert models(b'{"models":[{"name":"a:latest","model":"x"},{"name":"b"},{}]}') == [
        "a:latest",
        "b",
    ]


SCHEMA = {"type": "object", "properties": {"a": {"type": "number"}}}
SUM = {"type": "function", "function": {"name": "sum", "description": "Adds", "parameters": SCHEMA}}


def options(**members: Any) -> dict[str, Any]:
    return {"options": members}


def thinking(kind: str, **more: Any) -> dict[str, Any]:
    return {"thinking": {"type": kind, **more}}


# what is asked for, and what is there beside a plain request
REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a limit": ({"max_tokens": 7}, options(num_predict=7)),
    "the newer limit wins": (
        {"max_completion_tokens": 9, "max_tokens": 7},
        options(num_predict=9),
    ),
    "sampling": (
        {
            "temperature": 0.3,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.1,
            "seed": 7,
            "presence_penalty": 0,
            "frequency_penalty": -0.5,
            "repeat_penalty": 1.1,
        },
        options(
            temperature=0.3,
            top_p=0.9,
            top_k=5,
            min_p=0.1,
            seed=7,
            presence_penalty=0,
            frequency_penalty=-0.5,
            repeat_penalty=1.1,
        ),
    ),
    "one stop": ({"stop": "x"}, options(stop=["x"])),
    "stops": ({"stop": ["x", "y"]}, options(stop=["x", "y"])),
    "options of its own": (
        {"options": {"num_ctx": 8192, "top_k": 3}, "top_k": 5},
        options(num_ctx=8192, top_k=5),
    ),
    "what is native": (
        {"keep_alive": "10m", "truncate": True, "shift": False},
        {"keep_alive": "10m", "truncate": True, "shift": False},
    ),
    "unloaded at once": ({"keep_alive": 0}, {"keep_alive": 0}),
    "logprobs": (
        {"logprobs": True, "top_logprobs": 4},
        {"logprobs": True, "top_logprobs": 4},
    ),
    "what is not taken": (
        {
            "logit_bias": {"1": 2},
            "user": "u1",
            "parallel_tool_calls": False,
            "service_tier": "flex",
            "n": 1,
        },
        {},
    ),
    "nulls": ({"temperature": None, "stop": None, "tools": None, "x": None}, {}),
    # Thinking
    "an effort": ({"reasoning_effort": "high"}, {"think": "high"}),
    "the least effort": ({"reasoning_effort": "minimal"}, {"think": "low"}),
    "a budget": (thinking("enabled", budget_tokens=5000), {"think": "medium"}),
    "thinking as much as it likes": (thinking("adaptive"), {"think": True}),
    "no thinking": ({"reasoning_effort": "none"}, {"think": False}),
    "thinking disabled": (thinking("disabled"), {"think": False}),
    # Tools
    "tools": ({"tools": [SUM]}, {"tools": [SUM]}),
    "tools as it likes": ({"tools": [SUM], "tool_choice": "auto"}, {"tools": [SUM]}),
    "tools, but not now": ({"tools": [SUM], "tool_choice": "none"}, {}),
    "no tools": ({"tools": [], "tool_choice": "auto"}, {}),
    # Formats
    "any JSON": ({"response_format": {"type": "json_object"}}, {"format": "json"}),
    "a schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA},
            }
        },
        {"format": SCHEMA},
    ),
    "a schema that says nothing": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
        {"format": "json"},
    ),
    "text": ({"response_format": {"type": "text"}}, {}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_asked_for_in_its_words(name: str) -> None:
    members, beside = REQUESTS[name]
    plain = {"model": "qwen3:8b", "messages": HELLO, "stream": True, "truncate": False}
    assert encoded(members) == plain | beside


@pytest.mark.parametrize(
    ("asks", "wanted"), [("thinking", True), ("effort", "low"), ("none", None)]
)
def test_the_operator_knows_better_how_it_is_told_to_think(asks: Any, wanted: Any) -> None:
    assert encoded({"reasoning_effort": "low"}, Quirks(effort_style=asks)).get("think") == wanted


def message(role: str, content: Any, **members: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **members}


def text(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": each} for each in texts]


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def call(arguments: Any, identity: str = "c1", name: str = "sum") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": identity, "type": "function", "function": function}


def called(identity: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, "id": identity}


# messages, and what becomes of them
MESSAGES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "the system's": (
        [message("developer", text("Be", "brief.")), message("system", "In Czech."), *HELLO],
        [message("system", "Be\nbrief."), message("system", "In Czech."), *HELLO],
    ),
    "no content": (
        [*HELLO, message("assistant", None), message("user", [])],
        [*HELLO, message("assistant", ""), message("user", "")],
    ),
    "images": (
        [
            message(
                "user",
                [
                    *text("What?"),
                    image("data:image/png;base64,iVBORw0="),
                    {"type": "image_url", "image_url": "data:image/jpeg;base64,/9j/"},
                ],
            )
        ],
        [message("user", "What?", images=["iVBORw0=", "/9j/"])],
    ),
    "tools": (
        [
            *HELLO,
            message(
                "assistant",
                "Hm",
                reasoning_content="Let me",
                tool_calls=[call('{"a": 1}'), call("", "c2", "now")],
            ),
            message("tool", "3", tool_call_id="c1"),
            message("tool", text("late"), tool_call_id="c2"),
            message("tool", "?", tool_call_id="c3", name="other"),
            message("tool", "?", tool_call_id="c4"),
        ],
        [
            *HELLO,
            message(
                "assistant",
                "Hm",
                thinking="Let me",
                tool_calls=[called("c1", "sum", a=1), called("c2", "now")],
            ),
            message("tool", "3", tool_call_id="c1", tool_name="sum"),
            message("tool", "late", tool_call_id="c2", tool_name="now"),
            message("tool", "?", tool_call_id="c3", tool_name="other"),
            message("tool", "?", tool_call_id="c4", tool_name=""),
        ],
    ),
    "an image of an earlier answer": (
        [*HELLO, message("assistant", "Here", images=[image("data:image/jpg;base64,AA==")])],
        [*HELLO, message("assistant", "Here", images=["AA=="])],
    ),
    "a refusal beside text": (
        [*HELLO, message("assistant", "Hm.", refusal="No.")],
        [*HELLO, message("assistant", "Hm.\nNo.")],
    ),
    "a refusal of its own": (
        [*HELLO, message("assistant", [{"type": "refusal", "refusal": "No."}])],
        [*HELLO, message("assistant", "No.")],
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_in_its_words(name: str) -> None:
    messages, there = MESSAGES[name]
    assert encoded({"messages": messages})["messages"] == there


def seen(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [message("user", [part])]}


def asked(**each: Any) -> dict[str, Any]:
    return {"messages": [message("assistant", None, tool_calls=[each])]}


# members, the member that is named, its code
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "several choices": ({"n": 2}, "n", "invalid_request"),
    "functions": ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
    "some tool": (
        {"tools": [SUM], "tool_choice": "required"},
        "tool_choice",
        "unsupported_parameter",
    ),
    "one tool": (
        {"tools": [SUM], "tool_choice": {"type": "function", "function": {"name": "sum"}}},
        "tool_choice",
        "unsupported_parameter",
    ),
    "a tool of another kind": (
        {"tools": [SUM, {"type": "web_search"}]},
        "tools",
        "unsupported_parameter",
    ),
    "an earlier answer in audio": (
        {"messages": [message("assistant", None, audio={"id": "a1"})]},
        "messages",
        "unsupported_parameter",
    ),
    "a call of the old form": (
        {"messages": [message("assistant", None, function_call={"name": "f"})]},
        "messages",
        "unsupported_parameter",
    ),
    "a function's message": (
        {"messages": [message("function", "3", name="f")]},
        "messages",
        "unsupported_parameter",
    ),
    "sound": (
        seen({"type": "input_audio", "input_audio": {"data": "x"}}),
        "messages",
        "unsupported_parameter",
    ),
    "an image elsewhere": (
        seen(image("https://example.com/a.png")),
        "messages",
        "invalid_request",
    ),
    "an image that is none": (seen(image(7)), "messages", "invalid_request"),
    "a call of another kind": (asked(id="c", custom={}), "messages", "unsupported_parameter"),
    "arguments that are no JSON": (asked(**call("{")), "messages", "invalid_request"),
    "arguments that are a list": (asked(**call("[1]")), "messages", "invalid_request"),
    "deep arguments": (asked(**call("[" * 99_999)), "messages", "invalid_request"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_for_is_refused(name: str) -> None:
    members, param, code = REFUSED[name]
    with pytest.raises(ApiError) as caught:
        encoded(members)
    error = caught.value
    assert not isinstance(error, UpstreamError)
    assert (error.status, error.param, error.code) == (400, param, code)


@pytest.mark.parametrize(
    "members", [{"logit_bias": {"1": 2}}, {"guided_json": {}}, {"parallel_tool_calls": False}]
)
def test_a_strict_deployment_drops_nothing(members: dict[str, Any]) -> None:
    assert encoded(members) == encoded()
    with pytest.raises(ApiError) as caught:
        encoded(members, unsupported="error")
    assert (caught.value.status, caught.value.code) == (400, "unsupported_parameter")
    assert caught.value.param in members


def test_a_strict_deployment_lets_pass_what_asks_for_nothing() -> None:
    nothing = {
        "n": 1,
        "logprobs": False,
        "logit_bias": {},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "stream_options": None,
    }
    assert encoded(nothing, unsupported="error") == encoded()


def test_what_the_operator_says_is_not_taken_is_left_out() -> None:
    assert encoded({"top_k": 4}, Quirks(rejected_parameters=frozenset({"top_k"}))) == encoded()


# An answer that another upstream began


def test_an_answer_is_gone_on_with_where_it_stopped() -> None:
    sent = encoded(delivered=Delivered("Once upon "))
    assert sent["messages"] == [*HELLO, message("assistant", "Once upon ")]
    sent = encoded(delivered=Delivered("Once", "Let me think."))
    assert sent["messages"] == [*HELLO, message("assistant", "Once", thinking="Let me think.")]


def test_what_the_client_began_is_gone_on_with_in_the_same_message() -> None:
    messages = [*HELLO, message("assistant", "Once", reasoning_content="Let")]
    sent = encoded({"messages": messages}, delivered=Delivered(" upon", " me"))
    assert sent["messages"] == [*HELLO, message("assistant", "Once upon", thinking="Let me")]


def test_an_answer_does_not_go_on_in_a_message_that_called_tools() -> None:
    messages = [*HELLO, message("assistant", "Hm", tool_calls=[call("{}")])]
    sent = encoded({"messages": messages}, delivered=Delivered("Once"))
    assert sent["messages"][-1] == message("assistant", "Once")


def test_an_answer_of_which_nothing_was_delivered_is_asked_for_again() -> None:
    assert encoded(delivered=Delivered()) == encoded()
