"""`scripts/bench engine`: the default model through Legato and through llama.cpp's own server, with
the parameters that Legato gives it, in turn. `--sweep`: llama.cpp alone, with other parameters.
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from bench import report
from bench.gateways import BenchError, Legato
from bench.llama import Llama
from bench.session import Cores
from bench.workloads import W1, Workload

MODEL: Final = "smollm2-135m"
STREAMS: Final = (1, 4, 8)
#: Tokens per answer, and words of a long prompt.
TOKENS: Final = 100
LONG: Final = 1_000
#: Answers in one run, for any number of streams.
ANSWERS: Final = 8
#: Seconds between two runs: OpenMP's threads spin for a while before they sleep.
REST: Final = 0.5

#: A chunk with text.
HAS_TEXT: Final = re.compile(rb'"content":"[^"]')

#: Changes to Legato's parameters, by xllamacpp's names.
SWEEP: Final[dict[str, dict[str, Any]]] = {
    "as in Legato": {},
    "1 thread": {"cpuparams.n_threads": 1, "cpuparams_batch.n_threads": 1},
    "no polling": {"cpuparams.poll": 0, "cpuparams_batch.poll": 0},
    "n_batch 128": {"n_batch": 128},
    "n_batch 512": {"n_batch": 512},
    "n_batch 2048": {"n_batch": 2048},
    "n_ubatch 64": {"n_ubatch": 64},
    "n_ubatch 128": {"n_ubatch": 128},
    "no flash attention": {"flash_attn_type": 0},
    "flash attention": {"flash_attn_type": 1},
    "KV q8_0": {"cache_type_k": 8, "cache_type_v": 8, "flash_attn_type": 1},
    "K q8_0": {"cache_type_k": 8},
    "KV unified": {"kv_unified": True},
    "n-grams, simple": {"speculative.types": ["NGRAM_SIMPLE"]},
    "n-grams, map": {"speculative.types": ["NGRAM_MAP_K"]},
    "n-grams, mod": {"speculative.types": ["NGRAM_MOD"]},
}


class Server(Protocol):
    url: str
    key: str


class LegatoEngine(Legato):
    """Legato with the model and no deployments, on all cores."""

    def settings(self, upstream: int, workload: Workload) -> str:
        return f'[[engine.models]]\nname = "{MODEL}"\n'

    def model_file(self) -> Path:
        """The file of the model, downloaded if necessary."""
        return Path(self.command_line("models", "pull", MODEL).strip())


class Answer(Struct):
    """Seconds, and tokens as counted by the server."""

    ttft: float
    total: float
    tokens: int


async def ask(server: Server, prompt: str, tokens: int) -> Answer:
    """One streamed answer, on a connection of its own. Raises `BenchError`."""
    where = urlsplit(server.url)
    body = msgspec.json.encode(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": tokens,
        }
    )
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    began = time.monotonic()
    head = (
        f"POST {where.path}/chat/completions HTTP/1.1\r\nhost: {where.netloc}\r\n"
        f"authorization: Bearer {server.key}\r\ncontent-type: application/json\r\n"
        f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    first: float | None = None
    counted = 0
    last = b""
    while line := await reader.readline():
        if first is None and HAS_TEXT.search(line):
            first = time.monotonic() - began
        if b'"completion_tokens":' in line:
            counted = json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
        if line.startswith(b"data: [DONE]"):
            break
        last = line.strip() or last
    else:
        raise BenchError(f"an answer is incomplete: {last[-300:].decode(errors='replace')}")
    writer.close()
    total = time.monotonic() - began
    return Answer(first if first is not None else total, total, counted)


async def run(server: Server, streams: int, number: int) -> dict[str, float]:
    """`ANSWERS` answers, `streams` at a time. `number`: of the round. All prompts differ, so that
    none is in the prompt cache, but both servers get the same ones."""

    async def one(stream: int) -> list[Answer]:
        return [
            await ask(server, f"Story {number}.{streams}.{stream}.{each}: tell me one.", TOKENS)
            for each in range(ANSWERS // streams)
        ]

    began = time.monotonic()
    answers = [each for of in await asyncio.gather(*map(one, range(streams))) for each in of]
    seconds = time.monotonic() - began
    return {
        "tokens_per_second": sum(each.tokens for each in answers) / seconds,
        "ttft_ms": statistics.median(each.ttft for each in answers) * 1000,
        "total_ms": statistics.median(each.total for each in answers) * 1000,
    }


#: key, title, and whether more is better.
MEASURES: Final = (
    ("tokens_per_second", "tokens a second", True),
    ("ttft_ms", "TTFT, ms", False),
    ("total_ms", "whole answer, ms", False),
)

Rounds = dict[int, dict[str, list[dict[str, float]]]]


class Bench(Struct):
    """What both benches need. `rest` waits until the cores are idle."""

    folder: Path
    legato: LegatoEngine
    file: Path
    rounds: int
    progress: Callable[[str], None]
    rest: Callable[[], None]


def compare(bench: Bench) -> Rounds:
    """streams ▸ server ▸ one entry per round."""
    llama = Llama(MODEL, bench.file, bench.folder / "llama.log")
    legato = bench.legato
    taken: Rounds = {streams: {"llama.cpp": [], "legato": []} for streams in STREAMS}
    try:
        llama.start()
        legato.start(0, None, W1)
        servers: dict[str, Server] = {"llama.cpp": llama, "legato": legato}
        for server in servers.values():
            asyncio.run(run(server, 1, 0))
        for number in range(1, bench.rounds + 1):
            for streams in STREAMS:
                # The order alternates, as the speed of the machine changes.
                for name in sorted(servers, reverse=number % 2 == 1):
                    bench.rest()
                    figures = asyncio.run(run(servers[name], streams, number))
                    taken[streams][name].append(figures)
                    where = f"{streams} streams {number}/{bench.rounds} {name:10}"
                    bench.progress(f"{where} {_short(figures)}")
    finally:
        llama.stop()
        legato.stop()
    return taken


def sweep(bench: Bench) -> dict[str, Any]:
    """parameters ▸ one entry a round; a string if llama.cpp does not start with them."""
    taken: dict[str, Any] = {}
    for number in range(1, bench.rounds + 1):
        for name, changes in SWEEP.items():
            where = f"{number}/{bench.rounds} {name:20}"
            llama = Llama(MODEL, bench.file, bench.folder / "llama.log", changes)
            try:
                llama.start()
                bench.rest()
                asyncio.run(ask(llama, "Say hi.", 5))
                one, eight = (asyncio.run(run(llama, streams, number)) for streams in (1, 8))
                prompt = f"Round {number}. " + "one two three four " * (LONG // 4)
                long = asyncio.run(ask(llama, prompt, 1))
            except (BenchError, OSError) as error:
                taken[name] = str(error)
                bench.progress(f"{where} {error}")
                continue
            finally:
                llama.stop()
            figures = {
                "one": one["tokens_per_second"],
                "eight": eight["tokens_per_second"],
                "ttft_ms": one["ttft_ms"],
                "long_ms": long.ttft * 1000,
            }
            taken.setdefault(name, []).append(figures)
            bench.progress(f"{where} {figures['one']:.0f}, {figures['eight']:.0f} tokens/s")
    return taken


def _short(figures: dict[str, float]) -> str:
    return ", ".join(f"{figures[key]:.1f} {title}" for key, title, _ in MEASURES)


def _median(rounds: list[dict[str, float]], key: str) -> float:
    return statistics.median(each[key] for each in rounds)


def comparison_table(taken: Rounds) -> str:
    lines = ["| streams | | llama.cpp | Legato | overhead |", "|--:|---|--:|--:|--:|"]
    for streams, of in taken.items():
        for key, title, more_is_better in MEASURES:
            bare, ours = _median(of["llama.cpp"], key), _median(of["legato"], key)
            overhead = bare / ours - 1 if more_is_better else ours / bare - 1
            lines.append(f"| {streams} | {title} | {bare:.1f} | {ours:.1f} | {overhead:+.1%} |")
    return "\n".join(lines)


def sweep_table(taken: dict[str, Any]) -> str:
    lines = [
        f"| | tokens/s, 1 stream | 8 streams | TTFT, ms | TTFT of {LONG:,} words, ms |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, rounds in taken.items():
        if isinstance(rounds, str):
            lines.append(f"| {name} | {rounds} | | | |")
        else:
            keys = ("one", "eight", "ttft_ms", "long_ms")
            shown = [f"{_median(rounds, key):,.0f}" for key in keys]
            lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sweep", action="store_true", help="llama.cpp with other parameters")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument(
        "--patience", type=float, default=10.0, help="seconds to wait for idle cores before a run"
    )
    given = parser.parse_args()
    began, cores = time.monotonic(), Cores()

    def progress(text: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s  {text}", file=sys.stderr, flush=True)

    def rest() -> None:
        time.sleep(REST)
        cores.await_quiet(given.patience)

    with tempfile.TemporaryDirectory(prefix="legato-bench-") as name:
        legato = LegatoEngine(Path(name))
        file = legato.model_file()
        bench = Bench(Path(name), legato, file, given.rounds, progress, rest)
        taken: Any = sweep(bench) if given.sweep else compare(bench)
    table = sweep_table(taken) if given.sweep else comparison_table(taken)
    machine = report.machine(given.rounds)
    print(
        f"{report.heading(machine)}; {MODEL}, {TOKENS} tokens an answer, temperature 0\n\n{table}"
    )
    if given.json:
        given.json.write_text(json.dumps({"machine": machine, "rounds": taken}, indent=1))
    return 0
