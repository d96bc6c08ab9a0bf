"""What servers send, conversation by conversation: one module for each dialect, written after its
vendor's public documentation.

A module has `TRANSCRIPTS`, the body of an answer by the name of its conversation, and `LACKS`, the
conversations that its format cannot carry. What a client gets of each is the same whoever sent it:
`GOLDEN`.
"""

from dataclasses import dataclass
from typing import Any

from legato.core.usage import Tokens


@dataclass(frozen=True)
class Golden:
    """`error`: part of the message of the failure that the answer ends in."""

    text: tuple[str, ...] = ()
    thoughts: tuple[str, ...] = ()
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    finish: str | None = None
    tokens: Tokens | None = None
    error: str | None = None


_SUM = ("sum", {"a": 1, "b": 2})

GOLDEN: dict[str, Golden] = {
    "text": Golden(("Once", " upon a time", "."), finish="stop", tokens=Tokens(7, 3)),
    "unicode": Golden(("Žluťoučký", " kůň 🐎", "a\u2028b"), finish="stop", tokens=Tokens(7, 3)),
    # Two tokens of thought, in two pieces: who is not told their number counts the pieces.
    "thinking": Golden(
        ("Forty", "-two."),
        thoughts=("Let me", " think."),
        finish="stop",
        tokens=Tokens(9, 7, reasoning=2),
    ),
    "tools": Golden(calls=(_SUM, ("now", {})), finish="tool_calls", tokens=Tokens(20, 12)),
    # The same, with the arguments in one piece where they were in several, if that can be.
    "tools at once": Golden(calls=(_SUM, ("now", {})), finish="tool_calls", tokens=Tokens(20, 12)),
    "text and a tool": Golden(
        ("I will", " add."), calls=(_SUM,), finish="tool_calls", tokens=Tokens(20, 9)
    ),
    "length": Golden(("Once", " upon"), finish="length", tokens=Tokens(7, 2)),
    "filtered": Golden(("I",), finish="content_filter", tokens=Tokens(7, 1)),
    "cached": Golden(("Once",), finish="stop", tokens=Tokens(1000, 1, cached=900)),
    # With what a reader passes over: comments, pings, events and members that nobody knows.
    "noise": Golden(("Once", " upon a time", "."), finish="stop", tokens=Tokens(7, 3)),
    "error": Golden(("Once",), error="Overloaded"),
    "cut": Golden(("Once", " upon"), error="without a finish"),
}

#: The same of an answer that comes in one piece though a stream was asked for: each module's
#: `WHOLE`.
GOLDEN_WHOLE = Golden(
    ("Forty-two.",),
    thoughts=("Let me think.",),
    calls=(_SUM,),
    finish="tool_calls",
    tokens=Tokens(9, 7, reasoning=1),
)
