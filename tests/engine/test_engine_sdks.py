"""The local engine behind each front, as client SDKs have it: its column in the table of
`tests/support/front_cells.py`.

All is asked one after the other, so that a prompt is read by one of the engine's slots alone. What
a small model says is its own affair: that all clients see the same of it is looked at here.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Running
from tests.support import node_clients, python_clients
from tests.support.engines import MODEL, THINKING
from tests.support.front_cells import FRONTS, cells, finish_of
from tests.support.node_clients import Asked, Node
from tests.support.python_clients import Python
from tests.support.questions import Question, Seen

pytestmark = pytest.mark.asyncio(loop_scope="package")

ONE: dict[str, Any] = {"const": 1}


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters, "required": list(parameters)}
    return {"name": name, "description": "", "parameters": schema, "strict": False}


TOOLS = (tool("sum", a=ONE, b=ONE), tool("now"))
CALLED = (("sum", {"a": 1, "b": 1}), ("now", {}))


@dataclass(frozen=True)
class Cell:
    """`goes_on`: the results of the calls are given to the model, and its answer is seen."""

    question: Question
    finish: str
    clients: tuple[str, ...]
    model: str = MODEL
    calls: list[Any] = field(default_factory=list)
    goes_on: bool = False

    def asked(self, front: str, client: str) -> Asked:
        then = self.model if self.goes_on else None
        return Asked(front, client, self.model, then, subject=self.question.text)


def ask(text: str, said: str | None = None, **more: Any) -> Question:
    return Question(**{"text": text, "said": said, "tools": (), "temperature": 0.0, **more})


TIME = ask("What time is it?", "It is noon.", called=CALLED[1:], tools=TOOLS, calls=True)
BOTH = ask("Add, and tell the time.", "Done.", called=CALLED, tools=TOOLS, calls=True, several=True)
ALL = ("python-whole", "python-helper", "node-whole", "node-helper", "ai-sdk")

#: Clients are few where an answer is long: each token takes its time.
CELLS = {
    "text": Cell(ask("Say yes.", "Yes."), "stop", ALL),
    "length": Cell(ask("Count to twenty.", limit=2), "length", ("python-whole",)),
    "thinking": Cell(ask("Say yes.", limit=3), "length", ALL, THINKING),
    "one-tool": Cell(TIME, "tool_calls", ("python-whole",), calls=[["now", {}]]),
    "two-tools": Cell(
        BOTH, "tool_calls", ("python-helper",), calls=[list(each) for each in CALLED]
    ),
    "turn": Cell(TIME, "stop", ("ai-sdk",), goes_on=True),
    "image": Cell(ask("What is it?", image=True), "", ALL),
}
assert CELLS.keys() == {*cells("engine"), *cells("engine", "400")}


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def python(engine: Running) -> AsyncIterator[Python]:
    async with python_clients.clients(engine) as python:
        yield python


@pytest.fixture(scope="module")
def node(engine: Running) -> Node:
    asked = {
        cell.asked(front, client): cell.question
        for cell in CELLS.values()
        for front in FRONTS
        for client in cell.clients
        if not client.startswith("python")
    }
    return Node(engine, asked, one_by_one=True)


async def look(python: Python, node: Node, cell: Cell, front: str, client: str) -> Seen:
    asked = cell.asked(front, client)
    if not client.startswith("python"):
        return await node.look(asked)
    return await python.look(front, client, cell.question.body(front, cell.model), asked.then)


@pytest.mark.parametrize("name", cells("engine"))
async def test_an_answer_means_the_same_whatever_the_client(
    python: Python, node: Node, name: str
) -> None:
    cell = CELLS[name]
    clients = [
        (front, client)
        for client in node_clients.here(cell.clients) or cell.clients
        for front in FRONTS
        # To OpenAI's helpers an end at the limit of a chat is a failure.
        if (front, client[-6:], cell.finish) != ("chat", "helper", "length")
    ]
    answers = {each: await look(python, node, cell, *each) for each in clients}
    first = answers["chat", cell.clients[0]]
    for (front, client), seen in answers.items():
        where = f"{front}, {client}: {seen}"
        assert seen.error is None, where
        assert seen.finish == finish_of(front, client, cell.finish), where
        assert [call[1:] for call in seen.calls] == cell.calls, where
        # A turn has two answers that are equally likely.
        assert "".join(seen.text) == "".join(first.text) or (seen.text and cell.goes_on), where
        assert "".join(seen.thoughts) == "".join(first.thoughts), where
        assert seen.usage is not None
        assert first.usage is not None
        assert seen.usage[0] == first.usage[0], where  # what is cached depends on what was before
        assert seen.usage[1] == first.usage[1] or cell.goes_on, where
        assert min(seen.usage[:2]) > 0
    assert bool(first.text) is (name in ("text", "length", "turn"))
    assert bool(first.thoughts) is (name == "thinking")


@pytest.mark.parametrize("client", ALL)
@pytest.mark.parametrize("front", FRONTS)
async def test_an_image_is_refused_with_what_to_do(
    python: Python, node: Node, front: str, client: str
) -> None:
    seen = await look(python, node, CELLS["image"], front, client)
    code = "invalid_request_error" if front == "messages" else "unsupported_parameter"
    message = (
        "The model takes text alone, and no images: leave that out, or ask a model that takes it."
    )
    assert seen == Seen(error=f"{code}: {message}", status=400)
