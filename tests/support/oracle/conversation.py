"""One conversation as plain data: deployments, and the calls that are made one after the other.

The schedule is part of it: where each read ends, and when a client pauses, goes on or leaves.
The `repr` of a conversation is the Python expression that makes it.
"""

from typing import Final, Literal

from msgspec import Struct, field

#: How the size of an HTTP chunk is written. From `sign` on it is no HTTP, or another size.
SizeForm = Literal[
    "plain",
    "upper",
    "zeros",
    "extension",
    "space",
    "sign",
    "underscore",
    "short",
    "long",
    "no end",
    "line feeds",
]


#: A client's format, by the name of its front.
FrontName = Literal["chat", "messages", "responses", "completions"]


class Action(Struct, frozen=True, repr_omit_defaults=True):
    """Something that happens between two reads. `seconds` pass where it is `wait`."""

    kind: Literal["pause", "resume", "leave", "wait"]
    seconds: float = 0.0


class Block(Struct, repr_omit_defaults=True):
    """A part of a response's body; where the response is chunked, one HTTP chunk.

    `size_form`: how the size of the chunk is written. `cuts`: places in the framed bytes where a
    read ends, beside the one behind the block (`ends_read`).
    """

    body: bytes
    size_form: SizeForm = "plain"
    cuts: tuple[int, ...] = ()
    ends_read: bool = True
    before: tuple[Action, ...] = ()


class Script(Struct, repr_omit_defaults=True):
    """What comes back for one request.

    `end`: what follows the last block. whole: the end of the body as HTTP has it, with `trailers`;
    lost: the end of the connection; silent: nothing. `body_begins_with_head`: the first block comes
    in the read that ends the head. `end_joins`: the end comes in the read of the last block.
    """

    blocks: list[Block] = []
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "text/event-stream"),)
    framing: Literal["chunked", "length", "close"] = "chunked"
    end: Literal["whole", "lost", "silent"] = "whole"
    trailers: bytes = b""
    head_cuts: tuple[int, ...] = ()
    body_begins_with_head: bool = False
    end_joins: bool = False
    before: tuple[Action, ...] = ()


class Deployment(Struct, repr_omit_defaults=True):
    """Options have the names of `DeploymentOptions`."""

    provider: str | None = None
    dialect: str = "openai"
    reasoning: Literal["field", "think-tags", "think-tags-open"] = "field"
    drops_closing_tags: bool = False
    drains: bool = False
    streams: bool = True
    replays: bool = False
    has_price: bool = False
    counts_tokens: bool = False


#: A request of each format that asks for a stream.
_REQUESTS: Final[dict[FrontName, bytes]] = {
    "chat": b'{"model":"m","messages":[{"role":"user","content":"hi"}],'
    b'"stream":true,"stream_options":{"include_usage":true}}',
    "messages": b'{"model":"m","max_tokens":99,"messages":[{"role":"user","content":"hi"}],'
    b'"stream":true}',
    "responses": b'{"model":"m","input":"hi","stream":true}',
    "completions": b'{"model":"m","prompt":"hi","stream":true,'
    b'"stream_options":{"include_usage":true}}',
}


class Exchange(Struct, repr_omit_defaults=True):
    """One call. `body`: of the request; where it is empty, a usual one is sent. `scripts`: for each
    deployment, what comes back for its requests, in order. `idle_seconds` pass before it."""

    front: FrontName = "chat"
    body: bytes = b""
    scripts: list[list[Script]] = []
    is_secure: bool = False
    user_agent: bytes | None = None
    idle_seconds: float = 2.0

    @property
    def request(self) -> bytes:
        return self.body or _REQUESTS[self.front]


class Conversation(Struct, repr_omit_defaults=True):
    """Calls to one route, one after the other. The other members are settings of the server."""

    exchanges: list[Exchange]
    deployments: list[Deployment] = field(default_factory=lambda: [Deployment()])
    max_continuations: int = 1
    counts_both_prompts: bool = False
    padding: Literal["auto", "on", "off"] = "auto"
    heartbeat: Literal["comment", "chunk"] | None = None
    heartbeat_seconds: float = 10.0
    gate_seconds: float = 5.0
    backlog_bytes: int = 4 * 1024 * 1024


class Read(Struct, frozen=True):
    """One step of a response: what happens first, then the bytes that are read, then the loss of
    the connection where it is the last."""

    before: tuple[Action, ...]
    data: bytes
    is_lost: bool = False


_REASONS = {200: "OK", 400: "Bad Request", 429: "Too Many Requests", 500: "Internal Server Error"}


def reads(script: Script) -> list[Read]:
    """The steps of one response."""
    steps: list[Read] = []
    before = script.before
    read = b""
    head = _head(script)
    parts = [(head, script.head_cuts, not script.body_begins_with_head, ())]
    parts += [
        (_framed(block, script.framing), block.cuts, block.ends_read, block.before)
        for block in script.blocks
    ]
    if script.end_joins and script.framing == "chunked" and script.end == "whole":
        data, cuts, _, actions = parts[-1]
        parts[-1] = (data, cuts, False, actions)
    if script.framing == "chunked" and script.end == "whole":
        parts.append((b"0\r\n%b\r\n" % script.trailers, (), True, ()))
    for data, cuts, ends_read, actions in parts:
        if actions and read:
            steps.append(Read(before, read))
            before, read = (), b""
        before += actions
        at = 0
        for cut in cuts:
            if at < cut < len(data):
                steps.append(Read(before, read + data[at:cut]))
                before, read, at = (), b"", cut
        read += data[at:]
        if ends_read:
            steps.append(Read(before, read))
            before, read = (), b""
    if read:
        steps.append(Read(before, read))
    if script.end == "lost" or (script.framing == "close" and script.end == "whole"):
        steps.append(Read((), b"", is_lost=True))
    return steps


def _head(script: Script) -> bytes:
    lines = [f"HTTP/1.1 {script.status} {_REASONS.get(script.status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in script.headers]
    if script.framing == "chunked":
        lines.append("transfer-encoding: chunked")
    elif script.framing == "length":
        missing = 0 if script.end == "whole" else 7
        size = sum(len(block.body) for block in script.blocks) + missing
        lines.append(f"content-length: {size}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


#: What an HTTP chunk looks like, by the form of its size, which is that many bytes too large.
_CHUNKS: Final[dict[SizeForm, tuple[bytes, int]]] = {
    "plain": (b"%x\r\n%b\r\n", 0),
    "upper": (b"%X\r\n%b\r\n", 0),
    "zeros": (b"00%x\r\n%b\r\n", 0),
    "extension": (b"%x;name=value\r\n%b\r\n", 0),
    "space": (b"%x \r\n%b\r\n", 0),
    "sign": (b"+%x\r\n%b\r\n", 0),
    "underscore": (b"0_%x\r\n%b\r\n", 0),
    "short": (b"%x\r\n%b\r\n", -1),
    "long": (b"%x\r\n%b\r\n", 1),
    "no end": (b"%x\r\n%b", 0),
    "line feeds": (b"%x\n%b\n", 0),
}


def _framed(block: Block, framing: str) -> bytes:
    body = block.body
    if framing != "chunked" or not body:
        return body
    form, more = _CHUNKS[block.size_form]
    return form % (len(body) + more, body)
