"""Writes a stream as server-sent events of OpenAI's older text completions."""

from typing import Final

from legato.core.chunk import Chunk
from legato.core.front import AnswerHead, Sink, WriterOptions
from legato.core.json_text import as_encoded, encoded
from legato.core.subscriber import WriteText
from legato.fronts.chat_writer import ChatWriter
from legato.fronts.completions_choices import TextChoices

#: A text that is put into a choice to find its place in the choice's JSON.
_PROBE: Final = "~text~"
_PROBE_JSON: Final = encoded(_PROBE)


class CompletionsWriter(ChatWriter):
    """A subscriber that writes frames: those of chat, with other choices.

    What a slow client has not taken is coalesced as chunks of chat, and translated when it goes
    out.
    """

    __slots__ = ("_choices",)

    kind = b"text_completion"
    silence = b'[{"text":"","index":0,"logprobs":null,"finish_reason":null}]'

    def __init__(self, head: AnswerHead, options: WriterOptions, sink: Sink, echo: str) -> None:
        super().__init__(head, options, sink)
        self._choices = TextChoices(echo)

    def push(self, chunk: Chunk) -> None:
        if self.is_paused:
            super().push(chunk)
            return
        found = map(self._choices.translate, chunk.members())
        choices = [each for each in found if each is not None]
        if choices:
            raw, so_far = encoded(choices), chunk.usage_so_far
            super().push(Chunk([], raw, extras=chunk.extras, usage_so_far=so_far))

    def text_writer(self, chunk: Chunk, raw: tuple[bytes, bytes]) -> WriteText | None:
        if chunk.is_reasoning:
            return None if self.is_paused else _write_nothing
        (member,) = Chunk([], raw[0] + _PROBE_JSON + raw[1]).members()  # read as `push` does it
        before, found, after = encoded([self._choices.translate(member)]).partition(_PROBE_JSON)
        write = super().text_writer(chunk, (before, after)) if found else None
        if write is None:
            return None

        def write_encoded(quoted: bytes, event: bytes) -> None:
            write(as_encoded(quoted), event)  # as `push` does it

        return write_encoded


def _write_nothing(_quoted: bytes, _event: bytes) -> None:
    """Reasoning is not shown."""
