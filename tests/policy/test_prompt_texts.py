"""What is counted of a request in Anthropic's format, and what an estimate makes of it."""

from typing import Any

import pytest

from legato.policy.prompt_texts import DOCUMENT, IMAGE, prompt_texts

Json = dict[str, Any]

IMAGE_BLOCK = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
PDF = {"type": "document", "source": {"type": "base64", "data": "A" * 99}, "title": "Plan"}


def text(words: str, **more: Any) -> Json:
    return {"type": "text", "text": words, **more}


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def assistant(*blocks: Json) -> Json:
    return {"role": "assistant", "content": list(blocks)}


def thinking(words: str) -> Json:
    return {"type": "thinking", "thinking": words, "signature": "S" * 500}


CALL = {"type": "tool_use", "id": "toolu_1", "name": "sum", "input": {"a": 1}}


def result(content: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}


CASES: dict[str, tuple[Json, list[str], int]] = {
    # request; its texts; tokens of images and documents
    "a string": ({"messages": [user("Hello")]}, ["Hello"], 0),
    "blocks": ({"messages": [user([text("a"), text("b", cache_control={})])]}, ["a", "b"], 0),
    "system": ({"system": "S", "messages": [user("Hello")]}, ["S", "Hello"], 0),
    "system in blocks": (
        {"system": [text("S"), text("T")], "messages": [user("Hello")]},
        ["S", "T", "Hello"],
        0,
    ),
    "tools": (
        {"messages": [user("Hello")], "tools": [{"name": "f", "input_schema": {}}]},
        ["Hello", '{"name":"f","input_schema":{}}'],
        0,
    ),
    "a call and its result": (
        {"messages": [user("Hello"), assistant(CALL), user([result("3")])]},
        ["Hello", "sum", '{"a":1}', "3"],
        0,
    ),
    "a result in blocks": (
        {"messages": [user([result([text("3"), IMAGE_BLOCK])])]},
        ["3"],
        IMAGE,
    ),
    "images": ({"messages": [user([IMAGE_BLOCK, IMAGE_BLOCK, text("a")])]}, ["a"], 2 * IMAGE),
    "a document": ({"messages": [user([PDF])]}, ["Plan", ""], DOCUMENT),
    "a document that is text": (
        {"messages": [user([{"type": "document", "source": {"type": "text", "data": "D"}}])]},
        ["", "", "D"],
        0,
    ),
    "a document in blocks": (
        {
            "messages": [
                user([{"type": "document", "source": {"type": "content", "content": [text("D")]}}])
            ]
        },
        ["", "", "D"],
        0,
    ),
    "thoughts of this turn alone": (
        {
            "messages": [
                user("Hello"),
                assistant(thinking("old"), text("a")),
                user([text("Go on"), result("x")]),
                assistant(thinking("new"), {"type": "redacted_thinking", "data": "X" * 99}, CALL),
                user([result("3")]),
            ]
        },
        ["Hello", "a", "Go on", "x", "new", "sum", '{"a":1}', "3"],
        0,
    ),
    "an unknown block": (
        {"messages": [user([{"type": "new", "x": 1}])]},
        ['{"type":"new","x":1}'],
        0,
    ),
    "what is no request": (
        {"messages": [None, user(None), user(3), {"role": 1}], "system": 4, "tools": "x"},
        [],
        0,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_texts_of_a_request(name: str) -> None:
    request, texts, fixed = CASES[name]
    found = prompt_texts(request)
    assert found.texts == texts
    messages = [each for each in request["messages"] if each is not None]
    assert found.fixed == fixed + 4 * len(messages) + 3
    assert found.has_media == bool(fixed)


@pytest.mark.parametrize(
    ("words", "tokens"),
    [("", 0), ("a", 1), ("a" * 35, 10), ("a" * 36, 11), ("語" * 7, 6), ("\ud83d", 1)],
)
def test_an_estimate_is_by_the_bytes_of_the_texts(words: str, tokens: int) -> None:
    assert prompt_texts({"messages": [user(words)]}).estimate == tokens + 7
