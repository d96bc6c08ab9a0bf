"""Tokens counted from text, for upstreams that do not say how many there were.

Counting is not free (40 µs a kilobyte and more), so it is put off: text is kept as it goes by, and
counted when somebody wants to know. Nobody does where the upstream says it all.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from legato.core.chunk import as_object
from legato.core.dialect import Delivered
from legato.core.merge import TextBuffer
from legato.core.request import ChatRequest

#: Letters that are counted at one go: what an end may have to wait for, a few milliseconds.
SLICE: Final = 16 * 1024

#: As OpenAI counts a prompt: three tokens a message for the marks around it, one for its role; and
#: three that begin the answer. Chat templates of other models are near it.
_MESSAGE: Final = 4
_ANSWER: Final = 3


class Counter(Protocol):
    """Counts as one model does."""

    def count(self, text: str) -> int: ...

    def begin(self, texts: list[str]) -> Callable[[], int]:
        """Gives what tells the tokens of all `texts`. Long ones are counted elsewhere meanwhile."""
        ...


def slices(text: str) -> Iterator[str]:
    """`text` in pieces of `SLICE` letters at most, cut in front of a space where there is one:
    nearly always a token begins there, and the sum is the same."""
    start = 0
    while len(text) - start > SLICE:
        end = text.rfind(" ", start + SLICE // 2, start + SLICE)
        if end < 0:
            end = start + SLICE
        yield text[start:end]
        start = end
    yield text[start:]


class _Growing:
    """Text that grows. What is longer than a slice is counted on the way."""

    __slots__ = ("_count", "_counted", "_size", "_text")

    def __init__(self, count: Callable[[str], int]) -> None:
        self._count = count
        self._text = TextBuffer("")
        self._size = 0
        self._counted = 0

    def append(self, piece: str) -> None:
        self._text.append(piece)
        self._size += len(piece)
        if self._size > SLICE:
            text = str(self._text)
            end = text.rfind(" ", SLICE // 2)
            self._settle(text, end if end > 0 else len(text))

    @property
    def tokens(self) -> int:
        if self._size:
            text = str(self._text)
            self._settle(text, len(text))
        return self._counted

    def _settle(self, text: str, end: int) -> None:
        self._counted += self._count(text[:end])
        self._text = TextBuffer(text[end:])
        self._size = len(text) - end


class Tally:
    """What goes by of one answer, and the prompt it answers, in tokens (`usage.Seen`)."""

    __slots__ = ("_answer", "_prompt", "_reasoning")

    def __init__(
        self,
        counter: Counter,
        request: ChatRequest,
        delivered: Delivered | None = None,
        told: int = 0,
    ) -> None:
        """`delivered`: of the answer, by another upstream before; it is in the prompt of this one.
        `told`: the tokens of the prompt, where the upstream has sent them; else 0."""
        growing = partial(_Growing, counter.count)
        # By choice, and by what of it: texts that grow side by side are not one text.
        self._answer: defaultdict[tuple[Any, Any], _Growing] = defaultdict(growing)
        self._reasoning: defaultdict[Any, _Growing] = defaultdict(growing)
        self._prompt = told or _begin(counter, request, delivered)

    def add(self, text: str, index: int, is_reasoning: bool) -> None:
        """A text of one choice."""
        if is_reasoning:
            self._reasoning[index].append(text)
        else:
            self._answer[index, "content"].append(text)

    def add_member(self, member: dict[str, Any]) -> None:
        """A normalized choice of a chunk."""
        index, delta = member["index"], member["delta"]
        if reasoning := delta.get("reasoning_content"):
            self._reasoning[index].append(reasoning)
        for owner, text in _texts_of_answer(delta):
            if isinstance(text, str) and text:
                self._answer[index, owner].append(text)

    @property
    def prompt(self) -> int:
        if not isinstance(self._prompt, int):
            self._prompt = self._prompt()
        return self._prompt

    @property
    def completion(self) -> int:
        return self.reasoning + sum(each.tokens for each in self._answer.values())

    @property
    def reasoning(self) -> int:
        return sum(each.tokens for each in self._reasoning.values())


def _texts_of_answer(delta: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """(what it belongs to, text): all that a model has written, without its reasoning."""
    yield "content", delta.get("content")
    yield "refusal", delta.get("refusal")
    yield from (("function", text) for text in _texts_of_call(delta.get("function_call")))
    for call in delta.get("tool_calls") or ():
        for owner in ("function", "custom"):
            yield from ((call["index"], text) for text in _texts_of_call(call.get(owner)))


def _texts_of_call(function: Any) -> Iterator[Any]:
    call = as_object(function) or {}
    yield from (call.get(name) for name in ("name", "arguments", "input"))


def _begin(
    counter: Counter, request: ChatRequest, delivered: Delivered | None
) -> Callable[[], int]:
    """Gives what tells the tokens of a prompt."""
    marks = _MESSAGE * len(request.messages) + _ANSWER
    tell = counter.begin([text for text in _texts(request, delivered) if text])
    return lambda: marks + tell()


def _texts(request: ChatRequest, delivered: Delivered | None) -> Iterator[str | None]:
    """What a model is given to read. Pictures and sound have no text."""
    for message in request.messages:
        yield message.name
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (part.text for part in message.content or ())
        for call in message.tool_calls or ():
            texts = _texts_of_call(call.get("function"))
            yield from (text for text in texts if isinstance(text, str))
    for tool in request.tools or ():
        yield msgspec.json.encode(tool.function).decode() if tool.function else None
    if delivered is not None:
        yield delivered.reasoning
        yield delivered.content
