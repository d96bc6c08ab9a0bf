"""Reads OpenAI's messages, for dialects that have other shapes for them."""

from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from legato.core.chunk import as_object
from legato.core.errors import ApiError, invalid

Fields = dict[str, Any]

#: Members of an assistant's message that hold a part of the answer no dialect here has a shape for.
_UNMAPPED: Final = ("audio", "function_call")


class Call(Struct, frozen=True):
    """A tool call of an earlier answer. `identity` None: the client gave it no id."""

    identity: str | None
    name: str
    arguments: Fields


def unsupported(what: str, param: str = "messages") -> ApiError:
    """The 400 for something that the upstream's API has no place for."""
    return invalid(f"The model does not take {what}.", param=param, code="unsupported_parameter")


def kind(fields: Fields) -> str:
    """The `type` of a part or a call, for a message."""
    value = fields.get("type")
    return f"type `{value[:100]}`" if isinstance(value, str) else "no type"


def content_parts(content: Any) -> list[Fields]:
    """A message's content as a list of parts."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts = cast("list[Any]", content) if isinstance(content, list) else []
    return [as_object(each) or {} for each in parts]


def assistant_parts(message: Fields) -> list[Fields]:
    """The same for a message of the assistant: its refusal and its images are content, too.

    Raises `ApiError` 400 for an answer in audio and for a call in the deprecated form.
    """
    for name in _UNMAPPED:
        if message.get(name) is not None:
            raise unsupported(f"`{name}` in a message of role `assistant`")
    parts = content_parts(message.get("content"))
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        parts.append({"type": "refusal", "refusal": refusal})
    images = message.get("images")
    return parts + (content_parts(images) if isinstance(images, list) else [])


def text_of(part: Fields) -> str | None:
    """The text of a part; None where the part is not text."""
    match part.get("type"):
        case "text":
            return part.get("text") or ""
        case "refusal":
            return part.get("refusal") or ""
        case _:
            return None


def image_url(part: Fields) -> Any:
    """What an `image_url` part has for a URL. Some clients leave the object around it out."""
    image = part.get("image_url")
    return (as_object(image) or {"url": image}).get("url")


def tool_call(call: Fields) -> Call:
    """Raises `ApiError` 400 for a call of another type than `function`, and for half of one."""
    function = as_object(call.get("function"))
    if function is None:
        raise unsupported(f"a tool call of {kind(call)}")
    name, identity = function.get("name"), call.get("id")
    if not isinstance(name, str) or not name:
        raise invalid("A tool call has no `function.name`.", param="messages")
    return Call(identity if isinstance(identity, str) else None, name, _arguments(function))


def _arguments(function: Fields) -> Fields:
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            arguments = None
    fields = as_object(arguments)
    if fields is None:
        raise invalid("The `arguments` of a tool call are not a JSON object.", param="messages")
    return fields


def no_content(index: int | None) -> ApiError:
    """The 400 for messages of which nothing is left that the upstream could answer. `index`: of the
    message whose content is empty, where it is one."""
    param = "messages" if index is None else f"messages[{index}].content"
    what = f"`{param}` without content" if index is None else f"an empty `{param}`"
    return unsupported(what, param)
