"""`scripts/bench affinity`: how much of a conversation's prompt comes from a cache, with session
affinity and without.

Two engines run the same model behind one route that spreads its calls evenly. A conversation of 20
turns is held over it, each turn with all that was said before; the server tells how many tokens of
each prompt its engine had in its cache.
"""

import argparse
import http.client
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bench.continuation import MODEL, READY, await_engines
from bench.gateways import BenchError, Child, Legato
from bench.workloads import W1, Workload

TURNS: Final = 20
SESSIONS: Final = 2
TOKENS: Final = 8
#: What a user says in a turn, after its number.
SAID: Final = "Tell me one more thing about the city by the sea, its streets and its people."


class Spread(Legato):
    """Legato with two engines: `spread` draws one for each call, `session` one for each session."""

    def settings(self, upstream: int, workload: Workload) -> str:
        file = self.command_line("models", "pull", MODEL).strip()
        both = f'deployments = ["{MODEL}", "second"]\nweights = {{ "{MODEL}" = 1, second = 1 }}'
        return f"""
[[engine.models]]
name = "{MODEL}"

[[engine.models]]
name = "second"
path = "{file}"

[[routes]]
model = "spread"
{both}

[[routes]]
model = "session"
affinity = "session"
{both}

[[routes]]
model = "first"
deployments = ["{MODEL}"]

[[routes]]
model = "other"
deployments = ["second"]
"""


def turn(gateway: Child, model: str, messages: list[dict[str, str]]) -> tuple[str, int, int]:
    """(the answer, tokens of the prompt, those of them that were in a cache)."""
    where = urlsplit(gateway.url)
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": TOKENS}
    headers = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
    connection = http.client.HTTPConnection(where.netloc, timeout=READY)
    connection.request("POST", f"{where.path}/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    found = json.loads(response.read())
    connection.close()
    if response.status != 200:
        raise BenchError(f"status {response.status}: {found}")
    usage = found["usage"]
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return found["choices"][0]["message"]["content"] or "", usage["prompt_tokens"], cached


def conversation(gateway: Child, model: str, number: int) -> list[tuple[int, int]]:
    """(tokens of the prompt, cached ones) of each turn but the first, which nobody can have."""
    messages = [{"role": "system", "content": f"You are guide number {number} of {model}."}]
    counts: list[tuple[int, int]] = []
    for each in range(TURNS):
        messages.append({"role": "user", "content": f"{each + 1}. {SAID}"})
        said, prompt, cached = turn(gateway, model, messages)
        messages.append({"role": "assistant", "content": said})
        counts.append((prompt, cached))
    return counts[1:]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench affinity", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every turn to FILE")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="legato-bench-") as folder:
        gateway = Spread(Path(folder))
        gateway.start(0, None, W1)
        try:
            await_engines(gateway)
            for model in ("spread", "session"):
                found[model] = [conversation(gateway, model, each) for each in range(SESSIONS)]
                print(f"  {model}: {SESSIONS} conversations", file=sys.stderr)
        finally:
            gateway.stop()
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))
    for model, conversations in found.items():
        turns = [each for conversation in conversations for each in conversation]
        prompt, cached = (sum(counts) for counts in zip(*turns, strict=True))
        print(
            f"{model}: {cached:,} of {prompt:,} prompt tokens from a cache: {cached / prompt:.1%}"
        )
    return 0
