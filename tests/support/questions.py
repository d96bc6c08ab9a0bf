"""One question in the words of each front, and of the Vercel AI SDK."""

import json
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

PNG = "iVBORw0KGgo="

SUM: Json = {
    "name": "sum",
    "description": "Adds two numbers",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
NOW: Json = {
    "name": "now",
    "description": "Tells the time",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    },
}

#: What the tools give, for the clients that go on with it.
RESULTS = {"sum": "The sum is 3.", "now": "The time is noon."}


@dataclass(frozen=True)
class Question:
    """`said`, `called`: what was answered when the same was asked before, which a small model
    repeats: the text, and before it calls, (name, arguments) each. `calls`: a tool has to be
    called; `several`: or more than one. `usage`: whether it is asked for where a client has to ask.
    """

    text: str = "Hello"
    image: bool = False
    said: str | None = None
    called: tuple[tuple[str, Json], ...] = ()
    tools: tuple[Json, ...] = (SUM, NOW)
    calls: bool = False
    several: bool = False
    limit: int = 100
    temperature: float | None = None
    usage: bool = True

    def body(self, front: str, model: str) -> Json:
        """A request of `front`, or what `js/ai.mjs` takes."""
        body = _BODIES[front](self)
        common: Json = {"model": model, "temperature": self.temperature}
        return {name: value for name, value in (common | body).items() if value is not None}


@dataclass
class Seen:
    """What came out of an SDK for one answer."""

    text: list[str] = field(default_factory=list)  # a member for each delta
    thoughts: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)  # [id, name, arguments]; whole ones
    finish: str | None = None
    usage: list[int] | None = None  # tokens: prompt, answer, its reasoning, cached of the prompt
    error: str | None = None  # "code: message"
    status: int | None = None  # of HTTP, where the error is one


def _history(question: Question, said: Any, calls: list[Json], results: list[Json]) -> list[Json]:
    """`said`: the content of the question."""
    asked = {"role": "user", "content": said}
    if question.said is None:
        return [asked]
    turn = [*calls, *results] if question.called else []
    return [asked, *turn, {"role": "assistant", "content": question.said}, asked]


def _ids(question: Question) -> list[tuple[str, str, Json]]:
    """(id, name, arguments) of each call before."""
    return [(f"call_{index}", *called) for index, called in enumerate(question.called)]


def _chat(question: Question) -> Json:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    called = _ids(question)
    calls = [
        {"id": each, "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
        for each, name, given in called
    ]
    results = [{"role": "tool", "tool_call_id": each, "content": "3"} for each, *_ in called]
    turn = [{"role": "assistant", "content": None, "tool_calls": calls}]
    return {
        "messages": _history(question, _said(question, "text", image), turn, results),
        "tools": [{"type": "function", "function": each} for each in question.tools] or None,
        "tool_choice": "required" if question.calls else None,
        "parallel_tool_calls": question.several or None,
        "max_tokens": question.limit,
        "stream_options": {"include_usage": True} if question.usage else None,
    }


def _messages(question: Question) -> Json:
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
    }
    called = _ids(question)
    calls = [
        {"type": "tool_use", "id": each, "name": name, "input": given}
        for each, name, given in called
    ]
    results = [{"type": "tool_result", "tool_use_id": each, "content": "3"} for each, *_ in called]
    choice: Json = {"type": "any"}
    if question.several:
        choice["disable_parallel_tool_use"] = False
    tools = [
        {
            "name": each["name"],
            "description": each["description"],
            "input_schema": each["parameters"],
            "strict": each["strict"],
        }
        for each in question.tools
    ]
    return {
        "messages": _history(
            question,
            _said(question, "text", image),
            [{"role": "assistant", "content": calls}],
            [{"role": "user", "content": results}],
        ),
        "tools": tools or None,
        "tool_choice": choice if question.calls else None,
        "max_tokens": question.limit,
    }


def _responses(question: Question) -> Json:
    image = {
        "type": "input_image",
        "image_url": f"data:image/png;base64,{PNG}",
        "detail": "auto",
    }
    called = _ids(question)
    calls = [
        {"type": "function_call", "call_id": each, "name": name, "arguments": json.dumps(given)}
        for each, name, given in called
    ]
    results = [
        {"type": "function_call_output", "call_id": each, "output": "3"} for each, *_ in called
    ]
    return {
        "input": _history(question, _said(question, "input_text", image), calls, results),
        "tools": [{"type": "function", **each} for each in question.tools] or None,
        "tool_choice": "required" if question.calls else None,
        "parallel_tool_calls": question.several or None,
        "max_output_tokens": question.limit,
    }


def _ai(question: Question) -> Json:
    image = {"type": "image", "image": PNG, "mediaType": "image/png"}
    called = _ids(question)
    calls = [
        {"type": "tool-call", "toolCallId": each, "toolName": name, "input": given}
        for each, name, given in called
    ]
    output = {"type": "text", "value": "3"}
    results = [
        {"type": "tool-result", "toolCallId": each, "toolName": name, "output": output}
        for each, name, _ in called
    ]
    return {
        "messages": _history(
            question,
            _said(question, "text", image),
            [{"role": "assistant", "content": calls}],
            [{"role": "tool", "content": results}],
        ),
        "tools": list(question.tools),
        "toolChoice": "required" if question.calls else None,
        "maxOutputTokens": question.limit,
        "usage": question.usage,
    }


def _said(question: Question, kind: str, image: Json) -> Any:
    text = {"type": kind, "text": question.text}
    return [text, image] if question.image else question.text


_BODIES = {"chat": _chat, "messages": _messages, "responses": _responses, "ai-sdk": _ai}
