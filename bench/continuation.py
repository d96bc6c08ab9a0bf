"""`scripts/bench continuation`: how often an answer that a second engine continues equals the
answer that the first one would have given.

Two engines run the same weights at temperature 0. The first is killed after some chunks of an
answer; what the client receives is compared with the same answer without an interruption.
"""

import argparse
import http.client
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bench import proc
from bench.gateways import BenchError, Child, Legato
from bench.workloads import W1, Workload

MODEL: Final = "smollm2-135m"
PROMPTS: Final = (
    "Write a short story about a cat who finds a magic hat in the woods.",
    "Write python code that prints a table of numbers.",
    "List five fruits, one per line.",
    "Explain in simple words why the sky is blue.",
    "Describe a city by the sea, its streets and its people.",
)
#: Chunks after which the first engine is killed.
PLACES: Final = (1, 2, 3, 5, 8, 13, 21, 34)
TOKENS: Final = 60
#: Seconds within which an engine is started.
READY: Final = 120.0


class TwoEngines(Legato):
    """Legato with two engines for one model: `both` asks the first, then the second."""

    def settings(self, upstream: int, workload: Workload) -> str:
        file = self.command_line("models", "pull", MODEL).strip()
        return f"""
[engine]
slots = 1

[[engine.models]]
name = "{MODEL}"

[[engine.models]]
name = "second"
path = "{file}"

[[routes]]
model = "both"
deployments = ["{MODEL}", "second"]

[[routes]]
model = "first"
deployments = ["{MODEL}"]

[[routes]]
model = "other"
deployments = ["second"]
"""


def engine_of(gateway: Child, before: proc.CpuTimes) -> int:
    """The child process that has used most CPU since `before`: the engine that generates."""
    server, *children = gateway.pids()
    times = proc.cpu_times(children)
    used = {
        pid: proc.spent(before, {key: time for key, time in times.items() if key[0] == pid})
        for pid in children
    }
    if not used:
        raise BenchError(f"the server {server} has no engine")
    return max(used, key=lambda pid: used[pid])


def answer(
    gateway: Child, model: str, prompt: str, on_chunk: Callable[[int], None] = lambda _: None
) -> str:
    """The text of a streamed answer; `on_chunk` gets the number of chunks so far."""
    where = urlsplit(gateway.url)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "temperature": 0,
        "repeat_penalty": 1.0,
        "max_tokens": TOKENS,
        "cache_prompt": False,
    }
    headers = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
    connection = http.client.HTTPConnection(where.netloc, timeout=READY)
    connection.request("POST", f"{where.path}/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    text, chunks = "", 0
    while line := response.readline():
        if response.status != 200:
            raise BenchError(f"status {response.status}: {line.decode()}")
        if not line.startswith(b"data: {"):
            continue
        frame = json.loads(line[len("data: ") :])
        if "error" in frame:
            raise BenchError(frame["error"]["message"])
        piece = frame["choices"][0]["delta"].get("content") or ""
        text += piece
        if piece:
            chunks += 1
            on_chunk(chunks)
    connection.close()
    return text


def interrupted(gateway: Child, prompt: str, place: int) -> str:
    """The answer of `both`, with the engine that generates killed after `place` chunks."""
    before = proc.cpu_times(gateway.pids()[1:])

    def kill(chunks: int) -> None:
        if chunks == place:
            os.kill(engine_of(gateway, before), signal.SIGKILL)

    return answer(gateway, "both", prompt, kill)


def await_engines(gateway: Child) -> None:
    """Returns when both engines answer."""
    ends = time.monotonic() + READY
    while time.monotonic() < ends:
        try:
            answer(gateway, "first", "Hi.")
            answer(gateway, "other", "Hi.")
            return
        except BenchError:
            time.sleep(0.2)
    raise BenchError("an engine does not start")


def measure(gateway: Child) -> list[dict[str, Any]]:
    """One entry for each prompt and place. A new server for each: an engine that has just died is
    started with a delay."""
    found: list[dict[str, Any]] = []
    for prompt in PROMPTS:
        for place in PLACES:
            gateway.start(0, None, W1)
            try:
                await_engines(gateway)
                whole = answer(gateway, "first", prompt)
                again = answer(gateway, "other", prompt)
                joined = interrupted(gateway, prompt, place)
            finally:
                gateway.stop()
            pairs = enumerate(zip(whole, joined, strict=False))
            same = next((at for at, (a, b) in pairs if a != b), min(len(whole), len(joined)))
            found.append(
                {
                    "prompt": prompt,
                    "after": place,
                    "equal": joined == whole,
                    "same": same,
                    "length": len(whole),
                    "deterministic": again == whole,
                }
            )
            result = "equal" if joined == whole else f"differs from character {same} on"
            print(f"  killed after {place:2} chunks: {result}", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench continuation", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every trial to FILE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="legato-bench-") as folder:
        found = measure(TwoEngines(Path(folder)))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))
    equal = sum(row["equal"] for row in found)
    deterministic = len({row["prompt"] for row in found if row["deterministic"]})
    print(f"equal to the answer without an interruption: {equal} of {len(found)}")
    print(f"prompts that both engines answer alike: {deterministic} of {len(PROMPTS)}")
    return 0
