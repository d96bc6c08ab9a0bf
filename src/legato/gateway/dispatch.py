"""The upstream's half of a call: which deployments are asked, fallback, continuation, timers."""

import asyncio
from collections.abc import Callable
from typing import Final

from legato.core.errors import ApiError, UpstreamError, gateway_timeout
from legato.core.front import FrontRequest
from legato.core.stream import State, Stream
from legato.core.timers import Timer
from legato.gateway.attempt import Attempt, CallRequest
from legato.gateway.owner import NOBODY, Owner
from legato.gateway.services import Client, Services
from legato.policy.ledger import Row, charge
from legato.policy.retry import RetryBudget
from legato.policy.routing import Route
from legato.policy.sessions import session_key
from legato.upstreams.upstream import DeploymentOptions

#: Seconds that an upstream may take to end its body after the answer's finish, or after `[DONE]`.
LINGER: Final = 1.0


class Dispatch:
    """Fills a call's stream from the deployments of its route.

    `attempts`: (deployment, error code) of each request to a deployment so far, in order; the code
    is empty while it has not failed. `problem`: the failure of a stream that may be continued.
    """

    __slots__ = (
        "_attempt",
        "_finished_at",
        "_is_held",
        "_linger",
        "_model",
        "_owner",
        "_request",
        "_resumed_at",
        "_row",
        "_services",
        "_session",
        "_soonest",
        "_start_over",
        "_stream",
        "attempts",
        "continuations",
        "problem",
        "route",
    )

    def __init__(self, services: Services, stream: Stream, owner: Owner) -> None:
        self._services = services
        self._stream = stream
        self._owner: Owner = owner
        self._attempt: Attempt | None = None  # the one in hand
        self._request: CallRequest | None = None  # kept where another deployment may be asked
        self._row: Row | None = None
        self._model = ""  # the client's, without an alias
        self._session: str | None = None  # where the route has affinity
        self._start_over: Callable[[], None] | None = None
        self._soonest = services.heartbeat_seconds
        self._is_held = False  # the upstream is paused for a slow client
        self._resumed_at = 0.0  # when it last was not any more
        self._linger: Timer | None = None  # for the end of the body, after the finish
        self._finished_at = 0.0
        self.attempts: list[tuple[str, str]] = []
        self.continuations = 0
        self.problem: ApiError | None = None
        self.route: Route | None = None

    def find(self, model: str) -> float:
        """Looks up the route of `model`; the seconds after which the first timer of its deployments
        may be due. Raises `ApiError` 404 where there is no such route."""
        router = self._services.router
        route = self.route = router.find(model)
        self._model = router.resolve(model)
        upstreams = self._services.upstreams
        self._soonest = min([upstreams[name].soonest for name in route.deployments])
        return self._soonest

    async def open(
        self,
        client: Client,
        request: FrontRequest,
        row: Row,
        start_over: Callable[[], None] | None,
    ) -> None:
        """Returns when an upstream has begun to answer. Raises `ApiError` when none does.

        `start_over` drops what has come of the answer. Where it is given, the client sees nothing
        before the end, so that another deployment may answer from the start.
        """
        route, services = self.route, self._services
        assert route is not None
        self._row = row
        self._start_over = start_over
        call = CallRequest(request, client.passed)
        # The answer names the model that the client asked for; upstreams do not know aliases.
        call.request.model = self._model
        if len(route.deployments) > 1:
            self._keep_request(call, route)
        budget: RetryBudget | None = None  # once one has failed
        if route.affinity == "session":
            self._session = row.session or session_key({}, call.request)
        names = services.router.plan(route, services.clock(), self._session)
        problem: ApiError | None = None
        again_at: dict[str, float] = {}  # deployments that are asked again, and when
        while names:
            name = names.pop(0)
            if budget is not None and not await self._may_ask(name, budget, again_at.get(name)):
                continue
            try:
                await self._ask(name, call)
                self._release_request(name)
                return
            except ApiError as error:
                problem = error
                budget = budget or RetryBudget(
                    route.attempts,
                    client.begun + route.retry_seconds,
                    client.begun + services.gate_seconds,
                )
                budget.record_attempt(name)
                if isinstance(error, UpstreamError):
                    if (wait := budget.retry_delay(name, error, services.clock())) is not None:
                        again_at[name] = services.clock() + wait
                        names.append(name)
                elif error.code == "context_length_exceeded":
                    names = [
                        each for each in route.with_longer_context(name) if each not in again_at
                    ]
                elif error.code != "unsupported_parameter":
                    raise
        assert problem is not None
        raise problem

    def _keep_request(self, call: CallRequest, route: Route) -> None:
        """Keeps what another deployment would need to continue the answer."""
        if route.max_continuations:
            self._stream.keep_delivered()
            self._stream.usage.both_prompts = route.count_both_prompts
        if route.max_continuations or self._start_over is not None:
            self._request = call

    def _release_request(self, name: str) -> None:
        """Lets go of what only another deployment would need, where none can continue."""
        if self._request is not None and not self._others(self._request, name):
            self._stream.drop_delivered()
            if self._start_over is None:
                self._request = None

    async def _may_ask(self, name: str, budget: RetryBudget, when: float | None) -> bool:
        """Whether one more is asked, after others have failed; waits where it is asked again."""
        services = self._services
        if not budget.allows(name, services.clock()):
            return False
        if when is not None and (wait := when - services.clock()) > 0:
            await asyncio.sleep(wait)
        return services.router.allows(name, services.clock())

    async def _ask(self, name: str, call: CallRequest) -> None:
        attempt = self._attempt = Attempt(self._services, self._stream, name, self._on_broken)
        self._is_held = False
        self.attempts.append((name, ""))
        if len(self.attempts) > 1:
            self._owner.watch_attempt(self._soonest)
        if self._row is not None:
            self._row.record_attempts(self.attempts)
        try:
            await attempt.open(call)
            if self._row is not None:
                self._row.stripped_reasoning = attempt.stripped
        except ApiError as error:
            self._note_failure(error)
            attempt.end(error)
            raise
        except BaseException:
            if not self.drains:
                attempt.end(None)
            raise

    def _note_failure(self, error: ApiError) -> None:
        self.attempts[-1] = (self.attempts[-1][0], error.code)

    def _others(self, call: CallRequest, name: str) -> list[str]:
        """Deployments that might continue where `name` breaks, in the order to ask."""
        assert self.route is not None
        upstreams = self._services.upstreams
        return [
            each
            for each in self._ordered(self.route)
            if each != name and call.can_continue(upstreams[each], upstreams[name])
        ]

    def _ordered(self, route: Route) -> tuple[str, ...]:
        services = self._services
        return services.router.ordered(route, services.clock(), self._session)

    async def continue_elsewhere(self) -> None:
        """The upstream broke in the middle of its answer: another continues it, or answers from the
        start where the client has seen nothing yet; else the stream fails."""
        error, self.problem = self.problem, None
        route, attempt, call = self.route, self._attempt, self._request
        assert error is not None
        assert route is not None
        assert attempt is not None
        self.charge()
        if call is not None:
            if await self._continued(call, route, attempt.name):
                return
            if await self._started_over(call, route):
                return
        self._stream.fail(error)

    async def _continued(self, call: CallRequest, route: Route, broken: str) -> bool:
        if self.continuations >= route.max_continuations or not call.take_over(self._stream):
            return False
        for name in self._others(call, broken):
            if await self._takes_over(name, call):
                self.continuations += 1
                if self._row is not None:
                    self._row.continuations = self.continuations
                return True
        self._stream.usage.expect_rest()
        return False

    async def _started_over(self, call: CallRequest, route: Route) -> bool:
        if self._start_over is None:
            return False
        call.delivered = None
        asked = {name for name, code in self.attempts if code != "cannot_continue"}
        for name in self._ordered(route):
            if name in asked or len(self.attempts) >= route.attempts:
                continue
            self._start_over()
            self._stream.start_over()
            if await self._takes_over(name, call):
                return True
        return False

    async def _takes_over(self, name: str, call: CallRequest) -> bool:
        """Where no deployment does, the first failure is the one to report."""
        if not self._services.router.allows(name, self._services.clock()):
            return False
        try:
            await self._ask(name, call)
        except ApiError:
            return False
        return True

    def stop_continuing(self) -> None:
        """Nobody is there any more for whom another deployment would continue."""
        self._request = None

    # The answer in hand

    @property
    def headers(self) -> bytes:
        """Header lines that tell which deployment answers, and how many attempts there were."""
        if self._attempt is None:
            return b""
        lines = self._attempt.upstream.header
        return b"%bx-legato-attempts: %d\r\n" % (lines, len(self.attempts))

    @property
    def options(self) -> DeploymentOptions | None:
        return self._attempt.upstream.options if self._attempt is not None else None

    @property
    def drains(self) -> bool:
        """Whether the answer in hand is read to its end even without a client."""
        attempt = self._attempt
        if attempt is None or attempt.is_over:
            return False
        if attempt.response is None or attempt.response.is_over:
            return False
        return attempt.upstream.options.on_disconnect == "drain"

    @property
    def progress(self) -> float | None:
        """How much of the prompt the upstream has processed, 0 to 1, where it tells."""
        response = self._attempt.response if self._attempt is not None else None
        return response.progress if response is not None else None

    @property
    def upstream_id(self) -> str | None:
        response = self._attempt.response if self._attempt is not None else None
        return response.upstream_id if response is not None else None

    def abort(self) -> None:
        """Closes the upstream's connection: nobody wants the rest."""
        if self._attempt is not None:
            self._attempt.abort()

    def hold(self) -> None:
        """Pauses the upstream: more waits for the client than memory is given for."""
        response = self._attempt.response if self._attempt is not None else None
        if not self._is_held and response is not None:
            self._is_held = True
            response.pause()

    def resume(self) -> None:
        response = self._attempt.response if self._attempt is not None else None
        if self._is_held and response is not None:
            self._is_held = False
            self._resumed_at = self._services.clock()
            response.resume()

    def settle(self) -> None:
        """The call is over: the connection is given back or given up."""
        self._start_over = self._request = None
        self._owner = NOBODY  # the call, which refers to this
        if self._linger is not None:
            self._linger.check = None
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        attempt.end(self._stream.error)
        response, attempt.response = attempt.response, None
        if response is not None and not response.is_over:
            if self._stream.state is State.COMPLETE:
                # The end of the body is on its way; the connection is good for the next call.
                self._services.timers.watch(self._services.clock() + LINGER, response.expire)
            else:
                response.abort()

    def charge(self) -> None:
        """Adds the cost of the answer in hand to the call's, where there is a price."""
        attempt, row = self._attempt, self._row
        if attempt is None or row is None or attempt.is_charged:
            return
        attempt.is_charged = True
        if (price := attempt.upstream.price_of(self._model)) is not None:
            charge(row, self._stream, price, attempt.requests)

    def _on_broken(self, error: ApiError) -> None:
        """The upstream broke in the middle of its answer."""
        self._note_failure(error)
        if self._request is not None and self._attempt is not None:
            self._attempt.end(error)
            self.problem = error
            self._owner.wake()
        else:
            self._stream.fail(error)

    # From the stream

    def stream_opened(self) -> None:
        if self._attempt is not None:
            self._attempt.on_open()

    def stream_finished(self) -> None:
        """All choices have their finish; the end of the body, and maybe more, is to come."""
        if self._linger is None:
            self._finished_at = self._services.clock()
            self._linger = Timer(self._check_end)
            self._services.timers.watch(self._finished_at + self._linger_seconds, self._linger)

    @property
    def _linger_seconds(self) -> float:
        """How long the end of the body is waited for after a finish."""
        upstream = self._attempt.upstream if self._attempt is not None else None
        if upstream is not None and upstream.dialect.ends_with_body:
            return upstream.options.stall_seconds  # a finish there need not be the last
        return LINGER

    def _check_end(self, now: float) -> float | None:
        if self._is_held:  # it is we who do not read
            return now + LINGER
        due = max(self._finished_at, self._stream.timings.last) + self._linger_seconds
        if now < due:
            return due
        self._linger = None
        if self._stream.state is State.FINISHED:
            self._stream.end()
        return None

    # Timers

    def check(self, now: float) -> float:
        """Gives up an upstream that has been silent for too long; when to look again."""
        stream, attempt = self._stream, self._attempt
        if attempt is None or attempt.is_over or attempt.response is None:
            return now + self._soonest  # connecting has a limit of its own
        if stream.state is State.FINISHED:
            return now + self._soonest  # so has the end of the body
        # With a slow client it is we who do not read.
        progress = None if self._is_held else max(stream.timings.last, self._resumed_at)
        limit, code, message = min(attempt.limits(progress, now))
        if now >= limit:
            attempt.abort()
            attempt.response = None
            attempt.on_fail(gateway_timeout(message, code=code))
        return limit
