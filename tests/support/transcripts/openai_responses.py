"""OpenAI's Responses API (platform.openai.com/docs/api-reference/responses-streaming)."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

LACKS: frozenset[str] = frozenset()

_numbers: Iterator[int] = itertools.count()


def event(kind: str, **members: Any) -> bytes:
    """One event. `sequence_number` counts on; readers pass over it."""
    fields = {"type": kind, "sequence_number": next(_numbers), **members}
    return f"event: {kind}\ndata: {json.dumps(fields, ensure_ascii=False)}\n\n".encode()


def response(status: str, **members: Any) -> dict[str, Any]:
    return {
        "id": "resp_01",
        "object": "response",
        "created_at": 1_760_000_000,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": "gpt-5.4",
        "output": [],
        "parallel_tool_calls": True,
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
        **members,
    }


def usage(prompt: int, completion: int, *, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + completion,
    }


START = event("response.created", response=response("in_progress"))
START += event("response.in_progress", response=response("in_progress"))


def end(prompt: int, completion: int, *output: dict[str, Any], **counts: int) -> bytes:
    counted = usage(prompt, completion, **counts)
    whole = response("completed", output=list(output), usage=counted)
    return event("response.completed", response=whole)


def incomplete(reason: str, prompt: int, completion: int) -> bytes:
    details = {"reason": reason}
    counted = usage(prompt, completion)
    whole = response("incomplete", incomplete_details=details, usage=counted)
    return event("response.incomplete", response=whole)


def message(text: str, index: int = 0, **members: Any) -> dict[str, Any]:
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    return {
        "id": f"msg_{index}",
        "type": "message",
        "status": "completed",
        "content": [part],
        "role": "assistant",
        **members,
    }


def opened(index: int) -> bytes:
    """A message begins, and a part of it."""
    item = message("", index) | {"status": "in_progress", "content": []}
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
    added = event("response.output_item.added", output_index=index, item=item)
    return added + event("response.content_part.added", **place, part=part)


def word(index: int, delta: str, **members: Any) -> bytes:
    place = {"item_id": f"msg_{index}", "output_index": index, "content_index": 0}
    fields = place | {"delta": delta, "logprobs": []} | members
    return event("response.output_text.delta", **fields)


def closed(index: int, text: str) -> bytes:
    item = message(text, index)
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    return (
        event("response.output_text.done", **place, text=text, logprobs=[])
        + event("response.content_part.done", **place, part=item["content"][0])
        + event("response.output_item.done", output_index=index, item=item)
    )


def text(index: int, *words: str) -> bytes:
    deltas = [word(index, each) for each in words]
    return opened(index) + b"".join(deltas) + closed(index, "".join(words))


def reasoning(index: int, *summaries: str) -> dict[str, Any]:
    return {
        "id": f"rs_{index}",
        "type": "reasoning",
        "encrypted_content": "gAAAAAB",
        "summary": [{"type": "summary_text", "text": each} for each in summaries],
    }


def thinking(index: int, *words: str) -> bytes:
    item, whole = reasoning(index), "".join(words)
    place = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    part = {"type": "summary_text", "text": whole}
    kind = "response.reasoning_summary"
    return (
        event("response.output_item.added", output_index=index, item=item)
        + event(f"{kind}_part.added", **place, part=part | {"text": ""})
        + b"".join(event(f"{kind}_text.delta", **place, delta=each) for each in words)
        + event(f"{kind}_text.done", **place, text=whole)
        + event(f"{kind}_part.done", **place, part=part)
        + event("response.output_item.done", output_index=index, item=reasoning(index, whole))
    )


def call(index: int, name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"fc_{index}",
        "type": "function_call",
        "status": "completed",
        "arguments": arguments,
        "call_id": f"call_{index}",
        "name": name,
    }


def tool(index: int, name: str, *pieces: str) -> bytes:
    item, whole = call(index, name, ""), "".join(pieces)
    place = {"item_id": item["id"], "output_index": index}
    kind = "response.function_call_arguments"
    return (
        event("response.output_item.added", output_index=index, item=item)
        + b"".join(event(f"{kind}.delta", **place, delta=each) for each in pieces)
        + event(f"{kind}.done", **place, name=name, arguments=whole)
        + event("response.output_item.done", output_index=index, item=call(index, name, whole))
    )


SEARCH: dict[str, Any] = {
    "id": "ws_1",
    "type": "web_search_call",
    "status": "completed",
    "action": {"type": "search", "query": "x"},
}
_OF_SEARCH = {"item_id": "ws_1", "output_index": 1}
SUM = call(0, "sum", '{"a": 1, "b": 2}')

TRANSCRIPTS: dict[str, bytes] = {
    "text": START + text(0, "Once", " upon a time", ".") + end(7, 3, message("Once upon a time.")),
    "unicode": START
    + text(0, "Žluťoučký", " kůň 🐎", "a\u2028b")
    + end(7, 3, message("Žluťoučký kůň 🐎a\u2028b")),
    "thinking": START
    + thinking(0, "Let me", " think.")
    + text(1, "Forty", "-two.")
    + end(9, 7, reasoning(0, "Let me think."), message("Forty-two.", 1), reasoning=2),
    "tools": START
    + tool(0, "sum", '{"a": 1,', ' "b": 2}')
    + tool(1, "now", "{}")
    + end(20, 12, SUM, call(1, "now", "{}")),
    # Only whole items, and only at the end; a call without arguments.
    "tools at once": START
    + event("response.output_item.done", output_index=0, item=SUM)
    + end(20, 12, SUM, call(1, "now", "")),
    "text and a tool": START
    + text(0, "I will", " add.")
    + tool(1, "sum", '{"a": 1, "b": 2}')
    + end(20, 9, message("I will add."), call(1, "sum", '{"a": 1, "b": 2}')),
    "length": START
    + opened(0)
    + word(0, "Once")
    + word(0, " upon")
    + incomplete("max_output_tokens", 7, 2),
    "filtered": START + opened(0) + word(0, "I") + incomplete("content_filter", 7, 1),
    "cached": START + text(0, "Once") + end(1000, 1, message("Once"), cached=900),
    "noise": b": nothing\n\n"
    + START
    + event("keepalive")
    + event("response.pause", delta=7, item="whatever")
    + opened(0)
    + word(0, "Once", obfuscation="aGVsbG8", more=[1])
    + event("response.output_item.added", output_index=1, item=SEARCH)
    + event("response.web_search_call.in_progress", **_OF_SEARCH)
    + event("response.web_search_call.completed", **_OF_SEARCH)
    + event("response.output_item.done", output_index=1, item=SEARCH)
    + word(0, " upon a time")
    + event("response.output_text.annotation.added", item_id="msg_0", annotation={"type": "x"})
    + word(0, ".")
    + closed(0, "Once upon a time.")
    + end(7, 3, message("Once upon a time."), SEARCH),
    "error": START
    + opened(0)
    + word(0, "Once")
    + event("error", code="server_error", message="Overloaded", param=None),
    "cut": START + opened(0) + word(0, "Once") + word(0, " upon") + word(0, " a time")[:-9],
}

WHOLE: bytes = json.dumps(
    response(
        "completed",
        output=[
            reasoning(0, "Let me think."),
            message("Forty-two.", 1),
            call(2, "sum", '{"a": 1, "b": 2}'),
        ],
        usage=usage(9, 7, reasoning=1),
    )
).encode()
