"""The ledger: one row a call, whatever its outcome. Rows hold no text of the conversation.

Rows are filled in and written. Nothing reads them back to decide what a call does next.
"""

from collections.abc import Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct

from legato.core.chunk import Usage
from legato.core.errors import UpstreamError
from legato.core.stream import State, Stream
from legato.core.usage import count, tells_reasoning

Outcome = Literal["open", "complete", "cancelled", "failed", "refused", "interrupted"]

#: Source of a token count. exact: reported by the upstream for the whole call; counted: not
#: reported, so counted with the model's tokenizer or as the number of deltas; partial: reported by
#: the upstream before the call failed or was cancelled; none: unknown, the count is 0.
Provenance = Literal["exact", "counted", "partial", "none"]

#: Longest error code in `Row.errors`, in characters.
MAX_CODE_LENGTH: Final = 64


class Row(Struct):
    """One call. `received` is in Unix seconds; all other times are durations in seconds."""

    id: str
    received: float
    key: str | None = None
    route: str | None = None
    upstream_id: str | None = None
    deployments: str = ""  # one for each attempt, in order, separated by commas
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
    errors: str = ""  # one code for each of `deployments`; empty for an attempt that succeeded
    continuations: int = 0
    cost: float | None = None  # US dollars; None: no price is known
    cache_write_tokens: int = 0  # part of the prompt; their source is that of `cached_tokens`
    front: str = "chat"  # the client format
    session: str | None = None  # short text that the calls of one conversation share
    agent: str | None = None  # name and version of the client's program (`policy.agents`)
    stripped_reasoning: int = 0  # reasoning items of other models, left out of what was sent
    owner: str | None = None  # of the key
    instance: str | None = None  # the server that wrote the row (`store.instances`)
    queued: float = 0.0  # time in this server's own queue

    def record_attempts(self, attempts: Sequence[tuple[str, str]]) -> None:
        """Fills the columns `attempts`, `deployments` and `errors`.

        `attempts`: (deployment, error code) of each attempt, in order; the code is empty for an
        attempt that succeeded. `deployments` and `errors` always have the same number of entries:
        the settings allow no comma in a deployment's name, and commas in codes are replaced.
        """
        self.attempts = len(attempts)
        self.deployments = ",".join([deployment for deployment, _ in attempts])
        self.errors = ",".join([_clean(code) for _, code in attempts])


def _clean(code: str) -> str:
    """`code` without commas and control characters, which would break the column."""
    if not code:
        return ""
    return "".join(
        [each if each.isprintable() and each != "," else "_" for each in code[:MAX_CODE_LENGTH]]
    )


class Price(Protocol):
    """US dollars per million tokens."""

    @property
    def prompt(self) -> float: ...
    @property
    def completion(self) -> float: ...
    @property
    def cached(self) -> float: ...
    @property
    def cache_write(self) -> float: ...
    @property
    def cache_write_1h(self) -> float: ...


def complete(row: Row, stream: Stream, now: float, *, disconnected: bool = False) -> None:
    """Fills in the outcome, the timings and the token counts of a call that has ended.

    `now`: on the stream's clock. `disconnected`: the client closed its connection before the end.
    """
    row.outcome = "cancelled" if disconnected else _outcome(stream, row.attempts)
    row.error = stream.error.code if stream.error is not None else None
    timings = stream.timings
    row.duration = now - timings.received
    row.ttft = timings.ttft
    row.itl_p50, row.itl_p99, row.longest_gap = timings.gaps(0.5, 0.99, 1.0)
    _fill_tokens(row, stream)


def charge(row: Row, stream: Stream, price: Price, requests: int) -> None:
    """Adds the cost of one deployment's part of an answer to the row.

    `requests`: requests that were sent for this part; the prompt of each is billed.
    """
    observed = stream.usage.observed
    if stream.usage.reported is not None:
        reported = count(stream.usage.reported)
        prompt, cached = reported.prompt, min(reported.cached, reported.prompt)
        written = min(reported.cache_writes, prompt - cached)
        for_an_hour = min(reported.hour_cache_writes, written)
        completion = reported.completion
        if stream.state is not State.COMPLETE:  # a running total may lag behind what was sent
            completion = max(completion, observed.completion)
    elif stream.timings.pieces:
        prompt, completion = observed.prompt, observed.completion
        cached = written = for_an_hour = 0
    else:
        prompt = completion = cached = written = for_an_hour = 0
    dollars = (prompt - cached - written) * price.prompt
    dollars += cached * price.cached
    dollars += (written - for_an_hour) * price.cache_write + for_an_hour * price.cache_write_1h
    row.cost = (row.cost or 0.0) + (dollars * requests + completion * price.completion) / 1e6


def _outcome(stream: Stream, attempts: int) -> Outcome:
    if stream.state is State.COMPLETE and stream.error is None:
        return "complete"
    if stream.state is State.CANCELLED:
        return "cancelled"
    error = stream.error
    is_client_error = (
        error is not None and error.status < 500 and not isinstance(error, UpstreamError)
    )
    return "refused" if is_client_error or not attempts else "failed"


def _fill_tokens(row: Row, stream: Stream) -> None:
    """Token counts as the upstream reported them, or as observed in the stream."""
    if stream.usage.previous is not None:
        _fill_continued(row, stream)
    elif stream.usage.reported is not None:
        _fill_reported(row, stream, stream.usage.reported)
    elif stream.timings.pieces:
        observed = stream.usage.observed
        row.completion_tokens, row.completion_from = observed.completion, "counted"
        row.reasoning_tokens, row.reasoning_from = observed.reasoning, "counted"
        if observed.prompt:
            is_reported = stream.usage.prompt_tokens > 0
            row.prompt_tokens = observed.prompt
            row.prompt_from = "partial" if is_reported else "counted"


def _fill_reported(row: Row, stream: Stream, usage: Usage) -> None:
    reported, observed = count(usage), stream.usage.observed
    source: Provenance = "exact" if stream.state is State.COMPLETE else "partial"
    row.prompt_tokens, row.prompt_from = reported.prompt, source
    row.cached_tokens, row.cached_from = reported.cached, source
    row.cache_write_tokens = reported.cache_writes
    row.completion_tokens, row.completion_from = reported.completion, source
    # An upstream's running total may lag behind what it has already sent.
    if source == "partial" and observed.completion > reported.completion:
        row.completion_tokens = observed.completion
        row.completion_from = source if stream.usage.tally is None else "counted"
    if tells_reasoning(usage):
        row.reasoning_tokens, row.reasoning_from = reported.reasoning, source
    else:
        row.reasoning_tokens = min(observed.reasoning, row.completion_tokens)
        row.reasoning_from = "counted"


def _fill_continued(row: Row, stream: Stream) -> None:
    """Counts of an answer that a second upstream continued: the first one never reported its part,
    so no total is exact."""
    tokens = count(stream.usage.total())
    for kind in ("prompt", "completion", "reasoning", "cached"):
        number = getattr(tokens, kind)
        setattr(row, f"{kind}_tokens", number)
        setattr(row, f"{kind}_from", "counted" if number else "none")
    row.cache_write_tokens = tokens.cache_writes
