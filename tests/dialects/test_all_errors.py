"""Errors of upstreams: each dialect takes the envelopes of all, wherever an upstream puts them."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from legato import dialects
from tests.support.pipeline import Got, Sent, letters, play, ways
from tests.support.stream_order import Heard
from tests.support.transcripts import anthropic, openai_responses

WORDS = "worker died"
RAW = json.dumps({"error": {"message": WORDS}})
REPR = str({"error": {"message": WORDS}})

ENVELOPES: dict[str, Any] = {
    "an object": {"error": {"message": WORDS, "type": "server_error"}},
    "a text": {"error": WORDS},
    "a list": [{"error": {"message": WORDS}}],
    "a list inside": {"error": [{"message": WORDS}]},
    "errors": {"success": False, "errors": [{"code": 7003, "message": WORDS}], "result": None},
    "nested JSON": {"error": {"message": "Provider returned error", "metadata": {"raw": RAW}}},
    "JSON in a string": RAW,
    "detail": {"detail": WORDS},
    "details of a validation": {"detail": [{"loc": ["body", "n"], "msg": WORDS, "type": "x"}]},
    "base_resp": {"choices": None, "base_resp": {"status_code": 1000, "status_msg": WORDS}},
    "code and message": {"code": "1301", "message": WORDS},
    "code and message beside choices": {"choices": [], "code": 1301, "msg": WORDS},
    "no success": {"success": False, "message": WORDS, "data": None},
    "object error": {"object": "error", "message": WORDS, "type": "E", "code": 500},
    "type error": {"type": "error", "message": WORDS},
    "another type": {"type": "InternalServerError", "message": WORDS},
    "Anthropic": {"type": "error", "error": {"type": "api_error", "message": WORDS}},
    "Google": {"error": {"code": 500, "message": WORDS, "status": "INTERNAL"}},
    "Spring": {"status": 500, "error": "Internal Server Error", "message": WORDS},
    "AWS": {"__type": "InternalFailure", "message": WORDS},
    "in a choice": {"choices": [{"index": 0, "delta": {}, "error": {"message": WORDS}}]},
    "a Python repr": {
        "error": {"message": f"Error code: 500 - {{'error': {{'message': '{WORDS}'}}}}"}
    },
    "a sentence": {"message": WORDS},
}


def sse(value: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


def line(value: Any, name: str = "") -> bytes:
    return json.dumps(value).encode() + b"\n"


# How each dialect frames an event, and an answer that begins with `Hello`.
FRAMES: dict[str, tuple[Callable[..., bytes], bytes]] = {
    "openai": (sse, sse({"choices": [{"index": 0, "delta": {"content": "Hello"}}]})),
    "anthropic": (
        sse,
        anthropic.start(3)
        + anthropic.event(
            "content_block_start", index=0, content_block={"type": "text", "text": ""}
        )
        + anthropic.event(
            "content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"}
        ),
    ),
    "gemini": (sse, sse({"candidates": [{"content": {"parts": [{"text": "Hello"}]}}]})),
    "ollama": (line, line({"message": {"role": "assistant", "content": "Hello"}, "done": False})),
    "openai-responses": (
        sse,
        openai_responses.START + openai_responses.opened(0) + openai_responses.word(0, "Hello"),
    ),
}
EVENTS = "text/event-stream"
KINDS = dict.fromkeys(FRAMES, EVENTS) | {"ollama": "application/x-ndjson"}


def error_of(got: Got, text: str = "") -> dict[str, Any]:
    """The error of an answer, which is the same in the stream and in the fold."""
    heard = Heard(got.frames, "last")
    assert heard.text() == text
    assert heard.error is not None
    assert got.answer is not None
    assert json.loads(got.answer)["error"] == heard.error
    return heard.error


def check(error: dict[str, Any]) -> None:
    assert WORDS in error["message"]
    assert error["type"] == "upstream_error"
    assert error["message"].endswith(". Try again later.")
    for mark in ("{'", "['", '{"', "None", "Provider returned"):
        assert mark not in error["message"]


@pytest.fixture(autouse=True)
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)


every_envelope = pytest.mark.parametrize("envelope", ENVELOPES)
every_dialect = pytest.mark.parametrize("name", dialects.NAMES)


@every_dialect
@every_envelope
@pytest.mark.parametrize("begun", [False, True], ids=["first", "in mid-stream"])
def test_as_an_event(name: str, envelope: str, begun: bool) -> None:
    for event in ("", "error"):
        check_event(name, envelope, event, begun)


def check_event(name: str, envelope: str, event: str, begun: bool) -> None:
    frame, hello = FRAMES[name]
    body = (hello if begun else b"") + frame(ENVELOPES[envelope], event)
    if name != "ollama":
        body += b"data: [DONE]\n\n" if name == "openai" else b""
    sent = Sent(body, headers={"content-type": KINDS[name]}, dialect=dialects.named(name))
    whole = play(sent, [body])
    check(error_of(whole, "Hello" if begun else ""))
    assert play(sent, letters(body)) == whole
    for pieces in ways(body, 12, (name, envelope)):
        assert play(sent, pieces) == whole


# Under another content type lines of JSON are read as such, and a text is no body of events.
WHOLE = [(name, envelope, "application/json") for name in dialects.NAMES for envelope in ENVELOPES]
WHOLE += [
    (name, envelope, kind)
    for name in dialects.NAMES
    for envelope, value in ENVELOPES.items()
    for kind in (EVENTS, "text/plain")
    if name != "ollama" and not isinstance(value, str)
]


@pytest.mark.parametrize(("name", "envelope", "kind"), WHOLE)
def test_as_the_whole_body_of_a_200(name: str, envelope: str, kind: str) -> None:
    body = json.dumps(ENVELOPES[envelope], indent=1).encode()
    sent = Sent(body, headers={"content-type": kind}, dialect=dialects.named(name))
    whole = play(sent, [body])
    check(error_of(whole))
    assert play(sent, letters(body)) == whole
    for pieces in ways(body, 12, (name, envelope)):
        assert play(sent, pieces) == whole


@every_dialect
@every_envelope
def test_as_the_body_of_an_error_status(name: str, envelope: str) -> None:
    body = json.dumps(ENVELOPES[envelope]).encode()
    for status in (400, 401, 403, 422, 429, 500, 503):
        error = dialects.named(name).refusal(status, body, None)
        public = error.as_object()["error"]["message"]
        assert (WORDS in public) == (status not in (401, 403)), "our account is ours to know"
        assert error.status == {400: 400, 422: 400, 429: 429, 503: 503}.get(status, 502)
        assert public.endswith("Try again later.") == (status in (429, 500, 503)), status
        assert "{'" not in public
        assert "['" not in public


@every_dialect
@every_envelope
def test_an_error_in_the_middle_of_good_chunks_is_no_end(name: str, envelope: str) -> None:
    """Whatever follows it."""
    frame, hello = FRAMES[name]
    body = hello + frame(ENVELOPES[envelope]) + hello
    sent = Sent(body, headers={"content-type": KINDS[name]}, dialect=dialects.named(name))
    check(error_of(play(sent, [body]), "Hello"))


GOOD: dict[str, dict[str, Any]] = {
    "error null": {"error": None},
    "error empty": {"error": ""},
    "base_resp": {"base_resp": {"status_code": 0, "status_msg": ""}},
    "success": {"success": True},
    "code": {"code": 0, "message": "Success"},
    "code 200": {"code": "200", "msg": "ok"},
    "all": {"error": None, "base_resp": {"status_code": 0}, "success": True, "code": 0},
}


@pytest.mark.parametrize("members", GOOD)
def test_what_servers_put_into_good_chunks_fails_nothing(members: str) -> None:
    more = GOOD[members]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"index": 0, "delta": {"content": "Hello"}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}},
    ]
    body = b"".join([sse(each | more) for each in chunks]) + b"data: [DONE]\n\n"
    sent = Sent(body, headers={"content-type": EVENTS})
    whole = play(sent, [body])
    heard = Heard(whole.frames, "last")
    assert heard.done, heard.error
    assert heard.text() == "Hello"
    assert play(sent, letters(body)) == whole
    answer = {"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]}
    body = json.dumps(answer | more).encode()
    whole = play(Sent(body, headers={"content-type": "application/json"}), [body])
    assert Heard(whole.frames, "last").done


@pytest.mark.parametrize(
    ("value", "fails"),
    [
        ({"error": {"message": WORDS}}, True),
        ({"base_resp": {"status_code": 1000, "status_msg": WORDS}}, True),
        ({"detail": WORDS}, True),
        ({"message": WORDS}, False),
        (WORDS, False),
        ({"x": 1}, False),
    ],
)
def test_behind_the_finish_only_an_error_fails_an_answer(value: Any, fails: bool) -> None:
    finish = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    body = FRAMES["openai"][1] + finish + sse(value) + b"data: [DONE]\n\n"
    heard = Heard(play(Sent(body, headers={"content-type": EVENTS}), [body]).frames, "last")
    assert heard.done is not fails
    if heard.error is not None:
        check(heard.error)


# What concerns our account is told without the upstream's words, in each place.
KEY = "sk-proj-abcd********WXYZ"
ACCOUNT: dict[str, tuple[Any, str]] = {
    "a key": ({"error": {"message": f"Incorrect API key provided: {KEY}."}}, "upstream_401"),
    "a key by its type": (
        {"type": "error", "error": {"type": "authentication_error", "message": KEY}},
        "upstream_401",
    ),
    "a key in a list": (
        [{"error": {"code": 400, "message": KEY, "details": [{"reason": "API_KEY_INVALID"}]}}],
        "upstream_401",
    ),
    "a key inside": (
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {"raw": json.dumps({"error": {"code": 401, "message": KEY}})},
            }
        },
        "upstream_401",
    ),
    "MiniMax's key": (
        {"base_resp": {"status_code": 1004, "status_msg": f"login fail: {KEY}"}},
        "upstream_401",
    ),
    "a bill": ({"error": {"type": "billing_error", "message": KEY}}, "upstream_402"),
    "rights": ({"error": {"status": "PERMISSION_DENIED", "message": KEY}}, "upstream_403"),
    "a balance": (
        {"base_resp": {"status_code": 1008, "status_msg": f"insufficient balance of {KEY}"}},
        "upstream_quota",
    ),
}


@every_dialect
@pytest.mark.parametrize("case", ACCOUNT)
def test_of_our_account_no_words_are_passed_on(name: str, case: str) -> None:
    value, code = ACCOUNT[case]
    data, dialect = json.dumps(value).encode(), dialects.named(name)
    frame, hello = FRAMES[name]
    bodies = [frame(value), hello + frame(value)]
    headers = {"content-type": KINDS[name]}
    errors = [dialect.refusal(400, data, None).as_object()["error"]]
    for body in bodies:
        got = play(Sent(body, headers=headers, dialect=dialect), [body])
        errors.append(json.loads(got.answer or b"")["error"])
    got = play(Sent(data, headers={"content-type": "application/json"}, dialect=dialect), [data])
    errors.append(json.loads(got.answer or b"")["error"])
    for error in errors:
        assert error["code"] == code
        assert KEY not in error["message"]
        assert not error["message"].endswith("Try again later.")
