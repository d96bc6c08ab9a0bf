"""Counts of tokens, as usage objects in several shapes report them."""

from typing import Any

import pytest

from legato.core.usage import Tokens, count, joined, prompt_details

COUNTS: dict[str, tuple[dict[str, Any], Tokens]] = {
    "nothing": ({}, Tokens()),
    "no details": ({"prompt_tokens": 7, "completion_tokens": 3}, Tokens(7, 3)),
    "details": (
        {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        Tokens(7, 3, reasoning=2, cached=4),
    ),
    "cache writes": (
        {"prompt_tokens": 7, "prompt_tokens_details": {"cache_creation_tokens": 5}},
        Tokens(7, cache_writes=5),
    ),
    "cache writes for an hour": (
        {
            "prompt_tokens": 7,
            "prompt_tokens_details": {"cache_creation_tokens": 5, "cache_creation_1h_tokens": 4},
        },
        Tokens(7, cache_writes=5, hour_cache_writes=4),
    ),
    "cache writes by OpenAI's name": (
        {
            "prompt_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 5},
        },
        Tokens(7, cached=1, cache_writes=5),
    ),
    "both names": (
        {"prompt_tokens_details": {"cache_creation_tokens": 5, "cache_write_tokens": 5}},
        Tokens(cache_writes=5),
    ),
    "no number": (
        {"prompt_tokens_details": {"cache_creation_tokens": "5", "cached_tokens": None}},
        Tokens(),
    ),
    "negative": ({"prompt_tokens_details": {"cache_creation_tokens": -5}}, Tokens()),
    "too large": (
        {"prompt_tokens_details": {"cache_write_tokens": 2**70}},
        Tokens(0, 0, 0, 0, 2**40),
    ),
    "details that are no object": ({"prompt_tokens_details": [1]}, Tokens()),
}


@pytest.mark.parametrize("case", COUNTS)
def test_counts(case: str) -> None:
    usage, tokens = COUNTS[case]
    assert count(usage) == tokens


def test_cache_writes_are_named_only_where_there_are_any() -> None:
    assert prompt_details(3, 0) == {"cached_tokens": 3}
    assert prompt_details(0, 2) == {"cached_tokens": 0, "cache_creation_tokens": 2}
    told = {"cached_tokens": 0, "cache_creation_tokens": 2, "cache_creation_1h_tokens": 1}
    assert prompt_details(0, 2, 1) == told


def test_a_continued_answer_has_the_cache_of_the_first_upstream() -> None:
    first = {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": prompt_details(4, 3, 2),
    }
    second = {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "prompt_tokens_details": prompt_details(8, 1),
    }
    cache = {"cached": 4, "cache_writes": 3, "hour_cache_writes": 2}
    assert count(joined(first, second)) == Tokens(9, 7, **cache)
    assert count(joined(first, second, both_prompts=True)) == Tokens(20, 7, **cache)
