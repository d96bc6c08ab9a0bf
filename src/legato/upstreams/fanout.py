"""Fan-out: `n` choices of an upstream that gives one a request, as `n` requests and one answer."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec.structs import replace

from legato.core.dialect import OutgoingRequest, Source
from legato.core.errors import ApiError
from legato.core.fanout import Fanout
from legato.core.request import LEAST_INT, ChatRequest, amended
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
    source: Source | None = None,
) -> "FannedResponse":
    """As `Upstream.send`, for `request.choices` choices. The first request that fails fails them
    all."""
    one_choice = replace(request, n=None)
    outgoing = await upstream.prepare(amended(body, n=None), one_choice)
    if upstream.completes(source):
        outgoing.source = source
    fan = Fanout(stream, request.choices, clock)
    fanned = FannedResponse()

    async def one(number: int, branch: Stream, *, fresh: bool) -> None:
        def failed(error: ApiError) -> None:
            if isinstance(error, StaleConnection) and not fresh:
                fanned.send_again(one(number, branch, fresh=True), on_fail)
            else:
                fan.stop()
                on_fail(error)

        mine = _with_seed(outgoing, number)
        fanned.add(number, await upstream.send_prepared(mine, branch, failed, fresh=fresh))

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


def _with_seed(outgoing: OutgoingRequest, number: int) -> OutgoingRequest:
    """The request of one branch. With one seed for all of them the choices would be the same."""
    seed = outgoing.request.seed
    if seed is None:
        return outgoing
    seed = (seed + number - LEAST_INT) % 2**64 + LEAST_INT
    body = amended(outgoing.body, seed=seed)
    return replace(outgoing, body=body, request=replace(outgoing.request, seed=seed))


class FannedResponse:
    """Several responses, held as one."""

    __slots__ = ("_again", "_answers", "_held", "_over")

    def __init__(self) -> None:
        self._answers: dict[int, Response] = {}
        self._again: set[asyncio.Task[None]] = set()  # requests that go out once more
        self._held = False
        self._over = False

    def add(self, number: int, answer: Response) -> None:
        self._answers[number] = answer
        if self._over:
            answer.abort()
        elif self._held:
            answer.pause()

    def send_again(
        self, request: Coroutine[Any, Any, None], on_fail: Callable[[ApiError], None]
    ) -> None:
        """One of them found its idle connection closed; the others are under way."""
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
        known = [each.progress for each in self._answers.values() if each.progress is not None]
        return min(known) if known else None

    @property
    def prompt_tokens(self) -> int:
        return max((each.prompt_tokens for each in self._answers.values()), default=0)

    @property
    def upstream_id(self) -> str | None:
        known = [each.upstream_id for _, each in sorted(self._answers.items())]
        return ",".join([each for each in known if each]) or None

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
