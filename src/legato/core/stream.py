"""The stream between an upstream and its client: sans-IO, one object per call.

A source fills it (`push`, `end`, `fail`), subscribers drain it; neither knows the other. Whatever
an upstream does, a subscriber sees only the legal order:

    role once per choice, deltas, one finish per choice, then the end: complete, failed, cancelled

No socket, no timer, no await: a chunk goes from `push` to the subscribers in one call.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from legato.core.choices import Choices
from legato.core.chunk import Chunk
from legato.core.continuation import DIVERGED, DeliveredText
from legato.core.delivery import Delivery
from legato.core.errors import ApiError, UpstreamError, bad_gateway
from legato.core.json_text import encoded, merged_members, one_line
from legato.core.normalize import ChoiceNormalizer, Member, role
from legato.core.state import State
from legato.core.subscriber import NO_LISTENER, FastPath, Listener, Subscriber, WriteText
from legato.core.timings import Timings
from legato.core.token_counting import Tally
from legato.core.usage_tracker import UsageTracker

#: The `choices` array that the first choices of an answer begin with, as JSON.
_ROLES: Final = tuple([encoded([role(index)]) for index in range(4)])


class Stream:
    """One call's answer. `clock` gives seconds; `received`: when the request came in, on it."""

    __slots__ = (
        "_choices",
        "_clock",
        "_delivery",
        "_fast_path",
        "_is_resuming",
        "_listener",
        "_pending",
        "_shows_running_usage",
        "_shows_usage",
        "_usage_extras",
        "delivered",
        "done",
        "error",
        "expected",
        "state",
        "timings",
        "usage",
    )

    def __init__(
        self, clock: Callable[[], float], received: float, listener: Listener = NO_LISTENER
    ) -> None:
        self.timings = Timings(received)
        self.usage = UsageTracker(self.timings)
        self.state = State.WAITING
        self.done = False  # the state is final
        self.error: ApiError | None = None
        self.delivered: DeliveredText | None = None  # where another upstream may have to continue
        self.expected = 1  # choices without which the answer is not whole
        self._clock = clock
        self._listener = listener
        self._delivery = Delivery()
        self._shows_usage = True
        self._shows_running_usage = False
        self._choices = Choices()
        self._pending = b""  # extras of events that had nothing else for the client
        self._usage_extras = b""  # extras of the chunk with the usage
        self._is_resuming = False  # another upstream is to continue, and has not begun yet
        self._fast_path: FastPath | None = None

    # From the call

    def expect(
        self, choices: int, *, shows_usage: bool = True, shows_running_usage: bool = False
    ) -> None:
        """What the client asked for: so many choices; usage in a last chunk, in each chunk."""
        self.expected = choices
        self._shows_usage = shows_usage
        self._shows_running_usage = shows_running_usage

    def keep_delivered(self) -> None:
        """Keeps the text that goes out, so that another upstream can continue the answer."""
        self.delivered = DeliveredText()

    def drop_delivered(self) -> None:
        self.delivered = None

    def count_tokens(self, tally: Tally) -> None:
        """Counts the text that comes from now on."""
        self.usage.tally = tally

    def continue_elsewhere(self) -> None:
        """Another upstream continues the answer: its usage is added to what has been used."""
        self.usage.close_part()
        self._forget_upstream()
        self._choices.continue_elsewhere()
        if self.state is State.FINISHED:
            self._to(State.OPEN)  # its finish was held back, and dropped
        self._is_resuming = True

    def start_over(self) -> None:
        """Another upstream answers from the start; nobody has seen anything of the answer."""
        self.usage.start_over()
        self._forget_upstream()
        self.delivered = None
        self._choices = Choices()
        self._is_resuming = False
        self.state = State.WAITING  # the one way back; no subscriber ever sees it

    def ask(self, *, relays: bool = False) -> None:
        """An upstream is asked: nothing is left of one that failed before its first chunk.
        `relays`: it speaks the client's own format, and its events go out as they come."""
        waits = self.state is State.WAITING
        self._delivery.expect(relays, begun=not waits)
        if waits:
            self.usage.forget_upstream()
            self._forget_upstream()
            self._choices.forget_unbegun()

    def _forget_upstream(self) -> None:
        self._pending = self._usage_extras = b""
        self.leave_fast_path()

    def note_error(self, error: ApiError) -> None:
        """Why the stream is about to be cancelled."""
        self.error = error

    def cancel(self) -> None:
        """The client is gone: what still comes goes nowhere."""
        self.unsubscribe()
        if not self.done:
            self._close(State.CANCELLED)

    def release(self) -> None:
        """Lets go of everything that refers back to the stream, once the call is settled."""
        self.unsubscribe()
        self.delivered = None
        self._listener = NO_LISTENER
        if self.error is not None:
            self.error.__traceback__ = None  # refers to all frames that the error went through

    # From subscribers

    def subscribe(self, *subscribers: Subscriber) -> None:
        """Each gets all that has come, then what comes, then the end. There is one chance."""
        delivery = self._delivery
        delivery.subscribe(subscribers)
        if self.state is State.COMPLETE:
            delivery.complete(self.usage.total(), self._usage_extras)
        elif self.state is State.FAILED and self.error is not None:
            delivery.fail(self.error)
        else:
            delivery.flush()

    def unsubscribe(self) -> None:
        """Nobody gets what still comes; it is measured and counted all the same."""
        self.leave_fast_path()
        self._delivery.unsubscribe()

    @property
    def is_behind(self) -> bool:
        """Whether a subscriber has not taken yet what has come."""
        return self._delivery.is_behind

    # The fast path

    def enter_fast_path(
        self, fast_path: FastPath, chunk: Chunk, raw: tuple[bytes, bytes], event: bytes
    ) -> WriteText | None:
        """What writes frames that differ from that of `chunk` in their text alone, or None.

        `raw` is the chunk's, before and after the JSON string of its text; `event` is its event
        with an empty text. Texts go to the writer and to `note_text`, until the fast path is
        closed: when anything else happens.
        """
        delivery, subscribers = self._delivery, self._delivery.subscribers
        if chunk.text_choice not in self._choices.passing or len(subscribers) != 1 or self._pending:
            return None
        (subscriber,) = subscribers
        if self._shows_running_usage or subscriber.is_paused:
            return None
        relays = delivery.relays
        write = subscriber.event_writer(event) if relays else subscriber.text_writer(chunk, raw)
        if write is not None:
            self._fast_path = fast_path
        return write

    def leave_fast_path(self) -> None:
        """Closes the fast path; the next chunk is processed normally."""
        fast_path, self._fast_path = self._fast_path, None
        if fast_path is not None:
            fast_path.close()

    def note_text(self, text: str, index: int, is_reasoning: bool) -> None:
        """Measures and counts a text of one choice that goes to the subscribers."""
        timings, usage = self.timings, self.usage
        timings.content(self._clock())
        if is_reasoning:
            timings.reasoning += 1
        if self.delivered is not None:
            self.delivered.add(text, is_reasoning)
        if usage.tally is not None:
            usage.tally.add(text, index, is_reasoning)

    # From the source

    def push(self, chunk: Chunk) -> None:
        """One chunk of the upstream. Raises `UpstreamError` where it cannot be repaired."""
        if self.done:
            return
        if self._fast_path is not None:
            self.leave_fast_path()
        if chunk.usage:  # an empty one says nothing
            self.usage.reported = chunk.usage
        choices = chunk.choices
        if len(choices) == 1 and choices[0].is_text_only and self._takes_text(chunk):
            self._push_text(chunk)
        elif chunk.raw == b"[]" or not self._normalize(chunk):
            self._push_extras(chunk)

    @property
    def relays(self) -> bool:  # whether events go out as they come
        return self._delivery.relays

    def relay(self, name: bytes, data: bytes) -> None:
        """The event whose chunk is pushed next, where events are relayed."""
        if self._fast_path is not None:
            self.leave_fast_path()
        if not self.done:
            self._delivery.relay(name, data)

    def flush(self) -> None:
        """The source has read all there was: what was pushed goes out now."""
        self._delivery.flush()
        if self.state is State.FINISHED:
            self._listener.stream_finished()

    def end(self) -> None:
        """The upstream's body ended, or it sent `[DONE]`. Without a finish that is a failure."""
        if self.done:
            return
        if self.state is not State.FINISHED:
            self.fail(self.unfinished())
            return
        try:
            for member, extras in self._choices.close():  # finishes, and what else was held back
                self._send(member, extras)
        except UpstreamError as error:
            self.fail(error)
            return
        self._close(State.COMPLETE)
        if self._delivery.subscribers:
            self._delivery.complete(self.usage.total(), self._usage_extras)

    def fail(self, error: ApiError) -> None:
        if self.done:
            return
        self.error = error
        self._close(State.FAILED)
        self._delivery.fail(error)

    def unfinished(self) -> UpstreamError:
        """What it means that the upstream has ended its answer here."""
        return self._choices.unfinished(self.expected, is_empty=self.state is State.WAITING)

    # Chunks

    def _takes_text(self, chunk: Chunk) -> bool:
        """Whether the chunk's text needs no normalizing; begins its choice where that is new."""
        index: Any = chunk.choices[0].index
        if index in self._choices.passing:
            return True
        if not self._choices.is_next(index):
            return False
        choice = ChoiceNormalizer(index)
        choice.begun = True
        self._begin(index, choice, chunk.extras)
        return True

    def _push_text(self, chunk: Chunk) -> None:
        """Text for a choice that is under way."""
        choice = chunk.choices[0]
        delta, index = choice.delta, choice.index
        assert delta is not None
        assert isinstance(index, int)
        try:
            chunk.raw = one_line(chunk.raw or msgspec.json.encode(chunk.choices))
        except UnicodeEncodeError:  # half of a surrogate pair
            self._normalize(chunk)
            return
        chunk.text_choice = index
        chunk.is_reasoning = not delta.content
        chunk.text = delta.content or delta.reasoning_content or ""
        if self._pending:
            chunk.extras = self._take_pending(chunk.extras)
        self.note_text(chunk.text, index, chunk.is_reasoning)
        self._emit(chunk)

    def _push_extras(self, chunk: Chunk) -> None:
        """An event with nothing else for the client. Its unknown members go with the next frame."""
        if chunk.usage and self._shows_usage:
            self._usage_extras = chunk.extras
        else:
            self._pending = merged_members(self._pending, chunk.extras)

    def _take_pending(self, extras: bytes) -> bytes:
        if self._pending:
            extras, self._pending = merged_members(self._pending, extras), b""
        return extras

    def _normalize(self, chunk: Chunk) -> bool:
        """False where nothing of the chunk is for the client, now or later."""
        used = [self._normalize_member(member, chunk.extras) for member in chunk.members()]
        return any(used)

    def _normalize_member(self, member: Member, extras: bytes) -> bool:
        theirs = member.get("index") or 0
        if not isinstance(theirs, int):
            raise bad_gateway("The upstream sent a choice whose `index` is not a number.")
        choices = self._choices
        choice = choices.find(theirs)
        members = choice.normalize(member)
        if theirs not in choices:
            if not choice.begun:  # only a role, or nothing at all: not yet an answer
                choices.keep_unknown(theirs, choice)
                return False
            self._begin(theirs, choice, extras)
        elif self._is_resuming and (members or choice.is_finished):
            self._resume(members)
        for each in members:
            self._send(each, extras)
        choices.set_passing(theirs, choice)
        if choice.is_finished:
            choices.finish(theirs, self._take_pending(extras))
            if choices.all_finished and len(choices) >= self.expected:
                self._to(State.FINISHED)
        return bool(members) or choice.is_finished

    def _begin(self, theirs: int, choice: ChoiceNormalizer, extras: bytes) -> None:
        self._choices.begin(theirs, choice)
        self._to(State.OPEN)
        index = choice.index
        self._keep(role(index))
        raw = _ROLES[index] if index < len(_ROLES) else encoded([role(index)])
        self._emit(Chunk([], raw, extras=self._take_pending(extras)))

    def _resume(self, members: list[Member]) -> None:
        """Another upstream begins to continue the answer."""
        answers = self.delivered is not None and self.delivered.has_content
        if answers and any("reasoning_content" in each["delta"] for each in members):
            # It began anew, and this reasoning would have come before what was delivered.
            raise bad_gateway("The upstream reasoned again in mid-answer.", code=DIVERGED)
        self._is_resuming = False
        self._listener.stream_opened()

    def _send(self, member: Member, extras: bytes) -> None:
        """One normalized member, as a chunk of its own."""
        delta = member["delta"]
        if delta:
            self.timings.content(self._clock())
            self.timings.reasoning += "reasoning_content" in delta
        self._keep(member)
        extras = self._take_pending(extras)
        self._emit(Chunk([], encoded([member]), extras=extras, fields=[member]))

    def _keep(self, member: Member) -> None:
        if self.delivered is not None:
            self.delivered.add_member(member)
        if self.usage.tally is not None:
            self.usage.tally.add_member(member)

    def _emit(self, chunk: Chunk) -> None:
        if self._shows_running_usage:
            chunk.usage_so_far = self.usage.so_far()
        self._delivery.push(chunk)

    # States

    def _to(self, state: State) -> None:
        before = self.state
        if state is before:
            return
        if state not in before.after:
            raise AssertionError(f"a stream does not go from {before.value} to {state.value}")
        self.state = state
        self.done = not state.after
        if before is State.WAITING and state is State.OPEN:
            self._delivery.begin()
            self._listener.stream_opened()

    def _close(self, state: State) -> None:
        self._to(state)
        self.leave_fast_path()
        self._listener.stream_closed()
