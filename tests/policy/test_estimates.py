"""What is reserved for a call before the truth is known."""

import json

import pytest

from legato.policy import estimates
from legato.policy.estimates import ANSWER, Answers, Estimate, prompt_tokens


def test_a_prompt_by_its_size() -> None:
    assert prompt_tokens(b"") == 0
    assert prompt_tokens(b"x" * 35_000) == 10_000


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_media_are_no_text(separators: tuple[str, str]) -> None:
    data = "A" * 3_000_000
    body = {
        "messages": [
            {"image_url": {"url": f"data:image/png;base64,{data}"}},
            {"source": {"type": "base64", "data": data}},
            {"text": 'say "data":"x" or ;base64,y'},
        ]
    }
    audio = {"input_audio": {"data": data, "format": "wav"}}
    for each, media in ((body, 2), (audio, 1)):
        found = prompt_tokens(json.dumps(each, separators=separators).encode())
        assert media * 1600 < found < media * 1600 + 100


@pytest.mark.parametrize("body", [b'"data":"' + b"A" * 2000, b";base64," * 1000, b'"data":"' * 500])
def test_bodies_that_are_no_json(body: bytes) -> None:
    assert prompt_tokens(body) == pytest.approx(len(body) / 3.5, abs=1)


def test_an_answer_is_as_long_as_the_last_ones_were() -> None:
    answers = Answers()
    assert answers.estimate("m", b"", None) == Estimate(0, ANSWER)
    assert answers.estimate("m", b"", 32_000, choices=2) == Estimate(0, 64_000)
    for tokens in (100, 200, 900):
        answers.learn("m", tokens)
    assert answers.estimate("m", b"x" * 35, None) == Estimate(10, 200)
    assert answers.estimate("m", b"x" * 35, 32_000, choices=2).tokens == 410
    assert answers.estimate("m", b"", 50) == Estimate(0, 50)
    assert answers.estimate("other", b"", None) == Estimate(0, ANSWER)
    for _ in range(estimates.ANSWERS):
        answers.learn("m", 7)
    assert answers.estimate("m", b"", None) == Estimate(0, 7)


def test_routes_are_bounded() -> None:
    answers = Answers()
    for number in range(estimates.ROUTES + 1):
        answers.learn(f"{number}", 7)
        answers.estimate(f"{number}", b"", None)
    assert answers.estimate("0", b"", None).completion == ANSWER
    assert answers.estimate("1", b"", None).completion == 7
    assert len(answers._medians) == estimates.ROUTES
