"""OpenAI's Chat Completions API."""

from typing import Any

import msgspec

from legato.mock.steps import Script, Step


class MockDialect:
    content_type = "text/event-stream"

    def __init__(self, script: Script, request: dict[str, Any]) -> None:
        self._script = script
        self._number = 0
        self._roles: set[int] = set()
        options = request.get("stream_options") or {}
        self._wants_usage = script.usage_always or bool(options.get("include_usage"))

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        return str(request.get("model"))

    def encode(self, step: Step) -> bytes:
        if step.comment is not None:
            return self._lines(f": {step.comment}", "")
        if step.done:
            return self._lines("data: [DONE]", "")
        if step.error is not None:
            return self._event({"error": step.error})
        if step.chunk is not None:
            return self._event(step.chunk)
        if step.usage is not None:
            chunk = {"choices": [], "usage": step.usage}
            return self._event(self._head() | chunk) if self._wants_usage else b""
        return self._event(self._head() | {"choices": [self._choice(step)]})

    def encode_error(self, error: dict[str, Any]) -> bytes:
        return msgspec.json.encode({"error": error})

    def _choice(self, step: Step) -> dict[str, Any]:
        delta: dict[str, Any] = dict(step.delta or {})
        if step.say is not None:
            delta["content"] = step.say
        if step.think is not None:
            delta["reasoning_content"] = step.think
        if step.tool is not None:
            delta["tool_calls"] = [step.tool]
        role = self._script.role
        if role == "every" or (role == "first" and step.choice not in self._roles):
            delta = {"role": "assistant"} | delta
        self._roles.add(step.choice)
        return {"index": step.choice, "delta": delta, "finish_reason": step.finish}

    def _head(self) -> dict[str, Any]:
        self._number += 1
        number = self._number if self._script.changing_ids else 1
        return {
            "id": f"scripted-{number}",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000 + number,
            "model": "scripted",
        }

    def _event(self, chunk: dict[str, Any]) -> bytes:
        return self._lines("data: " + msgspec.json.encode(chunk).decode(), "")

    def _lines(self, *lines: str) -> bytes:
        return "".join(line + self._script.line_end for line in lines).encode()
