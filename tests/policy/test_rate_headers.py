"""Headers of limits, in the words of OpenAI and of Anthropic."""

import pytest

from legato.policy.rate_headers import NAMES, anthropic_lines, duration, openai_lines
from legato.store.live import Kind, Level

LEVELS: dict[Kind, Level] = {
    "requests": Level(10, 9.99, 6.0),
    "tokens": Level(40_000, -3.0, 61.5),
    "concurrent": Level(1, 0, 0),
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (-1.0, "0ms"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (0.9999, "1s"),
        (1.0, "1s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (360.0, "6m0s"),
        (61.5, "1m1.5s"),
        (3605.0, "1h0m5s"),
        (86_400.0, "24h0m0s"),
    ],
)
def test_a_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_their_names() -> None:
    lines = (openai_lines(LEVELS) + anthropic_lines(LEVELS, 0.0)).decode().splitlines()
    assert sorted(NAMES) == sorted(line.partition(":")[0] for line in lines)


def test_openai() -> None:
    assert openai_lines(LEVELS).decode().splitlines() == [
        "x-ratelimit-limit-requests: 10",
        "x-ratelimit-remaining-requests: 9",
        "x-ratelimit-reset-requests: 6s",
        "x-ratelimit-limit-tokens: 40000",
        "x-ratelimit-remaining-tokens: 0",
        "x-ratelimit-reset-tokens: 1m1.5s",
    ]


def test_anthropic() -> None:
    assert anthropic_lines(LEVELS, 1_700_000_000.5).decode().splitlines() == [
        "anthropic-ratelimit-requests-limit: 10",
        "anthropic-ratelimit-requests-remaining: 9",
        "anthropic-ratelimit-requests-reset: 2023-11-14T22:13:27Z",
        "anthropic-ratelimit-tokens-limit: 40000",
        "anthropic-ratelimit-tokens-remaining: 0",
        "anthropic-ratelimit-tokens-reset: 2023-11-14T22:14:22Z",
    ]


def test_without_limits_there_are_none() -> None:
    assert openai_lines({}) == anthropic_lines({}, 0.0) == b""
