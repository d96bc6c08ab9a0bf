"""Messages as Gemini's API has them: turns of parts, the system's apart."""

import re
from typing import Any, Final

import msgspec

from legato.core.chunk import as_object
from legato.core.errors import ApiError, invalid

_DATA_URL: Final = re.compile(r"data:([^;,]+);base64,(.+)", re.DOTALL)

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

#: What stands for the signature of a call that another model made, after Google's own advice
#: (ai.google.dev/gemini-api/docs/thought-signatures): from Gemini 3 on none is refused.
_UNSIGNED: Final = "skip_thought_signature_validator"

Part = dict[str, Any]


def conversation(messages: list[Part], *, signed: bool) -> tuple[list[Part], list[Part]]:
    """The parts of `systemInstruction`, and `contents`. `signed`: calls have to be.

    Raises `ApiError` 400 for content that the API has no part for.
    """
    system: list[Part] = []
    turns: list[Part] = []
    names: dict[str, str] = {}  # of the functions that were called, by the call's id
    for message in messages:
        match message["role"]:
            case "system" | "developer":
                system += _parts(message.get("content"))
            case "user":
                _add(turns, "user", _parts(message.get("content")))
            case "assistant":
                _add(turns, "model", _said(message) + _calls(message, names, signed=signed))
            case "tool":
                _add(turns, "user", [_response(message, names)])
            case role:
                raise _untaken(f"a message of role `{role}`")
    return (system, turns) if turns else ([], [{"role": "user", "parts": system}])


def _add(turns: list[Part], role: str, parts: list[Part]) -> None:
    """What functions returned stands in a turn of its own, as many parts as there were calls."""
    if not parts:
        return
    last = turns[-1] if turns else None
    if last is not None and last["role"] == role and _returned(last["parts"]) == _returned(parts):
        last["parts"] += parts
    else:
        turns.append({"role": role, "parts": parts})


def _returned(parts: list[Part]) -> bool:
    return "functionResponse" in parts[0]


def _parts(content: Any) -> list[Part]:
    """A message's content. Parts without text are refused there: they are left out."""
    given: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    parts = [_part(as_object(each) or {}) for each in given or ()]
    return [each for each in parts if each.get("text") != ""]


def _part(part: Part) -> Part:
    match part.get("type"):
        case "text":
            return {"text": part.get("text") or ""}
        case "refusal":
            return {"text": str(part.get("refusal") or "")}
        case "image_url":
            image = part.get("image_url")
            return _media((as_object(image) or {"url": image}).get("url"))
        case "input_audio":
            audio = as_object(part.get("input_audio")) or {}
            return _inline(f"audio/{audio.get('format') or 'wav'}", audio.get("data"))
        case "file":
            return _media((as_object(part.get("file")) or {}).get("file_data"))
        case kind:
            raise _untaken(f"content of type `{kind}`")


def _media(url: Any) -> Part:
    if isinstance(url, str):
        data = _DATA_URL.fullmatch(url)
        if data is not None:
            return _inline(data[1], data[2])
        if url.startswith(("https://", "gs://")):
            kind = _TYPES.get(url.partition("?")[0].rpartition(".")[2].lower())
            return {"fileData": {"fileUri": url} | ({"mimeType": kind} if kind else {})}
    raise invalid(
        "An image or a file is a `data:` URL in base64, or an `https:` URL.", param="messages"
    )


def _inline(kind: str, data: Any) -> Part:
    return {"inlineData": {"mimeType": kind, "data": data}}


# What a model said


def _said(message: Part) -> list[Part]:
    parts = _parts(message.get("content"))
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
    function = as_object(call.get("function"))
    if function is None:
        raise _untaken(f"a tool call of type `{call.get('type')}`")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        arguments = _object(arguments)
    if not isinstance(arguments, dict):
        raise invalid("The `arguments` of a tool call are no JSON object.", param="messages")
    said: Part = {"name": function.get("name"), "args": arguments}
    identity = call.get("id")
    if isinstance(identity, str):
        said["id"] = identity
        names[identity] = str(function.get("name"))
    return said


def _response(message: Part, names: dict[str, str]) -> Part:
    identity = message.get("tool_call_id")
    name = names.get(str(identity))
    if name is None:
        raise invalid(f"There is no tool call `{identity}` before its result.", param="messages")
    parts = _parts(message.get("content"))
    if any(each.keys() != {"text"} for each in parts):
        raise _untaken("anything but text as the result of a tool")
    text = "\n".join(each["text"] for each in parts)
    returned = _object(text)
    said = {"output": text} if returned is None else returned
    return {"functionResponse": {"id": identity, "name": name, "response": said}}


def _signature(owner: Part) -> str | None:
    """Where Google's own OpenAI-compatible endpoint has it, and our reader puts it."""
    google = as_object((as_object(owner.get("extra_content")) or {}).get("google")) or {}
    signature = google.get("thought_signature")
    return signature if isinstance(signature, str) and signature else None


def _object(text: str) -> dict[str, Any] | None:
    """A JSON object, where `text` is one."""
    try:
        return as_object(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError):
        return None


def _untaken(what: str) -> ApiError:
    return invalid(
        f"The model does not take {what}.", param="messages", code="unsupported_parameter"
    )
