"""The fault matrix: what upstreams do wrong, when, to whom, and what comes of it.

`FAULTS` is the table that `docs/reliability.md` shows. A fault is played at two moments:

    before   at once: the 200 is not committed yet. What breaks in the middle of its text does so
             in the same read in which the text begins.
    after    late: 200 and comments, or the first chunks, are with the client when it happens.
"""

from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from legato.mock.scripts import SCRIPTS
from legato.mock.steps import Script, Step
from legato.policy.ledger import Outcome, Provenance

Moment = Literal["before", "after"]

#: Seconds after which a late fault happens to a client that is there.
LATE: Final = 0.06

#: Seconds for which a fault is held back from a client that leaves: it never happens.
HELD: Final = 60.0

#: More text than a small socket and its transport hold: once, and more than the backlog holds too.
FAT: Final = "Žluťoučký kůň 🐎 " * 4_000
FATTER: Final = 8


class Fault(Struct, frozen=True):
    """One row. `script` is what the upstream does, and `at` the step of it with which the fault
    begins (None: the head). Without a script it is a peer that is no upstream (`strangers`)."""

    name: str
    says: str
    script: Script | None = None
    at: int | None = None
    error: tuple[int, str] | None = None  # status and code; None: the client gets a whole answer
    outcome: Outcome = "complete"
    tokens: Provenance = "exact"
    timer: bool = False  # it is one of the deployment's timers that notices
    never_late: str = ""  # why it cannot happen after the commit
    calls: tuple[tuple[str, str], ...] = ()  # names and arguments of tools

    @property
    def has_begun(self) -> bool:
        """Some of the answer has come before it: a stream has its 200 then."""
        return self.tokens != "none" and self.error is not None

    @property
    def says_much(self) -> bool:
        """It can be played with so much text that a slow client's line is full."""
        return self.script is not None and self.tokens != "none" and bool(result(self.script))

    def happens(self, moment: Moment) -> bool:
        return moment == "before" or not self.never_late

    def played(self, moment: Moment, *, fat: bool = False, held: bool = False) -> Script:
        """The script for one cell of the matrix. `fat`: with enough text to fill a slow client's
        line. `held`: what would come late never comes."""
        script, at = self.script, self.at
        assert script is not None
        steps = list(script.steps)
        if fat and at is not None:
            pads = [Step(say=FAT, repeat=FATTER if moment == "after" else 1)]
            steps = pads + steps
            at += 1
            # Two bytes at a time it would take for ever; this goes through characters as well.
            script = replace(script, pieces=4_095 if script.pieces else 0)
        late = HELD if held else LATE
        if moment == "after" and at is None:
            script = replace(script, head_after=late)
        elif moment == "after":
            steps.insert(at, Step(wait=late))
        return replace(script, steps=steps)

    def seen_before(self) -> Provenance:
        """What is known of the tokens where the client left before the fault could happen."""
        steps = self.script.steps[: self.at] if self.script and self.at else []
        if any(step.usage for step in steps):
            return "partial"
        return "counted" if any(_has_content(step) for step in steps) else "none"

    # As the page shows it

    def row(self) -> str:
        what = f"{self.says} (`{self.name}`)" if self.name in SCRIPTS else self.says
        early = self._cell("frame / " if self.has_begun else "")
        late = f"none: {self.never_late}" if self.never_late else self._cell("frame / ")
        return f"| {what} | {early} | {late} | {self.outcome}, {self.tokens} |"

    def _cell(self, framed: str) -> str:
        if self.error is None:
            return "whole"
        status, code = self.error
        return f"{framed}{status} `{code}`"


def _has_content(step: Step) -> bool:
    return bool(step.say or step.tool)


def result(script: Script) -> str:
    """The text of a script's answer."""
    return "".join((step.say or "") * step.repeat for step in script.steps)


def pieces(script: Script) -> int:
    """Chunks with content, as whoever counts deltas sees them."""
    return sum(step.repeat for step in script.steps if _has_content(step))


def usage(script: Script) -> dict[str, Any]:
    """The last that a script says of its usage."""
    found: dict[str, Any] = {}
    for step in script.steps:
        found = step.usage or (step.chunk or {}).get("usage") or found
    return found


def _before(name: str, says: str, status: int, code: str, **more: Any) -> Fault:
    """It happens before the first chunk."""
    more = {"script": SCRIPTS.get(name), "outcome": "failed"} | more
    return Fault(name, says, error=(status, code), tokens="none", **more)


def _within(name: str, says: str, status: int, code: str, **more: Any) -> Fault:
    """It happens in the middle of the text."""
    script = more.pop("script", None) or SCRIPTS[name]
    more = {"at": len(script.steps) - 1, "tokens": "counted"} | more
    return Fault(name, says, script, error=(status, code), outcome="failed", **more)


def _mended(name: str, says: str, at: int | None = 1, **more: Any) -> Fault:
    return Fault(name, says, SCRIPTS[name], at, **more)


