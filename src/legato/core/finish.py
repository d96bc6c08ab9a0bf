"""Finish reasons: the words of all vendors, in those of OpenAI.

After the public API references of Anthropic, Amazon Bedrock (Converse, Titan), AI21, Baidu, Cohere,
GigaChat, Google, IBM watsonx, LM Studio, Mistral, Ollama, SambaNova, TGI, Together, xAI and Z.ai.
One list for all dialects: servers borrow each other's words.
"""

from typing import Final

from legato.core.chunk import FINISH_REASONS
from legato.core.errors import bad_gateway

#: What is not here says that the answer broke (`error`, `abort`, `network_error`, `other`,
#: `insufficient_system_resource`, `malformed_function_call`, ...) or nothing that is known.
_WORDS: Final = {
    "stop": """
        complete completed compaction end end_of_text end_turn endoftext eos eos_found eos_token
        finish finished normal pause_turn stop_sequence stop_string_found stop_token
    """,
    "length": """
        context_length_exceeded context_length_reached context_window_exceeded max_context
        max_context_length max_len max_length max_new_tokens max_output_tokens
        max_predicted_tokens_reached max_tokens model_context_window_exceeded model_length
        token_limit
    """,
    "tool_calls": "function_calls tool_call tool_use",
    "content_filter": """
        blacklist blocklist content_filtered error_toxic escalation guardrail_intervened
        image_prohibited_content image_recitation image_safety language model_armor
        prohibited_content recitation refusal safety sensitive spii
    """,
}


def _plain(reason: str) -> str:
    """`MAX_TOKENS`, `max-tokens` and `maxTokens` are one word, and so is `REASON_MAX_TOKENS`."""
    word = "".join(filter(str.isalnum, reason)).lower()
    return word.removeprefix("finishreason").removeprefix("reason")


_FINISHES: Final = {
    _plain(word): finish for finish, words in _WORDS.items() for word in (finish, *words.split())
} | {"functioncall": "function_call"}


def known_finish(reason: str) -> str | None:
    """The contract's word for `reason`; None where it says that the answer broke, or is unknown."""
    return reason if reason in FINISH_REASONS else _FINISHES.get(_plain(reason))


def finish_reason(reason: str, detail: str | None = None) -> str:
    """The contract's word for `reason`. A reason that says that the answer broke, or that is not
    known, raises `UpstreamError` `upstream_aborted`: a finish is never invented.

    `detail`: what the upstream adds to the reason, for the message.
    """
    known = known_finish(reason)
    if known is None:
        why = f": {detail[:500]}" if detail else ""
        raise bad_gateway(
            f"The upstream ended its answer with `{reason[:100]}`{why}.", code="upstream_aborted"
        )
    return known
