"""A request in a form in which llama.cpp does what its client asks for."""

import json
from typing import Any

import pytest

from legato.core.dialect import Delivered, OutgoingRequest, Quirks
from legato.core.errors import ApiError
from legato.core.request import parse
from legato.engine.chat_templates import (
    SMOLLM2,
    SMOLLM2_THINKING,
    TOOL_CALL_PREFIX,
    tool_call_prefix,
)
from legato.engine.tool_choice import adapt_request

ADD, MUL = ({"type": "function", "function": {"name": name}} for name in ("add", "mul"))
HELLO = {"role": "user", "content": "Hello"}
BEGUN = {"role": "assistant", "content": TOOL_CALL_PREFIX}
PLAIN: dict[str, Any] = {"model": "m", "messages": [HELLO], "x": 1}
ONE_CALL = {"tool_choice": "required", "parallel_tool_calls": False}


def outgoing(fields: dict[str, Any], **more: Any) -> OutgoingRequest:
    body = json.dumps(fields).encode()
    return OutgoingRequest(body, parse(body), "m", Quirks(), **more)


def adapted(
    fields: dict[str, Any], call: str | None = TOOL_CALL_PREFIX, **more: Any
) -> dict[str, Any]:
    return json.loads(adapt_request(outgoing(fields, **more), call))


def allowed(mode: str, *tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tools": [ADD, MUL]},
        {"tools": [ADD], "tool_choice": "auto"},
        {"tools": [ADD], "tool_choice": "none"},
        {"messages": [HELLO, {"role": "assistant", "tool_calls": [{"id": "1", **ADD}]}]},
    ],
)
def test_what_it_takes_as_it_is_stays_byte_for_byte(more: dict[str, Any]) -> None:
    asked = outgoing(PLAIN | more)
    assert adapt_request(asked, TOOL_CALL_PREFIX) is asked.body


@pytest.mark.parametrize(
    ("choice", "tools", "changes"),
    [
        ("required", [ADD, MUL], ONE_CALL),
        (MUL, [MUL], ONE_CALL),
        (allowed("required", MUL, ADD), [MUL, ADD], ONE_CALL),
        (allowed("required", ADD), [ADD], ONE_CALL),
    ],
)
def test_a_call_that_has_to_be_is_begun(
    choice: Any, tools: list[Any], changes: dict[str, Any]
) -> None:
    fields = PLAIN | {"tools": [ADD, MUL], "tool_choice": choice}
    expected = PLAIN | {"tools": tools, "messages": [HELLO, BEGUN]} | changes
    assert adapted(fields) == expected
    # Where nobody knows how this model begins a call, its grammar alone has to do.
    assert adapted(fields, call=None) == expected | {"messages": [HELLO]}


def test_tools_that_may_be_called_are_not_begun() -> None:
    fields = PLAIN | {"tools": [ADD, MUL], "tool_choice": allowed("auto", ADD)}
    assert adapted(fields) == PLAIN | {"tools": [ADD], "tool_choice": "auto"}


def test_several_calls_are_let_where_they_are_wanted() -> None:
    fields = PLAIN | {"tools": [ADD], "tool_choice": "required", "parallel_tool_calls": True}
    assert adapted(fields)["parallel_tool_calls"] is True


def test_the_form_of_a_text_that_will_not_come_is_left_out() -> None:
    fields = PLAIN | {"tools": [ADD], "response_format": {"type": "json_object"}}
    assert "response_format" in adapted(fields)
    assert "response_format" not in adapted(fields | {"tool_choice": "required"})


def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    fields = PLAIN | {"tools": [ADD], "tool_choice": "required"}
    assert adapted(fields, delivered=Delivered("Well"))["messages"] == [HELLO]
    half = [HELLO, {"role": "assistant", "content": "Well"}]
    assert adapted(fields | {"messages": half})["messages"] == half


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "sub"}},
        {"type": "function"},
        {"type": "function", "function": "add"},
        {"type": "function", "function": {"name": ["add"]}},
        {"type": "custom"},
        {"type": "auto"},
        "any",
        allowed("sometimes", ADD),
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "allowed_tools": {"tools": 5}},
        allowed("auto"),
        allowed("auto", ADD, {"type": "function", "function": {"name": "sub"}}),
    ],
)
def test_a_function_that_is_no_tool_cannot_be_chosen(choice: Any) -> None:
    with pytest.raises(ApiError) as caught:
        adapted(PLAIN | {"tools": [ADD, MUL], "tool_choice": choice})
    assert (caught.value.status, caught.value.param) == (400, "tool_choice")


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ("", "{}"),
        (" \n", "{}"),
        ('{"a": 1', '"{\\"a\\": 1"'),
        ("nothing", '"nothing"'),
        ('{"a": 1}', '{"a": 1}'),
        ("5", "5"),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_arguments_of_earlier_calls_are_json(arguments: Any, sent: Any) -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "add", "arguments": arguments},
        "x": 2,
    }
    answer = {"role": "assistant", "content": None, "tool_calls": [call], "y": 3}
    result = {"role": "tool", "tool_call_id": "1", "content": "3"}
    fields = PLAIN | {"messages": [HELLO, answer, result]}
    mended = call | {"function": {"name": "add", "arguments": sent}}
    expected = fields | {"messages": [HELLO, answer | {"tool_calls": [mended]}, result]}
    asked = outgoing(fields)
    for _ in range(2):  # nothing of what was asked is changed in place
        assert json.loads(adapt_request(asked, TOOL_CALL_PREFIX)) == expected


@pytest.mark.parametrize(
    ("template", "call"),
    [
        (SMOLLM2, TOOL_CALL_PREFIX),
        (SMOLLM2_THINKING, TOOL_CALL_PREFIX),
        ("{{ messages }}", None),
        (None, None),
    ],
)
def test_what_a_call_begins_with_is_in_the_template(template: str | None, call: str | None) -> None:
    assert tool_call_prefix(template) == call


def test_a_refusal_in_the_history_is_what_was_answered() -> None:
    part = {"type": "refusal", "refusal": "No."}
    history = [
        HELLO,
        {"role": "assistant", "content": None, "refusal": "No.", "x": 1},
        HELLO,
        {"role": "assistant", "content": [{"type": "text", "text": "Hm."}, part]},
        {"role": "assistant", "content": "Yes.", "refusal": None},
        HELLO,
    ]
    sent = adapted(PLAIN | {"messages": history})["messages"]
    assert sent[1] == {"role": "assistant", "content": "No.", "refusal": "No.", "x": 1}
    assert sent[3]["content"] == [{"type": "text", "text": text} for text in ("Hm.", "No.")]
    assert [sent[n] for n in (0, 2, 4, 5)] == [history[n] for n in (0, 2, 4, 5)]


#: members, the member that is named, a word of the message
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an image": (
        {"messages": [HELLO, {"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[1].content",
        "images",
    ),
    "a custom tool": (
        {"tools": [ADD, {"type": "custom", "custom": {"name": "x"}}]},
        "tools[1]",
        "custom",
    ),
    "a choice": ({"tools": [ADD], "tool_choice": "any"}, "tool_choice", "any"),
    "an object as the choice": (
        {"tools": [ADD], "tool_choice": {"type": "auto"}},
        "tool_choice",
        "auto",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_does_not_take_is_named(name: str) -> None:
    members, param, word = REFUSED[name]
    with pytest.raises(ApiError) as caught:
        adapted(PLAIN | members)
    error = caught.value
    assert (error.status, error.param, error.code) == (400, param, "unsupported_parameter")
    assert word in error.message
