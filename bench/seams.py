"""How often an answer that a second engine finished is the one that the first would have given.

Two engines on the same weights, temperature 0. The first is killed after so many chunks; what the
client got is held against the same answer without a break.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import structlog

from legato.configuration import load
from legato.engine import supervisor as engine
from legato.engine.catalog import Catalog
from legato.server.app import App

MODEL: Final = "smollm2-135m"
PROMPTS: Final = (
    "Write a short story about a cat who finds a magic hat in the woods.",
    "Write python code that prints a table of numbers.",
    "List five fruits, one per line.",
    "Explain in simple words why the sky is blue.",
    "Describe a city by the sea, its streets and its people.",
)
PLACES: Final = (1, 2, 3, 5, 8, 13, 21, 34)
TOKENS: Final = 60


@asynccontextmanager
async def _serving() -> AsyncIterator[tuple[App, httpx.AsyncClient]]:
    folder = Path(tempfile.mkdtemp(prefix="seams-"))
    empty = folder / "empty.toml"
    empty.write_text("")
    file = Catalog(load(empty).models_dir).pull(MODEL)
    flags: dict[str, Any] = {
        "data": str(folder / "data"),
        "server.port": 0,
        "engine.models": [{"name": MODEL}, {"name": "second", "path": str(file)}],
        "engine.slots": 1,
        "routes": [
            {"model": "both", "deployments": [MODEL, "second"]},
            {"model": "one", "deployments": [MODEL]},
            {"model": "other", "deployments": ["second"]},
        ],
    }
    engine.STABLE_SECONDS = 0.0  # type: ignore[misc] # each death is a first one: no growing backoff
    app = App(load(empty, flags, {}), {MODEL: file, "second": file})
    server = app.server()
    await app.open()
    task = asyncio.create_task(server.serve())
    try:
        for each in app.engines:
            await each.wait_ready()
            app.services.router.health[each.model.name].open_after = 0
        while not server.started:
            await asyncio.sleep(0.01)
        headers = {"authorization": f"Bearer {app.first_key}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
            yield app, client
    finally:
        server.should_exit = True
        await task
        await app.close()


async def _answer(
    app: App, client: httpx.AsyncClient, model: str, prompt: str, kill_after: int | None = None
) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "temperature": 0,
        "repeat_penalty": 1.0,
        "max_tokens": TOKENS,
        "cache_prompt": False,
    }
    text, chunks = "", 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            frame = json.loads(line[6:])
            if "error" in frame:
                raise RuntimeError(frame["error"]["message"])
            piece = frame["choices"][0]["delta"].get("content") or ""
            text += piece
            chunks += bool(piece)
            if chunks == kill_after and piece:
                pid = app.engines[0].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
    return text


async def _measure() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with _serving() as (app, client):
        for prompt in PROMPTS:
            whole = await _answer(app, client, "one", prompt)
            again = await _answer(app, client, "other", prompt)
            for place in PLACES:
                await app.engines[0].wait_ready()
                joined = await _answer(app, client, "both", prompt, place)
                pairs = enumerate(zip(whole, joined, strict=False))
                same = next((at for at, (a, b) in pairs if a != b), min(len(whole), len(joined)))
                found.append(
                    {
                        "prompt": prompt,
                        "after": place,
                        "equal": joined == whole,
                        "same": same,
                        "length": len(whole),
                        "steady": again == whole,
                    }
                )
                print(f"  after {place:2} chunks: {_said(found[-1])}", file=sys.stderr)
    return found


def _said(row: dict[str, Any]) -> str:
    if row["equal"]:
        return "the same"
    return f"another from letter {row['same']} of {row['length']} on"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench seams", description=__doc__)
    parser.add_argument("--json", type=Path, help="write each trial to this file")
    wish = parser.parse_args()
    # Engines that are killed on purpose are no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    found = asyncio.run(_measure())
    if wish.json is not None:
        wish.json.write_text(json.dumps(found, indent=1))
    equal = sum(row["equal"] for row in found)
    steady = len({row["prompt"] for row in found if row["steady"]})
    print(f"the same as without a break: {equal} of {len(found)}")
    print(f"prompts that both engines answer alike without a break: {steady} of {len(PROMPTS)}")
    return 0
