"""OpenAI's older text completions as a client format (`core.front.Front`).

Upstreams that complete a bare prompt are given the request itself. For all others it becomes a chat
of two messages: what is to be done, and the text.
"""

from typing import Annotated, Any, Final, cast

import msgspec
from msgspec import Meta, Struct

from legato.core.errors import ApiError, invalid
from legato.core.front import (
    AnswerHead,
    FrontRequest,
    Heartbeat,
    Refusal,
    Sink,
    WriterOptions,
)
from legato.core.request import Positive, explain
from legato.core.request import parse as parse_chat
from legato.fronts.chat import CHAT
from legato.fronts.completions_aggregator import CompletionsAggregator
from legato.fronts.completions_writer import CompletionsWriter

#: What a chat model is told in front of the text.
INSTRUCTION: Final = (
    "Continue the text in the user's message. Answer with the continuation alone: begin exactly"
    " where the text ends, do not repeat any of it, and add no introduction, no explanation, no"
    " quotation marks and no code fence."
)

#: Tokens of an answer where a client sets no limit, as in OpenAI's API.
DEFAULT_MAX_TOKENS: Final = 16


class _Request(Struct, gc=False):
    """The members that chat does not have, or has in another form."""

    model: Annotated[str, Meta(min_length=1)]
    prompt: Any
    suffix: str | None = None
    max_tokens: Positive | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Annotated[int, Meta(ge=0, le=128)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


_decode = msgspec.json.Decoder(_Request).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

#: Members of this format alone.
_OWN: Final = ("prompt", "suffix", "best_of", "echo", "logprobs")

#: Members of a chat that a completion has no place for, and the code of their refusal.
_OF_CHATS: Final = ("messages", "tools", "tool_choice", "functions", "function_call")
_NOT_OURS: Final = "unsupported_parameter"


def _no_suffix() -> ApiError:
    """The refusal where a request becomes a chat."""
    return invalid(
        "This model does not take `suffix`: it is asked as a chat, or its server only goes on with"
        " a prompt.",
        param="suffix",
        code="unsupported_parameter",
    )


class CompletionsFront:
    """`POST /v1/completions`."""

    name: str = "completions"
    passed_headers: bytes = b""
    id_header: bytes = b""

    def parse(self, body: bytes) -> FrontRequest:
        request = _read(body)
        members = _decode_members(body)
        for name in _OF_CHATS:
            if name in members and members[name] != msgspec.Raw(b"null"):
                raise invalid(
                    f"`{name}` is no parameter of completions: use /v1/chat/completions.",
                    param=name,
                    code=_NOT_OURS,
                )
        prompt = _prompt(request.prompt)
        _check(request)
        fields: dict[str, Any] = {
            name: value for name, value in members.items() if name not in _OWN
        }
        fields["messages"] = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": prompt},
        ]
        fields["max_tokens"] = request.max_tokens or DEFAULT_MAX_TOKENS
        if request.logprobs is not None:
            fields["logprobs"] = True
            if request.logprobs:
                fields["top_logprobs"] = request.logprobs
        chat_body = msgspec.json.encode(fields)
        return FrontRequest(
            parse_chat(chat_body),
            chat_body,
            self.name,
            body,
            echo=prompt if request.echo else "",
            beyond=_no_suffix() if request.suffix else None,
        )

    def identity(self, request_id: str) -> str:
        return request_id.replace("req_", "cmpl-", 1)

    def heartbeat(self, wanted: Heartbeat | None, user_agent: bytes | None) -> Heartbeat:
        return CHAT.heartbeat(wanted, user_agent)

    def writer(
        self, head: AnswerHead, options: WriterOptions, sink: Sink, request: FrontRequest
    ) -> CompletionsWriter:
        return CompletionsWriter(head, options, sink, request.echo)

    def aggregator(self, request: FrontRequest) -> CompletionsAggregator:
        return CompletionsAggregator(request.echo)

    def refusal(self, error: ApiError, request_id: str) -> Refusal:
        fields = error.as_object()
        is_of_chat = (error.param or "").startswith("messages")
        if is_of_chat and error.code != _NOT_OURS:  # messages that the client has not sent
            fields["error"]["param"] = "prompt"
        return Refusal(error.status, msgspec.json.encode(fields))


def _read(body: bytes) -> _Request:
    if not body.strip():
        raise invalid("The request body is empty: send a JSON object with `model` and `prompt`.")
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explain(error) from None


def _prompt(value: Any) -> str:
    """The one text to complete. Raises `ApiError` 400."""
    if isinstance(value, str):
        return value
    items = cast("list[Any]", value) if isinstance(value, list) else []
    if len(items) == 1 and isinstance(items[0], str):
        return items[0]
    if not items:
        raise invalid(
            "`prompt` is neither a string nor a list with one string.",
            param="prompt",
            code="invalid_value",
        )
    if isinstance(items[0], str):
        problem = f"`prompt` has {len(items)} texts: send a request for each of them."
    else:
        problem = "`prompt` is a list of tokens: send the text itself."
    raise invalid(problem, param="prompt", code="unsupported_parameter")


def _check(request: _Request) -> None:
    """Raises `ApiError` 400 for what no upstream here is asked."""
    if request.best_of not in (None, 0, 1, request.n):
        raise invalid(
            "`best_of` is not supported: leave it out, or set it to the same number as `n`.",
            param="best_of",
            code="unsupported_parameter",
        )
    if request.echo and request.logprobs is not None:
        raise invalid(
            "`logprobs` is not supported together with `echo`: a prompt has none here.",
            param="logprobs",
            code="unsupported_parameter",
        )


COMPLETIONS: Final = CompletionsFront()
