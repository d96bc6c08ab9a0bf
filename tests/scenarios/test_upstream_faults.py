"""What upstreams do wrong, one file each (`tests/data/faults/upstreams`), and what a client gets.

Each is asked as a stream with usage, as a stream without, and not streamed, and then all over
again: the same comes every time, from the fold as from the stream.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec import Struct

from legato import dialects
from tests.conftest import Running, serving, settings_for
from tests.support.pipeline import Sent, letters, play, ways
from tests.support.raw_upstream import FAULTS, RawUpstream, response
from tests.support.stream_order import Heard
from tests.support.wire import ask, chat

Json = dict[str, Any]

PICTURE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
FILTER = {
    "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}},
    "content_filter_offsets": {"check_offset": 506, "start_offset": 44, "end_offset": 571},
}
PROMPT_FILTER = [
    {
        "prompt_index": 0,
        "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}},
    }
]


class Whole(Struct):
    """A whole answer. `usage`: prompt, completion, total; `tokens`: completion, reasoning.

    `delta`, `choice`, `top`: members that have to be there, once.
    """

    text: str = "Hello world"
    finish: str = "stop"
    reasoning: str = ""
    usage: tuple[int, int, int] | None = None
    tokens: tuple[int, int] | None = None
    calls: list[Json] | None = None
    delta: Json = {}
    choice: Json = {}
    top: Json = {}


def call(identity: str) -> list[Json]:
    function = {"name": "get_weather", "arguments": '{"city":"Rome"}'}
    return [{"id": identity, "type": "function", "function": function}]


CALLED = {"finish": "tool_calls", "text": ""}
WHOLE: dict[str, Whole] = {
    "thoughts-null": Whole(text="", tokens=(25, 20)),
    "thoughts-null-then-empty": Whole(reasoning="hmmok", tokens=(4, 2)),
    "gemini-image": Whole(text="Here", delta={"images": PICTURE}),
    "gemini-image-only": Whole(text="", delta={"images": PICTURE}),
    "gemini-stop-in-each-chunk": Whole(usage=(3, 2, 5)),
    "gemini-stop-before-text": Whole(text="Hello", usage=(3, 2, 5)),
    "gemini-stop-in-the-middle": Whole(usage=(3, 2, 5)),
    "finish-then-text": Whole(),
    "finish-then-newline": Whole(text="Hello\n", usage=(3, 2, 5)),
    "finish-then-thought": Whole(text="Hello", reasoning="x", usage=(3, 2, 5)),
    "finish-then-annotations": Whole(
        text="Hello", delta={"annotations": [{"type": "url_citation"}]}
    ),
    "finish-then-unknown-member": Whole(text="Hello", top={"citations": ["a"]}),
    "null-events": Whole(text="Hello"),
    "null-before-done": Whole(text="Hello"),
    "anthropic-null": Whole(),
    "gemini-null": Whole(text="Hello"),
    "call-id-changes": Whole(**CALLED, calls=call("chatcmpl-tool-1")),
    "call-id-changes-once": Whole(**CALLED, calls=call("id-A")),
    "members-before-role": Whole(top={"prompt_filter_results": PROMPT_FILTER}),
    "members-with-role": Whole(text="Hello", top={"provider": "P", "x_first": 1}),
    "filter-behind-finish": Whole(text="Hello", choice=FILTER),
    "surrogates-parted": Whole(text="hi 😀 ok"),
    "surrogate-alone": Whole(text="hi \ufffd ok"),
    "surrogate-cut": Whole(text="hi \ufffd", finish="length"),
    "ollama-surrogates-parted": Whole(text="hi 😀 ok"),
    "finish-sensitive": Whole(finish="content_filter"),
    "finish-context-window": Whole(text="Hello", finish="length"),
    "custom-call": Whole(
        **CALLED,
        calls=[{"id": "id-A", "type": "custom", "custom": {"name": "patch", "input": "abcdef"}}],
    ),
    "stop-with-calls": Whole(finish="tool_calls", text="", calls=[]),
    "anthropic-stop-with-calls": Whole(finish="tool_calls", text="", calls=[]),
    "nan-logprob": Whole(text="Hello"),
    "nan-unstreamed": Whole(top={"timings": {"per_second": None}}),
    "junk-behind-finish": Whole(text="Hello"),
    "done-quoted": Whole(text="Hello"),
    "usage-list-behind-finish": Whole(text="Hello"),
    "anthropic-input-twice": Whole(**CALLED, calls=call("toolu_1")),
    "logprobs-no-refusal": Whole(),
}
#: Answers of one event, whose members are in each of the frames that it becomes.
ONE_EVENT = ("nan-unstreamed",)
WAYS: dict[str, Json] = {
    "a stream with usage": {"stream": True, "stream_options": {"include_usage": True}},
    "a stream": {"stream": True},
    "no stream": {},
}


def dialect_of(name: str) -> str:
    word = name.partition("-")[0]
    return word if word in dialects.NAMES else "openai"


def file_of(name: str) -> Path:
    return next(
        file for file in FAULTS.joinpath("upstreams").glob(f"{name}.*") if file.suffix != ".req"
    )


def more_of(name: str) -> Json:
    """What the client's request has beside `model` and `messages`."""
    file = FAULTS / "upstreams" / f"{name}.req"
    return json.loads(file.read_text()) if file.exists() else {}


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [*WHOLE, *ERRORS]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def upstream() -> AsyncIterator[RawUpstream]:
    played = RawUpstream()
    yield played
    await played.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def legato(
    tmp_path_factory: pytest.TempPathFactory, upstream: RawUpstream, names: list[str]
) -> AsyncIterator[Running]:
    base = await upstream.start()
    upstream.responses = {name: response(file_of(name).name) for name in names}
    deployments: list[Json] = []
    for name in names:
        dialect = dialect_of(name)
        version = "/v1" if dialect == "openai" else ""
        deployments.append(
            {
                "name": name,
                "model": "m",
                "dialect": dialect,
                "base_url": f"{base}/{name}{version}",
                "open_after": 0,
            }
        )
    folder = tmp_path_factory.mktemp("faults")
    async with serving(settings_for(folder, None, deployments=deployments)) as running:
        yield running


