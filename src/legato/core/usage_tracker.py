"""Counts what an answer uses of tokens, over all upstreams that give a part of it."""

from legato.core import usage
from legato.core.chunk import Usage
from legato.core.timings import Timings
from legato.core.token_counting import Tally
from legato.core.usage import ObservedChunks, ObservedTokens


class UsageTracker:
    """The token usage of one stream.

    `reported`: the usage object of the upstream in hand, if it has sent one.
    `previous`: what the upstreams before it have used, where it continues their answer.
    `prompt_tokens`: the prompt's, where they are known before the usage; else 0.
    `tally`: counts tokens that the upstream does not report, with the model's tokenizer.
    `both_prompts`: each upstream's prompt counts, not only that of the first.
    """

    __slots__ = (
        "_counted",
        "_parts",
        "_timings",
        "both_prompts",
        "previous",
        "prompt_tokens",
        "reported",
        "tally",
    )

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self.reported: Usage | None = None
        self.previous: Usage | None = None
        self.prompt_tokens = 0
        self.tally: Tally | None = None
        self.both_prompts = False
        self._counted = (0, 0)  # chunks and reasoning chunks that `previous` includes
        self._parts: tuple[Usage | None, tuple[int, int]] | None = None  # at the last continuation

    def so_far(self) -> Usage:
        """The usage of the answer up to now."""
        current = usage.running(self.reported, self._chunks)
        return current if self.previous is None else self._joined(self.previous, current)

    def total(self) -> Usage:
        """The usage of the whole answer, as its client gets it."""
        current = usage.shown(self.reported, self.observed)
        return current if self.previous is None else self._joined(self.previous, current)

    @property
    def observed(self) -> ObservedTokens:
        """What has come since `previous`."""
        return self.tally or self._chunks

    @property
    def completion(self) -> int:
        """Tokens of the answer that have come, of all upstreams."""
        before = 0 if self.previous is None else usage.count(self.previous).completion
        return before + self.observed.completion

    @property
    def _chunks(self) -> ObservedChunks:
        chunks, reasoning = self._counted
        timings = self._timings
        return ObservedChunks(
            timings.pieces - chunks, timings.reasoning - reasoning, self.prompt_tokens
        )

    def _joined(self, previous: Usage, current: Usage) -> Usage:
        return usage.joined(previous, current, both_prompts=self.both_prompts)

    def close_part(self) -> None:
        """The upstream broke: the usage of the next one is added to what this one has used."""
        observed = self.observed
        part = usage.running(self.reported, observed)
        part["completion_tokens_details"] = {"reasoning_tokens": observed.reasoning}
        reported = usage.count(self.reported or {})
        part["prompt_tokens_details"] = usage.prompt_details(
            reported.cached, reported.cache_writes, reported.hour_cache_writes
        )
        self.previous = part if self.previous is None else self._joined(self.previous, part)
        self._counted = (self._timings.pieces, self._timings.reasoning)
        self._parts = (self.previous, self._counted)
        self.forget_upstream()

    def expect_whole(self) -> None:
        """The next upstream gives the answer from its start: its usage is that of the whole."""
        self.previous, self._counted = None, (0, 0)

    def expect_rest(self) -> None:
        """The next upstream gives only what is missing, whatever one before it has tried."""
        if self._parts is not None:
            self.previous, self._counted = self._parts
            self.reported = self.tally = None

    def start_over(self) -> None:
        """What has come counts for nothing."""
        self.previous = self._parts = None
        self._counted = (self._timings.pieces, self._timings.reasoning)
        self.forget_upstream()

    def forget_upstream(self) -> None:
        self.reported = self.tally = None
        self.prompt_tokens = 0
