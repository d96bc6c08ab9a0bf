"""`scripts/agents`: runs real coding agents through Legato and shows which tasks they finish.

Each agent is started by `legato launch`, headless, in an empty folder and with a home directory of
its own, against `legato serve` in front of a scripted upstream.
"""

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from bench.agent_tasks import CONTEXT, FILES, SENTENCE, TASKS, AgentUpstream, Task
from bench.gateways import BenchError

ROOT: Final = Path(__file__).parents[1]
#: Where agents are installed; ignored by git.
INSTALLED: Final = ROOT / "build" / "agents"

#: Seconds within which the server is started, and within which a program tells its version.
READY: Final = 60.0


class Runner(Struct, frozen=True):
    """How an agent is installed and run without a terminal. `{}` stands for the prompt.

    `typed`: the last of the arguments; without them it reads messages from its standard input.
    """

    package: str
    arguments: tuple[str, ...]
    typed: tuple[str, ...] = ()
    is_python: bool = False
    has_tools: bool = True


RUNNERS: Final = {
    "codex": Runner(
        "@openai/codex",
        ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "{}"),
    ),
    "claude": Runner("@anthropic-ai/claude-code", ("-p", "{}", "--allowedTools", "Bash")),
    "opencode": Runner("opencode-ai", ("run", "{}")),
    "qwen": Runner("@qwen-code/qwen-code", ("-p", "{}", "--approval-mode", "yolo")),
    "aider": Runner(
        "aider-chat",
        ("--no-git", "--yes-always", "--no-pretty", "--no-gitignore", "--message", "{}"),
        typed=("--message", "{}"),
        is_python=True,
        has_tools=False,
    ),
}


class Result(Struct, frozen=True):
    """What came of one task. `problem` is empty where it was passed; `turns`: requests for it."""

    task: str
    problem: str
    turns: int
    seconds: float


# Installing


