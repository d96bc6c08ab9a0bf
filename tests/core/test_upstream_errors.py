"""What is an error among the things that upstreams send, and what bodies without JSON mean."""

import json
import random
from typing import Any

import pytest

from legato.core.errors import ApiError, UpstreamError
from legato.core.upstream_errors import (
    event_failure,
    in_band,
    is_failure,
    no_stream,
    refusal,
    unreadable,
)
from tests.core.test_error_envelopes import anything

CHOICE = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}

# What some servers have in each good answer, and what is no answer, nor an error.
HARMLESS: dict[str, Any] = {
    "error null": {"choices": [CHOICE], "error": None},
    "error false": {"choices": [CHOICE], "error": False},
    "error empty": {"choices": [CHOICE], "error": {}},
    "code 0": {"choices": [CHOICE], "code": 0, "message": "Success", "sid": "x"},
    "code 200": {"code": 200, "msg": "ok", "data": {}},
    "another code of success": {"code": 10000, "message": "Success.", "data": {}},
    "base_resp": {"choices": [CHOICE], "base_resp": {"status_code": 0, "status_msg": ""}},
    "base_resp alone": {"choices": None, "base_resp": {"status_code": 0, "status_msg": "success"}},
    "base_resp null": {"choices": [CHOICE], "base_resp": None},
    "success": {"success": True, "message": "ready", "choices": []},
    "errors empty": {"success": True, "errors": [], "messages": [], "result": {"response": "x"}},
    "detail null": {"choices": [], "detail": None},
    "choice's error null": {"choices": [CHOICE | {"error": None}]},
    "the usage": {"choices": [], "usage": {"total_tokens": 3}},
    "nothing": {},
    "ping": {"type": "ping"},
    "a state": {"status": "loading", "message": "Please wait."},
    "a state of the queue": {"type": "queue", "message": "Position 3"},
    "Ollama": {"model": "m", "message": {"role": "assistant", "content": "x"}, "done": False},
    "Ollama's load": {"model": "m", "done": True, "done_reason": "load"},
    "Gemini": {"candidates": [{"content": {"parts": [{"text": "x"}]}}]},
    "Anthropic": {"type": "message", "content": [], "stop_reason": None},
    "a list": [{"candidates": []}],
    "a text": "x",
    "null": None,
    "a number": 7,
    "lists": [[[{"error": "x"}]]],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_error(name: str) -> None:
    value = HARMLESS[name]
    assert not is_failure(value)
    assert event_failure(b"", json.dumps(value).encode()) is None
    error = no_stream(json.dumps(value).encode())
    assert "not a stream" in error.message


def test_a_sentence_alone_is_a_failure_that_counts_before_the_finish() -> None:
    """Nothing says that it is an error: its code is that of an event that cannot be read, which
    fails no answer that has its finish."""
    for fields in (
        {"message": "Internal server error"},
        {"Message": "Endpoint request timed out", "id": "x"},
        {"msg": "worker died", "request_id": "r"},
    ):
        body = json.dumps(fields).encode()
        error = event_failure(b"", body)
        assert isinstance(error, UpstreamError)
        assert (error.status, error.code) == (502, "upstream_malformed")
        assert error.message == next(iter(fields.values()))
        assert no_stream(body).message == error.message
    assert event_failure(b"", b'{"message":"hello","x":1}') is None
    too_long = event_failure(b"", b'{"message":"prompt is too long: 9 tokens > 8 maximum"}')
    assert too_long is not None
    assert (too_long.status, too_long.code) == (400, "context_length_exceeded")


# name and data of an event, the words of its error
EVENTS: dict[str, tuple[bytes, bytes, str]] = {
    "named, with a sentence": (b"error", b"worker died", "worker died"),
    "named, with a JSON string": (b"error", b'"worker died"', "worker died"),
    "named, with an object": (b"error", b'{"message":"worker died"}', "worker died"),
    "named, with an unknown object": (b"error", b'{"x":"worker died"}', "worker died"),
    "named, with null": (b"error", b"null", "gave no reason"),
    "named, empty": (b"error", b"", "gave no reason"),
    "named, with a page": (b"error", b"<html>", "gave no reason"),
    "named, with half of some JSON": (b"error", b'{"error":', "gave no reason"),
    "JSON in a string": (b"", b'"{\\"error\\":\\"worker died\\"}"', "worker died"),
    "a list": (b"", b'[{"error":"worker died"}]', "worker died"),
    "NaN beside it": (b"", b'{"error":"worker died","t":NaN}', "worker died"),
    "half a surrogate pair": (b"", b'{"error":"\\ud83d worker died"}', "\ufffd worker died"),
}


@pytest.mark.parametrize("name", EVENTS)
def test_events_that_are_errors(name: str) -> None:
    event, data, words = EVENTS[name]
    error = event_failure(event, data)
    assert error is not None
    assert (error.status, error.code) == (502, "upstream_error")
    assert words in error.message
    assert unreadable(event, data, ValueError("x")).message == error.message


@pytest.mark.parametrize("data", [b"worker died", b"", b'"x"', b"[1]", b"{", b"\xff", b"null"])
def test_events_that_are_nothing(data: bytes) -> None:
    assert event_failure(b"", data) is None
    error = unreadable(b"", data, ValueError("No chunk."))
    assert error.code == "upstream_malformed"
    assert "No chunk." in error.message


# status, body, status, code, words
BODIES: dict[str, tuple[int, bytes, int, str, str]] = {
    "a sentence": (500, b"upstream connect error\n", 502, "upstream_500", "upstream connect error"),
    "a sentence, of the caller": (400, b"n is odd", 400, "invalid_request", "n is odd"),
    "a sentence that is too long a prompt": (
        400,
        b"prompt is too long: 9 tokens > 8 maximum",
        400,
        "context_length_exceeded",
        "prompt is too long",
    ),
    "a page": (502, b"<html><h1>502</h1></html>", 502, "upstream_502", "gave no reason"),
    "no text": (500, b"\x00\x01\xff", 502, "upstream_500", "gave no reason"),
    "empty": (500, b"", 502, "upstream_500", "gave no reason"),
    "a byte order mark": (400, b'\xef\xbb\xbf{"error":"n is odd"}', 400, "invalid_request", "odd"),
    "an event": (
        400,
        b"id:1\nevent:error\n:HTTP_STATUS/400\n"
        b'data:{"code":"InvalidParameter","message":"n is odd"}\n\n',
        400,
        "InvalidParameter",
        "n is odd",
    ),
    "an event without its end": (
        429,
        b'data: {"error":"Slow down."}',
        429,
        "upstream_rate_limited",
        "Slow down.",
    ),
    "lines of JSON": (
        400,
        b'{"error":"n is odd"}\n{"done":true}\n',
        400,
        "invalid_request",
        "n is odd",
    ),
    "a JSON string": (400, b'"n is odd"', 400, "invalid_request", "n is odd"),
    "a rate with a 400": (
        400,
        b'{"code":"Throttling.RateQuota","message":"Slow down."}',
        429,
        "upstream_rate_limited",
        "Slow down.",
    ),
    "no such model with a 400": (
        400,
        b'{"error":{"message":"The model `x` does not exist.","code":"model_not_found"}}',
        502,
        "upstream_404",
        "does not exist",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_of_error_statuses(name: str) -> None:
    status, body, wanted, code, words = BODIES[name]
    error = refusal(status, body)
    assert (error.status, error.code) == (wanted, code)
    assert words in error.message


def test_a_200_with_lines_of_which_one_is_an_error() -> None:
    error = no_stream(b'{"error":{"message":"worker died","code":503}}\n{"done":true}\n')
    assert (error.status, error.message) == (503, "worker died")


def test_the_wait_in_a_header_counts_more_than_that_in_a_body() -> None:
    body = b'{"error":{"message":"Please try again in 20s."}}'
    assert refusal(429, body).retry_after == 20.0
    assert refusal(429, body, 3.0).retry_after == 3.0
    assert in_band(json.loads(body) | {"status": 429}).retry_after == 20.0


def test_whatever_is_sent_becomes_an_error_that_a_client_can_read() -> None:
    draw = random.Random(3)
    for _ in range(2_000):
        value = anything(draw)
        body = json.dumps(value).encode()
        statuses = (200, 400, 401, 404, 429, 500)
        errors: list[ApiError | None] = [refusal(each, body) for each in statuses]
        errors += [in_band(value), no_stream(body), event_failure(b"error", body)]
        errors.append(event_failure(b"", body))
        for error in errors:
            if error is not None:
                assert json.loads(error.as_json())["error"]["message"]
                assert 400 <= error.status < 600
                assert len(error.message) < 600
