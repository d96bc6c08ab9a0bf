"""Anthropic's dialect: a conversation in its blocks, and what there is no block for."""

from typing import Any

import pytest

from legato.core.errors import ApiError, UpstreamError
from tests.dialects.test_anthropic_request import HELLO, SUM, encoded, text

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}}
IMAGE_THERE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="},
}
LINK = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
LINK_THERE = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
FILE = {
    "type": "file",
    "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
}
FILE_THERE = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
    "title": "a.pdf",
}
CACHED = {"cache_control": {"type": "ephemeral"}}
CALL = {"id": "call:1", "type": "function", "function": {"name": "sum", "arguments": '{"a": 1}'}}
CALL_THERE = {"type": "tool_use", "id": "call_1", "name": "sum", "input": {"a": 1}}
BARE = {"id": "c2", "type": "function", "function": {"name": "now", "arguments": ""}}
BARE_THERE = {"type": "tool_use", "id": "c2", "name": "now", "input": {}}
THOUGHT = {"type": "thinking", "thinking": "Let me", "signature": "EqQB"}
HIDDEN = {"type": "redacted_thinking", "data": "EmwK"}


def message(role: str, content: Any, **members: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **members}


def file(data: str) -> dict[str, Any]:
    return {"type": "file", "file": {"file_data": data}}


def document(source: dict[str, Any]) -> dict[str, Any]:
    return {"type": "document", "source": source}


def base64(kind: str, data: str) -> dict[str, Any]:
    return {"type": "base64", "media_type": kind, "data": data}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


