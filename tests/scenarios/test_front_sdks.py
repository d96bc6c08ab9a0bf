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
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    upstream = MockServer(SCRIPTS | OWN_SCRIPTS)
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
    await until(lambda: upstream.open_connections == 0, "no connection to the upstream is left")
    await upstream.stop()


class Node:
    """The programs of `js`, each run once, when it is first asked for."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._told: dict[str, Json] = {}

    async def look(self, name: str, model: str) -> Seen:
        way = WAYS[name]
        need_node(way.package)
        if way.program not in self._told:
            self._told[way.program] = await asyncio.to_thread(self._run, way.program)
        return Seen(**self._told[way.program][model][name])

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
