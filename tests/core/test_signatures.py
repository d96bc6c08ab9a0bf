"""Signed reasoning goes back to its maker alone."""

import base64
import zlib
from typing import Any

import msgspec
import pytest

from legato.core.chunk import Chunk
from legato.core.errors import ApiError, bad_gateway, invalid
from legato.core.json_text import encoded
from legato.core.signatures import (
    REMEMBERED,
    Makers,
    Owner,
    SignatureNotes,
    blames_signature,
    carried,
    is_carried,
    maker,
    uncarried,
)


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("claude-sonnet-4-5-20250929", "claude-sonnet"),
        ("claude-3-5-sonnet-20241022", "claude"),
        ("anthropic/claude-opus-4.1", "claude-opus"),
        ("gpt-5-mini", "gpt"),
        ("gpt-4o", "gpt"),
        ("o3", "o"),
        ("gemini-2.5-pro", "gemini"),
        ("grok-4", "grok"),
        ("deepseek-reasoner", "deepseek-reasoner"),
        ("7b", "7b"),
    ],
)
def test_versions_of_a_model_are_one_family(model: str, family: str) -> None:
    assert maker("vendor", model) == f"vendor/{family}"


HERE, THERE = "anthropic/claude-sonnet", "other/claude"
THINKING = {"type": "thinking", "thinking": "hm", "signature": "S1"}
REDACTED = {"type": "redacted_thinking", "data": "S2"}
ENCRYPTED = {
    "type": "reasoning.encrypted",
    "id": "rs_1",
    "data": "S3",
    "format": "openai-responses-v1",
}
ROUTED = {"type": "reasoning.text", "text": "hm", "signature": "S4", "format": "x"}
GOOGLE = {"extra_content": {"google": {"thought_signature": "S5"}}}


def owner(form: str = "messages", known: dict[str, str] | None = None, **options: Any) -> Owner:
    makers = Makers()
    for signature, who in (known or {}).items():
        makers.note(signature, who)
    return Owner(makers, HERE, form, **options)


@pytest.mark.parametrize(
    ("detail", "formats"),
    [
        (THINKING, {"messages"}),
        (REDACTED, {"messages"}),
        (ENCRYPTED, {"responses"}),
        (ROUTED, {"chat"}),
    ],
)
@pytest.mark.parametrize("form", ["messages", "responses", "chat", ""])
@pytest.mark.parametrize("known", [None, HERE, THERE])
def test_an_entry_goes_to_who_made_it(
    detail: dict[str, Any], formats: set[str], form: str, known: str | None
) -> None:
    """Where nobody knows who that was, its shape decides."""
    signature = str(detail.get("signature") or detail.get("data"))
    message = {"role": "assistant", "content": "x", "reasoning_details": [detail]}
    body = msgspec.json.encode({"model": "m", "messages": [message]})
    left, count = owner(form, {signature: known} if known else None).of_chat(body)
    keeps = known == HERE or (known is None and form in formats)
    assert (count, left == body) == (0, True) if keeps else (1, False)
    if not keeps:
        (stripped,) = msgspec.json.decode(left)["messages"]
        assert stripped == {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    ("form", "known", "keeps"),
    [
        ("", None, True),
        ("chat", None, True),
        ("messages", None, False),
        ("", THERE, False),
        ("", HERE, True),
    ],
)
def test_a_signature_of_a_tool_call(form: str, known: str | None, keeps: bool) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}} | GOOGLE
    messages = [{"role": "assistant", "tool_calls": [call]}]
    body = msgspec.json.encode({"messages": messages})
    left, count = owner(form, {"S5": known} if known else None).of_chat(body)
    assert count == (0 if keeps else 1)
    assert (b"S5" in left) is keeps
    assert b'"name":"f"' in left


def test_what_is_left_out_of_messages_as_they_came() -> None:
    content = [THINKING, REDACTED, {"type": "text", "text": "x"}]
    messages = [
        {"role": "user", "content": [THINKING]},
        {"role": "assistant", "content": content},
        {"role": "assistant", "content": [THINKING]},
        {"role": "assistant", "content": "thinking"},
    ]
    body = encoded({"messages": messages, "x": 1})
    assert owner().of_source("messages", body) == (body, 0)
    left, count = owner(known={"S1": THERE}).of_source("messages", body)
    assert count == 2
    assert msgspec.json.decode(left) == {
        "messages": [
            messages[0],
            {"role": "assistant", "content": content[1:]},
            messages[3],
        ],
        "x": 1,
    }


def test_all_else_of_a_request_stays_as_it_came() -> None:
    """Spelling, names that are there twice, and numbers that no decoder takes."""
    foreign = (
        b'{"role":"assistant","content":[{"type":"thinking","thinking":"a","signature":"S1"}]}'
    )
    body = b'{ "x":1e999,"messages": [{"role":"user",  "n":1.10,"content":"hi"} ,%b], "x":1e400}'
    left, count = owner(known={"S1": THERE}).of_source("messages", body % foreign)
    assert count == 1
    expected = b'{ "x":1e999,"messages": [{"role":"user",  "n":1.10,"content":"hi"}], "x":1e400}'
    assert left == expected


