"""Parts of an answer in Gemini's format, in OpenAI's shapes."""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from legato.core.chunk import as_object
from legato.core.json_text import Path

#: Strings in which the half of a surrogate pair waits for the next event.
TEXTS: Final[frozenset[Path]] = frozenset({("candidates", "content", "parts", "text")})


class FunctionCall(Struct, gc=False):
    name: str = ""
    id: str | None = None
    args: dict[str, Raw] | None = None


class Token(Struct, gc=False, rename="camel"):
    token: str | None = None
    log_probability: float | str | None = 0.0  # protobuf writes `-Infinity` as a string


class Tokens(Struct, gc=False):
    candidates: list[Token] | None = None


class Logprobs(Struct, gc=False, rename="camel"):
    chosen_candidates: list[Token] | None = None
    top_candidates: list[Tokens] | None = None


def tool_call(number: int, call: FunctionCall) -> dict[str, Any]:
    """Functions are called whole, and by most models without an id."""
    arguments = msgspec.json.encode(call.args or {}).decode()
    piece: dict[str, Any] = {"index": number, "type": "function"}
    piece["function"] = {"name": call.name, "arguments": arguments}
    return piece | {"id": call.id} if call.id else piece


def image_url(part: dict[str, Any]) -> str | None:
    """The address of a part that is a picture: most are in the answer itself."""
    for name, place in (("inlineData", "data"), ("fileData", "fileUri")):
        blob = as_object(part.get(name)) or {}
        kind, value = blob.get("mimeType"), blob.get(place)
        if isinstance(kind, str) and kind.startswith("image/") and isinstance(value, str) and value:
            return f"data:{kind};base64,{value}" if name == "inlineData" else value
    return None


def extra(signature: str | None, part: dict[str, Any]) -> dict[str, Any]:
    """Members of a delta for what OpenAI's format has no place for. A client sends the signature
    back, as Google's own OpenAI-compatible endpoint has it. Nothing where there is nothing."""
    google: dict[str, Any] = {"thought_signature": signature} if signature else {}
    if part:
        google["parts"] = [part]
    return {"extra_content": {"google": google}} if google else {}


def logprobs(result: Logprobs) -> dict[str, Any]:
    tops = [each.candidates or [] for each in result.top_candidates or ()]
    chosen = result.chosen_candidates or []
    return {
        "content": [
            _logprob(token)
            | {"top_logprobs": [_logprob(each) for each in tops[n]] if n < len(tops) else []}
            for n, token in enumerate(chosen)
        ]
    }


def _logprob(token: Token) -> dict[str, Any]:
    text, value = token.token or "", token.log_probability
    number = value if isinstance(value, float) else None
    return {"token": text, "logprob": number, "bytes": list(text.encode())}
