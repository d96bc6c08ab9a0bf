"""Errors of the Responses front, with a status and behind the first event."""

import json

import pytest

from legato.core.errors import ApiError, UpstreamError, bad_gateway, gateway_timeout, invalid
from legato.fronts.responses import RESPONSES
from legato.fronts.responses_errors import failure

FAILURES: dict[str, tuple[ApiError, str, str]] = {
    "cut": (
        bad_gateway("The upstream closed the connection.", code="upstream_cut"),
        *("server_error", "The upstream closed the connection. Try again later."),
    ),
    "stalled": (
        gateway_timeout("No progress.", code="upstream_stalled"),
        *("server_error", "No progress. Try again later."),
    ),
    "its credential": (
        UpstreamError(502, "upstream_401", "The upstream does not take our key."),
        *("server_error", "The upstream does not take our key."),
    ),
    "too long": (
        ApiError(400, "context_length_exceeded", "Too long."),
        *("context_length_exceeded", "Too long."),
    ),
    "too long, in mid-stream": (
        UpstreamError(502, "context_length_exceeded", "Too long."),
        *("context_length_exceeded", "Too long."),
    ),
    "a spent budget": (
        ApiError(429, "insufficient_quota", "Spent."),
        *("insufficient_quota", "Spent."),
    ),
    "a rate limit": (
        UpstreamError(429, "rate_limit_error", "Slow down", retry_after=1.5),
        *("rate_limit_exceeded", "Slow down. Please try again in 1.5s."),
    ),
    "a rate limit of less than nothing": (
        UpstreamError(429, "rate_limit_error", "Slow down!", retry_after=0.0),
        *("rate_limit_exceeded", "Slow down! Please try again in 0.1s."),
    ),
    "a rate limit for a day": (
        UpstreamError(429, "rate_limit_error", "Slow down.", retry_after=86_400.0),
        *("rate_limit_exceeded", "Slow down. Please try again in 86400s."),
    ),
    "a rate limit that is not to be cut short": (
        UpstreamError(429, "rate_limit_error", "Slow down.", retry_after=0.52),
        *("rate_limit_exceeded", "Slow down. Please try again in 0.6s."),
    ),
    "a rate limit whose message says for how long": (
        UpstreamError(429, "rate_limit_error", "Please try again in 250ms.", retry_after=0.25),
        *("rate_limit_exceeded", "Please try again in 250ms."),
    ),
    "a rate limit of unknown length": (
        UpstreamError(429, "rate_limit_error", "Slow down."),
        *("rate_limit_exceeded", "Slow down. Try again later."),
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_response(case: str) -> None:
    error, code, message = FAILURES[case]
    assert failure(error) == {"code": code, "message": message}


PARAMS = {
    None: None,
    "model": "model",
    "messages": "input",
    "messages[3].content": "input",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format.json_schema": "text.format",
    "input[2].role": "input[2].role",
    "tools[0].name": "tools[0].name",
}


@pytest.mark.parametrize("param", PARAMS)
def test_a_refusal_names_the_field_as_the_client_knows_it(param: str | None) -> None:
    refusal = RESPONSES.refusal(invalid("No.", param=param, code="invalid_value"), "req_1")
    assert refusal.status == 400
    assert json.loads(refusal.body) == {
        "error": {
            "message": "No.",
            "type": "invalid_request_error",
            "param": PARAMS[param],
            "code": "invalid_value",
        }
    }
