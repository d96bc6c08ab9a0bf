"""Finish reasons: the words of all vendors in the contract's, in each way of writing them."""

import pytest

from legato.core.chunk import FINISH_REASONS
from legato.core.errors import UpstreamError
from legato.core.finish import finish_reason, known_finish

WORDS: dict[str, str] = {
    "stop": """
        stop STOP end end_turn stop_sequence pause_turn compaction eos eos_token COMPLETE FINISH
        endoftext end_of_text normal eosFound stopStringFound REASON_STOP FINISH_REASON_STOP
    """,
    "length": """
        length LENGTH max_tokens MAX_TOKENS maxTokens max-tokens max_output_tokens model_length
        model_context_window_exceeded context_window_exceeded context_length_exceeded
        maxPredictedTokensReached contextLengthReached token_limit REASON_MAX_LEN REASON_MAX_CONTEXT
    """,
    "tool_calls": "tool_calls TOOL_CALL tool_use toolUse toolCalls tool-calls REASON_TOOL_CALLS",
    "function_call": "function_call FUNCTION_CALL",
    "content_filter": """
        content_filter content-filter content_filtered sensitive refusal SAFETY RECITATION LANGUAGE
        BLOCKLIST blacklist PROHIBITED_CONTENT SPII IMAGE_SAFETY IMAGE_RECITATION
        IMAGE_PROHIBITED_CONTENT MODEL_ARMOR ESCALATION guardrail_intervened ERROR_TOXIC
    """,
}


@pytest.mark.parametrize(
    ("theirs", "ours"), [(word, ours) for ours, words in WORDS.items() for word in words.split()]
)
def test_a_word_for_a_finish(theirs: str, ours: str) -> None:
    assert finish_reason(theirs) == ours
    assert ours in FINISH_REASONS


BROKEN = """
    error ERROR abort aborted cancelled network_error insufficient_system_resource timeout load
    unload OTHER MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL NO_IMAGE IMAGE_OTHER not_finished null
    malformed_tool_use userStopped modelUnloaded failed FINISH_REASON_UNSPECIFIED melted _ ž
"""


@pytest.mark.parametrize("reason", BROKEN.split())
def test_a_word_that_ends_no_answer(reason: str) -> None:
    assert known_finish(reason) is None
    with pytest.raises(UpstreamError) as caught:
        finish_reason(reason)
    assert (caught.value.status, caught.value.code) == (502, "upstream_aborted")
    assert f"`{reason}`" in caught.value.message


def test_what_an_upstream_adds_to_its_reason_is_passed_on() -> None:
    with pytest.raises(UpstreamError) as caught:
        finish_reason("melted" * 100, "why " * 1000)
    assert "`: why why" in caught.value.message
    assert len(caught.value.message) < 700