def install(names: Iterable[str], folder: Path) -> None:
    """Installs agents into `folder`. Raises `BenchError`."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = [RUNNERS[name].package for name in names if not RUNNERS[name].is_python]
    if packages:
        npm = ("npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder))
        _quietly((*npm, *(f"{package}@latest" for package in packages)))
    for name in names:
        if RUNNERS[name].is_python:
            _quietly((sys.executable, "-m", "venv", str(folder / name)))
            pip = (str(folder / name / "bin" / "python"), "-m", "pip", "install", "--upgrade")
            _quietly((*pip, RUNNERS[name].package))


def folders(folder: Path) -> list[Path]:
    """Where `install` puts programs."""
    own = [folder / name / "bin" for name, runner in RUNNERS.items() if runner.is_python]
    return [folder / "node_modules" / ".bin", *own]


def _quietly(command: Sequence[str]) -> None:
    print(f"agents: {' '.join(command)}", file=sys.stderr)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BenchError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise BenchError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def version(name: str, environment: dict[str, str]) -> str | None:
    """The version that a program tells of itself; None if it is not there or does not run."""
    program = shutil.which(name, path=environment["PATH"])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--version"],
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=READY,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+(?:\.\d+)+[\w.+-]*", done.stdout)
    return found[0] if found else None


# Running


class Stage:
    """A running server in front of the upstream. `folder` is temporary."""

    def __init__(self, folder: Path, upstream: AgentUpstream, environment: dict[str, str]) -> None:
        self.folder = folder
        self.upstream = upstream
        self.environment = environment

    @property
    def config(self) -> list[str]:
        return ["--config", str(self.folder / "legato.toml"), "--data", str(self.folder / "data")]

    async def run(self, name: str, task: Task) -> Result:
        """Runs one task with one agent."""
        runner = RUNNERS[name]
        self.upstream.begin(has_tools=runner.has_tools)
        arguments, typed = [each.replace("{}", task.prompt) for each in runner.arguments], None
        if runner.typed and task.messages > 1:
            arguments = arguments[: -len(runner.typed)]
            typed = f"{task.prompt}\n".encode() * task.messages
        work = Path(tempfile.mkdtemp(prefix="work-", dir=self.folder))
        begun = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "legato", "launch", name, "--model", task.name),
            *(*self.config, "--", *arguments),
            cwd=work,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL if typed is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(typed), task.seconds)
            problem = judge(task, process.returncode or 0, output.decode("utf-8", "replace"), work)
            if not problem and task.shortens and not self.upstream.is_shorter:
                problem = "the conversation was not made shorter"
        except TimeoutError:
            problem = f"not done after {task.seconds:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its own session: nothing of ours
            await process.wait()
        return Result(task.name, problem, self.upstream.turns, time.monotonic() - begun)


def judge(task: Task, code: int, output: str, work: Path) -> str:
    """Why a task was not passed; empty if it was."""
    output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    last = " ".join(output.split())[-160:]
    if task.goal == "error":
        tells = code != 0 or re.search(r"error|failed|incomplete|interrupted", output, re.I)
        return "" if tells else f"exit code 0 and no error: {last}"
    for name in task.files:
        path = work / name
        if not path.exists() or path.read_text() != FILES[name]:
            return f"{name} was not written: {last}"
    if code and task.goal != "shown":
        return f"exit code {code}: {last}"
    # After a task with files aider asks no more: it has no sentence to show.
    if task.goal != "files" and SENTENCE not in " ".join(output.split()):
        return f"the answer is not shown: {last}"
    return ""


@asynccontextmanager
async def staged(path: str) -> AsyncIterator[Stage]:
    """A server and its upstream, on free ports, with everything in a temporary folder."""
    upstream = AgentUpstream()
    base_url = await upstream.start()
    with tempfile.TemporaryDirectory(prefix="legato-agents-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        (folder / "home").mkdir()
        kept = {
            each: text
            for each, text in os.environ.items()
            if each in ("LANG", "LC_ALL", "PYTHONPATH", "TMPDIR") or "proxy" in each.lower()
        }
        environment = kept | {"PATH": path, "HOME": str(folder / "home"), "TERM": "dumb"}
        stage = Stage(folder, upstream, environment)
        process = await _serve(stage, base_url)
        try:
            yield stage
        finally:
            process.terminate()
            await process.wait()
            await upstream.stop()


async def _serve(stage: Stage, base_url: str) -> asyncio.subprocess.Process:
    """Starts the server on a free port, and writes that port into its settings for `launch`."""
    settings = "".join(_route(task, base_url) for task in TASKS.values())
    file = stage.folder / "legato.toml"
    file.write_text(f"[server]\nport = 0\n{settings}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "legato", "serve", *stage.config),
        env=stage.environment,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(READY):
        while line := (await process.stdout.readline()).decode():
            if line.startswith("Legato is listening"):
                port = line.rpartition(":")[2].strip()
                file.write_text(f"[server]\nport = {port}\n{settings}")
                return process
    raise BenchError("legato serve did not start")


def _route(task: Task, base_url: str) -> str:
    """Settings for a task: one attempt, as it is the agent that is tested, not our fallback."""
    places = ["first", "second"] if task.continues else ["first"]
    names = [f"{place}-{task.name}" for place in places]
    deployments = "".join(
        f'[[deployments]]\nname = "{name}"\nmodel = "{task.name}"\nbase_url = "{base_url}"\n'
        f'open_after = 0\ncontext_length = {CONTEXT}\ncontinue = "prefill"\n'
        for name in names
    )
    listed = ", ".join(f'"{name}"' for name in names)
    return (
        f'{deployments}[[routes]]\nmodel = "{task.name}"\ndeployments = [{listed}]\n'
        f"attempts = {len(names)}\n"
    )


# Reporting


def table(results: dict[str, list[Result]], versions: dict[str, str | None]) -> str:
    """A Markdown table, a column for each agent, with notes on what was not passed."""
    names = [f"{name} {versions.get(name)}" for name in results]
    lines = [f"| task | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for row in zip(*results.values(), strict=True):
        cells = ["no" if each.problem else "yes" for each in row]
        counts = [f" ({each.turns})" if each.turns > 1 else "" for each in row]
        title = TASKS[row[0].task].title
        lines.append(f"| {title} | {' | '.join(map(''.join, zip(cells, counts, strict=True)))} |")
    lines += ["", "In brackets: requests for the task."]
    lines += [
        f"- {name}, {TASKS[each.task].title}: {each.problem}"
        for name, runs in results.items()
        for each in runs
        if each.problem
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/agents", description=__doc__)
    parser.add_argument("--agent", action="append", choices=RUNNERS, help="default: all")
    parser.add_argument("--task", action="append", choices=TASKS, help="default: all")
    parser.add_argument("--path", help="folders with installed agents, as in PATH; installs none")
    options = parser.parse_args()
    names: list[str] = options.agent or list(RUNNERS)
    if options.path is None:
        install(names, INSTALLED)
    path = options.path or os.pathsep.join(map(str, folders(INSTALLED)))
    path = os.pathsep.join((path, os.environ.get("PATH", os.defpath)))
    tasks = [TASKS[name] for name in options.task or TASKS]
    rows, versions = asyncio.run(_run(names, tasks, path))
    print(table(rows, versions))
    return int(any(each.problem for results in rows.values() for each in results))


async def _run(
    names: list[str], tasks: list[Task], path: str
) -> tuple[dict[str, list[Result]], dict[str, str | None]]:
    rows: dict[str, list[Result]] = {}
    versions: dict[str, str | None] = {}
    async with staged(path) as stage:
        for name in names:
            versions[name] = await asyncio.to_thread(version, name, stage.environment)
            if versions[name] is None:
                print(f"agents: {name} is not installed", file=sys.stderr)
                continue
            rows[name] = []
            for task in tasks:
                result = await stage.run(name, task)
                rows[name].append(result)
                outcome = result.problem or "passed"
                print(f"{name} {task.name}: {outcome} ({result.seconds:.1f} s)", file=sys.stderr)
    return rows, versions
