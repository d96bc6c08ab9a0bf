"""Messages of Anthropic's Messages API as those of OpenAI's Chat Completions."""

from typing import Any, Final, cast

import msgspec

from legato.core.chunk import as_object
from legato.fronts.messages_parts import (
    Beyond,
    Fields,
    cached,
    content_of,
    missing,
    text_of,
    unknown_block,
    user_parts,
    wrong,
)
from legato.fronts.messages_thoughts import is_packed, unpacked

#: Blocks of tools that Anthropic runs itself, and of what belongs to them: only its own servers
#: know what they mean.
_SERVER_BLOCKS: Final = frozenset(
    {
        "bash_code_execution_tool_result",
        "code_execution_tool_result",
        "compaction",
        "container_upload",
        "mcp_tool_result",
        "mcp_tool_use",
        "server_tool_use",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "web_fetch_tool_result",
        "web_search_tool_result",
    }
)


def system_message(system: str | list[Fields], where: str) -> list[Fields]:
    """The message that system instructions are; none where they are empty."""
    if isinstance(system, str):
        return [{"role": "system", "content": system}] if system else []
    parts: list[Fields] = []
    for index, block in enumerate(system):
        place = f"{where}[{index}]"
        if block.get("type") != "text":
            raise wrong(f"{place}.type", "is not `text`, which is all that instructions consist of")
        if text := text_of(block, place):
            parts.append(cached({"type": "text", "text": text}, block))
    return [{"role": "system", "content": content_of(parts)}] if parts else []


def user_messages(content: str | list[Fields], where: str, beyond: Beyond) -> list[Fields]:
    """A turn of the user: results of tools first, then what the user says. Chat Completions takes
    nothing but text in a result: its images and files are said by the user."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results: list[Fields] = []
    parts: list[Fields] = []
    for index, block in enumerate(content):
        place = f"{where}[{index}]"
        with beyond.noted():
            if block.get("type") == "tool_result":
                result, more = _tool_result(block, place)
                results.append(result)
                parts += more
            else:
                parts += user_parts(block, place)
    said = [{"role": "user", "content": content_of(parts)}] if parts or not results else []
    return results + said


def assistant_message(content: str | list[Fields], where: str, beyond: Beyond) -> Fields:
    """A turn of the assistant. Thinking goes back with the signature of who thought it; without one
    it was shown, and is nobody's."""
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    turn = _AssistantTurn()
    for index, block in enumerate(content):
        with beyond.noted():
            turn.add(block, f"{where}[{index}]")
    return turn.message()


class _AssistantTurn:
    def __init__(self) -> None:
        self._parts: list[Fields] = []
        self._calls: list[Fields] = []
        self._details: list[Fields] = []
        self._blocks: list[Fields] = []
        self._extras: dict[str | None, Fields] = {}  # by the id of the call they belong to

    def add(self, block: Fields, place: str) -> None:
        match block.get("type"):
            case "text":
                if text := text_of(block, place):
                    self._parts.append(cached({"type": "text", "text": text}, block))
            case "tool_use":
                self._calls.append(_tool_call(block, place))
            case "thinking":
                self._thinking(block, place)
            case "redacted_thinking":
                self._redacted(block, place)
            case str(kind) if kind in _SERVER_BLOCKS:
                self._blocks.append(block)
            case kind:
                raise unknown_block(kind, place)

    def _thinking(self, block: Fields, place: str) -> None:
        thinking, signature = block.get("thinking"), block.get("signature")
        if not isinstance(thinking, str):
            raise missing(f"{place}.thinking")
        if isinstance(signature, str) and signature:
            detail = {"type": "thinking", "thinking": thinking, "signature": signature}
            self._details.append(detail)

    def _redacted(self, block: Fields, place: str) -> None:
        if not isinstance(block.get("data"), str):
            raise missing(f"{place}.data")
        if not is_packed(block):
            self._details.append({"type": "redacted_thinking", "data": block["data"]})
        elif (entry := unpacked(block)) is not None:
            if entry.get("type") == "extra_content":
                self._extras[entry.get("call_id")] = as_object(entry["extra_content"]) or {}
            else:
                self._details.append(entry)

    def message(self) -> Fields:
        message: Fields = {"role": "assistant", "content": content_of(self._parts) or None}
        if self._calls:
            message["tool_calls"] = [
                call | ({"extra_content": extra} if (extra := self._extras.get(call["id"])) else {})
                for call in self._calls
            ]
        elif message["content"] is None:
            message["content"] = ""
        if self._details:
            message["reasoning_details"] = self._details
        extra = dict(self._extras.get(None) or {})
        if self._blocks:
            extra["anthropic"] = {"blocks": self._blocks}
        return message | ({"extra_content": extra} if extra else {})


def _tool_call(block: Fields, place: str) -> Fields:
    for name in ("id", "name"):
        if not isinstance(block.get(name), str) or not block[name]:
            raise missing(f"{place}.{name}")
    given = block.get("input", {})
    if as_object(given) is None:
        raise wrong(f"{place}.input", "is not an object")
    arguments = msgspec.json.encode(given).decode()
    function = {"name": block["name"], "arguments": arguments}
    return {"id": block["id"], "type": "function", "function": function}


def _tool_result(block: Fields, place: str) -> tuple[Fields, list[Fields]]:
    """(the message of the tool, parts of it that only a user's message may have)."""
    identity = block.get("tool_use_id")
    if not isinstance(identity, str) or not identity:
        raise missing(f"{place}.tool_use_id")
    parts = _result_parts(block.get("content"), f"{place}.content")
    texts = [each for each in parts if each["type"] == "text"]
    others = [each for each in parts if each["type"] != "text"]
    if block.get("is_error") is True:
        _mark_error(texts)
    if others:
        name = f"Content of the result of the tool call {identity}:"
        others.insert(0, {"type": "text", "text": name})
        texts = texts or [{"type": "text", "text": "The result is in the next message."}]
    if texts:
        texts[-1] = cached(texts[-1], block)
    message = {"role": "tool", "tool_call_id": identity, "content": content_of(texts)}
    return message, others


def _result_parts(content: Any, where: str) -> list[Fields]:
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        raise wrong(where, "is neither a string nor a list of blocks")
    parts: list[Fields] = []
    for index, each in enumerate(cast("list[Any]", content)):
        fields = as_object(each)
        if fields is None:
            raise wrong(f"{where}[{index}]", "is not an object")
        if fields.get("type") == "tool_reference":
            text = f"The tool `{fields.get('tool_name')}` can be called."
            parts.append({"type": "text", "text": text})
        else:
            parts += user_parts(fields, f"{where}[{index}]")
    return parts


def _mark_error(texts: list[Fields]) -> None:
    """Chat Completions knows no failed results: the text says it."""
    if not texts:
        texts.append({"type": "text", "text": "Error"})
    elif not texts[0]["text"].lstrip("<").lower().startswith(("error", "tool_use_error")):
        texts[0] = texts[0] | {"text": f"Error: {texts[0]['text']}"}
