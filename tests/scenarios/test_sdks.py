"""Client SDKs as applications use them, each in front of the same streams.

A way is an SDK and one of its interfaces. What a way makes of a stream is noted in one form
(`Seen`), so one table says what every SDK must see. What runs in Node is in `node_clients`.
"""

import gc
import importlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import pytest_asyncio

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer, Script, Step
from tests.conftest import Running, serving, settings_for, until
from tests.support import sdks
from tests.support.node_clients import Asked, Node
from tests.support.questions import Question, Seen

WORDS = ["Once", " upon", " a", " time", ",", " there", " was", " a", " stream", "."]
CALL = {"index": 0, "id": "call_1", "type": "function"}

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN_SCRIPTS = {
    "agent": Script(
        steps=[
            Step(think="Two calls"),
            Step(think=" will do."),
            Step(say="One moment."),
            *SCRIPTS["tools"].steps,
        ]
    ),
    "cut-thought": Script(steps=[Step(think="Let me"), Step(cut=True)]),
    "cut-call": Script(
        steps=[
            Step(tool={**CALL, "function": {"name": "sum", "arguments": ""}}),
            Step(tool={"index": 0, "function": {"arguments": '{"a": 1,'}}),
            Step(cut=True),
        ]
    ),
}

CALLS = [["call_1", "sum", {"a": 1, "b": 2}], ["call_2", "now", {}]]
HAPPY = Seen(text=WORDS, finish="stop", usage=[7, 10, 0, 3])
ANSWERS = {
    "happy": HAPPY,
    "late-token": HAPPY,  # comments come first
    "separators": replace(
        HAPPY, text=["a\u2028b", "c\u2029d", "e\x85f", 'g\\u2028"\n'], usage=[7, 4, 0, 3]
    ),
    "utf8-split": replace(
        HAPPY, text=["Žluť", "oučký ", "kůň 🐎", "👩‍👩‍👧 úpěl"], usage=[7, 4, 0, 3]
    ),
    "thinking": Seen(
        text=[" Forty", "-two", "."],
        thoughts=["Let", " me", " think", "."],
        finish="stop",
        usage=[7, 7, 4, 3],
    ),
    "tools": Seen(calls=CALLS, finish="tool_calls", usage=[7, 4, 0, 3]),
    "agent": Seen(
        text=["One moment."],
        thoughts=["Two calls", " will do."],
        calls=CALLS,
        finish="tool_calls",
        usage=[7, 4, 2, 3],
    ),
}
CUT = "upstream_cut: The upstream closed the connection. Try again later."
BROKEN = {
    "cut": Seen(text=WORDS, error=CUT),
    "cut-thought": Seen(thoughts=["Let me"], error=CUT),
    "cut-call": Seen(error=CUT),
    "error-in-band": Seen(text=WORDS, error="gpu_lost: The GPU fell off. Try again later."),
    # Comments only, then the error.
    "stall-early": Seen(
        error="upstream_first_token_timeout: The upstream gave no first token within 1 s."
        " Try again later."
    ),
    "error-first": Seen(error="gpu_lost: The GPU fell off. Try again later.", status=502),
    "too-long": Seen(
        error="context_length_exceeded: This model's maximum context length is exceeded:"
        " the request exceeds the available context size",
        status=400,
    ),
    "429": Seen(
        error="upstream_rate_limited: The upstream answered 429: Slow down. Try again later.",
        status=429,
    ),
}
MODELS = [*ANSWERS, *BROKEN]


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Garbage is looked for behind every test, and SDKs are large: only in what is new."""
    importlib.import_module("langchain_deepseek")
    gc.freeze()
    yield
    gc.unfreeze()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    upstream = MockServer(SCRIPTS | OWN_SCRIPTS)
    once = {"base_url": await upstream.start(), "open_after": 0}
    quick = {"stall-early": {"first_token_seconds": 1.0}}
    settings = settings_for(
        tmp_path_factory.mktemp("sdks"),
        None,
        deployments=[
            {"name": f"at-{model}", "model": model, **once, **quick.get(model, {})}
            for model in MODELS
        ],
        routes=[
            {"model": model, "deployments": [f"at-{model}"], "attempts": 1} for model in MODELS
        ],
        **{"streams.gate_seconds": 0.5, "streams.heartbeat_seconds": 0.1},
    )
    async with serving(settings) as running:
        yield running
    await until(lambda: upstream.open_connections == 0, "no connection to the upstream is left")
    await upstream.stop()


#: Ways of Node, as `node_clients` calls them.
NODE_WAYS = {"openai-node": "node-stream", "openai-node-helper": "node-helper", "ai-sdk": "ai-sdk"}


#: Where usage is not asked for.
WITHOUT_USAGE = ("happy", "thinking", "tools")


def asked_of_node(way: str, model: str, usage: bool) -> Asked:
    return Asked("chat", NODE_WAYS[way], model, subject="" if usage else "no usage")


@pytest.fixture(scope="module")
def node(server: Running) -> Node:
    questions = {
        asked_of_node(way, model, usage): Question(usage=usage)
        for usage, models in ((True, MODELS), (False, WITHOUT_USAGE))
        for model in models
        for way in NODE_WAYS
    }
    return Node(server, questions)


async def seen_by(way: str, server: Running, node: Node, model: str, usage: bool = True) -> Seen:
    if way in NODE_WAYS:
        return await node.look(asked_of_node(way, model, usage))
    return await sdks.look(way, server, model, usage)


WAYS = [*sdks.WAYS, *NODE_WAYS]


@pytest.mark.parametrize("model", ANSWERS)
@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_is_seen_as_it_was_given(
    server: Running, node: Node, way: str, model: str
) -> None:
    """Text, reasoning, tool calls, finish and usage; every delta by itself."""
    assert await seen_by(way, server, node, model) == expected(way, ANSWERS[model])


@pytest.mark.parametrize("model", BROKEN)
@pytest.mark.parametrize("way", WAYS)
async def test_a_broken_answer_is_an_error_behind_what_was_said(
    server: Running, node: Node, way: str, model: str
) -> None:
    """No finish, no call that is not whole, no usage: nothing that looks like a normal end."""
    assert await seen_by(way, server, node, model) == expected(way, BROKEN[model])


@pytest.mark.parametrize("model", WITHOUT_USAGE)
@pytest.mark.parametrize("way", [way for way in WAYS if way != "openai-node-helper"])
async def test_usage_that_nobody_asked_for_is_not_shown(
    server: Running, node: Node, way: str, model: str
) -> None:
    wanted = replace(ANSWERS[model], usage=None)
    assert await seen_by(way, server, node, model, usage=False) == expected(way, wanted)


def expected(way: str, seen: Seen) -> Seen:
    # Said at sdks.WAYS; that the reasoning is left out may not harm the rest.
    return replace(seen, thoughts=[]) if way in ("langchain", "langchain-async") else seen
