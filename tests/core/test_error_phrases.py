"""Phrases and codes of vendors, and what they mean."""

import json
from pathlib import Path

import pytest

from legato.core.error_phrases import (
    advised_wait,
    gives_reason,
    is_spent,
    is_too_long,
)

TOO_LONG = json.loads(Path(__file__).parents[1].joinpath("data/faults/too-long.json").read_text())
MORE_TOO_LONG = [
    "This model's maximum context length is 4096 tokens, and the prompt has 5000.",
    "This endpoint's maximum context length is 200000 tokens. However, you requested about 250000.",
    "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    "the request exceeds the available context size, try increasing it",
    "tokens to keep from the initial prompt is greater than the context length",
    "Your request exceeded model token limit: 262144 (requested: 300000)",
    "Prompt contains 140000 tokens and 0 draft tokens, too large for model with 131072 maximum"
    " context length",
    "Please reduce the length of the messages or completion.",
    "prompt token count of 130000 exceeds the limit of 128000",
    "prompt too long; exceeded max context length by 5000 tokens",
    "Range of input length should be [1, 129024]",
    "the input length exceeds the context length",
    "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000",
    "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000.",
    "length of prompt_tokens (40000) must be less than max_seq_len (32768).",
    "prompt is too long: 208310 tokens > 200000 maximum",
    "The prompt is too long: 40000, model maximum context length: 32767",
]


@pytest.mark.parametrize("words", [*TOO_LONG, *MORE_TOO_LONG])
def test_a_prompt_that_is_too_long(words: str) -> None:
    assert is_too_long(None, words)
    assert is_too_long(None, words.upper())


@pytest.mark.parametrize(
    "words",
    [
        "Too many tokens, please wait before trying again.",
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
        "max_tokens must be less than 8192",
        "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000.",
        "Request body is too large.",
        "String should have at most 64 characters",
        "",
    ],
)
def test_what_is_not_too_long_a_prompt(words: str) -> None:
    assert not is_too_long(None, words)
    assert not is_too_long("invalid_value", words)


def test_codes_of_a_prompt_that_is_too_long() -> None:
    for code in ("context_length_exceeded", "exceed_context_size_error", "tokens_limit_reached"):
        assert is_too_long(code, "no")


def test_an_account_that_has_nothing_left() -> None:
    for words in (
        "insufficient balance",
        "Insufficient account balance",
        "quota exhausted",
        "You exceeded your current quota, please check your plan.",
        "You have run out of credits.",
    ):
        assert is_spent(None, words, None)
        assert not is_spent(None, words, 3.0)
    assert is_spent("insufficient_quota", "no", 3.0)
    assert not is_spent(None, "Slow down.", None)


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Please try again in 7.66s.", 7.66),
        ("Please try again in 1m2.5s. Visit x.", 62.5),
        ("Please try again in 500ms.", 0.5),
        ("Please retry after 21 seconds.", 21.0),
        ("Please retry in 34.07s.", 34.07),
        ("Try again in 6 minutes.", 360.0),
        ("Try again in 0s.", None),
        ("Try again in a moment.", None),
        ("Please try again later.", None),
        ("Limit 20s. Try it.", None),
        ("Try again in " + "9" * 400 + "s", None),
        ("", None),
    ],
)
def test_the_seconds_to_wait(words: str, seconds: float | None) -> None:
    assert advised_wait(words) == seconds


@pytest.mark.parametrize(
    ("words", "is_reason"),
    [
        ("max_tokens must be less than 8192", True),
        ("\u4f59\u989d\u4e0d\u8db3", True),
        ("x" * 65, True),
        ("Provider returned error", False),
        ("Internal Server Error", False),
        ("Bad Request.", False),
        ("API_KEY_INVALID", False),
        ("ERROR", False),
        ("Traceback (most recent call last):\n  File x", False),
        ("", False),
    ],
)
def test_whether_words_give_a_reason(words: str, is_reason: bool) -> None:
    assert gives_reason(words) is is_reason
