"""List prices of models, as rows of data, for deployments without a `price` setting.

Prices are those of the standard tier. They leave out surcharges for very long prompts. Models whose
price depends on the hour or ends on a known day are not listed. An operator may pay another price,
and providers change theirs: the `price` of a deployment takes precedence.
"""

import re
from typing import Final

from msgspec import Struct


class ListPrice(Struct, frozen=True):
    """US dollars per million tokens. `cached`: prompt tokens that were read from a cache."""

    provider: str
    model: str  # includes its dated versions
    prompt: float
    completion: float
    cached: float
    as_of: str  # date on which the price was checked
    source: str  # the provider's page with the price

    @property
    def cache_write(self) -> float:
        """The price of prompt tokens that were written to a cache."""
        return self.prompt * _CACHE_WRITES.get(self.provider, (1.0, 1.0))[0]

    @property
    def cache_write_1h(self) -> float:
        """The price of those that were written to a cache that lives for an hour."""
        return self.prompt * _CACHE_WRITES.get(self.provider, (1.0, 1.0))[1]


#: The prices of a cache write as multiples of the prompt's, for providers that charge more for it:
#: in a cache that lives as long as by default (Anthropic: five minutes), and for an hour.
_CACHE_WRITES: Final = {"anthropic": (1.25, 2.0)}

#: What a cache write for an hour costs where only the price of any other is known, as a multiple of
#: that: Anthropic's, the only one to have both.
HOUR_BY_DEFAULT: Final = 1.6


_ANTHROPIC: Final = ("2026-10-10", "https://platform.claude.com/docs/en/about-claude/pricing")
_OPENAI: Final = ("2026-05-04", "https://developers.openai.com/api/docs/pricing")
_GEMINI: Final = ("2026-09-20", "https://ai.google.dev/gemini-api/docs/pricing")
# Checked in public price lists that follow these pages daily; two of them agree.
_GROQ: Final = ("2026-11-10", "https://console.groq.com/docs/models")
_MISTRAL: Final = ("2026-11-10", "https://mistral.ai/pricing/api")
_XAI: Final = ("2026-11-10", "https://docs.x.ai/developers/pricing")
_CEREBRAS: Final = ("2026-11-10", "https://www.cerebras.ai/pricing")
_MOONSHOT: Final = ("2026-11-10", "https://platform.kimi.ai/docs/pricing/chat")
_TOGETHER: Final = ("2026-11-10", "https://www.together.ai/pricing")
_FIREWORKS: Final = ("2026-11-10", "https://docs.fireworks.ai/serverless/pricing")

#: Prefix of Fireworks' model ids.
_FIREWORKS_PREFIX: Final = "accounts/fireworks/models/"

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
    ListPrice("fireworks", f"{_FIREWORKS_PREFIX}kimi-k3p1-pro", 2.0, 10.0, 0.2, *_FIREWORKS),
    ListPrice("fireworks", f"{_FIREWORKS_PREFIX}glm-5p3", 1.4, 4.4, 0.26, *_FIREWORKS),
    ListPrice("fireworks", f"{_FIREWORKS_PREFIX}glm-5p3-flash", 0.15, 0.5, 0.03, *_FIREWORKS),
    ListPrice("fireworks", f"{_FIREWORKS_PREFIX}qwen3p8-max", 2.0, 6.0, 0.25, *_FIREWORKS),
)

PRICES: Final = {(row.provider, row.model): row for row in _ROWS}

#: Suffix of a dated version of a model: `-20251001`, `-2026-03-05`, `@20251001`. Other suffixes,
#: such as `-mini` and `-5`, name another model with another price.
_VERSION_SUFFIX: Final = re.compile(r"[-@](?:20\d{6}|20\d\d-\d\d-\d\d)$|-latest$")


def find(provider: str | None, model: str) -> ListPrice | None:
    """The provider's list price of `model`; None if it is unknown."""
    return PRICES.get((provider or "", _VERSION_SUFFIX.sub("", model)))
