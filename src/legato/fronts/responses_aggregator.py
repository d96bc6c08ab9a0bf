"""Folds a stream into one response: the answer of a client that did not ask to stream."""

from legato.core.chunk import Chunk, Usage
from legato.core.errors import ApiError
from legato.core.front import AnswerHead
from legato.core.subscriber import WriteText
from legato.fronts.responses_body import ResponseBody
from legato.fronts.responses_events import OutputItems
from legato.fronts.responses_relay import RelayedEvents
from legato.fronts.responses_request import Echo


def _ignore(kind: str, members: bytes) -> None:
    """Events are for those who stream."""


class ResponsesAggregator:
    """A subscriber that folds; `answer` is the response object of a complete stream."""

    __slots__ = ("_echo", "_items", "_relayed", "error", "usage")

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self.usage: Usage | None = None
        self.error: ApiError | None = None
        self.start_over()

    @property
    def is_paused(self) -> bool:
        return False

    def start_over(self) -> None:
        echo = self._echo
        self._items = OutputItems(echo.names, _ignore, carries=echo.carries)
        self._relayed = RelayedEvents(self._items, _ignore)

    def push(self, chunk: Chunk) -> None:
        self._relayed.terminal = None
        self._items.push(chunk)

    def relay(self, name: bytes, data: bytes) -> None:
        self._relayed.read(name, data)

    def flush(self) -> None:
        return None

    def text_writer(self, chunk: Chunk, raw: tuple[bytes, bytes]) -> WriteText | None:
        return None

    def event_writer(self, event: bytes) -> WriteText | None:
        return None

    def complete(self, usage: Usage, extras: bytes) -> None:
        self.usage = usage
        self._relayed.end()

    def fail(self, error: ApiError) -> None:
        self.error = error

    def answer(self, head: AnswerHead) -> bytes:
        """The body of a 200: OpenAI's Response."""
        body, terminal = ResponseBody(head, self._echo), self._relayed.terminal
        if terminal is not None:
            return body.amended(terminal.response, self.usage, self._items.output())
        status, incomplete = self._items.status
        return body.render(status, self._items.output(), incomplete=incomplete, usage=self.usage)
