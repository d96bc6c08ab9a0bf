"""A stream folded into one answer: what a client gets that did not ask to stream."""

from typing import Any

import msgspec

from legato.core.chunk import Chunk, Usage
from legato.core.errors import ApiError
from legato.core.merge import merge_choice, to_builtins


class ChatAggregator:
    """A subscriber that folds; `answer` is the chat.completion object of a complete stream."""

    __slots__ = ("_choices", "_extras", "error", "usage")

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, Any]] = {}
        self._extras = b""
        self.usage: Usage | None = None
        self.error: ApiError | None = None

    @property
    def is_paused(self) -> bool:
        return False

    def push(self, chunk: Chunk) -> None:
        if chunk.extras:
            self._extras = chunk.extras
        for member in chunk.members():
            merge_choice(self._choices.setdefault(member["index"], {}), member)

    def flush(self) -> None:
        return None

    def start_over(self) -> None:
        """What has come is void."""
        self._choices = {}
        self._extras = b""

    def complete(self, usage: Usage, extras: bytes) -> None:
        self.usage = usage
        self._extras = extras or self._extras

    def fail(self, error: ApiError) -> None:
        self.error = error

    def answer(self, *, identity: str, created: int, model: str) -> bytes:
        """The body of a 200: OpenAI's CreateChatCompletionResponse."""
        head: dict[str, Any] = {
            "id": identity,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [_choice(self._choices[index]) for index in sorted(self._choices)],
        }
        if self.usage is not None:
            head["usage"] = self.usage
        return msgspec.json.encode(head)[:-1] + self._extras + b"}"


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's order and required members; the delta has become the message."""
    choice = to_builtins(choice)
    delta = choice["delta"]
    message: dict[str, Any] = {
        "role": delta.pop("role", "assistant"),
        "content": delta.pop("content", None) or None,
        "refusal": delta.pop("refusal", None),
    }
    if message["content"] is None and not (delta.get("tool_calls") or delta.get("function_call")):
        message["content"] = ""
    calls = delta.pop("tool_calls", None)
    if calls is not None:
        message["tool_calls"] = [
            {name: value for name, value in call.items() if name != "index"} for call in calls
        ]
    rest = {
        k: v for k, v in choice.items() if k not in ("index", "delta", "logprobs", "finish_reason")
    }
    return {
        "index": choice["index"],
        "message": message | delta,
        "logprobs": choice.get("logprobs"),
        "finish_reason": choice.get("finish_reason"),
    } | rest
