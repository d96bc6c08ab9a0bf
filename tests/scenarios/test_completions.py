"""`POST /v1/completions` over a real server: OpenAI's SDK, upstreams that complete a prompt, and
upstreams of every dialect that chat alone."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from legato.fastpath.splice import Splice
from legato.fronts.completions import INSTRUCTION
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step
from tests.conftest import Running, serving, settings_for, until
from tests.support.sdks import client_options
from tests.support.wire import Answer, ask

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "Once upon a time, there was a stream."
PROMPT = "def add(a, b):\n    "
BASES = {"openai": "", "anthropic": "/v1", "gemini": "/v1", "ollama": "/v1"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
LOGPROBS = {"content": [{"token": "Hm", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
OWN = {
    "half": Script(steps=[Step(say="return"), Step(say=" a"), Step(cut=True)]),
    "long": Script(
        steps=[
            *(Step(say=f"word {number} ") for number in range(30)),
            Step(finish="stop"),
            Step(usage=USAGE),
        ],
        pieces=100_000,  # an event a read
    ),
    "thinks": Script(
        steps=[
            Step(think="Hm", repeat=30, every=0.03),
            Step(say="return a + b"),
            Step(finish="stop"),
            Step(usage=USAGE),
        ]
    ),
    "rest": Script(steps=[Step(say=" + b"), Step(finish="stop"), Step(usage=USAGE)]),
    "sure": Script(
        steps=[
            Step(
                chunk={"choices": [{"index": 0, "delta": {"content": "Hm"}, "logprobs": LOGPROBS}]}
            ),
            Step(finish="stop"),
            Step(usage=USAGE),
        ]
    ),
}


class Stage:
    def __init__(self, running: Running, upstream: MockServer) -> None:
        self.running = running
        self.upstream = upstream

    async def ask(self, model: str, **more: Any) -> Answer:
        body = {"model": model, "prompt": PROMPT, "max_tokens": 40} | more
        return await ask(self.running.port, self.running.key, body, path="/v1/completions")

    def last(self) -> tuple[str, dict[str, Any]]:
        """The path and the body of the last request to the upstream."""
        recorded = self.upstream.requests[-1]
        return recorded.path, recorded.request


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    upstream = MockServer(SCRIPTS | OWN)
    base = await upstream.start()
    once: dict[str, Any] = {"open_after": 0, "stall_seconds": 0.5, "first_token_seconds": 1.0}
    deployments: list[dict[str, Any]] = [
        {
            "name": f"chat-{dialect}",
            "model": "thinking",
            "dialect": dialect,
            "base_url": base.removesuffix(cut),
        }
        for dialect, cut in BASES.items()
    ]
    for model in (
        "happy",
        "cut",
        "stall",
        "error-in-band",
        "429",
        "too-long",
        "half",
        "rest",
        "long",
    ):
        deployments += [
            {"name": f"raw-{model}", "model": model, "base_url": base, "completions": "suffix"},
            {"name": f"chat-{model}", "model": model, "base_url": base},
        ]
    deployments += [
        {"name": "chat-thinks", "model": "thinks", "base_url": base},
        {"name": "chat-sure", "model": "sure", "base_url": base},
        {"name": "fans", "model": "happy", "base_url": base, "provider": "llama.cpp"},
        {"name": "whole", "model": "whole", "base_url": base, "completions": "suffix"}
        | {"streams": False},
    ]
    upstream.scripts["whole"] = Script(
        body='{"id":"c","object":"text_completion","created":1,"model":"m","choices":'
        '[{"text":"return a + b","index":0,"logprobs":null,"finish_reason":"stop"}],'
        '"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}'
    )
    routes = [
        {"model": each["name"], "deployments": [each["name"]], "attempts": 1}
        for each in deployments
    ]
    routes += [
        {"model": "both", "deployments": ["chat-happy", "raw-happy"]},
        {"model": "goes-on", "deployments": ["raw-half", "raw-rest"]},
    ]
    settings = settings_for(
        tmp_path_factory.mktemp("completions"),
        None,
        deployments=[each | once for each in deployments],
        routes=routes,
        **{"streams.gate_seconds": 0.3, "streams.heartbeat_seconds": 0.2},
    )
    async with serving(settings) as running:
        yield Stage(running, upstream)
    await until(lambda: upstream.open_connections == 0, "no connection to the upstream is left")
    await upstream.stop()


def texts(answer: Answer) -> list[str]:
    return [each["text"] for chunk in answer.chunks for each in chunk["choices"]]


# The SDK


@pytest.mark.parametrize("model", ["raw-happy", "chat-happy", "both", "fans"])
async def test_the_sdk(stage: Stage, model: str) -> None:
    def run() -> tuple[list[Any], Any]:
        with openai.OpenAI(**client_options(stage.running)) as client:
            asked: Any = {"model": model, "prompt": PROMPT, "echo": True}
            options: Any = {"include_usage": True}
            stream = client.completions.create(**asked, stream=True, stream_options=options)
            return list(stream), client.completions.create(**asked)

    chunks, whole = await asyncio.to_thread(run)
    assert {each.id for each in chunks} == {chunks[0].id}
    assert chunks[0].id.startswith("cmpl-")
    assert {(each.object, each.model) for each in (*chunks, whole)} == {("text_completion", model)}
    assert "".join(each.choices[0].text for each in chunks[:-1]) == PROMPT + TEXT
    assert [each.choices[0].finish_reason for each in chunks[:-1]][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 10
    assert whole.choices[0].text == PROMPT + TEXT
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage == chunks[-1].usage


async def test_what_the_sdk_raises(stage: Stage) -> None:
    def run(model: str, **more: Any) -> Any:
        with openai.OpenAI(**client_options(stage.running)) as client:
            return list(client.completions.create(model=model, prompt=PROMPT, stream=True, **more))

    with pytest.raises(openai.APIError, match="closed the connection"):
        await asyncio.to_thread(run, "raw-cut")
    with pytest.raises(openai.BadRequestError, match="`best_of` is not supported"):
        await asyncio.to_thread(run, "raw-happy", best_of=4)


# What the upstream is asked


@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstream_that_completes_gets_the_prompt(stage: Stage, stream: bool) -> None:
    answer = await stage.ask("raw-happy", stream=stream, top_k=3, suffix="\n")
    assert answer.status == 200
    path, body = stage.last()
    assert path == "/v1/completions"
    assert body == {
        "model": "happy",
        "prompt": PROMPT,
        "suffix": "\n",
        "max_tokens": 40,
        "top_k": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("dialect", BASES)
async def test_every_other_upstream_gets_a_chat(stage: Stage, dialect: str) -> None:
    """Its reasoning is not shown."""
    answer = await stage.ask(f"chat-{dialect}", stream=True)
    assert answer.done
    assert "".join(texts(answer)) == " Forty-two."
    whole = await stage.ask(f"chat-{dialect}")
    assert whole.json["choices"][0]["text"] == " Forty-two."
    assert whole.json["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4
    _, body = stage.last()
    sent = str(body)
    assert INSTRUCTION in sent
    assert repr(PROMPT)[1:-1] in sent


async def test_a_suffix_needs_an_upstream_that_completes(stage: Stage) -> None:
    refused = await stage.ask("chat-happy", suffix="\n", stream=True)
    assert refused.status == 400
    assert refused.json["error"]["param"] == "suffix"
    assert refused.json["error"]["code"] == "unsupported_parameter"
    prompt_only = await stage.ask("fans", suffix="\n")
    assert prompt_only.status == 400, "llama.cpp ignores it, so it is not asked"
    other = await stage.ask("both", suffix="\n", stream=True)
    assert other.done
    assert other.headers["x-legato-deployment"] == "raw-happy"


async def test_several_choices_of_an_upstream_that_gives_one(stage: Stage) -> None:
    before = len(stage.upstream.requests)
    answer = await stage.ask("fans", n=2, seed=5)
    assert [each["text"] for each in answer.json["choices"]] == [TEXT, TEXT]
    sent = stage.upstream.requests[before:]
    assert [each.path for each in sent] == ["/v1/completions"] * 2
    assert sorted(each.request["seed"] for each in sent) == [5, 6]
    assert not any("n" in each.request for each in sent)


async def test_logprobs_of_a_chat(stage: Stage) -> None:
    answer = await stage.ask("chat-sure", logprobs=0)
    assert answer.json["choices"][0]["logprobs"] == {
        "tokens": ["Hm"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"Hm": -0.5}],
        "text_offset": [0],
    }


async def test_an_upstream_that_does_not_stream(stage: Stage) -> None:
    streamed = await stage.ask("whole", stream=True)
    assert streamed.done
    assert "".join(texts(streamed)) == "return a + b"
    whole = await stage.ask("whole")
    assert whole.json["choices"][0] == {
        "text": "return a + b",
        "index": 0,
        "logprobs": None,
        "finish_reason": "stop",
    }
    _, body = stage.last()
    assert body["stream"] is False
    assert "stream_options" not in body


async def test_the_line_is_kept_alive_while_a_model_reasons(stage: Stage) -> None:
    """What is not shown is silence to the client."""
    answer = await stage.ask("chat-thinks", stream=True)
    assert answer.done
    assert texts(answer) == ["return a + b", ""]
    assert answer.comments.count(b": keep-alive") >= 2


# Failure


@pytest.mark.parametrize("kind", ["raw", "chat"])
@pytest.mark.parametrize("model", ["cut", "stall", "error-in-band"])
async def test_a_failure_is_never_followed_by_done(stage: Stage, model: str, kind: str) -> None:
    answer = await stage.ask(f"{kind}-{model}", stream=True)
    assert answer.status == 200
    assert b"[DONE]" not in answer.body
    assert answer.error is not None
    assert "error" in answer.events[-1]
    assert not any(each["finish_reason"] for chunk in answer.chunks for each in chunk["choices"])
    whole = await stage.ask(f"{kind}-{model}")
    assert whole.status >= 500
    assert "choices" not in whole.json


@pytest.mark.parametrize("kind", ["raw", "chat"])
@pytest.mark.parametrize(("model", "status"), [("429", 429), ("too-long", 400)])
async def test_a_refusal(stage: Stage, model: str, status: int, kind: str) -> None:
    answer = await stage.ask(f"{kind}-{model}", stream=True)
    assert answer.status == status
    if model == "too-long":
        assert answer.json["error"]["param"] == "prompt"
        assert answer.json["error"]["code"] == "context_length_exceeded"


async def test_a_broken_completion_continues_where_it_broke(stage: Stage) -> None:
    answer = await stage.ask("goes-on", stream=True, suffix="\n")
    assert answer.done
    assert "".join(texts(answer)) == "return a + b"
    _, body = stage.last()
    assert body["prompt"] == PROMPT + "return a"
    assert body["suffix"] == "\n"
    (row,) = (await stage.running.rows())[-1:]
    assert row["continuations"] == 1
    assert row["outcome"] == "complete"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/completions?x=1"])
async def test_keys_are_checked(stage: Stage, path: str) -> None:
    running = stage.running
    answer = await ask(running.port, "wrong", {"model": "raw-happy", "prompt": "a"}, path=path)
    assert answer.status == 401
    assert answer.json["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("model", ["raw-long", "chat-long"])
async def test_the_fast_path_is_entered_and_gives_the_same_bytes(
    stage: Stage, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    take = Splice.take

    def counted(splice: Splice, event: bytes) -> bool:
        taken.append(take(splice, event))
        return taken[-1]

    monkeypatch.setattr(Splice, "take", counted)
    fast = await stage.ask(model, stream=True, echo=True)
    assert sum(taken) > 20
    monkeypatch.setattr(stage.running.app.upstreams[model], "fast_path", False)
    usual = await stage.ask(model, stream=True, echo=True)
    assert [each["choices"] for each in fast.chunks] == [each["choices"] for each in usual.chunks]
    assert texts(fast)[-2] == "word 29 "
