"""Anthropic's Messages API (platform.claude.com/docs/en/build-with-claude/streaming)."""

import json
from typing import Any

LACKS: frozenset[str] = frozenset()


def event(kind: str, **members: Any) -> bytes:
    data = json.dumps({"type": kind, **members}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def start(prompt: int, cached: int = 0, written: int = 0) -> bytes:
    message = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-sonnet-5",
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": prompt,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": cached,
            "output_tokens": 1,
            "service_tier": "standard",
        },
    }
    return event("message_start", message=message)


def block(index: int, first: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    return (
        event("content_block_start", index=index, content_block=first)
        + b"".join(event("content_block_delta", index=index, delta=each) for each in deltas)
        + event("content_block_stop", index=index)
    )


def text(index: int, *words: str) -> bytes:
    deltas = [{"type": "text_delta", "text": word} for word in words]
    return block(index, {"type": "text", "text": ""}, *deltas)


def thinking(index: int, *words: str) -> bytes:
    deltas = [{"type": "thinking_delta", "thinking": word} for word in words]
    signed = {"type": "signature_delta", "signature": "EqQBCgIYAhIM"}
    return block(index, {"type": "thinking", "thinking": "", "signature": ""}, *deltas, signed)


def tool(index: int, name: str, *pieces: str, whole: dict[str, Any] | None = None) -> bytes:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    first = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": whole or {}}
    return block(index, first, *deltas)


def end(reason: str, completion: int, **more: Any) -> bytes:
    delta = {"stop_reason": reason, "stop_sequence": None}
    usage = {"output_tokens": completion, **more}
    return event("message_delta", delta=delta, usage=usage) + event("message_stop")


PING = event("ping")
OPEN = event("content_block_start", index=0, content_block={"type": "text", "text": ""})


def result(word: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})


TRANSCRIPTS: dict[str, bytes] = {
    "text": start(7) + text(0, "Once", " upon a time", ".") + end("end_turn", 3),
    "unicode": start(7) + text(0, "Žluťoučký", " kůň 🐎", "a\u2028b") + end("stop_sequence", 3),
    "thinking": start(9)
    + thinking(0, "Let me", " think.")
    + text(1, "Forty", "-two.")
    + end("end_turn", 7, output_tokens_details={"thinking_tokens": 2}),
    "tools": start(20)
    + tool(0, "sum", "", '{"a": 1,', ' "b": 2}')
    + tool(1, "now", "")
    + end("tool_use", 12),
    "tools at once": start(20)
    + tool(0, "sum", whole={"a": 1, "b": 2})
    + tool(1, "now")
    + end("tool_use", 12),
    "text and a tool": start(20)
    + text(0, "I will", " add.")
    + tool(1, "sum", '{"a": 1, "b": 2}')
    + end("tool_use", 9),
    "length": start(7) + text(0, "Once", " upon") + end("max_tokens", 2),
    "filtered": start(7) + text(0, "I") + end("refusal", 1),
    "cached": start(40, cached=900, written=60) + text(0, "Once") + end("end_turn", 1),
    "noise": b": nothing\n\n"
    + start(7)
    + PING
    + event("content_block_pause", index={"of": "another kind"}, delta="whatever")
    + OPEN
    + result("Once")
    + PING
    + block(
        1,
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"query": "x"}'},
    )
    + block(2, {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []})
    + result(" upon a time")
    + event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": {}})
    + result(".")
    + event("content_block_stop", index=0)
    + end("end_turn", 3, server_tool_use={"web_search_requests": 1}),
    "error": start(7)
    + OPEN
    + result("Once")
    + event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
    "cut": start(7) + OPEN + result("Once") + result(" upon") + result(" a time")[:-9],
}

WHOLE: bytes = json.dumps(
    {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Let me think.", "signature": "EqQBCgIYAhIM"},
            {"type": "text", "text": "Forty-two."},
            {"type": "tool_use", "id": "toolu_1", "name": "sum", "input": {"a": 1, "b": 2}},
        ],
        "model": "claude-sonnet-5",
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 7},
    }
).encode()