@pytest.mark.parametrize("signature", [{}, {"signature": ""}, {"signature": None}])
@pytest.mark.parametrize(("who", "keeps"), [(HERE, False), ("deepseek/deepseek-chat", True)])
def test_thinking_that_nobody_signed(signature: dict[str, Any], who: str, keeps: bool) -> None:
    """Claude's server refuses it, and what is signed would have to be left out with it. Others of
    its format sign nothing."""
    unsigned = {"type": "thinking", "thinking": "hm"} | signature
    content = [unsigned, THINKING, {"type": "text", "text": "x"}]
    body = encoded({"messages": [{"role": "assistant", "content": content}]})
    left, count = Owner(Makers(), who, "messages").of_source("messages", body)
    assert count == (0 if keeps else 1)
    assert msgspec.json.decode(left)["messages"][0]["content"] == content[count:]


def test_carried_blocks_do_not_go_to_an_upstream_of_messages() -> None:
    packed = {"type": "redacted_thinking", "data": carried([ENCRYPTED])}
    body = encoded({"messages": [{"role": "assistant", "content": [packed, THINKING]}]})
    left, count = owner().of_source("messages", body)
    assert (count, msgspec.json.decode(left)["messages"][0]["content"]) == (1, [THINKING])


def test_what_is_left_out_of_responses_as_they_came() -> None:
    items = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "S3"},
        {"type": "reasoning", "id": "rs_2", "summary": []},
        {"role": "user", "content": "encrypted_content"},
    ]
    body = encoded({"input": items})
    assert owner("responses").of_source("responses", body) == (body, 0)
    left, count = owner("responses", {"S3": THERE}).of_source("responses", body)
    assert (count, msgspec.json.decode(left)) == (1, {"input": items[1:]})
    assert (
        owner("responses").of_source("responses", encoded({"input": "encrypted_content"}))[1] == 0
    )


def test_who_has_refused_it_gets_none_of_it() -> None:
    turn: dict[str, Any] = {"role": "assistant", "content": [THINKING]}
    bare = owner(known={"S1": HERE}, keeps_none=True)
    assert bare.of_source("messages", encoded({"messages": [turn]}))[1] == 1
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    bare = owner("responses", keeps_none=True)
    assert bare.of_source("responses", encoded({"input": [item]})) == (b'{"input":[]}', 1)
    turn = {"role": "assistant", "content": "x", "reasoning_details": [THINKING]}
    assert bare.of_chat(encoded({"messages": [turn]}))[1] == 1


@pytest.mark.parametrize(
    ("error", "blames"),
    [
        (invalid("messages.1.content.0: Invalid `signature` in `thinking` block"), True),
        (invalid("The encrypted content gAAA could not be verified."), True),
        (ApiError(400, "invalid_encrypted_content", "No."), True),
        (invalid("Item with id 'rs_1' not found. Items are not persisted when ..."), True),
        (invalid("Item with id 'msg_1' not found."), False),
        (invalid("max_tokens: too large"), False),
        (bad_gateway("The upstream sent a signature."), False),
    ],
)
def test_a_refusal_that_is_about_signatures(error: ApiError, blames: bool) -> None:
    assert blames_signature(error) is blames


@pytest.mark.parametrize("raw", [True, False])
def test_signatures_of_an_answer_are_noted(raw: bool) -> None:
    makers = Makers()
    notes = SignatureNotes(makers, HERE)
    call = {"index": 0, "function": {"arguments": ""}} | GOOGLE
    delta = {"reasoning_details": [THINKING, REDACTED], "tool_calls": [call]}
    members = [{"index": 0, "delta": delta, "finish_reason": None}]
    chunk = Chunk([], raw=encoded(members)) if raw else Chunk([], fields=members)
    assert notes.transform(chunk) is chunk
    assert [makers.maker(each) for each in ("S1", "S2", "S5", "S3")] == [HERE, HERE, HERE, None]


def test_the_oldest_signatures_are_forgotten() -> None:
    makers = Makers()
    for number in range(REMEMBERED + 10):
        makers.note(f"{number}", HERE)
    assert makers.maker("9") is None
    assert makers.maker("10") == HERE


def test_blocks_that_are_carried_come_back() -> None:
    blocks = [THINKING, REDACTED, {"type": "thinking", "thinking": "ž\u2028" * 5_000}]
    content = carried(blocks)
    assert is_carried(content)
    assert content.isascii()
    assert uncarried(content) == blocks
    assert len(content) < 1_000, "compressed"


@pytest.mark.parametrize(
    "content",
    [
        "gAAAAAB",
        "legato-1.",
        "legato-1.!!!",
        "legato-1.AAAA",
        "legato-1." + base64.urlsafe_b64encode(zlib.compress(b"[" * 100_000)).decode(),
        carried([THINKING])[:-8],
        carried([]).replace("legato-1.", "legato-1.x"),
        carried([{"x": "a" * (8 * 1024 * 1024)}]),
    ],
    ids=["OpenAI's", "empty", "no Base64", "no zlib", "nested", "cut", "changed", "a bomb"],
)
def test_what_is_not_carried_is_nothing(content: str) -> None:
    assert uncarried(content) == []


def test_carried_blocks_do_not_go_to_an_upstream_of_responses() -> None:
    items = [
        {"type": "reasoning", "id": "rs_1", "encrypted_content": carried([THINKING])},
        {"type": "reasoning", "id": "rs_2", "encrypted_content": "S3"},
    ]
    body = msgspec.json.encode({"input": items})
    left, count = owner("responses").of_source("responses", body)
    assert count == 1
    assert [each["id"] for each in msgspec.json.decode(left)["input"]] == ["rs_2"]
