"""Anthropic's counts of tokens as OpenAI's usage."""

from typing import Any

from legato.core.chunk import Usage, as_object
from legato.core.usage import prompt_details


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def prompt_tokens(usage: dict[str, Any]) -> int:
    """`input_tokens` is only what was neither read from the cache nor written to it."""
    return sum(
        _count(usage, name)
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )


def usage_of(counts: dict[str, Any]) -> Usage:
    prompt, completion = prompt_tokens(counts), _count(counts, "output_tokens")
    usage: Usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    cached = _count(counts, "cache_read_input_tokens")
    written = _count(counts, "cache_creation_input_tokens")
    if written or "cache_read_input_tokens" in counts:
        lifetimes = as_object(counts.get("cache_creation")) or {}
        for_an_hour = min(_count(lifetimes, "ephemeral_1h_input_tokens"), written)
        usage["prompt_tokens_details"] = prompt_details(cached, written, for_an_hour)
    details = as_object(counts.get("output_tokens_details")) or {}
    if "thinking_tokens" in details:
        reasoning = _count(details, "thinking_tokens")
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return usage
