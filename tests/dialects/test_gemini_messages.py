"""Gemini's dialect: messages as turns of parts."""

import json
from typing import Any

import pytest

from legato.core.errors import ApiError, UpstreamError
from tests.dialects.test_gemini_request import BUDGET, HELLO, LEVEL, encoded, model, user


def text(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": each} for each in texts]


def message(role: str, content: Any, **members: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **members}


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def link(uri: str, kind: str | None) -> dict[str, Any]:
    return {"fileData": {"fileUri": uri} | ({"mimeType": kind} if kind else {})}


PIXELS = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0="}}
FILE = {
    "type": "file",
    "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
}
SOUND = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "mp3"}}


def call(identity: str, name: str, arguments: Any, signature: str | None = None) -> dict[str, Any]:
    fields = {
        "id": identity,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    extra = {"extra_content": {"google": {"thought_signature": signature}}}
    return fields | extra if signature else fields


def called(identity: str, name: str, signature: str | None = None, **args: Any) -> dict[str, Any]:
    part = {"functionCall": {"name": name, "args": args, "id": identity}}
    return part | {"thoughtSignature": signature} if signature else part


def returned(identity: str, name: str, **response: Any) -> dict[str, Any]:
    return {"functionResponse": {"id": identity, "name": name, "response": response}}


SKIPPED = "skip_thought_signature_validator"
TWO_CALLS = [call("c1", "sum", '{"a": 1}'), call("c2", "now", "")]
RESULTS = [
    message("tool", '{"sum": 3}', tool_call_id="c1"),
    message("tool", "late", tool_call_id="c2"),
]

# messages, of which model, the system's parts, turns
MESSAGES: dict[str, tuple[list[dict[str, Any]], str, Any, list[dict[str, Any]]]] = {
    "the system's": (
        [message("system", "Be brief."), *HELLO, message("developer", text("In", "Czech."))],
        BUDGET,
        [{"text": "Be brief."}, {"text": "In"}, {"text": "Czech."}],
        [user({"text": "Hello"})],
    ),
    "the system's alone": (
        [message("system", "Be brief.")],
        BUDGET,
        None,
        [user({"text": "Be brief."})],
    ),
    "turns of one": (
        [*HELLO, message("user", text("you")), message("assistant", "Yes?"), message("user", "Ah")],
        BUDGET,
        None,
        [user({"text": "Hello"}, {"text": "you"}), model({"text": "Yes?"}), user({"text": "Ah"})],
    ),
    "no content": (
        [
            *HELLO,
            message("assistant", ""),
            message("assistant", None),
            message("user", text("", " ")),
        ],
        BUDGET,
        None,
        [user({"text": "Hello"}, {"text": " "})],
    ),
    "things to see and to hear": (
        [message("user", [*text("What?"), image("data:image/png;base64,iVBORw0="), FILE, SOUND])],
        BUDGET,
        None,
        [
            user(
                {"text": "What?"},
                PIXELS,
                {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
                {"inlineData": {"mimeType": "audio/mp3", "data": "UklGRg=="}},
            )
        ],
    ),
    "things elsewhere": (
        [
            message(
                "user",
                [
                    image("https://example.com/a.PNG?b=c.d"),
                    image("https://example.com/a"),
                    image("gs://bucket/a.webp"),
                    {"type": "image_url", "image_url": "https://example.com/a.jpg"},
                ],
            )
        ],
        BUDGET,
        None,
        [
            user(
                link("https://example.com/a.PNG?b=c.d", "image/png"),
                link("https://example.com/a", None),
                link("gs://bucket/a.webp", "image/webp"),
                link("https://example.com/a.jpg", "image/jpeg"),
            )
        ],
    ),
    "tools": (
        [
            *HELLO,
            message("assistant", "Hm", tool_calls=TWO_CALLS),
            *RESULTS,
            message("user", "So?"),
        ],
        BUDGET,
        None,
        [
            user({"text": "Hello"}),
            model({"text": "Hm"}, called("c1", "sum", a=1), called("c2", "now")),
            user(returned("c1", "sum", sum=3), returned("c2", "now", output="late")),
            user({"text": "So?"}),
        ],
    ),
    "what a function returns": (
        [
            message("assistant", None, tool_calls=[call("c", "f", {"a": [1]})]),
            message("tool", "", tool_call_id="c"),
            message("assistant", None, tool_calls=[call("c", "g", "{}")]),
            message("tool", text("[1]", "{}"), tool_call_id="c"),
            message("assistant", None, tool_calls=[call("d", "f", None)]),
            message("tool", "[1, 2]", tool_call_id="d"),
        ],
        BUDGET,
        None,
        [
            model(called("c", "f", a=[1])),
            user(returned("c", "f", output="")),
            model(called("c", "g")),
            user(returned("c", "g", output="[1]\n{}")),
            model(called("d", "f")),
            user(returned("d", "f", output="[1, 2]")),
        ],
    ),
    "signatures go back where they were": (
        [
            message(
                "assistant",
                "Hm",
                extra_content={"google": {"thought_signature": "UzA="}},
                reasoning_content="Let me think.",
                tool_calls=[call("c1", "f", "{}", "UzE="), call("c2", "g", "{}")],
            ),
            *RESULTS,
        ],
        LEVEL,
        None,
        [
            model(
                {"text": "Hm", "thoughtSignature": "UzA="},
                called("c1", "f", "UzE="),
                called("c2", "g"),
            ),
            user(returned("c1", "f", sum=3), returned("c2", "g", output="late")),
        ],
    ),
    "what another model called": (
        [
            message("assistant", "Hm", tool_calls=TWO_CALLS),
            *RESULTS,
            message("assistant", None, tool_calls=[call("c3", "sum", "{}", "UzM=")]),
        ],
        LEVEL,
        None,
        [
            model({"text": "Hm"}, called("c1", "sum", SKIPPED, a=1), called("c2", "now")),
            user(returned("c1", "sum", sum=3), returned("c2", "now", output="late")),
            model(called("c3", "sum", "UzM=")),
        ],
    ),
    "signatures that are none": (
        [*HELLO, message("assistant", "Yes", extra_content={"google": {"thought_signature": 7}})],
        LEVEL,
        None,
        [user({"text": "Hello"}), model({"text": "Yes"})],
    ),
    "types of images": (
        [
            message(
                "user",
                [
                    image("data:image/jpg;base64,AA=="),
                    image("DATA:IMAGE/PNG;BASE64,AA=="),
                    image("data:image/pjpeg;name=a.jpg;base64,AA=="),
                    {"type": "file", "file": {"file_data": "data:image/jpg;base64,AA=="}},
                ],
            )
        ],
        BUDGET,
        None,
        [
            user(
                *(
                    {"inlineData": {"mimeType": kind, "data": "AA=="}}
                    for kind in ("image/jpeg", "image/png", "image/jpeg", "image/jpeg")
                )
            )
        ],
    ),
    "an image of an earlier answer": (
        [
            *HELLO,
            message("assistant", "Here", images=[image("data:image/png;base64,iVBORw0=")]),
            *HELLO,
        ],
        BUDGET,
        None,
        [user({"text": "Hello"}), model({"text": "Here"}, PIXELS), user({"text": "Hello"})],
    ),
    "an empty message in the middle": (
        [*HELLO, message("assistant", "Yes"), message("user", ""), message("user", "Ah")],
        BUDGET,
        None,
        [user({"text": "Hello"}), model({"text": "Yes"}), user({"text": "Ah"})],
    ),
    "an empty message at the end of the user's": (
        [*HELLO, message("user", "")],
        BUDGET,
        None,
        [user({"text": "Hello"})],
    ),
    "a refusal beside text": (
        [*HELLO, message("assistant", "Hm.", refusal="No."), *HELLO],
        BUDGET,
        None,
        [user({"text": "Hello"}), model({"text": "Hm."}, {"text": "No."}), user({"text": "Hello"})],
    ),
    "a refusal of its own": (
        [*HELLO, message("assistant", [{"type": "refusal", "refusal": "No."}])],
        BUDGET,
        None,
        [user({"text": "Hello"}), model({"text": "No."})],
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_become_turns_of_parts(name: str) -> None:
    messages, which, system, turns = MESSAGES[name]
    sent = encoded({"messages": messages}, which)
    assert sent.get("systemInstruction") == (system and {"parts": system})
    assert sent["contents"] == turns


def seen(**part: Any) -> list[dict[str, Any]]:
    return [message("user", [part])]


def asked(arguments: Any) -> list[dict[str, Any]]:
    return [message("assistant", None, tool_calls=[call("c", "sum", arguments)])]


#: Messages without content, and the member that is named.
EMPTY: dict[str, tuple[list[dict[str, Any]], str]] = {
    "an empty message": ([message("user", text(""))], "messages[0].content"),
    "an empty message behind the system's": (
        [message("system", "a"), message("user", None)],
        "messages[1].content",
    ),
    "an empty message behind an answer": (
        [*HELLO, message("assistant", "Yes"), message("user", "")],
        "messages[2].content",
    ),
    "an empty answer alone": ([message("assistant", "")], "messages"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_messages_without_content_are_named(name: str) -> None:
    messages, param = EMPTY[name]
    with pytest.raises(ApiError) as caught:
        encoded({"messages": messages})
    error = caught.value
    assert (error.status, error.param, error.code) == (400, param, "unsupported_parameter")


# messages, the code of what is wrong with them
REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "an image of the system's": (
        [message("system", [image("data:image/png;base64,AA==")]), *HELLO],
        "unsupported_parameter",
    ),
    "an earlier answer in audio": (
        [*HELLO, message("assistant", None, audio={"id": "a1"})],
        "unsupported_parameter",
    ),
    "a call of the old form": (
        [*HELLO, message("assistant", None, function_call={"name": "f"})],
        "unsupported_parameter",
    ),
    "sound without data": (
        seen(type="input_audio", input_audio={"format": "wav"}),
        "invalid_request",
    ),
    "a call without a name": (
        [message("assistant", None, tool_calls=[{"id": "c", "function": {}}])],
        "invalid_request",
    ),
    "content of another kind": (seen(type="video_url", video_url={}), "unsupported_parameter"),
    "a function's message": ([message("function", "3", name="f")], "unsupported_parameter"),
    "an image that a tool returns": (
        [*asked("{}"), message("tool", [image("https://example.com/a")], tool_call_id="c")],
        "unsupported_parameter",
    ),
    "a call of another kind": (
        [message("assistant", None, tool_calls=[{"id": "c", "custom": {}}])],
        "unsupported_parameter",
    ),
    "a result without a call": ([message("tool", "3", tool_call_id="c")], "invalid_request"),
    "a file that is elsewhere": (seen(type="file", file={"file_id": "f1"}), "invalid_request"),
    "an image that is none": (seen(**image("a.png")), "invalid_request"),
    "an image on a plain line": (seen(**image("http://example.com/a")), "invalid_request"),
    "an image that is not base64": (seen(**image("data:image/png,xyz")), "invalid_request"),
    "an image that is a number": (seen(**image(7)), "invalid_request"),
    "arguments that are no JSON": (asked("{"), "invalid_request"),
    "arguments that are a list": (asked("[1]"), "invalid_request"),
    "arguments that are another list": (asked([1]), "invalid_request"),
    "deep arguments": (asked("[" * 99_999), "invalid_request"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused(name: str) -> None:
    messages, code = REFUSED[name]
    with pytest.raises(ApiError) as caught:
        encoded({"messages": messages})
    error = caught.value
    assert not isinstance(error, UpstreamError)
    assert (error.status, error.param, error.code) == (400, "messages", code)


def test_numbers_and_letters_of_arguments_are_not_changed() -> None:
    arguments = {"big": 12345678901234567890, "exact": 1.5, "text": "Žluťoučký\u2028"}
    sent = encoded({"messages": asked(json.dumps(arguments))})
    assert sent["contents"][0]["parts"][0]["functionCall"]["args"] == arguments
