"""The error that a client gets, and what an upstream's status and message mean."""

import pytest

from legato.core.errors import (
    ApiError,
    UpstreamError,
    bad_gateway,
    blames_parameter,
    broken_off,
    cannot_continue,
    error_code,
    from_status,
    from_stream_event,
    gateway_timeout,
    internal,
    invalid,
    service_unavailable,
)

TRY_AGAIN = "Try again later."

# message of the failure, message for the client
ADVICE: dict[str, tuple[str, str]] = {
    "a sentence": ("The worker died.", "The worker died. Try again later."),
    "no full stop": ("worker died", "worker died. Try again later."),
    "the same advice": ("Overloaded. Try again later.", "Overloaded. Try again later."),
    "with please": ("Overloaded. Please try again later.", "Overloaded. Try again later."),
    "in lower case": (
        "The server is busy, try again later",
        "The server is busy. Try again later.",
    ),
    "as a clause": (
        "The server is busy, please try again later!",
        "The server is busy. Try again later.",
    ),
    "after and": ("Wait, and retry later.", "Wait. Try again later."),
    "twice": ("Busy. Try again later. Try again later.", "Busy. Try again later. Try again later."),
    "nothing else": ("please try again later", "Try again later."),
    "empty": ("", "Try again later."),
    "other advice": (
        "Rate limit. Please try again in 20s.",
        "Rate limit. Please try again in 20s. Try again later.",
    ),
    "in the middle": ("Try again later or pay.", "Try again later or pay. Try again later."),
    "a question": ("Who is there?", "Who is there? Try again later."),
    "Chinese": (
        "\u670d\u52a1\u7e41\u5fd9\u3002",
        "\u670d\u52a1\u7e41\u5fd9\u3002 Try again later.",
    ),
    "a line end": ("It broke.\n", "It broke.\n Try again later."),
}


OPENAI_SAYS = "This model's maximum context length is 8 tokens, and the prompt has 9."


@pytest.mark.parametrize(
    ("words", "public"),
    [
        (OPENAI_SAYS, OPENAI_SAYS),
        (
            "prompt is too long",
            "This model's maximum context length is exceeded: prompt is too long",
        ),
    ],
)
def test_clients_that_go_by_words_learn_that_the_prompt_is_too_long(
    words: str, public: str
) -> None:
    error = from_status(400, "context_length_exceeded", words)
    assert error.as_object()["error"]["message"] == public
    assert error.message == words


@pytest.mark.parametrize("name", ADVICE)
def test_a_failure_that_another_try_may_cure_ends_with_that_advice(name: str) -> None:
    message, public = ADVICE[name]
    error = bad_gateway(message)
    assert error.as_object()["error"]["message"] == public
    assert error.message == message, "logs have the upstream's own words"


CURABLE: dict[str, tuple[ApiError, bool]] = {
    "an upstream's failure": (bad_gateway("x"), True),
    "a timeout": (gateway_timeout("x"), True),
    "no deployment": (service_unavailable("x", code="no_deployment"), True),
    "our own limit of connections": (ApiError(503, "too_many_connections", "x"), True),
    "a continuation": (cannot_continue("x"), True),
    "a rate": (from_status(429, None, "x"), True),
    "a 500": (from_status(500, None, "x"), True),
    "overloaded": (from_status(529, None, "x"), True),
    "a failure in a stream": (from_stream_event(502, "c", "x"), True),
    "a rate in a stream": (from_stream_event(429, "c", "x"), True),
    "the caller's": (invalid("x"), False),
    "the caller's, by the upstream": (from_status(400, None, "x"), False),
    "the caller's, in a stream": (from_stream_event(422, None, "x"), False),
    "too long": (from_status(400, "context_length_exceeded", "x"), False),
    "a bug of ours": (internal(), False),
    "our key": (from_status(401, None, "x"), False),
    "our bill": (from_status(402, None, "x"), False),
    "our rights": (from_status(403, None, "x"), False),
    "our key, in a stream": (from_stream_event(401, None, "x"), False),
    "no such model there": (from_status(404, None, "x"), False),
    "no such model there, in a stream": (from_stream_event(404, None, "x"), False),
    "no such method there": (from_status(405, None, "x"), False),
    "a quota": (from_status(429, "insufficient_quota", "x"), False),
    "a quota, in a stream": (from_stream_event(502, "insufficient_quota", "x"), False),
    "a budget": (ApiError(429, "insufficient_quota", "x"), False),
    "TLS": (bad_gateway("x", code="upstream_tls"), False),
    "a proxy": (bad_gateway("x", code="upstream_proxy"), False),
    "the caller's, in the middle of an answer": (broken_off(invalid("x")), False),
    "a failure in the middle of an answer": (broken_off(bad_gateway("x")), True),
}


@pytest.mark.parametrize("name", CURABLE)
def test_which_failures_another_try_may_cure(name: str) -> None:
    error, is_curable = CURABLE[name]
    assert error.is_curable is is_curable
    assert error.public_message.endswith(TRY_AGAIN) is is_curable


