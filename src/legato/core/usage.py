"""Token counts: as upstreams say them, and as a client is shown them."""

from typing import Any, Final, Protocol

from msgspec import Struct

from legato.core.chunk import OBJECT, Usage

#: What every usage says.
_NUMBERS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")
#: Objects with more numbers in a usage.
_DETAILS: Final = ("completion_tokens_details", "prompt_tokens_details")

#: Tokens of one call that are believed at most: a database can add up millions of such calls.
_MOST: Final = 2**40


class Tokens(Struct, frozen=True, gc=False):
    """Token counts of one call. `cached` (read from a cache) and `cache_writes` are parts of
    `prompt`, `hour_cache_writes` (to a cache that lives for an hour) is part of `cache_writes`,
    `reasoning` is part of `completion`."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cached: int = 0
    cache_writes: int = 0
    hour_cache_writes: int = 0


def count(usage: Usage) -> Tokens:
    """Reads a usage object defensively: what is missing or no number counts as 0."""
    thoughts, prompts = [usage.get(name) for name in _DETAILS]
    return Tokens(
        _number(usage, "prompt_tokens"),
        _number(usage, "completion_tokens"),
        _number(thoughts, "reasoning_tokens") if thoughts else 0,
        _number(prompts, "cached_tokens") if prompts else 0,
        _cache_writes(prompts) if prompts else 0,
        _number(prompts, "cache_creation_1h_tokens") if prompts else 0,
    )


def _cache_writes(details: Any) -> int:
    """Tokens of the prompt that were written to a cache: as our Anthropic dialect names them, or as
    OpenAI and OpenRouter do."""
    return _number(details, "cache_creation_tokens") or _number(details, "cache_write_tokens")


def prompt_details(cached: int, cache_writes: int, hour_cache_writes: int = 0) -> Usage:
    """The object `prompt_tokens_details`; cache writes are in it only where there are any."""
    details: Usage = {"cached_tokens": cached}
    if cache_writes:
        details["cache_creation_tokens"] = cache_writes
    if hour_cache_writes:
        details["cache_creation_1h_tokens"] = hour_cache_writes
    return details


def tells_reasoning(usage: Usage) -> bool:
    details: Any = usage.get("completion_tokens_details")
    return isinstance(details, OBJECT) and isinstance(details.get("reasoning_tokens"), int)


class ObservedTokens(Protocol):
    """What went by of an answer since an upstream began with it, in tokens or near them. Each
    number is asked for only where the upstream has not sent it: it may have to be counted."""

    @property
    def prompt(self) -> int: ...
    @property
    def completion(self) -> int: ...
    @property
    def reasoning(self) -> int: ...


class ObservedChunks(Struct, frozen=True, gc=False):
    """The same where nobody knows the model's tokenizer: chunks with content, those of them with
    reasoning; and the tokens of the prompt, where the upstream told."""

    completion: int
    reasoning: int = 0
    prompt: int = 0


def shown(usage: Usage | None, seen: ObservedTokens) -> Usage:
    """The usage of an answer as its client gets it: the upstream's, and what that does not say
    from what was seen going by."""
    totals = running(None, seen) if usage is None else _whole(usage)
    if tells_reasoning(totals):
        return totals
    details: Any = totals.get("completion_tokens_details")
    details = dict(details) if isinstance(details, OBJECT) else {}
    details["reasoning_tokens"] = min(seen.reasoning, totals["completion_tokens"])
    totals["completion_tokens_details"] = details
    return totals


def _whole(usage: Usage) -> Usage:
    """Another with all numbers that have to be there, and some leave out; each a whole one."""
    whole = dict(usage)
    for name in _NUMBERS:
        number = usage.get(name)
        # Nearly always; a call of a function that says so would cost more than to look.
        if type(number) is not int or not 0 <= number <= _MOST:
            number = _number(usage, name)
        whole[name] = number
    if not whole["total_tokens"]:
        whole["total_tokens"] = whole["prompt_tokens"] + whole["completion_tokens"]
    for name in _DETAILS:
        details = usage.get(name)
        if details and isinstance(details, OBJECT):
            whole[name] = _even(details)
    return whole


def _even(counts: Usage) -> Usage:
    if not any(map(_is_odd, counts.values())):
        return counts
    return {
        name: _number(counts, name) if _is_odd(totals) else totals
        for name, totals in counts.items()
    }


def _is_odd(number: Any) -> bool:
    """A number that no count of tokens is."""
    return isinstance(number, float) or (isinstance(number, int) and not 0 <= number <= _MOST)


def running(usage: Usage | None, seen: ObservedTokens) -> Usage:
    """Usage so far, in the middle of an answer. An upstream's own running total may lag behind."""
    totals = count(usage or {})
    prompt = totals.prompt or seen.prompt
    completion = max(totals.completion, seen.completion)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def merged(usages: list[Usage | None]) -> Usage | None:
    """The usage of one call that was asked in several: the prompt is the same in each and counts
    once, answers add up. None where an upstream sent nothing."""
    totals = [usage for usage in usages if usage is not None]
    if not totals or len(totals) < len(usages):
        return None
    largest = max(totals, key=lambda usage: count(usage).prompt)
    tokens = [count(usage) for usage in totals]
    completion = sum(each.completion for each in tokens)
    prompt = count(largest).prompt
    total = largest | {"completion_tokens": completion, "total_tokens": prompt + completion}
    total.pop("completion_tokens_details", None)
    if all(tells_reasoning(usage) for usage in totals):
        reasoning = sum(each.reasoning for each in tokens)
        total["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return total


def joined(before: Usage, after: Usage, *, both_prompts: bool = False) -> Usage:
    """The usage of an answer that one upstream began and another went on with. The second one's
    prompt holds the first one's, and what was delivered: it is not counted again, unless
    `both_prompts` says that it is."""
    first, second = count(before), count(after)
    prompt = first.prompt or max(0, second.prompt - first.completion)
    if both_prompts:
        prompt = first.prompt + second.prompt
    completion = first.completion + second.completion
    return after | {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": prompt_details(
            min(first.cached, prompt),
            min(first.cache_writes, prompt),
            min(first.hour_cache_writes, prompt),
        ),
        "completion_tokens_details": {"reasoning_tokens": first.reasoning + second.reasoning},
    }


def _number(owner: Any, name: str) -> int:
    value = owner.get(name) if isinstance(owner, OBJECT) else None
    if type(value) is int and 0 <= value <= _MOST:
        return value
    return int(min(value, _MOST)) if isinstance(value, int | float) and value > 0 else 0
