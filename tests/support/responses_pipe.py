"""A stream of chunks on its way to a Responses client, without sockets: streamed and not."""

import json
import re
from typing import Any

from legato.core.front import AnswerHead, WriterOptions
from legato.core.stream import Stream
from legato.fronts.responses import RESPONSES
from legato.fronts.responses_aggregator import ResponsesAggregator
from legato.fronts.responses_writer import ResponsesWriter
from tests.support.responses_order import Told, check_response

Json = dict[str, Any]

HEAD = AnswerHead("resp_1", 1_700_000_000, "public")

_NEW_ID = re.compile(r"\b(msg|rs|fc|ctc|ig|call)_[0-9a-f]{24}\b")


def same_ids(text: str | bytes) -> str:
    """The same with ids that were made up here made equal, in order of first use."""
    text = text.decode() if isinstance(text, bytes) else text
    known: dict[str, str] = {}
    return _NEW_ID.sub(lambda found: known.setdefault(found[0], f"{found[1]}_{len(known)}"), text)


def request(**body: Any) -> Any:
    return RESPONSES.parse(json.dumps({"model": "public", "input": "Hello"} | body).encode())


class Pipe:
    """A client that streams and one that does not, behind one stream."""

    def __init__(self, *, pads: bool = False, limit: int = 1 << 22, **body: Any) -> None:
        asked = request(**body)
        self.stream = Stream(lambda: 0.0, 0.0)
        self.sent: list[bytes] = []
        self.closed = self.full = 0
        options = WriterOptions(pads=pads, limit=limit)
        self.writer: ResponsesWriter = RESPONSES.writer(HEAD, options, self, asked)
        self.aggregator: ResponsesAggregator = RESPONSES.aggregator(asked)

    def write(self, data: bytes) -> None:
        assert not self.closed, "bytes after the end"
        assert data
        self.sent.append(data)

    def finish(self, data: bytes) -> None:
        self.write(data)
        self.closed += 1

    def on_full(self) -> None:
        self.full += 1

    @property
    def body(self) -> bytes:
        return b"".join(self.sent)

    @property
    def told(self) -> Told:
        return Told(self.body)

    def subscribe(self) -> "Pipe":
        self.stream.subscribe(self.writer, self.aggregator)
        return self

    def checked(self) -> Told:
        """The whole answer, streamed and not, which are the same."""
        assert self.closed == 1
        told = self.told
        assert (self.writer.frames, self.writer.size) == (len(told.events), len(self.body))
        error = self.aggregator.error
        assert (error is not None) is (told.response["status"] == "failed")
        if error is None:
            answer = check_response(json.loads(self.aggregator.answer(HEAD)))
            assert _shown(answer) == _shown(told.response)
        return told


def _shown(response: Json) -> Json:
    return json.loads(same_ids(json.dumps(response)))
