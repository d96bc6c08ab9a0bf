"""Google's Gemini API: whole responses, each with what is new."""

import re
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from legato.mock.dialects import plain
from legato.mock.dialects._calls import Calls
from legato.mock.steps import Script, Step

_REASONS: Final = {
    "stop": "STOP",
    "tool_calls": "STOP",  # there is no word of its own
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
}

#: What stands beside the first of every group of calls here.
SIGNATURE: Final = "c2NyaXB0ZWQ="


class MockDialect:
    kind = "text/event-stream"

    def __init__(self, script: Script, request: dict[str, Any]) -> None:
        self._line_end = script.line_end
        self._status = script.status
        said = [each.usage for step in script.steps for each in plain(step) if each.usage]
        self._last = said[-1] if said else None
        self._finished = False
        self._calls = Calls()

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        found = re.search(r"/models/([^:]+):", path)
        return unquote(found[1]) if found else ""

    def say(self, step: Step) -> bytes:
        return b"".join(self._one(each) for each in plain(step))

    def error(self, error: dict[str, Any]) -> bytes:
        status = self._status if self._status >= 400 else 404
        return msgspec.json.encode(_error(error, status))

    def _one(self, step: Step) -> bytes:
        if step.tool is not None:
            self._calls.add(step.tool)
            return b""
        if step.comment is not None:
            return f": {step.comment}{self._line_end * 2}".encode()
        called = self._called()
        if step.error is not None:
            return called + self._event(_error(step.error, 500))
        if step.done:
            return called  # the end of the body says it
        if step.usage is not None:
            return called if self._finished else called + self._response(None, step.usage)
        return called + self._response(self._candidate(step), self._last if step.finish else None)

    def _candidate(self, step: Step) -> dict[str, Any]:
        if step.finish is not None:
            self._finished = True
            reason = _REASONS.get(step.finish, step.finish)
            return {**_content({"text": ""}), "finishReason": reason, "index": step.choice}
        part = {"text": step.think, "thought": True} if step.think else {"text": step.say}
        return {**_content(part), "index": step.choice}

    def _called(self) -> bytes:
        parts: list[dict[str, Any]] = []
        for call in self._calls.take():
            said = {"name": call.name, "args": call.given()}
            if call.identity is not None:
                said["id"] = call.identity
            parts.append({"functionCall": said})
        if not parts:
            return b""
        parts[0]["thoughtSignature"] = SIGNATURE
        return self._response({**_content(*parts), "index": 0})

    def _response(
        self, candidate: dict[str, Any] | None, usage: dict[str, Any] | None = None
    ) -> bytes:
        said: dict[str, Any] = {"candidates": [candidate]} if candidate is not None else {}
        if usage is not None:
            said["usageMetadata"] = _counts(usage)
        return self._event(said | {"modelVersion": "scripted", "responseId": "scripted"})

    def _event(self, said: dict[str, Any]) -> bytes:
        return f"data: {msgspec.json.encode(said).decode()}{self._line_end * 2}".encode()


def _content(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"parts": list(parts), "role": "model"}}


def _counts(usage: dict[str, Any]) -> dict[str, Any]:
    """Thoughts are no part of the candidates' tokens there; what is 0 is not said."""
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
    word = str(error.get("code") or error.get("type"))
    return {"error": {"code": status, "message": error.get("message"), "status": word.upper()}}
