"""The upstream's half of a call: who is asked, how long for, and when it is given up."""

import asyncio
from collections.abc import Iterator
from typing import Final

from legato.core.errors import ApiError, UpstreamError, timed_out, unavailable
from legato.core.request import ChatRequest
from legato.core.stream import State, Stream
from legato.policy.ledger import Row
from legato.services import Client, Services
from legato.sources import fan
from legato.sources.fan import Fanned
from legato.sources.http import StaleConnection
from legato.sources.upstream import Answer, Terms, Upstream

#: Seconds that an upstream may take to end its body after the answer's finish, or after `[DONE]`.
LINGER: Final = 1.0

#: What a call meets whose engine dies before it has said a word.
DROPPED: Final = ("upstream_cut", "upstream_unreachable")


class Asking:
    """Fills a call's stream from the deployments of its route."""

    __slots__ = (
        "_asked",
        "_opened",
        "_services",
        "_soonest",
        "_stream",
        "answer",
        "is_held",
        "upstream",
    )

    def __init__(self, services: Services, stream: Stream, received: float) -> None:
        self._services = services
        self._stream = stream
        self._asked = received  # when the deployment in hand was asked
        self._opened: asyncio.Future[None] | None = None
        self._soonest = services.heartbeat_seconds
        self.upstream: Upstream | None = None
        self.answer: Answer | Fanned | None = None
        self.is_held = False  # the upstream waits for a slow client

    async def open(self, client: Client, request: ChatRequest, row: Row) -> None:
        """Comes back when an upstream has begun to answer. Raises `ApiError` when none does."""
        route = self._services.router.find(request.model)
        problem: ApiError | None = None
        for name in route.deployments:
            self.upstream = self._services.upstreams[name]
            row.deployments = f"{row.deployments},{name}" if row.deployments else name
            try:
                await self._ask(self.upstream, client.body, request)
                client.body = b""  # a long prompt need not be held while its answer streams
                return
            except UpstreamError as error:
                problem = error
        raise problem or unavailable("No deployment answers for this model.")

    def soonest(self, model: str) -> float:
        """Seconds after which one of the timers of this route's deployments may be due."""
        names = self._services.router.find(model).deployments
        self._soonest = min(self._services.upstreams[name].terms.soonest for name in names)
        return self._soonest

    @property
    def drains(self) -> bool:
        """An answer is under way that is to be heard to its end, whoever leaves."""
        upstream = self.upstream
        if upstream is None or self.answer is None:
            return False
        return upstream.terms.on_disconnect == "drain"

    @property
    def drain_seconds(self) -> float:
        return self.upstream.terms.drain_seconds if self.upstream is not None else 0.0

    @property
    def patience(self) -> float | None:
        """Seconds for which the client may take nothing, where the deployment has a word in it."""
        return self.upstream.terms.stall_client_seconds if self.upstream is not None else None

    @property
    def progress(self) -> float | None:
        """How far the upstream is with the prompt, 0 to 1, where it tells."""
        return self.answer.progress if self.answer is not None else None

    @property
    def upstream_id(self) -> str | None:
        return self.answer.upstream_id if self.answer is not None else None

    async def _ask(self, upstream: Upstream, body: bytes, request: ChatRequest) -> None:
        fresh = recovered = False
        while True:
            self._opened = asyncio.get_running_loop().create_future()
            self._asked = self._services.clock()
            self.answer = None
            try:
                self.answer = await self._send(upstream, body, request, fresh=fresh)
                await self._opened
                return
            except StaleConnection:
                self.abort()
                fresh = True
            except UpstreamError as error:
                self.abort()
                if recovered or upstream.recover is None or error.code not in DROPPED:
                    raise
                await upstream.recover()
                fresh = recovered = True

    async def _send(
        self, upstream: Upstream, body: bytes, request: ChatRequest, *, fresh: bool
    ) -> Answer | Fanned:
        if request.choices > 1 and not upstream.facts.has_n:
            clock = self._services.clock
            return await fan.send(
                upstream, body, request, self._stream, self.on_fail, clock, fresh=fresh
            )
        return await upstream.send(body, request, self._stream, self.on_fail, fresh=fresh)

    def abort(self) -> None:
        """Nobody wants the rest: the upstream sees its peer gone."""
        if self.answer is not None:
            self.answer.abort()

    def hold(self) -> None:
        """More waits for the client than memory is given for."""
        if not self.is_held and self.answer is not None:
            self.is_held = True
            self.answer.pause()

    def resume(self) -> None:
        if self.is_held and self.answer is not None:
            self.is_held = False
            self.answer.resume()

    def settle(self) -> None:
        """The call is over: the connection is given back or given up."""
        answer = self.answer
        if answer is not None and not answer.is_over:
            if self._stream.state is State.COMPLETE:
                # The end of the body is on its way; the connection is good for the next call.
                self._services.wheel.watch(self._services.clock() + LINGER, answer.expire)
            else:
                answer.abort()

    # Called back

    def on_open(self) -> None:
        if self.answer is not None:
            self._stream.prompt_tokens = self.answer.prompt_tokens
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def on_fail(self, error: ApiError) -> None:
        """The deployment in hand has failed."""
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)
        else:
            self._stream.fail(error)

    # Timers

    def check(self, now: float) -> float:
        """Gives up an upstream that has been silent for too long; when to look again."""
        stream, upstream = self._stream, self.upstream
        if upstream is None or self.answer is None:
            return now + self._soonest  # connecting has its own limit
        if stream.state is State.FINISHED:
            limit = stream.meter.last + LINGER
            if now >= limit:
                stream.end()  # the answer is whole; only the end of the body never came
            return limit
        limit, code, says = min(self._limits(upstream.terms))
        if now >= limit:
            self.abort()
            self.answer = None
            self.on_fail(timed_out(says, code=code))
        return limit

    def _limits(self, terms: Terms) -> Iterator[tuple[float, str, str]]:
        """Until when the upstream may be silent, for each reason that there is."""
        stream = self._stream
        seconds = terms.total_seconds
        says = f"The upstream's answer was not complete within {seconds:g} s."
        yield self._asked + seconds, "upstream_total_timeout", says
        if stream.state is State.WAITING:
            seconds = terms.first_token_seconds
            says = f"The upstream gave no first token within {seconds:g} s."
            yield self._asked + seconds, "upstream_first_token_timeout", says
        elif not self.is_held:  # with a slow client it is we who do not read
            seconds = terms.stall_seconds
            says = f"The upstream made no progress for {seconds:g} s."
            yield stream.meter.last + seconds, "upstream_stalled", says
