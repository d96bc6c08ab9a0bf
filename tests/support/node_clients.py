"""SDKs for Node: the programs of `js`, run once for all that is asked, since a start of Node is
what costs."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from tests.conftest import Running
from tests.support.questions import RESULTS, Question, Seen

JS = Path(__file__).parents[1] / "js"

#: Clients that take a question, and those of them that go on with the results of calls.
CLIENTS = ("node-whole", "node-stream", "node-helper", "ai-sdk")
TURNS = ("node-helper", "ai-sdk")

#: What the programs import, as `js/package.json` has it.
_PACKAGES = json.loads((JS / "package.json").read_text())["dependencies"]


class Asked(Struct, frozen=True):
    """`then`: the model that gets the results of the calls in the answer of `model`. `subject`
    tells questions to one model apart."""

    front: str
    client: str
    model: str
    then: str | None = None
    subject: str = ""


class Node:
    """Asks all of `questions` when the first answer is wanted; all at once, or in their order."""

    def __init__(
        self, server: Running, questions: dict[Asked, Question], *, one_by_one: bool = False
    ) -> None:
        self._server = server
        self._questions = questions
        self._options = ["one-by-one"] if one_by_one else []
        self._run: asyncio.Future[dict[Asked, Seen]] | None = None

    async def look(self, asked: Asked) -> Seen:
        if (what := missing()) is not None:
            pytest.skip(what)
        if self._run is None:
            self._run = asyncio.ensure_future(asyncio.to_thread(self._ask_all))
        return (await self._run)[asked]

    def _ask_all(self) -> dict[Asked, Seen]:
        wanted = [_call(asked, question) for asked, question in self._questions.items()]
        done = subprocess.run(
            ["node", "run.mjs", f"{self._server.url}/v1", self._server.key, *self._options],
            cwd=JS,
            input=json.dumps(wanted),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        told = [Seen(**each) for each in json.loads(done.stdout)]
        return dict(zip(self._questions, told, strict=True))


def _call(asked: Asked, question: Question) -> dict[str, Any]:
    words = "ai-sdk" if asked.client.startswith("ai-sdk") else asked.front
    return {
        "front": asked.front,
        "client": asked.client,
        "body": question.body(words, asked.model),
        "next": asked.then,
        "results": RESULTS,
    }


def missing() -> str | None:
    """What is not installed, where something is not."""
    if shutil.which("node") is None:
        return "Node is not installed"
    for package in _PACKAGES:
        if not (JS / "node_modules" / package).is_dir():
            return f"the npm package {package} is not installed"
    return None


def here(clients: Iterable[str]) -> list[str]:
    """Those that can be asked; Python's always can."""
    is_missing = missing() is not None
    return [each for each in clients if each.startswith("python") or not is_missing]
