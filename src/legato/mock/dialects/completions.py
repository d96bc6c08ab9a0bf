"""OpenAI's older text completions: chat's events with a text in place of a delta."""

from typing import Any

import msgspec

from legato.mock.dialects import openai
from legato.mock.steps import Step


class MockDialect(openai.MockDialect):
    def whole(self) -> bytes | None:
        answer = msgspec.json.decode(super().whole() or b"{}")
        for choice in answer["choices"]:
            message = choice.pop("message")
            choice["text"] = message["content"] or ""
        return msgspec.json.encode(answer | {"object": "text_completion"})

    def _choice(self, step: Step) -> dict[str, Any]:
        text = step.say or (step.delta or {}).get("content") or ""
        return {
            "text": text,
            "index": step.choice,
            "logprobs": None,
            "finish_reason": step.finish,
        }

    def _head(self) -> dict[str, Any]:
        return super()._head() | {"object": "text_completion"}
