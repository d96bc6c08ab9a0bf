"""Python's notation in texts of upstreams."""

import random
from typing import Any

import pytest

from legato.core.python_text import in_words, literal, without_notation

TEXTS: dict[str, tuple[str, str]] = {
    "nothing of Python's": ("max_tokens is too large", "max_tokens is too large"),
    "an object": ("Invalid format: {'type': 'foo', 'n': 1}.", "Invalid format: type: foo, n: 1."),
    "a list": ("Use one of ['a', 'b'] here", "Use one of a, b here"),
    "objects in a list": ("[{'a': 'b'}]", "a: b"),
    "an index": ("messages['role'] is missing", "messages['role'] is missing"),
    "JSON": ('Invalid: {"a": "b"}', 'Invalid: {"a": "b"}'),
    "an apostrophe": ("It can't be", "It can't be"),
    "cut off": ("Invalid: {'type': 'foo', 'n", "Invalid: type: foo, n"),
    "with what cannot be evaluated": (
        "[{'msg': 'Value error, no', 'ctx': {'error': ValueError('no')}}]",
        "Value error, no",
    ),
    "with nothing to find": ("{'error': ValueError('no')}", "error: ValueErrorno"),
    "brackets in strings": ("x {'a': 'b]}', 'c': \"d'\"} y", "x a: b]}, c: d' y"),
    "pydantic": (
        "1 validation error for ChatCompletionRequest\nmessages\n  Field required "
        "[type=missing, input_value={'model': 'x'}, input_type=dict]\n"
        "    For further information visit https://errors.pydantic.dev/2.11/v/missing",
        "1 validation error for ChatCompletionRequest\nmessages\n  Field required",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_without_pythons_notation(name: str) -> None:
    text, wanted = TEXTS[name]
    assert without_notation(text) == wanted


def test_any_text_becomes_one() -> None:
    draw = random.Random(1)
    parts = ["{'", "['", "'", '"', "}", "]", "(", ")", "\\", ": ", ", ", "a", "1", "[{"]
    for _ in range(2_000):
        text = "".join(draw.choices(parts, k=draw.randrange(30)))
        assert len(without_notation(text)) <= len(text)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x", "x"),
        (7, "7"),
        (True, "true"),
        (None, ""),
        (["a", 1, None], "a, 1"),
        (("a", "b"), "a, b"),
        ({"a": "b", "c": ["d", "e"], "f": None}, "a: b, c: d, e"),
        ({}, ""),
        (b"x", "x"),
    ],
)
def test_a_value_in_words(value: Any, words: str) -> None:
    assert in_words(value) == words


def test_a_deep_value_in_words() -> None:
    value: Any = "x"
    for _ in range(900):
        value = [value]
    assert in_words(value) == ""


@pytest.mark.parametrize(
    "text",
    ["", "x", "{'a': f()}", "[" * 5_000, "['" + "x" * 9_000 + "']", "{[]: 1}", "{'a'", "'\\d' \\"],
)
def test_what_is_no_value_of_pythons(text: str) -> None:
    assert literal(text) is None


def test_an_escape_that_python_does_not_know() -> None:
    assert literal(r"['a\d']") == [r"a\d"]
