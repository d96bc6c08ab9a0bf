"""Messages as Gemini's API has them: turns of parts, the system instruction apart."""

from typing import Any, Final

from legato.core.chunk import as_object, decoded
from legato.core.errors import invalid
from legato.core.media_types import parse_data_url
from legato.dialects._openai_messages import (
    assistant_parts,
    content_parts,
    image_url,
    kind,
    no_content,
    text_of,
    tool_call,
    unsupported,
)

#: Of files that are named by their URL; the API does not look for itself.
_TYPES: Final = {
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "pdf": "application/pdf",
    "png": "image/png",
    "webp": "image/webp",
}

#: Takes the place of the signature of a call that another model made, after Google's own advice
#: (ai.google.dev/gemini-api/docs/thought-signatures): from Gemini 3 on a call without one is a 400.
_UNSIGNED: Final = "skip_thought_signature_validator"

Part = dict[str, Any]


def conversation(messages: list[Part], *, signed: bool) -> tuple[list[Part], list[Part]]:
    """The parts of `systemInstruction`, and `contents`. `signed`: calls have to be.

    Raises `ApiError` 400 for content that the API has no part for, and where no content is left.
    """
    system: list[Part] = []
    turns: list[Part] = []
    names: dict[str, str] = {}  # of the functions that were called, by the call's id
    empty: int | None = None  # the last message of the user, where it has no content
    for index, message in enumerate(messages):
        match message["role"]:
            case "system" | "developer":
                system += _system(message)
                continue
            case "user":
                role, parts = "user", _parts(content_parts(message.get("content")))
                empty = index
            case "assistant":
                role, parts = "model", _answer(message) + _calls(message, names, signed=signed)
            case "tool":
                role, parts = "user", [_response(message, names)]
            case other:
                raise unsupported(f"a message of role `{other}`")
        if parts:
            _add(turns, role, parts)
            empty = None
    if empty is not None and (not turns or turns[-1]["role"] == "model"):
        raise no_content(empty)
    if turns:
        return system, turns
    if not system:
        raise no_content(None)
    return [], [{"role": "user", "parts": system}]


def _add(turns: list[Part], role: str, parts: list[Part]) -> None:
    """What functions returned stands in a turn of its own, as many parts as there were calls."""
    last = turns[-1] if turns else None
    if last is not None and last["role"] == role and _returned(last["parts"]) == _returned(parts):
        last["parts"] += parts
    else:
        turns.append({"role": role, "parts": parts})


def _returned(parts: list[Part]) -> bool:
    return "functionResponse" in parts[0]


def _parts(content: list[Part]) -> list[Part]:
    """The API refuses parts without text: they are left out."""
    parts = [_part(each) for each in content]
    return [each for each in parts if each.get("text") != ""]


def _system(message: Part) -> list[Part]:
    content = content_parts(message.get("content"))
    for each in content:
        if text_of(each) is None:
            raise unsupported(f"content of {kind(each)} in a message of role `{message['role']}`")
    return _parts(content)


def _part(part: Part) -> Part:
    text = text_of(part)
    if text is not None:
        return {"text": text}
    match part.get("type"):
        case "image_url":
            return _media(image_url(part))
        case "input_audio":
            audio = as_object(part.get("input_audio")) or {}
            data = audio.get("data")
            if not isinstance(data, str):
                raise invalid("`input_audio` has no `data` in base64.", param="messages")
            return _inline(f"audio/{audio.get('format') or 'wav'}", data)
        case "file":
            return _media((as_object(part.get("file")) or {}).get("file_data"))
        case _:
            raise unsupported(f"content of {kind(part)}")


def _media(url: Any) -> Part:
    found = parse_data_url(url)
    if found is not None:
        return _inline(*found)
    if isinstance(url, str) and url.startswith(("https://", "gs://")):
        media = _TYPES.get(url.partition("?")[0].rpartition(".")[2].lower())
        return {"fileData": {"fileUri": url} | ({"mimeType": media} if media else {})}
    raise invalid(
        "An image or a file is a `data:` URL in base64, or an `https:` URL.", param="messages"
    )


def _inline(media: str, data: str) -> Part:
    return {"inlineData": {"mimeType": media, "data": data}}


# An earlier answer


def _answer(message: Part) -> list[Part]:
    parts = _parts(assistant_parts(message))
    signature = _signature(message)
    if parts and signature is not None:
        parts[-1]["thoughtSignature"] = signature
    return parts


def _calls(message: Part, names: dict[str, str], *, signed: bool) -> list[Part]:
    parts: list[Part] = []
    for call in message.get("tool_calls") or ():
        part: Part = {"functionCall": _call(call, names)}
        # Of calls that are made at once only the first is signed.
        signature = _signature(call) or (_UNSIGNED if signed and not parts else None)
        if signature is not None:
            part["thoughtSignature"] = signature
        parts.append(part)
    return parts


def _call(call: Part, names: dict[str, str]) -> Part:
    found = tool_call(call)
    fields: Part = {"name": found.name, "args": found.arguments}
    if found.identity is not None:
        fields["id"] = found.identity
        names[found.identity] = found.name
    return fields


def _response(message: Part, names: dict[str, str]) -> Part:
    identity: str = message["tool_call_id"]
    name = names.get(identity)
    if name is None:
        raise invalid(f"There is no tool call `{identity}` before its result.", param="messages")
    parts = _parts(content_parts(message.get("content")))
    if any(each.keys() != {"text"} for each in parts):
        raise unsupported("anything but text as the result of a tool")
    text = "\n".join(each["text"] for each in parts)
    returned = as_object(decoded(text.encode()))
    response = {"output": text} if returned is None else returned
    return {"functionResponse": {"id": identity, "name": name, "response": response}}


def _signature(owner: Part) -> str | None:
    """Where Google's own OpenAI-compatible endpoint has it, and our reader puts it."""
    google = as_object((as_object(owner.get("extra_content")) or {}).get("google")) or {}
    signature = google.get("thought_signature")
    return signature if isinstance(signature, str) and signature else None
