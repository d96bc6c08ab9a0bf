"""One attempt: one request to one deployment for one call, until it is over."""

import asyncio
from collections.abc import Callable, Iterator
from copy import copy
from typing import Final

from msgspec.structs import replace

from legato.core.continuation import Replay
from legato.core.dialect import Delivered, Source
from legato.core.errors import ApiError, UpstreamError, cannot_continue
from legato.core.front import FrontRequest
from legato.core.request import amended
from legato.core.signatures import Owner, blames_signature
from legato.core.stream import State, Stream
from legato.core.token_counting import Tally
from legato.gateway.services import Services
from legato.upstreams import fanout
from legato.upstreams.connection import StaleConnection
from legato.upstreams.fanout import FannedResponse
from legato.upstreams.response import Response
from legato.upstreams.upstream import Upstream

#: Failures of a call whose engine dies before its first token.
DROPPED: Final = ("upstream_cut", "upstream_unreachable")

#: Failures of a credential of ours that is used up or no longer valid.
SPENT: Final = (
    "upstream_rate_limited",
    "upstream_quota",
    "upstream_401",
    "upstream_402",
    "upstream_403",
)

#: Failures that say nothing of a deployment's health: limits of ours, or of a continuation.
OURS: Final = ("cannot_continue", "upstream_busy", "upstream_diverged")


def _is_credentials_fault(error: UpstreamError) -> bool:
    """Whether another credential of the same deployment may do better. A rate limit in the first
    event of a stream has the upstream's own code."""
    return error.code in SPENT or error.status == 429


class CallRequest:
    """What is asked of an upstream: the client's request, and what was delivered of its answer."""

    __slots__ = ("beyond", "body", "delivered", "is_bare", "request", "source")

    def __init__(self, request: FrontRequest, passed: bytes) -> None:
        """`passed`: header lines that go to an upstream of the client's own format."""
        self.body = request.body
        self.beyond = request.beyond
        self.request = request.chat
        self.is_bare = False  # all signed reasoning is left out
        self.source: Source | None = None
        if request.source is not None:
            self.source = Source(
                request.format,
                request.source,
                passed,
                request.beyond is not None,
                request.is_whole,
            )
        self.delivered: Delivered | None = None

    def can_continue(self, upstream: Upstream, broken: Upstream) -> bool:
        """Whether `upstream` may be able to continue an answer that `broken` began."""
        request = self.request
        if request.choices > 1 or request.wants_json or request.logprobs:
            return False
        if upstream.completes(self.source):
            return True
        if self.beyond is not None:
            return False
        if upstream.quirks.continues == "no":
            return self._can_replay(upstream, broken)
        delivered = self.delivered
        if delivered is None or not delivered.reasoning or _takes_reasoning(upstream):
            return True
        # Once the answer itself has begun, what led to it is no longer needed to go on with it.
        return bool(delivered.content) and upstream.options.reasoning == "field"

    def _can_replay(self, upstream: Upstream, broken: Upstream) -> bool:
        """Whether the same model gives the same answer again, as nothing is left to chance."""
        request = self.request
        fixed = request.seed is not None and request.temperature == 0
        return fixed and upstream.options.replays and upstream.model == broken.model

    def owned(self, owner: Owner) -> tuple["CallRequest", int]:
        """The request without reasoning that is another model's, and how much was left out."""
        body, stripped = owner.of_chat(self.body)
        source = self.source
        if source is not None:
            text, count = owner.of_source(source.format, source.body)
            stripped = max(stripped, count)
            source = replace(source, body=text)
        if not stripped:
            return self, 0
        other = copy(self)
        other.body, other.source = body, source
        return other, stripped

    def take_over(self, stream: Stream) -> bool:
        """Makes this the request for the rest of the answer; False where it cannot be continued."""
        delivered = stream.delivered
        if delivered is None or not delivered.is_exact:
            return False
        self.delivered = delivered.delivered
        stream.continue_elsewhere()
        return True

    def rest(self, used: int) -> bytes:
        """The body, with what is left of its limit of tokens. Raises `UpstreamError`."""
        changes: dict[str, int] = {}
        for name in ("max_tokens", "max_completion_tokens"):
            limit = getattr(self.request, name)
            if limit is not None:
                if limit <= used:
                    raise cannot_continue("the limit of tokens had been reached")
                changes[name] = limit - used
        return amended(self.body, **changes) if changes else self.body


