"""Encodes a script's steps in each upstream format: the counterpart of the readers in
`legato.dialects`.

One file is one dialect. The path of a request selects it. What affects the connection or the body
as a whole (cuts, stalls, write sizes, compression, raw bytes) is not encoded here but in `server`.
"""

import importlib
from collections.abc import Iterable
from typing import Any, Final, Protocol, cast

import msgspec
from msgspec.structs import replace

from legato.core.chunk import as_object
from legato.mock.steps import Script, Step

#: Dialects by the end of the request's path, without the query.
PATHS: Final = {
    "/chat/completions": "openai",
    "/completions": "completions",  # behind the longer path
    "/v1/messages": "anthropic",
    "/responses": "openai_responses",
    "/api/chat": "ollama",
    ":streamGenerateContent": "gemini",
    ":generateContent": "gemini",
}


class MockDialect(Protocol):
    """Encodes one response. It is created for one request and keeps state between steps.

    Each module of this package defines one class with this name.
    """

    content_type: str
    """The content type of a stream."""

    def __init__(self, script: Script, request: dict[str, Any]) -> None: ...

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        """The model that a request names, which is the name of a script."""
        ...

    def encode(self, step: Step) -> bytes:
        """The bytes of a step as complete events; empty if the dialect has no event for it.

        Never called for waits, cuts, stalls and raw bytes.
        """
        ...

    def whole(self) -> bytes | None:
        """The steps so far as an answer that is not streamed; None where the dialect has only
        streams."""
        ...

    def encode_error(self, error: dict[str, Any]) -> bytes:
        """The body of an error response. `error`: an OpenAI error object."""
        ...


def for_path(path: str) -> type[MockDialect] | None:
    """The dialect of a POST to `path`; None if there is none."""
    for end, name in PATHS.items():
        if path.partition("?")[0].endswith(end):
            return cast(
                "type[MockDialect]", importlib.import_module(f"{__name__}.{name}").MockDialect
            )
    return None


def name_of(dialect: type[MockDialect]) -> str:
    """The name of a dialect, as scripts and deployments have it."""
    return dialect.__module__.rpartition(".")[2].replace("_", "-")


def model_list(path: str, names: Iterable[str]) -> dict[str, Any]:
    """The response to a GET of the list of models at `path`."""
    if path.startswith("/api/tags"):
        return {"models": [{"name": name, "model": name} for name in names]}
    if path.startswith("/v1beta/models"):
        methods = ["generateContent", "countTokens"]
        return {
            "models": [
                {"name": f"models/{name}", "supportedGenerationMethods": methods} for name in names
            ]
        }
    # OpenAI's format, with the fields of Anthropic's added.
    models = [
        {"id": name, "object": "model", "type": "model", "display_name": name} for name in names
    ]
    return {"object": "list", "data": models, "has_more": False}


def encode_body(dialect: MockDialect, text: str) -> bytes:
    """A script's `body`; an OpenAI error object in it is converted to the dialect's format."""
    try:
        error = as_object((as_object(msgspec.json.decode(text)) or {}).get("error"))
    except msgspec.DecodeError:
        error = None
    return dialect.encode_error(error) if error else text.encode()


def simple_steps(step: Step) -> list[Step]:
    """Splits a step into steps with one field each; an OpenAI `delta` or `chunk` is converted to
    such steps, for dialects with other formats."""
    if step.finish is not None and step != Step(finish=step.finish, choice=step.choice):
        finish = Step(finish=step.finish, choice=step.choice)
        return [*simple_steps(replace(step, finish=None)), finish]
    if step.delta is not None:
        return _delta_steps(step.delta, step.choice)
    if step.chunk is None:
        return [step]
    steps: list[Step] = []
    if step.chunk.get("error") is not None:
        steps.append(Step(error=step.chunk["error"]))
    for choice in step.chunk.get("choices") or ():
        index = choice.get("index") or 0
        steps += _delta_steps(choice.get("delta") or {}, index)
        if choice.get("finish_reason"):
            steps.append(Step(finish=choice["finish_reason"], choice=index))
        if choice.get("usage"):
            steps.append(Step(usage=choice["usage"]))
    if step.chunk.get("usage"):
        steps.append(Step(usage=step.chunk["usage"]))
    return steps


def usages(script: Script) -> list[dict[str, Any]]:
    """All usage objects of a script, in order."""
    steps = (each for step in script.steps for each in simple_steps(step))
    return [step.usage for step in steps if step.usage]


def _delta_steps(delta: dict[str, Any], choice: int) -> list[Step]:
    reasoning = delta.get("reasoning_content") or delta.get("reasoning")
    steps = [Step(think=reasoning, choice=choice)] if reasoning else []
    content = delta.get("content") or []
    for part in [content] if isinstance(content, str) else content:
        steps += _part_steps(part, choice)
    calls: list[dict[str, Any]] = list(delta.get("tool_calls") or ())
    if delta.get("function_call"):
        calls.append({"function": delta["function_call"]})
    return steps + [Step(tool=call, choice=choice) for call in calls]


def _part_steps(part: Any, choice: int) -> list[Step]:
    """A delta's text, or one part of it: text, or reasoning that has parts itself."""
    if isinstance(part, str):
        return [Step(say=part, choice=choice)]
    if part.get("type") == "thinking":
        return [Step(think=each["text"], choice=choice) for each in part["thinking"]]
    return [Step(say=part["text"], choice=choice)] if part.get("type") == "text" else []
