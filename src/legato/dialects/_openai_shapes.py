"""What servers that speak OpenAI's dialect say in other places, or in another shape, than OpenAI.

After the public API references of Mistral (content in parts), Groq, Moonshot, DeepSeek and xAI
(usage), and what SDKs' authors have met elsewhere.
"""

from typing import Any, Final, cast

import msgspec

from legato.core.chunk import Usage, as_object
from legato.core.json_text import cleaned

_decode_members = msgspec.json.Decoder(list[dict[str, Any]]).decode

#: Counts by OpenAI's names, and the names of others.
_COUNTS: Final = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
_DETAILS: Final = (
    ("prompt_tokens_details", "input_tokens_details"),
    ("completion_tokens_details", "output_tokens_details"),
)
#: Where tokens of the prompt are reported as cached, when its details do not say it.
_CACHED: Final = ("prompt_cache_hit_tokens", "cached_tokens")


#: A usage with no more than this is OpenAI's as it stands.
_PLAIN: Final = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


def with_text(choices: bytes) -> bytes:
    """`choices` whose content came in parts (`[{"type": "text", "text": …}, …]`), with text in its
    place; the same bytes where none did. Raises `msgspec.DecodeError`."""
    members = _decode_members(choices)
    return msgspec.json.encode(members) if join_parts(members) else choices


def join_parts(members: list[dict[str, Any]]) -> bool:
    """The same of choices as objects, in place. Whether any content came in parts."""
    places = [as_object(each.get(name)) for each in members for name in ("delta", "message")]
    in_parts = [
        each for each in places if each is not None and isinstance(each.get("content"), list)
    ]
    for each in in_parts:
        _join_parts(each)
    return bool(in_parts)


def _join_parts(delta: dict[str, Any]) -> None:
    """Texts are content, thoughts are reasoning; parts that are neither stay what they are."""
    content, reasoning, others = "", "", list[Any]()
    for part in cast("list[Any]", delta.pop("content")):
        fields = as_object(part) or {}
        match fields.get("type"):
            case "text":
                content += _text(fields.get("text"))
            case "thinking":
                reasoning += _thought(fields.get("thinking"))
            case _:
                others.append(cleaned(part))
    if reasoning:
        delta["reasoning_content"] = reasoning
    if content:
        delta["content"] = content
    if others:
        delta["content_parts"] = others


def _text(reported: Any) -> str:
    """A text, which may stand in an object as its `value`."""
    fields = as_object(reported)
    text = reported if fields is None else fields.get("value")
    return text if isinstance(text, str) else ""


def _thought(reported: Any) -> str:
    if not isinstance(reported, list):
        return _text(reported)
    return "".join(
        [_text((as_object(part) or {}).get("text")) for part in cast("list[Any]", reported)]
    )


def usage(reported: Usage) -> Usage:
    """A usage object with OpenAI's names for what others call differently; it keeps what it has."""
    if reported.keys() <= _PLAIN:
        return reported  # nothing under another name, and no thoughts to add
    usage = dict(reported)
    for name, theirs in _COUNTS.items():
        if name not in usage and theirs in usage:
            usage[name] = usage[theirs]
    for name, theirs in _DETAILS:
        if name not in usage and theirs in usage:
            usage[name] = usage[theirs]
    _tell_cached(usage)
    _count_thoughts(usage)
    return usage


def _tell_cached(usage: Usage) -> None:
    details = as_object(usage.get("prompt_tokens_details")) or {}
    for name in _CACHED:
        if name in usage and details.get("cached_tokens") is None:
            usage["prompt_tokens_details"] = details | {"cached_tokens": usage[name]}
            return


def _count_thoughts(usage: Usage) -> None:
    """Tokens of thinking are part of the completion's. Where the total says that they came on top
    of them, they are added."""
    details = as_object(usage.get("completion_tokens_details")) or {}
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    counts: list[Any] = [usage.get(name) for name in names] + [details.get("reasoning_tokens")]
    if all(isinstance(count, int) for count in counts):
        prompt, completion, total, reasoning = counts
        if reasoning > 0 and total == prompt + completion + reasoning:
            usage["completion_tokens"] = completion + reasoning
