"""OpenAI's Chat Completions API."""

from typing import Any

import msgspec

from legato.mock.dialects import simple_steps
from legato.mock.dialects._calls import ToolCallCollector
from legato.mock.steps import Script, Step


class MockDialect:
    content_type = "text/event-stream"

    def __init__(self, script: Script, request: dict[str, Any]) -> None:
        self._script = script
        self._number = 0
        self._roles: set[int] = set()
        options = request.get("stream_options") or {}
        self._wants_usage = script.usage_always or bool(options.get("include_usage"))
        self._answer = _Answer()

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        return str(request.get("model"))

    def encode(self, step: Step) -> bytes:
        for each in simple_steps(step):
            self._answer.add(each)
        if step.comment is not None:
            return self._lines(f": {step.comment}", "")
        if step.done:
            return self._lines("data: [DONE]", "")
        if step.error is not None:
            return self._event({"error": step.error})
        if step.chunk is not None or step.event is not None:
            return self._event(step.chunk or step.event or {})
        if step.usage is not None:
            chunk = {"choices": [], "usage": step.usage}
            return self._event(self._head() | chunk) if self._wants_usage else b""
        if step.sign is not None or step.redacted is not None:
            return b""
        return self._event(self._head() | {"choices": [self._choice(step)]})

    def whole(self) -> bytes | None:
        head = {"id": "scripted-1", "object": "chat.completion", "created": 1_700_000_001}
        return msgspec.json.encode(head | {"model": "scripted"} | self._answer.members())

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
        if step.item is not None:
            delta[str(step.item.get("type"))] = step.item
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


class _Answer:
    """The steps so far as the members of a completion."""

    def __init__(self) -> None:
        self._messages: dict[int, dict[str, Any]] = {}
        self._calls: dict[int, ToolCallCollector] = {}
        self._finishes: dict[int, str] = {}
        self._usage: dict[str, Any] | None = None

    def add(self, step: Step) -> None:
        if step.usage is not None:
            self._usage = step.usage
            return
        pieces = {"content": step.say, "reasoning_content": step.think}
        if step.tool is not None:
            self._calls.setdefault(step.choice, ToolCallCollector()).add(step.tool)
        elif step.finish is not None:
            self._finishes[step.choice] = step.finish
        elif not any(pieces.values()):
            return
        message = self._messages.setdefault(step.choice, {"role": "assistant", "content": None})
        for name, piece in pieces.items():
            if piece is not None:
                message[name] = (message.get(name) or "") + piece

    def members(self) -> dict[str, Any]:
        """`choices` and `usage`."""
        choices = [
            {
                "index": index,
                "message": self._messages[index] | self._tool_calls(index),
                "logprobs": None,
                "finish_reason": self._finishes.get(index),
            }
            for index in sorted(self._messages)
        ]
        return {"choices": choices} | ({"usage": self._usage} if self._usage else {})

    def _tool_calls(self, index: int) -> dict[str, Any]:
        collector = self._calls.get(index)
        if collector is None:
            return {}
        calls = [
            {
                "id": call.identity or f"call_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(collector.take(), 1)
        ]
        return {"tool_calls": calls}
