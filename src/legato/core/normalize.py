"""Normalizes one choice of a stream: repairs what upstreams do wrong (contract, section 8).

Works on plain objects, so that unknown members survive. A chunk of nothing but text does not come
here: see `Stream.push`.
"""

import re
from typing import Any, Final, cast

from legato.core.chunk import as_object
from legato.core.errors import bad_gateway
from legato.core.finish import finish_reason
from legato.core.tool_calls import ToolCalls

Member = dict[str, Any]

#: Members of a choice that are normalized one by one.
_KNOWN: Final = ("index", "delta", "finish_reason", "logprobs", "message", "usage")

#: Members of a delta that are the answer itself.
_ANSWERS: Final = frozenset({"content", "tool_calls", "function_call", "refusal"})

#: Members of a delta whose text may be cut inside a surrogate pair.
_TEXTS: Final = ("content", "reasoning_content", "refusal")

#: Members of a tool call whose text may be, by the member that holds them.
_CALL_TEXTS: Final = (("function", "arguments"), ("custom", "input"))

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def role(index: int) -> Member:
    """The member that each choice begins with."""
    return {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}


class ChoiceNormalizer:
    """The state of one choice of one stream.

    Four things wait for what follows them: a finish, a tool call without a name, half of a
    surrogate pair, and unknown members that came before anything else.
    """

    __slots__ = ("_calls", "_finish", "_halves", "_unknown", "begun", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.begun = False  # something of the answer has come, even if it still waits
        self._finish: Member | None = None
        self._calls: ToolCalls | None = None
        self._halves: dict[Any, str] = {}  # high surrogates, by the text that they end
        self._unknown: Member = {}

    @property
    def is_finished(self) -> bool:
        return self._finish is not None

    @property
    def has_unknown(self) -> bool:
        """Whether unknown members wait for something to go out with."""
        return bool(self._unknown)

    @property
    def passes_text(self) -> bool:
        """Whether a chunk of nothing but text needs no normalizing."""
        return self.begun and self._finish is None and not self._halves and not self._unknown

    def normalize(self, member: Member) -> list[Member]:
        """The legal members that say what `member` says, but for a finish, which is held back.

        Raises `UpstreamError`.
        """
        unknown = {name: value for name, value in member.items() if name not in _KNOWN}
        # Some servers send `message` instead of deltas, or repeat it after them.
        message = None if self.begun else member.get("message")
        delta = self._delta(member.get("delta") or message)
        logprobs = _logprobs(member)
        reason = member.get("finish_reason") or None
        members: list[Member] = []
        if "reasoning_content" in delta and not _ANSWERS.isdisjoint(delta):
            # Reasoning goes before what it led to, also where both come in one chunk.
            members.append(self._member({"reasoning_content": delta.pop("reasoning_content")}))
        if delta or logprobs.get("logprobs"):
            members.append(self._member(delta) | logprobs | ({} if reason else unknown))
        elif any(unknown.values()):
            if self.begun and self._finish is None and reason is None:
                members.append(self._member({}) | unknown)
            else:
                self._unknown |= unknown
        if reason is not None:
            self._hold_finish(str(reason), unknown | ({} if members else logprobs))
        self.begun = self.begun or bool(members) or self._waits
        if members and self._unknown and self._finish is None:
            members[0] = self._unknown | members[0]
            self._unknown = {}
        return members

    def close(self) -> list[Member]:
        """What was held back, at the end of the answer: halves, then the finish.

        Raises `UpstreamError` where a tool call has no name.
        """
        members = [self._member(_broken_text(kind)) for kind in self._halves]
        self._halves.clear()
        if self._calls is not None and not self._calls.is_named:
            raise bad_gateway("The upstream called a tool without naming it.")
        finish, self._finish = self._finish, None
        if finish is not None:
            if finish["finish_reason"] == "stop" and self._calls and self._calls.any_sent:
                finish["finish_reason"] = "tool_calls"
            members.append(self._unknown | finish)
        return members

    def drop_held(self) -> None:
        """Drops what was held back of an upstream that broke: it is not part of the answer."""
        self._halves.clear()
        self._unknown = {}
        self._finish = None
        if self._calls is not None:
            self._calls.forget_unnamed()

    @property
    def _waits(self) -> bool:
        return (
            self._finish is not None
            or bool(self._halves)
            or (self._calls is not None and not self._calls.is_named)
        )

    def _member(self, delta: Member) -> Member:
        return {"index": self.index, "delta": delta, "finish_reason": None}

    def _hold_finish(self, reason: str, unknown: Member) -> None:
        """The last finish counts; what earlier ones had beside it survives."""
        earlier = self._finish or {}
        finish: Member = {"index": self.index, "delta": {}, "finish_reason": finish_reason(reason)}
        self._finish = earlier | unknown | finish

    def _delta(self, value: Any) -> Member:
        """The members of a delta that say something; `role` is sent by the stream itself."""
        if value is None:
            return {}
        delta = as_object(value)
        if delta is None:
            raise bad_gateway("The upstream sent a `delta` that is not an object.")
        delta = {name: each for name, each in delta.items() if each not in (None, "", [], {})}
        delta.pop("role", None)
        reasoning = delta.pop("reasoning", None)
        if isinstance(reasoning, str):
            delta.setdefault("reasoning_content", reasoning)
        self._join_texts(delta, _TEXTS, ())
        function = as_object(delta.get("function_call"))
        if function is not None:
            self._join_texts(function, ("arguments",), ("function_call",))
        calls = delta.pop("tool_calls", None)
        if calls is not None:
            calls = self._tool_calls(calls)
            if calls:
                delta["tool_calls"] = calls
        return delta

    def _tool_calls(self, calls: Any) -> list[Member]:
        if not isinstance(calls, list):
            raise bad_gateway("The upstream sent `tool_calls` that are not a list.")
        if self._calls is None:
            self._calls = ToolCalls()
        pieces = self._calls.normalize(cast("list[Any]", calls))
        for piece in pieces:
            for owner, name in _CALL_TEXTS:
                part = as_object(piece.get(owner))
                if part is not None:
                    self._join_texts(part, (name,), (piece["index"], owner))
        return pieces

    # Surrogate pairs

    def _join_texts(self, owner: Member, names: tuple[str, ...], path: tuple[Any, ...]) -> None:
        """Joins surrogate pairs that two chunks share; a half without its other is U+FFFD."""
        for name in names:
            text = owner.get(name)
            if not isinstance(text, str):
                continue
            text = self._halves.pop((*path, name), "") + text
            if not _SURROGATE.search(text):
                owner[name] = text
                continue
            if "\ud800" <= text[-1] <= "\udbff":
                self._halves[*path, name] = text[-1]
                text = text[:-1]
            owner[name] = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            if not text and not path:
                del owner[name]


def _logprobs(member: Member) -> Member:
    """`logprobs` as OpenAI's schema has it: null, or an object with `content` and `refusal`."""
    if "logprobs" not in member:
        return {}
    logprobs = as_object(member["logprobs"])
    if not logprobs:
        return {"logprobs": None}
    nothing: Member = {"content": None, "refusal": None}
    return {"logprobs": nothing | logprobs}


def _broken_text(kind: Any) -> Member:
    """The delta for half of a surrogate pair that was never joined."""
    *path, name = kind
    if not path:
        return {name: "\ufffd"}
    if len(path) == 1:
        return {path[0]: {name: "\ufffd"}}
    index, owner = path
    return {"tool_calls": [{"index": index, owner: {name: "\ufffd"}}]}
