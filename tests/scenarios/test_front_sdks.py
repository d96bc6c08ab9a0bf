"""SDKs for Node in front of upstreams of every dialect: Anthropic's own one, and the Vercel AI SDK
with its providers for the Messages and the Responses API. Equal meaning whatever the pair.

The programs are in `js`; each is run once for all models, since a start of Node is what costs.
"""

import asyncio
import gc
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from tests.conftest import Running, serving, settings_for, until
from tests.support.sdks import JS, Seen

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]

DIALECTS = ("openai", "openai-responses", "anthropic", "gemini", "ollama")

_ONE_CALL: Json = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "sum", "arguments": '{"a": 1, "b": 2}'},
}
_END = SCRIPTS["happy"].steps[-2:]
OWN_SCRIPTS = {
    "agent": Script(
        steps=[
            *(Step(think=each) for each in ("Two", " calls", " will", " do.")),
            Step(say="One moment."),
            *SCRIPTS["tools"].steps[:-2],
            *SCRIPTS["thinking"].steps[-2:],  # with as many thoughts
        ]
    ),
    "one-tool": Script(steps=[Step(tool=_ONE_CALL), Step(finish="tool_calls"), *_END]),
    "length": Script(steps=[Step(say="Once"), Step(finish="length"), *_END]),
}

WORDS = ["Once", " upon", " a", " time", ",", " there", " was", " a", " stream", "."]
CALLS = [["call_1", "sum", {"a": 1, "b": 2}], ["call_2", "now", {}]]

#: Script -> what is seen of its answer; the finish in the words of the Vercel AI SDK.
ANSWERS = {
    "happy": Seen(text=WORDS, finish="stop", usage=[7, 10, 0, 3]),
    "thinking": Seen(
        text=[" Forty", "-two", "."],
        thoughts=["Let", " me", " think", "."],
        finish="stop",
        usage=[7, 7, 4, 3],
    ),
    "one-tool": Seen(calls=CALLS[:1], finish="tool_calls", usage=[7, 10, 0, 3]),
    "tools": Seen(calls=CALLS, finish="tool_calls", usage=[7, 4, 0, 3]),
    "agent": Seen(
        text=["One moment."],
        thoughts=["Two", " calls", " will", " do."],
        calls=CALLS,
        finish="tool_calls",
        usage=[7, 7, 4, 3],
    ),
    "length": Seen(text=["Once"], finish="length", usage=[7, 10, 0, 3]),
    "cut": Seen(text=WORDS, error="The upstream closed the connection. Try again later."),
}
CASES = [(dialect, script) for dialect in DIALECTS for script in ANSWERS]
MODELS = [f"{dialect}/{script}" for dialect, script in CASES]

STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}


@dataclass
class Way:
    package: str  # of npm
    program: str  # in `js`
    error: str  # the code of a broken answer
    status: int | None = None  # of a broken answer; the SDK's own where the answer was streamed
    stop_reasons: bool = True  # the finish is Anthropic's, else that of the Vercel AI SDK
    streamed: bool = True


_ANTHROPIC = ("@anthropic-ai/sdk", "messages", "overloaded_error")
WAYS = {
    "create": Way(*_ANTHROPIC, status=529, streamed=False),
    "stream": Way(*_ANTHROPIC),
    "helper": Way(*_ANTHROPIC),
    "ai-sdk-anthropic": Way(
        "@ai-sdk/anthropic", "ai_fronts", "overloaded_error", stop_reasons=False
    ),
    "ai-sdk-openai": Way(
        "@ai-sdk/openai", "ai_fronts", "server_error", status=500, stop_reasons=False
    ),
}


