"""What the local engine, the real llama.cpp, answers to the parameters of a request."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import Running
from tests.support.engines import MODEL, THINKING, engines
from tests.support.wire import Answer, Wire, ask, request

pytestmark = pytest.mark.asyncio(loop_scope="package")

COUNT = "Count from one to twenty in words."
EMOJI = "👩‍🚀🎉 naïve 東京 \u2028 x"
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "size": {"enum": ["S", "L"]}},
    "required": ["city", "size"],
    "additionalProperties": False,
}


def asked(text: str, **more: Any) -> dict[str, Any]:
    fields = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0}
    return fields | {"max_tokens": 60, "stream": True, **more}


async def say(engine: Running, text: str = COUNT, **more: Any) -> Answer:
    return await ask(engine.port, engine.key, asked(text, **more))


def text_of(answer: Answer) -> str:
    """The whole text, of a stream or not."""
    if answer.headers["content-type"] == "application/json":
        return answer.json["choices"][0]["message"]["content"]
    assert answer.done
    return answer.text()


def counted(stream: bool) -> dict[str, Any]:
    """A stream or not, with usage."""
    return {"stream": stream} | ({"stream_options": {"include_usage": True}} if stream else {})


def usage_of(answer: Answer) -> dict[str, Any]:
    if answer.headers["content-type"] == "application/json":
        return answer.json["usage"]
    *before, last = answer.chunks
    assert not any(chunk["usage"] for chunk in before)
    assert last["choices"] == []
    return last["usage"]


def tokens_of(answer: Answer) -> list[dict[str, Any]]:
    """Those whose probabilities a stream has told."""
    choices = [each for chunk in answer.chunks for each in chunk["choices"]]
    return [token for each in choices for token in (each.get("logprobs") or {}).get("content", ())]


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}


FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "any object": ({"type": "json_object"}, {"type": "object"}),
    "this object": (form(CITY), CITY),
    "one of these": (form({"enum": ["yes", "no"]}), {"enum": ["yes", "no"]}),
}


@pytest.mark.parametrize(
    ("wanted", "model", "stream"),
    [
        *((wanted, MODEL, stream) for wanted in FORMS for stream in (True, False)),
        ("this object", THINKING, True),
    ],
)
async def test_an_answer_has_the_form_that_it_must_have(
    engine: Running, wanted: str, model: str, stream: bool
) -> None:
    response_format, schema = FORMS[wanted]
    answer = await say(
        engine,
        "Tell me about Paris, in one word.",
        model=model,
        response_format=response_format,
        stream=stream,
        max_tokens=400,
    )
    jsonschema.validate(json.loads(text_of(answer)), schema)


async def test_a_schema_that_is_none_is_the_callers_error(engine: Running) -> None:
    answer = await say(engine, response_format=form({"type": "objekt"}))
    assert answer.status == 400
    assert answer.error is not None
    assert "objekt" in answer.error["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_characters_that_are_several_tokens_come_whole(engine: Running, stream: bool) -> None:
    wanted = {"response_format": form({"const": EMOJI}), "max_tokens": 120}
    answer = await say(engine, "🎉?", **wanted, **counted(stream))
    assert json.loads(text_of(answer)) == EMOJI
    assert usage_of(answer)["completion_tokens"] > len(EMOJI), "no character was split"


async def test_probabilities_of_split_characters_are_whole_too(engine: Running) -> None:
    wanted = {"response_format": form({"const": "🎉東京"}), "logprobs": True, "top_logprobs": 5}
    answer = await say(engine, **wanted)
    assert "".join(token["token"] for token in tokens_of(answer)) == text_of(answer)


async def test_what_is_asked_may_be_anything(engine: Running) -> None:
    for text in (
        EMOJI,
        "\x00\x01\x7f",
        "�\ufeff\u200b",
        "<|im_end|>",
        "{{ 1 }}{% if %}",
        "\\u0000",
    ):
        answer = await say(engine, text, max_tokens=3)
        assert answer.status == 200, answer.body
        assert answer.done


async def test_probabilities_come_with_their_pieces_of_text(engine: Running) -> None:
    answer = await say(engine, logprobs=True, top_logprobs=3, max_tokens=8)
    tokens = tokens_of(answer)
    assert len(tokens) == 8
    assert "".join(token["token"] for token in tokens) == answer.text()
    for token in tokens:
        assert bytes(token["bytes"]).decode() == token["token"]
        assert token["logprob"] <= 0
        best = [each["logprob"] for each in token["top_logprobs"]]
        assert len(best) == 3
        assert best == sorted(best, reverse=True)
    for chunk in answer.chunks:
        for choice in chunk["choices"]:
            logprobs = choice.get("logprobs")
            if logprobs is not None:
                text = "".join(token["token"] for token in logprobs["content"])
                assert text == (choice["delta"].get("content") or "")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("more", [{"top_logprobs": 0}, {"top_logprobs": None}, {}])
async def test_probabilities_come_without_alternatives(
    engine: Running, more: dict[str, Any], stream: bool
) -> None:
    answer = await say(engine, logprobs=True, max_tokens=4, stream=stream, **more)
    if stream:
        assert answer.done
        tokens = tokens_of(answer)
    else:
        tokens = answer.json["choices"][0]["logprobs"]["content"]
    assert len(tokens) == 4
    assert "".join(token["token"] for token in tokens) == text_of(answer)
    for token in tokens:
        assert bytes(token["bytes"]).decode() == token["token"]
        assert token["logprob"] <= 0
        assert token["top_logprobs"] == []


async def test_a_refusal_in_the_history_is_read(engine: Running) -> None:
    """It is as long a prompt as the same words in `content`."""
    lengths = []
    for answered in ({"content": "No, no."}, {"content": None, "refusal": "No, no."}):
        history = [{"role": "user", "content": "Hi"}, {"role": "assistant", **answered}]
        messages = [*history, {"role": "user", "content": "Why?"}]
        answer = await say(engine, messages=messages, max_tokens=1, **counted(False))
        lengths.append(usage_of(answer)["prompt_tokens"])
    assert lengths[0] == lengths[1]


NOT_TAKEN: dict[str, tuple[dict[str, Any], str]] = {
    "an image": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:,"}}],
                }
            ]
        },
        "messages[0].content",
    ),
    "a custom tool": ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]"),
    "functions": ({"functions": [{"name": "f"}]}, "functions"),
    "a result without an id": (
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "42"}]},
        "messages[1].tool_call_id",
    ),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", NOT_TAKEN)
async def test_what_it_does_not_take_is_the_callers_error(
    engine: Running, case: str, stream: bool
) -> None:
    more, param = NOT_TAKEN[case]
    answer = await say(engine, stream=stream, **more)
    assert answer.status == 400
    assert answer.json["error"]["param"] == param


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("number", [1, 5])
async def test_an_answer_is_no_longer_than_it_may_be(
    engine: Running, limit: str, number: int
) -> None:
    fields = asked(COUNT, **counted(True))
    del fields["max_tokens"]
    answer = await ask(engine.port, engine.key, fields | {limit: number})
    assert answer.finishes() == ["length"]
    assert usage_of(answer)["completion_tokens"] == number


@pytest.mark.parametrize(("begins", "ends"), [(20, 21), (20, 28), (33, 50)])
@pytest.mark.parametrize("others", [[], ["never written", "nor this", "🎉"]])
async def test_an_answer_ends_before_a_stop(
    engine: Running, begins: int, ends: int, others: list[str]
) -> None:
    whole = text_of(await say(engine))
    stop = whole[begins:ends]
    answer = await say(engine, stop=[*others, stop] if others else stop)
    assert answer.finishes() == ["stop"]
    assert answer.text() == whole[: whole.index(stop)]


async def test_one_seed_is_one_answer(engine: Running) -> None:
    async def with_seed(seed: int) -> str:
        answer = await say(engine, "Invent a name.", seed=seed, temperature=1.5, max_tokens=12)
        return text_of(answer)

    await with_seed(1)  # from here on the prompt is in the cache
    texts = [await with_seed(seed) for seed in (1, 2, 3)]
    assert len(set(texts)) > 1
    assert [await with_seed(seed) for seed in (1, 2, 3)] == texts


async def test_a_token_can_be_forbidden(engine: Running) -> None:
    first, *_ = tokens_of(await say(engine, logprobs=True, max_tokens=1))
    answer = await say(engine, logprobs=True, max_tokens=1, logit_bias={str(first["id"]): -100})
    other, *_ = tokens_of(answer)
    assert other["id"] != first["id"]


@pytest.mark.parametrize("stream", [True, False])
async def test_three_choices(engine: Running, stream: bool) -> None:
    answer = await say(
        engine, n=3, max_tokens=6, temperature=1.5, logit_bias={"2": -100}, **counted(stream)
    )
    assert answer.status == 200
    if stream:
        assert answer.done
        choices = [each for chunk in answer.chunks for each in chunk["choices"]]
        assert sorted(each["index"] for each in choices if "role" in each["delta"]) == [0, 1, 2]
        assert [answer.finishes(index) for index in range(3)] == [["length"]] * 3
        texts = [answer.text(index) for index in range(3)]
    else:
        choices = answer.json["choices"]
        assert [each["index"] for each in choices] == [0, 1, 2]
        assert [each["finish_reason"] for each in choices] == ["length"] * 3
        texts = [each["message"]["content"] for each in choices]
    assert all(texts)
    usage = usage_of(answer)
    assert usage["completion_tokens"] == 18
    assert usage["total_tokens"] == usage["prompt_tokens"] + 18


async def test_more_choices_than_the_engine_has_slots(engine: Running) -> None:
    answer = await say(engine, n=5, max_tokens=3)
    assert answer.done
    assert [answer.finishes(index) for index in range(5)] == [["length"]] * 5


@pytest.mark.parametrize("stream", [True, False])
async def test_what_was_read_before_is_told(engine: Running, stream: bool) -> None:
    text = f"Stream is {stream}. " + "A long time ago there was a stream. " * 5
    usages = [usage_of(await say(engine, text, max_tokens=2, **counted(stream))) for _ in range(2)]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert cached[0] < usages[0]["prompt_tokens"] / 2
    assert cached[1] > usages[1]["prompt_tokens"] / 2
    row = (await engine.rows())[-1]
    assert (row["cached_tokens"], row["cached_from"]) == (cached[1], "exact")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("words", "asked_for", "answer"),
    [
        ("Hm. </think> So </think> it is </think>", {}, "So  it is "),
        (
            "One </think> two </th three </think>",
            {"reasoning_effort": "none"},
            "One  two </th three ",
        ),
    ],
    ids=["behind its reasoning", "without reasoning"],
)
async def test_closing_tags_that_a_model_writes_again_are_dropped(
    engine: Running, stream: bool, words: str, asked_for: dict[str, Any], answer: str
) -> None:
    """A grammar has the model write them, which it does on its own only now and then."""
    grammar = f'root ::= "{words}"'
    given = await say(
        engine,
        "Solve: What is 15! / 13!?",
        model=THINKING,
        grammar=grammar,
        stream=stream,
        **asked_for,
    )
    assert text_of(given).lstrip() == answer


@pytest.mark.timeout(240)
async def test_a_long_prompt_shows_how_far_it_is_and_holds_nobody_up(tmp_path: Path) -> None:
    text = " ".join(f"Item {number} is number {number * 7 % 13}." for number in range(160))
    model = {"name": MODEL, "context": 8192}
    quick = {"streams.gate_seconds": 0.1, "streams.heartbeat_seconds": 0.1}
    patient = {"engine.first_token_seconds": 300.0}
    async with engines(tmp_path, model, **quick, **patient) as server:
        async with await Wire.open(server.port) as wire:
            fields = asked(text, max_tokens=4, **counted(True))
            wire.send(request(server.key, fields))
            status, headers = await wire.head()
            assert (status, headers["content-type"][:17]) == (200, "text/event-stream")
            pieces = [await wire.chunk()]
            assert pieces[0].startswith(b": prefill ")
            beside = asyncio.ensure_future(say(server, max_tokens=2))
            while piece := await wire.chunk():
                if b"data: " in piece and b"data: " not in pieces[-1]:
                    assert beside.done(), "who came meanwhile waited for the whole prompt"
                pieces.append(piece)
        answer = Answer(status, headers, b"".join(pieces), pieces)
        assert answer.done
        assert answer.text()
        # Between the last of the prompt and the first of the answer there is no progress to show.
        progress = [each for each in answer.comments if each != b": keep-alive"]
        shown = [int(each.removeprefix(b": prefill ")[:-1]) for each in progress]
        assert shown == sorted(shown)
        assert len(set(shown)) > 3
        assert shown[-1] > 80
        first = next(n for n, frame in enumerate(answer.frames) if frame.startswith(b"data"))
        assert not any(frame.startswith(b": prefill") for frame in answer.frames[first:])
        told = usage_of(answer)
        assert told["prompt_tokens"] >= 1400
        assert told["completion_tokens"] == 4
        assert (await beside).done
        rows = {row["prompt_tokens"]: row for row in await server.rows()}
        row = rows[told["prompt_tokens"]]
        assert (row["outcome"], row["prompt_from"]) == ("complete", "exact")
        assert (row["completion_tokens"], row["completion_from"]) == (4, "exact")
        assert row["ttft"] <= row["duration"]


# Text completions, and tokens of a prompt


@pytest.mark.parametrize("n", [1, 2])
async def test_a_prompt_is_completed_as_it_stands(engine: Running, n: int) -> None:
    """Without a chat template: what comes goes on in mid-sentence."""
    body = {"model": MODEL, "prompt": "one, two, three, four,", "max_tokens": 6, "temperature": 0}
    body |= {"n": n, "logprobs": 0}
    whole = await ask(engine.port, engine.key, body, path="/v1/completions")
    choices = whole.json["choices"]
    assert [each["index"] for each in choices] == list(range(n))
    assert all(each["text"].startswith(" five") for each in choices)
    assert {each["finish_reason"] for each in choices} == {"length"}
    assert "".join(choices[0]["logprobs"]["tokens"]) == choices[0]["text"]
    assert whole.json["usage"]["completion_tokens"] == 6 * n
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = await ask(engine.port, engine.key, body | stream, path="/v1/completions")
    assert streamed.done
    texts = [each for chunk in streamed.chunks for each in chunk["choices"] if each["index"] == 0]
    assert "".join(each["text"] for each in texts) == choices[0]["text"]
    assert streamed.chunks[-1]["usage"]["completion_tokens"] == 6 * n


async def test_the_engine_counts_a_prompt_as_it_will_read_it(engine: Running) -> None:
    question = {"role": "user", "content": "What time is it?"}
    use: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "now", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Noon."}
    messages = [
        question,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    body = {"model": MODEL, "system": "Be brief.", "messages": messages}
    counted = await ask(engine.port, engine.key, body, path="/v1/messages/count_tokens")
    assert "x-legato-count" not in counted.headers
    call = {"id": "toolu_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    as_chat = [
        {"role": "system", "content": "Be brief."},
        question,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Noon."},
    ]
    answer = await say(engine, messages=as_chat, max_tokens=1, stream=False)
    assert counted.json["input_tokens"] == answer.json["usage"]["prompt_tokens"]
