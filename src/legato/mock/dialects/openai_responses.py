"""OpenAI's Responses API: output items that are added, extended and done."""

from typing import Any, Final

import msgspec

from legato.mock.dialects import simple_steps, usages
from legato.mock.dialects._calls import arguments_text
from legato.mock.dialects._response_items import Item, new_item
from legato.mock.steps import Script, Step

#: Why a response is incomplete, by finish reason; with every other it is complete.
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}

#: The encrypted content of a reasoning item that the script does not sign.
ENCRYPTED: Final = "c2NyaXB0ZWQ="

#: Members of a response that repeat the request, with the value of a request without them.
_REPEATED: Final[dict[str, Any]] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
}


class MockDialect:
    content_type = "text/event-stream"

    def __init__(self, script: Script, request: dict[str, Any]) -> None:
        self._script = script
        known = usages(script)
        self._usage = _usage(known[-1]) if known else None
        repeated = {name: request.get(name) or value for name, value in _REPEATED.items()}
        self._response: dict[str, Any] = repeated | {
            "id": "resp_scripted",
            "object": "response",
            "created_at": 1_700_000_001,
            "completed_at": None,
            "status": "in_progress",
            "model": request.get("model"),
            "error": None,
            "incomplete_details": None,
            "output": [],
        }
        self._number = 0
        self._started = False
        self._finished = False
        self._item: Item | None = None  # the open one
        self._calls = 0

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        return str(request.get("model"))

    def encode(self, step: Step) -> bytes:
        refusal = (step.delta or {}).get("refusal")
        refused = self._start() + self._extend("refusal", refusal) if refusal else b""
        steps = simple_steps(step)
        return refused + b"".join(self._encode(each) for each in steps if not each.choice)

    def whole(self) -> bytes | None:
        if self._item is not None:
            self._item.settle("incomplete")
        return msgspec.json.encode(self._response)

    def encode_error(self, error: dict[str, Any]) -> bytes:
        members = {"message": error.get("message"), "type": error.get("type")}
        members |= {"param": error.get("param"), "code": error.get("code")}
        return msgspec.json.encode({"error": members})

    def _encode(self, step: Step) -> bytes:
        if step.comment is not None:
            return self._lines(f": {step.comment}", "")
        if step.error is not None:
            return self._error(step.error)
        if step.event is not None:
            members = {name: value for name, value in step.event.items() if name != "type"}
            return self._event(str(step.event.get("type")), **members)
        if step.done:
            # The response is the last event; a stream without one ends as other servers end theirs.
            return b"" if self._finished else self._lines("data: [DONE]", "")
        if step.usage is not None:
            return b""  # in the last event
        if step.finish is not None:
            return self._start() + self._end(step.finish)
        return self._start() + self._content(step)

    def _start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        return self._of_response("response.created") + self._of_response("response.in_progress")

    def _content(self, step: Step) -> bytes:
        if step.think is not None:
            return self._extend("reasoning", step.think)
        if step.say is not None:
            return self._extend("message", step.say)
        if step.tool is not None:
            return self._tool(step.tool)
        if step.sign is not None:
            if self._item is not None and self._item.kind == "reasoning":
                self._item.fields["encrypted_content"] = step.sign
            return self._close()
        if step.redacted is not None:
            item = {"type": "reasoning", "summary": [], "encrypted_content": step.redacted}
            return self._whole_item(item)
        return self._whole_item(step.item) if step.item is not None else b""

    def _tool(self, entry: dict[str, Any]) -> bytes:
        function = entry.get("custom") or entry.get("function") or {}
        identity = entry.get("id") or (f"call_{self._calls}" if function.get("name") else None)
        events = b""
        if identity is not None and (
            self._item is None or self._item.fields.get("call_id") != identity
        ):
            self._calls += 1
            kind = "custom_tool_call" if entry.get("custom") else "function_call"
            named = {"call_id": identity, "name": function.get("name")}
            if function.get("namespace"):
                named["namespace"] = function["namespace"]
            events = self._open(kind, **named)
        if self._item is None:
            return events  # more of a call that never began
        return events + self._events(
            self._item.extend(function.get("input") or arguments_text(function))
        )

    def _extend(self, kind: str, text: str) -> bytes:
        """Adds text to the open item, or to a new one if the open one is of another kind."""
        start = b"" if self._item is not None and self._item.kind == kind else self._open(kind)
        return start + (self._events(self._item.extend(text)) if self._item is not None else b"")

    def _open(self, kind: str, **members: Any) -> bytes:
        closed = self._close()
        index = len(self._response["output"])
        self._item = new_item(kind, index, members)
        if kind == "reasoning":
            self._item.fields["encrypted_content"] = ENCRYPTED
        self._response["output"].append(self._item.fields)
        if self._script.late_items:
            return closed
        return closed + self._events(self._item.start())

    def _close(self, status: str = "completed") -> bytes:
        item, self._item = self._item, None
        if item is None:
            return b""
        late = self._events(item.start()) if self._script.late_items else b""
        return late + self._events(item.end(status))

    def _whole_item(self, fields: dict[str, Any]) -> bytes:
        """An item that has no deltas."""
        closed = self._close()
        index = len(self._response["output"])
        item = {"id": f"item_{index}", **fields}
        self._response["output"].append(item)
        added = self._event("response.output_item.added", output_index=index, item=item)
        return (
            closed + added + self._event("response.output_item.done", output_index=index, item=item)
        )

    def _end(self, reason: str) -> bytes:
        self._finished = True
        why = _INCOMPLETE.get(reason)
        status = "incomplete" if why else "completed"
        closed = self._close(status)
        self._response["status"] = status
        if self._usage is not None:
            self._response["usage"] = self._usage
        if why:
            self._response["incomplete_details"] = {"reason": why}
        else:
            self._response["completed_at"] = self._response["created_at"]
        return closed + self._of_response(f"response.{status}")

    def _error(self, error: dict[str, Any]) -> bytes:
        described = {"code": error.get("code") or error.get("type")}
        described |= {"message": error.get("message")}
        if self._script.error_in == "event":
            return self._event("error", **described, param=error.get("param"))
        start = self._start()
        if self._item is not None:
            self._item.settle("incomplete")
        self._response["status"] = "failed"
        if self._script.error_in == "beside":
            return start + self._event("response.failed", response=self._response, error=described)
        self._response["error"] = described
        return start + self._of_response("response.failed")

    def _of_response(self, kind: str) -> bytes:
        return self._event(kind, response=self._response)

    def _events(self, events: list[dict[str, Any]]) -> bytes:
        return b"".join(self._event(each.pop("type"), **each) for each in events)

    def _event(self, kind: str, **members: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **members}
        self._number += 1
        return self._lines(f"event: {kind}", f"data: {msgspec.json.encode(event).decode()}", "")

    def _lines(self, *lines: str) -> bytes:
        return "".join(line + self._script.line_end for line in lines).encode()


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    """A details object that the script leaves empty stays empty."""
    read = usage.get("prompt_tokens_details", {"cached_tokens": 0})
    thought = usage.get("completion_tokens_details", {"reasoning_tokens": 0})
    return {
        "input_tokens": usage.get("prompt_tokens", 0),
        "input_tokens_details": {"cache_write_tokens": 0, **read} if read else {},
        "output_tokens": usage.get("completion_tokens", 0),
        "output_tokens_details": thought,
        "total_tokens": usage.get("total_tokens", 0),
    }
