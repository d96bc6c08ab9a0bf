"""Gemini's dialect: errors in a stream, and what a refusal means."""

import json
from typing import Any

import pytest

from legato.core.errors import ApiError, UpstreamError
from legato.dialects.gemini import Reader, no_stream, refusal

WAIT = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}
BAD_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


def problem(code: Any, word: Any, message: Any = "no", *details: Any) -> dict[str, Any]:
    result = {"code": code, "message": message, "status": word, "details": list(details)}
    return {"error": {name: each for name, each in result.items() if each not in (None, [])}}


# what is sent, status, code, message, seconds to wait
ERRORS: dict[str, tuple[Any, int, str, str, float | None]] = {
    "overloaded": (problem(503, "UNAVAILABLE", "Overloaded"), 503, "unavailable", "Over", None),
    "the rate": (
        problem(429, "RESOURCE_EXHAUSTED", "Slow", {}, WAIT),
        429,
        "resource_exhausted",
        "Slow",
        34.07,
    ),
    "a word alone": (problem(None, "DEADLINE_EXCEEDED"), 504, "deadline_exceeded", "no", None),
    "a number alone": (problem(429, None), 429, "upstream_error", "no", None),
    "inside": (problem(500, "INTERNAL"), 502, "internal", "no", None),
    "our key": (problem(401, "UNAUTHENTICATED"), 502, "upstream_401", "our key", None),
    "a list": ([problem(503, "UNAVAILABLE")], 503, "unavailable", "no", None),
    "text": ({"error": "no"}, 502, "upstream_error", "no", None),
    "nothing": ({"error": {}}, 502, "upstream_error", "gave no reason", None),
    "odd": (problem("7", 7, ["x"], 7, "x"), 502, "7", "x", None),
    "a long message": ({"error": "x" * 9000}, 502, "upstream_error", "x" * 500, None),
    "beside an answer": (
        {"candidates": [], "error": {"message": "no"}},
        502,
        "upstream_error",
        "no",
        None,
    ),
    "beside nonsense": ({"candidates": 7, "error": "no"}, 502, "upstream_error", "no", None),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_in_the_stream(name: str) -> None:
    fields, status, code, message, wait = ERRORS[name]
    with pytest.raises(UpstreamError) as caught:
        Reader().read(b"", json.dumps(fields).encode())
    error = caught.value
    assert (error.status, error.code, error.retry_after) == (status, code, wait)
    assert message in error.message
    assert len(error.message) <= 500
    assert no_stream(json.dumps(fields).encode()).code == code


TOO_LONG = "The input token count (1048577) exceeds the maximum number of tokens allowed (1048575)."

# status, what is sent, our status, code, is it the upstream's fault
REFUSALS: dict[str, tuple[int, Any, int, str, bool]] = {
    "the caller's": (400, problem(400, "INVALID_ARGUMENT"), 400, "invalid_request", False),
    "a long prompt": (
        400,
        problem(400, "INVALID_ARGUMENT", TOO_LONG),
        400,
        "context_length_exceeded",
        False,
    ),
    "our key": (
        400,
        problem(400, "INVALID_ARGUMENT", "API key not valid.", BAD_KEY),
        502,
        "upstream_401",
        True,
    ),
    "our country": (400, problem(400, "FAILED_PRECONDITION"), 502, "upstream_403", True),
    "our rights": (403, problem(403, "PERMISSION_DENIED"), 502, "upstream_403", True),
    "no model": (404, problem(404, "NOT_FOUND"), 502, "upstream_404", True),
    "the rate": (429, [problem(429, "RESOURCE_EXHAUSTED")], 429, "upstream_rate_limited", True),
    "inside": (500, problem(500, "INTERNAL"), 502, "upstream_500", True),
    "overloaded": (503, problem(503, "UNAVAILABLE"), 503, "upstream_503", True),
    "too slow": (504, problem(504, "DEADLINE_EXCEEDED"), 504, "upstream_504", True),
    "a number that does not fit": (400, problem(503, "UNAVAILABLE"), 400, "invalid_request", False),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    status, fields, ours, code, theirs = REFUSALS[name]
    error = refusal(status, json.dumps(fields).encode(), 7.0)
    assert (error.status, error.code) == (ours, code)
    assert isinstance(error, UpstreamError) == theirs
    assert error.retry_after == (7.0 if theirs else None)
    result = fields[0] if isinstance(fields, list) else fields
    if code in ("upstream_401", "upstream_403"):  # our account is ours to know
        assert error.message.endswith(f"({code[-3:]}).")
    else:
        assert result["error"]["message"] in error.message


@pytest.mark.parametrize(
    ("header", "delay", "wanted"),
    [
        (None, "34.07s", 34.07),
        (None, "0s", None),
        (7.0, "34s", 7.0),
        (None, "soon", None),
        (None, "-3s", None),
        (None, "infs", None),
        (None, "9" * 5000 + "s", None),
        (None, 34, None),
        (None, None, None),
    ],
)
def test_how_long_to_wait(header: float | None, delay: Any, wanted: float | None) -> None:
    fields = problem(429, "RESOURCE_EXHAUSTED", "Slow", WAIT | {"retryDelay": delay})
    assert refusal(429, json.dumps(fields).encode(), header).retry_after == wanted


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"[7]", b"7", b'{"error":{}}', b"\xff", b"[" * 100_000]
)
def test_a_refusal_that_says_nothing(body: bytes) -> None:
    error = refusal(500, body)
    assert error.code == "upstream_500"
    assert "gave no reason" in error.message


@pytest.mark.parametrize("body", [b'{"candidates":[]}', b"<html>", b"", b"[]", b"[" * 100_000])
def test_a_200_without_a_stream(body: bytes) -> None:
    error: ApiError = no_stream(body)
    assert (error.status, error.code) == (502, "upstream_error")
    assert "not a stream" in error.message
