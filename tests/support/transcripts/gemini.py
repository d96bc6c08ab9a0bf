"""Gemini's streamGenerateContent (ai.google.dev/api/generate-content): CRLF ends its lines."""

import json
from typing import Any

LACKS: frozenset[str] = frozenset()


def event(
    *parts: dict[str, Any],
    prompt: int = 7,
    completion: int = 0,
    thoughts: int = 0,
    candidate: dict[str, Any] | None = None,
    **members: Any,
) -> bytes:
    """Parts of an answer, or without any what stands for it in `members`. Usage is sent each time,
    what is 0 is not sent."""
    counts = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": completion,
        "totalTokenCount": prompt + completion + thoughts,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
        "thoughtsTokenCount": thoughts,
    }
    fields: dict[str, Any] = {}
    if parts:
        content = {"parts": list(parts), "role": "model"}
        fields["candidates"] = [{"content": content, "index": 0, **(candidate or {})}]
    fields["usageMetadata"] = {name: count for name, count in counts.items() if count}
    fields |= {"modelVersion": "gemini-2.5-flash", "responseId": "Q2aWaOe5"}
    return line(fields | members)


def line(fields: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(fields, ensure_ascii=False)}\r\n\r\n".encode()


def text(result: str) -> dict[str, Any]:
    return {"text": result}


def thought(result: str) -> dict[str, Any]:
    return {"text": result, "thought": True}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, "args": arguments}}


def end(reason: str, *parts: dict[str, Any], **counts: Any) -> bytes:
    return event(*(parts or [text("")]), candidate={"finishReason": reason}, **counts)


SIGNED = {"thoughtSignature": "CiQBy1n8"}
PROBLEM = {"error": {"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}}

TRANSCRIPTS: dict[str, bytes] = {
    "text": event(text("Once"))
    + event(text(" upon a time"), completion=2)
    + end("STOP", text("."), completion=3),
    "unicode": event(text("Žluťoučký"))
    + event(text(" kůň 🐎"))
    + event(text("a\u2028b"))
    + end("STOP", completion=3),
    "thinking": event(thought("Let me"), prompt=9, thoughts=1)
    + event(thought(" think."), prompt=9, thoughts=2)
    + event(text("Forty"), prompt=9, thoughts=2, completion=2)
    + end("STOP", text("-two.") | SIGNED, prompt=9, thoughts=2, completion=5),
    "tools": event(call("sum", a=1, b=2) | SIGNED, prompt=20, completion=7)
    + event({"functionCall": {"name": "now", "args": {}, "id": "e3qn1zvf"}}, prompt=20)
    + end("STOP", prompt=20, completion=12),
    "tools at once": end(
        "STOP",
        call("sum", a=1, b=2) | SIGNED,
        {"functionCall": {"name": "now"}},
        prompt=20,
        completion=12,
    ),
    "text and a tool": event(text("I will"), prompt=20)
    + event(text(" add."), call("sum", a=1, b=2) | SIGNED, prompt=20)
    + event(text(""), candidate={"finishReason": "STOP"}, prompt=20)
    + event(prompt=20, completion=9),
    "length": event(text("Once")) + end("MAX_TOKENS", text(" upon"), completion=2),
    "filtered": event(text("I"))
    + event(
        prompt=7,
        completion=1,
        candidates=[{"finishReason": "SAFETY", "index": 0, "safetyRatings": []}],
    ),
    "cached": event(text("Once"), prompt=1000)
    + event(
        text(""),
        candidate={"finishReason": "STOP"},
        usageMetadata={
            "promptTokenCount": 1000,
            "candidatesTokenCount": 1,
            "totalTokenCount": 1001,
            "cachedContentTokenCount": 900,
        },
    ),
    "noise": b": nothing\n\nid: 7\r\nevent: message\r\n"
    + event(text("Once"), candidate={"citationMetadata": {"citationSources": []}})
    + event(promptFeedback={"safetyRatings": []})
    + event({"executableCode": {"language": "PYTHON", "code": "1 + 1"}})
    + event({"codeExecutionResult": {"outcome": "OUTCOME_OK"}}, text(" upon a time"))
    + event(candidates=[{"finishReason": "FINISH_REASON_UNSPECIFIED"}])
    + event(candidates=[{"content": {"role": "model"}, "groundingMetadata": {}}])
    + end("STOP", text("."), completion=3, modelStatus={"modelStage": "STABLE"}),
    "error": event(text("Once")) + line(PROBLEM),
    "cut": event(text("Once")) + event(text(" upon")) + event(text(" a time"))[:-9],
}

#: Without `alt=sse` the same events come as a list.
WHOLE: bytes = b"[%b]" % b",\r\n".join(
    each.removeprefix(b"data: ").strip()
    for each in (
        event(thought("Let me think."), prompt=9, thoughts=1),
        event(text("Forty-two."), prompt=9, completion=3, thoughts=1),
        event(
            call("sum", a=1, b=2),
            prompt=9,
            completion=6,
            thoughts=1,
            candidate={"finishReason": "STOP"},
        ),
    )
)
