"""Two real engines on the same weights: the first is killed in the middle of an answer, and the
second goes on with it."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legato.configuration import load
from legato.core.chunk import Chunk
from legato.core.continuation import Replay
from legato.core.dialect import Delivered, OutgoingRequest
from legato.engine import supervisor as engine
from legato.engine.catalog import Catalog
from tests.conftest import Running, serving
from tests.support.wire import Answer, Wire, chat, request

MODEL = "smollm2-135m"


class Second:
    """The engine that goes on: what it was given, and what it sent."""

    def __init__(self, running: Running) -> None:
        self.given: Delivered | None = None
        self.text = ""
        self._running = running
        upstream = running.app.upstreams["second"]
        before = upstream._transforms

        def transforms(outgoing: OutgoingRequest, replay: Replay | None) -> Any:
            self.given, self.text = outgoing.delivered, ""
            return (*before(outgoing, replay), self)

        upstream._transforms = transforms  # type: ignore[method-assign]

    def transform(self, chunk: Chunk) -> Chunk:
        for member in chunk.members():
            self.text += (member.get("delta") or {}).get("content") or ""
        return chunk

    def passes(self, index: int) -> bool:
        return False

    async def goes_on(self, body: dict[str, Any], chunks: int) -> Answer:
        """The answer to a call whose first engine dies once the client has so many chunks. Where
        that had sent it all by then, on a machine that is busy, it is another call."""
        self.given = None
        for _ in range(10):
            answer = await killed_after(self._running, body, chunks)
            if self.given is not None:
                return answer
        pytest.fail("the first engine was never killed before its answer was over")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pair") / "empty.toml"
    path.write_text("")
    return path


@pytest.fixture
async def pair(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    # Each death is a first one: no growing backoff.
    monkeypatch.setattr(engine, "STABLE_SECONDS", 0.0)
    file = Catalog(load(empty).models_dir).pull(MODEL)
    flags: dict[str, Any] = {
        "data": str(tmp_path / "data"),
        "server.port": 0,
        "engine.models": [{"name": MODEL}, {"name": "second", "path": str(file)}],
        "engine.slots": 2,
        "engine.threads": 1,  # two wait for each other where other tests run on the other core
        "routes": [{"model": "both", "deployments": [MODEL, "second"]}],
    }
    async with serving(load(empty, flags, {}), {MODEL: file, "second": file}) as running:
        for each in running.app.engines:
            await each.wait_ready()
            running.app.services.router.health[each.model.name].open_after = 0
        yield running


#: After how many chunks the first engine is killed, and what is written then: its text ends in the
#: middle of words, after spaces and newlines, after halves of emoji.
PROMPTS = [
    ("Write a short story about a cat who finds a magic hat in the woods.", (1, 4, 7)),
    ("Repeat exactly: 🐎🦄🐉 ü é 漢字 \n\n end.", (1, 2, 3, 5)),
    ("Write python code that prints a table of numbers.", (1, 6, 10)),
    ("List five fruits, one per line.", (2, 9)),
]


async def killed_after(pair: Running, body: dict[str, Any], chunks: int) -> Answer:
    first = pair.app.engines[0]
    await first.wait_ready()
    async with await Wire.open(pair.port) as wire:
        wire.send(request(pair.key, body))
        status, headers = await wire.head()
        pieces: list[bytes] = []
        alive = True
        while piece := await wire.chunk():
            pieces.append(piece)
            if alive and b"".join(pieces).count(b'"content":') > chunks:
                assert first.pid is not None
                os.kill(first.pid, signal.SIGKILL)
                alive = False
    return Answer(status, headers, b"".join(pieces), pieces)


@pytest.mark.timeout(240)
async def test_the_second_goes_on_where_the_first_is_killed(pair: Running) -> None:
    second = Second(pair)
    runs = [(prompt, chunks) for prompt, places in PROMPTS for chunks in places]
    for prompt, chunks in runs:
        body = chat(
            "both",
            stream=True,
            stream_options={"include_usage": True},
            temperature=0,
            max_tokens=16,
            repeat_penalty=1.0,
            logit_bias={"2": -100},
        )
        body["messages"] = [{"role": "user", "content": prompt}]
        answer = await second.goes_on(body, chunks)
        assert answer.done, answer.error
        assert second.given is not None
        assert second.given.content
        assert second.text
        # Nothing repeated, lost or trimmed at the seam.
        assert answer.text() == second.given.content + second.text
        assert answer.finishes() == ["length"]
        roles = [
            each
            for each in answer.chunks
            if each["choices"] and "role" in each["choices"][0]["delta"]
        ]
        assert len(roles) == 1
        assert len({each["id"] for each in answer.chunks}) == 1
        usages = [each["usage"] for each in answer.chunks if each["usage"]]
        assert [each["completion_tokens"] for each in usages] == [16]
    rows = [row for row in await pair.rows() if row["continuations"]]
    assert [row["continuations"] for row in rows] == [1] * len(runs)
    assert {row["deployments"] for row in rows} == {f"{MODEL},second"}
    assert {row["outcome"] for row in rows} == {"complete"}
