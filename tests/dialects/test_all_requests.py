"""All dialects: whatever a client asks for, it is JSON that goes out, or a refusal."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from legato import dialects
from legato.core.dialect import OutgoingRequest, Quirks
from legato.core.errors import ApiError, UpstreamError
from legato.core.request import parse

SIGNED = {"extra_content": {"google": {"thought_signature": "AAAA"}}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ],
    },
    {
        "role": "assistant",
        "content": "Hm",
        "reasoning_content": "Let me",
        "reasoning_details": [{"type": "thinking", "thinking": "Let me", "signature": "AAAA"}],
        "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}} | SIGNED
        ],
        **SIGNED,
    },
    {"role": "tool", "tool_call_id": "c", "content": "3"},
]
MORE: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": 1}}},
    "reasoning_effort": "low",
    "thinking": {"type": "enabled", "budget_tokens": 100},
    "max_tokens": 5,
    "stop": ["x"],
    "seed": 1,
    "temperature": 0.5,
    "top_k": 3,
    "logprobs": True,
    "top_logprobs": 2,
    "stream": True,
    "stream_options": {"include_usage": True},
    "generationConfig": {"topK": 1},
    "options": {"num_ctx": 1, "stop": "x"},
    "output_config": {"effort": "low"},
    "keep_alive": 5,
}
PARTS: list[Any] = [
    {"type": "text", "text": "a"},
    {"type": "refusal", "refusal": None},
    {"type": "image_url", "image_url": "https://example.com/a.png"},
    {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
    {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
]
WORDS: list[Any] = ["", "x", "none", "required", "developer", "assistant", "tool", "function"]
VALUES: list[Any] = [None, True, False, -1, 0, 7.5, 10**30, [], [None], {}, {"x": 1}, [[]]]


@pytest.mark.parametrize("name", dialects.NAMES)
def test_a_number_that_no_decoder_takes_is_nobodys_fault(name: str) -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "x_new": 1e999}'
    sent = dialects.named(name).encode(OutgoingRequest(body, parse(body), "m", Quirks()))
    assert b"hi" in sent


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from places(tree[key])


def requests(seed: str, count: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(seed)
    for _ in range(count):
        names = draw.sample(list(MORE), draw.randrange(6))
        tree = {"model": "m", "messages": MESSAGES} | {name: MORE[name] for name in names}
        tree = copy.deepcopy(tree)
        for _ in range(draw.randrange(3)):
            owner, key = draw.choice(list(places(tree)))
            owner[key] = copy.deepcopy(draw.choice(PARTS + WORDS + VALUES))
        yield tree


@pytest.mark.parametrize("name", dialects.NAMES)
@pytest.mark.parametrize("unsupported", ["drop", "error"])
def test_whatever_is_asked_for_goes_out_or_is_refused(
    name: str, unsupported: Literal["drop", "error"]
) -> None:
    dialect = dialects.named(name)
    sent, refused = 0, list[ApiError]()
    for tree in requests(name, 1500):
        body = json.dumps(tree).encode()
        try:
            request = parse(body)
        except ApiError:
            continue
        for model in ("m", "claude-opus-4-8", "gemini-2.5-flash"):
            try:
                encoded = dialect.encode(
                    OutgoingRequest(body, request, model, Quirks(), unsupported)
                )
            except ApiError as error:
                refused.append(error)
            else:
                assert isinstance(json.loads(encoded), dict)
                sent += 1
    assert sent > 100
    assert all(each.status == 400 for each in refused)
    assert not any(isinstance(each, UpstreamError) for each in refused)
    assert not any("None" in each.message or "{'" in each.message for each in refused)
