"""Chunks to events: which blocks there are, in which order, and that a fold says the same."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legato.core.chunk import Choice, Chunk, Delta
from legato.core.front import AnswerHead, WriterOptions
from legato.core.stream import Stream
from legato.fronts.messages_aggregator import MessagesAggregator
from legato.fronts.messages_events import MessagesEvents, messages_usage
from legato.fronts.messages_thoughts import packed
from legato.fronts.messages_writer import MessagesWriter
from tests.support.messages_order import MessagesBody

Json = dict[str, Any]

HEAD = AnswerHead("msg_1", 1, "public")
USAGE: Json = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
SIGNED = {"type": "thinking", "thinking": "ab", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "ZGF0YQ=="}
CITATION = {
    "type": "char_location",
    "cited_text": "x",
    "document_index": 0,
    "document_title": None,
    "file_id": None,
    "start_char_index": 0,
    "end_char_index": 1,
}
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"q": "x"}}
ENCRYPTED = {"type": "reasoning.encrypted", "id": "rs_1", "data": "x"}
GOOGLE = {"google": {"thought_signature": "g"}}


def call(number: int, arguments: str = "", name: str | None = None, **more: Any) -> Json:
    """A piece of a tool call; `name`: of one that begins."""
    function = {"name": name} if name else {}
    opening = {"id": f"call_{number}", "type": "function"} if name else {}
    piece = {"index": number, **opening, "function": {**function, "arguments": arguments}, **more}
    return {"tool_calls": [piece]}


def member(delta: Json, finish: str | None = None, **more: Any) -> Chunk:
    fields = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return Chunk([], msgspec.json.encode([fields]), fields=[fields])


def brief(event: Json) -> str:
    """An event in a few letters: `0 text` begins a block, `0 +a` goes on with it, `0.` ends it."""
    match event["type"]:
        case "content_block_start":
            return f"{event['index']} {event['content_block']['type']}"
        case "content_block_delta":
            kind, value = list(event["delta"].items())
            sign = "~" if kind[1] in ("signature_delta", "citations_delta") else "+"
            value = value[1]["cited_text"] if kind[1] == "citations_delta" else value[1]
            return f"{event['index']} {sign}{value}"
        case "content_block_stop":
            return f"{event['index']}."
        case other:
            return str(other)


A, B = call(0, name="a"), call(1, name="b")
CASES: dict[str, tuple[list[Json], str]] = {
    "nothing": ([], ""),
    "a role": ([{"role": "assistant", "content": ""}], ""),
    "text": ([{"content": "a"}, {"content": "b"}], "0 text, 0 +a, 0 +b, 0."),
    "thinking, then text": (
        [{"reasoning_content": "a"}, {"content": "b"}],
        "0 thinking, 0 +a, 0., 1 text, 1 +b, 1.",
    ),
    "signed thinking": (
        [{"reasoning_content": "a"}, {"reasoning_content": "b"}, {"reasoning_details": [SIGNED]}],
        "0 thinking, 0 +a, 0 +b, 0 ~c2ln, 0.",
    ),
    "signed thinking, twice": (
        [{"reasoning_content": "ab"}, {"reasoning_details": [SIGNED]}] * 2,
        "0 thinking, 0 +ab, 0 ~c2ln, 0., 1 thinking, 1 +ab, 1 ~c2ln, 1.",
    ),
    "a signature without a text": (
        [{"reasoning_details": [SIGNED | {"thinking": ""}]}],
        "0 thinking, 0 ~c2ln, 0.",
    ),
    "a signature whose text was not shown": (
        [{"reasoning_details": [SIGNED]}],
        "0 thinking, 0 +ab, 0 ~c2ln, 0.",
    ),
    "a signature for the second half of what was shown": (
        [{"reasoning_content": "xyab"}, {"reasoning_details": [SIGNED]}],
        "0 thinking, 0 +xyab, 0., 1 thinking, 1 +ab, 1 ~c2ln, 1.",
    ),
    "redacted thinking": (
        [{"reasoning_details": [REDACTED]}, {"content": "a"}],
        "0 redacted_thinking, 0., 1 text, 1 +a, 1.",
    ),
    "another vendor's encrypted reasoning": (
        [{"reasoning_content": "a"}, {"reasoning_details": [ENCRYPTED]}],
        "0 thinking, 0 +a, 0., 1 redacted_thinking, 1.",
    ),
    "another vendor's text of reasoning": (
        [{"reasoning_content": "a", "reasoning_details": [{"type": "reasoning.text"}]}],
        "0 thinking, 0 +a, 0.",
    ),
    "a citation": (
        [{"content": "a"}, {"citations": [CITATION]}, {"content": "b"}],
        "0 text, 0 +a, 0 ~x, 0 +b, 0.",
    ),
    "a refusal": ([{"refusal": "no"}], "0 text, 0 +no, 0."),
    "a server's own tool": (
        [{"content": "a"}, {"extra_content": {"anthropic": {"blocks": [SEARCH]}}}],
        '0 text, 0 +a, 0., 1 server_tool_use, 1 +{"q":"x"}, 1.',
    ),
    "a tool": ([A, call(0, '{"x"'), call(0, ":1}")], '0 tool_use, 0 +{"x", 0 +:1}, 0.'),
    "a tool without arguments": ([A], "0 tool_use, 0."),
    "text, then a tool": ([{"content": "a"}, A], "0 text, 0 +a, 0., 1 tool_use, 1."),
    "two tools, one after the other": (
        [A, call(0, "{}"), B, call(1, "{}")],
        "0 tool_use, 0 +{}, 0., 1 tool_use, 1 +{}, 1.",
    ),
    "two tools whose pieces interleave": (
        [A, B, call(0, '{"a"'), call(1, '{"b"'), call(0, ":1}"), call(1, ":2}")],
        '0 tool_use, 0 +{"a", 0 +:1}, 0., 1 tool_use, 1 +{"b", 1 +:2}, 1.',
    ),
    "three tools whose pieces interleave": (
        [
            A | {"tool_calls": [*A["tool_calls"], *B["tool_calls"]]},
            call(2, name="c"),
            *(call(each, "{") for each in (2, 1, 0)),
            *(call(each, "}") for each in (2, 1, 0)),
        ],
        "0 tool_use, 0 +{, 0 +}, 0., 1 tool_use, 1 +{, 1 +}, 1., 2 tool_use, 2 +{, 2 +}, 2.",
    ),
    "text within the arguments of a tool": (
        [A, call(0, "{"), {"content": "t"}, call(0, "}"), {"content": "u"}],
        "0 tool_use, 0 +{, 0 +}, 0., 1 text, 1 +t, 1 +u, 1.",
    ),
    "arguments that are never whole": (
        [A, call(0, "{"), B, call(1, "{}")],
        "0 tool_use, 0 +{, 0., 1 tool_use, 1 +{}, 1.",
    ),
    "white space behind whole arguments": (
        [A, call(0, "{}"), B, call(0, " \n"), call(1, "{}")],
        "0 tool_use, 0 +{}, 0., 1 tool_use, 1 +{}, 1.",
    ),
    "a call with a signature of Google's": (
        [call(0, "{}", name="a", extra_content=GOOGLE)],
        "0 redacted_thinking, 0., 1 tool_use, 1 +{}, 1.",
    ),
    "members of ours that are none": (
        [
            {"reasoning_details": [{"type": "redacted_thinking", "data": None}, {"type": {}}, 5]},
            {"content": "a", "citations": [None, "x"]},
            {"extra_content": {"anthropic": {"blocks": [5, {"x": 1}, {"type": 5}]}}},
            {"extra_content": {"anthropic": {"deltas": [{"y": 1}, {"type": 5}, None]}}},
            {
                "extra_content": {
                    "anthropic": {"deltas": [{"type": "input_json_delta"}, {"type": "text_delta"}]}
                }
            },
            {
                "extra_content": {
                    "anthropic": {"deltas": [{"type": "thinking_delta", "thinking": 5}]}
                }
            },
            {"extra_content": {"anthropic": 5, "google": None}},
            {"tool_calls": [{"index": 0, "id": "c", "type": "custom", "custom": {"name": "x"}}]},
            {"tool_calls": [{"index": 0, "custom": {"input": "x"}}]},
        ],
        "0 text, 0 +a, 0.",
    ),
    "a delta of a later kind": (
        [
            {"content": "a"},
            {"extra_content": {"anthropic": {"deltas": [{"type": "x_delta", "x": 1}]}}},
            {"extra_content": {"anthropic": {"deltas": [{"type": "y_delta", "thinking": 5}]}}},
        ],
        "0 text, 0 +a, 0 +1, 0 +5, 0.",
    ),
    "members that nobody knows": ([{"images": [{}], "audio": {"id": "x"}}], ""),
}


@pytest.mark.parametrize("name", CASES)
def test_the_blocks_of_chunks(name: str) -> None:
    deltas, expected = CASES[name]
    events = MessagesEvents()
    found = [each for delta in deltas for each in events.add(member(delta))]
    found += events.end(USAGE)
    assert [brief(each) for each in found][:-2] == [each for each in expected.split(", ") if each]
    assert [each["type"] for each in found][-2:] == ["message_delta", "message_stop"]


def test_a_call_is_told_with_all_that_its_block_has() -> None:
    events = MessagesEvents()
    caller = {"caller": {"type": "direct"}}
    first, *_ = events.add(member(call(0, name="a", extra_content={"anthropic": caller})))
    block = {"type": "tool_use", "id": "call_0", "name": "a", "input": {}}
    assert first["content_block"] == block | caller


def test_what_another_vendor_wants_back_is_carried() -> None:
    events = MessagesEvents()
    first, *_ = events.add(member(call(0, "{}", name="a", extra_content=GOOGLE)))
    entry = {"type": "extra_content", "extra_content": GOOGLE, "call_id": "call_0"}
    assert first["content_block"] == packed(entry)


STOPS: dict[str, tuple[Json, str, str | None]] = {
    "stop": ({"finish": "stop"}, "end_turn", None),
    "length": ({"finish": "length"}, "max_tokens", None),
    "tool_calls without a call": ({"finish": "tool_calls"}, "end_turn", None),
    "function_call without a call": ({"finish": "function_call"}, "end_turn", None),
    "content_filter": ({"finish": "content_filter"}, "refusal", None),
    "a sequence": ({"finish": "stop", "stop_sequence": "END"}, "stop_sequence", "END"),
    "a sequence, as vLLM says it": (
        {"finish": "stop", "stop_reason": "END"},
        "stop_sequence",
        "END",
    ),
    "another reason of vLLM's": ({"finish": "stop", "stop_reason": "x"}, "end_turn", None),
    "the id of a token": ({"finish": "stop", "stop_reason": 7}, "end_turn", None),
    "no sequence": ({"finish": "stop", "stop_sequence": None}, "end_turn", None),
}


@pytest.mark.parametrize("name", STOPS)
def test_stop_reasons(name: str) -> None:
    finish, reason, sequence = STOPS[name]
    events = MessagesEvents(("END",))
    events.add(member({"content": "a"}))
    events.add(member({}, **finish))
    *_, ending, _ = events.end(USAGE)
    assert ending["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


def test_the_reason_of_a_call() -> None:
    """An agent takes it for a turn of its own, and so it needs a call."""
    for finish in ("tool_calls", "function_call"):
        events = MessagesEvents()
        events.add(member(A))
        events.add(member({}, finish))
        *_, ending, _ = events.end(USAGE)
        assert ending["delta"]["stop_reason"] == "tool_use"


def test_a_refusal_in_words_is_one() -> None:
    events = MessagesEvents()
    events.add(member({"refusal": "no"}))
    events.add(member({}, "stop"))
    assert events.stop_reason == "refusal"


USAGES: dict[str, tuple[Json, tuple[int, int, int, int]]] = {
    "plain": ({}, (9, 0, 0, 4)),
    "cached": ({"prompt_tokens_details": {"cached_tokens": 5}}, (4, 0, 5, 4)),
    "written": (
        {"prompt_tokens_details": {"cached_tokens": 2, "cache_creation_tokens": 3}},
        (4, 3, 2, 4),
    ),
    "written as OpenAI says it": (
        {"prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 3}},
        (4, 3, 2, 4),
    ),
    "more cached than there is": ({"prompt_tokens_details": {"cached_tokens": 99}}, (0, 0, 9, 4)),
    "null": ({"prompt_tokens_details": None}, (9, 0, 0, 4)),
}


@pytest.mark.parametrize("name", USAGES)
def test_usage(name: str) -> None:
    more, expected = USAGES[name]
    counts = messages_usage(USAGE | more)
    assert tuple(counts.values()) == expected


def test_usage_of_a_cache_for_an_hour() -> None:
    details = {"cache_creation_tokens": 3, "cache_creation_1h_tokens": 2}
    counts = messages_usage(USAGE | {"prompt_tokens_details": details})
    assert counts["cache_creation_input_tokens"] == 3
    assert counts["cache_creation"] == {
        "ephemeral_5m_input_tokens": 1,
        "ephemeral_1h_input_tokens": 2,
    }


def test_usage_of_thinking() -> None:
    counts = messages_usage(USAGE | {"completion_tokens_details": {"reasoning_tokens": 3}})
    assert counts["output_tokens_details"] == {"thinking_tokens": 3}


# Any stream


class Sink:
    def __init__(self) -> None:
        self.body = b""
        self.closed = 0

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.body += data

    def finish(self, data: bytes) -> None:
        self.write(data)
        self.closed += 1

    def on_full(self) -> None:
        """Its client is not slow."""


def text_chunk(text: str, *, reasoning: bool = False) -> Chunk:
    """As a dialect makes it: typed, and raw."""
    name = "reasoning_content" if reasoning else "content"
    raw = msgspec.json.encode([{"index": 0, "delta": {name: text}, "finish_reason": None}])
    delta = Delta(reasoning_content=text) if reasoning else Delta(content=text)
    return Chunk([Choice(delta, 0, None)], raw)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
signed = st.builds(lambda text: SIGNED | {"thinking": text}, texts)
deltas = st.one_of(
    texts.map(lambda text: ("text", text)),
    texts.map(lambda text: ("think", text)),
    st.tuples(st.just("call"), st.integers(0, 3), st.sampled_from(['{"a"', ":1", "}", "", "{}"])),
    st.one_of(signed, st.just(REDACTED), st.just(ENCRYPTED)).map(lambda each: ("detail", each)),
    st.just(("block", SEARCH)),
)


def legal_chunks(deeds: list[tuple[Any, ...]]) -> list[Chunk]:
    chunks: list[Chunk] = []
    begun: set[int] = set()
    for kind, value, *rest in deeds:
        match kind:
            case "text" | "think":
                chunks.append(text_chunk(value, reasoning=kind == "think"))
            case "call":
                name = None if value in begun else f"tool_{value}"
                begun.add(value)
                chunks.append(member(call(value, rest[0], name)))
            case "detail":
                chunks.append(member({"reasoning_details": [value]}))
            case _:
                chunks.append(member({"extra_content": {"anthropic": {"blocks": [value]}}}))
    return chunks


def streamed(chunks: list[Chunk], *, pauses: bool = False, fails: bool = False) -> Sink:
    sink = Sink()
    writer = MessagesWriter(HEAD, WriterOptions(), sink)
    stream = Stream(lambda: 0.0, 0.0)
    stream.subscribe(writer)
    if pauses:
        writer.pause()
    _feed(stream, chunks, fails=fails)
    return sink


def _feed(stream: Stream, chunks: list[Chunk], *, fails: bool = False) -> None:
    for each in chunks:
        stream.push(each)
        stream.flush()
    if not fails:
        stream.push(member({}, "stop"))
    stream.end()


def collected(chunks: list[Chunk]) -> MessagesAggregator:
    aggregator = MessagesAggregator()
    stream = Stream(lambda: 0.0, 0.0)
    stream.subscribe(aggregator)
    _feed(stream, chunks)
    return aggregator


@settings(deadline=None, database=None, max_examples=100)
@given(st.lists(deltas, min_size=1, max_size=12))
def test_any_stream_is_a_legal_sequence_and_folds_to_the_same(deeds: list[tuple[Any, ...]]) -> None:
    whole = _with_whole_calls(deeds)
    sink = streamed(legal_chunks(whole))
    assert sink.closed == 1
    body = MessagesBody(sink.body)
    aggregator = collected(legal_chunks(whole))
    assert aggregator.error is None
    assert json.loads(aggregator.answer(HEAD)) == body.message
    slow = MessagesBody(streamed(legal_chunks(whole), pauses=True).body)
    assert slow.message == body.message
    assert [each["input"] for each in body.content if each["type"] == "tool_use"] == [
        {"a": 1} for _ in {each[1] for each in whole if each[0] == "call"}
    ]
    said = "".join(each[1] for each in whole if each[0] == "text")
    assert "".join(each["text"] for each in body.content if each["type"] == "text") == said
    broken = MessagesBody(streamed(legal_chunks(whole), fails=True).body)
    assert not broken.is_whole
    assert broken.types[-1] == "error"


def _with_whole_calls(deeds: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The same with the pieces of each call replaced by those of `{"a":1}`, the rest at the end."""
    left: dict[int, list[str]] = {}
    whole: list[tuple[Any, ...]] = []
    for deed in deeds:
        if deed[0] == "call":
            pieces = left.setdefault(deed[1], ['{"a"', ":1", "}"])
            whole.append(("call", deed[1], pieces.pop(0) if pieces else ""))
        else:
            whole.append(deed)
    return whole + [("call", number, "".join(rest)) for number, rest in left.items() if rest]
