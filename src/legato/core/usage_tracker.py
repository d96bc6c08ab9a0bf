"""What an answer has used of tokens, over all upstreams that have said a part of it."""

from legato.core import usage
from legato.core.chunk import Usage
from legato.core.timings import Timings
from legato.core.token_counting import Tally
from legato.core.usage import ObservedChunks, ObservedTokens


class Account:
    """The half of a stream that counts."""

    __slots__ = (
        "_counted",
        "_then",
        "_told",
        "before",
        "both_prompts",
        "prompt_tokens",
        "tally",
        "timings",
        "usage",
    )

    def __init__(self, timings: Timings) -> None:
        self.timings = timings
        self.usage: Usage | None = None
        self.prompt_tokens = 0  # where it is known before the upstream's usage says it
        self.before: Usage | None = None  # of an upstream that broke, where another went on
        self.both_prompts = False  # each upstream's prompt counts, not the first one's alone
        self.tally: Tally | None = None  # where tokens can be counted that the upstream does not
        self._counted = (0, 0)  # pieces and reasoning that `before` has counted
        self._told: tuple[Usage | None, tuple[int, int]] | None = None  # both, when last added up
        self._then: Usage | None = None  # usage so far, of a chunk that comes later than it came

    def running_usage(self) -> Usage:
        """Usage so far; for a chunk that came before there was a subscriber, as it was then."""
        if self._then is not None:
            return self._then
        said = usage.running(self.usage, self._deltas)
        return said if self.before is None else self._since(self.before, said)

    def total_usage(self) -> Usage:
        """Usage of the whole answer, as its client is shown it."""
        said = usage.shown(self.usage, self.seen)
        return said if self.before is None else self._since(self.before, said)

    @property
    def seen(self) -> ObservedTokens:
        """What has come since `before`."""
        return self.tally or self._deltas

    @property
    def _deltas(self) -> ObservedChunks:
        pieces, reasoning = self._counted
        timings = self.timings
        return ObservedChunks(
            timings.pieces - pieces, timings.reasoning - reasoning, self.prompt_tokens
        )

    def _since(self, before: Usage, said: Usage) -> Usage:
        return usage.joined(before, said, both_prompts=self.both_prompts)

    def add_up(self) -> None:
        """An upstream says no more: the usage of the next one comes on top of what it has used."""
        seen = self.seen
        said = usage.running(self.usage, seen)
        said["completion_tokens_details"] = {"reasoning_tokens": seen.reasoning}
        said["prompt_tokens_details"] = {"cached_tokens": usage.count(self.usage or {}).cached}
        self.before = said if self.before is None else self._since(self.before, said)
        self._counted = (self.timings.pieces, self.timings.reasoning)
        self._told = (self.before, self._counted)

    def say_again(self) -> None:
        """The upstream that goes on says it all from the start: its usage is that of the whole."""
        self.before, self._counted = None, (0, 0)

    def say_rest(self) -> None:
        """It says only what is missing, whatever one before it has tried."""
        if self._told is not None:
            self.before, self._counted = self._told
            self.usage = self.tally = None

    def forget_spent(self) -> None:
        """What has come counts for nothing."""
        self.before = self._told = None
        self._counted = (self.timings.pieces, self.timings.reasoning)
