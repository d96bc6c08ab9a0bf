"""What a dialect is: one wire format, both ways. Each file of `dialects/` is one."""

from collections.abc import Callable, Set
from typing import Any, Final, Literal, Protocol

from msgspec import Struct

from legato.core.chunk import Chunk, as_object, decoded
from legato.core.errors import ApiError, invalid
from legato.core.request import NULL, ChatRequest
from legato.core.span_edit import with_members

#: Which parameters a server has for reasoning. effort: `reasoning_effort`, as OpenAI has it;
#: thinking: `thinking: {type, budget_tokens}`; both: either, as the client sends it; llama:
#: llama.cpp's budget and template switch; openrouter: `reasoning: {effort, max_tokens}`; template:
#: vLLM's and SGLang's `chat_template_kwargs`; none: it has none.
EffortStyle = Literal["effort", "thinking", "both", "llama", "openrouter", "template", "none"]

#: Whether a server also has an endpoint for text completions. no: none that is known; prompt: one
#: that goes on with a bare prompt; suffix: one that also fills in what comes before a suffix.
Completes = Literal["no", "prompt", "suffix"]

#: How a server is made to continue an answer that it did not begin. no: it cannot; prefill: a last
#: message of the assistant is enough; final-message: it also takes `continue_final_message`;
#: prefix: that message has `prefix: true`.
Continues = Literal["no", "prefill", "final-message", "prefix"]


class Quirks(Struct, frozen=True):
    """What is particular about one server among those that speak its dialect."""

    effort_style: EffortStyle = "both"
    most: Literal["high", "max"] = "high"  # the strongest effort that it has
    continues: Continues = "no"
    continues_reasoning: bool = False  # also in the middle of its reasoning
    continues_under: str | None = None  # such requests go to another path, in place of `/v1`
    echoes_prefix: bool = False  # and repeats what it continues
    has_n: bool = True  # gives several choices in one answer
    includes_usage: bool = True  # takes `stream_options.include_usage`
    running_usage: bool = False  # takes `stream_options.continuous_usage_stats`
    reports_progress: bool = False  # takes llama.cpp's `return_progress`
    max_tokens: Literal["as-is", "max_tokens", "max_completion_tokens"] = "as-is"
    rejected_parameters: frozenset[str] = frozenset()  # parameters that it refuses
    fetches_images: bool = True  # takes an image by its URL
    needs_alternatives: bool = False  # gives logprobs only together with some `top_logprobs`
    names: dict[str, str] = {}  # parameters for which it has other names
    pads: bool = False  # pads its chunks unless it is asked not to
    completes: Completes = "no"
    counts_tokens: bool = False  # counts those of a prompt in Anthropic's format
    encrypts_reasoning: bool = True  # gives its reasoning encrypted, to be sent back (Responses)
    summarizes_reasoning: bool = True  # gives a summary of its reasoning (Responses)
    takes_extensions: bool = True  # members of messages and tools that OpenAI's API does not have


class Delivered(Struct, frozen=True):
    """What a client has of an answer that another upstream is to continue."""

    content: str = ""
    reasoning: str = ""


class Source(Struct, frozen=True):
    """A client's request as it came, for upstreams that speak its format.

    `format`: the client's (`core.front.Front.name`). `lines`: header lines that belong to it.
    `goes_beyond`: it has what Chat Completions has no words for. `is_whole`: its answer comes in
    one piece."""

    format: str
    body: bytes
    lines: bytes = b""
    goes_beyond: bool = False
    is_whole: bool = False


#: Parameters without which an answer is not what was asked for: never dropped in silence.
ESSENTIAL: Final = frozenset({"response_format", "tools", "tool_choice", "functions"})