def heard(answer: Any, way: str) -> tuple[Json, Json]:
    """(the first choice with its delta as `message`, all top-level members that came)."""
    if way == "no stream":
        choice = answer.json["choices"][0]
        return choice, answer.json
    stream = Heard(answer.body, "last" if "usage" in way else "none")
    assert stream.done, stream.error
    members: Json = {}
    choice: Json = {"message": {}, "tokens": []}
    for chunk in answer.chunks:
        members |= {name: value for name, value in chunk.items() if value is not None}
        for each in chunk["choices"]:
            choice |= {name: value for name, value in each.items() if name != "delta"}
            if each.get("logprobs"):
                choice["tokens"].append(each["logprobs"])
            choice["message"] |= each["delta"]
    choice["message"] |= {
        "content": answer.text(),
        "reasoning_content": answer.text(member="reasoning_content"),
    }
    calls: list[Json] = []
    for chunk in answer.chunks:
        for each in chunk["choices"]:
            for piece in each["delta"].get("tool_calls") or ():
                add_piece(calls, piece)
    if calls:
        choice["message"]["tool_calls"] = calls
    return choice, members


def add_piece(calls: list[Json], piece: Json) -> None:
    """A call begins with all that it has; texts of later pieces go on."""
    if piece["index"] == len(calls):
        calls.append(piece)
        return
    for holder, member in (("function", "arguments"), ("custom", "input")):
        if member in piece.get(holder, {}):
            calls[piece["index"]][holder][member] += piece[holder][member]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WHOLE)
