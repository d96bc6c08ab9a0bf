"""Anthropic's Messages API: blocks that begin, go on and end."""

from typing import Any, Final

import msgspec

from legato.mock.dialects import plain
from legato.mock.steps import Script, Step

_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}

#: What stands under every block of thinking here.
SIGNATURE: Final = "c2NyaXB0ZWQ="


class MockDialect:
    kind = "text/event-stream"

    def __init__(self, script: Script, request: dict[str, Any]) -> None:
        self._line_end = script.line_end
        said = [each.usage for step in script.steps for each in plain(step) if each.usage]
        self._first, self._last = (said[0], said[-1]) if said else ({}, {})
        self._model = request.get("model")
        self._started = False
        self._finished = False
        self._blocks = 0
        self._block = ""  # the type of the one that is open
        self._call: str | None = None  # the id of the last tool call
        self._said = 0

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        return str(request.get("model"))

    def say(self, step: Step) -> bytes:
        return b"".join(self._one(each) for each in plain(step) if not each.choice)

    def error(self, error: dict[str, Any]) -> bytes:
        return msgspec.json.encode(_error(error))

    def _one(self, step: Step) -> bytes:
        if step.comment is not None:
            return self._event("ping")
        if step.error is not None:
            return self._event("error", error=_error(step.error)["error"])
        if step.done:
            return self._event("message_stop")
        if step.usage is not None:
            return b"" if self._finished else self._start() + self._total(step.usage)
        if step.finish is not None:
            self._finished = True
            reason = _REASONS.get(step.finish, step.finish)
            return self._start() + self._close() + self._total(self._last, reason)
        return self._start() + self._content(step)

    def _content(self, step: Step) -> bytes:
        self._said += 1
        if step.think is not None:
            begun = self._open("thinking", thinking="", signature="")
            return begun + self._delta("thinking_delta", thinking=step.think)
        if step.tool is not None:
            return self._tool(step.tool)
        return self._open("text", text="") + self._delta("text_delta", text=step.say)

    def _tool(self, tool: dict[str, Any]) -> bytes:
        function = tool.get("function") or {}
        identity = tool.get("id") or (f"toolu_{self._blocks}" if function.get("name") else None)
        begun = b""
        if identity is not None and identity != self._call:
            self._call = identity
            begun = self._close()
            begun += self._open("tool_use", id=identity, name=function.get("name"), input={})
        said = function.get("arguments") or ""
        if not isinstance(said, str):
            said = msgspec.json.encode(said).decode()
        return begun + self._delta("input_json_delta", partial_json=said)

    def _start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        message = {
            "id": "msg_scripted",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _input(self._first) | {"output_tokens": 1},
        }
        return self._event("message_start", message=message)

    def _open(self, kind: str, **members: Any) -> bytes:
        if self._block == kind:
            return b""
        closed, self._block = self._close(), kind
        self._blocks += 1
        block = {"type": kind, **members}
        return closed + self._event(
            "content_block_start", index=self._blocks - 1, content_block=block
        )

    def _delta(self, kind: str, **members: Any) -> bytes:
        delta = {"type": kind, **members}
        return self._event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _close(self) -> bytes:
        if not self._block:
            return b""
        thought, self._block = self._block == "thinking", ""
        signed = self._delta("signature_delta", signature=SIGNATURE) if thought else b""
        return signed + self._event("content_block_stop", index=self._blocks - 1)

    def _total(self, usage: dict[str, Any], reason: str | None = None) -> bytes:
        said = _input(usage) | {"output_tokens": usage.get("completion_tokens", self._said)}
        details = usage.get("completion_tokens_details")
        if details is not None:
            said["output_tokens_details"] = {"thinking_tokens": details["reasoning_tokens"]}
        delta = {"stop_reason": reason, "stop_sequence": None}
        return self._event("message_delta", delta=delta, usage=said)

    def _event(self, kind: str, **members: Any) -> bytes:
        data = msgspec.json.encode({"type": kind, **members}).decode()
        lines = (f"event: {kind}", f"data: {data}", "")
        return "".join(line + self._line_end for line in lines).encode()


def _input(usage: dict[str, Any]) -> dict[str, Any]:
    """What was read from the cache is no part of `input_tokens` there."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {
        "input_tokens": usage.get("prompt_tokens", cached) - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }


def _error(error: dict[str, Any]) -> dict[str, Any]:
    kind = error.get("code") or error.get("type")
    return {"type": "error", "error": {"type": kind, "message": error.get("message")}}
