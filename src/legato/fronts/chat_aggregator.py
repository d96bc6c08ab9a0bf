"""Folds a stream into one chat.completion: the answer of a client that did not ask to stream."""

from typing import Any

import msgspec
from msgspec import Raw

from legato.core.chunk import Chunk, Usage
from legato.core.errors import ApiError
from legato.core.front import AnswerHead
from legato.core.merge import merge_choice, to_builtins
from legato.core.subscriber import WriteText

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


class ChatAggregator:
    """A subscriber that folds; `answer` is the chat.completion object of a complete stream."""

    __slots__ = ("_choices", "_extras", "_last_extras", "error", "usage")

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, Any]] = {}
        self._extras: dict[str, Raw] = {}
        self._last_extras = b""  # nearly always the same in every chunk
        self.usage: Usage | None = None
        self.error: ApiError | None = None

    @property
    def is_paused(self) -> bool:
        return False

    def push(self, chunk: Chunk) -> None:
        self._add_extras(chunk.extras)
        for member in chunk.members():
            merge_choice(self._choices.setdefault(member["index"], {}), member)

    def _add_extras(self, extras: bytes) -> None:
        if extras and extras != self._last_extras:
            self._last_extras = extras
            self._extras |= _decode_members(b"{%b}" % extras[1:])

    def flush(self) -> None:
        return None

    def relay(self, name: bytes, data: bytes) -> None:
        """Chunks are what is folded here."""

    def text_writer(self, chunk: Chunk, raw: tuple[bytes, bytes]) -> WriteText | None:
        return None

    def event_writer(self, event: bytes) -> WriteText | None:
        return None

    def start_over(self) -> None:
        self._choices = {}
        self._extras = {}
        self._last_extras = b""

    def complete(self, usage: Usage, extras: bytes) -> None:
        self.usage = usage
        self._add_extras(extras)

    def fail(self, error: ApiError) -> None:
        self.error = error

    def answer(self, head: AnswerHead) -> bytes:
        """The body of a 200: OpenAI's CreateChatCompletionResponse."""
        answer: dict[str, Any] = {
            "id": head.identity,
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "choices": [_choice(self._choices[index]) for index in sorted(self._choices)],
        }
        if self.usage is not None:
            answer["usage"] = self.usage
        return msgspec.json.encode(answer | self._extras)


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice in OpenAI's order, with the required members; the delta becomes the message."""
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
        name: value
        for name, value in choice.items()
        if name not in ("index", "delta", "logprobs", "finish_reason")
    }
    return {
        "index": choice["index"],
        "message": message | delta,
        "logprobs": choice.get("logprobs"),
        "finish_reason": choice.get("finish_reason"),
    } | rest
