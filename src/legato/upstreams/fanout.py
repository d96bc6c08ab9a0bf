"""`n` choices of an upstream that gives one at a time: as many requests, one answer."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from legato.core.errors import ApiError
from legato.core.fanout import Fanout
from legato.core.request import ChatRequest, amended
from legato.core.stream import Stream
from legato.upstreams.connection import StaleConnection
from legato.upstreams.response import Response
from legato.upstreams.upstream import Upstream


async def send(
    upstream: Upstream,
    body: bytes,
    request: ChatRequest,
    stream: Stream,
    on_fail: Callable[[ApiError], None],
    clock: Callable[[], float],
    *,
    fresh: bool = False,
) -> "FannedResponse":
    """As `Upstream.send`, for `request.choices` choices. The first of the requests that fails fails
    them all."""
    fan = Fanout(stream, request.choices, clock)
    fanned = FannedResponse()

    async def one(number: int, branch: Stream, *, fresh: bool) -> None:
        # With one seed for all of them the choices would all be the same.
        seed = None if request.seed is None else request.seed + number
        mine = amended(body, n=None, seed=seed)

        def failed(error: ApiError) -> None:
            if isinstance(error, StaleConnection) and not fresh:
                fanned.ask_again(one(number, branch, fresh=True), on_fail)
            else:
                on_fail(error)

        answer = await upstream.send(mine, request, branch, failed, fresh=fresh)
        fanned.hold(number, answer)

    sent = [
        asyncio.ensure_future(one(number, branch, fresh=fresh))
        for number, branch in enumerate(fan.branches)
    ]
    try:
        await asyncio.gather(*sent)
    except BaseException:
        for each in sent:
            each.cancel()
        await asyncio.gather(*sent, return_exceptions=True)
        fanned.abort()
        raise
    return fanned


class FannedResponse:
    """Several answers, held as one."""

    __slots__ = ("_again", "_answers", "_held", "_over")

    def __init__(self) -> None:
        self._answers: dict[int, Response] = {}
        self._again: set[asyncio.Task[None]] = set()  # requests that go out once more
        self._held = False
        self._over = False

    def hold(self, number: int, answer: Response) -> None:
        self._answers[number] = answer
        if self._over:
            answer.abort()
        elif self._held:
            answer.pause()

    def ask_again(
        self, request: Coroutine[Any, Any, None], on_fail: Callable[[ApiError], None]
    ) -> None:
        """One of them met a kept connection that was closed; the others are under way."""
        if self._over:
            request.close()
            return

        def done(task: asyncio.Task[None]) -> None:
            self._again.discard(task)
            error = None if task.cancelled() else task.exception()
            if isinstance(error, ApiError):
                on_fail(error)

        task = asyncio.ensure_future(request)
        self._again.add(task)
        task.add_done_callback(done)

    @property
    def requests(self) -> int:
        return len(self._answers)

    @property
    def progress(self) -> float | None:
        """That of the slowest."""
        told = [each.progress for each in self._answers.values() if each.progress is not None]
        return min(told) if told else None

    @property
    def prompt_tokens(self) -> int:
        return max((each.prompt_tokens for each in self._answers.values()), default=0)

    @property
    def upstream_id(self) -> str | None:
        told = [each.upstream_id for _, each in sorted(self._answers.items())]
        return ",".join([each for each in told if each]) or None

    @property
    def is_over(self) -> bool:
        return not self._again and all(each.is_over for each in self._answers.values())

    def abort(self) -> None:
        self._over = True
        for task in self._again:
            task.cancel()
        for each in self._answers.values():
            each.abort()

    def expire(self, now: float) -> None:
        self.abort()

    def pause(self) -> None:
        self._held = True
        for each in self._answers.values():
            each.pause()

    def resume(self) -> None:
        self._held = False
        for each in self._answers.values():
            each.resume()
