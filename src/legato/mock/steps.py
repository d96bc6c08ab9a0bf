"""What a script is made of: the words of the upstream that does as it is told (`scripted`)."""

from typing import Any, Literal

from msgspec import Struct, field


class Step(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that an upstream does. Exactly one member is set, but for `choice`."""

    say: str | None = None  # a piece of text
    think: str | None = None  # a piece of reasoning
    tool: dict[str, Any] | None = None  # a member of OpenAI's delta.tool_calls
    delta: dict[str, Any] | None = None  # one of OpenAI's deltas
    finish: str | None = None
    error: dict[str, Any] | None = None  # an error in the stream, as OpenAI's error object
    usage: dict[str, Any] | None = None  # OpenAI's usage object
    chunk: dict[str, Any] | None = None  # one of OpenAI's chunks, whole
    done: bool = False  # what says that the answer is over: data: [DONE]
    raw: str | None = None  # these bytes (UTF-8) into the body
    raw_hex: str | None = None  # these bytes into the body, for what is no UTF-8
    comment: str | None = None
    wait: float | None = None  # seconds
    cut: bool = False  # the connection is closed in the middle of the body
    reset: bool = False  # the same with a TCP reset
    stall: bool = False  # nothing more is said, and the connection stays
    choice: int = 0
    repeat: int = 1  # `say`, `think`, `raw`, `comment`: so many times, `every` seconds apart
    every: float = 0.0


class Script(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is answered to one request. Without `steps`, `body` is the whole answer."""

    says: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    head_after: float = 0.0  # seconds before the status line
    no_head: bool = False  # the connection ends, or stalls, before a status line
    body: str | None = None
    steps: list[Step] = field(default_factory=list)
    pieces: int = 0  # bytes of the body that go out at a time; 0: a step at a time
    line_end: str = "\n"
    bom: bool = False
    gzip: bool = False
    role: Literal["first", "never", "every"] = "first"
    framing: Literal["chunked", "close"] = "chunked"
    jumpy: bool = False  # another id and created in every chunk
    usage_always: bool = True  # a usage chunk is left out where the client did not ask for it
    then: "Script | None" = None  # the answer to the next request for the same model
