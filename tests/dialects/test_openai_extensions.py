"""Members that OpenAI's API does not have: left out for servers that refuse them."""

import json
from typing import Any

import pytest

from legato.core.dialect import OutgoingRequest, Quirks
from legato.core.request import parse
from legato.dialects.openai import encode
from legato.policy.providers import PROVIDERS

CACHE: Any = {"cache_control": {"type": "ephemeral"}}
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"cache_control": 1}}}
CALL: Any = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
EXTRA: Any = {"extra_content": {"google": {"thought_signature": "x"}}}
PLAIN: Any = [
    {"role": "user", "content": [{"type": "text", "text": '"cache_control"'}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
]
EXTENDED: Any = [
    {"role": "user", "content": [PLAIN[0]["content"][0] | CACHE]},
    PLAIN[1] | {"tool_calls": [CALL | EXTRA], "reasoning_details": [{"type": "thinking"}]} | EXTRA,
]


def sent(body: Any, quirks: Quirks) -> Any:
    raw = json.dumps(body).encode()
    return json.loads(encode(OutgoingRequest(raw, parse(raw), "theirs", quirks)))


def request(messages: Any, tool: Any) -> Any:
    return {"model": "m", "messages": messages, "tools": [tool]}


def test_they_are_left_out() -> None:
    asked = sent(request(EXTENDED, TOOL | CACHE), Quirks(takes_extensions=False))
    assert (asked["messages"], asked["tools"]) == (PLAIN, [TOOL])


def test_they_are_passed_on_where_they_are_taken() -> None:
    asked = sent(request(EXTENDED, TOOL | CACHE), Quirks())
    assert (asked["messages"], asked["tools"]) == (EXTENDED, [TOOL | CACHE])


@pytest.mark.parametrize("provider", ["openai", "groq", "mistral", "cerebras"])
def test_who_refuses_them(provider: str) -> None:
    assert not PROVIDERS[provider].quirks.takes_extensions
