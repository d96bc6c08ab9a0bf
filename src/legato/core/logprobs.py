"""A chunk transform for upstreams that give logprobs only together with alternatives."""

from typing import Any, cast

from legato.core.chunk import Chunk, as_object


class NoAlternatives:
    """Empties the `top_logprobs` of each token: the client wants the token's own logprob alone."""

    __slots__ = ()

    def transform(self, chunk: Chunk) -> Chunk:
        if chunk.raw is not None and b'"top_logprobs"' not in chunk.raw:
            return chunk
        members = [_without_alternatives(member) for member in chunk.members()]
        return Chunk([], usage=chunk.usage, extras=chunk.extras, fields=members)

    def passes(self, index: int) -> bool:
        return True


def _without_alternatives(member: dict[str, Any]) -> dict[str, Any]:
    logprobs = as_object(member.get("logprobs"))
    if logprobs is None:
        return member
    emptied = {name: _emptied(tokens) for name, tokens in logprobs.items()}
    return member | {"logprobs": emptied}


def _emptied(tokens: Any) -> Any:
    if not isinstance(tokens, list):
        return tokens
    return [
        token | {"top_logprobs": []} if (token := as_object(each)) is not None else each
        for each in cast("list[Any]", tokens)
    ]
