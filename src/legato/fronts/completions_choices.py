"""A chat's choices as those of a text completion: text, and logprobs in the older form."""

from typing import Any, Final, cast

from legato.core.chunk import as_object, unknown_members

#: Members of a chat's choice that have a place of their own in a text completion's.
_KNOWN: Final = frozenset({"index", "delta", "logprobs", "finish_reason"})


class TextChoices:
    """Translates the choices of one answer. `echo`: what the text of each choice begins with.

    Reasoning has no place in a text completion and is not shown; a refusal is text.
    """

    __slots__ = ("_echo", "_offsets")

    def __init__(self, echo: str) -> None:
        self._echo = echo
        self._offsets: dict[int, int] = {}  # letters of the tokens so far, by choice

    def translate(self, member: dict[str, Any]) -> dict[str, Any] | None:
        """The choice of a text completion; None where it would say nothing."""
        index, delta = member["index"], member["delta"]
        text = (delta.get("content") or "") + (delta.get("refusal") or "")
        if "role" in delta:
            text = self._echo + text
        reason = member.get("finish_reason")
        logprobs = self._logprobs(index, as_object(member.get("logprobs")))
        unknown = unknown_members(member, _KNOWN)
        if not text and reason is None and not logprobs and not unknown:
            return None
        return {
            "text": text,
            "index": index,
            "logprobs": logprobs,
            "finish_reason": reason,
            **unknown,
        }

    def _logprobs(self, index: int, logprobs: dict[str, Any] | None) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        if logprobs.get("tokens"):  # of an upstream's own completions
            return {name: each for name, each in logprobs.items() if name not in _OF_CHATS}
        content = logprobs.get("content")
        if not isinstance(content, list):
            return None
        tokens = [as_object(each) or {} for each in cast("list[Any]", content)]
        offset = self._offsets.get(index, 0)
        offsets: list[int] = []
        for each in tokens:
            offsets.append(offset)
            offset += len(str(each.get("token", "")))
        self._offsets[index] = offset
        return {
            "tokens": [each.get("token", "") for each in tokens],
            "token_logprobs": [each.get("logprob") for each in tokens],
            "top_logprobs": [_alternatives(each) for each in tokens],
            "text_offset": offsets,
        }


#: Members of a chat's `logprobs`, which a stream adds where they are missing.
_OF_CHATS: Final = frozenset({"content", "refusal"})


def _alternatives(token: dict[str, Any]) -> dict[str, Any]:
    """Logprobs by token: the alternatives, and the token itself."""
    listed = token.get("top_logprobs")
    others = [as_object(each) or {} for each in cast("list[Any]", listed or [])]
    return {str(each.get("token", "")): each.get("logprob") for each in (*others, token)}
