"""How a script's steps are said in each dialect: the writing half that `dialects` has no use for.

One file is one dialect; the path of a request tells which one is spoken. What breaks the connection
or the body as such (cuts, stalls, pieces, compression, raw bytes) is no voice's business.
"""

import importlib
from collections.abc import Iterable
from typing import Any, Final, Protocol, cast

import msgspec
from msgspec.structs import replace

from legato.core.chunk import as_object
from legato.mock.steps import Script, Step

#: The dialect that is spoken where a request's path (without its query) ends like this.
PATHS: Final = {
    "/chat/completions": "openai",
    "/v1/messages": "anthropic",
    "/api/chat": "ollama",
    ":streamGenerateContent": "gemini",
    ":generateContent": "gemini",
}


class MockDialect(Protocol):
    """One answer in a dialect's words: made for one request, it remembers what it has said.

    Each file of this folder has one, under the name `MockDialect`.
    """

    kind: str
    """The content type of a stream."""

    def __init__(self, script: Script, request: dict[str, Any]) -> None: ...

    @staticmethod
    def model(path: str, request: dict[str, Any]) -> str:
        """The model that a request names: the script's name."""
        ...

    def say(self, step: Step) -> bytes:
        """The bytes of a step, whole events; none where the dialect has no words for it.

        Only steps that say something come here: never waits, cuts, stalls and raw bytes.
        """
        ...

    def error(self, error: dict[str, Any]) -> bytes:
        """The body of an answer that is no stream. `error`: OpenAI's error object."""
        ...


def of(path: str) -> type[MockDialect] | None:
    """The voice that answers a POST to `path`, or None."""
    for end, name in PATHS.items():
        if path.partition("?")[0].endswith(end):
            return cast(
                "type[MockDialect]", importlib.import_module(f"{__name__}.{name}").MockDialect
            )
    return None


def listing(path: str, names: Iterable[str]) -> dict[str, Any]:
    """The models, in the words of whoever is asked for them at `path`."""
    if path.startswith("/api/tags"):
        return {"models": [{"name": name, "model": name} for name in names]}
    if path.startswith("/v1beta/models"):
        methods = ["generateContent", "countTokens"]
        said = [{"name": f"models/{name}", "supportedGenerationMethods": methods} for name in names]
        return {"models": said}
    # OpenAI's, which holds what Anthropic's has.
    said = [
        {"id": name, "object": "model", "type": "model", "display_name": name} for name in names
    ]
    return {"object": "list", "data": said, "has_more": False}


def body(dialect: MockDialect, text: str) -> bytes:
    """A script's `body`: in the words of `voice` where it is an error of OpenAI's."""
    try:
        error = as_object((as_object(msgspec.json.decode(text)) or {}).get("error"))
    except msgspec.DecodeError:
        error = None
    return dialect.error(error) if error else text.encode()


def plain(step: Step) -> list[Step]:
    """What a `delta` or a `chunk` of OpenAI's amounts to, for voices that have other words: steps
    with one member each."""
    if step.finish is not None and step != Step(finish=step.finish, choice=step.choice):
        last = Step(finish=step.finish, choice=step.choice)
        return [*plain(replace(step, finish=None)), last]
    if step.delta is not None:
        return _of_delta(step.delta, step.choice)
    if step.chunk is None:
        return [step]
    steps: list[Step] = []
    if step.chunk.get("error") is not None:
        steps.append(Step(error=step.chunk["error"]))
    for choice in step.chunk.get("choices") or ():
        index = choice.get("index") or 0
        steps += _of_delta(choice.get("delta") or {}, index)
        if choice.get("finish_reason"):
            steps.append(Step(finish=choice["finish_reason"], choice=index))
    if step.chunk.get("usage"):
        steps.append(Step(usage=step.chunk["usage"]))
    return steps


def _of_delta(delta: dict[str, Any], choice: int) -> list[Step]:
    thought = delta.get("reasoning_content") or delta.get("reasoning")
    steps = [Step(think=thought, choice=choice)] if thought else []
    if delta.get("content"):
        steps.append(Step(say=delta["content"], choice=choice))
    return steps + [Step(tool=call, choice=choice) for call in delta.get("tool_calls") or ()]
