"""How many tokens a call will take, before anybody has counted them: what is reserved for it."""

from typing import Any, Final, cast

import msgspec

from legato.core.chunk import NOT_JSON, as_object
from legato.policy.prompt_texts import BYTES_PER_TOKEN, DOCUMENT, IMAGE

#: Completion tokens that a route's calls are taken to have until some have been seen.
_FIRST_MEDIAN: Final = 256.0

#: By how much of itself a median moves with each call.
_STEP: Final = 0.05

#: Parts whose size says nothing of their tokens.
_MEDIA: Final = {"image_url": IMAGE, "input_audio": IMAGE, "file": DOCUMENT}

#: Members of a request that a model reads.
_READ: Final = ("messages", "tools", "prompt", "response_format")


def prompt_tokens(body: bytes) -> int:
    """Of a request (Chat Completions as JSON), by the size of what is text in it."""
    try:
        fields = as_object(msgspec.json.decode(body)) or {}
    except NOT_JSON:
        return 0
    size, fixed = _measure([fields.get(name) for name in _READ])
    return int(size / BYTES_PER_TOKEN) + fixed


def _measure(value: Any) -> tuple[int, int]:
    """(bytes of text, tokens of images and files)."""
    size = fixed = 0
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            size += len(each) if each.isascii() else len(each.encode("utf-8", "replace"))
        elif isinstance(each, list):
            waiting += cast("list[Any]", each)
        elif (members := as_object(each)) is not None:
            kind = members.get("type")
            if kind in _MEDIA and kind in members:
                fixed += _MEDIA[kind]
                continue
            waiting += members.values()
            size += sum(map(len, members))
    return size, fixed


class Medians:
    """The median of completion tokens of each route, learnt from its calls: a walk with steps of a
    constant share, which needs one number a route. At most `routes` of them are known."""

    __slots__ = ("_medians", "_routes")

    def __init__(self, routes: int = 10_000) -> None:
        self._medians: dict[str, float] = {}
        self._routes = routes

    def of(self, route: str) -> int:
        return round(self._medians.get(route, _FIRST_MEDIAN))

    def learn(self, route: str, tokens: int) -> None:
        median = self._medians.get(route, _FIRST_MEDIAN)
        if route in self._medians or len(self._medians) < self._routes:
            step = 1 + _STEP * median
            self._medians[route] = max(1.0, median + (step if tokens > median else -step))
