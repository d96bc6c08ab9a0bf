"""Folds a stream into one text completion."""

from typing import Any

import msgspec

from legato.core.front import AnswerHead
from legato.core.merge import to_builtins
from legato.fronts.chat_aggregator import ChatAggregator
from legato.fronts.completions_choices import TextChoices


class CompletionsAggregator(ChatAggregator):
    """A subscriber that folds; `answer` is the text_completion object of a complete stream."""

    __slots__ = ("_echo",)

    def __init__(self, echo: str) -> None:
        super().__init__()
        self._echo = echo

    def answer(self, head: AnswerHead) -> bytes:
        """The body of a 200: OpenAI's CreateCompletionResponse."""
        choices = TextChoices(self._echo)
        folded = [to_builtins(self._choices[index]) for index in sorted(self._choices)]
        answer: dict[str, Any] = {
            "id": head.identity,
            "object": "text_completion",
            "created": head.created,
            "model": head.model,
            "choices": [choices.translate(each) for each in folded],
        }
        if self.usage is not None:
            answer["usage"] = self.usage
        return msgspec.json.encode(answer | self._extras)
