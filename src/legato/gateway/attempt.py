"""One deployment asked once for one call, until it has begun to answer, failed, or is done."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from legato.core.continuation import Replay
from legato.core.dialect import Delivered
from legato.core.errors import ApiError, UpstreamError, cannot_continue
from legato.core.request import ChatRequest, amended
from legato.core.stream import State, Stream
from legato.core.token_counting import Tally
from legato.gateway.eager import Signal
from legato.gateway.services import Services
from legato.upstreams import fanout
from legato.upstreams.connection import StaleConnection
from legato.upstreams.fanout import FannedResponse
from legato.upstreams.response import Response
from legato.upstreams.upstream import Upstream

#: What a call meets whose engine dies before it has said a word.
DROPPED: Final = ("upstream_cut", "upstream_unreachable")

#: What a credential of ours meets that is used up or no longer good.
SPENT: Final = (
    "upstream_rate_limited",
    "upstream_quota",
    "upstream_401",
    "upstream_402",
    "upstream_403",
)

#: Failures that tell nothing of a deployment's health: they are limits of ours, or of a join.
OURS: Final = ("cannot_continue", "upstream_busy", "upstream_diverged")


class Order:
    """What is asked of an upstream: a client's request, and what is there of its answer."""

    __slots__ = ("body", "delivered", "request")

    def __init__(self, body: bytes, request: ChatRequest) -> None:
        self.body = body
        self.request = request
        self.delivered: Delivered | None = None

    def continues(self, upstream: Upstream, broken: Upstream) -> bool:
        """Whether `upstream` may be able to go on with an answer that `broken` began."""
        request = self.request
        if request.choices > 1 or request.wants_json or request.logprobs:
            return False
        if upstream.quirks.continues == "no":
            return self.replays(upstream, broken)
        # Between tags nobody could tell where the thoughts end that it goes on with.
        takes_thoughts = (
            upstream.quirks.continues_reasoning and upstream.options.reasoning == "field"
        )
        return takes_thoughts or self.delivered is None or not self.delivered.reasoning

    def replays(self, upstream: Upstream, broken: Upstream) -> bool:
        """The same model says the same again, where nothing is left to chance."""
        request = self.request
        fixed = request.seed is not None and request.temperature == 0
        return fixed and upstream.options.replays and upstream.model == broken.model

    def take_up(self, stream: Stream) -> bool:
        """Makes this the order for the rest of the answer; False where it cannot be joined."""
        kept = stream.kept
        if kept is None or not kept.is_exact:
            return False
        self.delivered = kept.delivered
        stream.go_on()
        return True

    def rest(self, used: int) -> bytes:
        """The request's body, with what is left of its limit of tokens. Raises `UpstreamError`."""
        changes: dict[str, int] = {}
        for name in ("max_tokens", "max_completion_tokens"):
            limit = getattr(self.request, name)
            if limit is not None:
                if limit <= used:
                    raise cannot_continue("the limit of tokens had been reached")
                changes[name] = limit - used
        return amended(self.body, **changes) if changes else self.body


