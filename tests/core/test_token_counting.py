"""Tokens counted from what goes by: every text counts once, whole, whatever pieces it came in."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from legato.core.dialect import Delivered
from legato.core.request import parse
from legato.core.token_counting import SLICE, Tally, slices
from tests.support.wire import chat

LONG = "word " * SLICE
SOLID = "x" * (3 * SLICE + 1)


class Words:
    """Every word is a token; so a text that was cut in the middle of one counts more."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def count(self, text: str) -> int:
        self.texts.append(text)
        return len(text.split())

    def begin(self, texts: list[str]) -> Callable[[], int]:
        return lambda: sum(map(self.count, texts))


def request(**more: Any) -> Any:
    return parse(msgspec.json.encode(chat("m") | more))


def tally(counter: Words, **more: Any) -> Tally:
    return Tally(counter, request(**more))


def member(delta: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": None}


@pytest.mark.parametrize("text", ["", "a", LONG, SOLID, " " * (2 * SLICE), f"{SOLID} {LONG}"])
def test_slices_are_the_text(text: str) -> None:
    pieces = list(slices(text))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= SLICE
    assert len(pieces) <= 1 + 2 * len(text) // SLICE


def test_slices_are_cut_in_front_of_a_space() -> None:
    assert sum(len(piece.split()) for piece in slices(LONG)) == len(LONG.split())


@pytest.mark.parametrize("size", [1, 3, 1000, len(LONG)])
def test_text_counts_the_same_in_pieces_of_any_size(size: int) -> None:
    counted = tally(Words())
    for start in range(0, len(LONG), size):
        counted.add(LONG[start : start + size], 0, False)
    assert counted.completion == len(LONG.split())
    assert counted.reasoning == 0


def test_what_has_gone_by_for_long_is_not_kept() -> None:
    counter = Words()
    counted = tally(counter)
    for number in range(SLICE):
        counted.add("word ", 0, False)
        kept = 5 * (number + 1) - sum(map(len, counter.texts))
        assert kept <= SLICE + len("word ")


def test_nothing_is_counted_before_it_is_asked_for() -> None:
    counter = Words()
    counted = tally(counter)
    counted.add("one two", 0, False)
    counted.add("three", 0, True)
    assert counter.texts == []
    assert counted.reasoning == 1
    assert counter.texts == ["three"]
    assert counted.completion == 3
    assert counted.completion == 3
    assert counter.texts == ["three", "one two"]


SUM = {"index": 0, "id": "call_1", "type": "function"}
MEMBERS: dict[str, tuple[list[dict[str, Any]], int, int]] = {
    # deltas; tokens of the completion, and of its reasoning
    "text": ([{"content": "one tw"}, {"content": "o three"}], 3, 0),
    "thoughts": ([{"reasoning_content": "let me"}, {"content": "yes"}], 3, 2),
    "refusal": ([{"refusal": "I can"}, {"refusal": "not"}], 2, 0),
    "role": ([{"role": "assistant", "content": ""}], 0, 0),
    "nothing": ([{"content": None, "tool_calls": None}, {}], 0, 0),
    "tool call": (
        [
            {"tool_calls": [SUM | {"function": {"name": "sum", "arguments": ""}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": " 1 2"}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": "3 4"}}]},
        ],
        4,
        0,
    ),
    "two tool calls side by side": (
        [
            {"tool_calls": [{"index": 0, "function": {"name": "a", "arguments": "1"}}]},
            {"tool_calls": [{"index": 1, "function": {"name": "b", "arguments": "2"}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": "1"}}]},
            {"tool_calls": [{"index": 1, "function": {}}, {"index": 2}]},
        ],
        2,
        0,
    ),
    "function call": ([{"function_call": {"name": "f", "arguments": " 1"}}], 2, 0),
    "members that nobody knows": ([{"audio": {"data": "x y"}, "function_call": "z"}], 0, 0),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_all_that_a_model_writes_counts(name: str) -> None:
    deltas, completion, reasoning = MEMBERS[name]
    counted = tally(Words())
    for delta in deltas:
        counted.add_member(member(delta))
    assert (counted.completion, counted.reasoning) == (completion, reasoning)


def test_choices_side_by_side_are_texts_of_their_own() -> None:
    counted = tally(Words())
    for piece in ("on", "e two"):
        for index in range(3):
            counted.add_member(member({"content": piece}, index))
            counted.add(piece, index, True)
    assert counted.completion == 3 * 4
    assert counted.reasoning == 3 * 2


CALL = {"id": "1", "type": "function", "function": {"name": "sum", "arguments": "1 2"}}
PROMPTS: dict[str, tuple[list[dict[str, Any]], int]] = {
    # messages, tokens of the words in them
    "one": ([{"role": "user", "content": "Hello"}], 1),
    "two": ([{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}], 3),
    "name": ([{"role": "user", "content": "Hi", "name": "bob"}], 2),
    "no content": ([{"role": "assistant", "content": None}], 0),
    "empty": ([{"role": "user", "content": ""}], 0),
    "parts": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:not text at all"}},
                ],
            }
        ],
        3,
    ),
    "a call and its answer": (
        [
            {"role": "assistant", "tool_calls": [CALL, {"id": "2"}]},
            {"role": "tool", "tool_call_id": "1", "content": "3"},
        ],
        1 + 2 + 1,
    ),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_its_texts_and_what_stands_between_them(name: str) -> None:
    messages, words = PROMPTS[name]
    counted = tally(Words(), messages=messages)
    assert counted.prompt == words + 4 * len(messages) + 3
    assert counted.prompt == words + 4 * len(messages) + 3, "asked twice, counted once"


def test_tools_are_in_the_prompt() -> None:
    without = tally(Words()).prompt
    tools = [{"type": "function", "function": {"name": "sum", "description": "adds up two"}}]
    assert tally(Words(), tools=tools).prompt == without + 3
    assert tally(Words(), tools=[{"type": "web_search"}]).prompt == without


def test_what_was_delivered_before_is_in_the_prompt() -> None:
    before = Delivered(content="Once upon", reasoning="let me see")
    assert Tally(Words(), request(), before).prompt == tally(Words()).prompt + 5


def test_a_prompt_that_the_upstream_told_is_not_counted() -> None:
    counter = Words()
    assert Tally(counter, request(), told=99).prompt == 99
    assert counter.texts == []
