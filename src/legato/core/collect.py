"""A stream folded into one answer: what a client gets that did not ask to stream."""

from typing import Any, Final, cast

import msgspec

from legato.core.chunk import Chunk, Usage, as_object
from legato.core.errors import ApiError


class Collector:
    """A subscriber that folds; `answer` is the chat.completion object of a complete stream."""

    __slots__ = ("_choices", "_extras", "error", "usage")

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, Any]] = {}
        self._extras = b""
        self.usage: Usage | None = None
        self.error: ApiError | None = None

    def push(self, chunk: Chunk) -> None:
        if chunk.extras:
            self._extras = chunk.extras
        for member in chunk.members():
            fold(self._choices.setdefault(member["index"], {}), member)

    def flush(self) -> None:
        return None

    def complete(self, usage: Usage | None) -> None:
        self.usage = usage

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


def fold(choice: dict[str, Any], member: dict[str, Any]) -> None:
    """Adds a chunk's choice to what has come of it: deltas are joined, the rest is replaced."""
    for name, value in member.items():
        if name == "delta":
            delta = choice.setdefault("delta", {})
            for key, said in value.items():
                _join(delta, key, said)
        elif name == "logprobs" and (more := as_object(value)) is not None:
            logprobs = as_object(choice.get("logprobs")) or {}
            choice["logprobs"] = logprobs
            for key, said in more.items():
                _join(logprobs, key, said)
        elif value is not None or name not in choice:
            choice[name] = value


class _Text(list[str]):
    """Text on its way: to join a hundred thousand pieces one by one would copy all each time."""


#: Members of deltas and tool calls that are said once, not bit by bit.
_SAID_ONCE: Final = frozenset({"role", "id", "type", "name"})


def _join(owner: dict[str, Any], name: str, said: Any) -> None:
    """Text goes on, lists grow, tool calls are joined by index, all else is said anew."""
    before = owner.get(name)
    if name == "tool_calls":
        calls = cast("list[dict[str, Any]]", owner.setdefault(name, []))
        for call in cast("list[dict[str, Any]]", said):
            index = int(call["index"])
            while len(calls) <= index:
                calls.append({})
            _join_call(calls[index], call)
    elif isinstance(said, str) and name not in _SAID_ONCE:
        if isinstance(before, _Text):
            before.append(said)
        else:
            owner[name] = _Text([said])
    elif isinstance(said, list):
        if not isinstance(before, list):
            before = owner[name] = list[Any]()
        cast("list[Any]", before).extend(cast("list[Any]", said))
    elif said is not None or name not in owner:
        owner[name] = said


def _join_call(call: dict[str, Any], said: dict[str, Any]) -> None:
    function = call.setdefault("function", {})
    for name, value in said.items():
        if name == "function":
            for key, part in value.items():
                _join(function, key, part)
        else:
            _join(call, name, value)


def plain(value: Any) -> Any:
    """What was folded, as JSON has it."""
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, dict):
        return {name: plain(each) for name, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [plain(each) for each in cast("list[Any]", value)]
    return value


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's order and required members; the delta has become the message."""
    choice = plain(choice)
    delta = choice["delta"]
    message: dict[str, Any] = {
        "role": delta.pop("role", "assistant"),
        "content": delta.pop("content", None) or None,
        "refusal": delta.pop("refusal", None),
    }
    if message["content"] is None and not delta.get("tool_calls"):
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
