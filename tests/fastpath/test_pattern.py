"""What a pattern is learnt from, and what is no pattern."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from legato.core.chunk import Choice, Chunk, Delta
from legato.core.span_edit import with_number, with_padding
from legato.core.stream import Stream
from legato.dialects import anthropic, openai, openai_responses
from legato.fastpath.pattern import Pattern, has_text, learn, steady
from tests.support.relay import event, text

Read = Callable[[bytes, bytes], Chunk | None]

NAMED = b"event: message\n"
ANTHROPIC = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}\n\n'
)


NUMBERED = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","sequence_number":41,"item_id":"msg_1",'
    b'"output_index":0,"content_index":0,"delta":"Hi","logprobs":[],"obfuscation":"aB9-_x"}\n\n'
)


def decoded(event: bytes, read: Read) -> Chunk:
    """As a stream has it that has taken it: it knows the text of it."""
    lines = event.removesuffix(b"\n\n").split(b"\n")
    fields = {name: value for name, _, value in (each.partition(b": ") for each in lines)}
    chunk = read(fields.get(b"event", b""), fields[b"data"])
    assert chunk is not None
    Stream(lambda: 0.0, 0.0).push(chunk)
    return chunk


def plain() -> Read:
    return openai.reader().read


def claude() -> Read:
    """Where a block of text has begun."""
    reader = anthropic.reader()
    begun = {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}
    reader.read(b"content_block_start", json.dumps(begun).encode())
    return reader.read


def responses() -> Read:
    return openai_responses.reader().read


(TEXT,) = text("Hi")

# an event, and what reads it
LEARNT: dict[str, tuple[bytes, Callable[[], Read]]] = {
    "a text": (TEXT, plain),
    "reasoning": (event({"reasoning_content": "Hi"}), plain),
    "with a name": (NAMED + TEXT, plain),
    "spaces behind it": (TEXT.replace(b"}\n\n", b"}   \n\n"), plain),
    "what the text looks like itself": (text("data: event: ")[0], plain),
    "another dialect": (ANTHROPIC, claude),
}


@pytest.mark.parametrize("case", LEARNT)
def test_a_pattern_is_what_stands_around_the_text(case: str) -> None:
    event, reader = LEARNT[case]
    read = reader()
    chunk = decoded(event, read)
    assert has_text(event, chunk)
    seen: list[tuple[bytes, bytes]] = []

    def watched(name: bytes, data: bytes) -> Chunk | None:
        seen.append((name, data))
        return read(name, data)

    pattern = learn(event, chunk, watched)
    assert pattern is not None
    quoted = json.dumps(chunk.text).encode()
    assert pattern.head[:-1] + quoted + pattern.tail[1:] == event
    assert pattern.head[-1:] == pattern.tail[:1] == b'"'
    assert chunk.raw == pattern.raw[0] + quoted + pattern.raw[1]
    assert pattern.is_encoded is (reader is claude)
    ((name, _),) = seen
    assert name == (event.partition(b"\n")[0].removeprefix(b"event: ") if name else b"")
    assert bool(name) is event.startswith(b"event: ")


PADDED = TEXT.replace(b"}\n\n", b', "obfuscation":"abc"}\n\n')


@pytest.mark.parametrize(
    ("event", "reader", "others"),
    [
        (
            NUMBERED,
            responses,
            [
                with_number(NUMBERED, 42),
                with_number(NUMBERED, 0),
                with_padding(NUMBERED, b""),
                NUMBERED.replace(b'"output_index":0', b'"output_index":1'),
                NUMBERED.replace(b":41,", b":041,"),
                NUMBERED.replace(b":41,", b":4.1,"),
                NUMBERED.replace(b":41,", b":-41,"),
                NUMBERED.replace(b":41,", b":,"),
                NUMBERED.replace(b":41,", b":1234567890123456,"),
                NUMBERED.replace(b'"aB9-_x"', rb'"\u0041"'),
                NUMBERED.replace(b'"sequence_number":41,', b""),
            ],
        ),
        (PADDED, plain, [with_padding(PADDED, b"defghi"), TEXT]),
    ],
    ids=["responses", "chat"],
)
def test_numbers_and_padding_make_no_difference(
    event: bytes, reader: Callable[[], Read], others: list[bytes]
) -> None:
    read = reader()
    pattern = learn(event, decoded(event, read), read)
    assert pattern is not None
    assert pattern.varies
    assert steady(event) == pattern.head[:-1] + b'"Hi"' + pattern.tail[1:]
    same = [each for each in others if steady(each) == steady(event)]
    assert same == others[: 3 if reader is responses else 1]


@pytest.mark.parametrize(
    "event",
    [
        TEXT.replace(b"}\n\n", b', "sequence_number":41}\n\n'),
        event({"content": "Hi"}).replace(b'"Hi"', b'"Hi","obfuscation":"abc"'),
    ],
    ids=["a number that is a member like others", "padding of the text itself"],
)
def test_what_a_client_sees_makes_a_difference(event: bytes) -> None:
    read = plain()
    pattern = learn(event, decoded(event, read), read)
    assert pattern is not None
    assert not pattern.varies
    assert pattern.head[:-1] + b'"Hi"' + pattern.tail[1:] == event


@pytest.mark.parametrize(
    "event",
    [
        text("m")[0],
        text("content")[0],
        text("H")[0].replace(b'"H"', rb'"\u0048"'),
        event({"refusal": "Hi"}),
        event({}, "stop"),
    ],
    ids=["a text that is there twice", "like a name", "escaped", "no text", "a finish"],
)
def test_a_text_that_cannot_be_found_for_sure_is_none(event: bytes) -> None:
    assert not has_text(event, decoded(event, plain()))


# events that say as much as one that is learnt, in another way
NEVER: dict[str, bytes] = {
    "another field in front": b"id: 7\n" + TEXT,
    "another field behind the name": NAMED + b"id: 7\n" + TEXT,
    "another field in front of the name": b"id: 7\n" + NAMED + TEXT,
    "a field behind": TEXT.removesuffix(b"\n") + b"id: 7\n\n",
    "a carriage return": TEXT.removesuffix(b"\n\n") + b"\r\n\r\n",
    "a carriage return before the last line": TEXT.removesuffix(b"\n\n") + b"\r\n\n",
    "no blank line": TEXT.removesuffix(b"\n"),
    "two lines of data": TEXT.replace(b', "choices"', b',\ndata: "choices"'),
}


@pytest.mark.parametrize("case", NEVER)
def test_what_is_framed_in_another_way_is_no_pattern(case: str) -> None:
    read = plain()
    assert learn(NEVER[case], decoded(TEXT, read), read) is None


PROBE = "~legato: text~"
TRIED = rb'[{"index":0,"delta":{"content":"~legato\u003a text~"},"finish_reason":null}]'


def probe(**members: Any) -> Chunk:
    """What the text on trial is decoded to, but for `members`."""
    choice = {"index": 0, "delta": Delta(content=PROBE), "finish_reason": None} | members.pop(
        "choice", {}
    )
    return Chunk(**({"choices": [Choice(**choice)], "raw": TRIED} | members))


# what the event with the text on trial is decoded to
TRIALS: dict[str, Chunk | None] = {
    "nothing": None,
    "no choice": probe(choices=[]),
    "two choices": probe(choices=[Choice(Delta(content=PROBE), 0, None)] * 2),
    "another choice": probe(choice={"index": 1}),
    "no delta": probe(choice={"delta": None}),
    "a finish with it": probe(choice={"finish_reason": "stop"}),
    "another choice, with its finish": probe(choice={"index": 1, "finish_reason": "stop"}),
    "reasoning": probe(choice={"delta": Delta(reasoning_content=PROBE)}),
    "another text": probe(choice={"delta": Delta(content=PROBE + "!")}),
    "other members": probe(extras=b',"x":1'),
    "usage": probe(usage={"prompt_tokens": 1}),
    "the text is not in it": probe(raw=b"[]"),
    "the text is in it twice": probe(raw=TRIED * 2),
}


def test_a_trial_that_gives_the_same_with_another_text_makes_a_pattern() -> None:
    chunk = decoded(TEXT, plain())
    assert isinstance(learn(TEXT, chunk, lambda name, data: probe()), Pattern)


@pytest.mark.parametrize("case", TRIALS)
def test_a_trial_that_gives_anything_else_makes_none(case: str) -> None:
    chunk = decoded(TEXT, plain())
    assert learn(TEXT, chunk, lambda name, data: TRIALS[case]) is None
