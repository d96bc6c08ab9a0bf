"""Messages as Anthropic's Messages API has them: turns of blocks, the system prompt apart."""

import base64
import binascii
from typing import Any, Final, cast

from legato.core.chunk import as_object
from legato.core.dialect import Delivered
from legato.core.errors import UpstreamError, bad_gateway, invalid
from legato.core.media_types import parse_data_url
from legato.core.tool_calls import legal_call_id
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

Block = dict[str, Any]


def conversation(messages: list[Block]) -> tuple[str | list[Block], list[Block]]:
    """The `system` parameter, and turns of user and assistant, one after the other.

    Raises `ApiError` 400 for content that the API has no block for, and where no content is left.
    """
    system: list[Block] = []
    turns: list[Block] = []
    empty: int | None = None  # the last message of the user, where it has no content
    for index, message in enumerate(messages):
        match message["role"]:
            case "system" | "developer":
                system += _text_blocks(content_parts(message.get("content")), message["role"])
                continue
            case "user":
                role, blocks = "user", _blocks(content_parts(message.get("content")))
                empty = index
            case "assistant":
                role, blocks = "assistant", _assistant(message)
            case "tool":
                role, blocks = "user", [_tool_result(message)]
            case other:
                raise unsupported(f"a message of role `{other}`")
        if blocks:
            _add(turns, role, blocks)
            empty = None
    if empty is not None and (not turns or turns[-1]["role"] == "assistant"):
        raise no_content(empty)
    if turns:
        return _joined(system), turns
    if not system:
        raise no_content(None)
    return "", [{"role": "user", "content": system}]


def _add(turns: list[Block], role: str, blocks: list[Block]) -> None:
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _joined(system: list[Block]) -> str | list[Block]:
    """As blocks only where they have more than text, such as what is to be cached."""
    if any(each.keys() != {"type", "text"} for each in system):
        return system
    return "\n\n".join(each["text"] for each in system)


def _blocks(parts: list[Block]) -> list[Block]:
    """The API refuses blocks without text: they are left out."""
    blocks = [_block(each) for each in parts]
    return [each for each in blocks if each["type"] != "text" or each["text"].strip()]


def _text_blocks(parts: list[Block], role: str) -> list[Block]:
    """The same where the API takes nothing but text."""
    for each in parts:
        if text_of(each) is None:
            raise unsupported(f"content of {kind(each)} in a message of role `{role}`")
    return _blocks(parts)


def _block(part: Block) -> Block:
    text = text_of(part)
    if text is not None:
        block: Block = {"type": "text", "text": text}
    else:
        match part.get("type"):
            case "image_url":
                block = _image(image_url(part))
            case "file":
                block = _file(as_object(part.get("file")) or {})
            case _:
                raise unsupported(f"content of {kind(part)}")
    if part.get("cache_control") is not None:
        block["cache_control"] = part["cache_control"]
    return block


def _image(url: Any) -> Block:
    found = parse_data_url(url)
    source = _remote(url) if found is None else _inline(*found)
    return {"type": "image", "source": source}


def _file(file: Block) -> Block:
    """PDF goes out as it is, text as text, an image as an image: the API takes no other file."""
    found = parse_data_url(file.get("file_data"))
    if found is None:
        source = _remote(file.get("file_data"))
    else:
        media, data = found
        if media.startswith("image/"):
            return {"type": "image", "source": _inline(media, data)}
        if media.startswith("text/"):
            source = {"type": "text", "media_type": "text/plain", "data": _decoded(data)}
        elif media == "application/pdf":
            source = _inline(media, data)
        else:
            raise unsupported(f"a file of type `{media[:100]}`")
    block: Block = {"type": "document", "source": source}
    if isinstance(file.get("filename"), str):
        block["title"] = file["filename"]
    return block


def _inline(media: str, data: str) -> Block:
    return {"type": "base64", "media_type": media, "data": data}


def _remote(url: Any) -> Block:
    if isinstance(url, str) and url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    raise invalid(
        "An image or a file is a `data:` URL in base64, or an `https:` URL.", param="messages"
    )


def _decoded(data: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid("A text file is not UTF-8 in base64.", param="messages") from None


def _assistant(message: Block) -> list[Block]:
    """Thoughts come first: a model that called tools wants them back, with their signatures."""
    details = message.get("reasoning_details")
    thoughts: list[Block] = []
    for each in cast("list[Any]", details) if isinstance(details, list) else ():
        thoughts += _thought(as_object(each) or {})
    calls = [_tool_use(each) for each in message.get("tool_calls") or ()]
    return thoughts + _text_blocks(assistant_parts(message), "assistant") + calls


#: What a block of thinking consists of. Other vendors' details have other types.
_THOUGHTS: Final = {
    "thinking": ("type", "thinking", "signature"),
    "redacted_thinking": ("type", "data"),
}


def _thought(detail: Block) -> list[Block]:
    names = _THOUGHTS.get(str(detail.get("type")), ())
    block = {name: detail[name] for name in names if name in detail}
    return [block] if block and len(block) == len(names) else []


def _tool_use(call: Block) -> Block:
    found = tool_call(call)
    if not found.identity:
        raise invalid("A tool call has no `id`.", param="messages")
    return {
        "type": "tool_use",
        "id": legal_call_id(found.identity),
        "name": found.name,
        "input": found.arguments,
    }


def _tool_result(message: Block) -> Block:
    result = {"type": "tool_result", "tool_use_id": legal_call_id(message["tool_call_id"])}
    content = _blocks(content_parts(message.get("content")))
    return result | {"content": content} if content else result


def go_on(turns: list[Block], delivered: Delivered, *, takes_prefill: bool) -> None:
    """Adds the answer so far as the last turn, which the model continues.

    Raises `UpstreamError` `cannot_continue` where the two would not join exactly.
    """
    text = delivered.content
    if delivered.reasoning:
        raise _cannot_continue("thoughts have to carry their author's signature")
    if not text:
        return
    if not takes_prefill:
        raise _cannot_continue("this model does not continue an answer that it did not begin")
    if text != text.rstrip():
        raise _cannot_continue("it may not end in white space")
    assistants = bool(turns) and turns[-1]["role"] == "assistant"
    blocks: list[Block] = turns[-1]["content"] if assistants else []
    if blocks and blocks[-1]["type"] == "text":
        blocks[-1]["text"] += text  # the client began it itself
    else:
        _add(turns, "assistant", [{"type": "text", "text": text}])


def _cannot_continue(why: str) -> UpstreamError:
    return bad_gateway(f"The answer cannot be continued here: {why}.", code="cannot_continue")