def test_a_refusal_in_the_middle_of_an_answer_is_the_upstreams_failure() -> None:
    refused = ApiError(400, "context_length_exceeded", "Too long.", param="messages")
    error = broken_off(refused)
    assert isinstance(error, UpstreamError)
    assert (error.status, error.code, error.param) == (502, "context_length_exceeded", "messages")
    assert error.public_message == "Too long."


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("rate_limited", "rate_limited"),
        ("Client specified an invalid argument", "Client_specified_an_invalid_argument"),
        ("a,b", "a_b"),
        ("a, b;c", "a_b_c"),
        ("x" * 999, "x" * 64),
        ("a\nb", None),
        ("a\x00", None),
        (",", None),
        ("", None),
        (7, None),
        (None, None),
        (["x"], None),
        ({"x": 1}, None),
    ],
)
def test_a_code_is_a_word_that_is_fit_for_a_column(value: object, code: str | None) -> None:
    assert error_code(value) == code


# status, code, message -> status, code, words in the message
MEANINGS: dict[str, tuple[tuple[int, str | None, str], tuple[int, str, str]]] = {
    "a quota in words, with a 400": (
        (400, None, "Insufficient balance."),
        (502, "upstream_quota", "used up"),
    ),
    "a key in words, with a 500": (
        (500, None, "Incorrect API key provided: sk-1234."),
        (502, "upstream_401", "does not take our key (401)"),
    ),
    "a key in words, with a 404": (
        (404, None, "API key not valid. Please pass a valid API key: sk-1234."),
        (502, "upstream_401", "does not take our key (401)"),
    ),
    "no credit, with a 400": (
        (400, None, "Your credit balance is too low to access the API."),
        (502, "upstream_402", "paid first (402)"),
    ),
    "a rate with a 413": (
        (413, "rate_limit_exceeded", "Limit 6000, requested 9000."),
        (429, "upstream_rate_limited", "Limit 6000"),
    ),
    "a 429 is a rate, whatever it has of tokens": (
        (429, None, "Too many tokens, please wait before trying again."),
        (429, "upstream_rate_limited", "Too many tokens"),
    ),
    "a limit of output tokens": (
        (
            400,
            "invalid_value",
            "max_tokens is too large: 100000. This model supports at most 16384 completion "
            "tokens, whereas you provided 100000.",
        ),
        (400, "invalid_value", "max_tokens is too large"),
    ),
    "no such model, with a 400": (
        (400, None, "Model Not Exist"),
        (502, "upstream_404", "Model Not Exist"),
    ),
    "no such model by its code": (
        (400, "model_not_found", "The model `x` does not exist."),
        (502, "upstream_404", "does not exist"),
    ),
    "a model that lacks something": (
        (400, None, "The model x does not support tools."),
        (400, "invalid_request", "does not support tools"),
    ),
    "a long message": ((400, "c", "x" * 600), (400, "c", "x" * 500)),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_what_a_status_and_a_message_mean(name: str) -> None:
    (status, code, message), wanted = MEANINGS[name]
    for error in (from_status(status, code, message), from_stream_event(status, code, message)):
        assert (error.status, wanted[2] in error.message) == (wanted[0], True)
        assert "sk-1234" not in error.message
        assert len(error.message) <= 600
    assert from_status(status, code, message).code == wanted[1]


def test_a_404_in_a_stream_keeps_a_code_that_says_more() -> None:
    error = from_stream_event(404, "gpu_lost", "The GPU fell off.")
    assert (error.status, error.code, error.message) == (502, "gpu_lost", "The GPU fell off.")
    for code in (None, "model_not_found", "not_found_error"):
        assert from_stream_event(404, code, "No.").code == "upstream_404"


def test_a_quota_of_a_minute_is_a_rate() -> None:
    """Gemini has the same words for both, and gives the time to wait with the first."""
    words = "You exceeded your current quota, please check your plan and billing details."
    error = from_status(429, None, words, retry_after=34.0)
    assert (error.status, error.code, error.retry_after) == (429, "upstream_rate_limited", 34.0)
    assert from_status(429, None, words).code == "upstream_quota"
    assert from_status(429, "insufficient_quota", words, retry_after=3.0).code == "upstream_quota"


# param, message, is it about `stream_options`?
BLAMED: dict[str, tuple[str | None, str, bool]] = {
    "OpenAI": ("stream_options", "Unknown parameter: 'stream_options'.", True),
    "a part of it": ("stream_options.include_usage", "no", True),
    "by words alone": (None, "Unrecognized request argument supplied: stream_options", True),
    "FastAPI": (None, "stream_options: Extra inputs are not permitted", True),
    "in quotes": (None, 'unknown field "stream_options"', True),
    "another": ("temperature", "temperature is too high", False),
    "a longer name": (None, "my_stream_options is not known", False),
    "a shorter name": ("stream", "stream is not supported", False),
    "nothing": (None, "", False),
}


@pytest.mark.parametrize("name", BLAMED)
def test_a_refusal_that_is_about_a_parameter(name: str) -> None:
    param, message, is_blamed = BLAMED[name]
    error = ApiError(400, "invalid_request", message, param=param)
    assert blames_parameter(error, "stream_options") is is_blamed


def test_a_failure_is_not_about_a_parameter() -> None:
    assert not blames_parameter(bad_gateway("stream_options broke"), "stream_options")
    assert not blames_parameter(invalid("no", param="stream_options"), "stream")
