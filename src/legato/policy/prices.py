"""List prices, as rows of data: what a call costs where the operator says nothing.

They are those of the standard tier. What is added for very long prompts, or for writing into a
cache, is not in them; models whose price depends on the hour or ends on a known day are not here.
What an operator pays may differ, and a provider may change its mind: `price` of a deployment goes
first.
"""

import re
from typing import Final

from msgspec import Struct


class ListPrice(Struct, frozen=True):
    """US dollars for a million tokens; `cached`: of the prompt, read from a cache."""

    provider: str
    model: str  # and its dated versions
    prompt: float
    completion: float
    cached: float
    read: str  # the day on which it is known to have been so
    source: str  # the provider's own page, where it stands


_ANTHROPIC: Final = ("2026-10-10", "https://platform.claude.com/docs/en/about-claude/pricing")
_OPENAI: Final = ("2026-05-04", "https://developers.openai.com/api/docs/pricing")
_GEMINI: Final = ("2026-09-20", "https://ai.google.dev/gemini-api/docs/pricing")
# Public price lists that follow these pages by the day, two of which agree.
_GROQ: Final = ("2026-11-10", "https://console.groq.com/docs/models")
_MISTRAL: Final = ("2026-11-10", "https://mistral.ai/pricing/api")
_XAI: Final = ("2026-11-10", "https://docs.x.ai/developers/pricing")
_CEREBRAS: Final = ("2026-11-10", "https://www.cerebras.ai/pricing")
_MOONSHOT: Final = ("2026-11-10", "https://platform.kimi.ai/docs/pricing/chat")
_TOGETHER: Final = ("2026-11-10", "https://www.together.ai/pricing")
_FIREWORKS: Final = ("2026-11-10", "https://docs.fireworks.ai/serverless/pricing")

#: What a model of Fireworks' is called in a request.
_AT_FIREWORKS: Final = "accounts/fireworks/models/"

_ROWS: Final = (
    ListPrice("anthropic", "claude-opus-5", 5.0, 25.0, 0.5, *_ANTHROPIC),
    ListPrice("anthropic", "claude-opus-4-8", 5.0, 25.0, 0.5, *_ANTHROPIC),
    ListPrice("anthropic", "claude-opus-4-7", 5.0, 25.0, 0.5, *_ANTHROPIC),
    ListPrice("anthropic", "claude-opus-4-6", 5.0, 25.0, 0.5, *_ANTHROPIC),
    ListPrice("anthropic", "claude-opus-4-5", 5.0, 25.0, 0.5, *_ANTHROPIC),
    ListPrice("anthropic", "claude-sonnet-5-5", 2.0, 10.0, 0.1, *_ANTHROPIC),
    ListPrice("anthropic", "claude-sonnet-5", 2.0, 10.0, 0.2, *_ANTHROPIC),
    ListPrice("anthropic", "claude-haiku-4-5", 1.0, 5.0, 0.1, *_ANTHROPIC),
    ListPrice("openai", "gpt-5.5", 5.0, 30.0, 0.5, *_OPENAI),
    ListPrice("openai", "gpt-5.4", 2.5, 15.0, 0.25, *_OPENAI),
    ListPrice("openai", "gpt-5.4-mini", 0.75, 4.5, 0.075, *_OPENAI),
    ListPrice("openai", "gpt-5.4-nano", 0.2, 1.25, 0.02, *_OPENAI),
    ListPrice("gemini", "gemini-3.5-flash", 1.5, 9.0, 0.15, *_GEMINI),
    ListPrice("groq", "openai/gpt-oss-120b", 0.15, 0.6, 0.075, *_GROQ),
    ListPrice("groq", "openai/gpt-oss-20b", 0.075, 0.3, 0.0375, *_GROQ),
    ListPrice("mistral", "mistral-large-2512", 0.5, 1.5, 0.05, *_MISTRAL),
    ListPrice("mistral", "mistral-medium-2604", 1.5, 7.5, 0.15, *_MISTRAL),
    ListPrice("mistral", "mistral-small-2603", 0.15, 0.6, 0.015, *_MISTRAL),
    ListPrice("mistral", "codestral-2508", 0.3, 0.9, 0.03, *_MISTRAL),
    ListPrice("xai", "grok-4.7", 2.0, 6.0, 0.5, *_XAI),
    ListPrice("xai", "grok-4.6", 2.0, 6.0, 0.5, *_XAI),
    ListPrice("xai", "grok-4.3", 1.25, 2.5, 0.2, *_XAI),
    ListPrice("cerebras", "gpt-oss-120b", 0.35, 0.75, 0.35, *_CEREBRAS),
    ListPrice("cerebras", "qwen-3.8-27b", 0.99, 1.49, 0.99, *_CEREBRAS),
    ListPrice("moonshot", "kimi-k3.1-pro", 2.0, 10.0, 0.2, *_MOONSHOT),
    ListPrice("moonshot", "kimi-k3", 3.0, 15.0, 0.3, *_MOONSHOT),
    ListPrice("moonshot", "kimi-k2.7-code", 0.95, 4.0, 0.19, *_MOONSHOT),
    ListPrice("moonshot", "kimi-k2.6", 0.95, 4.0, 0.16, *_MOONSHOT),
    ListPrice("together", "moonshotai/Kimi-K3.1-Pro", 2.0, 10.0, 0.2, *_TOGETHER),
    ListPrice("together", "zai-org/GLM-5.3", 1.4, 4.4, 0.26, *_TOGETHER),
    ListPrice("together", "zai-org/GLM-5.3-Flash", 0.15, 0.5, 0.03, *_TOGETHER),
    ListPrice("together", "deepseek-ai/DeepSeek-V4.1-Flash", 0.3, 1.2, 0.006, *_TOGETHER),
    ListPrice("together", "openai/gpt-oss-120b", 0.15, 0.6, 0.15, *_TOGETHER),
    ListPrice("fireworks", f"{_AT_FIREWORKS}kimi-k3p1-pro", 2.0, 10.0, 0.2, *_FIREWORKS),
    ListPrice("fireworks", f"{_AT_FIREWORKS}glm-5p3", 1.4, 4.4, 0.26, *_FIREWORKS),
    ListPrice("fireworks", f"{_AT_FIREWORKS}glm-5p3-flash", 0.15, 0.5, 0.03, *_FIREWORKS),
    ListPrice("fireworks", f"{_AT_FIREWORKS}qwen3p8-max", 2.0, 6.0, 0.25, *_FIREWORKS),
)

PRICES: Final = {(row.provider, row.model): row for row in _ROWS}

#: What the name of a version has behind that of its model: `-20251001`, `-2026-03-05`, `@20251001`.
#: `-mini` and `-5` make another model of it, at another price.
_VERSION: Final = re.compile(r"[-@](?:20\d{6}|20\d\d-\d\d-\d\d)$|-latest$")


def find(provider: str | None, model: str) -> ListPrice | None:
    """What `provider` asks for `model`, where that is known."""
    return PRICES.get((provider or "", _VERSION.sub("", model)))
