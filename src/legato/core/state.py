"""The legal order of a stream, as a table."""

from enum import Enum
from typing import Final


class State(Enum):
    """Where a stream stands. The last three are final."""

    WAITING = "waiting"  # nothing that counts as an answer has come
    OPEN = "open"  # at least one choice is unfinished
    FINISHED = "finished"  # every choice that began has its finish; usage may still come
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    __hash__ = object.__hash__  # each is one object; enum hashes names, in Python

    def __init__(self, _: str) -> None:
        self.after: tuple[State, ...] = ()  # what may come behind it; final where nothing may


LEGAL: Final[dict[State, set[State]]] = {
    State.WAITING: {State.OPEN, State.FAILED, State.CANCELLED},
    State.OPEN: {State.FINISHED, State.FAILED, State.CANCELLED},
    State.FINISHED: {State.OPEN, State.COMPLETE, State.FAILED, State.CANCELLED},
    State.COMPLETE: set(),
    State.FAILED: set(),
    State.CANCELLED: set(),
}

for _state, _after in LEGAL.items():
    _state.after = tuple(_after)
