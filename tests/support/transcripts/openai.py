"""OpenAI's Chat Completions."""

import json
from typing import Any

LACKS: frozenset[str] = frozenset()


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **members: Any) -> bytes:
    fields = {
        "id": "chatcmpl-BkQ",
        "object": "chat.completion.chunk",
        "created": 1750000000,
        "model": "gpt-4o-2024-08-06",
        "service_tier": "default",
        "system_fingerprint": "fp_1",
        "choices": []
        if delta is None
        else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        **members,
    }
    return f"data: {json.dumps(fields, ensure_ascii=False)}\n\n".encode()


def say(*words: str, member: str = "content") -> bytes:
    return b"".join(chunk({member: word}) for word in words)


def end(reason: str, prompt: int, completion: int, reasoning: int = 0, cached: int = 0) -> bytes:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
    }
    return chunk({}, reason) + chunk(usage=usage) + b"data: [DONE]\n\n"


def call(index: int, *pieces: str, name: str | None = None) -> bytes:
    begun: dict[str, Any] = {}
    if name is not None:
        begun = {"id": f"call_{index}", "type": "function"}
    result = []
    for number, piece in enumerate(pieces):
        function = {"arguments": piece} | ({"name": name} if begun and not number else {})
        each = {"index": index, "function": function} | (begun if not number else {})
        result.append(chunk({"tool_calls": [each]}))
    return b"".join(result)


ROLE = chunk({"role": "assistant", "content": "", "refusal": None})
ERROR = {"message": "Overloaded", "type": "server_error", "code": None, "param": None}

TRANSCRIPTS: dict[str, bytes] = {
    "text": ROLE + say("Once", " upon a time", ".") + end("stop", 7, 3),
    "unicode": ROLE + say("Žluťoučký", " kůň 🐎", "a\u2028b") + end("stop", 7, 3),
    "thinking": ROLE
    + say("Let me", " think.", member="reasoning_content")
    + say("Forty", "-two.")
    + end("stop", 9, 7, reasoning=2),
    "tools": ROLE
    + call(0, "", '{"a": 1,', ' "b": 2}', name="sum")
    + call(1, "", "{}", name="now")
    + end("tool_calls", 20, 12),
    "tools at once": ROLE
    + call(0, '{"a": 1, "b": 2}', name="sum")
    + call(1, "{}", name="now")
    + end("tool_calls", 20, 12),
    "text and a tool": ROLE
    + say("I will", " add.")
    + call(0, "", '{"a": 1, "b": 2}', name="sum")
    + end("tool_calls", 20, 9),
    "length": ROLE + say("Once", " upon") + end("length", 7, 2),
    "filtered": ROLE + say("I") + end("content_filter", 7, 1),
    "cached": ROLE + say("Once") + end("stop", 1000, 1, cached=900),
    "noise": b": OPENROUTER PROCESSING\n\n"
    + ROLE
    + b"event: chunk\nid: 7\nretry: 10\n"
    + say("Once")
    + chunk({"content": " upon a time"}, provider="Somebody", obfuscation="aF3k")
    + chunk()
    + say(".")
    + b": OPENROUTER PROCESSING\n\n"
    + end("stop", 7, 3),
    "error": ROLE + say("Once") + f"data: {json.dumps({'error': ERROR})}\n\n".encode(),
    "cut": ROLE + say("Once", " upon") + chunk({"content": " a time"})[:-9],
}

WHOLE: bytes = json.dumps(
    {
        "id": "chatcmpl-BkQ",
        "object": "chat.completion",
        "created": 1750000000,
        "model": "deepseek-reasoner",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Forty-two.",
                    "reasoning_content": "Let me think.",
                    "refusal": None,
                    "tool_calls": [
                        {
                            "id": "call_0",
                            "type": "function",
                            "function": {"name": "sum", "arguments": '{"a": 1, "b": 2}'},
                        }
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 7,
            "total_tokens": 16,
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    }
).encode()
