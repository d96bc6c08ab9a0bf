"""Parts of a message of Chat Completions for the blocks that a user, a document or the result of a
tool has in Anthropic's Messages API."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from legato.core.chunk import as_object
from legato.core.errors import ApiError, invalid

Fields = dict[str, Any]

_UNSUPPORTED: Final = "unsupported_parameter"


def missing(param: str) -> ApiError:
    return invalid(f"`{param}` is required.", param=param, code="missing_required_parameter")


def wrong(param: str, reason: str) -> ApiError:
    return invalid(f"`{param}` {reason}.", param=param, code="invalid_value")


class Beyond:
    """`error`: the 400 for the first of what Chat Completions has no words for. An upstream of this
    format may take it all the same, so it is raised only where another one is asked."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: ApiError | None = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """What is beyond inside is noted and left out; other errors are raised."""
        try:
            yield
        except ApiError as error:
            if error.code != _UNSUPPORTED:
                raise
            self.error = self.error or error


def unsupported(param: str, reason: str) -> ApiError:
    return invalid(f"`{param}` {reason}.", param=param, code=_UNSUPPORTED)


def user_parts(block: Fields, place: str) -> list[Fields]:
    """The parts that a block of the user, or of a document or a result, becomes."""
    match block.get("type"):
        case "text":
            text = text_of(block, place)
            parts: list[Fields] = [{"type": "text", "text": text}] if text else []
        case "image":
            parts = [{"type": "image_url", "image_url": {"url": _image(block, place)}}]
        case "document":
            parts = _document(block, place)
        case "search_result":
            parts = _search_result(block, place)
        case kind:
            raise unknown_block(kind, place)
    if parts:
        parts[-1] = cached(parts[-1], block)
    return parts


def _image(block: Fields, place: str) -> str:
    source = _source(block, place)
    match source.get("type"):
        case "base64":
            return _data_url(source, f"{place}.source", "image/png")
        case "url":
            return _url(source, f"{place}.source")
        case kind:
            raise _no_source(kind, place)


def _document(block: Fields, place: str) -> list[Fields]:
    source, where = _source(block, place), f"{place}.source"
    title, context = _optional(block, "title"), _optional(block, "context")
    texts: list[Fields] = [{"type": "text", "text": context}] if context else []
    file: Fields = {"filename": title or "document.pdf"}
    if title and source.get("type") in ("text", "content"):
        texts.insert(0, {"type": "text", "text": title})
    match source.get("type"):
        case "base64":
            file["file_data"] = _data_url(source, where, "application/pdf")
            return [*texts, {"type": "file", "file": file}]
        case "url":
            file["file_data"] = _url(source, where)
            return [*texts, {"type": "file", "file": file}]
        case "text":
            data = source.get("data")
            if not isinstance(data, str):
                raise missing(f"{where}.data")
            return [*texts, {"type": "text", "text": data}]
        case "content":
            return texts + _inner(source.get("content"), f"{where}.content")
        case kind:
            raise _no_source(kind, place)


def _optional(block: Fields, name: str) -> str:
    value = block.get(name)
    return value if isinstance(value, str) else ""


def _search_result(block: Fields, place: str) -> list[Fields]:
    heading = [each for each in (block.get("title"), block.get("source")) if isinstance(each, str)]
    first: Fields = {"type": "text", "text": "\n".join(heading)}
    return [first, *_inner(block.get("content"), f"{place}.content")]


def _inner(content: Any, where: str) -> list[Fields]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        raise missing(where)
    parts: list[Fields] = []
    for index, each in enumerate(cast("list[Any]", content)):
        parts += user_parts(as_object(each) or {}, f"{where}[{index}]")
    return parts


def _source(block: Fields, place: str) -> Fields:
    source = as_object(block.get("source"))
    if source is None:
        raise missing(f"{place}.source")
    return source


def _data_url(source: Fields, where: str, default: str) -> str:
    data, media = source.get("data"), source.get("media_type") or default
    if not isinstance(data, str) or not data:
        raise missing(f"{where}.data")
    return f"data:{media};base64,{data}"


def _url(source: Fields, where: str) -> str:
    url = source.get("url")
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise wrong(f"{where}.url", "is not an `https:` URL")
    return url


def _no_source(kind: Any, place: str) -> ApiError:
    return unsupported(
        f"{place}.source", f"of type `{str(kind)[:100]}` is known only to the server that has it"
    )


def unknown_block(kind: Any, place: str) -> ApiError:
    if not isinstance(kind, str):
        return missing(f"{place}.type")
    return unsupported(f"{place}.type", f"`{kind[:100]}` is not a block that is taken here")


def text_of(block: Fields, place: str) -> str:
    text = block.get("text")
    if not isinstance(text, str):
        raise missing(f"{place}.text")
    return text


def cached(part: Fields, block: Fields) -> Fields:
    """The part with the block's mark for the cache of prompts."""
    control = block.get("cache_control")
    return part if control is None else part | {"cache_control": control}


def content_of(parts: list[Fields]) -> str | list[Fields]:
    """A lone text as a string: every server takes that."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return str(parts[0]["text"])
    return parts


#: Members of a schema whose values are schemas by their names, and those that hold no schema.
_NAMED: Final = ("properties", "$defs", "definitions")
_VALUES: Final = ("enum", "const", "default", "examples", "required")


def is_strict(schema: Fields) -> bool:
    """Whether OpenAI's API takes a schema as a strict one: each object names all of its members as
    required. Anthropic's takes others, which are no more than a hint there."""
    left: list[Any] = [schema]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += cast("list[Any]", value)
        elif (fields := as_object(value)) is not None:
            if not _is_closed(fields):
                return False
            for name, inner in fields.items():
                if name in _NAMED:
                    left += (as_object(inner) or {}).values()
                elif name not in _VALUES:
                    left.append(inner)
    return True


def _is_closed(schema: Fields) -> bool:
    properties, required = as_object(schema.get("properties")), schema.get("required")
    if properties is None and schema.get("type") != "object":
        return True
    names = cast("list[Any]", required) if isinstance(required, list) else []
    is_open = schema.get("additionalProperties") is not False
    return not is_open and all(name in names for name in properties or ())
