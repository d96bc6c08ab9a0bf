"""OpenAI's Responses API as a client format (`core.front.Front`)."""

from typing import Final

from legato.core.errors import ApiError
from legato.core.front import AnswerHead, FrontRequest, Heartbeat, Refusal, Sink, WriterOptions
from legato.fronts import responses_errors, responses_request
from legato.fronts.responses_aggregator import ResponsesAggregator
from legato.fronts.responses_request import FORMAT
from legato.fronts.responses_writer import ResponsesWriter


class ResponsesFront:
    """`POST /v1/responses`."""

    name: str = FORMAT
    passed_headers: bytes = b""
    id_header: bytes = b""

    def parse(self, body: bytes) -> FrontRequest:
        return responses_request.parse(body)

    def identity(self, request_id: str) -> str:
        return request_id.replace("req_", "resp_", 1)

    def heartbeat(self, wanted: Heartbeat | None, user_agent: bytes | None) -> Heartbeat:
        return "chunk"  # an event: some clients do not see comments

    def writer(
        self, head: AnswerHead, options: WriterOptions, sink: Sink, request: FrontRequest
    ) -> ResponsesWriter:
        return ResponsesWriter(head, options, sink, request.echo)

    def aggregator(self, request: FrontRequest) -> ResponsesAggregator:
        return ResponsesAggregator(request.echo)

    def refusal(self, error: ApiError, request_id: str) -> Refusal:
        return responses_errors.refusal(error)


RESPONSES: Final = ResponsesFront()
