"""`POST /v1/messages/count_tokens`: who counts, and what a client is told."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio
import tokenizers
from tokenizers import models, pre_tokenizers

from tests.conftest import Running, serving, settings_for
from tests.support.raw_upstream import RawUpstream
from tests.support.wire import Answer, ask

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/messages/count_tokens"
MESSAGES = [{"role": "user", "content": "Once upon a time"}]
ESTIMATE = 5 + 4 + 3  # sixteen bytes, one message
OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}'
TOO_LONG = (
    b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long"}}'
)
NO_KEY = b'{"type":"error","error":{"type":"authentication_error","message":"bad key sk-1"}}'


def played(status: int, body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{each}\r\n" for each in headers)
    head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\n{lines}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


#: Answers of upstreams that speak Anthropic's format.
PLAYED = {
    "counts": played(200, b'{"input_tokens":14}'),
    "overloaded": played(529, OVERLOADED, "retry-after: 7"),
    "too-long": played(400, TOO_LONG),
    "no-key": played(401, NO_KEY),
    "absent": played(404, b"<html>"),
    "odd": played(200, b'{"tokens":14}'),
    "cut": b"HTTP/1.1 200 -\r\ncontent-length: 99\r\nconnection: close\r\n\r\n{",
    "silent": b"HTTP/1.1 200 -\r\nconnection: close\r\n",
}


class Stage:
    def __init__(self, running: Running, upstream: RawUpstream) -> None:
        self.running = running
        self.upstream = upstream

    async def ask(self, model: str, path: str = PATH, **more: Any) -> Answer:
        headers = more.pop("headers", {})
        body = {"model": model, "messages": MESSAGES} | more
        return await ask(self.running.port, self.running.key, body, path=path, **headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("counting")
    words: Any = tokenizers.Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "words.json"))
    upstream = RawUpstream()
    upstream.responses |= PLAYED
    upstream.responses["v1"] = played(200, b'{"input_tokens":21}')
    upstream.responses["plain"] = played(500, b"{}")
    base = await upstream.start()
    deployments: list[dict[str, Any]] = [
        {
            "name": name,
            "model": f"their-{name}",
            "dialect": "anthropic",
            "base_url": f"{base}/{name}",
            "api_key": "sk-ours",
        }
        for name in PLAYED
    ]
    deployments += [
        {"name": "llama", "model": "m", "provider": "llama.cpp", "base_url": f"{base}/v1"},
        {"name": "plain", "model": "m", "base_url": f"{base}/plain"},
        {"name": "words", "model": "m", "base_url": f"{base}/plain"}
        | {"tokenizer": str(folder / "words.json")},
        {"name": "gone", "model": "m", "dialect": "anthropic", "base_url": "http://127.0.0.1:9"},
    ]
    routes = [{"model": each["name"], "deployments": [each["name"]]} for each in deployments]
    routes.append({"model": "both", "deployments": ["overloaded", "counts"]})
    settings = settings_for(folder, None, deployments=deployments, routes=routes)
    async with serving(settings) as running:
        yield Stage(running, upstream)
    await upstream.stop()


async def test_an_upstream_of_the_same_format_is_asked(stage: Stage) -> None:
    """With the request as it came but for the model's name, our key, and the client's headers."""
    body = b'{ "messages":[{"role":"user","content":"Hi"}],"x":[1 ,2], "model" : "counts","z":0}'
    answer = await ask(
        stage.running.port,
        stage.running.key,
        body,
        path=f"{PATH}?beta=true",
        anthropic_beta="b-1,b-2",
        anthropic_version="2023-01-01",
        x_other="o",
    )
    assert (answer.status, answer.json) == (200, {"input_tokens": 14})
    assert "x-legato-count" not in answer.headers
    assert answer.headers["x-legato-deployment"] == "counts"
    assert stage.upstream.requests["counts"][-1] == json.loads(body) | {"model": "their-counts"}
    head = stage.upstream.heads["counts"][-1].decode()
    assert head.startswith("POST /counts/v1/messages/count_tokens HTTP/1.1\r\n")
    assert "x-api-key: sk-ours\r\n" in head
    assert "anthropic-beta: b-1,b-2\r\n" in head
    assert head.count("anthropic-version:") == 1
    assert "anthropic-version: 2023-01-01\r\n" in head
    assert "x-other" not in head
    assert stage.running.key not in head


async def test_llama_cpp_is_asked(stage: Stage) -> None:
    answer = await stage.ask("llama", headers={"anthropic_beta": "b-1"})
    assert answer.json == {"input_tokens": 21}
    assert "x-legato-count" not in answer.headers
    head = stage.upstream.heads["v1"][-1].decode()
    assert head.startswith("POST /v1/messages/count_tokens HTTP/1.1\r\n")
    assert "anthropic" not in head


@pytest.mark.parametrize("model", ["plain", "gone", "absent", "odd", "cut", "silent"])
async def test_what_nobody_counts_is_estimated(stage: Stage, model: str) -> None:
    answer = await stage.ask(model)
    assert (answer.status, answer.json) == (200, {"input_tokens": ESTIMATE})
    assert answer.headers["x-legato-count"] == "estimated"


async def test_the_tokenizer_of_a_deployment_counts(stage: Stage) -> None:
    answer = await stage.ask("words", system="Be brief.")
    assert answer.json == {"input_tokens": 4 + 3 + 4 + 3}
    assert "x-legato-count" not in answer.headers
    image = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}
    answer = await stage.ask("words", messages=[{"role": "user", "content": [image]}])
    assert answer.json == {"input_tokens": 1600 + 4 + 3}
    assert answer.headers["x-legato-count"] == "estimated"
    long = [{"role": "user", "content": "word " * 20_000}]
    answer = await stage.ask("words", messages=long)
    assert answer.json == {"input_tokens": 20_000 + 4 + 3}


@pytest.mark.parametrize(
    ("model", "status", "body"), [("overloaded", 529, OVERLOADED), ("too-long", 400, TOO_LONG)]
)
async def test_a_refusal_is_passed_on_as_it_came(
    stage: Stage, model: str, status: int, body: bytes
) -> None:
    answer = await stage.ask(model)
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers.get("retry-after") == ("7" if model == "overloaded" else None)


async def test_what_is_wrong_with_our_key_is_nobody_elses_business(stage: Stage) -> None:
    answer = await stage.ask("no-key")
    assert answer.status == 500
    assert b"sk-1" not in answer.body


async def test_a_deployment_that_is_not_healthy_is_not_asked(stage: Stage) -> None:
    router, clock = stage.running.app.services.router, stage.running.app.clock
    router.health["overloaded"].open_until = clock() + 60
    try:
        assert (await stage.ask("both")).json == {"input_tokens": 14}
        router.health["counts"].open_until = clock() + 60
        assert (await stage.ask("both")).headers["x-legato-deployment"] == "overloaded"
    finally:
        router.health["overloaded"].reset()
        router.health["counts"].reset()


REFUSED: dict[str, tuple[Any, dict[str, str], int, str]] = {
    # body; headers; status; words
    "no JSON": (b"{", {}, 400, "not valid JSON"),
    "no object": (b"[]", {}, 400, "not a JSON object"),
    "no model": ({"messages": MESSAGES}, {}, 400, "`model` is required"),
    "no messages": ({"model": "plain"}, {}, 400, "`messages` is required"),
    "a model that is none": ({"model": 1, "messages": MESSAGES}, {}, 400, "`model` is not a"),
    "messages that are none": ({"model": "plain", "messages": "x"}, {}, 400, "is not a list"),
    "an unknown model": ({"model": "none", "messages": MESSAGES}, {}, 404, "does not exist"),
    "an encoding": ({}, {"content_encoding": "br"}, 415, "`br`"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_refused(stage: Stage, name: str) -> None:
    body, headers, status, words = REFUSED[name]
    answer = await ask(stage.running.port, stage.running.key, body, path=PATH, **headers)
    assert answer.status == status
    assert words in answer.json["error"]["message"]


async def test_a_compressed_request(stage: Stage) -> None:
    body = gzip.compress(json.dumps({"model": "counts", "messages": MESSAGES}).encode())
    running = stage.running
    answer = await ask(running.port, running.key, body, path=PATH, content_encoding="gzip")
    assert answer.json == {"input_tokens": 14}
    assert b"content-encoding" not in stage.upstream.heads["counts"][-1]


async def test_keys_are_checked(stage: Stage) -> None:
    answer = await ask(stage.running.port, "wrong", {"model": "plain"}, path=PATH)
    assert answer.status == 401


async def test_anthropics_sdk(stage: Stage) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=stage.running.url, api_key=stage.running.key, max_retries=0
    ) as client:
        messages: Any = MESSAGES
        assert (await client.messages.count_tokens(model="counts", messages=messages)) == (
            anthropic.types.MessageTokensCount(input_tokens=14)
        )
        beta = await client.beta.messages.count_tokens(
            model="plain", messages=messages, betas=["token-counting-2024-11-01"]
        )
        assert beta.input_tokens == ESTIMATE


async def test_nothing_of_it_is_in_the_ledger(stage: Stage) -> None:
    await stage.ask("counts")
    assert await stage.running.rows() == []
