"""One answer means the same, whoever gave it and in whatever format a client asks for it.

Every dialect's transcripts (`tests/support/transcripts`) go through every front, streamed and not.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from legato import dialects
from legato.core.dialect import Dialect
from legato.core.errors import ApiError
from legato.core.front import AnswerHead, Front, FrontRequest, WriterOptions
from legato.core.stream import Stream
from legato.fronts.messages import MESSAGES
from legato.fronts.responses import RESPONSES
from tests.dialects.test_all_events import conversations, feed, transcript
from tests.support.front_answers import FRONTS
from tests.support.transcripts import GOLDEN, Golden
from tests.support.wire import Answer

HEAD = AnswerHead("x_1", 1_750_000_000, "m")
MODULES: dict[str, Front] = {"messages": MESSAGES, "responses": RESPONSES}


class Sink:
    def __init__(self) -> None:
        self.body = b""
        self.is_over = False

    def write(self, data: bytes) -> None:
        assert not self.is_over
        self.body += data

    def finish(self, data: bytes) -> None:
        self.write(data)
        self.is_over = True

    def on_full(self) -> None:
        pytest.fail("the client is not slow")


def fill(stream: Stream, dialect: Dialect, pieces: list[bytes], *, relays: bool) -> None:
    """As `upstreams.response` does."""
    decoder, reader = dialect.decoder(), dialect.reader()
    stream.ask(relays=relays)

    class Relayed:
        def read(self, name: bytes, data: bytes) -> Any:
            chunk = reader.read(name, data)
            if relays:
                stream.relay(name, data)
            return chunk

    try:
        for piece in pieces:
            feed(stream, Relayed(), decoder.feed(piece))
            if stream.done:
                return
            stream.flush()
        with contextlib.suppress(ApiError):
            feed(stream, Relayed(), decoder.close())
        stream.end()
    except ApiError as error:
        stream.fail(error)


def answered(
    front: Front, request: FrontRequest, dialect: Dialect, pieces: list[bytes], *, relays: bool
) -> Answer | ApiError:
    stream = Stream(lambda: 0.0, 0.0)
    if request.chat.stream:
        sink = Sink()
        stream.subscribe(front.writer(HEAD, WriterOptions(shows_usage=True), sink, request))
        fill(stream, dialect, pieces, relays=relays)
        assert sink.is_over
        return Answer(200, {"content-type": "text/event-stream"}, sink.body)
    aggregator = front.aggregator(request)
    stream.subscribe(aggregator)
    fill(stream, dialect, pieces, relays=relays)
    if aggregator.error is not None:
        return aggregator.error
    return Answer(200, {"content-type": "application/json"}, aggregator.answer(HEAD))


def cases() -> Iterator[Any]:
    for reads in FRONTS:
        for name, conversation in conversations():
            own = dialects.named(name).client_format == reads.name
            # Blocks that interleave go out as they came, which no client would take.
            own = own and (reads.name, conversation) != ("messages", "noise")
            for relays in (False, True) if own else (False,):
                label = f"{reads.name}, {name}{', relayed' if relays else ''}, {conversation}"
                yield pytest.param(reads, name, conversation, relays, id=label)


@pytest.mark.parametrize("streams", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("reads", "name", "conversation", "relays"), list(cases()))
def test_an_answer_means_the_same(
    reads: Any, name: str, conversation: str, relays: bool, streams: bool
) -> None:
    front, dialect = MODULES[reads.name], dialects.named(name)
    request = front.parse(msgspec.json.encode(reads.asks("m", "Hello", stream=streams)))
    body, golden = transcript(name, conversation), GOLDEN[conversation]
    for pieces in ([body], [body[n : n + 1] for n in range(len(body))]):
        answer = answered(front, request, dialect, pieces, relays=relays)
        if golden.error is not None:
            error = answer.message if isinstance(answer, ApiError) else reads.error(answer)[1]
            assert golden.error in error
            assert isinstance(answer, ApiError) is not streams
        if isinstance(answer, ApiError):
            continue
        assert reads.text(answer) == "".join(golden.text)
        assert reads.thoughts(answer) == "".join(golden.thoughts)
        calls = [(name, json.loads(arguments)) for name, arguments in reads.calls(answer)]
        assert calls == list(golden.calls)
        assert reads.is_complete(answer) is (golden.error is None)
        if golden.error is None:
            assert reads.finish(answer) == golden.finish
            assert _tokens(reads, answer, golden)


def _tokens(reads: Any, answer: Answer, golden: Golden) -> bool:
    told, tokens = reads.tokens(answer), golden.tokens
    assert tokens is not None
    if reads.name == "messages":  # says nothing of reasoning
        tokens = msgspec.structs.replace(tokens, reasoning=0)
    return msgspec.structs.replace(told, cache_writes=0) == tokens
