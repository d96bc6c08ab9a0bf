"""Finish reasons: the words of all upstreams, mapped to the contract's."""

from typing import Final

from legato.core.chunk import FINISH_REASONS
from legato.core.errors import bad_gateway

#: Words of upstreams that are not OpenAI's own.
_WORDS: Final = {
    "end": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "tool_use": "tool_calls",
    "safety": "content_filter",
    "recitation": "content_filter",
}


def finish_reason(reason: str) -> str:
    """The contract's word for `reason`.

    Raises `UpstreamError` for a word that means a failure, or that is unknown: a finish is never
    invented.
    """
    word = reason.lower()
    known = word if word in FINISH_REASONS else _WORDS.get(word)
    if known is None:
        raise bad_gateway(
            f"The upstream ended its answer with `{reason}`.", code="upstream_aborted"
        )
    return known
