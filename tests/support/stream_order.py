"""The order that a streamed body must have, and what a client makes of it: sections 2 and 4 of the
contract as two small tables and a fold, with nothing in it of the code under test."""

import json
from typing import Any, Final, Literal

Json = dict[str, Any]

#: What a client asked for. last: usage once, at the end; running: in every chunk as well.
Usage = Literal["none", "last", "running"]

#: Kinds of frames, and which may come behind which. Behind `done` and `error` there is nothing.
_FRAMES: Final[dict[str, set[str]]] = {
    "": {"comment", "chunk", "error"},
    "comment": {"comment", "chunk", "usage", "done", "error"},
    "chunk": {"comment", "chunk", "usage", "done", "error"},
    "usage": {"done"},
    "done": set(),
    "error": set(),
}

#: The same for what is said of one choice.
_CHOICES: Final[dict[str, set[str]]] = {
    "": {"role"},
    "role": {"delta", "finish"},
    "delta": {"delta", "finish"},
    "finish": set(),
}

_ROLE: Final = {"role": "assistant", "content": ""}
_FINISHES: Final = {"stop", "length", "tool_calls", "content_filter", "function_call"}
_HEAD: Final = ("id", "object", "created", "model")
_ERROR: Final = {"message", "type", "param", "code"}


def split(body: bytes) -> list[bytes]:
    """The frames of a body: each ends with a blank line, and is one line whoever reads it."""
    assert body.endswith(b"\n\n"), f"a frame without its end: {body[-80:]!r}"
    frames = body[:-2].split(b"\n\n")
    for frame in frames:
        assert len(frame.decode().splitlines()) == 1, f"not one line: {frame!r}"
        assert frame.startswith((b"data: ", b": ")), f"neither data nor a comment: {frame!r}"
    return frames


class Heard:
    """A whole body, read in order; raises AssertionError where it is not legal."""

    def __init__(self, body: bytes, usage: Usage = "none") -> None:
        self.chunks: list[Json] = []  # all but the last one with the usage
        self.comments: list[bytes] = []
        self.usage: Json | None = None
        self.error: Json | None = None
        self.done = False
        self.extras: Json = {}  # members of the last chunk that had some that nobody knows
        self._wants = usage
        self._last = ""
        self._choices: dict[int, Json] = {}
        self._stands: dict[int, str] = {}
        for frame in split(body):
            self._take(frame)
        assert self.done or self.error is not None, f"it ends behind a {self._last}"
        if self.done:
            assert set(self._stands.values()) == {"finish"}, "complete, and a finish is missing"
            assert (self.usage is None) is (usage == "none"), "usage that was not asked for, or not"

    def _take(self, frame: bytes) -> None:
        event = json.loads(frame[6:]) if frame.startswith(b"data: {") else {}
        kind = "chunk"
        if frame.startswith(b":"):
            kind = "comment"
        elif frame == b"data: [DONE]":
            kind = "done"
        elif "error" in event:
            kind = "error"
        elif event["choices"] == []:
            kind = "usage"
        assert kind in _FRAMES[self._last], f"{kind} behind {self._last}: {frame!r}"
        self._last = kind
        if kind == "comment":
            self.comments.append(frame)
        elif kind == "done":
            self.done = True
        elif kind == "error":
            self._fail(event)
        else:
            self._chunk(event, is_usage=kind == "usage")

    def _fail(self, event: Json) -> None:
        assert set(event) == {"error"}
        assert set(event["error"]) == _ERROR, event
        self.error = event["error"]

    def _chunk(self, chunk: Json, *, is_usage: bool) -> None:
        head = [chunk[name] for name in _HEAD]
        before = [self.chunks[0][name] for name in _HEAD] if self.chunks else head
        assert head == before, "id, object, created or model has changed"
        if is_usage:
            self.usage = chunk["usage"]
            return
        assert ("usage" in chunk) is (self._wants != "none"), chunk
        assert isinstance(chunk.get("usage"), dict) is (self._wants == "running"), chunk
        self.chunks.append(chunk)
        known = (*_HEAD, "choices", "usage", "obfuscation")
        self.extras = {k: v for k, v in chunk.items() if k not in known} or self.extras
        for member in chunk["choices"]:
            self._member(member)

    def _member(self, member: Json) -> None:
        index, delta, reason = member["index"], member["delta"], member["finish_reason"]
        kind = "delta" if reason is None else "finish"
        if "role" in delta:
            assert delta == _ROLE, f"a role that is not alone: {member}"
            assert reason is None
            kind = "role"
        elif reason is not None:
            assert reason in _FINISHES, member
            assert delta == {}, f"a finish that is not alone: {member}"
        if index not in self._stands:
            assert index == len(self._stands), f"a hole in the indices: {member}"
        assert kind in _CHOICES[self._stands.get(index, "")], f"out of order: {member}"
        self._stands[index] = kind
        _fold(self._choices.setdefault(index, {"message": {}, "calls": []}), member)

    # What a client makes of it

    @property
    def choices(self) -> list[Json]:
        """As an answer has them that is not streamed."""
        return [_folded(self._choices[index]) for index in sorted(self._choices)]

    def text(self, choice: int = 0, member: str = "content") -> str:
        return self._choices.get(choice, {"message": {}})["message"].get(member) or ""


def _fold(choice: Json, member: Json) -> None:
    delta = dict(member["delta"])
    for call in delta.pop("tool_calls", ()):
        _call(choice["calls"], call)
    for name, more in delta.items():
        _grow(choice["message"], name, more)
    for name, more in (member.get("logprobs") or {}).items():
        _grow(choice.setdefault("logprobs", {}), name, more)
    for name, more in member.items():
        if name not in ("delta", "logprobs") and (more is not None or name not in choice):
            choice[name] = more


def _call(calls: list[Json], delta: Json) -> None:
    kind = "custom" if "custom" in delta else "function"
    index, function = delta["index"], delta.get(kind, {})
    assert index <= len(calls), f"a hole in the indices of tool calls: {delta}"
    if index == len(calls):
        assert delta["id"], delta
        assert delta["type"] == kind, delta
        assert function.get("name"), f"a call without a name: {delta}"
        calls.append({"id": delta["id"], "type": kind, kind: {}})
    else:
        assert not {"id", "type"} & delta.keys(), f"an id is sent twice: {delta}"
        assert "name" not in function, f"a name is sent twice: {delta}"
    for name, more in function.items():
        _grow(calls[index][kind], name, more)
    for name in delta.keys() - {"index", "id", "type", kind}:
        _grow(calls[index], name, delta[name])


def _grow(owner: Json, name: str, more: Any) -> None:
    """Text and lists go on, objects member by member; all else is said anew."""
    before = owner.get(name)
    if isinstance(more, dict):
        owner[name] = grown = dict(before or {})
        for key, part in more.items():
            _grow(grown, key, part)
    elif (isinstance(more, str) and isinstance(before, str)) or (
        isinstance(more, list) and isinstance(before, list)
    ):
        owner[name] = before + more
    elif more is not None or name not in owner:
        owner[name] = more


def _folded(choice: Json) -> Json:
    message = {"refusal": None} | choice["message"]
    if choice["calls"]:
        message["tool_calls"] = choice["calls"]
    if choice["calls"] or "function_call" in message:
        message["content"] = message["content"] or None
    rest = {name: each for name, each in choice.items() if name not in ("message", "calls")}
    return {"message": message, "logprobs": None} | rest
