"""OpenAI's Chat Completions as a client format (`core.front.Front`)."""

import re
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
from legato.core.request import parse as parse_request
from legato.fronts.chat_aggregator import ChatAggregator
from legato.fronts.chat_writer import ChatWriter

#: OpenAI's Go SDK takes every blank line for the end of an event, also behind a comment, until the
#: version that is named here.
_GO: Final = re.compile(rb"OpenAI/Go (\d+)\.(\d+)")
_GO_MENDED: Final = (3, 43)


class ChatFront:
    """`POST /v1/chat/completions`."""

    name: str = "chat"
    passed_headers: bytes = b""
    id_header: bytes = b""

    def parse(self, body: bytes) -> FrontRequest:
        return FrontRequest(parse_request(body), body)

    def identity(self, request_id: str) -> str:
        return request_id.replace("req_", "chatcmpl-", 1)

    def heartbeat(self, wanted: Heartbeat | None, user_agent: bytes | None) -> Heartbeat:
        if wanted is not None:
            return wanted
        found = _GO.match(user_agent) if user_agent else None
        fails = found is not None and (int(found[1]), int(found[2])) < _GO_MENDED
        return "chunk" if fails else "comment"

    def writer(
        self, head: AnswerHead, options: WriterOptions, sink: Sink, request: FrontRequest
    ) -> ChatWriter:
        return ChatWriter(head, options, sink)

    def aggregator(self, request: FrontRequest) -> ChatAggregator:
        return ChatAggregator()

    def refusal(self, error: ApiError, request_id: str) -> Refusal:
        return Refusal(error.status, error.as_json())


CHAT: Final = ChatFront()
