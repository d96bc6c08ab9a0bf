"""The data model of scripts: what the mock upstream sends, step by step."""

from typing import Any, Literal

from msgspec import Struct, field


class Step(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One action of the upstream. Exactly one field is set, apart from `choice`, `repeat` and
    `every`; `finish` may be combined with the others that send a chunk."""

    say: str | None = None  # a delta of text
    think: str | None = None  # a delta of reasoning
    sign: str | None = None  # the signature of the reasoning so far, which ends it
    redacted: str | None = None  # reasoning that is withheld: its encrypted content
    tool: dict[str, Any] | None = None  # an entry of OpenAI's delta.tool_calls
    item: dict[str, Any] | None = None  # a complete content block or output item, as it is
    event: dict[str, Any] | None = None  # a complete event with its `type`, as it is
    delta: dict[str, Any] | None = None  # an OpenAI delta
    finish: str | None = None  # a finish reason of OpenAI's chunks
    error: dict[str, Any] | None = None  # an error in the stream, as an OpenAI error object
    usage: dict[str, Any] | None = None  # an OpenAI usage object
    chunk: dict[str, Any] | None = None  # a complete OpenAI chunk
    done: bool = False  # the end marker of the stream: data: [DONE]
    raw: str | None = None  # text for the body as it is, in UTF-8
    raw_hex: str | None = None  # bytes for the body in hexadecimal, for anything that is not UTF-8
    comment: str | None = None  # an SSE comment
    wait: float | None = None  # seconds
    cut: bool = False  # closes the connection in the middle of the body
    reset: bool = False  # the same with a TCP reset
    stall: bool = False  # sends nothing more and keeps the connection open
    choice: int = 0  # index of the choice
    repeat: int = 1  # sends the step so many times, `every` seconds apart
    every: float = 0.0


#: The formats that the mock speaks, by the names that deployments give them.
Dialect = Literal["openai", "anthropic", "openai-responses", "gemini", "ollama"]


class Script(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The response to one request: `body`, or a stream of `steps`.

    A request that asks for no stream gets the same steps as one JSON object: a cut or a stall comes
    after half of it, `raw` text replaces the other half, an error is a status of its own.
    """

    description: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    head_after: float = 0.0  # seconds before the status line
    no_head: bool = False  # no status line: the connection closes or stalls before it
    body: str | None = None
    steps: list[Step] = field(default_factory=list)
    pieces: int = 0  # size of each write in bytes; 0: one write for each step
    line_end: str = "\n"
    bom: bool = False
    gzip: bool = False
    role: Literal["first", "never", "every"] = "first"  # which chunks have a `role`
    framing: Literal["chunked", "close"] = "chunked"
    changing_ids: bool = False  # another `id` and `created` in every chunk
    usage_always: bool = True  # False: usage only if the request asks for it
    streams: Literal["asked", "always", "never"] = "asked"  # whatever the request says
    dialects: list[Dialect] = field(
        default_factory=list[Dialect]
    )  # those it can be played in; empty: all
    late_items: bool = False  # a content block or output item is announced after its deltas
    # where Responses has an error of the stream: in an event `error`, in the response of
    # `response.failed`, or beside that response
    error_in: Literal["event", "response", "beside"] = "event"
    agent: bool = False  # the steps depend on the request: see `legato.mock.agent`
    then: "Script | None" = None  # the response to the next request for the same model
