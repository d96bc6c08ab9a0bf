"""Estimates of what a call will take."""

import json
import random
import statistics
from typing import Any

import pytest

from legato.policy.prompt_texts import IMAGE
from legato.policy.token_estimate import Medians, prompt_tokens


def of(*messages: dict[str, Any], **more: Any) -> int:
    return prompt_tokens(json.dumps({"model": "m" * 500, "messages": messages} | more).encode())


def test_text_is_measured_wherever_it_stands() -> None:
    text = "word " * 700
    wanted = of({"role": "user", "content": text})
    assert 1000 <= wanted <= 1010
    parts = [{"type": "text", "text": text}]
    assert of({"role": "user", "content": parts}) == pytest.approx(wanted, abs=10)
    tools = [{"type": "function", "function": {"name": "f", "description": text}}]
    assert of({"role": "user", "content": ""}, tools=tools) == pytest.approx(wanted, abs=20)
    assert prompt_tokens(json.dumps({"prompt": text}).encode()) == pytest.approx(wanted, abs=10)


def test_the_data_of_an_image_is_no_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    assert IMAGE <= of({"role": "user", "content": [image]}) < IMAGE + 20


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b'{"messages": 1}', b"[" * 10_000])
def test_what_is_no_request_has_none(body: bytes) -> None:
    assert prompt_tokens(body) == 0


def test_a_median_is_learnt() -> None:
    draw, medians = random.Random(1), Medians()
    seen = [int(draw.lognormvariate(6, 1)) for _ in range(2000)]
    for each in seen:
        medians.learn("a", each)
    assert medians.of("a") == pytest.approx(statistics.median(seen), rel=0.35)
    assert medians.of("b") == 256


def test_no_more_routes_are_known_than_allowed() -> None:
    medians = Medians(routes=2)
    for route in "abc":
        medians.learn(route, 0)
    assert medians.of("a") == medians.of("b") < medians.of("c") == 256
