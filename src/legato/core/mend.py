"""What upstreams do wrong inside one choice, and how it is put right (contract, section 8).

Works on plain objects, so that members nobody here knows survive. The common chunk never gets here:
see `Stream.push`.
"""

import secrets
from typing import Any, Final, cast

import msgspec

from legato.core.chunk import FINISH_REASONS, as_object
from legato.core.errors import broken

#: Finish reasons of servers that speak OpenAI's dialect with their own words.
_FINISHES: Final = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "tool_use": "tool_calls",
}

#: Members of a delta that are the answer itself.
_ANSWERS: Final = frozenset({"content", "tool_calls", "function_call", "refusal"})


def finish_reason(reason: str) -> str:
    """The contract's word for `reason`. One that says "it broke", or nothing we know, is a failure:
    a finish is never invented."""
    known = reason if reason in FINISH_REASONS else _FINISHES.get(reason)
    if known is None:
        raise broken(f"The upstream ended its answer with `{reason}`.", code="upstream_aborted")
    return known


class ToolCalls:
    """Indices 0..n without holes, in order of first use; `id`, `type` and `name` sent once."""

    __slots__ = ("_at", "_by_id", "_count", "_last")

    def __init__(self) -> None:
        self._by_id: dict[str, int] = {}
        self._at: dict[int, int] = {}  # the upstream's index -> the call that uses it now
        self._last: int | None = None
        self._count = 0

    def mend(self, calls: list[Any]) -> list[dict[str, Any]]:
        return [self._call(dict(call)) for each in calls if (call := as_object(each)) is not None]

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        theirs = call.get("index")
        theirs = theirs if isinstance(theirs, int) else None
        identity = call.get("id")
        identity = identity if isinstance(identity, str) and identity else None
        function = dict(as_object(call.get("function")) or {})
        if not isinstance(function.get("name", ""), str):
            del function["name"]
        ours = self._known(theirs, identity, bool(function.get("name")))
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            function["arguments"] = msgspec.json.encode(arguments).decode()
        elif arguments is None:
            function.pop("arguments", None)
        if ours is None:
            ours = self._count
            self._count += 1
            identity = identity or f"call_{secrets.token_hex(12)}"
            self._by_id[identity] = ours
            function.setdefault("arguments", "")
            kind = call.get("type")
            call |= {"id": identity, "type": kind if isinstance(kind, str) else "function"}
        else:
            call.pop("id", None)
            call.pop("type", None)
            function.pop("name", None)
        if theirs is not None:
            self._at[theirs] = ours
        self._last = ours
        return {"index": ours} | call | {"index": ours, "function": function}

    def _known(self, theirs: int | None, identity: str | None, named: bool) -> int | None:
        """The call that a delta goes on with, or None where it begins a new one."""
        if identity is not None:
            same = self._by_id.get(identity)
            if same is None or theirs is None or self._at.get(theirs) == same or not named:
                return same
            return None
        if theirs is not None:
            return self._at.get(theirs)
        return None if named else self._last


class ChoiceState:
    """One choice of one stream: what has been sent of it."""

    __slots__ = ("_begun", "_tools", "finished", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.finished = False
        self._begun = False
        self._tools: ToolCalls | None = None

    def mend(self, member: dict[str, Any]) -> list[dict[str, Any]]:
        """The legal chunks of this choice that say what `member` says: none, one, or content and
        finish apart."""
        member = dict(member)
        member["index"] = self.index
        member.pop("usage", None)  # it has its own chunk
        reason = member.get("finish_reason") or None
        # Some say it whole, as if it were no stream; or again so, behind the deltas.
        message = member.pop("message", None)
        delta = self._delta(member.get("delta") or (None if self._begun else message))
        logprobs = member.get("logprobs")
        if self.finished:
            if delta or logprobs:
                raise broken("The upstream went on after the finish of its answer.")
            return []
        mended: list[dict[str, Any]] = []
        if "reasoning_content" in delta and not _ANSWERS.isdisjoint(delta):
            # Thoughts come before what they led to, also where both came at once.
            thought = {"reasoning_content": delta.pop("reasoning_content")}
            alone = {"index": self.index, "delta": thought, "finish_reason": None}
            mended.append(alone)
        if delta or logprobs:
            mended.append(member | {"delta": delta, "finish_reason": None})
        if reason is not None:
            self.finished = True
            last: dict[str, Any] = member | {"delta": {}}
            last["finish_reason"] = finish_reason(str(reason))
            if mended and "logprobs" in last:
                last["logprobs"] = None
            mended.append(last)
        self._begun = self._begun or bool(mended)
        return mended

    def _delta(self, value: Any) -> dict[str, Any]:
        """The members of a delta that say something; `role` is ours to send."""
        if value is None:
            return {}
        delta = as_object(value)
        if delta is None:
            raise broken("The upstream sent a `delta` that is not an object.")
        said = {name: each for name, each in delta.items() if each not in (None, "", [], {})}
        said.pop("role", None)
        reasoning = said.pop("reasoning", None)
        if isinstance(reasoning, str):
            said.setdefault("reasoning_content", reasoning)
        calls = said.get("tool_calls")
        if calls is not None:
            if not isinstance(calls, list):
                raise broken("The upstream sent `tool_calls` that are not a list.")
            if self._tools is None:
                self._tools = ToolCalls()
            said["tool_calls"] = self._tools.mend(cast("list[Any]", calls))
            if not said["tool_calls"]:
                del said["tool_calls"]
        return said
