"""`n` choices of an upstream that gives one at a time: as many requests, one answer."""

import asyncio
from collections.abc import Callable

from legato.core.errors import ApiError
from legato.core.fan import Fan
from legato.core.request import ChatRequest, amended
from legato.core.stream import Stream
from legato.sources.answer import Answer
from legato.sources.upstream import Upstream


async def send(
    upstream: Upstream,
    body: bytes,
    request: ChatRequest,
    stream: Stream,
    on_fail: Callable[[ApiError], None],
    clock: Callable[[], float],
    *,
    fresh: bool = False,
) -> "Fanned":
    """As `Upstream.send`, for `request.choices` choices. The first of the requests that fails fails
    them all."""
    fan = Fan(stream, request.choices, clock)

    async def one(number: int, branch: Stream) -> Answer:
        # With one seed for all of them the choices would all be the same.
        seed = None if request.seed is None else request.seed + number
        mine = amended(body, n=None, seed=seed)
        return await upstream.send(mine, request, branch, on_fail, fresh=fresh)

    sent = [asyncio.ensure_future(one(*each)) for each in enumerate(fan.branches)]
    try:
        return Fanned(await asyncio.gather(*sent))
    except BaseException:
        for each in sent:
            each.cancel()
        for answer in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(answer, Answer):
                answer.abort()
        raise


class Fanned:
    """Several answers, held as one."""

    __slots__ = ("_answers",)

    def __init__(self, answers: list[Answer]) -> None:
        self._answers = answers

    @property
    def progress(self) -> float | None:
        """That of the slowest."""
        told = [each.progress for each in self._answers if each.progress is not None]
        return min(told) if told else None

    @property
    def prompt_tokens(self) -> int:
        return max(each.prompt_tokens for each in self._answers)

    @property
    def upstream_id(self) -> str | None:
        return ",".join(each.upstream_id or "" for each in self._answers)

    @property
    def is_over(self) -> bool:
        return all(each.is_over for each in self._answers)

    def abort(self) -> None:
        for each in self._answers:
            each.abort()

    def expire(self, now: float) -> None:
        self.abort()

    def pause(self) -> None:
        for each in self._answers:
            each.pause()

    def resume(self) -> None:
        for each in self._answers:
            each.resume()
