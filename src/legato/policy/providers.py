"""The known providers, as rows of data: defaults for the deployments that name them.

`python -m legato.policy.providers` prints the table in docs/providers.md.
"""

from typing import Final

from msgspec import Struct

from legato.core.dialect import Quirks


class Provider(Struct, frozen=True):
    """Defaults of one provider. `base_url` is None for servers that an operator runs; None in any
    other field means unknown."""

    name: str
    title: str
    base_url: str | None
    dialect: str = "openai"
    quirks: Quirks = Quirks()
    dialects: dict[str, Quirks] = {}  # others that it speaks at the same address
    reasoning: str | None = None  # where its deltas carry reasoning, in words
    bills_after_disconnect: bool | None = None  # it generates, and bills, to the end of the answer
    key_variable: str | None = None  # the environment variable that usually holds a key
    docs: str = ""


#: One choice per request; any logprobs parameter is a 400.
_GROQ: Final = Quirks(
    effort_style="effort",
    has_n=False,
    rejected_parameters=frozenset({"logit_bias", "logprobs", "top_logprobs"}),
    takes_extensions=False,
)

#: An unknown parameter is a 422. Usage is always sent, and a prefix is repeated in the answer.
_MISTRAL: Final = Quirks(
    effort_style="none",
    continues="prefix",
    echoes_prefix=True,
    includes_usage=False,
    max_tokens="max_tokens",
    names={"seed": "random_seed"},
    takes_extensions=False,
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
            "prompt_cache_key",
        }
    ),
)

# Source of bills_after_disconnect: openrouter.ai/docs/api/reference/streaming lists the providers
# that stop generating and billing when a stream is cancelled, and those that do not.
_ROWS: Final = (
    Provider(
        "openai",
        "OpenAI",
        "https://api.openai.com/v1",
        quirks=Quirks(
            effort_style="effort",
            most="max",
            max_tokens="max_completion_tokens",
            pads=True,
            takes_extensions=False,
        ),
        dialects={
            "openai-responses": Quirks(effort_style="effort", most="max", has_n=False, pads=True)
        },
        reasoning="not sent",
        bills_after_disconnect=False,
        key_variable="OPENAI_API_KEY",
        docs="https://platform.openai.com/docs/api-reference/chat",
    ),
    Provider(
        "anthropic",
        "Anthropic",
        "https://api.anthropic.com",
        dialect="anthropic",
        quirks=Quirks(has_n=False, continues="prefill", counts_tokens=True),
        reasoning="`thinking` blocks",
        bills_after_disconnect=False,
        key_variable="ANTHROPIC_API_KEY",
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
        key_variable="GEMINI_API_KEY",
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
        quirks=Quirks(
            effort_style="template",
            continues="final-message",
            running_usage=True,
            completes="prompt",
        ),
        reasoning="`reasoning`, before `reasoning_content`",
        bills_after_disconnect=False,
        docs="https://docs.vllm.ai",
    ),
    Provider(
        "sglang",
        "SGLang",
        None,
        quirks=Quirks(effort_style="template", continues="final-message", completes="prompt"),
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
            has_n=False,  # its stream reports the usage of one choice only
            reports_progress=True,
            needs_alternatives=True,
            completes="prompt",
            counts_tokens=True,
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
        key_variable="DEEPSEEK_API_KEY",
        docs="https://api-docs.deepseek.com",
    ),
    Provider(
        "groq",
        "Groq",
        "https://api.groq.com/openai/v1",
        quirks=_GROQ,
        reasoning="`reasoning`; Qwen: in `<think>` tags",
        bills_after_disconnect=True,
        key_variable="GROQ_API_KEY",
        docs="https://console.groq.com/docs/openai",
    ),
    Provider(
        "mistral",
        "Mistral",
        "https://api.mistral.ai/v1",
        quirks=_MISTRAL,
        reasoning="`thinking` parts of `content`",
        bills_after_disconnect=True,
        key_variable="MISTRAL_API_KEY",
        docs="https://docs.mistral.ai/api",
    ),
    Provider(
        "openrouter",
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        # It would ask other models than the route has, at other prices.
        quirks=Quirks(effort_style="openrouter", rejected_parameters=frozenset({"models"})),
        reasoning="`reasoning`",
        key_variable="OPENROUTER_API_KEY",
        docs="https://openrouter.ai/docs/api/reference/overview",
    ),
    Provider(
        "together",
        "Together",
        "https://api.together.xyz/v1",
        quirks=Quirks(effort_style="effort"),
        reasoning="`reasoning`",
        bills_after_disconnect=False,
        key_variable="TOGETHER_API_KEY",
        docs="https://docs.together.ai",
    ),
    Provider(
        "fireworks",
        "Fireworks",
        "https://api.fireworks.ai/inference/v1",
        quirks=Quirks(effort_style="effort"),
        reasoning="`reasoning_content`",
        bills_after_disconnect=False,
        key_variable="FIREWORKS_API_KEY",
        docs="https://docs.fireworks.ai/guides/reasoning",
    ),
    Provider(
        "xai",
        "xAI",
        "https://api.x.ai/v1",
        quirks=Quirks(effort_style="effort"),
        dialects={
            "openai-responses": Quirks(
                effort_style="effort",
                has_n=False,
                rejected_parameters=frozenset({"logprobs", "top_logprobs"}),
            )
        },
        reasoning="`reasoning_content`",
        bills_after_disconnect=False,
        key_variable="XAI_API_KEY",
        docs="https://docs.x.ai",
    ),
    Provider(
        "cerebras",
        "Cerebras",
        "https://api.cerebras.ai/v1",
        quirks=Quirks(effort_style="effort", takes_extensions=False),
        reasoning="`reasoning`",
        key_variable="CEREBRAS_API_KEY",
        docs="https://inference-docs.cerebras.ai/resources/openai",
    ),
    Provider(
        "nvidia",
        "NVIDIA NIM",
        "https://integrate.api.nvidia.com/v1",
        quirks=Quirks(effort_style="effort"),
        reasoning="`reasoning_content`, some `reasoning`",
        key_variable="NVIDIA_API_KEY",
        docs="https://docs.api.nvidia.com/nim",
    ),
    Provider(
        "moonshot",
        "Moonshot",
        "https://api.moonshot.ai/v1",
        quirks=Quirks(effort_style="thinking", max_tokens="max_tokens"),
        reasoning="`reasoning_content`",
        key_variable="MOONSHOT_API_KEY",
        docs="https://platform.moonshot.ai/docs",
    ),
)

