"""OpenAI's chat messages as the input items of its Responses API."""

from typing import Any, Final, cast

import msgspec

from legato.core.chunk import as_object
from legato.core.errors import invalid
from legato.core.media_types import parse_data_url
from legato.dialects._openai_messages import (
    assistant_parts,
    content_parts,
    image_url,
    kind,
    no_content,
    text_of,
    unsupported,
)

Fields = dict[str, Any]

#: The `format` of the entries of `reasoning_details` that this API has made.
REASONING_FORMAT: Final = "openai-responses-v1"


def input_items(messages: list[Fields], *, with_encrypted: bool) -> list[Fields]:
    """The `input` parameter. `with_encrypted`: the model takes its encrypted reasoning back.

    Raises `ApiError` 400 for content that the API has no item for, and where no content is left.
    """
    items: list[Fields] = []
    custom: set[str] = set()  # ids of calls of custom tools
    for message in messages:
        match message["role"]:
            case "system" | "developer" | "user":
                items.append({"role": message["role"], "content": _content(message)})
            case "assistant":
                items += _reasoning(message, with_encrypted)
                items += _answer(message)
                for call in message.get("tool_calls") or ():
                    item = _call(call)
                    if item["type"] == "custom_tool_call":
                        custom.add(item["call_id"])
                    items.append(item)
            case "tool":
                items.append(_result(message, message["tool_call_id"] in custom))
            case other:
                raise unsupported(f"a message of role `{other}`")
    if not items:
        raise no_content(None)
    return items


# Content


def _content(message: Fields) -> str | list[Fields]:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content_parts(content)
    if message["role"] != "user":
        for each in parts:
            if text_of(each) is None:
                raise unsupported(
                    f"content of {kind(each)} in a message of role `{message['role']}`"
                )
    return [_part(each) for each in parts]


def _part(part: Fields) -> Fields:
    text = text_of(part)
    if text is not None:
        return {"type": "input_text", "text": text}
    match part.get("type"):
        case "image_url":
            return _image(part)
        case "file":
            return _file(as_object(part.get("file")) or {})
        case _:
            raise unsupported(f"content of {kind(part)}")


def _image(part: Fields) -> Fields:
    url, detail = image_url(part), (as_object(part.get("image_url")) or {}).get("detail")
    if not isinstance(url, str) or not url.startswith(("data:", "https://", "http://")):
        raise invalid("An image is a `data:` URL in base64, or an `https:` URL.", param="messages")
    return {
        "type": "input_image",
        "image_url": _registered(url),
        "detail": detail if isinstance(detail, str) else "auto",
    }


def _registered(url: str) -> str:
    """A `data:` URL with the registered name of its media type; the same URL where it has that."""
    found = parse_data_url(url) if url.startswith("data:") else None
    if found is None or url.startswith(f"data:{found[0]};"):
        return url
    return f"data:{found[0]};base64,{found[1]}"


def _file(file: Fields) -> Fields:
    data = file.get("file_data")
    fields = {name: file[name] for name in ("file_id", "filename") if file.get(name) is not None}
    if isinstance(data, str) and data.startswith(("https://", "http://")):
        fields["file_url"] = data
    elif isinstance(data, str) and data:
        fields["file_data"] = data
    elif "file_id" not in fields:
        raise invalid("A file has neither `file_data` nor `file_id`.", param="messages")
    return {"type": "input_file"} | fields


# Messages of the assistant


def _answer(message: Fields) -> list[Fields]:
    """The text and the refusal of an earlier answer; nothing where it has neither."""
    content: list[Fields] = []
    for part in assistant_parts(message):
        text = text_of(part)
        if text is None:
            raise unsupported(f"content of {kind(part)} in a message of role `assistant`")
        if text and part.get("type") == "refusal":
            content.append({"type": "refusal", "refusal": text})
        elif text:
            content.append({"type": "output_text", "text": text})
    if not content:
        return []
    item: Fields = {"type": "message", "role": "assistant", "content": content}
    more = as_object((as_object(message.get("extra_content")) or {}).get("openai")) or {}
    phases = more.get("phases")
    if isinstance(phases, list) and phases:
        item["phase"] = phases[-1]
    return [item]


def _reasoning(message: Fields, with_encrypted: bool) -> list[Fields]:
    """The reasoning items that led to an answer. Those of other formats are left out: the API
    refuses what it has not made."""
    details = message.get("reasoning_details")
    entries = cast("list[Any]", details) if isinstance(details, list) else []
    items: list[Fields] = []
    for entry in map(as_object, entries):
        if entry is None or entry.get("format") != REASONING_FORMAT:
            continue
        summary, data, text = entry.get("summary"), entry.get("data"), entry.get("text")
        item: Fields = {"type": "reasoning", "summary": summary if summary else []}
        if isinstance(entry.get("id"), str):
            item["id"] = entry["id"]
        if isinstance(entry.get("content"), list):
            item["content"] = entry["content"]
        if entry.get("type") == "reasoning.encrypted" and isinstance(data, str) and with_encrypted:
            items.append(item | {"encrypted_content": data})
        elif entry.get("type") == "reasoning.text" and isinstance(text, str):
            items.append(item | {"content": [{"type": "reasoning_text", "text": text}]})
    return items


def _call(call: Fields) -> Fields:
    identity = call.get("id")
    custom, function = as_object(call.get("custom")), as_object(call.get("function"))
    if call.get("type") == "custom" and custom is not None:
        item = {"type": "custom_tool_call", "name": custom.get("name")}
        item["input"] = custom.get("input") or ""
    elif function is not None:
        item = {"type": "function_call", "name": function.get("name")}
        item["arguments"] = _arguments(function.get("arguments"))
    else:
        raise unsupported(f"a tool call of {kind(call)}")
    if not isinstance(item["name"], str) or not item["name"]:
        raise invalid("A tool call has no `function.name`.", param="messages")
    if not isinstance(identity, str) or not identity:
        raise invalid("A tool call has no `id`.", param="messages")
    more = as_object((as_object(call.get("extra_content")) or {}).get("openai")) or {}
    return more | item | {"call_id": identity}


def _arguments(arguments: Any) -> str:
    """As they came: what a model has written goes back to the letter."""
    if isinstance(arguments, str):
        return arguments or "{}"
    if arguments is None or as_object(arguments) is not None:
        return msgspec.json.encode(arguments or {}).decode()
    raise invalid("The `arguments` of a tool call are not a JSON object.", param="messages")


def _result(message: Fields, is_custom: bool) -> Fields:
    content = message.get("content")
    parts = content_parts(content)
    output: Any = [_part(each) for each in parts]
    if isinstance(content, str) or not parts:
        output = content or ""
    elif len(parts) == 1 and (text := text_of(parts[0])) is not None:
        output = text  # servers that copy the API take a string alone
    return {
        "type": "custom_tool_call_output" if is_custom else "function_call_output",
        "call_id": message["tool_call_id"],
        "output": output,
    }
