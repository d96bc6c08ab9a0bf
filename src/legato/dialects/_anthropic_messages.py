"""Messages as Anthropic's Messages API has them: turns of blocks, the system apart."""

import re
from typing import Any, Final, cast

import msgspec

from legato.core.chunk import as_object
from legato.core.dialect import Delivered
from legato.core.errors import ApiError, UpstreamError, bad_gateway, invalid

_DATA_URL: Final = re.compile(r"data:([^;,]+);base64,(.+)", re.DOTALL)

Block = dict[str, Any]


def conversation(messages: list[Block]) -> tuple[str | list[Block], list[Block]]:
    """The `system` parameter, and turns of user and assistant, one after the other.

    Raises `ApiError` 400 for content that the API has no block for.
    """
    system: list[Block] = []
    turns: list[Block] = []
    for message in messages:
        match message["role"]:
            case "system" | "developer":
                system += _blocks(message.get("content"))
            case "user":
                _add(turns, "user", _blocks(message.get("content")))
            case "assistant":
                _add(turns, "assistant", _assistant(message))
            case "tool":
                _add(turns, "user", [_tool_result(message)])
            case role:
                raise _untaken(f"a message of role `{role}`")
    return _joined(system), turns


def _add(turns: list[Block], role: str, blocks: list[Block]) -> None:
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _joined(system: list[Block]) -> str | list[Block]:
    """As blocks only where they say something that text does not, such as what is to be cached."""
    if any(each.keys() != {"type", "text"} for each in system):
        return system
    return "\n\n".join(each["text"] for each in system)


def _blocks(content: Any) -> list[Block]:
    """A message's content. Blocks without text are refused there: they are left out."""
    parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    blocks = [_block(as_object(each) or {}) for each in parts or ()]
    return [each for each in blocks if each["type"] != "text" or each["text"].strip()]


def _block(part: Block) -> Block:
    match part.get("type"):
        case "text":
            block: Block = {"type": "text", "text": part.get("text") or ""}
        case "refusal":
            block = {"type": "text", "text": str(part.get("refusal") or "")}
        case "image_url":
            image = part.get("image_url")
            url = (as_object(image) or {"url": image}).get("url")
            block = {"type": "image", "source": _source(url)}
        case "file":
            file = as_object(part.get("file")) or {}
            block = {"type": "document", "source": _source(file.get("file_data"))}
            if isinstance(file.get("filename"), str):
                block["title"] = file["filename"]
        case kind:
            raise _untaken(f"content of type `{kind}`")
    if part.get("cache_control") is not None:
        block["cache_control"] = part["cache_control"]
    return block


def _source(url: Any) -> Block:
    if isinstance(url, str):
        data = _DATA_URL.fullmatch(url)
        if data is not None:
            return {"type": "base64", "media_type": data[1], "data": data[2]}
        if url.startswith(("https://", "http://")):
            return {"type": "url", "url": url}
    raise invalid(
        "An image or a file is a `data:` URL in base64, or an `https:` URL.", param="messages"
    )


def _assistant(message: Block) -> list[Block]:
    """Thoughts come first: a model that called tools wants them back, with their signatures."""
    details = message.get("reasoning_details")
    thoughts: list[Block] = []
    for each in cast("list[Any]", details) if isinstance(details, list) else ():
        thoughts += _thought(as_object(each) or {})
    calls = [_tool_use(each) for each in message.get("tool_calls") or ()]
    return thoughts + _blocks(message.get("content")) + calls


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
    function = as_object(call.get("function"))
    if function is None:
        raise _untaken(f"a tool call of type `{call.get('type')}`")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise invalid("The `arguments` of a tool call are no JSON object.", param="messages")
    return {
        "type": "tool_use",
        "id": _tool_id(call.get("id")),
        "name": function.get("name"),
        "input": arguments,
    }


def _tool_result(message: Block) -> Block:
    result = {"type": "tool_result", "tool_use_id": _tool_id(message.get("tool_call_id"))}
    content = _blocks(message.get("content"))
    return result | {"content": content} if content else result


def _tool_id(identity: Any) -> str:
    """Fewer letters are allowed there than some servers use in theirs."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", str(identity or ""))


def _untaken(what: str) -> ApiError:
    return invalid(
        f"The model does not take {what}.", param="messages", code="unsupported_parameter"
    )


def go_on(turns: list[Block], delivered: Delivered, *, takes_prefill: bool) -> None:
    """The answer so far as the last turn, which the model goes on with.

    Raises `UpstreamError` `cannot_continue` where the two would not join exactly.
    """
    text = delivered.content
    if delivered.reasoning:
        raise _cannot_continue("thoughts have to carry their author's signature")
    if not text:
        return
    if not takes_prefill:
        raise _cannot_continue("this model does not go on with what it did not begin")
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
