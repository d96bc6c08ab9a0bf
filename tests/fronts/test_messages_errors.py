"""Errors in Anthropic's words: status, type, message, and what is passed on as it came."""

import json
from typing import Any

import pytest

from legato.core.errors import (
    ApiError,
    UpstreamError,
    bad_gateway,
    gateway_timeout,
    internal,
    invalid,
    service_unavailable,
)
from legato.dialects import anthropic
from legato.fronts.messages import MESSAGES
from legato.fronts.messages_errors import stream_error

ERRORS: dict[str, tuple[ApiError, int, str, str]] = {
    "bad request": (invalid("x"), 400, "invalid_request_error", "invalid_request_error"),
    "no key": (ApiError(401, "k", "x"), 401, "authentication_error", "authentication_error"),
    "not allowed": (ApiError(403, "k", "x"), 403, "permission_error", "permission_error"),
    "no model": (ApiError(404, "k", "x"), 404, "not_found_error", "not_found_error"),
    "conflict": (ApiError(409, "k", "x"), 409, "invalid_request_error", "invalid_request_error"),
    "too large": (ApiError(413, "k", "x"), 413, "request_too_large", "request_too_large"),
    "too many": (ApiError(429, "k", "x"), 429, "rate_limit_error", "overloaded_error"),
    "spent": (ApiError(429, "insufficient_quota", "x"), 429, "billing_error", "billing_error"),
    "bug": (internal(), 500, "api_error", "api_error"),
    "cut": (bad_gateway("x", code="upstream_cut"), 529, "overloaded_error", "overloaded_error"),
    "our key": (bad_gateway("x", code="upstream_401"), 500, "api_error", "api_error"),
    "our account": (bad_gateway("x", code="upstream_quota"), 500, "api_error", "api_error"),
    "busy": (service_unavailable("x"), 529, "overloaded_error", "overloaded_error"),
    "slow": (gateway_timeout("x"), 504, "timeout_error", "overloaded_error"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_status_and_type(name: str) -> None:
    error, status, kind, in_stream = ERRORS[name]
    refusal = MESSAGES.refusal(error, "req_1")
    assert refusal.status == status
    message = error.public_message
    assert json.loads(refusal.body) == {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": "req_1",
    }
    retries = dict(refusal.headers).get(b"x-should-retry")
    assert retries == (b"false" if kind == "billing_error" else None)
    assert json.loads(stream_error(error)) == {
        "type": "error",
        "error": {"type": in_stream, "message": message},
    }
    assert message.endswith("Try again later.") is error.is_curable


def test_without_a_request() -> None:
    assert "request_id" not in json.loads(MESSAGES.refusal(invalid("x"), "").body)


TOO_LONG: list[tuple[str, str]] = [
    (
        "This model's maximum context length is 128000 tokens. However, your messages resulted in"
        " 130,001 tokens.",
        "130001 tokens > 128000 maximum",
    ),
    (
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"
        " (4500 in the messages, 500 in the completion).",
        "5000 tokens > 4096 maximum",
    ),
    (
        "request (5000 tokens) exceeds the available context size (4096 tokens), try to raise it",
        "5000 tokens > 4096 maximum",
    ),
    (
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048575).",
        "1200000 tokens > 1048575 maximum",
    ),
    (
        "prompt is too long: 210000 tokens > 200000 maximum",
        "210000 tokens > 200000 maximum",
    ),
    (
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease",
        "210000 tokens > 200000 maximum",
    ),
    ("The model gpt-4-0613 takes 8192 tokens at most.", "the maximum is 8192 tokens"),
]


@pytest.mark.parametrize(("words", "numbers"), TOO_LONG)
def test_a_prompt_that_is_too_long(words: str, numbers: str) -> None:
    error = ApiError(400, "context_length_exceeded", words)
    body = json.loads(MESSAGES.refusal(error, "").body)
    expected = f"prompt is too long: {numbers}"
    assert body["error"] == {"type": "invalid_request_error", "message": expected}


def test_a_prompt_that_is_too_long_without_numbers() -> None:
    error = ApiError(400, "context_length_exceeded", "too long for gpt-4o, 2024-08-06")
    message = json.loads(MESSAGES.refusal(error, "").body)["error"]["message"]
    assert message == "prompt is too long for this model"


def from_anthropic(status: int, kind: str, message: str) -> tuple[ApiError, bytes]:
    body = (
        b'{ "type":"error","error":%b, "request_id":"req_theirs"}'
        % json.dumps({"type": kind, "message": message}).encode()
    )
    return anthropic.refusal(status, body, None), body


PASSED: dict[str, tuple[int, str, str]] = {
    "bad request": (400, "invalid_request_error", "messages.0: no"),
    "too long": (400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
    "too large": (413, "request_too_large", "Request exceeds the maximum size"),
    "no model": (404, "not_found_error", "model: x"),
    "too many": (429, "rate_limit_error", "This request would exceed the rate limit"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "bug": (500, "api_error", "Internal server error"),
}


@pytest.mark.parametrize("name", PASSED)
def test_an_upstreams_own_error_is_passed_on(name: str) -> None:
    error, body = from_anthropic(*PASSED[name])
    refusal = MESSAGES.refusal(error, "req_1")
    assert (refusal.status, refusal.body) == (PASSED[name][0], body)


HIDDEN: dict[str, tuple[int, str, str]] = {
    "our key": (401, "authentication_error", "invalid x-api-key sk-ant-1"),
    "our bill": (402, "billing_error", "pay"),
    "our rights": (403, "permission_error", "workspace w"),
    "our credit": (400, "invalid_request_error", "Your credit balance is too low to access the"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_it_says_of_our_account_is_not(name: str) -> None:
    error, _ = from_anthropic(*HIDDEN[name])
    assert isinstance(error, UpstreamError)
    refusal = MESSAGES.refusal(error, "req_1")
    assert refusal.status == 500
    assert HIDDEN[name][2].encode() not in refusal.body
    assert json.loads(refusal.body)["error"]["type"] == "api_error"


def test_other_words_for_a_long_prompt_are_not_passed_on() -> None:
    error, _ = from_anthropic(
        400, "invalid_request_error", "the request exceeds the available context size (8 tokens)"
    )
    message: Any = json.loads(MESSAGES.refusal(error, "").body)["error"]["message"]
    assert message == "prompt is too long: the maximum is 8 tokens"
