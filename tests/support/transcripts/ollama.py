"""Ollama's /api/chat (docs.ollama.com/api/chat)."""

import json
from typing import Any

#: It has no filter and does not tell what it read from its cache.
LACKS: frozenset[str] = frozenset({"cached", "filtered"})


def line(**members: Any) -> bytes:
    head = {"model": "qwen3:8b", "created_at": "2026-05-01T10:11:12.131415Z"}
    return f"{json.dumps(head | members, ensure_ascii=False)}\n".encode()


def message(content: str = "", **more: Any) -> bytes:
    return line(message={"role": "assistant", "content": content, **more}, done=False)


def say(*words: str) -> bytes:
    return b"".join(message(word) for word in words)


def call(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    return {
        "id": f"call_{number}",
        "function": {"index": number, "name": name, "arguments": arguments},
    }


def end(reason: str, prompt: int, completion: int, content: str = "") -> bytes:
    return line(
        message={"role": "assistant", "content": content},
        done=True,
        done_reason=reason,
        total_duration=4_648_158_584,
        load_duration=4_071_084,
        prompt_eval_count=prompt,
        prompt_eval_duration=36_000_000,
        eval_count=completion,
        eval_duration=4_600_000_000,
    )


TRANSCRIPTS: dict[str, bytes] = {
    "text": say("Once", " upon a time", ".") + end("stop", 7, 3),
    "unicode": say("Žluťoučký", " kůň 🐎", "a\u2028b") + end("stop", 7, 3),
    "thinking": message(thinking="Let me")
    + message(thinking=" think.")
    + say("Forty", "-two.")
    + end("stop", 9, 7),
    "tools": message(tool_calls=[call(0, "sum", a=1, b=2)])
    + message(tool_calls=[{"function": {"name": "now", "arguments": {}}}])
    + end("stop", 20, 12),
    "tools at once": message(tool_calls=[call(0, "sum", a=1, b=2), call(1, "now")])
    + end("stop", 20, 12),
    "text and a tool": say("I will", " add.")
    + message(tool_calls=[call(0, "sum", a=1, b=2)])
    + end("stop", 20, 9),
    "length": say("Once") + end("length", 7, 2, " upon"),
    "noise": b"\r\n  \n"
    + line(status="loading")
    + message("Once", images=None)
    + message()
    + line(message=None, done=False)
    + message(" upon a time").replace(b"\n", b" \r\n\r\n")
    + say(".")
    + end("stop", 7, 3)
    + line(status="goodbye", done="maybe"),
    "error": say("Once") + b'{"error":"Overloaded"}\n',
    "cut": say("Once", " upon") + message(" a time")[:-9],
}

WHOLE: bytes = line(
    message={
        "role": "assistant",
        "content": "Forty-two.",
        "thinking": "Let me think.",
        "tool_calls": [call(0, "sum", a=1, b=2)],
    },
    done=True,
    done_reason="stop",
    prompt_eval_count=9,
    eval_count=7,
)