class OutgoingRequest(Struct):
    """One request on its way to one upstream. `body` is the client's; `parse` has accepted it."""

    body: bytes
    request: ChatRequest
    model: str  # what the upstream calls it
    quirks: Quirks
    unsupported: Literal["drop", "error"] = "drop"
    delivered: Delivered | None = None
    streams: bool = True  # False: the upstream gives its answer in one piece
    source: Source | None = None  # where the upstream is sent the client's request as it came
    lines: bytes = b""  # the client's header lines, where the upstream speaks its format

    @property
    def hides_alternatives(self) -> bool:
        """The upstream is asked for alternatives that the client does not want."""
        request = self.request
        return self.quirks.needs_alternatives and bool(
            request.logprobs and not request.top_logprobs
        )

    def passed_through(self, source: Source) -> bytes:
        """The client's request as it came, but for the model's name, and `stream`: an answer that
        is not streamed to the client is, from an upstream that can, so that it fails as early."""
        changes: dict[str, Any] = {"model": self.model}
        if self.streams is not bool(self.request.stream) and not source.is_whole:
            changes["stream"] = self.streams
        return with_members(source.body, changes)

    def parameters(self, taken: Set[str], defaults: dict[str, Any]) -> dict[str, Any]:
        """The client's parameters, without those that are null or have a default value, and without
        what is not among `taken`. Raises `ApiError` as `leave_out` does."""
        fields = {
            name: value
            for name, value in (as_object(decoded(self.body)) or {}).items()
            if value is not None and not (name in defaults and value == defaults[name])
        }
        self.leave_out(fields, self.quirks.rejected_parameters | (fields.keys() - taken))
        return fields

    def leave_out(self, fields: dict[str, Any], names: frozenset[str]) -> None:
        """Removes parameters from `fields` that the upstream does not take. Raises `ApiError`."""
        for name in names & fields.keys():
            if fields[name] != NULL and (self.unsupported == "error" or name in ESSENTIAL):
                raise invalid(
                    f"The model `{self.request.model}` does not take `{name}`: leave it out.",
                    param=name,
                    code="unsupported_parameter",
                )
            del fields[name]

    def refuse_tool_choice(self, taken: str) -> ApiError:
        """The 400 for a `tool_choice` that the upstream has no equivalent of. `taken`: which values
        it has, in words."""
        choice = self.request.tool_choice
        value = choice if isinstance(choice, str) else (choice or {}).get("type")
        which = f"the `tool_choice` `{value}`" if value else "a `tool_choice` without a `type`"
        return invalid(
            f"The model `{self.request.model}` does not take {which}: it takes {taken}.",
            param="tool_choice",
            code="unsupported_parameter",
        )


class Decoder(Protocol):
    """Bytes to events, each a (name, data) pair. Raises `EventTooLarge`."""

    @property
    def is_between(self) -> bool:
        """Nothing is held of an event whose end has not come."""
        ...

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]: ...
    def close(self) -> list[tuple[bytes, bytes]]: ...


class Reader(Protocol):
    """Events of one answer to chunks."""

    progress: float | None
    """The prefill's, 0 to 1, where it is told."""
    prompt_tokens: int
    """The prompt's, where that is told before the usage; else 0."""
    identity: str | None
    """The upstream's own id of the answer."""

    @property
    def holds_block(self) -> bool:
        """Whether a part of the answer has begun that comes in a chunk when it is whole: a client
        to whom events are relayed has seen of it what no other upstream can continue."""
        ...

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        """The chunk in an event; None where the event says that the answer is over.

        An event without a chunk in it (a ping, `null`, no data) gives one without choices. The
        stream sends the top-level members of such events with the next frame.

        Texts and arguments of `Chunk.fields` may hold half a surrogate pair, whose other half may
        come with the next chunk; no other string does.

        Raises `UpstreamError` for an error in the stream, and `upstream_malformed` for what is no
        event of this dialect.
        """
        ...

    def is_stateless(self, chunk: Chunk) -> bool:
        """Whether later events mean the same if an event like this chunk's, with another text, is
        read once more or not at all."""
        ...


class Dialect(Protocol):
    """The module of a dialect. Functions have no state and do no I/O."""

    @property
    def client_format(self) -> str:
        """The client format (`core.front.Front.name`) that it is, so that requests and events pass
        through as they come; empty where no client speaks it."""
        ...

    def path(self, model: str, *, streams: bool = True) -> str:
        """Of the request, relative to a deployment's `base_url`. It may have a query.

        `streams`: as in `OutgoingRequest`."""
        ...

    def headers(self, api_key: str | None) -> list[tuple[str, str]]: ...

    def encode(self, outgoing: OutgoingRequest) -> bytes:
        """The request's body: a stream unless `outgoing.streams` is False, always with usage.

        Raises `ApiError` 400 `unsupported_parameter` for what the upstream cannot take: always for
        `response_format` and `tools`, for the rest where `outgoing.unsupported` is `error`.
        """
        ...

    @property
    def decoder(self) -> Callable[[], Decoder]: ...
    @property
    def ends_with_body(self) -> bool:
        """Whether only the end of the body shows that a finish was the last one."""
        ...

    def reader(self) -> Reader:
        """For one answer."""
        ...

    def refusal(self, status: int, body: bytes, retry_after: float | None) -> ApiError:
        """An answer with an error status. A 400 is the caller's own and is an `ApiError`; what
        concerns our credential or our use of the upstream is an `UpstreamError`."""
        ...

    def no_stream(self, body: bytes) -> ApiError:
        """What was meant by a 200 with something else than a stream, or than an answer."""
        ...

    def unstreamed(self, body: bytes) -> list[bytes]:
        """The data of the events of a stream with the same content as `body`, which is the JSON of
        an answer in one piece. Empty where it is no answer."""
        ...

    def models_path(self) -> str: ...

    def models(self, body: bytes) -> list[str]:
        """The model ids in the answer to a GET of `models_path`."""
        ...
