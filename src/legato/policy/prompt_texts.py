"""What a model is given to read by a request of Anthropic's Messages API: for counting its tokens.

Nothing is checked here: what has another shape than the API's is counted as the JSON that it is, or
not at all.
"""

import math
from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from legato.core.chunk import as_object

#: UTF-8 bytes of a token, for an estimate: between the 3 of JSON and the 4 of English prose, so
#: that prompts of agents are estimated a little too long rather than too short.
BYTES_PER_TOKEN: Final = 3.5

#: Tokens of an image (the most that Anthropic's API takes for one), and of a document of unknown
#: length, such as a PDF of a few pages.
IMAGE: Final = 1600
DOCUMENT: Final = 6000

#: Tokens of the marks around a message, and of those in front of the answer.
_MESSAGE: Final = 4
_ANSWER: Final = 3

Json = dict[str, Any]


class PromptTexts(Struct):
    """`texts`: in the order in which they are read. `fixed`: tokens of all that is not text."""

    texts: list[str]
    fixed: int
    has_media: bool = False  # images or documents, whose tokens are estimated

    @property
    def estimate(self) -> int:
        """Tokens of the prompt, estimated by its size."""
        size = sum(len(each.encode("utf-8", "replace")) for each in self.texts)
        return math.ceil(size / BYTES_PER_TOKEN) + self.fixed


def prompt_texts(request: Json) -> PromptTexts:
    """The texts in a request: `system`, `messages` and `tools`."""
    messages = _objects(request.get("messages"))
    found = PromptTexts([], _MESSAGE * len(messages) + _ANSWER)
    _read(found, _blocks(request.get("system")))
    turn = _current_turn(messages)
    for index, message in enumerate(messages):
        thinks = index > turn
        blocks = _blocks(message.get("content"))
        _read(found, (each for each in blocks if thinks or each.get("type") != "thinking"))
    found.texts += [_as_json(each) for each in _objects(request.get("tools"))]
    return found


def _current_turn(messages: list[Json]) -> int:
    """The last message in which the user says something, and does not only give results of tools.
    The API leaves out what was thought before it."""
    for index in range(len(messages) - 1, -1, -1):
        blocks = _blocks(messages[index].get("content"))
        if messages[index].get("role") == "user" and any(
            each.get("type") != "tool_result" for each in blocks
        ):
            return index
    return -1


def _read(found: PromptTexts, blocks: Iterator[Json] | list[Json]) -> None:
    for block in blocks:
        match block.get("type"):
            case "text":
                found.texts.append(_text(block.get("text")))
            case "thinking":
                found.texts.append(_text(block.get("thinking")))
            case "redacted_thinking":
                pass  # encrypted: its size says little
            case "image":
                found.fixed += IMAGE
                found.has_media = True
            case "document":
                _read_document(found, block)
            case "tool_use" | "server_tool_use" | "mcp_tool_use":
                found.texts += [_text(block.get("name")), _as_json(block.get("input"))]
            case "tool_result":
                _read(found, _blocks(block.get("content")))
            case _:
                found.texts.append(_as_json(block))


def _read_document(found: PromptTexts, block: Json) -> None:
    found.texts += [_text(block.get("title")), _text(block.get("context"))]
    source = as_object(block.get("source")) or {}
    if source.get("type") == "text":
        found.texts.append(_text(source.get("data")))
    elif source.get("type") == "content":
        _read(found, _blocks(source.get("content")))
    else:
        found.fixed += DOCUMENT
        found.has_media = True


def _blocks(content: Any) -> list[Json]:
    """Content as a list of blocks; a string is one block of text."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return _objects(content)


def _objects(value: Any) -> list[Json]:
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [each for each in items if as_object(each) is not None]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _as_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
