"""How the mock counts tokens: one for each word."""

from collections.abc import Iterable
from typing import Any, Final, cast

#: The members of a request of the Messages API that are counted.
_COUNTED: Final = ("system", "messages", "tools")


def count_words(request: dict[str, Any]) -> int:
    """The number of words, separated by whitespace, in all strings of `system`, `messages` and
    `tools`, the values of `role` and `type` included. Names of members are not counted."""
    return sum(_words(request.get(name)) for name in _COUNTED)


def _words(value: Any) -> int:
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, dict):
        return sum(map(_words, cast("dict[str, Any]", value).values()))
    return sum(map(_words, cast("Iterable[Any]", value))) if isinstance(value, list) else 0
