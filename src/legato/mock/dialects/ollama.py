"""Ollama's chat API: a JSON object a line."""

from typing import Any

import msgspec

from legato.mock.dialects import plain
from legato.mock.dialects._calls import Calls
from legato.mock.steps import Script, Step


class MockDialect:
    kind = "application/x-ndjson"

    def __init__(self, script: Script, request: dict[str, Any]) -> None:
        # A bare CR ends no line there.
        self._line_end = script.line_end if script.line_end.endswith("\n") else "\n"
        self._model = request.get("model")
        said = [each.usage for step in script.steps for each in plain(step) if each.usage]
        self._usage = said[-1] if said else {}
        self._calls = Calls()

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        return str(request.get("model"))

    def say(self, step: Step) -> bytes:
        return b"".join(self._one(each) for each in plain(step) if not each.choice)

    def error(self, error: dict[str, Any]) -> bytes:
        return msgspec.json.encode({"error": error.get("message")})

    def _one(self, step: Step) -> bytes:
        if step.tool is not None:
            self._calls.add(step.tool)
            return b""
        called = self._called()
        if step.error is not None:
            return called + self._line(error=step.error.get("message"))
        if step.finish is not None:
            reason = "stop" if step.finish == "tool_calls" else step.finish
            return called + self._message(done_reason=reason, **self._counts())
        if step.think is not None:
            return called + self._message(thinking=step.think)
        if step.say is not None:
            return called + self._message(step.say)
        return called  # comments, usage apart, an end after the last line: there are no words

    def _called(self) -> bytes:
        calls: list[dict[str, Any]] = []
        for call in self._calls.take():
            said: dict[str, Any] = {"function": {"name": call.name, "arguments": call.given()}}
            calls.append(said | {"id": call.identity} if call.identity else said)
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
