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
    read: str  # the day on which `source` is known to have said so
    source: str


_ANTHROPIC: Final = ("2026-10-10", "https://platform.claude.com/docs/en/about-claude/pricing")
_OPENAI: Final = ("2026-05-04", "https://developers.openai.com/api/docs/pricing")
_GEMINI: Final = ("2026-09-20", "https://ai.google.dev/gemini-api/docs/pricing")

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
)

PRICES: Final = {(row.provider, row.model): row for row in _ROWS}

#: What the name of a version has behind that of its model: `-20251001`, `-2026-03-05`, `@20251001`.
#: `-mini` and `-5` make another model of it, at another price.
_VERSION: Final = re.compile(r"[-@](?:20\d{6}|20\d\d-\d\d-\d\d)$|-latest$")


def find(provider: str | None, model: str) -> ListPrice | None:
    """What `provider` asks for `model`, where that is known."""
    return PRICES.get((provider or "", _VERSION.sub("", model)))
