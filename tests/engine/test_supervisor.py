"""Against real llama.cpp with the default models."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import psutil
import pytest

from tests.conftest import Running, until
from tests.support import examples
from tests.support.engines import MODEL, THINKING, Process, engines
from tests.support.wire import Wire, ask, chat, request

JS = Path(__file__).parents[1] / "js"


def with_little_context(folder: Path, *models: str) -> Path:
    """The examples set no limit, and small models ramble: so their answers end. With one thread,
    since other tests run on the other core: two would wait for each other."""
    rows = ["[engine]\nthreads = 1\n"]
    rows += [f'[[engine.models]]\nname = "{name}"\ncontext = 200\n' for name in models]
    (folder / "legato.toml").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(with_little_context(tmp_path_factory.mktemp("data"), MODEL, THINKING))
    yield process
    errors = process.end()
    assert "Traceback" not in errors
    assert process.child.returncode == 0


@pytest.fixture(scope="module")
def short(server: Process) -> str:
    """A key whose answers end soon: the examples set no limit, and small models ramble."""
    words = ["keys", "create", "short", "--max-tokens", f"{SHORT}", "--json"]
    made = subprocess.run(
        [sys.executable, "-m", "legato", *words, "--data", str(server.data)],
        capture_output=True,
        check=True,
    )
    return json.loads(made.stdout)["key"]


@pytest.fixture
def client(server: Process) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0)


def run(command: list[str], **options: Any) -> tuple[str, list[float]]:
    """What a program prints, and when each piece of it came."""
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        **options,
    )
    assert child.stdout is not None
    pieces: list[bytes] = []
    times: list[float] = []
    while piece := os.read(child.stdout.fileno(), 65536):
        pieces.append(piece)
        times.append(time.monotonic())
    _, errors = child.communicate()
    assert child.returncode == 0, errors.decode()
    return b"".join(pieces).decode(), times


def comes_in_pieces(times: list[float]) -> bool:
    return len(times) > 3 and times[-1] - times[0] > 0.05


#: Tokens of an example's answer.
SHORT: Final = 48

#: Characters that may come in a few pieces.
FEW: Final = 120

#: Pages whose examples are run.
PAGES = ("streaming", "completions", "responses")


def is_whole(body: str) -> bool:
    """Whether a body that was printed ends as an answer does that has not failed."""
    *_, last = body.rstrip().split("\n\n")
    ends = ("data: [DONE]", "event: response.completed\n", "event: response.incomplete\n")
    return last.startswith(ends)


def all_examples() -> list[Any]:
    found: list[Any] = []
    for page, language in itertools.product(PAGES, ("python", "javascript", "bash")):
        for number, code in enumerate(examples.of_page(f"{page}.md", language)):
            found.append(pytest.param(language, code, id=f"{page}-{language}-{number}"))
    if examples.SEED.exists():
        for name, code in examples.of_seed().items():
            language = {"reasoning": "python", "curl": "bash"}.get(name, name)
            found.append(pytest.param(language, code, id=f"seed-{name}"))
    return found


@pytest.mark.parametrize(("language", "code"), all_examples())
def test_examples_run_as_they_stand(server: Process, short: str, language: str, code: str) -> None:
    model = THINKING if "[Thinking]" in code else MODEL
    key = server.key if "max_" in code else short  # more than its limit would be refused
    code = examples.filled(code, server.url, key, model, THINKING)
    if language == "python":
        output, times = run([sys.executable, "-c", code])
    elif language == "bash":
        output, times = run(["bash", "-c", code])
        assert is_whole(output)
    else:
        need_node()
        output, times = run(["node", "--input-type=module", "-e", code], cwd=JS)
    assert output.strip()
    # The model says what it likes, and sometimes little.
    assert len(output) < FEW or comes_in_pieces(times)
    if "[Thinking]" in code:
        assert "[Thinking] " in output
    if "include_usage" in code:
        assert output.rstrip().endswith("tokens")


def need_node() -> None:
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    if not (JS / "node_modules" / "openai").is_dir():
        pytest.skip("the npm package openai is not installed")


def test_what_the_terminal_shows_can_be_pasted(server: Process, short: str) -> None:
    """The three examples of the greeting, as they were printed on the first start."""
    output = server.output
    assert "Or chat right here" in output
    curl = output[output.index("curl http") : output.index("\n\nPython")]
    python = output[output.index("from openai") : output.index("\n\nJavaScript")]
    javascript = output[output.index("import OpenAI from") : output.index("\n\nOr chat")]
    assert server.key in output
    assert "Once" in python or "story" in python
    curl, python, javascript = (
        each.replace(server.key, short) for each in (curl, python, javascript)
    )
    assert run(["bash", "-c", curl])[0].rstrip().endswith("data: [DONE]")
    assert run([sys.executable, "-c", python])[0].strip()
    need_node()
    assert run(["node", "--input-type=module", "-e", javascript], cwd=JS)[0].strip()


def test_the_sdks_helper_accumulates_a_message(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "Say hello."}],
        stop=["."],
        stream_options={"include_usage": True},
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert final.choices[0].message.content == text
    assert final.choices[0].message.role == "assistant"
    assert final.usage is not None
    assert final.usage.total_tokens == final.usage.prompt_tokens + final.usage.completion_tokens


@pytest.mark.parametrize("model", [MODEL, THINKING])
def test_streamed_and_not_streamed_are_the_same(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Name three colours."}],
        "temperature": 0,
        "seed": 7,
        "max_tokens": 80,
    }
    whole = client.chat.completions.create(**asked).choices[0]
    chunks = list(client.chat.completions.create(**asked, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == (whole.message.content or "")
    thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert thoughts == (getattr(whole.message, "reasoning_content", None) or "")
    assert bool(thoughts) == (model == THINKING)
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


def test_parameters_reach_the_engine(client: openai.OpenAI) -> None:
    ask_it: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Count from one to twenty in words."}],
        "temperature": 0,
    }
    one = client.chat.completions.create(**ask_it, max_completion_tokens=1)
    assert one.usage is not None
    assert one.usage.completion_tokens == 1
    assert one.choices[0].finish_reason == "length"
    stopped = client.chat.completions.create(**ask_it, stop=["three"], max_tokens=60)
    assert "three" not in (stopped.choices[0].message.content or "")
    logprobs = client.chat.completions.create(**ask_it, logprobs=True, top_logprobs=2, max_tokens=3)
    tokens = logprobs.choices[0].logprobs
    assert tokens is not None
    assert tokens.content is not None
    assert [len(each.top_logprobs) for each in tokens.content] == [2, 2, 2]
    answer = client.chat.completions.create(
        **ask_it,
        max_tokens=60,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "n",
                "schema": {
                    "type": "object",
                    "properties": {"n": {"enum": [1, 2]}},
                    "required": ["n"],
                    "additionalProperties": False,
                },
            },
        },
    )
    assert json.loads(answer.choices[0].message.content or "")["n"] in (1, 2)


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({"reasoning_effort": "none"}, 0),
        ({"reasoning_effort": "minimal"}, 32),
        ({"thinking": {"type": "enabled", "budget_tokens": 16}}, 16),
        ({"thinking": {"type": "disabled"}}, 0),
    ],
)
def test_how_much_it_thinks(client: openai.OpenAI, asked: dict[str, Any], most: int) -> None:
    stream = client.chat.completions.create(
        model=THINKING,
        messages=[{"role": "user", "content": "Why is the sky blue?"}],
        stream=True,
        max_tokens=120,
        extra_body=asked,
    )
    thoughts = [
        chunk for chunk in stream if getattr(chunk.choices[0].delta, "reasoning_content", None)
    ]
    # The engine's own words that lead to the answer come behind the budget.
    assert (most == 0 and not thoughts) or 0 < len(thoughts) <= most + 15


def test_more_than_the_context_is_the_callers_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 5_000}], stream=True
        )
    assert caught.value.code == "context_length_exceeded"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, THINKING]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


async def test_eight_streams_at_once(server: Process) -> None:
    body = chat(MODEL, stream=True, max_tokens=64, temperature=0)

    async def one() -> list[float]:
        times: list[float] = []
        async with await Wire.open(server.port) as wire:
            wire.send(request(server.key, body))
            await wire.head()
            last = b""
            while piece := await wire.chunk():
                times.append(time.monotonic())
                last = piece
        assert last.endswith(b"data: [DONE]\n\n")
        return times

    together = await asyncio.gather(*(one() for _ in range(8)))
    last_start = max(times[0] for times in together)
    first_end = min(times[-1] for times in together)
    assert last_start < first_end, "they did not overlap"


# Engines that are killed: servers of their own


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Running]:
    """A server in this event loop with one engine, so that the engine can be looked at."""
    async with engines(tmp_path, {"name": MODEL}) as running:
        yield running


async def test_a_client_that_leaves_frees_its_slot(inside: Running) -> None:
    engine = inside.app.engines[0]
    assert engine.upstream.target is not None
    where = engine.upstream.target.pool.endpoint.authority
    async with httpx.AsyncClient(
        base_url=f"http://{where}", headers={"authorization": f"Bearer {engine.key}"}
    ) as llama:

        async def busy() -> int:
            slots = (await llama.get("/slots")).json()
            return sum(slot["is_processing"] for slot in slots)

        assert await busy() == 0
        for _ in range(3):
            async with await Wire.open(inside.port) as wire:
                body = chat(MODEL, stream=True, max_tokens=2000, logit_bias={"2": -100})
                wire.send(request(inside.key, body))
                await wire.head()
                await wire.chunk()
                assert await busy() == 1
                wire.writer.transport.abort()
            async with asyncio.timeout(5):
                while await busy():
                    pass


async def test_an_engine_that_is_killed_in_mid_stream(inside: Running) -> None:
    engine = inside.app.engines[0]
    async with await Wire.open(inside.port) as wire:
        wire.send(
            request(inside.key, chat(MODEL, stream=True, max_tokens=2000, logit_bias={"2": -100}))
        )
        await wire.head()
        pieces = [await wire.chunk()]
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        killed = time.monotonic()
        while piece := await wire.chunk():
            pieces.append(piece)
        body = b"".join(pieces)
        assert b"[DONE]" not in body
        assert b'data: {"error":' in body.strip().split(b"\n\n")[-1]
        wire.send(request(inside.key, chat(MODEL, stream=True, max_tokens=5)))
        assert (await wire.answer()).done
        assert time.monotonic() - killed < 10


async def test_a_dead_engine_holds_a_call_until_it_is_back(inside: Running) -> None:
    engine = inside.app.engines[0]
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await until(lambda: not engine.is_ready, "the death is noticed")
    assert inside.app.ready() == {"ready": False, "loading": [MODEL]}
    answer = await ask(inside.port, inside.key, chat(MODEL, max_tokens=5))
    assert answer.status == 200


def test_no_engine_outlives_a_killed_server(tmp_path: Path) -> None:
    process = Process(tmp_path, "--model", MODEL)
    engines = process.engines
    assert len(engines) == 1
    process.child.kill()
    process.child.communicate()
    _, alive = psutil.wait_procs(engines, timeout=5)
    assert not alive


def test_a_second_start_shows_no_key(tmp_path: Path) -> None:
    first = Process(with_little_context(tmp_path, MODEL))
    assert first.key in first.output
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    first.end()
    second = Process(tmp_path)
    assert first.key not in second.output
    assert second.key == first.key
    curl = second.output[second.output.index("curl http") : second.output.index("\n\nPython")]
    assert run(["bash", "-c", curl])[0].rstrip().endswith("data: [DONE]")
    second.end()
