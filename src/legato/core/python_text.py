"""Python's notation in texts of upstreams that are written in Python: `str()` of an exception, of a
list or of an object in the place of words."""

import ast
import re
import warnings
from typing import Any, Final, cast

#: Longer texts, and deeper values, are not evaluated: `ast` may exhaust the stack on them.
_LONGEST: Final = 8_000
_MOST_BRACKETS: Final = 200

_CLOSING: Final = {"{": "}", "[": "]", "(": ")"}

#: Where a list or an object begins whose first member is a string of Python's. Not an index, as in
#: `messages['role']`.
_START: Final = re.compile(r"(?<![\w\])])[\[{](?:[\[({]*'|\{\")")

#: What pydantic adds to each sentence of a `ValidationError`.
_ADDED: Final = re.compile(
    r" \[type=[\w.]+, input_value=[^\n]*, input_type=\w+\]"
    r"|\n? *For further information visit https://errors\.pydantic\.dev/\S*"
)

#: Sentences in a value that cannot be evaluated, since it holds objects.
_SENTENCES: Final = re.compile(
    r"""['"](?:msg|message)['"]: (?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")"""
)


def literal(text: str) -> Any:
    """The value of a text that is a Python list, tuple or dict; None where it is not."""
    if len(text) > _LONGEST or sum(map(text.count, "{[(")) > _MOST_BRACKETS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def in_words(value: Any, depth: int = 0) -> str:
    """A JSON value as text without brackets: `a: b, c`."""
    if depth > 4 or value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple | set):
        words = [in_words(each, depth + 1) for each in list(cast("list[Any]", value))[:20]]
        return ", ".join([each for each in words if each])
    if isinstance(value, dict):
        members = list(cast("dict[Any, Any]", value).items())[:20]
        found = [(name, in_words(each, depth + 1)) for name, each in members]
        return ", ".join([f"{name}: {words}" for name, words in found if words])
    return str(value)


def without_notation(text: str) -> str:
    """`text` with Python's lists and objects in words, and without what pydantic adds."""
    text = _ADDED.sub("", text[:_LONGEST])
    found: list[str] = []
    at = 0
    while (start := _START.search(text, at)) is not None:
        end = _end(text, start.start())
        found += text[at : start.start()], _plain(text[start.start() : end])
        at = end
    return "".join(found) + text[at:]


def _end(text: str, start: int) -> int:
    """Where the value that begins at `start` ends; the end of the text where it is cut off."""
    open_brackets: list[str] = []
    quote = ""
    index = start
    while index < len(text):
        char = text[index]
        if quote:
            index += char == "\\"
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _CLOSING:
            open_brackets.append(_CLOSING[char])
        elif open_brackets and char == open_brackets[-1]:
            open_brackets.pop()
            if not open_brackets:
                return index + 1
        index += 1
    return len(text)


def _plain(text: str) -> str:
    value = literal(text)
    if value is not None:
        return in_words(value)
    sentences = ["".join(each) for each in _SENTENCES.findall(text)]
    return "; ".join(sentences) or re.sub(r"[{}\[\]()'\"]+", "", text)
