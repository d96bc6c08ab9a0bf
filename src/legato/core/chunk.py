"""One event of an upstream in one shape for all dialects: OpenAI's chat.completion.chunk.

A chunk carries its choices twice: typed, as far as order and metering need them, and as JSON bytes
(`raw`), so that what needs no normalizing is not encoded again and unknown members survive.
"""

from collections.abc import Container
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from legato.core.errors import malformed
from legato.core.json_text import Path, decode_leniently, encoded

#: Finish reasons of the contract (section 2, item 3; `function_call` is OpenAI's older form).
FINISH_REASONS: Final = frozenset(
    {"stop", "length", "tool_calls", "content_filter", "function_call"}
)


#: What strict decoding raises for a body that is not JSON, or not of the type that is asked for.
NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

#: Top-level members of a chunk that are ours. An upstream's have their place in a `Chunk`, or are
#: replaced.
OWN_MEMBERS: Final = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "error", "obfuscation"}
)

#: As a value, so that what was checked stays `Any`: a `cast` is a call at run time.
OBJECT: Any = dict


def as_object(value: Any) -> dict[str, Any] | None:
    """`value` where it is a JSON object, else None; a peer may send anything."""
    return value if isinstance(value, OBJECT) else None


def unknown_members(fields: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The members of an object, but for the `known` ones and those that are empty."""
    empty: tuple[Any, ...] = (None, "", [], {})
    return {
        name: value for name, value in fields.items() if name not in known and value not in empty
    }


def as_extras(members: dict[str, Any]) -> bytes:
    """Top-level members as `Chunk.extras` has them, without those that are ours."""
    members = {name: value for name, value in members.items() if name not in OWN_MEMBERS}
    return b"," + encoded(members)[1:-1] if members else b""


def decoded(body: bytes, texts: Container[Path] = ()) -> Any:
    """The JSON value in `body`, read leniently (`decode_leniently`); None where it is not JSON."""
    try:
        return msgspec.json.decode(body)
    except NOT_JSON:
        try:
            return decode_leniently(body, texts)
        except (ValueError, RecursionError):
            return None


class Delta(Struct, gc=False):
    """What a chunk adds to a choice, as far as it matters for order; the rest stays in `raw`."""

    role: str | UnsetType | None = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType | None = UNSET
    reasoning: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    tool_calls: Raw | UnsetType = UNSET
    function_call: Raw | UnsetType = UNSET


_NULL: Final = Raw(b"null")


class Choice(Struct, gc=False):
    delta: Delta | None = None
    index: int | UnsetType | None = UNSET
    finish_reason: str | UnsetType | None = UNSET
    logprobs: Raw | UnsetType = UNSET
    error: Any = UNSET
    message: Any = UNSET  # in place of the delta, where a server has not streamed
    usage: Any = UNSET  # of the whole answer: some servers put it here

    @property
    def is_text_only(self) -> bool:
        """Whether it adds text of one kind and nothing else, so that it needs no normalizing."""
        delta = self.delta
        return (
            delta is not None
            and self.finish_reason is None
            and delta.role is UNSET
            and delta.tool_calls is UNSET
            and delta.reasoning is UNSET
            and delta.function_call is UNSET
            and delta.refusal is UNSET
            and self.usage is UNSET
            and (self.logprobs is UNSET or self.logprobs == _NULL)
            and self.message is UNSET
            and bool(delta.content) is not bool(delta.reasoning_content)
        )


_decode_members = msgspec.json.Decoder(list[dict[str, Any]]).decode

#: OpenAI's usage object, kept as it came: providers add members of their own.
Usage = dict[str, Any]


class Chunk(Struct, gc=False):
    """One event of an upstream.

    `raw`: the `choices` array as JSON, or None where it has to be built from `choices`.
    `extras`: further top-level members as JSON, each with its leading comma: `,"service_tier":"x"`.
    `text_choice`: the choice that it adds `text` to, and nothing else; else -1. Such a chunk has
    its `raw`, on one line. `is_reasoning`: the text is reasoning.
    `usage_so_far`: of the answer up to this chunk, where the client wants it in every chunk.
    """

    choices: list[Choice]
    raw: bytes | None = None
    usage: Usage | None = None
    extras: bytes = b""
    fields: list[dict[str, Any]] | None = None
    text_choice: int = -1
    text: str = ""
    is_reasoning: bool = False
    usage_so_far: Usage | None = None

    def members(self) -> list[dict[str, Any]]:
        """The choices as plain objects, unknown members included. Raises `UpstreamError`."""
        if self.fields is not None:
            return self.fields
        if self.raw is not None:
            try:
                return _decode_members(self.raw)
            except NOT_JSON as error:
                try:
                    return msgspec.convert(decoded(self.raw), list[dict[str, Any]])
                except msgspec.ValidationError:
                    raise malformed(error) from None
        return msgspec.to_builtins(self.choices)