def _takes_reasoning(upstream: Upstream) -> bool:
    """Whether it can be given reasoning to go on with. Between tags nobody could tell where the
    reasoning ends that it continues."""
    return upstream.quirks.continues_reasoning and upstream.options.reasoning == "field"


class Attempt:
    """One request to one deployment. Its health is told of the outcome exactly once."""

    __slots__ = (
        "_call",
        "_health",
        "_is_probe",
        "_on_broken",
        "_opened",
        "_read",
        "_read_at",
        "_services",
        "_stream",
        "asked",
        "is_charged",
        "is_open",
        "is_over",
        "name",
        "response",
        "stripped",
        "upstream",
    )

    def __init__(
        self,
        services: Services,
        stream: Stream,
        name: str,
        on_broken: Callable[[ApiError], None],
    ) -> None:
        """`on_broken` is called for a failure in the middle of the answer."""
        self._services = services
        self._stream = stream
        self._on_broken = on_broken
        self._opened: asyncio.Future[ApiError | None] | None = None
        self._call: CallRequest | None = None  # until the answer begins, where tokens are counted
        self.is_over = False
        self.name = name
        self.upstream: Upstream = services.upstreams[name]
        self.response: Response | FannedResponse | None = None
        self.asked = services.clock()
        self._read: float | None = None  # how much of the prompt it says that it has read, 0 to 1
        self._read_at = self.asked  # when it had read more
        self.is_open = False
        self.is_charged = False  # its cost is in the call's row
        self.stripped = 0  # reasoning that was left out of the request, being another model's
        self._health = services.router.health[name]
        self._is_probe = self._health.begin(self.asked)

    async def open(self, call: CallRequest) -> None:
        """Returns when the first token is there. Raises `ApiError`."""
        if self.upstream.counter is not None:
            self._call = call
        fresh = recovered = False
        whole = call
        call, self.stripped = whole.owned(self.upstream.owner(whole.request.model))
        spent = 0  # credentials
        while True:
            credential = self.upstream.credential
            try:
                await self._ask(call, fresh=fresh)
                return
            except StaleConnection:
                self.abort()
                fresh = True
            except UpstreamError as error:
                self.abort()
                spent += 1
                if _is_credentials_fault(error) and spent < self.upstream.credentials:
                    self.upstream.rotate(credential)
                    continue
                if recovered or self.upstream.recover is None or error.code not in DROPPED:
                    raise
                await self.upstream.recover()
                fresh = recovered = True
            except ApiError as error:
                call = self._amended(error, whole, call)
                self.abort()

    def _amended(self, error: ApiError, whole: CallRequest, call: CallRequest) -> CallRequest:
        """The request that goes to the deployment in place of `call`, which it has refused. Raises
        the refusal where there is none."""
        if self.upstream.stop_adding(error):
            return call
        if call.is_bare or not blames_signature(error):
            raise error
        owner = self.upstream.owner(whole.request.model, keeps_none=True)
        bare, self.stripped = whole.owned(owner)
        if not self.stripped:
            raise error
        bare.is_bare = True
        return bare

    async def _ask(self, call: CallRequest, *, fresh: bool) -> None:
        opened = self._opened = asyncio.get_running_loop().create_future()
        self.asked = self._services.clock()
        self.response = None
        passes = self.upstream.takes(call.source, call.delivered)
        if call.beyond is not None and not (passes or self.upstream.completes(call.source)):
            raise call.beyond
        self._stream.ask(relays=passes)
        try:
            self.response = await self._send(call, fresh=fresh)
            error = await opened
        except asyncio.CancelledError:
            self._opened = None  # nobody waits any more: a failure goes to who drains the answer
            raise
        if error is not None:
            raise error

    async def _send(self, call: CallRequest, *, fresh: bool) -> Response | FannedResponse:
        upstream, request, stream = self.upstream, call.request, self._stream
        if call.delivered is not None:
            return await self._send_rest(call, call.delivered, fresh=fresh)
        if request.choices > 1 and not upstream.quirks.has_n:
            clock = self._services.clock
            return await fanout.send(
                upstream,
                call.body,
                request,
                stream,
                self.on_fail,
                clock,
                fresh=fresh,
                source=call.source,
            )
        return await upstream.send(
            call.body, request, stream, self.on_fail, fresh=fresh, source=call.source
        )

    async def _send_rest(self, call: CallRequest, delivered: Delivered, *, fresh: bool) -> Response:
        """Asks for what is missing of an answer. Raises `UpstreamError` where that cannot be
        joined without a visible seam."""
        upstream, request, stream = self.upstream, call.request, self._stream
        if upstream.quirks.continues == "no" and not upstream.completes(call.source):
            stream.usage.expect_whole()
            return await upstream.send(
                call.body, request, stream, self.on_fail, fresh=fresh, replay=Replay(delivered)
            )
        if delivered.content and not _takes_reasoning(upstream):
            delivered = Delivered(delivered.content)
        stream.usage.expect_rest()
        used = (stream.usage.previous or {}).get("completion_tokens", 0)
        return await upstream.send(
            call.rest(used),
            request,
            stream,
            self.on_fail,
            fresh=fresh,
            delivered=delivered,
            source=call.source,
        )

    @property
    def requests(self) -> int:
        """How many were sent for this one answer: the prompt of each is billed."""
        return self.response.requests if self.response is not None else 1

    def limits(self, progress: float | None, now: float) -> Iterator[tuple[float, str, str]]:
        """(until when the upstream may be silent, error code, message), for each timer.

        `progress`: when something last came, None where nothing is read at present.
        """
        options = self.upstream.options
        seconds = options.total_seconds
        message = f"The upstream's answer was not complete within {seconds:g} s."
        yield self.asked + seconds, "upstream_total_timeout", message
        if not self.is_open:
            # A long prompt takes minutes on a CPU: the time is counted from where it was read on.
            read = self.response.progress if self.response is not None else None
            if read is not None and read > (self._read or 0.0):
                self._read, self._read_at = read, now
            seconds = options.first_token_seconds
            message = f"The upstream gave no first token within {seconds:g} s."
            if read is not None:
                message = f"{message[:-1]} after it had read {read:.0%} of the prompt."
            yield self._read_at + seconds, "upstream_first_token_timeout", message
        elif progress is not None:
            seconds = options.stall_seconds
            message = f"The upstream made no progress for {seconds:g} s."
            yield max(progress, self.asked) + seconds, "upstream_stalled", message

    def abort(self) -> None:
        if self.response is not None:
            self.response.abort()

    def end(self, error: ApiError | None) -> None:
        """The attempt is over; `error`: why it failed, None where it did not."""
        if self.is_over:
            return
        self.is_over = True
        health = self._health
        health.end(probe=self._is_probe)
        if isinstance(error, UpstreamError) and error.code not in OURS:
            health.record_failure(self._services.clock(), error.retry_after, probe=self._is_probe)
        elif self._stream.state is State.COMPLETE:
            health.record_success()

    # Called back

    def on_open(self) -> None:
        """The first chunk of this deployment that counts as an answer is there."""
        if self.response is not None:
            self._stream.usage.prompt_tokens = self.response.prompt_tokens
        if self._call is not None:
            self._count_tokens(self._call)
        self.is_open = True
        now = self._services.clock()
        self._health.record_first_token(now, now - self.asked, probe=self._is_probe)
        self._resolve(None)

    def _count_tokens(self, call: CallRequest) -> None:
        counter, self._call = self.upstream.counter, None
        if counter is not None:
            known = self._stream.usage.prompt_tokens
            self._stream.count_tokens(Tally(counter, call.request, call.delivered, known))

    def on_fail(self, error: ApiError) -> None:
        """The deployment failed, before its answer or in the middle of it."""
        if self.is_over:
            return
        if self._opened is not None and not self.is_open:
            self._resolve(error)
        else:
            self._on_broken(error)

    def _resolve(self, error: ApiError | None) -> None:
        """Wakes `open`: the answer has begun, or failed."""
        opened = self._opened
        if opened is not None and not opened.done():
            opened.set_result(error)
