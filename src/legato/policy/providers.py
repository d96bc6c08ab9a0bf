"""What is known of providers, as rows of data: a deployment that names one need say no more.

`python -m legato.policy.providers` prints them as the table of docs/providers.md.
"""

from typing import Final

from msgspec import Struct

from legato.core.dialect import Quirks


class Provider(Struct, frozen=True):
    """`base_url` None: it is the operator's own server. None elsewhere: nobody has looked, or
    nobody says."""

    name: str
    title: str
    base_url: str | None
    dialect: str = "openai"
    quirks: Quirks = Quirks()
    reasoning: str | None = None  # where its deltas say what the model thinks
    bills_after_disconnect: bool | None = None  # it writes on, and for money
    key: str | None = None  # the environment variable that usually holds a key
    docs: str = ""


#: One choice a request; its logprobs are a 400, whatever is asked of them.
_GROQ: Final = Quirks(
    effort_style="effort",
    has_n=False,
    rejected_parameters=frozenset({"logit_bias", "logprobs", "top_logprobs"}),
)

#: What it does not know is a 422. Usage comes unasked, and a prefix is said again.
_MISTRAL: Final = Quirks(
    effort_style="none",
    continues="prefix",
    echoes_prefix=True,
    includes_usage=False,
    max_tokens="max_tokens",
    names={"seed": "random_seed"},
    rejected_parameters=frozenset(
        {
            "logit_bias",
            "logprobs",
            "top_logprobs",
            "user",
            "service_tier",
            "store",
            "functions",
            "function_call",
            "modalities",
            "verbosity",
        }
    ),
)

