"""Anthropic's Messages API: content blocks that are started, extended and stopped."""

from typing import Any, Final

import msgspec

from legato.mock.dialects import simple_steps, usages
from legato.mock.dialects._calls import ToolCall, arguments_text
from legato.mock.steps import Script, Step

_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}

#: The signature of a thinking block that the script does not sign.
SIGNATURE: Final = "c2NyaXB0ZWQ="

#: Types of errors by status, as the vendor documents them.
_ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

#: The member of a block that each type of delta extends.
_EXTENDED: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}


class MockDialect:
    content_type = "text/event-stream"

    def __init__(self, script: Script, request: dict[str, Any]) -> None:
        self._line_end = script.line_end
        self._status = script.status
        self._late_items = script.late_items
        known = usages(script) or [{}]
        self._first_usage, self._last_usage = known[0], known[-1]
        self._message: dict[str, Any] = {
            "id": "msg_scripted",
            "type": "message",
            "role": "assistant",
            "model": request.get("model"),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _input_usage(self._first_usage) | {"output_tokens": 1},
        }
        self._started = False
        self._finished = False
        self._block = ""  # the type of the open block
        self._late = b""  # the start of the open block, where it is sent after the deltas
        self._arguments = ""  # of the open block
        self._call: str | None = None  # the id of the last tool call
        self._deltas = 0

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        return str(request.get("model"))

    def encode(self, step: Step) -> bytes:
        return b"".join(self._encode(each) for each in simple_steps(step) if not each.choice)

    def whole(self) -> bytes | None:
        self._stop_block()
        return msgspec.json.encode(self._message)

    def encode_error(self, error: dict[str, Any]) -> bytes:
        return msgspec.json.encode(_error(error, self._status))

    @property
    def _blocks(self) -> list[dict[str, Any]]:
        return self._message["content"]

    def _encode(self, step: Step) -> bytes:
        if step.comment is not None:
            return self._event("ping")
        if step.error is not None:
            return self._event("error", error=_error(step.error)["error"])
        if step.event is not None:
            return self._event(**{"kind": "unknown"} | _renamed(step.event))
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
        if step.sign is not None:
            return self._stop_block(step.sign)
        if step.redacted is not None:
            return self._whole_block({"type": "redacted_thinking", "data": step.redacted})
        if step.item is not None:
            return self._whole_block(step.item)
        if step.tool is not None:
            return self._tool(step.tool)
        if step.say is None:
            return b""  # an empty delta
        return self._start_block("text", text="") + self._delta("text_delta", text=step.say)

    def _tool(self, tool: dict[str, Any]) -> bytes:
        function = tool.get("function") or {}
        named = f"toolu_{len(self._blocks)}" if function.get("name") else None
        identity = tool.get("id") or named
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
        return self._event("message_start", message=self._message)

    def _start_block(self, kind: str, **members: Any) -> bytes:
        """Starts a block unless one of this type is open."""
        if self._block == kind:
            return b""
        stop, self._block = self._stop_block(), kind
        self._blocks.append({"type": kind, **members})
        start = self._event(
            "content_block_start", index=len(self._blocks) - 1, content_block=self._blocks[-1]
        )
        if self._late_items:
            self._late, start = start, b""
        return stop + start

    def _whole_block(self, block: dict[str, Any]) -> bytes:
        """A block that has no deltas."""
        members = {name: value for name, value in block.items() if name != "type"}
        return self._start_block(str(block.get("type")), **members) + self._stop_block()

    def _delta(self, kind: str, **members: Any) -> bytes:
        for piece in members.values():
            if kind == "input_json_delta":
                self._arguments += piece
            else:
                self._blocks[-1][_EXTENDED[kind]] += piece
        delta = {"type": kind, **members}
        return self._event("content_block_delta", index=len(self._blocks) - 1, delta=delta)

    def _stop_block(self, signature: str = SIGNATURE) -> bytes:
        if not self._block:
            return b""
        signed = b""
        if self._block == "thinking":
            signed = self._delta("signature_delta", signature=signature)
        elif self._block == "tool_use":
            self._blocks[-1]["input"] = ToolCall("", None, self._arguments).parsed_arguments()
        late, self._late, self._block, self._arguments = self._late, b"", "", ""
        return signed + late + self._event("content_block_stop", index=len(self._blocks) - 1)

    def _message_delta(self, usage: dict[str, Any], reason: str | None = None) -> bytes:
        output_tokens = usage.get("completion_tokens", self._deltas)
        counts = _input_usage(usage) | {"output_tokens": output_tokens}
        details = usage.get("completion_tokens_details")
        if details is not None:
            thinking = details.get("reasoning_tokens")
            counts["output_tokens_details"] = (
                {} if thinking is None else {"thinking_tokens": thinking}
            )
        delta = {"stop_reason": reason, "stop_sequence": None}
        self._message |= {**delta, "usage": counts}
        return self._event("message_delta", delta=delta, usage=counts)

    def _event(self, kind: str, **members: Any) -> bytes:
        data = msgspec.json.encode({"type": kind, **members}).decode()
        lines = (f"event: {kind}", f"data: {data}", "")
        return "".join(line + self._line_end for line in lines).encode()


def _renamed(event: dict[str, Any]) -> dict[str, Any]:
    return {"kind" if name == "type" else name: value for name, value in event.items()}


def _input_usage(usage: dict[str, Any]) -> dict[str, Any]:
    """Anthropic includes neither cache reads nor cache writes in `input_tokens`."""
    details = usage.get("prompt_tokens_details") or {}
    cached, written = details.get("cached_tokens", 0), details.get("cache_creation_tokens", 0)
    counts = {
        "input_tokens": usage.get("prompt_tokens", cached + written) - cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
    }
    if for_an_hour := details.get("cache_creation_1h_tokens"):
        counts["cache_creation"] = {
            "ephemeral_5m_input_tokens": written - for_an_hour,
            "ephemeral_1h_input_tokens": for_an_hour,
        }
    return counts


def _error(error: dict[str, Any], status: int = 200) -> dict[str, Any]:
    """`status`: of the response; an error in a stream keeps the name that its script gives it."""
    kind = error.get("code") or error.get("type")
    if error.get("type") in _ERROR_TYPES.values():
        kind = error["type"]
    elif status >= 400:
        kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    described = {"type": kind, "message": error.get("message")}
    return {"type": "error", "error": described, "request_id": "req_scripted"}
