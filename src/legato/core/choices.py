"""The choices of one answer."""

from collections.abc import Iterator

from legato.core.errors import UpstreamError, bad_gateway
from legato.core.json_text import merged_members
from legato.core.normalize import ChoiceNormalizer, Member


class Choices:
    """Which choices have begun, and which of them are finished, by the upstream's index.

    `passing`: the choices whose text needs no normalizing.
    """

    __slots__ = ("_begun", "_finishes", "_unbegun", "passing")

    def __init__(self) -> None:
        self.passing: tuple[int, ...] = ()
        self._begun: dict[int, ChoiceNormalizer] = {}
        self._unbegun: dict[int, ChoiceNormalizer] = {}  # with unknown members so far
        self._finishes: dict[int, bytes] = {}  # extras of finishes that are held back

    def __contains__(self, theirs: object) -> bool:
        return theirs in self._begun

    def __len__(self) -> int:
        """How many have begun."""
        return len(self._begun)

    def is_next(self, theirs: int) -> bool:
        """Whether `theirs` is the index that a new choice has on both sides."""
        return theirs not in self._begun and theirs == len(self._begun) and not self._unbegun

    def find(self, theirs: int) -> ChoiceNormalizer:
        """The choice, or a new one, which has yet to `begin`."""
        choice = self._begun.get(theirs)
        if choice is None:
            choice = self._unbegun.pop(theirs, None) or ChoiceNormalizer(0)
            choice.index = len(self._begun)
        return choice

    def keep_unknown(self, theirs: int, choice: ChoiceNormalizer) -> None:
        """Keeps a choice of which nothing but unknown members has come."""
        if choice.has_unknown:
            self._unbegun[theirs] = choice

    def forget_unbegun(self) -> None:
        self._unbegun.clear()

    def begin(self, theirs: int, choice: ChoiceNormalizer) -> None:
        self._begun[theirs] = choice
        self.set_passing(theirs, choice)

    def set_passing(self, theirs: int, choice: ChoiceNormalizer) -> None:
        passes = choice.passes_text and choice.index == theirs
        if passes is not (theirs in self.passing):
            rest = tuple([each for each in self.passing if each != theirs])
            self.passing = (*rest, theirs) if passes else rest

    def finish(self, theirs: int, extras: bytes) -> None:
        """Holds back the finish of a choice, with unknown members for its frame."""
        self._finishes[theirs] = merged_members(self._finishes.get(theirs, b""), extras)

    @property
    def all_finished(self) -> bool:
        """Whether each choice that has begun has its finish."""
        return len(self._finishes) == len(self._begun)

    def unfinished(self, expected: int, *, is_empty: bool) -> UpstreamError:
        """What it means that an upstream has ended an answer here that has `expected` choices."""
        if is_empty:
            return bad_gateway("The upstream's answer was empty.", code="upstream_empty")
        if len(self) < expected and self.all_finished:
            message = f"The upstream gave {len(self)} of {expected} choices."
        else:
            message = "The upstream ended its answer without a finish."
        return bad_gateway(message, code="upstream_incomplete")

    def close(self) -> Iterator[tuple[Member, bytes]]:
        """What was held back, at the end of the answer: members, each with its extras."""
        for theirs, extras in self._finishes.items():
            for member in self._begun[theirs].close():
                yield member, extras

    def continue_elsewhere(self) -> None:
        """Drops what was held back: another upstream continues the answer."""
        self._finishes.clear()
        self.passing = ()
        for choice in self._begun.values():
            choice.drop_held()