async def test_a_whole_answer(legato: Running, name: str, way: str) -> None:
    wanted = WHOLE[name]
    for _ in range(2):
        answer = await ask(legato.port, legato.key, chat(name, **WAYS[way], **more_of(name)))
        assert answer.status == 200, answer.body
        choice, top = heard(answer, way)
        message = choice["message"]
        if wanted.text or name != "thoughts-null":
            assert (message.get("content") or "") == wanted.text
        if wanted.reasoning:
            assert message["reasoning_content"] == wanted.reasoning
        assert choice["finish_reason"] == wanted.finish
        check_usage(wanted, top.get("usage"))
        if wanted.calls:
            calls = [
                {key: value for key, value in each.items() if key != "index"}
                for each in message["tool_calls"]
            ]
            assert calls == wanted.calls
        elif wanted.calls is not None:
            assert len(message["tool_calls"]) == 1
        for owner, members in ((message, wanted.delta), (choice, wanted.choice), (top, wanted.top)):
            for member, value in members.items():
                assert without_index(owner[member]) == value
                if way != "no stream" and name not in ONE_EVENT:
                    assert answer.body.count(f'"{member}"'.encode()) == 1


def check_usage(wanted: Whole, usage: Json | None) -> None:
    if wanted.usage is not None and usage is not None:
        numbers = [usage[f"{name}_tokens"] for name in ("prompt", "completion", "total")]
        assert tuple(numbers) == wanted.usage
    if wanted.tokens is not None and usage is not None:
        reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
        assert (usage["completion_tokens"], reasoning) == wanted.tokens


def without_index(value: Any) -> Any:
    if isinstance(value, list):
        return [without_index(each) for each in value]
    if isinstance(value, dict):
        return {name: each for name, each in value.items() if name != "index"}
    return value


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["nan-logprob", "logprobs-no-refusal"])
async def test_logprobs(legato: Running, name: str, way: str) -> None:
    answer = await ask(legato.port, legato.key, chat(name, **WAYS[way]))
    choice, _ = heard(answer, way)
    found = choice["tokens"] if way != "no stream" else [choice["logprobs"]]
    assert found
    for logprobs in found:
        assert logprobs["refusal"] is None
        for token in logprobs["content"]:
            if name == "nan-logprob":
                assert token["logprob"] is None
                assert [each["logprob"] for each in token["top_logprobs"]] == [None]


class Failed(Struct):
    """`text`: what came before the error, in a stream. `words`: in its message; any of them."""

    status: int
    words: tuple[str, ...]
    code: str | None = None
    param: str | None = None
    text: str | None = None


ERRORS: dict[str, Failed] = {
    "reason-in-metadata": Failed(400, ("max_tokens must be less than 8192",)),
    "reason-in-metadata-too-long": Failed(
        400,
        ("maximum context length is 262144 tokens",),
        code="context_length_exceeded",
        param="messages",
    ),
    "reason-in-choice": Failed(502, ("Upstream idle timeout",), text="Hello"),
    "error-in-list": Failed(
        400, ("Unable to submit request because it has an empty text parameter.",)
    ),
    "error-in-list-key": Failed(502, ("",), code="upstream_401"),
    "detail-list": Failed(400, ("str type expected",)),
    "error-detail": Failed(502, ("worker died",), text="Hello"),
    "error-base-resp": Failed(
        502, ("insufficient balance", "What is paid for at the upstream"), text="Hello"
    ),
    "error-code-message": Failed(502, ("content unsafe",)),
    "error-success-false": Failed(502, ("quota exhausted", "What is paid for at the upstream")),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ERRORS)
async def test_an_error(legato: Running, name: str, way: str) -> None:
    wanted = ERRORS[name]
    for _ in range(2):
        answer = await ask(legato.port, legato.key, chat(name, **WAYS[way]))
        if wanted.text is not None and way != "no stream":
            stream = Heard(answer.body, "last" if "usage" in way else "none")
            assert (answer.status, answer.text()) == (200, wanted.text)
            assert stream.error is not None
            error = stream.error
        else:
            assert answer.status == wanted.status, answer.body
            error = answer.json["error"]
        assert any(words in error["message"] for words in wanted.words), error
        assert wanted.code in (None, error["code"])
        assert wanted.param in (None, error["param"])
        assert "{'" not in error["message"]
        assert "['" not in error["message"]
    if name == "detail-list":
        assert all(word in error["message"] for word in ("messages", "0", "content"))


TOO_LONG = json.loads((FAULTS / "too-long.json").read_text())