# Who bills after a disconnect: openrouter.ai/docs/api/reference/streaming says of which providers
# a cancelled stream ends the work and the bill, and of which it ends neither.
_ROWS: Final = (
    Provider(
        "openai",
        "OpenAI",
        "https://api.openai.com/v1",
        quirks=Quirks(
            effort_style="effort", most="max", max_tokens="max_completion_tokens", pads=True
        ),
        reasoning="not told",
        bills_after_disconnect=False,
        key="OPENAI_API_KEY",
        docs="https://platform.openai.com/docs/api-reference/chat",
    ),
    Provider(
        "anthropic",
        "Anthropic",
        "https://api.anthropic.com",
        dialect="anthropic",
        quirks=Quirks(has_n=False, continues="prefill"),
        reasoning="`thinking` blocks",
        bills_after_disconnect=False,
        key="ANTHROPIC_API_KEY",
        docs="https://platform.claude.com/docs/en/api/messages",
    ),
    Provider(
        "gemini",
        "Google Gemini",
        "https://generativelanguage.googleapis.com",
        dialect="gemini",
        quirks=Quirks(has_n=False),
        reasoning="parts marked `thought`",
        bills_after_disconnect=True,
        key="GEMINI_API_KEY",
        docs="https://ai.google.dev/api/generate-content",
    ),
    Provider(
        "ollama",
        "Ollama",
        "http://127.0.0.1:11434",
        dialect="ollama",
        quirks=Quirks(has_n=False, continues="prefill", fetches_images=False),
        reasoning="`thinking`",
        bills_after_disconnect=False,
        docs="https://docs.ollama.com/api",
    ),
    Provider(
        "vllm",
        "vLLM",
        None,
        quirks=Quirks(effort_style="template", continues="final-message", running_usage=True),
        reasoning="`reasoning`, before `reasoning_content`",
        bills_after_disconnect=False,
        docs="https://docs.vllm.ai",
    ),
    Provider(
        "sglang",
        "SGLang",
        None,
        quirks=Quirks(effort_style="template", continues="final-message"),
        reasoning="`reasoning_content`",
        bills_after_disconnect=False,
        docs="https://docs.sglang.ai",
    ),
    Provider(
        "llama.cpp",
        "llama.cpp",
        None,
        quirks=Quirks(
            effort_style="llama",
            continues="prefill",
            continues_reasoning=True,
            has_n=False,  # its stream tells the usage of one choice only
            reports_progress=True,
            needs_alternatives=True,
        ),
        reasoning="`reasoning_content`",
        bills_after_disconnect=False,
        docs="https://github.com/ggml-org/llama.cpp/tree/master/tools/server",
    ),
    Provider(
        "deepseek",
        "DeepSeek",
        "https://api.deepseek.com",
        quirks=Quirks(
            effort_style="thinking",
            continues="prefix",
            continues_reasoning=True,
            continues_under="/beta",
            max_tokens="max_tokens",
        ),
        reasoning="`reasoning_content`",
        bills_after_disconnect=False,
        key="DEEPSEEK_API_KEY",
        docs="https://api-docs.deepseek.com",
    ),
    Provider(
        "groq",
        "Groq",
        "https://api.groq.com/openai/v1",
        quirks=_GROQ,
        reasoning="`reasoning`; Qwen: in `<think>` tags",
        bills_after_disconnect=True,
        key="GROQ_API_KEY",
        docs="https://console.groq.com/docs/openai",
    ),
    Provider(
        "mistral",
        "Mistral",
        "https://api.mistral.ai/v1",
        quirks=_MISTRAL,
        reasoning="`thinking` parts of `content`",
        bills_after_disconnect=True,
        key="MISTRAL_API_KEY",
        docs="https://docs.mistral.ai/api",
    ),
    Provider(
        "openrouter",
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        quirks=Quirks(effort_style="openrouter"),
        reasoning="`reasoning`",
        key="OPENROUTER_API_KEY",
        docs="https://openrouter.ai/docs/api/reference/overview",
    ),
    Provider(
        "together",
        "Together",
        "https://api.together.xyz/v1",
        quirks=Quirks(effort_style="effort"),
        reasoning="`reasoning`",
        bills_after_disconnect=False,
        key="TOGETHER_API_KEY",
        docs="https://docs.together.ai",
    ),
    Provider(
        "fireworks",
        "Fireworks",
        "https://api.fireworks.ai/inference/v1",
        quirks=Quirks(effort_style="effort"),
        reasoning="`reasoning_content`",
        bills_after_disconnect=False,
        key="FIREWORKS_API_KEY",
        docs="https://docs.fireworks.ai/guides/reasoning",
    ),
    Provider(
        "xai",
        "xAI",
        "https://api.x.ai/v1",
        quirks=Quirks(effort_style="effort"),
        reasoning="`reasoning_content`",
        bills_after_disconnect=False,
        key="XAI_API_KEY",
        docs="https://docs.x.ai",
    ),
    Provider(
        "cerebras",
        "Cerebras",
        "https://api.cerebras.ai/v1",
        quirks=Quirks(effort_style="effort"),
        reasoning="`reasoning`",
        key="CEREBRAS_API_KEY",
        docs="https://inference-docs.cerebras.ai/resources/openai",
    ),
    Provider(
        "nvidia",
        "NVIDIA NIM",
        "https://integrate.api.nvidia.com/v1",
        quirks=Quirks(effort_style="effort"),
        reasoning="`reasoning_content`, some `reasoning`",
        key="NVIDIA_API_KEY",
        docs="https://docs.api.nvidia.com/nim",
    ),
    Provider(
        "moonshot",
        "Moonshot",
        "https://api.moonshot.ai/v1",
        quirks=Quirks(effort_style="thinking", max_tokens="max_tokens"),
        reasoning="`reasoning_content`",
        key="MOONSHOT_API_KEY",
        docs="https://platform.moonshot.ai/docs",
    ),
)

PROVIDERS: Final = {row.name: row for row in _ROWS}

#: What holds of whoever speaks a dialect. OpenAI's is spoken by all sorts of servers.
_OF_DIALECTS: Final = {name: PROVIDERS[name].quirks for name in ("anthropic", "gemini", "ollama")}


def quirks_of(provider: str | None, dialect: str | None) -> Quirks:
    """What is known of a deployment by its provider; by its dialect where it names another one than
    its provider's own, or no provider."""
    row = PROVIDERS.get(provider or "")
    if row is not None and dialect in (None, row.dialect):
        return row.quirks
    return _OF_DIALECTS.get(dialect or "", Quirks())


def table() -> str:
    """All rows, in Markdown."""
    head = "provider|`base_url`|dialect|`n`|`continue`|its thoughts|bills after a disconnect|key"
    lines = [f"| {' | '.join(head.split('|'))} |", "|---" * (head.count("|") + 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(row))} |" for row in _ROWS)]) + "\n"


def _cells(row: Provider) -> list[str]:
    quirks = row.quirks
    bills = {None: "unknown", True: "yes", False: "no"}[row.bills_after_disconnect]
    return [
        f"[`{row.name}`]({row.docs})",
        row.base_url or "yours",
        row.dialect,
        "native" if quirks.has_n else "fan-out",
        quirks.continues,
        row.reasoning or "unknown",
        bills,
        f"`{row.key}`" if row.key else "-",
    ]


if __name__ == "__main__":
    print(table(), end="")
