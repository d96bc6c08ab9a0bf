"""Client SDKs on each front, before upstreams of every dialect: an answer means the same whatever
the pair. The table of cells is in `tests/support/front_cells.py`.

Python's and Node's SDKs of OpenAI and of Anthropic, streamed and not, and the Vercel AI SDK with
its providers for OpenAI, for what is compatible with it and for Anthropic.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from tests.conftest import Running, serving, settings_for, until
from tests.support import node_clients, python_clients
from tests.support.front_cells import FRONTS, cells, finish_of
from tests.support.node_clients import Asked, Node
from tests.support.python_clients import Python
from tests.support.questions import PNG, Question, Seen

pytestmark = pytest.mark.asyncio(loop_scope="module")

DIALECTS = ("openai", "openai-responses", "anthropic", "gemini", "ollama")

_END = SCRIPTS["happy"].steps[-2:]  # usage, and the end marker
_ONE_CALL: dict[str, Any] = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "sum", "arguments": '{"a": 1, "b": 2}'},
}
OWN_SCRIPTS = {
    "text": SCRIPTS["happy"],
    "one-tool": Script(steps=[Step(tool=_ONE_CALL), Step(finish="tool_calls"), *_END]),
    "two-tools": SCRIPTS["tools"],
    "agent": Script(
        steps=[
            *(Step(think=each) for each in ("Two", " calls", " will", " do.")),
            Step(say="One moment."),
            *SCRIPTS["tools"].steps[:-2],
            *SCRIPTS["thinking"].steps[-2:],  # with as many thoughts
        ]
    ),
    "image": SCRIPTS["happy"],
    "length": Script(steps=[Step(say="Once"), Step(finish="length"), *_END]),
    "refusal": Script(steps=[Step(delta={"refusal": "I will not."}), Step(finish="stop"), *_END]),
    "filtered": Script(steps=[Step(say="Once"), Step(finish="content_filter"), *_END]),
}

WORDS = ["Once", " upon", " a", " time", ",", " there", " was", " a", " stream", "."]
CALLS = [["call_1", "sum", {"a": 1, "b": 2}], ["call_2", "now", {}]]
TEXT = Seen(text=WORDS, finish="stop", usage=[7, 10, 0, 3])

#: What is seen of an answer, in the words of Chat Completions.
ANSWERS = {
    "text": TEXT,
    "thinking": Seen(
        text=[" Forty", "-two", "."],
        thoughts=["Let", " me", " think", "."],
        finish="stop",
        usage=[7, 7, 4, 3],
    ),
    "one-tool": Seen(calls=CALLS[:1], finish="tool_calls", usage=[7, 10, 0, 3]),
    "two-tools": Seen(calls=CALLS, finish="tool_calls", usage=[7, 4, 0, 3]),
    "agent": Seen(
        text=["One moment."],
        thoughts=["Two", " calls", " will", " do."],
        calls=CALLS,
        finish="tool_calls",
        usage=[7, 7, 4, 3],
    ),
    "image": TEXT,
    "length": Seen(text=["Once"], finish="length", usage=[7, 10, 0, 3]),
    "refusal": Seen(refusal=["I will not."], finish="stop", usage=[7, 10, 0, 3]),
    "filtered": Seen(text=["Once"], finish="content_filter", usage=[7, 10, 0, 3]),
    "cut": Seen(text=WORDS, error="The upstream closed the connection. Try again later."),
}

#: How an answer that broke off is an error. Front -> code of a streamed answer; code and status of
#: one that was not streamed.
BROKEN = {
    "chat": ("upstream_cut", "upstream_cut", 502),
    "messages": ("overloaded_error", "overloaded_error", 529),
    "responses": ("server_error", "upstream_cut", 502),
}

#: SDKs that put a status to an error of a stream.
STATUSES = {("messages", "python-helper"): 200, ("responses", "ai-sdk"): 500}


#: (dialect, subject) each. A turn has its own test.
PLAYED = [(each, name) for each in DIALECTS for name in cells(each) if name != "turn"]

#: To OpenAI's helpers these ends of a chat are failures.
UNTAKEN = ("length", "filtered")


def clients_of(front: str, name: str) -> list[str]:
    """Of Python and of Node."""
    clients = [*python_clients.CLIENTS[front], *node_clients.CLIENTS]
    untaken = front == "chat" and name in UNTAKEN
    return [each for each in clients if not (untaken and each.endswith("helper"))]


PAIRS = [(front, *cell) for cell in PLAYED for front in FRONTS]
QUESTIONS = {name: Question(image=name == "image") for name in ANSWERS}


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
        for dialect, script in PLAYED
    ]
    routes = [
        {"model": each["name"], "deployments": [each["name"]], "attempts": 1}
        for each in deployments
    ]
    data = tmp_path_factory.mktemp("front-sdks")
    async with serving(settings_for(data, None, deployments=deployments, routes=routes)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def python(server: Running) -> AsyncIterator[Python]:
    async with python_clients.clients(server) as python:
        yield python


def turn(front: str, client: str, dialect: str) -> Asked:
    return Asked(front, client, f"{dialect}/agent", then=f"{dialect}/text")


@pytest.fixture(scope="module")
def node(server: Running) -> Node:
    asked = {
        Asked(front, client, f"{dialect}/{name}"): QUESTIONS[name]
        for front, dialect, name in PAIRS
        for client in clients_of(front, name)
        if client in node_clients.CLIENTS
    }
    turns = [
        turn(front, client, dialect)
        for front in FRONTS
        for client in node_clients.TURNS
        for dialect in DIALECTS
    ]
    by_ids = [turn("responses", "ai-sdk-stored", dialect) for dialect in DIALECTS]
    return Node(server, asked | dict.fromkeys([*turns, *by_ids], Question()))


@pytest.mark.parametrize(("front", "dialect", "name"), PAIRS)
async def test_an_answer_means_the_same(
    python: Python, node: Node, upstream: MockServer, front: str, dialect: str, name: str
) -> None:
    """Text, thoughts, calls, finish and usage, every delta by itself; an error behind what was
    said, with nothing that looks like a normal end."""
    model, question = f"{dialect}/{name}", QUESTIONS[name]
    clients = node_clients.here(clients_of(front, name))
    body = question.body(front, model)
    looks = [
        python.look(front, client, body)
        if client.startswith("python")
        else node.look(Asked(front, client, model))
        for client in clients
    ]
    seen = dict(zip(clients, await asyncio.gather(*looks), strict=True))
    assert seen == {client: expected(front, client, dialect, ANSWERS[name]) for client in seen}
    if question.image:
        asked = asked_of(upstream, dialect, name)
        assert len(asked) >= len(seen)
        assert all(PNG in each for each in asked)


PATHS = {
    "openai": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/",
    "ollama": "/api/chat",
}
RESULTS_SAID = ("Hello", "One moment.", "'sum'", "The sum is 3.", "The time is noon.")


def asked_of(upstream: MockServer, dialect: str, model: str) -> list[str]:
    return [
        str(each.request)
        for each in upstream.requests
        if each.path.startswith(PATHS[dialect])
        and (each.request.get("model") == model or f"/{model}:" in each.path)
    ]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("client", ["python-helper", *node_clients.TURNS])
@pytest.mark.parametrize("front", FRONTS)
async def test_a_turn_with_results(
    python: Python, node: Node, upstream: MockServer, front: str, client: str, dialect: str
) -> None:
    """What the SDK makes of an answer with thoughts, text and calls can be sent back."""
    asked = turn(front, client, dialect)
    if client.startswith("python"):
        body = Question().body(front, asked.model)
        seen = await python.look(front, client, body, asked.then)
    else:
        seen = await node.look(asked)
    assert seen == expected(front, client, dialect, TEXT)
    told = [each for each in asked_of(upstream, dialect, "text") if "The sum is 3." in each]
    told = [each for each in told if "item_reference" not in each]  # of the test below
    assert told
    for each in told:
        places = [each.find(part) for part in RESULTS_SAID]
        assert -1 not in places
        assert places == sorted(places)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_ids_of_items_in_place_of_items(node: Node, dialect: str) -> None:
    """The Vercel AI SDK sends them where it is not told to leave `store` off. Only who made the
    items may have them."""
    seen = await node.look(turn("responses", "ai-sdk-stored", dialect))
    if dialect == "openai-responses":
        assert (seen.status, seen.error, seen.finish) == (None, None, "stop")
        assert seen.text
        return
    assert (seen.status, seen.text, seen.finish) == (400, [], None)
    assert seen.error is not None
    assert seen.error.startswith("unsupported_parameter: `input[1]` refers to an item by its id")
    assert "`store: false`" in seen.error


def expected(front: str, client: str, dialect: str, seen: Seen) -> Seen:
    if seen.error is not None:
        return broken(front, client, seen)
    finish = str(seen.finish)
    if seen.refusal and (front == "messages" or client == "ai-sdk"):
        # It is text there, and the finish says what it is.
        seen, finish = replace(seen, text=seen.refusal, refusal=[]), "content_filter"
    seen = replace(seen, finish=finish_of(front, client, finish))
    if client.endswith("whole"):
        whole = {name: joined(getattr(seen, name)) for name in ("text", "thoughts", "refusal")}
        seen = replace(seen, **whole)
    if dialect == "ollama":  # it has no cache
        assert seen.usage is not None
        seen = replace(seen, usage=[*seen.usage[:3], 0])
    return seen


def broken(front: str, client: str, seen: Seen) -> Seen:
    streamed, whole, status = BROKEN[front]
    if client.endswith("whole"):
        return Seen(error=f"{whole}: {seen.error}", status=status)
    return replace(seen, error=f"{streamed}: {seen.error}", status=STATUSES.get((front, client)))


def joined(deltas: list[str]) -> list[str]:
    return ["".join(deltas)] if deltas else []
