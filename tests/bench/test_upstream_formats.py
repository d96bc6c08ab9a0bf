"""The upstream's answers: valid in their API's format, and different from answer to answer."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from bench.load import SENT
from bench.upstream_answers import Answer, Format
from bench.upstream_formats import ANTHROPIC, CONSTANT, LLAMA, MIX, OPENROUTER

CHUNKS = 8
ALL = (*MIX, CONSTANT)


def http_chunks(data: bytes) -> Iterator[bytes]:
    """The contents of the HTTP chunks; nothing may follow the last."""
    at = 0
    while True:
        size, _, _ = data[at:].partition(b"\r\n")
        begin = at + len(size) + 2
        end = begin + int(size, 16)
        assert data[end : end + 2] == b"\r\n"
        if begin == end:
            assert len(data) == end + 2
            return
        yield data[begin:end]
        at = end + 2


def body_of(answer: Answer) -> list[bytes]:
    head, _, rest = answer.opening().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    contents = [answer.content(at, 10**18 + at) for at in range(CHUNKS)]
    return list(http_chunks(rest + b"".join(contents) + answer.end()))


def events_of(answer: Answer) -> list[dict[str, Any]]:
    """The JSON of all events. Every HTTP chunk must hold whole events."""
    events: list[dict[str, Any]] = []
    for chunk in body_of(answer):
        assert chunk.endswith(b"\n\n")
        for event in chunk.decode().removesuffix("\n\n").split("\n\n"):
            data = event.rpartition("data: ")[2]
            if not event.startswith(":") and data != "[DONE]":
                events.append(json.loads(data))
    return events


def text_of(events: list[dict[str, Any]]) -> str:
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.parametrize("style", ALL, ids=lambda style: style.name)
def test_an_answer_is_a_complete_chat_completion(style: Format) -> None:
    events = events_of(Answer(style, 3, CHUNKS))
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    assert len({event["model"] for event in events}) == 1
    stamps = SENT.findall(text_of(events).encode())
    assert stamps == [b"%019d" % (10**18 + at) for at in range(CHUNKS)]
    choices = [choice for event in events for choice in event["choices"]]
    assert [choice["finish_reason"] for choice in choices].count("stop") == 1
    usages = [event["usage"] for event in events if event.get("usage")]
    assert [usage["completion_tokens"] for usage in usages] == [CHUNKS]
    assert body_of(Answer(style, 3, CHUNKS))[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize("style", [*MIX, ANTHROPIC], ids=lambda style: style.name)
def test_no_two_answers_have_the_same_bytes(style: Format) -> None:
    """Not even of the same text at the same time."""
    first, second = (Answer(style, 0, CHUNKS) for _ in range(2))
    assert first.opening() + first.end() != second.opening() + second.end()
    if style is not ANTHROPIC:  # only its first event has an id
        assert first.content(5, 0) != second.content(5, 0)


def test_the_texts_of_chunks_differ() -> None:
    answer = Answer(LLAMA, 0, 100)
    texts = {re.sub(rb"@\d+@", b"", answer.content(at, at)) for at in range(1, 60)}
    assert len(texts) > 40


def test_llama_cpp_changes_created_within_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(LLAMA, 0, CHUNKS)
    before = answer.content(1, 10**18)
    monkeypatch.setattr("time.time", lambda: 1_900_000_000.0)
    after = answer.content(2, 10**18 + 10**9)
    assert b'"created":1900000000,' not in before
    assert b'"created":1900000000,' in after


def test_llama_cpp_joins_role_and_first_text_and_finish_and_usage() -> None:
    body = body_of(Answer(LLAMA, 0, CHUNKS))
    assert [chunk.count(b"data: ") for chunk in body] == [2, *[1] * (CHUNKS - 1), 2, 1]
    assert b'"timings":{' in body[-2]


def test_openrouter_begins_with_a_comment_and_changes_its_provider() -> None:
    answers = [Answer(OPENROUTER, number, CHUNKS) for number in range(50)]
    assert body_of(answers[0])[0] == b": OPENROUTER PROCESSING\n\n"
    assert len({events_of(answer)[0]["provider"] for answer in answers}) == 4


def test_anthropic_pads_its_events() -> None:
    answer = Answer(ANTHROPIC, 0, CHUNKS)
    body = body_of(answer)
    ends = {re.search(rb"\} *\}\n\n$", chunk) for chunk in body if b"text_delta" in chunk}
    assert len({match[0] for match in ends if match}) > 3
    types = [event["type"] for event in events_of(answer)]
    assert types[:3] == ["message_start", "content_block_start", "ping"]
    assert types[3:-3] == ["content_block_delta"] * CHUNKS
    assert types[-3:] == ["content_block_stop", "message_delta", "message_stop"]


@pytest.mark.parametrize("style", ALL, ids=lambda style: style.name)
def test_reasoning_is_between_tags_that_are_split_over_chunks(style: Format) -> None:
    answer = Answer(style, 0, CHUNKS, thinks=True)
    text = text_of(events_of(answer))
    assert text.startswith("<think>@")
    assert text.count("</think>") == 1
    assert len(SENT.findall(text.partition("</think>")[0].encode())) == CHUNKS // 2
    chunks = body_of(Answer(style, 0, CHUNKS, thinks=True))
    assert not any(tag in chunk for chunk in chunks for tag in (b"<think>", b"</think>"))


@pytest.mark.parametrize("style", [*ALL, ANTHROPIC], ids=lambda style: style.name)
def test_prepared_chunks_are_content_chunks(style: Format) -> None:
    prepared = Answer(style, 0, 100).prepared(16)
    texts = b"".join(http_chunks(b"".join(prepared) + b"0\r\n\r\n"))
    assert SENT.findall(texts) == [b"%019d" % number for number in range(1, 17)]