class Attempt:
    """A deployment that is asked. Its health hears of it exactly once."""

    __slots__ = (
        "_health",
        "_on_broken",
        "_opened",
        "_order",
        "_probes",
        "_services",
        "_stream",
        "answer",
        "asked",
        "is_charged",
        "is_open",
        "is_over",
        "name",
        "upstream",
    )

    def __init__(
        self,
        services: Services,
        stream: Stream,
        name: str,
        on_broken: Callable[[ApiError], None],
    ) -> None:
        """`on_broken` hears of a failure in the middle of the answer."""
        self._services = services
        self._stream = stream
        self._on_broken = on_broken
        self._opened: Signal | None = None
        self._order: Order | None = None  # until the answer begins, where tokens are counted
        self.is_over = False
        self.name = name
        self.upstream: Upstream = services.upstreams[name]
        self.answer: Response | FannedResponse | None = None
        self.asked = services.clock()
        self.is_open = False
        self.is_charged = False  # what it has cost is in the call's row
        self._health = services.router.health[name]
        self._probes = self._health.begin(self.asked)

    async def open(self, order: Order) -> None:
        """Comes back when the first token is there. Raises `ApiError`."""
        if self.upstream.counter is not None:
            self._order = order
        fresh = recovered = False
        spent = 0  # credentials
        while True:
            opened = self._opened = Signal()
            self.asked = self._services.clock()
            self.answer = None
            credential = self.upstream.credential
            try:
                self.answer = await self._send(order, fresh=fresh)
                await opened
                return
            except asyncio.CancelledError:
                self._opened = None  # nobody waits any more: who drains it hears of a failure
                raise
            except StaleConnection:
                self.abort()
                fresh = True
            except UpstreamError as error:
                self.abort()
                spent += 1
                if error.code in SPENT and spent < self.upstream.credentials:
                    self.upstream.rotate(credential)
                    continue
                if recovered or self.upstream.recover is None or error.code not in DROPPED:
                    raise
                await asyncio.ensure_future(self.upstream.recover())
                fresh = recovered = True

    def _send(self, order: Order, *, fresh: bool) -> Coroutine[Any, Any, Response | FannedResponse]:
        upstream, request, delivered = self.upstream, order.request, order.delivered
        if delivered is not None:
            return self._send_rest(order, delivered, fresh=fresh)
        if request.choices > 1 and not upstream.quirks.has_n:
            clock = self._services.clock
            return fanout.send(
                upstream, order.body, request, self._stream, self.on_fail, clock, fresh=fresh
            )
        return upstream.send(order.body, request, self._stream, self.on_fail, fresh=fresh)

    async def _send_rest(self, order: Order, delivered: Delivered, *, fresh: bool) -> Response:
        """Asks for what is missing of an answer. Raises `UpstreamError` where that cannot be
        joined without a trace."""
        upstream, request = self.upstream, order.request
        if upstream.quirks.continues == "no":
            self._stream.say_again()
            return await upstream.send(
                order.body,
                request,
                self._stream,
                self.on_fail,
                fresh=fresh,
                replay=Replay(delivered),
            )
        self._stream.say_rest()
        used = (self._stream.before or {}).get("completion_tokens", 0)
        return await upstream.send(
            order.rest(used),
            request,
            self._stream,
            self.on_fail,
            fresh=fresh,
            delivered=delivered,
        )

    @property
    def requests(self) -> int:
        """How many have been sent for this one answer: each has its prompt paid for."""
        return self.answer.requests if self.answer is not None else 1

    def abort(self) -> None:
        if self.answer is not None:
            self.answer.abort()

    def end(self, error: ApiError | None) -> None:
        """It is over: `error` is with what it failed, None where it did not."""
        if self.is_over:
            return
        self.is_over = True
        health = self._health
        health.end(probe=self._probes)
        if isinstance(error, UpstreamError) and error.code not in OURS:
            health.failed(self._services.clock(), error.retry_after, probe=self._probes)
        elif self._stream.state is State.COMPLETE:
            health.completed()

    # Called back

    def on_open(self) -> None:
        """The first chunk of this deployment that counts is there."""
        if self.answer is not None:
            self._stream.prompt_tokens = self.answer.prompt_tokens
        if self._order is not None:
            self._count(self._order)
        self.is_open = True
        now = self._services.clock()
        self._health.opened(now, now - self.asked, probe=self._probes)
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.set()

    def _count(self, order: Order) -> None:
        counter, self._order = self.upstream.counter, None
        if counter is not None:
            told = self._stream.prompt_tokens
            self._stream.tally = Tally(counter, order.request, order.delivered, told)

    def on_fail(self, error: ApiError) -> None:
        """It has failed, before its answer or in the middle of it."""
        if self.is_over:
            return
        if self._opened is not None and not self.is_open:
            self._opened.set(error)
        else:
            self._on_broken(error)
