"""A chat request for an upstream that speaks OpenAI's dialect: the client's, byte for byte, but for
what is ours to set."""

from typing import Any

import msgspec
from msgspec import Raw

from legato.core.dialect import Delivered, OutgoingRequest, Quirks
from legato.core.errors import cannot_continue
from legato.core.request import members
from legato.dialects import _openai_effort as effort
from legato.dialects._openai_extensions import leave_out_extensions


def encode(outgoing: OutgoingRequest) -> bytes:
    """The request's body (`core.dialect.Dialect.encode`)."""
    quirks = outgoing.quirks
    fields: dict[str, Any] = dict(members(outgoing.body))
    fields["model"] = outgoing.model
    _set_stream(fields, outgoing)
    if quirks.effort_style != "both":
        effort.set_effort(fields, outgoing)
    if outgoing.hides_alternatives:
        fields["top_logprobs"] = 1
    if quirks.max_tokens != "as-is":
        newer, older = fields.pop("max_completion_tokens", None), fields.pop("max_tokens", None)
        if newer is not None or older is not None:
            fields[quirks.max_tokens] = older if newer is None else newer
    for name, theirs in quirks.names.items():
        if name in fields:
            fields[theirs] = fields.pop(name)
    if quirks.rejected_parameters:
        outgoing.leave_out(fields, quirks.rejected_parameters)
    if not quirks.takes_extensions:
        leave_out_extensions(fields)
    if outgoing.delivered is not None:
        _go_on(fields, quirks, outgoing.delivered)
    return msgspec.json.encode(fields)


def _set_stream(fields: dict[str, Any], outgoing: OutgoingRequest) -> None:
    """Asks for a stream wherever the upstream has one: a client without `stream` gets the fold."""
    quirks = outgoing.quirks
    fields.pop("stream_options", None)
    fields["stream"] = outgoing.streams
    if outgoing.streams and quirks.includes_usage:
        fields["stream_options"] = _stream_options(quirks)
    if outgoing.streams and quirks.reports_progress:
        fields["return_progress"] = True


def _stream_options(quirks: Quirks) -> dict[str, bool]:
    options = {"include_usage": True}
    if quirks.running_usage:
        options["continuous_usage_stats"] = True
    if quirks.pads:
        options["include_obfuscation"] = False
    return options


def _go_on(fields: dict[str, Any], quirks: Quirks, delivered: Delivered) -> None:
    """Adds the answer so far as a last message of the assistant, which the upstream continues.

    Raises `UpstreamError` `cannot_continue` where that would not be exact."""
    messages = msgspec.json.decode(fields["messages"], type=list[Raw])
    message: dict[str, Any] = {"role": "assistant", "content": delivered.content}
    last = msgspec.json.decode(messages[-1])
    if last["role"] == "assistant":
        # It is itself an answer that the client wants continued.
        if not isinstance(last.get("content"), str) or last.keys() - {"role", "content", "prefix"}:
            raise cannot_continue("its last message is an answer that nothing can be added to")
        if delivered.reasoning:
            raise cannot_continue("thoughts do not come behind an answer")
        message = last | {"content": last["content"] + delivered.content}
        messages.pop()
    if delivered.reasoning:
        message["reasoning_content"] = delivered.reasoning
    if quirks.continues in ("prefix", "final-message") and message["content"][-1:].isspace():
        raise cannot_continue("chat templates trim white space at the end of a message")
    if quirks.continues == "prefix":
        message["prefix"] = True
    elif quirks.continues == "final-message":
        fields["continue_final_message"] = True
        fields["add_generation_prompt"] = False
    fields["messages"] = [*messages, message]
