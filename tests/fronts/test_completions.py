"""Text completions as a client format: what is read, and what comes of the chunks of a chat."""

import json
from typing import Any

import msgspec
import pytest

from legato.core.chunk import Chunk
from legato.core.errors import ApiError, bad_gateway, invalid
from legato.core.front import AnswerHead, FrontRequest, WriterOptions
from legato.fronts.chat_writer import DONE
from legato.fronts.completions import COMPLETIONS, INSTRUCTION
from legato.fronts.completions_aggregator import CompletionsAggregator
from legato.fronts.completions_writer import CompletionsWriter
from tests.core.test_stream import choice
from tests.fronts.test_chat_writer import Json, raw, schema, split_frames

HEAD = AnswerHead("cmpl-1", 1_700_000_000, "public")
RESPONSE_SCHEMA = schema("CreateCompletionResponse")
BODY: Json = {"model": "m", "prompt": "Once upon"}


def parsed(**more: Any) -> FrontRequest:
    return COMPLETIONS.parse(json.dumps(BODY | more).encode())


# Requests

MESSAGES = [
    {"role": "system", "content": INSTRUCTION},
    {"role": "user", "content": "Once upon"},
]
PASSED: Json = {
    "temperature": 0.5,
    "top_p": 0.9,
    "n": 2,
    "stop": ["\n"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "seed": 7,
    "presence_penalty": 1,
    "frequency_penalty": -1,
    "logit_bias": {"50256": -100},
    "user": "u",
    "top_k": 40,  # of vLLM
}
READ: dict[str, tuple[Json, Json]] = {
    # members of the request; members of the chat beside `model` and `messages`
    "nothing": ({}, {"max_tokens": 16}),
    "a list with one string": ({"prompt": ["Once upon"]}, {"max_tokens": 16}),
    "a limit": ({"max_tokens": 400}, {"max_tokens": 400}),
    "null": ({"max_tokens": None, "logprobs": None, "tools": None, "best_of": None}, {}),
    "what chat has as well": (PASSED, PASSED),
    "logprobs": ({"logprobs": 0}, {"logprobs": True}),
    "alternatives": ({"logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    "best of all": ({"n": 3, "best_of": 3}, {"n": 3}),
    "best of one": ({"best_of": 1}, {}),
    "echo": ({"echo": True}, {}),
    "suffix": ({"suffix": "."}, {}),
}


@pytest.mark.parametrize("name", READ)
def test_a_request_becomes_a_chat(name: str) -> None:
    given, fields = READ[name]
    request = parsed(**given)
    body = json.loads(request.body)
    body = {key: value for key, value in body.items() if value is not None}
    expected = {"model": "m", "messages": MESSAGES, "max_tokens": 16} | fields
    assert body == expected
    assert request.format == "completions"
    assert json.loads(request.source or b"") == BODY | given
    assert request.echo == ("Once upon" if "echo" in given else "")
    assert request.beyond is None or request.beyond.param == "suffix"
    assert (request.beyond is not None) == ("suffix" in given)
    assert request.chat.max_tokens == body["max_tokens"]
    assert request.chat.choices == body.get("n", 1)


REFUSED: dict[str, tuple[Json, str, str]] = {
    # members; `param`; words of the message
    "no prompt": ({"prompt": None}, "prompt", "neither a string nor a list"),
    "an empty list": ({"prompt": []}, "prompt", "neither a string nor a list"),
    "an object": ({"prompt": {}}, "prompt", "neither a string nor a list"),
    "two prompts": ({"prompt": ["a", "b"]}, "prompt", "`prompt` has 2 texts: send a request for"),
    "tokens": ({"prompt": [1, 2]}, "prompt", "a list of tokens: send the text itself"),
    "a list of tokens": ({"prompt": [[1, 2]]}, "prompt", "a list of tokens"),
    "no tokens wanted": ({"max_tokens": 0}, "max_tokens", ">= 1"),
    "a wrong type": ({"suffix": 1}, "suffix", "expected `str | null`, got `int`"),
    "a wrong type that chat checks": ({"temperature": "hot"}, "temperature", "got `str`"),
    "the best of three": ({"best_of": 3}, "best_of", "`best_of` is not supported"),
    "the best of more": ({"n": 2, "best_of": 3}, "best_of", "the same number as `n`"),
    "logprobs of a prompt": ({"echo": True, "logprobs": 1}, "logprobs", "together with `echo`"),
    "tools": ({"tools": []}, "tools", "use /v1/chat/completions"),
    "messages": ({"messages": []}, "messages", "no parameter of completions"),
    "options": ({"stream_options": {}}, "stream_options", "only allowed with `stream: true`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name: str) -> None:
    given, param, words = REFUSED[name]
    with pytest.raises(ApiError) as caught:
        parsed(**given)
    assert caught.value.status == 400
    assert caught.value.param == param
    shown = json.loads(COMPLETIONS.refusal(caught.value, "").body)["error"]
    assert shown["param"] == param
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "send a JSON object with `model` and `prompt`"),
        (b"{", "not valid JSON"),
        (b'{"prompt":"a"}', "`model` is required"),
        (b'{"model":"m"}', "`prompt` is required"),
    ],
)
def test_what_is_no_request(body: bytes, words: str) -> None:
    with pytest.raises(ApiError, match=words):
        COMPLETIONS.parse(body)


def test_the_id_and_the_form_of_an_error() -> None:
    assert COMPLETIONS.identity("req_12ab") == "cmpl-12ab"
    refusal = COMPLETIONS.refusal(invalid("It is too long.", param="messages[1].content"), "")
    assert refusal.status == 400
    error = json.loads(refusal.body)["error"]
    assert (error["param"], error["type"]) == ("prompt", "invalid_request_error")


# Answers


class Sink:
    def __init__(self, echo: str = "", **options: Any) -> None:
        self.sent: list[bytes] = []
        self.closed = 0
        self.full = 0
        self.writer = CompletionsWriter(HEAD, WriterOptions(**options), self, echo)

    @property
    def body(self) -> bytes:
        return b"".join(self.sent)

    @property
    def events(self) -> list[Json]:
        return [json.loads(each[6:]) for each in split_frames(self.body) if each != DONE[:-2]]

    def on_full(self) -> None:
        self.full += 1

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent.append(data)

    def finish(self, data: bytes) -> None:
        self.write(data)
        self.closed += 1


def role(index: int = 0) -> Json:
    return choice({"role": "assistant", "content": ""}, index=index)


def text(words: str, index: int = 0, **more: Any) -> Json:
    return choice({"content": words}, index=index, **more)


def finish(reason: str = "stop", index: int = 0) -> Json:
    return choice({}, index=index, finish=reason)


def shown(words: str, index: int = 0, finish: str | None = None, **more: Any) -> Json:
    member = {"text": words, "index": index, "logprobs": None, "finish_reason": finish}
    return member | more


def token(word: str, *others: str) -> Json:
    top = [{"token": each, "logprob": -2.0, "bytes": None} for each in others]
    return {"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": top}


def logprobs(*tokens: Json) -> Json:
    return {"content": list(tokens), "refusal": None}


def legacy(tokens: list[str], offsets: list[int], top: list[Json]) -> Json:
    return {
        "tokens": tokens,
        "token_logprobs": [-0.5] * len(tokens),
        "top_logprobs": top,
        "text_offset": offsets,
    }


OWN = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": None, "text_offset": [4]}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}

#: Choices of chunks, one a chunk; those of the frames; those of the answer that is not streamed.
ANSWERS: dict[str, tuple[list[Json], list[Json], list[Json]]] = {
    "text": (
        [role(), text("a"), text("ž\u2028"), finish()],
        [shown("a"), shown("ž\u2028"), shown("", finish="stop")],
        [shown("až\u2028", finish="stop")],
    ),
    "nothing": (
        [role(), finish("length")],
        [shown("", finish="length")],
        [shown("", finish="length")],
    ),
    "reasoning is not shown": (
        [role(), choice({"reasoning_content": "Hm"}), text("a"), finish()],
        [shown("a"), shown("", finish="stop")],
        [shown("a", finish="stop")],
    ),
    "a refusal is text": (
        [role(), choice({"refusal": "No"}), choice({"refusal": "."}), finish()],
        [shown("No"), shown("."), shown("", finish="stop")],
        [shown("No.", finish="stop")],
    ),
    "two choices": (
        [role(), text("a"), role(1), text("b", 1), finish("length", 1), finish()],
        [
            shown("a"),
            shown("b", 1),
            shown("", 1, "length"),
            shown("", finish="stop"),
        ],
        [shown("a", finish="stop"), shown("b", 1, "length")],
    ),
    "unknown members": (
        [role(), text("a", matched=1), finish() | {"stop_reason": 7}],
        [shown("a", matched=1), shown("", finish="stop", stop_reason=7)],
        [shown("a", finish="stop", matched=1, stop_reason=7)],
    ),
    "logprobs": (
        [
            role(),
            text("ab", logprobs=logprobs(token("a", "x", "a"), token("b"))),
            text("c", logprobs=logprobs(token("c"))),
            finish(),
        ],
        [
            shown("ab", logprobs=legacy(["a", "b"], [0, 1], [{"x": -2.0, "a": -0.5}, {"b": -0.5}])),
            shown("c", logprobs=legacy(["c"], [2], [{"c": -0.5}])),
            shown("", finish="stop"),
        ],
        [
            shown(
                "abc",
                finish="stop",
                logprobs=legacy(
                    ["a", "b", "c"],
                    [0, 1, 2],
                    [{"x": -2.0, "a": -0.5}, {"b": -0.5}, {"c": -0.5}],
                ),
            )
        ],
    ),
    "logprobs of the upstream's own completions": (
        [role(), text("a", logprobs={"content": None, "refusal": None} | OWN), finish()],
        [shown("a", logprobs=OWN), shown("", finish="stop")],
        [shown("a", finish="stop", logprobs=OWN)],
    ),
}


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("echo", ["", "Once upon "])
@pytest.mark.parametrize("name", ANSWERS)
def test_chunks_become_texts(name: str, echo: str, slow: bool) -> None:
    """Streamed or not, it is the same answer; to a slow client, too, in fewer frames."""
    chunks, streamed, folded = ANSWERS[name]
    sink, aggregator = Sink(echo), CompletionsAggregator(echo)
    if slow:
        sink.writer.pause()
    for each in chunks:
        sink.writer.push(raw(each, extras=b',"x":1'))
        sink.writer.flush()
        aggregator.push(raw(each, extras=b',"x":1'))
    sink.writer.complete(USAGE, b"")
    aggregator.complete(USAGE, b"")
    assert sink.closed == 1
    assert sink.body.endswith(DONE)
    head = {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "public",
    }
    answer = json.loads(aggregator.answer(HEAD))
    assert answer == head | {
        "choices": [each | {"text": echo + each["text"]} for each in folded],
        "usage": USAGE,
        "x": 1,
    }
    if RESPONSE_SCHEMA is not None:
        assert [each.message for each in RESPONSE_SCHEMA.iter_errors(answer)] == []
    seen: dict[int, str] = {}
    for event in sink.events:
        (one,) = event["choices"]
        assert event == head | {"choices": [one], "x": 1}
        seen[one["index"]] = seen.get(one["index"], "") + one["text"]
    assert seen == {each["index"]: each["text"] for each in answer["choices"]}
    if not slow and not echo:
        assert [each for event in sink.events for each in event["choices"]] == streamed


def text_chunk(words: str, *, is_reasoning: bool = False, **more: Any) -> Chunk:
    delta = {"reasoning_content" if is_reasoning else "content": words}
    chunk = raw(choice(delta, **more), extras=b',"x":1')
    chunk.text_choice, chunk.text, chunk.is_reasoning = 0, words, is_reasoning
    return chunk


def around(chunk: Chunk) -> tuple[bytes, bytes]:
    before, _, after = (chunk.raw or b"").partition(msgspec.json.encode(chunk.text))
    return before, after


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("shows_usage", [False, True])
@pytest.mark.parametrize(
    "chunk",
    [text_chunk("a"), text_chunk("a", own=1), text_chunk("a", is_reasoning=True)],
    ids=["text", "unknown members", "reasoning"],
)
def test_the_fast_path_writes_the_same(chunk: Chunk, shows_usage: bool, pads: bool) -> None:
    usual = Sink(shows_usage=shows_usage, pads=pads)
    usual.writer.push(chunk)
    usual.writer.flush()
    fast = Sink(shows_usage=shows_usage, pads=pads)
    write = fast.writer.text_writer(chunk, around(chunk))
    assert write is not None
    write(b'"a"', b"")
    fast.writer.flush()
    assert (fast.writer.frames, fast.writer.size) == (usual.writer.frames, usual.writer.size)
    if not pads:
        assert fast.body == usual.body
    fast.writer.pause()
    assert fast.writer.text_writer(chunk, around(chunk)) is None


@pytest.mark.parametrize("wanted", [False, True])
def test_usage_comes_last_where_it_is_asked_for(wanted: bool) -> None:
    sink = Sink(shows_usage=wanted)
    sink.writer.push(raw(text("a")))
    sink.writer.complete(USAGE, b"")
    first, *last = sink.events
    assert first.get("usage", "none") == (None if wanted else "none")
    assert [(each["choices"], each["usage"]) for each in last] == [([], USAGE)] * wanted


def test_a_failure_is_the_last_frame_and_no_done_follows() -> None:
    sink = Sink()
    sink.writer.push(raw(text("a")))
    sink.writer.fail(bad_gateway("It broke."))
    assert sink.closed == 1
    assert b"[DONE]" not in sink.body
    first, last = sink.events
    assert first["choices"] == [shown("a")]
    assert last["error"]["message"] == "It broke. Try again later."


def test_a_heartbeat_that_is_a_chunk() -> None:
    sink = Sink(heartbeat="chunk")
    sink.writer.heartbeat(None)
    (event,) = sink.events
    assert event["choices"] == [shown("")]
