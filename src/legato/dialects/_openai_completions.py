"""OpenAI's older text completions, as llama.cpp, vLLM and SGLang have them beside chat.

No dialect of a deployment: a server that speaks `openai` is asked like this where a client sends a
prompt and the server is known to take one (`core.dialect.Quirks.completes`).
"""

from typing import Any, Final, cast

import msgspec
from msgspec import Raw

from legato.core.chunk import Chunk, as_object, decoded
from legato.core.dialect import Delivered, OutgoingRequest
from legato.core.errors import internal
from legato.core.json_text import Path, encode_leniently
from legato.core.request import NULL
from legato.core.upstream_errors import no_stream, refusal
from legato.dialects import openai
from legato.dialects.openai import decoder, ends_with_body, headers, models, models_path

__all__ = [
    "Reader",
    "client_format",
    "decoder",
    "encode",
    "ends_with_body",
    "headers",
    "models",
    "models_path",
    "no_stream",
    "path",
    "reader",
    "refusal",
    "unstreamed",
]

#: The client format that it is (`core.dialect.Dialect`).
client_format: Final = "completions"

#: Members of the client's request that are ours to set, or that not all of these servers take.
_OURS: Final = ("best_of", "echo", "n", "seed", "stream", "stream_options")

#: No alternatives to the tokens.
_NONE: Final = Raw(b"0")

#: The string in which half of a surrogate pair waits for the next event.
_TEXTS: Final[frozenset[Path]] = frozenset({("choices", "text")})


def path(model: str, *, streams: bool = True) -> str:
    return "/completions"


def encode(outgoing: OutgoingRequest) -> bytes:
    """The client's request but for what is ours to set. The prompt ends with what was delivered.

    `outgoing.source` is set: a chat cannot be made a prompt, as that needs the model's template.
    """
    if outgoing.source is None:
        raise internal()
    request, quirks = outgoing.request, outgoing.quirks
    fields: dict[str, Any] = {
        name: value
        for name, value in msgspec.json.decode(outgoing.source.body, type=dict[str, Raw]).items()
        if name not in _OURS and value != NULL
    }
    fields["model"] = outgoing.model
    fields["prompt"] = _prompt(fields["prompt"], outgoing.delivered)
    fields["max_tokens"] = msgspec.json.decode(outgoing.body)["max_tokens"]
    if quirks.needs_alternatives and fields.get("logprobs") == _NONE:
        fields["logprobs"] = 1
    if request.choices > 1:
        fields["n"] = request.n
    if request.seed is not None:
        fields["seed"] = request.seed
    fields["stream"] = outgoing.streams
    if outgoing.streams and quirks.includes_usage:
        fields["stream_options"] = {"include_usage": True}
        if quirks.running_usage:
            fields["stream_options"]["continuous_usage_stats"] = True
    outgoing.leave_out(fields, quirks.rejected_parameters)
    return msgspec.json.encode(fields)


def _prompt(raw: Raw, delivered: Delivered | None) -> str:
    """The text, which may stand alone in a list, and what the client has of its continuation."""
    prompt = msgspec.json.decode(raw)
    text = prompt if isinstance(prompt, str) else prompt[0]
    return text + (delivered.content if delivered is not None else "")


def reader() -> "Reader":
    return Reader()


class Reader(openai.Reader):
    """Events of one answer to chunks (`core.dialect.Reader`): those of chat, with a text in place
    of a delta."""

    __slots__ = ()

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        return super().read(name, _as_chat(data))


def _as_chat(data: bytes) -> bytes:
    """An event with deltas in place of texts; as it came where it has none."""
    event = as_object(decoded(data, _TEXTS)) if b'"text"' in data else None
    choices = (event or {}).get("choices")
    if event is None or not isinstance(choices, list):
        return data
    for each in cast("list[Any]", choices):
        choice = as_object(each)
        if choice is not None and "text" in choice:
            choice["delta"] = {"content": choice.pop("text")}
    return encode_leniently(event)


def unstreamed(body: bytes) -> list[bytes]:
    """An answer in one piece is what the event of a stream is."""
    fields = as_object(decoded(body)) or {}
    return [body] if fields.get("choices") else []
