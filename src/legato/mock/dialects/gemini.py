"""Google's Gemini API: each event is a complete response with the new parts."""

import re
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from legato.mock.dialects import simple_steps, usages
from legato.mock.dialects._calls import ToolCallCollector
from legato.mock.steps import Script, Step

_REASONS: Final = {
    "stop": "STOP",
    "tool_calls": "STOP",  # Gemini has no separate reason
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
}

#: The signature of the first call in every group of tool calls.
SIGNATURE: Final = "c2NyaXB0ZWQ="


class MockDialect:
    content_type = "text/event-stream"

    def __init__(self, script: Script, request: dict[str, Any]) -> None:
        self._line_end = script.line_end
        self._status = script.status
        known = usages(script)
        self._last_usage = known[-1] if known else None
        self._finished = False
        self._calls = ToolCallCollector()

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        found = re.search(r"/models/([^:]+):", path)
        return unquote(found[1]) if found else ""

    def encode(self, step: Step) -> bytes:
        return b"".join(self._encode(each) for each in simple_steps(step))

    def whole(self) -> bytes | None:
        return None

    def encode_error(self, error: dict[str, Any]) -> bytes:
        status = self._status if self._status >= 400 else 404
        return msgspec.json.encode(_error(error, status))

    def _encode(self, step: Step) -> bytes:
        if step.tool is not None:
            self._calls.add(step.tool)
            return b""
        if step.comment is not None:
            return f": {step.comment}{self._line_end * 2}".encode()
        calls = self._encode_calls()
        if step.error is not None:
            return calls + self._event(_error(step.error, 500))
        if step.done:
            return calls  # Gemini has no end marker
        if step.usage is not None:
            return calls if self._finished else calls + self._response(None, step.usage)
        if step.finish is None and step.say is None and step.think is None:
            return calls  # what other dialects have
        usage = self._last_usage if step.finish else None
        return calls + self._response(self._candidate(step), usage)

    def _candidate(self, step: Step) -> dict[str, Any]:
        if step.finish is not None:
            self._finished = True
            reason = _REASONS.get(step.finish, step.finish)
            return {**_content({"text": ""}), "finishReason": reason, "index": step.choice}
        part = {"text": step.think, "thought": True} if step.think else {"text": step.say}
        return {**_content(part), "index": step.choice}

    def _encode_calls(self) -> bytes:
        """The tool calls that were collected since the last event."""
        parts: list[dict[str, Any]] = []
        for call in self._calls.take():
            function_call: dict[str, Any] = {"name": call.name, "args": call.parsed_arguments()}
            if call.identity is not None:
                function_call["id"] = call.identity
            parts.append({"functionCall": function_call})
        if not parts:
            return b""
        parts[0]["thoughtSignature"] = SIGNATURE
        return self._response({**_content(*parts), "index": 0})

    def _response(
        self, candidate: dict[str, Any] | None, usage: dict[str, Any] | None = None
    ) -> bytes:
        response: dict[str, Any] = {"candidates": [candidate]} if candidate is not None else {}
        if usage is not None:
            response["usageMetadata"] = _usage_metadata(usage)
        return self._event(response | {"modelVersion": "scripted", "responseId": "scripted"})

    def _event(self, data: dict[str, Any]) -> bytes:
        return f"data: {msgspec.json.encode(data).decode()}{self._line_end * 2}".encode()


def _content(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"parts": list(parts), "role": "model"}}


def _usage_metadata(usage: dict[str, Any]) -> dict[str, Any]:
    """Gemini does not include thoughts in the candidates' tokens, and omits counts of 0."""
    thoughts = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    counts = {
        "promptTokenCount": usage.get("prompt_tokens", 0),
        "candidatesTokenCount": usage.get("completion_tokens", 0) - thoughts,
        "thoughtsTokenCount": thoughts,
        "cachedContentTokenCount": (usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        "totalTokenCount": usage.get("total_tokens", 0),
    }
    return {name: count for name, count in counts.items() if count}


def _error(error: dict[str, Any], status: int) -> dict[str, Any]:
    code = str(error.get("code") or error.get("type"))
    return {"error": {"code": status, "message": error.get("message"), "status": code.upper()}}
