"""The client's half of a call: whom it cuts as stalled, with a clock that the test sets."""

from collections.abc import Callable
from typing import Any, Final, cast

import pytest

from legato.core.front import AnswerHead
from legato.core.stream import Stream
from legato.core.timers import Timers
from legato.fronts.chat import CHAT
from legato.gateway.reply import Reply
from legato.gateway.services import Services
from legato.policy.keys import Keyring
from tests.fronts.test_chat_writer import CHOICE, raw

STALL: Final = 10.0  # seconds for which a client may take nothing
FULL: Final = 65_536  # bytes that wait for it then

REQUEST: Final = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'


class Client:
    """A client whose unsent bytes the test sets (`gateway.services.Client`)."""

    body = REQUEST
    received = begun = 0.0
    request_id = "req_1"
    user_agent: bytes | None = None
    title: bytes | None = None
    passed: bytes = b""
    is_full = False
    is_secure = False

    def __init__(self) -> None:
        self.unsent = 0
        self.is_cut = False
        self.sent = b""

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        self.sent += body

    def start(self, lines: bytes) -> None: ...
    def flush(self) -> None: ...

    def write(self, data: bytes) -> None:
        self.sent += data

    finish = write

    def abort(self) -> None:
        self.is_cut = True


class Watched:
    """A streamed reply whose timer rings when it is due, and whose time passes in `wait`."""

    def __init__(self, heartbeat_seconds: float = 1e9) -> None:
        self.now = 0.0
        self.client = Client()
        services = Services(
            keyring=Keyring(),
            router=cast(Any, None),
            ledger=cast(Any, None),
            limiter=cast(Any, None),
            upstreams={},
            timers=Timers(),
            clock=lambda: self.now,
            on_bug=pytest.fail,
            heartbeat_seconds=heartbeat_seconds,
            stall_client_seconds=STALL,
        )
        self.stream = Stream(services.clock, 0.0)
        head = AnswerHead("chatcmpl-1", 0, "m")
        self.reply = Reply(services, self.client, CHAT, self.stream, head, CHAT.parse(REQUEST))
        self.reply.deliver(b"", lambda: None)
        self._due = self.reply.check(0.0, None)

    def pause(self) -> None:
        self.client.unsent = FULL
        self.reply.pause()

    def resume(self) -> None:
        self.client.unsent = 0
        self.reply.resume()

    def wait(
        self, seconds: float, step: float = 1.0, each: Callable[[], None] | None = None
    ) -> None:
        """Lets time pass in steps; `each` is called in each of them. Ends where it is cut."""
        end = self.now + seconds
        while self.now < end and not self.client.is_cut:
            self.now = min(end, self.now + step)
            if each is not None:
                each()
            if self.now >= self._due:
                self._due = self.reply.check(self.now, None)


def test_who_takes_nothing_is_cut() -> None:
    watched = Watched()
    watched.wait(100)
    watched.pause()
    watched.wait(100)
    assert watched.client.is_cut
    assert 100 + STALL <= watched.now <= 100 + 2 * STALL
    error = watched.stream.error
    assert error is not None
    assert (error.status, error.code) == (408, "client_stalled")
    assert error.message == "The client took nothing."


@pytest.mark.parametrize("step", [0.1, 1.0, 3.0, STALL])
def test_who_still_reads_is_not_cut(step: float) -> None:
    """However little it takes: what is unsent has changed since the last look."""
    watched = Watched()
    watched.pause()

    def take() -> None:
        watched.client.unsent -= 1

    watched.wait(50 * STALL, step, take)
    assert not watched.client.is_cut
    watched.wait(3 * STALL, step)
    assert watched.client.is_cut, "it has stopped reading"


@pytest.mark.parametrize("times", [1, 3])
def test_who_has_read_on_is_not_cut_for_what_was_before(times: int) -> None:
    """Its time begins anew with each pause, also where as much is unsent as in the last; and while
    it is not paused, nothing is to be taken."""
    watched = Watched()
    for _ in range(times):
        watched.pause()
        watched.wait(STALL - 1)
        watched.resume()
        watched.wait(20 * STALL)
        assert not watched.client.is_cut
    watched.pause()
    watched.wait(STALL - 1)
    assert not watched.client.is_cut
    watched.wait(2 * STALL)
    assert watched.client.is_cut


def test_who_has_read_on_for_a_moment_is_not_cut_either() -> None:
    """It was not paused at some looks."""
    watched = Watched()
    for _ in range(50):
        watched.pause()
        watched.wait(STALL - 1)
        watched.resume()
        watched.wait(STALL + 1)
    assert not watched.client.is_cut


def test_a_client_of_a_silent_upstream_is_not_stalled() -> None:
    """Nothing is unsent, and nothing is to be taken."""
    watched = Watched()
    watched.wait(100 * STALL)
    assert not watched.client.is_cut


def test_the_progress_of_a_prompt_is_shown_until_the_answer_begins() -> None:
    watched = Watched(heartbeat_seconds=2.0)
    assert watched.reply.check(1.9, 0.25) == 2.0
    assert watched.client.sent == b""
    assert watched.reply.check(2.1, 0.25) == 2.1 + 2.0
    assert watched.client.sent == b": prefill 25%\n\n"
    watched.reply.check(4.2, None)
    assert watched.client.sent.endswith(b": keep-alive\n\n")
    watched.now = 5.0
    watched.stream.push(raw(CHOICE))
    watched.stream.flush()
    assert watched.reply.check(6.9, 1.0) == 7.0, "an answer that goes on needs no heartbeat"
    assert watched.client.sent.endswith(b"}\n\n")
    watched.reply.check(7.1, 1.0)
    assert watched.client.sent.endswith(b"}\n\n: keep-alive\n\n")


def test_a_deployment_has_its_own_time() -> None:
    watched = Watched()
    watched.reply.stall_seconds = 3 * STALL
    watched.wait(STALL)
    watched.pause()
    watched.wait(2 * STALL)
    assert not watched.client.is_cut
    watched.wait(5 * STALL)
    assert watched.client.is_cut
