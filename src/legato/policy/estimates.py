"""Tokens that a call is expected to use: what admission reserves before the truth is known.

An estimate is cheap rather than exact, for it is settled to the truth when the call ends.
"""

from collections import OrderedDict, deque
from statistics import median
from typing import Final

from msgspec import Struct

from legato.policy.prompt_texts import BYTES_PER_TOKEN, IMAGE

#: Tokens of an answer where nothing is known: of the route's first calls without a limit.
ANSWER: Final = 1000

#: Answers that are remembered of one route, and routes that are remembered.
ANSWERS: Final = 32
ROUTES: Final = 1000

#: What stands before media that are sent as base64, in the JSON of OpenAI's and Anthropic's API.
_MEDIA: Final = (b";base64,", b'"data":"', b'"data": "')

#: Bytes from which on something that stands there is no text.
_MEDIA_SIZE: Final = 1000


class Estimate(Struct, frozen=True):
    prompt: int
    completion: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion


class Answers:
    """How long the answers of each route were lately."""

    def __init__(self) -> None:
        self._lengths: OrderedDict[str, deque[int]] = OrderedDict()
        self._medians: dict[str, int] = {}

    def learn(self, route: str, tokens: int) -> None:
        """Remembers the length of a complete answer."""
        lengths = self._lengths.get(route)
        if lengths is None:
            lengths = self._lengths[route] = deque(maxlen=ANSWERS)
            if len(self._lengths) > ROUTES:
                oldest, _ = self._lengths.popitem(last=False)
                self._medians.pop(oldest, None)
        lengths.append(tokens)
        self._medians.pop(route, None)

    def estimate(self, route: str, body: bytes, asked: int | None, choices: int = 1) -> Estimate:
        """`body`: the request, in JSON. `asked`: its own limit for an answer, if it has one: where
        answers were shorter lately, less is reserved. Many clients always ask for the most."""
        usual = self._median(route)
        if usual is None:
            expected = ANSWER if asked is None else asked
        else:
            expected = usual if asked is None else min(asked, usual)
        return Estimate(prompt_tokens(body), expected * choices)

    def _median(self, route: str) -> int | None:
        if route not in self._lengths:
            return None
        if route not in self._medians:
            self._medians[route] = round(median(self._lengths[route]))
        return self._medians[route]


def prompt_tokens(body: bytes) -> int:
    """Tokens of a request's prompt, by the size of its JSON. Media count as images."""
    size, media = len(body), 0
    if size > _MEDIA_SIZE and (b"base64" in body or b"input_audio" in body):
        for mark in _MEDIA:
            at = body.find(mark)
            while at >= 0:
                begin = at + len(mark)
                end = body.find(b'"', begin)
                if end < 0:
                    break
                if end - begin > _MEDIA_SIZE:
                    size -= end - begin
                    media += 1
                at = body.find(mark, end)
    return round(size / BYTES_PER_TOKEN) + media * IMAGE
