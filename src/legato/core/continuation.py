"""Continues an answer with another upstream: what was delivered of it, and what is left to come."""

from typing import Any, Final

from legato.core.chunk import Chunk, as_object
from legato.core.dialect import Delivered
from legato.core.errors import UpstreamError, bad_gateway
from legato.core.merge import TextBuffer

#: The code of an upstream that was to continue an answer, and gave another one.
DIVERGED: Final = "upstream_diverged"

#: Members of a delta that can be joined without a visible seam. Signed reasoning is whole, and
#: whoever continues the answer does not need it.
_JOINED: Final = frozenset({"content", "reasoning_content", "reasoning_details", "role"})


class DeliveredText:
    """The text of one choice that went out.

    `is_exact` is False once something went out that no other upstream can continue: a tool call, a
    second choice, logprobs, an unknown member of a delta.
    """

    __slots__ = ("_content", "_reasoning", "has_content", "is_exact")

    def __init__(self) -> None:
        self._content = TextBuffer("")
        self._reasoning = TextBuffer("")
        self.is_exact = True
        self.has_content = False  # something of the answer itself, not of its reasoning alone

    def add(self, text: str, is_reasoning: bool) -> None:
        if is_reasoning:
            self._reasoning.append(text)
        else:
            self._content.append(text)
            self.has_content = True

    def add_member(self, member: dict[str, Any]) -> None:
        """A normalized choice of a chunk."""
        delta = member["delta"]
        if member["index"] or member.get("logprobs") or not delta.keys() <= _JOINED:
            self.is_exact = False
        if delta.get("reasoning_content"):
            self.add(delta["reasoning_content"], True)
        if delta.get("content"):
            self.add(delta["content"], False)

    @property
    def delivered(self) -> Delivered:
        return Delivered(str(self._content), str(self._reasoning))


class Replay:
    """A chunk transform that removes from an answer what was delivered of it before.

    Both have to be equal, byte for byte; where they are not, nobody knows how it would continue.
    """

    __slots__ = ("_content", "_reasoning")

    def __init__(self, delivered: Delivered) -> None:
        self._content = delivered.content
        self._reasoning = delivered.reasoning

    @property
    def is_over(self) -> bool:
        """Whether all that was delivered has come again."""
        return not self._content and not self._reasoning

    def passes(self, index: int) -> bool:
        """Whether no later chunk of the choice is changed."""
        return self.is_over

    def transform(self, chunk: Chunk) -> Chunk:
        """The chunk without what is known. Raises `UpstreamError` where it differs."""
        if self.is_over:
            return chunk
        members = [self._member(dict(member)) for member in chunk.members()]
        return Chunk([], usage=chunk.usage, extras=chunk.extras, fields=members)

    def _member(self, member: dict[str, Any]) -> dict[str, Any]:
        delta = dict(as_object(member.get("delta")) or {})
        reasoning = delta.pop("reasoning", None) or delta.get("reasoning_content")
        if isinstance(reasoning, str):
            delta["reasoning_content"], self._reasoning = _rest(reasoning, self._reasoning)
        content = delta.get("content")
        if isinstance(content, str) and content:
            if self._reasoning:
                raise _diverged()
            delta["content"], self._content = _rest(content, self._content)
        if (member.get("finish_reason") or delta.get("tool_calls")) and not self.is_over:
            raise _diverged()
        return member | {"delta": delta}


def _rest(text: str, known: str) -> tuple[str, str]:
    """(what is new in `text`, what is left of `known`)."""
    if known.startswith(text):
        return "", known[len(text) :]
    if text.startswith(known):
        return text[len(known) :], ""
    raise _diverged()


def _diverged() -> UpstreamError:
    return bad_gateway(
        "The answer broke off, and the answer to the same request was another one.", code=DIVERGED
    )
