"""Finds the first difference between two runs of a conversation."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from legato.fastpath import splice
from legato.fastpath.pattern import Pattern
from tests.support.oracle.conversation import Conversation
from tests.support.oracle.play import Outcome, Plan, play


class Difference(Exception):
    """The fast path is visible. `kind`: in what; `where`: in which call."""

    def __init__(self, where: str, kind: str, fast: Any, decoded: Any) -> None:
        super().__init__(
            f"{where}, {kind}:\n  fast path:         {fast!r}\n  decode everything: {decoded!r}"
        )
        self.where = where
        self.kind = kind


def check(conversation: Conversation) -> list[Outcome]:
    """Plays it both ways. Raises `Difference`; also for an exception that no error handles.

    Where the fast path has not tried to learn anything, all was decoded: the other way is the same.
    """
    plan = Plan.of(conversation)
    with _tries() as tries:
        fast = play(plan, "fast path")
    decoded = play(plan, "decode everything") if any(tries) else fast
    for number, (one, other) in enumerate(zip(fast, decoded, strict=True)):
        _compare(f"call {number}", one, other)
    return decoded


@contextmanager
def _tries() -> Generator[list[bool], None, None]:
    """A list with an item for each event of which the fast path tries to learn a pattern."""
    tries: list[bool] = []
    learn = splice.learn

    def noted(*event: Any) -> Pattern | None:
        tries.append(True)
        return learn(*event)

    splice.learn = noted
    try:
        yield tries
    finally:
        splice.learn = learn


def difference(conversation: Conversation) -> Difference | None:
    try:
        check(conversation)
    except Difference as found:
        return found
    return None


def _compare(call: str, fast: Outcome, decoded: Outcome) -> None:
    for step, note in (*fast.notes, *decoded.notes):
        if note.startswith("bug"):
            raise Difference(f"{call}, step {step}", "an exception", fast.notes, decoded.notes)
    _compare_client(call, fast.client, decoded.client)
    _compare_lists(call, "requests to upstreams", fast.requests, decoded.requests)
    _compare_lists(call, "events", fast.notes, decoded.notes)
    one, other = fast.row or {}, decoded.row or {}
    if one == other:
        return
    for name in one.keys() | other.keys():
        if one.get(name) != other.get(name):
            raise Difference(call, f"`{name}` of the row", one.get(name), other.get(name))


def _compare_client(
    call: str, fast: list[tuple[int, bytes]], decoded: list[tuple[int, bytes]]
) -> None:
    if fast == decoded:
        return
    for (step, data), (other_step, other) in zip(fast, decoded, strict=False):
        if step != other_step:
            raise Difference(call, "the step of a frame", (step, data), (other_step, other))
        if data != other:
            frames, others = data.split(b"\n\n"), other.split(b"\n\n")
            _compare_lists(f"{call}, step {step}", "a frame", frames, others)
    if len(fast) != len(decoded):
        least = min(len(fast), len(decoded))
        raise Difference(call, "frames at the end", fast[least:], decoded[least:])


def _compare_lists(where: str, kind: str, fast: list[Any], decoded: list[Any]) -> None:
    for one, other in zip(fast, decoded, strict=False):
        if one != other:
            raise Difference(where, kind, one, other)
    if len(fast) != len(decoded):
        least = min(len(fast), len(decoded))
        raise Difference(where, kind, fast[least:], decoded[least:])
