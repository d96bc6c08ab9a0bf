"""The upstream's half of a call: its timers, with a clock that the test sets, and its pauses."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from legato.core.dialect import Delivered
from legato.core.errors import bad_gateway
from legato.core.state import State
from legato.core.stream import Stream
from legato.core.timers import Timers
from legato.dialects import gemini, openai
from legato.fronts.chat import CHAT
from legato.gateway.attempt import Attempt, CallRequest
from legato.gateway.dispatch import LINGER, Dispatch
from legato.gateway.services import Services
from legato.policy.health import Health
from legato.policy.keys import Keyring
from legato.upstreams.upstream import DeploymentOptions
from tests.fronts.test_chat_writer import CHOICE, raw

FIRST: Final = 20.0
STALL: Final = 10.0
TOTAL: Final = 1000.0
FINISH: Final = {"index": 0, "delta": {}, "finish_reason": "stop"}


class Response:
    """What an upstream sends: how often it was paused, and whether it was aborted."""

    requests = 1
    prompt_tokens = 0
    upstream_id = None
    is_over = False

    def __init__(self) -> None:
        self.progress: float | None = None
        self.pauses: list[str] = []
        self.is_aborted = False

    def pause(self) -> None:
        self.pauses.append("pause")

    def resume(self) -> None:
        self.pauses.append("resume")

    def abort(self) -> None:
        self.is_aborted = True


class Watched:
    """A dispatch with one attempt under way, and its timer."""

    def __init__(
        self, dialect: Any = openai, health: Health | None = None, counter: Any = None
    ) -> None:
        self.now = 0.0
        self.health = health or Health()
        options = DeploymentOptions(
            first_token_seconds=FIRST, stall_seconds=STALL, total_seconds=TOTAL
        )
        upstream = SimpleNamespace(
            options=options, dialect=dialect, counter=counter, header=b"", soonest=STALL
        )
        services = Services(
            keyring=Keyring(),
            router=cast(Any, SimpleNamespace(health={"one": self.health})),
            ledger=cast(Any, None),
            limiter=cast(Any, None),
            upstreams=cast(Any, {"one": upstream}),
            timers=Timers(),
            clock=lambda: self.now,
            on_bug=lambda error: pytest.fail(str(error)),
        )
        self.timers = services.timers
        self.stream = Stream(services.clock, 0.0, self)
        self.dispatch = Dispatch(services, self.stream, self)
        self.response = Response()
        self.services = services
        self.attempt = self.asked()

    def asked(self) -> Attempt:
        attempt = Attempt(self.services, self.stream, "one", self.stream.fail)
        attempt.response = cast(Any, self.response)
        return attempt

    def begin(self) -> None:
        """The attempt is the one in hand, and has its first token."""
        self.dispatch._attempt = self.attempt
        self.push(CHOICE)

    def push(self, *members: Any) -> None:
        self.stream.push(raw(*members))
        self.stream.flush()

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.25)
            self.timers.advance(self.now)

    # As the call

    def stream_opened(self) -> None:
        self.dispatch.stream_opened()

    def stream_finished(self) -> None:
        self.dispatch.stream_finished()

    def stream_closed(self) -> None: ...
    def wake(self) -> None: ...
    def watch_attempt(self, seconds: float) -> None: ...


@pytest.mark.parametrize(
    ("dialect", "seconds"), [(openai, LINGER), (gemini, STALL)], ids=["openai", "gemini"]
)
def test_the_end_of_the_body_is_waited_for(dialect: Any, seconds: float) -> None:
    """From the finish, or from what still came behind it."""
    watched = Watched(dialect)
    watched.begin()
    watched.wait(5 * STALL)
    watched.push(FINISH)
    watched.wait(seconds - 0.25)
    assert watched.stream.state is State.FINISHED
    watched.push(CHOICE)
    watched.wait(seconds - 0.25)
    assert watched.stream.state is State.FINISHED
    watched.wait(0.5)
    assert watched.stream.state is State.COMPLETE


def test_the_end_of_a_body_that_is_not_read_is_not_late() -> None:
    watched = Watched()
    watched.begin()
    watched.push(FINISH)
    watched.dispatch.hold()
    watched.wait(20 * LINGER)
    assert watched.stream.state is State.FINISHED
    watched.dispatch.resume()
    watched.wait(2 * LINGER + 0.25)
    assert watched.stream.state is State.COMPLETE


def test_who_is_silent_for_too_long_is_given_up() -> None:
    watched = Watched()
    watched.begin()
    watched.now = 3.0
    watched.push(CHOICE)
    assert watched.dispatch.check(3.0 + STALL - 0.1) == 3.0 + STALL
    assert not watched.response.is_aborted
    watched.dispatch.check(3.0 + STALL)
    assert watched.response.is_aborted
    assert watched.stream.error is not None
    assert watched.stream.error.code == "upstream_stalled"


def test_who_reads_on_in_a_long_prompt_is_not_silent() -> None:
    """The time to the first token begins anew where more of the prompt has been read."""
    watched = Watched()
    watched.dispatch._attempt = watched.attempt
    assert watched.dispatch.check(FIRST - 0.1) == FIRST
    watched.response.progress = 0.25
    assert watched.dispatch.check(FIRST) == 2 * FIRST
    watched.response.progress = 0.5
    assert watched.dispatch.check(1.5 * FIRST) == 2.5 * FIRST
    assert not watched.response.is_aborted
    assert watched.dispatch.check(2.5 * FIRST - 0.1) == 2.5 * FIRST
    watched.dispatch.check(2.5 * FIRST)
    assert watched.response.is_aborted
    assert watched.stream.error is not None
    assert watched.stream.error.code == "upstream_first_token_timeout"
    assert "50% of the prompt" in watched.stream.error.message


def test_a_prompt_is_not_read_for_ever() -> None:
    watched = Watched()
    watched.dispatch._attempt = watched.attempt
    for now in range(0, int(TOTAL), 2):
        watched.response.progress = now / TOTAL
        watched.dispatch.check(float(now))
        assert not watched.response.is_aborted
    watched.response.progress = 1.0
    watched.dispatch.check(TOTAL)
    assert watched.stream.error is not None
    assert watched.stream.error.code == "upstream_total_timeout"


def test_who_is_not_read_is_not_silent() -> None:
    """For as long as its client is slow; its time begins anew with the first byte that is read."""
    watched = Watched()
    watched.begin()
    watched.dispatch.hold()
    assert watched.dispatch.check(5 * STALL) == TOTAL
    watched.now = 5 * STALL
    watched.dispatch.resume()
    assert watched.dispatch.check(6 * STALL - 0.1) == 6 * STALL
    assert not watched.response.is_aborted
    watched.dispatch.check(6 * STALL)
    assert watched.response.is_aborted


def test_an_upstream_is_paused_once_and_resumed_once() -> None:
    watched = Watched()
    for deed in (watched.dispatch.hold, watched.dispatch.resume):
        deed()  # nobody is asked yet
    watched.begin()
    assert watched.response.pauses == []
    for _ in range(2):
        for deed in (watched.dispatch.hold, watched.dispatch.resume):
            deed()
            deed()
    assert watched.response.pauses == ["pause", "resume"] * 2


def test_health_is_told_how_long_the_first_token_took() -> None:
    watched = Watched()
    watched.now = 4.0
    watched.attempt = watched.asked()
    watched.now = 7.0
    watched.begin()
    assert (watched.health.ttft, watched.health.measured_at) == (3.0, 7.0)


def failing() -> Health:
    """Its breaker has just opened."""
    health = Health(open_after=1, open_seconds=10.0)
    health.record_failure(0.0)
    assert health.state(0.0) == "open"
    return health


def test_a_probe_that_begins_to_answer_closes_the_breaker() -> None:
    watched = Watched(health=failing())
    watched.now = 10.0
    watched.attempt = watched.asked()
    watched.begin()
    assert watched.health.state(10.0) == "closed"


def test_a_probe_that_fails_makes_way_for_the_next() -> None:
    watched = Watched(health=failing())
    watched.now = 10.0
    attempt = watched.asked()
    assert not watched.health.allows(10.0), "there is one probe at a time"
    attempt.end(bad_gateway("no"))
    assert not watched.health.allows(29.0)
    assert watched.health.allows(30.0)


def test_an_attempt_is_over_once() -> None:
    watched = Watched()
    for _ in range(2):
        watched.attempt.end(bad_gateway("no"))
    assert (watched.health.busy, watched.health.failures) == (0, 1)


class Letters:
    """Counts letters, and keeps the texts of prompts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def count(self, text: str) -> int:
        return len(text)

    def begin(self, texts: list[str]) -> Callable[[], int]:
        self.texts = texts
        return lambda: sum(map(len, texts))


BODY: Final = b'{"model": "m", "messages": [{"role": "user", "content": "Hello"}]}'


@pytest.mark.parametrize("told", [0, 99])
def test_a_prompt_is_counted_where_the_upstream_has_not_told_its_tokens(told: int) -> None:
    """With what was delivered of the answer before, which is in the prompt of a continuation."""
    counter = Letters()
    watched = Watched(counter=counter)
    call = CallRequest(CHAT.parse(BODY), b"")
    call.delivered = Delivered(content="Once upon", reasoning="")
    watched.response.prompt_tokens = told
    watched.attempt._call = call
    watched.begin()
    tally = watched.stream.usage.tally
    assert tally is not None
    if told:
        assert (tally.prompt, counter.texts) == (99, [])
    else:
        assert counter.texts == ["Hello", "Once upon"]
        assert tally.prompt > len("HelloOnce upon")
