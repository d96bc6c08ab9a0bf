"""What is written down of a call: one row each, whatever its outcome, and no word of its text."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from legato.core.chunk import Usage
from legato.core.errors import UpstreamError
from legato.core.stream import State, Stream
from legato.core.usage import count, tells_reasoning

Outcome = Literal["open", "complete", "cancelled", "failed", "refused", "interrupted"]

#: Where a number of tokens is from. exact: the upstream said so of the whole call; counted: for
#: want of that, with the model's own tokenizer or as the deltas that came; partial: the upstream
#: said so before the call broke off; none: nobody knows, and the number is 0.
Provenance = Literal["exact", "counted", "partial", "none"]


class Row(Struct):
    """One call. Times: `received` in Unix seconds, all others in seconds."""

    id: str
    received: float
    key: str | None = None
    route: str | None = None
    upstream_id: str | None = None
    deployments: str = ""  # those that were asked, in order, with commas between
    streamed: bool = False
    outcome: Outcome = "open"
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    prompt_from: Provenance = "none"
    completion_from: Provenance = "none"
    reasoning_from: Provenance = "none"
    cached_from: Provenance = "none"
    ttft: float | None = None
    itl_p50: float | None = None
    itl_p99: float | None = None
    longest_gap: float | None = None
    duration: float | None = None
    frames: int = 0
    bytes: int = 0
    attempts: int = 0
    errors: str = ""  # codes, one for each of `deployments`; empty for one that did not fail
    continuations: int = 0
    cost: float | None = None  # US dollars; None: there is no price

    def record_attempts(self, attempts: Sequence[tuple[str, str]]) -> None:
        """(deployment, error code) of each attempt, in order; no code for one that did not fail."""
        self.attempts = len(attempts)
        self.deployments = ",".join([deployment for deployment, _ in attempts])
        self.errors = ",".join([code.replace(",", "_") for _, code in attempts])

    def settled(self) -> "Row":
        """As it is written."""
        return self


class SettledCall:
    """A call that is over. Its row is closed when it is asked for: many of them one behind the
    other cost less than each in the last turn of its call."""

    __slots__ = ("_left", "_now", "_on_bug", "_row", "_stream")

    def __init__(
        self,
        row: Row,
        stream: Stream,
        now: float,
        on_bug: Callable[[BaseException], None],
        *,
        left: bool,
    ) -> None:
        """`now`: on the stream's clock. `left`: its client did not stay for the end."""
        self._row = row
        self._stream: Stream | None = stream
        self._now = now
        self._on_bug = on_bug
        self._left = left

    def settled(self) -> Row:
        row, stream, self._stream = self._row, self._stream, None
        if stream is not None:
            try:
                close(row, stream, self._now, left=self._left)
            except Exception as error:
                row.outcome, row.error = "failed", "internal_error"
                self._on_bug(error)
        return row


class Price(Protocol):
    """US dollars for a million tokens."""

    @property
    def prompt(self) -> float: ...
    @property
    def completion(self) -> float: ...
    @property
    def cached(self) -> float: ...


def close(row: Row, stream: Stream, now: float, *, left: bool = False) -> None:
    """Writes down how a call ended. `now`: on the stream's clock. `left`: its client did not stay
    for the end."""
    row.outcome = "cancelled" if left else _outcome(row, stream)
    row.error = stream.error.code if stream.error is not None else None
    timings = stream.timings
    row.duration = now - timings.received
    row.ttft = timings.ttft
    row.itl_p50, row.itl_p99, row.longest_gap = timings.gaps(0.5, 0.99, 1.0)
    _tokens(row, stream)


def charge(row: Row, stream: Stream, price: Price, requests: int) -> None:
    """Adds what one deployment's part of an answer has cost, each of whose `requests` had the
    prompt paid for."""
    if stream.usage.reported is not None:
        said = count(stream.usage.reported)
        prompt, cached = said.prompt, min(said.cached, said.prompt)
        completion = said.completion
        if stream.state is not State.COMPLETE:  # a running total may lag behind what was sent
            completion = max(completion, stream.usage.observed.completion)
    elif stream.timings.pieces:
        seen = stream.usage.observed
        prompt, cached, completion = seen.prompt, 0, seen.completion
    else:
        prompt = cached = completion = 0
    dollars = ((prompt - cached) * price.prompt + cached * price.cached) * requests
    row.cost = (row.cost or 0.0) + (dollars + completion * price.completion) / 1e6


def _outcome(row: Row, stream: Stream) -> Outcome:
    if stream.state is State.COMPLETE:
        return "complete"
    if stream.state is State.CANCELLED:
        return "cancelled"
    error = stream.error
    callers = error is not None and error.status < 500 and not isinstance(error, UpstreamError)
    return "refused" if callers or not row.deployments else "failed"


def _tokens(row: Row, stream: Stream) -> None:
    """The upstream's numbers where it gave them; else what was seen going by."""
    if stream.usage.previous is not None:
        _tokens_of_two(row, stream)
    elif stream.usage.reported is not None:
        _tokens_said(row, stream, stream.usage.reported)
    elif stream.timings.pieces:
        seen = stream.usage.observed
        row.completion_tokens, row.completion_from = seen.completion, "counted"
        row.reasoning_tokens, row.reasoning_from = seen.reasoning, "counted"
        if seen.prompt:
            told = stream.usage.prompt_tokens > 0
            row.prompt_tokens = seen.prompt
            row.prompt_from = "partial" if told else "counted"


def _tokens_said(row: Row, stream: Stream, usage: Usage) -> None:
    said, seen = count(usage), stream.usage.observed
    sure: Provenance = "exact" if stream.state is State.COMPLETE else "partial"
    row.prompt_tokens, row.prompt_from = said.prompt, sure
    row.cached_tokens, row.cached_from = said.cached, sure
    row.completion_tokens, row.completion_from = said.completion, sure
    # An upstream's running total may lag behind what it has already sent.
    if sure == "partial" and seen.completion > said.completion:
        row.completion_tokens = seen.completion
        row.completion_from = sure if stream.usage.tally is None else "counted"
    if tells_reasoning(usage):
        row.reasoning_tokens, row.reasoning_from = said.reasoning, sure
    else:
        row.reasoning_tokens = min(seen.reasoning, row.completion_tokens)
        row.reasoning_from = "counted"


def _tokens_of_two(row: Row, stream: Stream) -> None:
    """Of an answer that one upstream began and another went on with: the first never said."""
    said = count(stream.usage.total())
    for kind in ("prompt", "completion", "reasoning", "cached"):
        number = getattr(said, kind)
        setattr(row, f"{kind}_tokens", number)
        setattr(row, f"{kind}_from", "counted" if number else "none")