@pytest.mark.parametrize("words", TOO_LONG)
@pytest.mark.parametrize("dialect", dialects.NAMES)
def test_too_long_in_other_words(dialect: str, words: str) -> None:
    for body in ({"error": {"message": words}}, [{"error": {"message": words}}], {"error": words}):
        error = dialects.named(dialect).refusal(400, json.dumps(body).encode(), None)
        assert (error.status, error.code) == (400, "context_length_exceeded")
        assert error.param == "messages"


@pytest.mark.parametrize("dialect", dialects.NAMES)
def test_what_is_not_too_long(dialect: str) -> None:
    refusal = dialects.named(dialect).refusal
    wait = {"error": {"message": "Too many tokens, please wait before trying again."}}
    assert refusal(429, json.dumps(wait).encode(), None).status == 429
    large = {
        "error": {
            "message": "max_tokens is too large: 100000. This model supports at most 16384"
            " completion tokens, whereas you provided 100000.",
            "code": "invalid_value",
            "param": "max_tokens",
        }
    }
    error = refusal(400, json.dumps(large).encode(), None)
    assert (error.status, error.code, error.param) == (400, "invalid_value", "max_tokens")


REFUSES = "refuses-stream-options-asked.raw", "refuses-stream-options-not-asked.sse"


@pytest.mark.parametrize("way", ["a stream", "no stream"])
async def test_what_is_ours_is_not_asked_again(tmp_path: Path, way: str) -> None:
    """`stream_options` are our own addition: the upstream is asked once more without them."""
    asked, not_asked = [response(name) for name in REFUSES]
    upstream = RawUpstream()
    base = await upstream.start()
    upstream.responses["x"] = lambda body: asked if "stream_options" in body else not_asked
    deployment = {"name": "x", "model": "m", "base_url": f"{base}/x/v1"}
    try:
        async with serving(settings_for(tmp_path, None, deployments=[deployment])) as legato:
            for _ in range(2):
                answer = await ask(legato.port, legato.key, chat("x", **WAYS[way]))
                choice, _ = heard(answer, way)
                assert choice["message"]["content"] == "Hello world"
                assert choice["finish_reason"] == "stop"
            rows = await legato.rows()
            assert [row["attempts"] for row in rows] == [1, 1]
    finally:
        await upstream.stop()
    assert ["stream_options" in each for each in upstream.requests["x"]] == [True, False, False]


STREAMS = [name for name in (*WHOLE, *ERRORS) if file_of(name).suffix in (".sse", ".nd")]


@pytest.mark.parametrize("name", STREAMS)
def test_the_same_in_any_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    body = file_of(name).read_bytes()
    sent = Sent(body, dialect=dialects.named(dialect_of(name)))
    whole = play(sent, [body])
    assert play(sent, letters(body)) == whole
    for pieces in ways(body, 40, name):
        assert play(sent, pieces) == whole


async def test_thoughts_are_not_continued_as_an_answer(tmp_path: Path) -> None:
    """Both times the thoughts, then the failure; the next deployment is not asked."""
    upstream = RawUpstream()
    base = await upstream.start()
    names = ["thoughts-null-cut", "thoughts-null-cut-next"]
    for name in names:
        upstream.responses[name] = response(file_of(name).name)
    deployments = [{"name": each, "model": "m", "base_url": f"{base}/{each}/v1"} for each in names]
    deployments[1]["continue"] = "prefill"
    routes = [{"model": "x", "deployments": names}]
    settings = settings_for(tmp_path, None, deployments=deployments, routes=routes)
    try:
        async with serving(settings) as legato:
            for _ in range(2):
                answer = await ask(legato.port, legato.key, chat("x", stream=True))
                stream = Heard(answer.body)
                assert stream.error is not None
                assert stream.error["code"] == "upstream_incomplete"
                assert answer.text() == ""
                reasoning = [
                    each["delta"]["reasoning_content"]
                    for chunk in answer.chunks
                    for each in chunk["choices"]
                    if "reasoning_content" in each["delta"]
                ]
                assert len(reasoning) == 12
                assert answer.finishes() == []
    finally:
        await upstream.stop()
    assert "thoughts-null-cut-next" not in upstream.requests
