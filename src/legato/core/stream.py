"""The one object in the middle: what a legal stream is, and who hears of it.

A source fills it (`push`, `end`, `fail`), a subscriber drains it; neither knows the other. The
legal order is a table; whatever an upstream does, a subscriber sees only what the table allows:

    role once a choice, deltas, one finish a choice, then the end: complete, failed or cancelled.

No socket, no clock of its own, no await: a chunk travels from `push` to the subscriber in one call.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from legato.core.chunk import Chunk, Usage
from legato.core.continuation import DIVERGED, DeliveredText
from legato.core.errors import ApiError, UpstreamError, bad_gateway
from legato.core.json_text import encoded, one_line
from legato.core.normalize import ChoiceState, role
from legato.core.state import State
from legato.core.subscriber import Lane, Subscriber
from legato.core.timings import Timings
from legato.core.usage_tracker import Account

#: What the first choices of an answer begin with, as JSON.
_ROLES: Final = tuple([encoded([role(index)]) for index in range(4)])


def _nothing() -> None:
    return None


class Stream(Account):
    """One call's answer on its way.

    `clock` gives seconds. `on_open` is called at the first chunk that counts as an answer, and at
    the first of each upstream that goes on with it; `on_finish` when all choices have their finish
    and the end has not come in the same read;
    `on_close` once, at the end, whatever it is. They are called from inside `push`, `end`, ...
    """

    flush: Callable[[], None]
    """For the source: it has read all there was; what was pushed goes out now."""

    __slots__ = (
        "_choices",
        "_early",
        "_extras",
        "_open",
        "_resumes",
        "carried",
        "clock",
        "counts_early",
        "done",
        "error",
        "expects",
        "flush",
        "kept",
        "lane",
        "on_close",
        "on_finish",
        "on_open",
        "state",
        "subscriber",
    )

    def __init__(self, clock: Callable[[], float], received: float) -> None:
        super().__init__(Timings(received))
        self.state = State.WAITING
        self.done = False  # no further state comes behind this one
        self.error: ApiError | None = None
        self.kept: DeliveredText | None = None  # where another may have to go on
        self.lane: Lane | None = None  # what passes this stream by
        self.expects = 1  # choices without which the answer is not whole
        self.flush = _nothing
        self.on_open: Callable[[], None] = _nothing
        self.on_close: Callable[[], None] = _nothing
        self.on_finish: Callable[[], None] = _nothing
        self.clock = clock
        self._resumes = False  # another upstream is to go on, and has not said anything yet
        self._extras = b""  # of the chunk with the usage
        self._choices: dict[int, ChoiceState] = {}
        self._open = 0  # of them without a finish
        self.carried: tuple[int, ...] = ()  # open choices whose index is theirs: plain text passes
        self.subscriber: Subscriber | None = None  # nobody before there is one, or any more
        self._early: list[tuple[Chunk, Usage | None]] | None = []  # before there was a subscriber
        self.counts_early = False  # somebody will ask for the usage at each chunk

    @property
    def is_behind(self) -> bool:
        """The subscriber has not taken yet what has come."""
        return self.subscriber is not None and self.subscriber.is_paused

    def go_on(self) -> None:
        """Another upstream goes on with the answer: its usage comes on top of what there was."""
        self.add_up()
        self._forget()
        for choice in self._choices.values():
            choice.forget_unsaid()
        self._resumes = True

    def start_over(self) -> None:
        """Nobody has seen anything of the answer: another upstream says it from the start, and what
        has come counts for nothing."""
        self._forget()
        self.forget_spent()
        self.kept = None
        self._choices = {}
        self._open = 0
        self._resumes = False
        self.state = State.WAITING  # the one way back, and no subscriber's

    def _forget(self) -> None:
        self.usage = self.tally = None
        self.prompt_tokens = 0
        self._extras = b""
        self.look_at_each()
        self.carried = ()

    # From the client's side

    def attach(self, subscriber: Subscriber) -> None:
        """`subscriber` gets all that has come, then what comes; also the end, if it was already."""
        self.subscriber = subscriber
        if self.state is not State.FINISHED:
            self.flush = subscriber.flush
        early, self._early = self._early, None
        for chunk, self._then in early or ():
            subscriber.push(chunk)
        self._then = None
        if self.state is State.COMPLETE:
            subscriber.complete(self.total_usage(), self._extras)
        elif self.state is State.FAILED and self.error is not None:
            subscriber.fail(self.error)
        subscriber.flush()

    def cancel(self) -> None:
        """The client is gone: nobody hears of what may still come."""
        self.detach()
        self._close(State.CANCELLED)

    def detach(self) -> None:
        """Nobody hears of what still comes; it is metered."""
        self.look_at_each()
        self.subscriber = None
        self._early = None
        self.flush = _nothing

    def look_at_each(self) -> None:
        """What comes next does not pass this stream by."""
        if self.lane is not None:
            self.lane.shut()
            self.lane = None

    def release(self) -> None:
        """It is over, and nobody hears of it any more: what holds each other is let go of."""
        self.detach()
        self.kept = None
        self.on_open = self.on_finish = self.on_close = _nothing
        if self.error is not None:
            self.error.__traceback__ = None  # holds all that the error went through

    # From the source's side

    def push(self, chunk: Chunk) -> None:
        """One chunk of the upstream. Raises `UpstreamError` where it cannot be mended."""
        if chunk.plain in self.carried or (
            chunk.plain >= 0 and self._begins(chunk.plain, chunk.extras)
        ):
            self._carry(chunk)
            return
        if chunk.ends in self.carried and self._choices[chunk.ends].finish():
            self._finish(chunk)
            return
        if chunk.usage:  # an empty one says nothing
            self.usage = chunk.usage
        choices = chunk.choices
        if (
            len(choices) == 1
            and choices[0].is_plain
            and (choices[0].index in self.carried or self._begins(choices[0].index, chunk.extras))
        ):
            delta = choices[0].delta
            assert delta is not None
            chunk.raw = one_line(chunk.raw or msgspec.json.encode(choices))
            chunk.text = delta.content or delta.reasoning_content or ""
            chunk.thinks = not delta.content
            self._carry(chunk)
        elif chunk.raw != b"[]":
            for member in chunk.members():
                self._mend(member, chunk.extras)
        elif chunk.usage:
            self._extras = chunk.extras

    def _carry(self, chunk: Chunk) -> None:
        """Text for a choice that is under way: nothing to mend, nothing to look up."""
        timings = self.timings
        timings.content(self.clock())
        if chunk.thinks:
            timings.reasoning += 1
        if self.kept is not None:
            self.kept.add(chunk)
        if self.tally is not None:
            self.tally.add(chunk)
        if self.subscriber is not None:
            self.subscriber.push(chunk)
        elif self._early is not None:
            self._early.append((chunk, self.running_usage() if self.counts_early else None))

    def end(self) -> None:
        """The upstream's body ended, or said `[DONE]`. Without a finish that is a failure."""
        if self.done:
            return
        if self.state is State.FINISHED:
            self._close(State.COMPLETE)
            if self.subscriber is not None:
                self.subscriber.complete(self.total_usage(), self._extras)
                self.subscriber.flush()
            return
        self.fail(self.unfinished())

    def unfinished(self) -> UpstreamError:
        """What it means that the upstream has ended its answer here."""
        if self.state is State.WAITING:
            return bad_gateway("The upstream's answer was empty.", code="upstream_empty")
        begun = len(self._choices)
        if begun < self.expects and not self._open:
            return bad_gateway(
                f"The upstream gave {begun} of {self.expects} choices.", code="upstream_incomplete"
            )
        return bad_gateway(
            "The upstream ended its answer without a finish.", code="upstream_incomplete"
        )

    def fail(self, error: ApiError) -> None:
        if self.done:
            return
        self.error = error
        self._close(State.FAILED)
        if self.subscriber is not None:
            self.subscriber.fail(error)
            self.subscriber.flush()

    # Inside

    def _mend(self, member: dict[str, Any], extras: bytes) -> None:
        if self.done:
            return
        theirs = member.get("index") or 0
        if not isinstance(theirs, int):
            raise bad_gateway("The upstream sent a choice whose `index` is not a number.")
        choice = self._choices.get(theirs) or ChoiceState(len(self._choices))
        fields = choice.mend(member)
        if not fields and (theirs in self._choices or not choice.begun):
            return  # only a role, or nothing at all: not yet an answer
        if theirs not in self._choices:
            self._begin(theirs, choice, extras)
        elif self._resumes:
            self._resume(theirs, choice, fields)
        for mended in fields:
            if mended["delta"]:
                self.timings.content(self.clock())
                self.timings.reasoning += "reasoning_content" in mended["delta"]
            self._send(mended, extras)
        if choice.finished:
            self._finished(theirs)

    def _finish(self, chunk: Chunk) -> None:
        """The finish of a choice that is under way, and nothing to mend."""
        if self.kept is not None or self.tally is not None:
            self._keep(chunk.members()[0])
        self._emit(chunk)
        self._finished(chunk.ends)

    def _finished(self, theirs: int) -> None:
        if self.carried == (theirs,):
            self.carried = ()
        else:
            self.carried = tuple([each for each in self.carried if each != theirs])
        self._open -= 1
        if not self._open and len(self._choices) >= self.expects:
            self._to(State.FINISHED)

    def _begins(self, theirs: Any, extras: bytes) -> bool:
        """Whether text begins a choice whose index is theirs: it need not be mended either."""
        if theirs in self._choices or theirs != len(self._choices) or self.done:
            return False
        choice = ChoiceState(theirs)
        choice.begun = True
        self._begin(theirs, choice, extras)
        return True

    def _begin(self, theirs: int, choice: ChoiceState, extras: bytes) -> None:
        self._choices[theirs] = choice
        self._open += 1
        self._to(State.OPEN)
        if choice.index == theirs:
            self.carried += (theirs,)
        if self.kept is not None or self.tally is not None:
            self._keep(role(choice.index))
        index = choice.index
        raw = _ROLES[index] if index < len(_ROLES) else encoded([role(index)])
        self._emit(Chunk([], raw, extras=extras))

    def _resume(self, theirs: int, choice: ChoiceState, said: list[dict[str, Any]]) -> None:
        """The first that another upstream says of a choice that is under way."""
        answers = self.kept is not None and self.kept.answers
        if answers and any("reasoning_content" in each["delta"] for each in said):
            # It began anew, and what it says then would have come after these thoughts.
            raise bad_gateway(
                "The upstream thought again about an answer that had begun.", code=DIVERGED
            )
        self._resumes = False
        if choice.index == theirs:
            self.carried += (theirs,)
        self.on_open()

    def _send(self, member: dict[str, Any], extras: bytes) -> None:
        self._keep(member)
        self._emit(Chunk([], encoded([member]), extras=extras, fields=[member]))

    def _keep(self, member: dict[str, Any]) -> None:
        if self.kept is not None:
            self.kept.member(member)
        if self.tally is not None:
            self.tally.member(member)

    def _emit(self, chunk: Chunk) -> None:
        if self.subscriber is not None:
            self.subscriber.push(chunk)
        elif self._early is not None:
            self._early.append((chunk, self.running_usage() if self.counts_early else None))

    def _to(self, state: State) -> None:
        before = self.state
        if state is before:
            return
        if state not in before.after:
            raise AssertionError(f"a stream does not go from {before.value} to {state.value}")
        self.state = state
        self.done = not state.after
        if before is State.WAITING and state is State.OPEN:
            self.on_open()
        elif state is State.FINISHED:
            self.flush = self._await_end

    def _await_end(self) -> None:
        """All choices have their finish, and the end did not come with them."""
        subscriber = self.subscriber
        self.flush = subscriber.flush if subscriber is not None else _nothing
        self.flush()
        if self.state is State.FINISHED:
            self.on_finish()

    def _close(self, state: State) -> None:
        if not self.done:
            self._to(state)
            self.look_at_each()
            self.on_close()
