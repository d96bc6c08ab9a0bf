"""What has been delivered of an answer, kept so that another upstream can go on with it."""

from typing import Any, Final

from legato.core.chunk import Chunk, as_object
from legato.core.dialect import Delivered
from legato.core.errors import UpstreamError, bad_gateway
from legato.core.merge import TextBuffer
from legato.fastpath.through import Through

#: The code of an upstream that was to go on with an answer, and said something else.
DIVERGED: Final = "upstream_diverged"

#: Members of a choice that can be joined without a trace of the seam.
_JOINED: Final = frozenset({"content", "reasoning_content", "role"})


class DeliveredText:
    """The text of one choice as it went out. `is_exact` is False once something went out that
    cannot be taken up in the middle: a tool call, a second choice, a member nobody knows."""

    __slots__ = ("_content", "_reasoning", "is_exact")

    def __init__(self) -> None:
        self._content = TextBuffer("")
        self._reasoning = TextBuffer("")
        self.is_exact = True

    def add(self, chunk: Chunk) -> None:
        """A chunk of nothing but text."""
        if chunk.raw is not None and b'"logprobs":{' in chunk.raw:
            self.is_exact = False
        self.text(chunk.text, chunk.thinks)

    def text(self, text: str, thinks: bool) -> None:
        (self._reasoning if thinks else self._content).append(text)

    def member(self, member: dict[str, Any]) -> None:
        """A choice of a chunk, mended."""
        delta = member["delta"]
        if member["index"] or member.get("logprobs") or not delta.keys() <= _JOINED:
            self.is_exact = False
        self._content.append(delta.get("content") or "")
        self._reasoning.append(delta.get("reasoning_content") or "")

    @property
    def answers(self) -> bool:
        """Whether something of the answer itself has gone out, and not of thoughts alone."""
        return bool(str(self._content))

    @property
    def delivered(self) -> Delivered:
        return Delivered(str(self._content), str(self._reasoning))


class Replay:
    """Takes away from an answer what was delivered of it before. It has to be the same, byte for
    byte; where it is not, nobody can tell how it would have gone on."""

    __slots__ = ("_content", "_reasoning")

    def __init__(self, delivered: Delivered) -> None:
        self._content = delivered.content
        self._reasoning = delivered.reasoning

    @property
    def is_over(self) -> bool:
        return not self._content and not self._reasoning

    def split(self, chunk: Chunk) -> Chunk:
        """The chunk without what is known. Raises `UpstreamError` where it says something else."""
        if self.is_over:
            return chunk
        members = [self._member(dict(member)) for member in chunk.members()]
        return Chunk([], usage=chunk.usage, extras=chunk.extras, fields=members)

    def rest(self, through: Through, index: int) -> Through | None:
        """Once all that is known has come, texts go through as they are."""
        return through if self.is_over else None

    def _member(self, member: dict[str, Any]) -> dict[str, Any]:
        delta = dict(as_object(member.get("delta")) or {})
        said = delta.pop("reasoning", None) or delta.get("reasoning_content")
        if isinstance(said, str):
            delta["reasoning_content"], self._reasoning = _rest(said, self._reasoning)
        said = delta.get("content")
        if isinstance(said, str) and said:
            if self._reasoning:
                raise _diverged()
            delta["content"], self._content = _rest(said, self._content)
        if (member.get("finish_reason") or delta.get("tool_calls")) and not self.is_over:
            raise _diverged()
        return member | {"delta": delta}


def _rest(said: str, known: str) -> tuple[str, str]:
    """(what is new in `said`, what is left of `known`)."""
    if known.startswith(said):
        return "", known[len(said) :]
    if said.startswith(known):
        return said[len(known) :], ""
    raise _diverged()


def _diverged() -> UpstreamError:
    return bad_gateway(
        "The answer broke off, and when it was asked again it was another one.",
        code=DIVERGED,
    )
