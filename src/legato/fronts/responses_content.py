"""Content of a Responses request (parts) as content of Chat Completions."""

from typing import Any, Final, cast

from legato.core.chunk import as_object
from legato.core.errors import ApiError, invalid

Fields = dict[str, Any]

#: Types of parts that are text.
TEXTS: Final = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


class Content:
    """Reads the contents of one request.

    `beyond`: the 400 for the first part that Chat Completions has no words for. An upstream that
    speaks Responses may know it; no other one is asked.
    """

    __slots__ = ("beyond",)

    def __init__(self) -> None:
        self.beyond: ApiError | None = None

    def read(self, content: Any, where: str) -> str | list[Fields]:
        """One text is a string. Raises `ApiError` 400 for what is no content at all."""
        if isinstance(content, str):
            return content
        found = [self._part(each, where) for each in parts(content, where)]
        if len(found) == 1 and found[0]["type"] == "text":
            return found[0]["text"]
        return found

    def joined(self, content: Any, where: str, joint: str) -> str | list[Fields]:
        """The same with parts as one text where they are nothing else: some servers take no lists
        in the messages of the system and of tools."""
        found = self.read(content, where)
        if isinstance(found, str) or not all(each["type"] == "text" for each in found):
            return found
        return joint.join(each["text"] for each in found)

    def refuse(self, part: Fields, where: str, why: str = "") -> None:
        """Notes that an upstream of another format cannot be shown a part."""
        kind = part.get("type")
        if not isinstance(kind, str):
            raise invalid(
                f"`{where}` has a part without a `type`.", param=where, code="invalid_value"
            )
        message = (
            why or f"`{where}` has a part of type `{kind[:100]}`, which the model does not take."
        )
        self.beyond = self.beyond or invalid(message, param=where, code="unsupported_parameter")

    def _part(self, part: Fields, where: str) -> Fields:
        match part.get("type"):
            case "refusal":
                return _text(string(part, "refusal", where))
            case "input_image":
                return self._image(part, where)
            case "input_file":
                return self._file(part, where)
            case "input_audio":
                return {"type": "input_audio", "input_audio": part.get("input_audio")}
            case kind if kind in TEXTS:
                return _text(string(part, "text", where))
            case _:
                self.refuse(part, where)
                return _text("")

    def _image(self, part: Fields, where: str) -> Fields:
        url = part.get("image_url")
        if not isinstance(url, str) or not url:
            self._refuse_stored(part, where, "image_url")
            return _text("")
        image: Fields = {"url": url}
        if part.get("detail") in ("low", "high"):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}

    def _file(self, part: Fields, where: str) -> Fields:
        """A file's URL goes where its data would: dialects tell them apart."""
        data = part.get("file_data") or part.get("file_url")
        if not isinstance(data, str):
            self._refuse_stored(part, where, "file_data")
            return _text("")
        file: Fields = {"file_data": data}
        if isinstance(part.get("filename"), str):
            file["filename"] = part["filename"]
        return {"type": "file", "file": file}

    def _refuse_stored(self, part: Fields, where: str, member: str) -> None:
        """Raises `ApiError` 400 for a part that names no file either."""
        if part.get("file_id") is None:
            raise invalid(
                f"`{where}` has a part without `{member}`.",
                param=where,
                code="missing_required_parameter",
            )
        why = f"`{where}` names a file by its id, but no files are stored here: send `{member}`."
        self.refuse(part, where, why)


def _text(text: str) -> Fields:
    return {"type": "text", "text": text}


def parts(content: Any, where: str) -> list[Fields]:
    if isinstance(content, str):
        return [_text(content)]
    if not isinstance(content, list):
        raise invalid(
            f"`{where}` is neither a string nor a list of parts.",
            param=where,
            code="invalid_value",
        )
    found = cast("list[Any]", content)
    return [an_object(each, f"{where}[{index}]") for index, each in enumerate(found)]


def an_object(value: Any, where: str) -> Fields:
    found = as_object(value)
    if found is None:
        raise invalid(f"`{where}` is not an object.", param=where, code="invalid_value")
    return found


def objects(values: Any) -> list[Fields]:
    """Those members of a list that are objects."""
    if not isinstance(values, list):
        return []
    return [each for value in cast("list[Any]", values) if (each := as_object(value)) is not None]


def string(part: Fields, name: str, where: str) -> str:
    value = part.get(name)
    if not isinstance(value, str):
        raise invalid(
            f"`{where}` has a part without a string in `{name}`.",
            param=where,
            code="invalid_value",
        )
    return value