# messages, what `system` becomes, turns
MESSAGES: dict[str, tuple[list[dict[str, Any]], Any, list[dict[str, Any]]]] = {
    "the system's": (
        [message("system", "Be brief."), *HELLO, message("developer", text("In", "Czech."))],
        "Be brief.\n\nIn\n\nCzech.",
        [message("user", text("Hello"))],
    ),
    "the system's, kept": (
        [message("system", [text("Be brief.")[0] | CACHED]), *HELLO],
        [text("Be brief.")[0] | CACHED],
        [message("user", text("Hello"))],
    ),
    "turns of one": (
        [*HELLO, message("user", text("you")), message("assistant", "Yes?"), message("user", "Ah")],
        None,
        [
            message("user", text("Hello", "you")),
            message("assistant", text("Yes?")),
            message("user", text("Ah")),
        ],
    ),
    "no content": (
        [*HELLO, message("assistant", ""), message("user", [*text("", " \n"), IMAGE])],
        None,
        [message("user", [*text("Hello"), IMAGE_THERE])],
    ),
    "things to look at": (
        [message("user", [*text("What?"), IMAGE | CACHED, LINK, FILE])],
        None,
        [message("user", [*text("What?"), IMAGE_THERE | CACHED, LINK_THERE, FILE_THERE])],
    ),
    "tools": (
        [
            *HELLO,
            message("assistant", None, tool_calls=[CALL, BARE]),
            message("tool", "3", tool_call_id="call:1"),
            message("tool", [*text("late"), IMAGE], tool_call_id="c2"),
            message("user", "So?"),
            message("assistant", "Hm", tool_calls=[BARE]),
            message("tool", "", tool_call_id="c2"),
        ],
        None,
        [
            message("user", text("Hello")),
            message("assistant", [CALL_THERE, BARE_THERE]),
            message(
                "user",
                [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": text("3")},
                    {
                        "type": "tool_result",
                        "tool_use_id": "c2",
                        "content": [*text("late"), IMAGE_THERE],
                    },
                    *text("So?"),
                ],
            ),
            message("assistant", [*text("Hm"), BARE_THERE]),
            message("user", [{"type": "tool_result", "tool_use_id": "c2"}]),
        ],
    ),
    "thoughts go back first, signed": (
        [
            *HELLO,
            message(
                "assistant",
                "Yes",
                reasoning_content="Let me",
                reasoning_details=[
                    THOUGHT | {"index": 0},
                    HIDDEN,
                    {"type": "thinking", "thinking": "not signed"},
                    {"type": "reasoning.text", "text": "another vendor's"},
                    "?",
                ],
                tool_calls=[CALL],
            ),
        ],
        None,
        [
            message("user", text("Hello")),
            message("assistant", [THOUGHT, HIDDEN, *text("Yes"), CALL_THERE]),
        ],
    ),
    "details that are none": (
        [*HELLO, message("assistant", "Yes", reasoning_details=7)],
        None,
        [message("user", text("Hello")), message("assistant", text("Yes"))],
    ),
    "files": (
        [
            message(
                "user",
                [
                    file("data:text/plain;base64,xb0="),
                    file("data:text/markdown;charset=utf-8;base64,YQ=="),
                    file("data:image/jpg;base64,iVBORw0="),
                    file("data:application/x-pdf;base64,JVBERg=="),
                    file("https://example.com/a.pdf"),
                ],
            )
        ],
        None,
        [
            message(
                "user",
                [
                    document({"type": "text", "media_type": "text/plain", "data": "Ž"}),
                    document({"type": "text", "media_type": "text/plain", "data": "a"}),
                    {"type": "image", "source": base64("image/jpeg", "iVBORw0=")},
                    document(base64("application/pdf", "JVBERg==")),
                    document({"type": "url", "url": "https://example.com/a.pdf"}),
                ],
            )
        ],
    ),
    "types of images": (
        [
            message(
                "user",
                [
                    picture("data:image/jpg;base64,AA=="),
                    picture("DATA:IMAGE/PNG;BASE64,AA=="),
                    picture("data:image/x-png;name=a.png;base64,AA=="),
                    picture("data:image/webp;base64,AA=="),
                ],
            )
        ],
        None,
        [
            message(
                "user",
                [
                    {"type": "image", "source": base64(kind, "AA==")}
                    for kind in ("image/jpeg", "image/png", "image/png", "image/webp")
                ],
            )
        ],
    ),
    "the system alone": ([message("system", "a")], None, [message("user", text("a"))]),
    "the system alone, kept": (
        [message("system", [text("a")[0] | CACHED]), message("assistant", "")],
        None,
        [message("user", [text("a")[0] | CACHED])],
    ),
    "an empty message between two of the user": (
        [*HELLO, message("user", ""), message("user", "Yes")],
        None,
        [message("user", text("Hello", "Yes"))],
    ),
    "an empty message at the end of the user's": (
        [*HELLO, message("user", "")],
        None,
        [message("user", text("Hello"))],
    ),
    "an empty message in the middle": (
        [*HELLO, message("assistant", "Yes"), message("user", " "), message("user", "Ah")],
        None,
        [
            message("user", text("Hello")),
            message("assistant", text("Yes")),
            message("user", text("Ah")),
        ],
    ),
    "a refusal beside text": (
        [*HELLO, message("assistant", "Hm.", refusal="No."), *HELLO],
        None,
        [
            message("user", text("Hello")),
            message("assistant", text("Hm.", "No.")),
            message("user", text("Hello")),
        ],
    ),
    "no refusal": (
        [*HELLO, message("assistant", "Hm.", refusal=None), *HELLO],
        None,
        [
            message("user", text("Hello")),
            message("assistant", text("Hm.")),
            message("user", text("Hello")),
        ],
    ),
    "a refusal of its own": (
        [*HELLO, message("assistant", [{"type": "refusal", "refusal": "No."}])],
        None,
        [message("user", text("Hello")), message("assistant", text("No."))],
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_become_turns_of_blocks(name: str) -> None:
    messages, system, turns = MESSAGES[name]
    sent = encoded({"messages": messages})
    assert sent.get("system") == system
    assert sent["messages"] == turns


def called(arguments: Any) -> list[dict[str, Any]]:
    function = {"name": "sum", "arguments": arguments}
    return [message("assistant", None, tool_calls=[{"id": "c", "function": function}])]


def seen(**part: Any) -> list[dict[str, Any]]:
    return [message("user", [part])]


# members, the member that is named, its code
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "several choices": ({"n": 2}, "n", "invalid_request"),
    "any JSON": (
        {"response_format": {"type": "json_object"}},
        "response_format",
        "unsupported_parameter",
    ),
    "a schema that is none": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": True}}},
        "response_format",
        "unsupported_parameter",
    ),
    "functions": ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
    "a choice of tools": (
        {"tools": [SUM], "tool_choice": {"type": "allowed_tools"}},
        "tool_choice",
        "unsupported_parameter",
    ),
    "an unknown choice": (
        {"tools": [SUM], "tool_choice": "perhaps"},
        "tool_choice",
        "unsupported_parameter",
    ),
    "sound": (
        {"messages": seen(type="input_audio", input_audio={"data": "x"})},
        "messages",
        "unsupported_parameter",
    ),
    "a function's message": (
        {"messages": [message("function", "3", name="f")]},
        "messages",
        "unsupported_parameter",
    ),
    "a file that is elsewhere": (
        {"messages": seen(type="file", file={"file_id": "f1"})},
        "messages",
        "invalid_request",
    ),
    "an image that is none": (
        {"messages": seen(type="image_url", image_url={"url": "a.png"})},
        "messages",
        "invalid_request",
    ),
    "a file of another kind": (
        {"messages": [message("user", [file("data:application/zip;base64,AA==")])]},
        "messages",
        "unsupported_parameter",
    ),
    "a text that is none": (
        {"messages": [message("user", [file("data:text/plain;base64,/w==")])]},
        "messages",
        "invalid_request",
    ),
    "an image of the system's": (
        {"messages": [message("system", [IMAGE]), *HELLO]},
        "messages",
        "unsupported_parameter",
    ),
    "an image of an earlier answer": (
        {"messages": [*HELLO, message("assistant", "Here", images=[IMAGE])]},
        "messages",
        "unsupported_parameter",
    ),
    "an earlier answer in audio": (
        {"messages": [*HELLO, message("assistant", None, audio={"id": "a1"}), *HELLO]},
        "messages",
        "unsupported_parameter",
    ),
    "a call of the old form": (
        {"messages": [*HELLO, message("assistant", None, function_call={"name": "f"})]},
        "messages",
        "unsupported_parameter",
    ),
    "an empty message": (
        {"messages": [message("user", [*text("", " ")])]},
        "messages[0].content",
        "unsupported_parameter",
    ),
    "an empty message behind an answer": (
        {"messages": [*HELLO, message("assistant", "Yes"), message("user", None)]},
        "messages[2].content",
        "unsupported_parameter",
    ),
    "an empty message before an empty answer": (
        {"messages": [message("user", ""), message("assistant", "")]},
        "messages[0].content",
        "unsupported_parameter",
    ),
    "an empty answer alone": (
        {"messages": [message("assistant", "")]},
        "messages",
        "unsupported_parameter",
    ),
    "a call without an id": (
        {"messages": [message("assistant", None, tool_calls=[{"function": CALL["function"]}])]},
        "messages",
        "invalid_request",
    ),
    "a call without a name": (
        {"messages": [message("assistant", None, tool_calls=[{"id": "c", "function": {}}])]},
        "messages",
        "invalid_request",
    ),
    "a custom tool": (
        {"tools": [SUM, {"type": "custom", "custom": {"name": "f"}}]},
        "tools[1]",
        "unsupported_parameter",
    ),
    "arguments that are no JSON": ({"messages": called("{")}, "messages", "invalid_request"),
    "arguments that are a list": ({"messages": called("[1]")}, "messages", "invalid_request"),
    "deep arguments": ({"messages": called("[" * 99_999)}, "messages", "invalid_request"),
    "a call of another kind": (
        {"messages": [message("assistant", None, tool_calls=[{"id": "c", "custom": {}}])]},
        "messages",
        "unsupported_parameter",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_for_is_refused(name: str) -> None:
    members, param, code = REFUSED[name]
    with pytest.raises(ApiError) as caught:
        encoded(members)
    error = caught.value
    assert not isinstance(error, UpstreamError)
    assert (error.status, error.param, error.code) == (400, param, code)
