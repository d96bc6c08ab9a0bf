"""Public model names: exact ones, patterns with `*`, and aliases."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from legato.core.errors import ApiError

#: As the `model` of a deployment: the client's name is sent as it is.
ANY_MODEL: Final = "*"

#: What a pattern matches at most. Clients send anything, and such a name goes on to an upstream:
#: at some as a part of the path, which it must not lead out of.
_MATCHED: Final = re.compile(r"(?!.*/\.{1,2}(?:/|$))[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")


def is_pattern(name: str) -> bool:
    return "*" in name


def normalized(pattern: str) -> str:
    """The shortest pattern that matches the same names."""
    return re.sub(r"\*+", "*", pattern)


def resolved(aliases: Mapping[str, str]) -> dict[str, str]:
    """The last name that each alias leads to: an alias may lead to another. Raises ValueError for
    aliases in a loop."""
    found: dict[str, str] = {}
    for alias in aliases:
        path, name = [alias], aliases[alias]
        while name in aliases:
            if name in path:
                raise ValueError(f"{' -> '.join([*path, name])} is a loop")
            path.append(name)
            name = aliases[name]
        found[alias] = name
    return found


def not_found(model: str) -> ApiError:
    """There is no such model, or it is not for this client, which is told the same."""
    return ApiError(
        404,
        "model_not_found",
        f"The model `{model}` does not exist; GET /v1/models lists the models.",
        param="model",
    )


class Patterns:
    """Finds the pattern that a name matches: that with the longest text before its first `*`, then
    with the most text, then the first."""

    __slots__ = ("_patterns",)

    def __init__(self, patterns: Iterable[str]) -> None:
        ordered = sorted(patterns, key=_precedence)
        self._patterns = [(each, _compiled(each)) for each in ordered]

    def find(self, name: str) -> str | None:
        if not self._patterns or not _MATCHED.fullmatch(name):
            return None
        return next((each for each, matches in self._patterns if matches.fullmatch(name)), None)


def _precedence(pattern: str) -> tuple[int, int]:
    return -len(pattern.partition("*")[0]), -len(pattern.replace("*", ""))


def _compiled(pattern: str) -> re.Pattern[str]:
    """Text between two stars is matched where it comes first, and nowhere else is tried: else a
    pattern with many stars takes a name that it does not match for minutes."""
    first, *between, last = map(re.escape, normalized(pattern).split("*"))
    return re.compile(f"{first}{''.join(f'(?>.*?{part})' for part in between)}.*{last}")