PROVIDERS: Final = {row.name: row for row in _ROWS}

#: Quirks by dialect, for deployments without a provider. The `openai` dialect has no entry: servers
#: that use it differ too much.
_DIALECT_QUIRKS: Final = {
    name: PROVIDERS[name].quirks for name in ("anthropic", "gemini", "ollama")
} | {"openai-responses": Quirks(effort_style="effort", has_n=False)}


def quirks_of(provider: str | None, dialect: str | None) -> Quirks:
    """Quirks of the provider; of the dialect if the deployment has no provider, or uses a dialect
    that is not known of its provider."""
    row = PROVIDERS.get(provider or "")
    if row is not None and dialect in (None, row.dialect):
        return row.quirks
    if row is not None and dialect in row.dialects:
        return row.dialects[dialect]
    return _DIALECT_QUIRKS.get(dialect or "", Quirks())


def table() -> str:
    """All rows as a Markdown table."""
    head = "provider|`base_url`|dialect|`n`|`continue`|reasoning|bills after a disconnect|key"
    lines = [f"| {' | '.join(head.split('|'))} |", "|---" * (head.count("|") + 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(row))} |" for row in _ROWS)]) + "\n"


def _cells(row: Provider) -> list[str]:
    quirks = row.quirks
    bills = {None: "unknown", True: "yes", False: "no"}[row.bills_after_disconnect]
    return [
        f"[`{row.name}`]({row.docs})",
        row.base_url or "yours",
        ", ".join((row.dialect, *row.dialects)),
        "native" if quirks.has_n else "fan-out",
        quirks.continues,
        row.reasoning or "unknown",
        bills,
        f"`{row.key_variable}`" if row.key_variable else "-",
    ]


if __name__ == "__main__":
    print(table(), end="")
