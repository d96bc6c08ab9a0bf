"""Anthropic's Messages API as a client format (`core.front.Front`)."""

from typing import Final

from legato.core.errors import ApiError
from legato.core.front import (
    AnswerHead,
    FrontRequest,
    Heartbeat,
    Refusal,
    Sink,
    WriterOptions,
)
from legato.fronts import messages_errors
from legato.fronts.messages_aggregator import MessagesAggregator
from legato.fronts.messages_request import Echo, parse
from legato.fronts.messages_writer import MessagesWriter


class MessagesFront:
    """`POST /v1/messages`."""

    name: str = "messages"
    passed_headers: bytes = b"anthropic-"
    id_header: bytes = b"request-id"

    def parse(self, body: bytes) -> FrontRequest:
        return parse(body)

    def identity(self, request_id: str) -> str:
        return request_id.replace("req_", "msg_", 1)

    def heartbeat(self, wanted: Heartbeat | None, user_agent: bytes | None) -> Heartbeat:
        """Whatever is wanted: it is always an event `ping`."""
        return "comment"

    def writer(
        self, head: AnswerHead, options: WriterOptions, sink: Sink, request: FrontRequest
    ) -> MessagesWriter:
        return MessagesWriter(head, options, sink, _echo(request).stop_sequences)

    def aggregator(self, request: FrontRequest) -> MessagesAggregator:
        return MessagesAggregator(_echo(request).stop_sequences)

    def refusal(self, error: ApiError, request_id: str) -> Refusal:
        return messages_errors.refusal(error, request_id)


def _echo(request: FrontRequest) -> Echo:
    return request.echo if isinstance(request.echo, Echo) else Echo()


MESSAGES: Final = MessagesFront()
