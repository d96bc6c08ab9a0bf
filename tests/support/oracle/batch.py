"""Checks many conversations, and reports a difference such that it can be made again."""

import sys
import time
from collections.abc import Iterable

from tests.support.oracle.compare import Difference, check, difference
from tests.support.oracle.conversation import Conversation
from tests.support.oracle.generate import conversation
from tests.support.oracle.shrink import shrunk


def check_many(seed: int, numbers: Iterable[int]) -> float:
    """Checks the conversations with these numbers; the seconds that it took. Raises
    `AssertionError` with a report for the first difference."""
    begun = time.perf_counter()
    for number in numbers:
        one = conversation(seed, number)
        try:
            check(one)
        except Difference as found:
            raise AssertionError(report(seed, number, one, found)) from None
        except Exception as error:
            raise AssertionError(f"conversation {seed}:{number}: {error!r}") from error
    return time.perf_counter() - begun


def report(seed: int, number: int, one: Conversation, found: Difference) -> str:
    """What to read of a difference, with a small conversation that has the same one."""
    small = shrunk(one, lambda each: _is_like(found, difference(each)))
    return (
        f"conversation {seed}:{number} differs with the fast path and without it.\n"
        f"Again: scripts/fuzz --only {seed}:{number}\n\n{found}\n\n"
        f"A small one (tests/support/oracle/conversation.py):\n\n{small!r}\n\n{difference(small)}"
    )


def _is_like(found: Difference, other: Difference | None) -> bool:
    return other is not None and other.kind == found.kind


def only(seed: int, number: int) -> int:
    """Plays one conversation and prints what there is to see; the exit code."""
    one = conversation(seed, number)
    found = difference(one)
    if found is None:
        sys.stdout.write(f"conversation {seed}:{number} is the same both ways:\n\n{one!r}\n")
        return 0
    sys.stdout.write(report(seed, number, one, found) + "\n")
    return 1
