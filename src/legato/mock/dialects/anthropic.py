"""Anthropic's Messages API: content blocks that are started, extended and stopped."""

from typing import Any, Final

import msgspec

from legato.mock.dialects import simple_steps, usages
from legato.mock.dialects._calls import arguments_text
from legato.mock.steps import Script, Step

_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}

#: The signature of every thinking block.
SIGNATURE: Final = "c2NyaXB0ZWQ="


class MockDialect:
    content_type = "text/event-stream"

    def __init__(self, script: Script, request: dict[str, Any]) -> None:
        self._line_end = script.line_end
        known = usages(script) or [{}]
        self._first_usage, self._last_usage = known[0], known[-1]
        self._model = request.get("model")
        self._started = False
        self._finished = False
        self._blocks = 0
        self._block = ""  # the type of the open block
        self._call: str | None = None  # the id of the last tool call
        self._deltas = 0

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        return str(request.get("model"))

    def encode(self, step: Step) -> bytes:
        return b"".join(self._encode(each) for each in simple_steps(step) if not each.choice)

    def encode_error(self, error: dict[str, Any]) -> bytes:
        return msgspec.json.encode(_error(error))

    def _encode(self, step: Step) -> bytes:
        if step.comment is not None:
            return self._event("ping")
        if step.error is not None:
            return self._event("error", error=_error(step.error)["error"])
        if step.done:
            return self._event("message_stop")
        if step.usage is not None:
            return b"" if self._finished else self._start() + self._message_delta(step.usage)
        if step.finish is not None:
            self._finished = True
            reason = _REASONS.get(step.finish, step.finish)
            return (
                self._start() + self._stop_block() + self._message_delta(self._last_usage, reason)
            )
        return self._start() + self._content(step)

    def _content(self, step: Step) -> bytes:
        self._deltas += 1
        if step.think is not None:
            start = self._start_block("thinking", thinking="", signature="")
            return start + self._delta("thinking_delta", thinking=step.think)
        if step.tool is not None:
            return self._tool(step.tool)
        return self._start_block("text", text="") + self._delta("text_delta", text=step.say)

    def _tool(self, tool: dict[str, Any]) -> bytes:
        function = tool.get("function") or {}
        identity = tool.get("id") or (f"toolu_{self._blocks}" if function.get("name") else None)
        start = b""
        if identity is not None and identity != self._call:
            self._call = identity
            start = self._stop_block()
            start += self._start_block("tool_use", id=identity, name=function.get("name"), input={})
        return start + self._delta("input_json_delta", partial_json=arguments_text(function))

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
            "usage": _input_usage(self._first_usage) | {"output_tokens": 1},
        }
        return self._event("message_start", message=message)

    def _start_block(self, kind: str, **members: Any) -> bytes:
        """Starts a block unless one of this type is open."""
        if self._block == kind:
            return b""
        stop, self._block = self._stop_block(), kind
        self._blocks += 1
        block = {"type": kind, **members}
        return stop + self._event(
            "content_block_start", index=self._blocks - 1, content_block=block
        )

    def _delta(self, kind: str, **members: Any) -> bytes:
        delta = {"type": kind, **members}
        return self._event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _stop_block(self) -> bytes:
        if not self._block:
            return b""
        is_thinking, self._block = self._block == "thinking", ""
        signature = self._delta("signature_delta", signature=SIGNATURE) if is_thinking else b""
        return signature + self._event("content_block_stop", index=self._blocks - 1)

    def _message_delta(self, usage: dict[str, Any], reason: str | None = None) -> bytes:
        output_tokens = usage.get("completion_tokens", self._deltas)
        counts = _input_usage(usage) | {"output_tokens": output_tokens}
        details = usage.get("completion_tokens_details")
        if details is not None:
            counts["output_tokens_details"] = {"thinking_tokens": details["reasoning_tokens"]}
        delta = {"stop_reason": reason, "stop_sequence": None}
        return self._event("message_delta", delta=delta, usage=counts)

    def _event(self, kind: str, **members: Any) -> bytes:
        data = msgspec.json.encode({"type": kind, **members}).decode()
        lines = (f"event: {kind}", f"data: {data}", "")
        return "".join(line + self._line_end for line in lines).encode()


def _input_usage(usage: dict[str, Any]) -> dict[str, Any]:
    """Anthropic includes neither cache reads nor cache writes in `input_tokens`."""
    details = usage.get("prompt_tokens_details") or {}
    cached, written = details.get("cached_tokens", 0), details.get("cache_creation_tokens", 0)
    return {
        "input_tokens": usage.get("prompt_tokens", cached + written) - cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
    }


def _error(error: dict[str, Any]) -> dict[str, Any]:
    kind = error.get("code") or error.get("type")
    return {"type": "error", "error": {"type": kind, "message": error.get("message")}}