_WORDS: Final = SCRIPTS["no-done"].steps[:-1]
_SILENT: Final = Script(no_head=True, steps=[Step(stall=True)])
_NO_HTTP: Final = Script(no_head=True, steps=[Step(raw="SSH-2.0-x\r\n")], framing="close")
_MURMUR: Final = Script(steps=[*_WORDS, Step(comment="still here", repeat=500, every=0.02)])
_THEN_SILENT: Final = Script(steps=[*SCRIPTS["no-done"].steps, Step(stall=True)])
_USAGE_THEN_CUT: Final = Script(
    steps=[
        Step(usage={"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}),
        *_WORDS,
        Step(cut=True),
    ]
)

FAULTS: Final = (
    _before(
        "refused",
        "refuses the connection",
        *(502, "upstream_unreachable"),
        never_late="a refusal comes at once",
    ),
    _before(
        "silent",
        "takes no connection in `connect_seconds`, TLS included",
        *(504, "upstream_connect_timeout"),
        timer=True,
    ),
    _before("untrusted", "has a certificate that nobody trusts", 502, "upstream_tls"),
    _before("plain", "answers TLS with something else", 502, "upstream_tls"),
    _before("hang-up", "hangs up in the handshake", 502, "upstream_unreachable"),
    _before("ssh", "speaks something else than HTTP", 502, "upstream_error", script=_NO_HTTP),
    _before("no-head", "closes without a word", 502, "upstream_cut"),
    _before(
        "mute",
        "says nothing, not even headers",
        *(504, "upstream_first_token_timeout"),
        script=_SILENT,
        at=0,
        timer=True,
    ),
    _before("400", "400: the caller's own", 400, "bad_param", outcome="refused"),
    _before("too-long", "over the context", 400, "context_length_exceeded", outcome="refused"),
    _before("401", "401: our key, not the caller's", 502, "upstream_401"),
    _before("429", "429, with its `Retry-After`", 429, "upstream_rate_limited"),
    _before("500", "500", 502, "upstream_500"),
    _before("503", "503", 503, "upstream_503"),
    _before("error-body", "200 with a JSON error", 502, "overloaded"),
    _before("html", "a page instead of a stream", 502, "upstream_error"),
    _before("empty", "200 and nothing", 502, "upstream_empty", at=0),
    _before("cut-early", "is cut before its first chunk", 502, "upstream_cut", at=0),
    _before(
        "stall-early",
        "is silent after its headers",
        *(504, "upstream_first_token_timeout"),
        at=0,
        timer=True,
    ),
    _before(
        "comments-only",
        "comments and nothing else",
        *(504, "upstream_first_token_timeout"),
        at=0,
        timer=True,
    ),
    _before("bad-json-first", "a first event that is no JSON", 502, "upstream_malformed", at=0),
    _before("error-first", "an error as first event", 502, "gpu_lost", at=0),
    _within("cut", "is cut in mid-answer", 502, "upstream_cut"),
    _within("reset", "the same with a TCP reset", 502, "upstream_cut"),
    _within(
        "cut-usage",
        "is cut, and had told its usage so far",
        *(502, "upstream_cut"),
        script=_USAGE_THEN_CUT,
        tokens="partial",
    ),
    _within("no-finish", "`[DONE]` without a finish", 502, "upstream_incomplete"),
    _within("stall", "is silent in mid-answer", 504, "upstream_stalled", timer=True),
    _within(
        "murmur",
        "comments and no more in mid-answer",
        *(504, "upstream_stalled"),
        script=_MURMUR,
        timer=True,
    ),
    _within("bad-json", "an event that is no JSON", 502, "upstream_malformed"),
    _within("error-in-band", "an error between chunks", 502, "gpu_lost"),
    _within("error-then-done", "an error, then `[DONE]`", 502, "gpu_lost", at=10),
    _mended("cut-late", "is cut after the finish, before `[DONE]`", 11, tokens="counted"),
    _mended("no-done", "no `[DONE]`", 11, tokens="counted"),
    Fault("finish-hang", "is silent after the finish", _THEN_SILENT, 10, tokens="counted"),
    _mended("utf8-split", "a character split over two reads"),
    _mended("crlf", "CRLF line ends"),
    _mended("cr", "CR line ends"),
    _mended("bom", "a byte order mark first", 0),
    _mended("huge-line", "a line of a megabyte", 0),
    _mended("gzip", "gzip that nobody asked for", 0),
    _mended("odd-type", "another content type"),
    _mended("json-type", "is called JSON, and is a stream"),
    _mended("finish-only", "a finish without content", 0),
    _mended(
        "tool-chaos",
        "tool calls with indices reused and missing",
        calls=(("sum", "{}"), ("now", "{}"), ("last", '{"x": 1}')),
    ),
    _mended("usage-nowhere", "no usage", tokens="counted"),
    _mended("usage-early", "usage before the text, and again"),
    _mended("usage-with-choices", "usage in the chunk with the finish"),
)
