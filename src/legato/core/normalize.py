"""What upstreams do wrong inside one choice, and how it is put right (contract, section 8).

Works on plain objects, so that members nobody here knows survive. The common chunk never gets here:
see `Stream.push`.
"""

from typing import Any, Final, cast

from legato.core.chunk import as_object
from legato.core.errors import bad_gateway
from legato.core.finish import finish_reason as finish_reason
from legato.core.tool_calls import ToolCalls

#: Members of a choice that are looked at one by one.
_KNOWN: Final = frozenset({"index", "delta", "finish_reason", "logprobs"})

#: Members of a delta that are the answer itself.
_ANSWERS: Final = frozenset({"content", "tool_calls", "function_call", "refusal"})


def role(index: int) -> dict[str, Any]:
    """What each choice begins with."""
    return {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}


class ChoiceState:
    """One choice of one stream: what has been sent of it."""

    __slots__ = ("_tools", "begun", "finished", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.begun = False  # it has said something, be it what waits for a tool's name
        self.finished = False
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
        delta = self._delta(member.get("delta") or (None if self.begun else message))
        logprobs = member.get("logprobs")
        if self.finished:
            if delta or logprobs:
                raise bad_gateway("The upstream went on after the finish of its answer.")
            return []
        mended: list[dict[str, Any]] = []
        if "reasoning_content" in delta and not _ANSWERS.isdisjoint(delta):
            # Thoughts come before what they led to, also where both came at once.
            thought = {"reasoning_content": delta.pop("reasoning_content")}
            alone = {"index": self.index, "delta": thought, "finish_reason": None}
            mended.append(alone)
        if delta or logprobs or (self.begun and reason is None and _says_more(member)):
            mended.append(member | {"delta": delta, "finish_reason": None})
        waits = self._tools is not None and not self._tools.is_named
        if reason is not None:
            if waits:
                raise bad_gateway("The upstream called a tool without saying which.")
            self.finished = True
            last: dict[str, Any] = member | {"delta": {}}
            last["finish_reason"] = finish_reason(str(reason))
            if mended and "logprobs" in last:
                last["logprobs"] = None
            mended.append(last)
        self.begun = self.begun or bool(mended) or waits
        return mended

    def finish(self) -> bool:
        """A finish, and nothing else: whether it may go out as it is."""
        self.finished = self._tools is None or self._tools.is_named
        return self.finished

    def forget_unsaid(self) -> None:
        """The upstream says no more: what of it was held back is not part of the answer."""
        if self._tools is not None:
            self._tools.forget_unnamed()

    def _delta(self, value: Any) -> dict[str, Any]:
        """The members of a delta that say something; `role` is ours to send."""
        if value is None:
            return {}
        delta = as_object(value)
        if delta is None:
            raise bad_gateway("The upstream sent a `delta` that is not an object.")
        said = {name: each for name, each in delta.items() if each not in (None, "", [], {})}
        said.pop("role", None)
        reasoning = said.pop("reasoning", None)
        if isinstance(reasoning, str):
            said.setdefault("reasoning_content", reasoning)
        calls = said.get("tool_calls")
        if calls is not None:
            if not isinstance(calls, list):
                raise bad_gateway("The upstream sent `tool_calls` that are not a list.")
            if self._tools is None:
                self._tools = ToolCalls()
            said["tool_calls"] = self._tools.mend(cast("list[Any]", calls))
            if not said["tool_calls"]:
                del said["tool_calls"]
        return said


def _says_more(member: dict[str, Any]) -> bool:
    """Whether there are members that nobody here knows: Azure's word on what it filters."""
    return any(value for name, value in member.items() if name not in _KNOWN)
