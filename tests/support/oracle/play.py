"""Plays one conversation against the gateway's call layer, from upstream bytes to client bytes."""

from collections.abc import Callable
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import asdict

from legato import dialects
from legato.core.front import Front
from legato.core.timers import Timers
from legato.fronts.chat import CHAT
from legato.fronts.completions import COMPLETIONS
from legato.fronts.messages import MESSAGES
from legato.fronts.responses import RESPONSES
from legato.gateway.call import Call
from legato.gateway.limiter import Limiter
from legato.gateway.services import Services
from legato.policy.keys import Key, Keyring
from legato.policy.ledger import Row
from legato.policy.providers import quirks_of
from legato.policy.routing import Route, Router
from legato.policy.sessions import NO_HEADERS
from legato.store.live_memory import LiveMemory
from legato.upstreams.endpoint import Endpoint
from legato.upstreams.pool import Pool
from legato.upstreams.upstream import DeploymentOptions, Price, Target, Upstream
from tests.support.oracle.conversation import (
    Action,
    Conversation,
    Deployment,
    Exchange,
    Read,
)
from tests.support.oracle.fixed import fixed_sources
from tests.support.oracle.network import FIRST_PORT, PlannedResponse, Upstreams

#: Which way a conversation is played.
Way = Literal["fast path", "decode everything"]

#: Seconds that pass with each read. Sums of it are exact.
_TICK: Final = 1 / 64

#: Timers of the event loop up to so many seconds ahead are not waited for by a `wait` of the
#: schedule: they share out the work of one read.
_SOON: Final = 0.005

#: Seconds after which a call that nothing happens to is over, whatever its limits are.
_PATIENCE: Final = 4000.0

_FRONTS: Final[dict[str, Front]] = {
    front.name: front for front in (CHAT, COMPLETIONS, MESSAGES, RESPONSES)
}

_KEY: Final = Key("key_1", "oracle", b"", 0.0)
_PRICE: Final = Price(1.0, 2.0, 0.5, 1.25, 2.0)


def decode_everything(upstreams: dict[str, Upstream]) -> None:
    """The oracle's switch: the fast path takes no event of these upstreams."""
    for upstream in upstreams.values():
        upstream.fast_path = False


class Outcome(Struct):
    """What came of one call. `client`: (step, bytes) in order; `notes`: what else happened, in
    order, with the step."""

    client: list[tuple[int, bytes]]
    row: dict[str, Any] | None
    requests: list[tuple[int, bytes]]
    notes: list[tuple[int, str]]


class Plan(Struct):
    """A conversation with its responses, for both ways."""

    conversation: Conversation
    responses: list[list[list[PlannedResponse]]]  # by exchange, deployment, request

    @classmethod
    def of(cls, conversation: Conversation) -> "Plan":
        return cls(
            conversation,
            [
                [[PlannedResponse(script) for script in scripts] for scripts in exchange.scripts]
                for exchange in conversation.exchanges
            ],
        )


def play(plan: Plan, way: Way) -> list[Outcome]:
    """What came of each call."""
    return _Player(plan.conversation, way).play(plan)


class _Ledger:
    """Keeps the row of the call in hand."""

    is_full = False
    row: Row | None = None

    def put(self, identity: str, row: Row) -> None:
        self.row = row

    put_refused = put


class _Counter:
    """Counts a token for each four letters."""

    def count(self, text: str) -> int:
        return (len(text) + 3) // 4

    def begin(self, texts: list[str]) -> Callable[[], int]:
        return lambda: sum(map(self.count, texts))


class _Client:
    """The client's side of one call (`gateway.services.Client`)."""

    is_encoded = False

    def __init__(self, player: "_Player", exchange: Exchange, number: int) -> None:
        self._player = player
        self.body = exchange.request
        self.received = self.begun = player.clock()
        self.request_id = f"req_{number:016x}"
        self.user_agent = exchange.user_agent
        self.title: bytes | None = None
        self.session_headers = NO_HEADERS
        self.passed = b""
        self.is_secure = exchange.is_secure
        self.is_full = False
        self.unsent = 0
        self.is_over = False  # it has its answer, or is gone
        self.sent: list[tuple[int, bytes]] = []

    async def decode(self) -> None: ...

    def _take(self, data: bytes) -> None:
        step = self._player.step
        sent = self.sent
        if sent and sent[-1][0] == step:
            sent[-1] = (step, sent[-1][1] + data)
        else:
            sent.append((step, data))

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        if not self.is_over:
            self._take(b"%d\r\n%b\r\n%b" % (status, lines, body))
            self.is_over = True

    def start(self, lines: bytes) -> None:
        self._player.note(f"head: {lines!r}")

    def flush(self) -> None:
        self._player.note("head goes out")

    def write(self, data: bytes) -> None:
        if not self.is_over:
            self._take(data)
            self.unsent += len(data) if self.is_full else 0

    def finish(self, data: bytes) -> None:
        if not self.is_over:
            self._take(data)
            self._player.note("body ends")
            self.is_over = True

    def abort(self) -> None:
        self._player.note("client is cut")
        self._player.upstreams.loop.call_soon(self._player.act, Action("leave"))