@pytest.fixture(scope="module", autouse=True)
def no_garbage() -> Iterator[None]:
    """Once for all: after each test it would take longer than they do."""
    yield
    gc.collect()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[MockServer]:
    upstream = MockServer(SCRIPTS | OWN_SCRIPTS)
    yield upstream
    await until(lambda: upstream.open_connections == 0, "no connection to the upstream is left")
    await upstream.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    upstream: MockServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    base = await upstream.start()
    origin = base.removesuffix("/v1")
    deployments = [
        {
            "name": f"{dialect}/{script}",
            "model": script,
            "dialect": dialect,
            "base_url": base if dialect.startswith("openai") else origin,
            "open_after": 0,
        }
        for dialect, script in CASES
    ]
    routes = [
        {"model": each["name"], "deployments": [each["name"]], "attempts": 1}
        for each in deployments
    ]
    data = tmp_path_factory.mktemp("front-sdks")
    async with serving(settings_for(data, None, deployments=deployments, routes=routes)) as running:
        yield running


class Node:
    """The programs of `js`, each run once, when it is first asked for."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._runs: dict[str, asyncio.Task[Json]] = {}

    async def look(self, name: str, model: str, what: str = "") -> Seen:
        """`what`: as the programs call what a way does besides."""
        way = WAYS[name]
        need_node(way.package)
        if way.program not in self._runs:
            run = asyncio.to_thread(self._run, way.program)
            self._runs[way.program] = asyncio.create_task(run)
        told = await self._runs[way.program]
        return Seen(**told[model][name + what])

    def _run(self, program: str) -> Json:
        done = subprocess.run(
            ["node", f"{program}.mjs", f"{self._server.url}/v1", self._server.key, *MODELS],
            cwd=JS,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def need_node(package: str) -> None:
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    if not (JS / "node_modules" / package).is_dir():
        pytest.skip(f"the npm package {package} is not installed")


@pytest.fixture(scope="module")
def node(server: Running) -> Node:
    return Node(server)


@pytest.mark.parametrize(("dialect", "script"), CASES)
@pytest.mark.parametrize("name", WAYS)
async def test_equal_meaning_whatever_the_pair(
    node: Node, name: str, dialect: str, script: str
) -> None:
    """Text, thoughts, calls, finish and usage, every delta by itself; an error behind what was
    said, with nothing that looks like a normal end."""
    assert await node.look(name, f"{dialect}/{script}") == expected(name, dialect, script)


PATHS = {
    "openai": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/",
    "ollama": "/api/chat",
}
TURNS = ("helper", "ai-sdk-anthropic", "ai-sdk-openai")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", TURNS)
async def test_a_turn_with_results(
    node: Node, upstream: MockServer, name: str, dialect: str
) -> None:
    """What the SDK makes of an answer with thoughts, text and calls can be sent back."""
    seen = await node.look(name, f"{dialect}/agent", ", turn")
    assert seen == expected(name, dialect, "happy")
    asked = [
        str(each.request)
        for each in upstream.requests
        if each.path.startswith(PATHS[dialect]) and "The sum is 3." in str(each.request)
    ]
    assert asked
    said = ("Hello", "One moment.", "'sum'", "The sum is 3.", "The time is noon.")
    for each in asked:
        places = [each.find(part) for part in said]
        assert -1 not in places
        assert places == sorted(places)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_ids_of_items_in_place_of_items_are_refused(node: Node, dialect: str) -> None:
    """The Vercel AI SDK sends them where it is not told to leave `store` off."""
    seen = await node.look("ai-sdk-openai", f"{dialect}/agent", ", turn by ids")
    assert (seen.status, seen.text, seen.finish) == (400, [], None)
    assert seen.error is not None
    assert seen.error.startswith("unsupported_parameter: `input[1]` refers to an item by its id")
    assert "`store: false`" in seen.error


def expected(name: str, dialect: str, script: str) -> Seen:
    way, seen = WAYS[name], ANSWERS[script]
    if seen.error is not None:
        said = seen.text if way.streamed else []
        return replace(seen, text=said, error=f"{way.error}: {seen.error}", status=way.status)
    if not way.streamed:
        seen = replace(seen, text=_whole(seen.text), thoughts=_whole(seen.thoughts))
    if way.stop_reasons:
        assert seen.finish is not None
        seen = replace(seen, finish=STOP_REASONS[seen.finish])
    if dialect == "ollama":  # it has no cache
        assert seen.usage is not None
        seen = replace(seen, usage=[*seen.usage[:3], 0])
    return seen


def _whole(deltas: list[str]) -> list[str]:
    return ["".join(deltas)] if deltas else []
