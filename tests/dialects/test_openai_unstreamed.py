"""OpenAI's dialect: an answer in one piece as the event of a stream."""

import json
from typing import Any

import pytest

from legato.dialects.openai import unstreamed

CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def answer(*choices: Any, **more: Any) -> bytes:
    return json.dumps({"id": "c1", "choices": list(choices), **more}).encode()


#: a choice, and what it is in the event
CHOICES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"},
        {"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"},
    ),
    (
        {"message": {"tool_calls": [CALL, CALL | {"id": "b"}, CALL | {"index": 7}, 7]}},
        {
            "delta": {
                "tool_calls": [
                    {"index": 0} | CALL,
                    {"index": 1} | CALL | {"id": "b"},
                    CALL | {"index": 7},
                    7,
                ]
            }
        },
    ),
    ({"message": {"tool_calls": None}}, {"delta": {"tool_calls": None}}),
    ({"message": {"tool_calls": []}}, {"delta": {"tool_calls": []}}),
    ({"message": {"content": '"tool_calls"'}}, {"delta": {"content": '"tool_calls"'}}),
    ({"message": {"content": "a"}, "delta": None}, {"delta": {"content": "a"}}),
    ({"message": {"content": "a"}, "delta": {}}, {"delta": {"content": "a"}}),
    ({"message": {"content": "a"}, "delta": {"content": "b"}}, {"delta": {"content": "b"}}),
    ({"message": None, "x": 1}, {"delta": None, "x": 1}),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_a_message_becomes_a_delta(choice: dict[str, Any], expected: dict[str, Any]) -> None:
    (event,) = unstreamed(answer(choice, choice | {"index": 1}, usage={"a": 1}, x=[1.5]))
    fields = json.loads(event)
    assert fields.pop("choices") == [expected, expected | {"index": 1}]
    assert fields == {"id": "c1", "usage": {"a": 1}, "x": [1.5]}


def test_what_is_not_known_stays_byte_for_byte() -> None:
    body = b'{"choices":[{"message":{"content":"\\u00e9","x":1.10},"y":9e99}],"z":{ "a" : 1 }}'
    assert unstreamed(body) == [
        b'{"choices":[{"y":9e99,"delta":{"content":"\\u00e9","x":1.10}}],"z":{ "a" : 1 }}'
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"choices":null}',
        b'{"choices":7}',
        b'{"choices":[]}',
        b'{"choices":[7]}',
        answer({"index": 0, "delta": {"content": "a"}}),
        answer({"message": {"tool_calls": 7}}),
        answer({"message": {"content": "a"}})[:-1],
    ],
)
def test_what_is_no_answer(body: bytes) -> None:
    assert unstreamed(body) == []
