"""Finds the first difference between two runs of a conversation."""

import re
from typing import Any, Final

from tests.support.oracle.conversation import Conversation
from tests.support.oracle.play import Outcome, Plan, play

#: What is made up anew in each run, and of a constant length: times, padding, ids of tool calls.
#: They stand behind a quotation mark that is no part of a string.
_MADE_UP: Final = (
    (re.compile(rb'(?<!\\)"created":\d{10}(?!\d)'), b'"created":0'),
    (re.compile(rb'(?<!\\)"obfuscation":"[0-9a-f]*"(?=[,}])'), None),
    (re.compile(rb'(?<!\\)"call_[0-9a-f]{24}"'), b'"call_"'),
)

#: Columns of a row that tell of no time that the harness knows.
_TIMES: Final = ("received",)


class Difference(Exception):
    """The fast path is visible. `kind`: in what; `where`: in which call."""

    def __init__(self, where: str, kind: str, fast: Any, decoded: Any) -> None:
        super().__init__(
            f"{where}, {kind}:\n  fast path:         {fast!r}\n  decode everything: {decoded!r}"
        )
        self.where = where
        self.kind = kind


def check(conversation: Conversation) -> list[Outcome]:
    """Plays it both ways. Raises `Difference`; also for an exception that no error handles."""
    plan = Plan.of(conversation)
    fast, decoded = play(plan, "fast path"), play(plan, "decode everything")
    for number, (one, other) in enumerate(zip(fast, decoded, strict=True)):
        _compare(f"call {number}", one, other)
    return decoded


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
    for name in one.keys() | other.keys():
        if name not in _TIMES and one.get(name) != other.get(name):
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
            _compare_lists(f"{call}, step {step}", "a frame", _frames(data), _frames(other))
    if len(fast) != len(decoded):
        least = min(len(fast), len(decoded))
        raise Difference(call, "frames at the end", fast[least:], decoded[least:])


def _frames(data: bytes) -> list[bytes]:
    for pattern, constant in _MADE_UP:
        data = pattern.sub(constant if constant is not None else _length, data)
    return data.split(b"\n\n")


def _length(padding: re.Match[bytes]) -> bytes:
    return b'"obfuscation":%d' % len(padding[0])


def _compare_lists(where: str, kind: str, fast: list[Any], decoded: list[Any]) -> None:
    for one, other in zip(fast, decoded, strict=False):
        if one != other:
            raise Difference(where, kind, one, other)
    if len(fast) != len(decoded):
        least = min(len(fast), len(decoded))
        raise Difference(where, kind, fast[least:], decoded[least:])