class _Player:
    """The server around the calls of one conversation."""

    def __init__(self, conversation: Conversation, way: Way) -> None:
        self._now = 1000.0
        self.step = 0
        self._notes: list[tuple[int, str]] = []
        self.upstreams = Upstreams(self.note)
        self.upstreams.loop.set_time(self._now)
        self._ledger = _Ledger()
        self._timers = Timers()
        self._call: Call | None = None
        self._client: _Client | None = None
        self._running: set[Any] = set()
        names = [chr(ord("a") + each) for each in range(len(conversation.deployments))]
        upstreams = {
            name: self._upstream(name, number, conversation.deployments[number])
            for number, name in enumerate(names)
        }
        if way == "decode everything":
            decode_everything(upstreams)
        route = Route(
            "m",
            tuple(names),
            retry_seconds=0.0,  # nothing waits to ask the same one again
            max_continuations=conversation.max_continuations,
            count_both_prompts=conversation.counts_both_prompts,
        )
        router = Router([route])
        self._services = Services(
            keyring=Keyring(),
            router=router,
            ledger=self._ledger,
            limiter=Limiter(LiveMemory(self.clock), router, self.clock),
            upstreams=upstreams,
            timers=self._timers,
            clock=self.clock,
            on_bug=self._on_bug,
            gate_seconds=conversation.gate_seconds,
            heartbeat_seconds=conversation.heartbeat_seconds,
            heartbeat=conversation.heartbeat,
            backlog_bytes=conversation.backlog_bytes,
            padding=conversation.padding,
        )

    def clock(self) -> float:
        return self._now

    def note(self, what: str) -> None:
        self._notes.append((self.step, what))

    def _on_bug(self, error: BaseException) -> None:
        self.note(f"bug: {error!r}")

    def _upstream(self, name: str, number: int, deployment: Deployment) -> Upstream:
        dialect = dialects.named(deployment.dialect)
        quirks = quirks_of(deployment.provider, deployment.dialect)
        path = "/v1" if deployment.dialect.startswith("openai") else ""
        pool = Pool(Endpoint("127.0.0.1", FIRST_PORT + number, path), clock=self.clock)
        upstream = Upstream(
            name,
            "theirs",
            dialect=dialect,
            quirks=quirks,
            options=DeploymentOptions(
                reasoning=deployment.reasoning,
                drops_closing_tags=deployment.drops_closing_tags,
                on_disconnect="drain" if deployment.drains else "cancel",
                streams=deployment.streams,
                replays=deployment.replays,
                price=_PRICE if deployment.has_price else None,
            ),
            target=Target.of(
                pool, dialect, "theirs", ("sk-1",), quirks, streams=deployment.streams
            ),
        )
        if deployment.counts_tokens:
            upstream.counter = _Counter()
        return upstream

    # Playing

    def play(self, plan: Plan) -> list[Outcome]:
        outcomes: list[Outcome] = []
        with self.upstreams.loop.running(), fixed_sources(self.clock):
            for number, exchange in enumerate(plan.conversation.exchanges):
                self._let_pass(exchange.idle_seconds)
                self.upstreams.expect(plan.responses[number])
                outcomes.append(self._play(exchange, number))
        return outcomes

    def _play(self, exchange: Exchange, number: int) -> Outcome:
        self._notes = []
        client = self._client = _Client(self, exchange, number)
        self._start(client, _FRONTS[exchange.front])
        self._settle()
        while (found := self.upstreams.next_read(self.step)) is not None or self._wait_on():
            if found is not None:
                self._read(*found)
        for problem in self.upstreams.loop.problems:
            self.note(f"bug: {problem}")
        self.upstreams.loop.problems.clear()
        last, self._ledger.row = self._ledger.row, None
        row = asdict(last) if last is not None else None
        self._call = self._client = None
        return Outcome(client.sent, row, self.upstreams.requests, self._notes)

    def _start(self, client: _Client, front: Front) -> None:
        self._call = Call(self._services, client, front, _KEY)
        self._call.start(self._running)

    def _read(self, transport: Any, read: Read) -> None:
        for action in read.before:
            self.act(action)
            self._settle()
        self.step += 1
        self._pass(_TICK)
        transport.deliver(read)
        self._settle()

    def _wait_on(self) -> bool:
        """Whether anything is left to come, where no connection has something to read now."""
        client = self._client
        if client is not None and client.is_full and not client.is_over:
            self.act(Action("resume"))  # a client that went on reading at last
            self._settle()
            return True
        until = self._now + _PATIENCE
        while self._running:
            if not self._pass_to_next(until):
                self.note("bug: the call is not over")
                return False
            if self.upstreams.can_read:
                return True
        return False

    def act(self, action: Action) -> None:
        call, client = self._call, self._client
        if action.kind == "wait":
            self._let_pass(action.seconds)
        elif call is None or client is None or client.is_over:
            return
        elif action.kind == "pause" and not client.is_full:
            client.is_full = True
            call.pause()
        elif action.kind == "resume" and client.is_full:
            client.is_full, client.unsent = False, 0
            call.resume()
        elif action.kind == "leave":
            client.is_over = True
            call.cancel()

    # Time

    def _pass(self, seconds: float) -> None:
        """Time passes, and what is due is done."""
        now = self._now = self._now + seconds
        loop = self.upstreams.loop
        loop.set_time(now)
        due = self._timers.next_due
        if due is not None and due <= now:
            self._timers.advance(now)
        if not loop.is_idle:
            loop.run_ready()

    def _let_pass(self, seconds: float) -> None:
        """The same, with every timer at its time."""
        until = self._now + seconds
        while self._pass_to_next(until):
            pass

    def _pass_to_next(self, until: float) -> bool:
        """Time passes until the next timer is due, or `until`; False where that has come."""
        if self._now >= until:
            return False
        due = [until, *filter(None, (self._timers.next_due, self.upstreams.loop.next_due))]
        self._pass(max(min(due) - self._now, _TICK))
        return True

    def _settle(self) -> None:
        """Runs what follows from one step, the shares of a long read included."""
        loop = self.upstreams.loop
        if loop.is_idle:
            return
        loop.run_ready()
        while (due := loop.next_due) is not None and due <= loop.time() + _SOON:
            loop.set_time(due)
            loop.run_ready()


__all__ = ["Outcome", "Plan", "Way", "play"]
