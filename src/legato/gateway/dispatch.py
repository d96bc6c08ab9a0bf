"""The upstream's half of a call: who is asked, how long for, and who goes on where one breaks."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from legato.core.continuation import DeliveredText
from legato.core.errors import ApiError, UpstreamError, gateway_timeout
from legato.core.request import ChatRequest
from legato.core.stream import State, Stream
from legato.core.timers import Timer
from legato.gateway.attempt import Attempt, Order
from legato.gateway.services import Client, Services
from legato.policy.ledger import Row, charge
from legato.policy.retry import Budget
from legato.policy.routing import Route
from legato.upstreams.upstream import DeploymentOptions

#: Seconds that an upstream may take to end its body after the answer's finish, or after `[DONE]`.
LINGER: Final = 1.0


class Asking:
    """Fills a call's stream from the deployments of its route."""

    __slots__ = (
        "_attempt",
        "_linger",
        "_order",
        "_resumed",
        "_row",
        "_services",
        "_stream",
        "is_held",
        "on_asked",
        "on_broken",
        "on_start_over",
        "problem",
        "route",
        "soonest",
    )

    def __init__(self, services: Services, stream: Stream) -> None:
        self._services = services
        self._stream = stream
        self._attempt: Attempt | None = None  # the deployment in hand
        self._order: Order | None = None  # kept where somebody else may have to go on
        self._row: Row | None = None
        self.soonest = services.heartbeat_seconds
        self.route: Route | None = None
        self.is_held = False  # the upstream waits for a slow client
        self._resumed = 0.0  # when it last did not have to any more
        self.problem: ApiError | None = None  # with which a stream broke that may go on
        self.on_broken: Callable[[], None] = _nothing
        self.on_asked: Callable[[], None] = _nothing
        """Called when another deployment is asked: its timers begin now."""
        self.on_start_over: Callable[[], None] | None = None
        """Forgets what has come of the answer. Where set, its client has seen nothing of it, and
        another deployment may answer from the start."""
        self._linger: Timer | None = None  # for the end of the body, once there is a finish
        stream.on_finish = self._on_finish

    def find(self, model: str) -> float:
        """Takes the route of `model`. Gives the seconds after which one of the timers of its
        deployments may be due. Raises `ApiError` 404 where there is no such route."""
        route = self.route = self._services.router.find(model)
        first, *others = route.deployments
        upstreams = self._services.upstreams
        self.soonest = upstreams[first].soonest
        for name in others:
            self.soonest = min(self.soonest, upstreams[name].soonest)
        return self.soonest

    async def open(self, client: Client, request: ChatRequest, row: Row) -> None:
        """Comes back when an upstream has begun to answer. Raises `ApiError` when none does."""
        route, services = self.route, self._services
        assert route is not None
        self._row = row
        self._stream.expects = request.choices
        order = Order(client.body, request)
        if len(route.deployments) > 1:
            self._provide(order, route)
        budget: Budget | None = None  # once one has failed
        names = services.router.plan(route, services.clock())
        problem: ApiError | None = None
        later: dict[str, float] = {}  # who is asked again, and from when on
        while names:
            name = names.pop(0)
            if budget is not None and not await self._may_ask(name, budget, later.get(name)):
                continue
            try:
                await self._ask(name, order)
                client.body = b""  # a long prompt need not be held while its answer streams
                if self._order is not None:
                    self._keep(order, route, name)
                return
            except ApiError as error:
                problem = error
                budget = budget or Budget(
                    route.attempts,
                    client.begun + route.retry_seconds,
                    client.begun + services.gate_seconds,
                )
                budget.asked(name)
                if isinstance(error, UpstreamError):
                    if (wait := budget.again(name, error, services.clock())) is not None:
                        later[name] = services.clock() + wait
                        names.append(name)
                elif error.code == "context_length_exceeded":
                    names = [each for each in route.longer(name) if each not in later]
                elif error.code != "unsupported_parameter":
                    raise
        assert problem is not None
        raise problem

    def _provide(self, order: Order, route: Route) -> None:
        """There are others that might go on. It may break in the very turn in which it begins."""
        if route.max_continuations:
            self._stream.kept = DeliveredText()
            self._stream.both_prompts = route.count_both_prompts
        if route.max_continuations or self.on_start_over is not None:
            self._order = order

    async def _may_ask(self, name: str, budget: Budget, when: float | None) -> bool:
        """Whether one more is asked, after others have failed; waits where it is asked again."""
        services = self._services
        if not budget.allows(name, services.clock()):
            return False
        if when is not None:
            await self._wait_until(when)
        return services.router.allows(name, services.clock())

    async def _wait_until(self, when: float) -> None:
        wait = when - self._services.clock()
        if wait > 0:
            await asyncio.sleep(wait)

    async def _ask(self, name: str, order: Order) -> None:
        attempt = self._attempt = Attempt(self._services, self._stream, name, self._fail)
        self._stream.on_open = attempt.on_open
        self.is_held = False
        row = self._row
        assert row is not None
        row.deployments = f"{row.deployments},{name}" if row.deployments else name
        row.errors += "," if row.attempts else ""
        row.attempts += 1
        if row.attempts > 1:
            self.on_asked()
        try:
            await attempt.open(order)
        except ApiError as error:
            row.errors += error.code
            attempt.end(error)
            raise
        except BaseException:
            if not self.drains:
                attempt.end(None)
            raise

    def _keep(self, order: Order, route: Route, name: str) -> None:
        """Where another deployment can go on with this answer, all is kept that it needs."""
        if not self._others(order, route, name):
            self._stream.kept = None
            if self.on_start_over is None:
                self._order = None

    def _others(self, order: Order, route: Route, name: str) -> list[str]:
        """Deployments that might go on where `name` breaks, the first first."""
        mine = self._services.upstreams[name]
        return [
            each
            for each in self._services.router.ordered(route, self._services.clock())
            if each != name and order.continues(self._services.upstreams[each], mine)
        ]

    async def go_on(self) -> None:
        """The upstream broke in the middle of its answer: another goes on with it, or answers from
        the start where its client has seen nothing yet; else it fails."""
        error, self.problem = self.problem, None
        order, route, row, attempt = self._order, self.route, self._row, self._attempt
        assert error is not None
        assert route is not None
        assert row is not None
        assert attempt is not None
        again = order is not None and row.continuations < route.max_continuations
        self.charge()
        if order is not None and again and order.take_up(self._stream):
            for name in self._others(order, route, attempt.name):
                if await self._takes_over(name, order):
                    row.continuations += 1
                    return
            self._stream.say_rest()
        if order is not None and self.on_start_over is not None:
            order.delivered = None
            tried = zip(row.deployments.split(","), row.errors.split(","), strict=True)
            asked = {name for name, code in tried if code != "cannot_continue"}
            for name in self._services.router.ordered(route, self._services.clock()):
                if name in asked or row.attempts >= route.attempts:
                    continue
                self.on_start_over()
                self._stream.start_over()
                if await self._takes_over(name, order):
                    return
        self._stream.fail(error)

    async def _takes_over(self, name: str, order: Order) -> bool:
        """Where nobody does, the first failure is the one to tell."""
        if not self._services.router.allows(name, self._services.clock()):
            return False
        try:
            await self._ask(name, order)
        except ApiError:
            return False
        return True

    def let_go(self) -> None:
        """Nobody is there any more for whom another would go on."""
        self._order = None

    # The answer in hand

    @property
    def tried(self) -> bytes:
        """Headers that tell who answers, and how many have been asked."""
        attempt, row = self._attempt, self._row
        if attempt is None or row is None:
            return b""
        return b"%bx-legato-attempts: %d\r\n" % (attempt.upstream.header, row.attempts)

    @property
    def options(self) -> DeploymentOptions | None:
        return self._attempt.upstream.options if self._attempt is not None else None

    @property
    def drains(self) -> bool:
        """An answer is under way that is to be heard to its end, whoever leaves."""
        attempt = self._attempt
        if attempt is None or attempt.is_over or attempt.answer is None or attempt.answer.is_over:
            return False
        return attempt.upstream.options.on_disconnect == "drain"

    @property
    def progress(self) -> float | None:
        """How far the upstream is with the prompt, 0 to 1, where it tells."""
        answer = self._attempt.answer if self._attempt is not None else None
        return answer.progress if answer is not None else None

    @property
    def upstream_id(self) -> str | None:
        answer = self._attempt.answer if self._attempt is not None else None
        return answer.upstream_id if answer is not None else None

    def abort(self) -> None:
        """Nobody wants the rest: the upstream sees its peer gone."""
        if self._attempt is not None:
            self._attempt.abort()

    def hold(self) -> None:
        """More waits for the client than memory is given for."""
        answer = self._attempt.answer if self._attempt is not None else None
        if not self.is_held and answer is not None:
            self.is_held = True
            answer.pause()

    def resume(self) -> None:
        answer = self._attempt.answer if self._attempt is not None else None
        if self.is_held and answer is not None:
            self.is_held = False
            self._resumed = self._services.clock()
            answer.resume()

    def settle(self) -> None:
        """The call is over: the connection is given back or given up."""
        self.on_broken = self.on_asked = _nothing
        self.on_start_over = None
        if self._linger is not None:
            self._linger.check = None
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        attempt.end(self._stream.error)
        answer, attempt.answer = attempt.answer, None
        if answer is not None and not answer.is_over:
            if self._stream.state is State.COMPLETE:
                # The end of the body is on its way; the connection is good for the next call.
                self._services.timers.watch(self._services.clock() + LINGER, answer.expire)
            else:
                answer.abort()

    def _fail(self, error: ApiError) -> None:
        """An upstream broke in the middle of its answer."""
        if self._row is not None:
            self._row.errors += error.code
        if self._order is not None and self._attempt is not None:
            self._attempt.end(error)
            self.problem = error
            self.on_broken()
        else:
            self._stream.fail(error)

    def charge(self) -> None:
        """Adds to the call's cost what the answer in hand has cost, where there is a price."""
        attempt, row = self._attempt, self._row
        if attempt is None or row is None or attempt.is_charged:
            return
        attempt.is_charged = True
        if (price := attempt.upstream.options.price) is not None:
            charge(row, self._stream, price, attempt.requests)

    # The end of the body

    def _on_finish(self) -> None:
        if self._linger is None:
            self._linger = Timer(self._check_end)
            self._services.timers.watch(self._services.clock() + LINGER, self._linger)

    def _check_end(self, now: float) -> float | None:
        """The answer is whole; only the end of the body has not come, and its usage maybe."""
        if self.is_held:  # it is we who do not read
            return now + LINGER
        self._linger = None
        if self._stream.state is State.FINISHED:
            self._stream.end()
        return None

    # Timers

    def check(self, now: float) -> float:
        """Gives up an upstream that has been silent for too long; when to look again."""
        stream, attempt = self._stream, self._attempt
        if attempt is None or attempt.is_over or attempt.answer is None:
            return now + self.soonest  # connecting has its own limit
        if stream.state is State.FINISHED:
            return now + self.soonest  # it has a limit of its own
        limit, code, says = min(self._limits(attempt))
        if now >= limit:
            attempt.abort()
            attempt.answer = None
            attempt.on_fail(gateway_timeout(says, code=code))
        return limit

    def _limits(self, attempt: Attempt) -> Iterator[tuple[float, str, str]]:
        """Until when the upstream may be silent, for each reason that there is."""
        options = attempt.upstream.options
        seconds = options.total_seconds
        says = f"The upstream's answer was not complete within {seconds:g} s."
        yield attempt.asked + seconds, "upstream_total_timeout", says
        if not attempt.is_open:
            seconds = options.first_token_seconds
            says = f"The upstream gave no first token within {seconds:g} s."
            yield attempt.asked + seconds, "upstream_first_token_timeout", says
        elif not self.is_held:  # with a slow client it is we who do not read
            seconds = options.stall_seconds
            says = f"The upstream made no progress for {seconds:g} s."
            last = max(self._stream.timings.last, attempt.asked, self._resumed)
            yield last + seconds, "upstream_stalled", says


def _nothing() -> None:
    return None
