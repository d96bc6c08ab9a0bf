"""Logprobs of an upstream that gives them only together with alternatives."""

import json
from typing import Any

import pytest

from legato.core.chunk import Chunk
from legato.core.logprobs import NoAlternatives

TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97]}
BEST = TOKEN | {"top_logprobs": [TOKEN]}
EMPTIED = TOKEN | {"top_logprobs": []}


def choice(logprobs: Any) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": "a"}, "logprobs": logprobs, "x": 1}


#: logprobs, and what the client gets
CASES: list[tuple[Any, Any]] = [
    ({"content": [BEST, BEST]}, {"content": [EMPTIED, EMPTIED]}),
    ({"content": [BEST], "refusal": None}, {"content": [EMPTIED], "refusal": None}),
    ({"content": None, "refusal": [BEST]}, {"content": None, "refusal": [EMPTIED]}),
    ({"content": [7, TOKEN]}, {"content": [7, EMPTIED]}),
    (None, None),
    (7, 7),
]


@pytest.mark.parametrize(("given", "left"), CASES)
def test_alternatives_are_removed(given: Any, left: Any) -> None:
    members = [choice(given), choice({"top_logprobs": "other"})]
    expected = [choice(left), choice({"top_logprobs": "other"})]
    raw = json.dumps(members).encode()
    for chunk in (
        Chunk([], raw, {"total_tokens": 1}, b',"x":1'),
        Chunk([], None, {"total_tokens": 1}, b',"x":1', members),
    ):
        made = NoAlternatives().transform(chunk)
        assert made.members() == expected
        assert (made.usage, made.extras) == ({"total_tokens": 1}, b',"x":1')


def test_a_chunk_without_logprobs_stays_as_it_is() -> None:
    chunk = Chunk([], b'[{"index":0,"delta":{"content":"a"}}]', text_choice=0, text="a")
    assert NoAlternatives().transform(chunk) is chunk
