"""Ollama's chat API: one JSON object per line."""

from typing import Any

import msgspec

from legato.mock.dialects import simple_steps, usages
from legato.mock.dialects._calls import ToolCallCollector
from legato.mock.steps import Script, Step


class MockDialect:
    content_type = "application/x-ndjson"

    def __init__(self, script: Script, request: dict[str, Any]) -> None:
        # A bare CR does not end a line in NDJSON.
        self._line_end = script.line_end if script.line_end.endswith("\n") else "\n"
        self._model = request.get("model")
        self._usage = (usages(script) or [{}])[-1]
        self._calls = ToolCallCollector()

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        return str(request.get("model"))

    def encode(self, step: Step) -> bytes:
        return b"".join(self._encode(each) for each in simple_steps(step) if not each.choice)

    def whole(self) -> bytes | None:
        return None

    def encode_error(self, error: dict[str, Any]) -> bytes:
        return msgspec.json.encode({"error": error.get("message")})

    def _encode(self, step: Step) -> bytes:
        if step.tool is not None:
            self._calls.add(step.tool)
            return b""
        calls = self._encode_calls()
        if step.error is not None:
            return calls + self._line(error=step.error.get("message"))
        if step.finish is not None:
            reason = "stop" if step.finish == "tool_calls" else step.finish
            return calls + self._message(done_reason=reason, **self._counts())
        if step.think is not None:
            return calls + self._message(thinking=step.think)
        if step.say is not None:
            return calls + self._message(step.say)
        return calls  # Ollama has no comments, no separate usage and no end marker

    def _encode_calls(self) -> bytes:
        """The tool calls that were collected since the last line."""
        calls: list[dict[str, Any]] = []
        for call in self._calls.take():
            function = {"name": call.name, "arguments": call.parsed_arguments()}
            identity = {"id": call.identity} if call.identity else {}
            calls.append({"function": function, **identity})
        return self._message(tool_calls=calls) if calls else b""

    def _message(
        self,
        content: str = "",
        *,
        thinking: str | None = None,
        tool_calls: list[dict[str, Any]] | None = None,
        **more: Any,
    ) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if thinking is not None:
            message["thinking"] = thinking
        if tool_calls is not None:
            message["tool_calls"] = tool_calls
        head = {"model": self._model, "created_at": "2026-01-01T00:00:00.000000Z"}
        return self._line(**head, message=message, done="done_reason" in more, **more)

    def _counts(self) -> dict[str, Any]:
        counts = {
            "prompt_eval_count": self._usage.get("prompt_tokens", 0),
            "eval_count": self._usage.get("completion_tokens", 0),
        }
        return {name: count for name, count in counts.items() if count}

    def _line(self, **members: Any) -> bytes:
        return f"{msgspec.json.encode(members).decode()}{self._line_end}".encode()
