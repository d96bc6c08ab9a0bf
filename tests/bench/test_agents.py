"""`scripts/agents` without its agents: tasks, the upstream that plays the model, and the table."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.agent_tasks import CONTEXT, FILES, SENTENCE, TASKS, AgentUpstream, Task
from bench.agents import RUNNERS, Result, judge, staged, table, version

from legato.cli.agents import AGENTS
from legato.mock.steps import Script

#: An agent in a few lines: asks once, writes what aider's format has, shows the text.
AIDER = """\
#!{python}
import json, os, re, sys, urllib.request
from pathlib import Path

if "--version" in sys.argv:
    sys.exit(print("aider 0.0.1"))
model = os.environ["AIDER_MODEL"].removeprefix("openai/")
prompt = sys.argv[sys.argv.index("--message") + 1]
body = {{"model": model, "messages": [{{"role": "user", "content": prompt}}]}}
request = urllib.request.Request(
    os.environ["OPENAI_API_BASE"] + "/chat/completions",
    json.dumps(body).encode(),
    {{"authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}},
)
try:
    with urllib.request.urlopen(request) as response:
        text = json.load(response)["choices"][0]["message"]["content"]
except urllib.error.HTTPError as error:
    sys.exit("Error: " + error.read().decode())
for name, content in re.findall(r"(\\S+)\\n```\\n(.*?)```", text, re.S):
    Path(name).write_text(content)
print(text)
"""


def test_every_agent_that_can_be_launched_has_a_runner() -> None:
    assert set(RUNNERS) == set(AGENTS)
    for name, runner in RUNNERS.items():
        assert runner.package in AGENTS[name].install
        assert runner.arguments.count("{}") == 1


def asked(*tools: str) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": name}} for name in tools]}


@pytest.mark.parametrize(
    ("tools", "called", "argument"),
    [
        (("read", "bash"), "bash", "command"),
        (("Bash", "Edit"), "Bash", "command"),
        (("exec_command", "write_stdin"), "exec_command", "cmd"),
        (("run_shell_command",), "run_shell_command", "command"),
    ],
)
def test_the_shell_of_an_agent_is_called(
    tools: tuple[str, ...], called: str, argument: str
) -> None:
    upstream = AgentUpstream()
    upstream.begin(has_tools=True)
    assert upstream.next_script("tools", {}).steps[0].say is not None  # for a title: counts not
    script = upstream.next_script("tools", asked(*tools))
    calls = [step.tool["function"] for step in script.steps if step.tool is not None]
    assert [call["name"] for call in calls] == [called] * len(FILES)
    for call, file in zip(calls, FILES, strict=True):
        assert json.loads(call["arguments"])[argument].endswith(f"> {file}")
    again = upstream.next_script("tools", asked(*tools))
    assert "".join(step.say or "" for step in again.steps) == SENTENCE
    assert upstream.turns == 2


def test_an_agent_without_tools_gets_text() -> None:
    upstream = AgentUpstream()
    upstream.begin(has_tools=False)
    text = upstream.next_script("tool", {}).steps[0].say
    assert text == f"first.txt\n```\n{FILES['first.txt']}```\n\n"


def test_the_last_turn_is_repeated() -> None:
    upstream = AgentUpstream()
    upstream.begin(has_tools=False)
    played = [upstream.next_script("cut-once", {}) for _ in range(3)]
    assert played[1] == played[2] != played[0]
    upstream.begin(has_tools=False)
    assert upstream.next_script("cut-once", {}) == played[0]


def test_the_usage_is_that_of_the_request() -> None:
    upstream = AgentUpstream()
    upstream.begin(has_tools=True)
    beside = upstream.next_script("long", {"messages": [{"role": "user", "content": "x" * 4_000}]})
    assert 1_000 < prompt_tokens(beside) < 1_100
    sizes = [1_000, 5_000, 5_000, 5_000]
    turns = [upstream.next_script("full", asked("bash") | said(size)) for size in sizes]
    assert [prompt_tokens(turn) // 100 for turn in turns] == [2, 12, 12, 12]
    full = upstream.next_script("full", asked("bash") | said(5_000))
    assert 0.9 * CONTEXT < prompt_tokens(full) < CONTEXT


def prompt_tokens(script: Script) -> int:
    (usage,) = (step.usage for step in script.steps if step.usage is not None)
    return usage["prompt_tokens"]


def said(size: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x" * size}]}


def test_whether_an_agent_made_its_conversation_shorter() -> None:
    upstream = AgentUpstream()
    upstream.begin(has_tools=True)
    for size, is_shorter in ((1_000, False), (1_000, False), (2_000, False), (500, True)):
        upstream.next_script("long", said(1))  # without tools: beside the task
        upstream.next_script("long", asked("bash") | said(size))
        assert upstream.is_shorter == is_shorter
    upstream.begin(has_tools=True)
    assert not upstream.is_shorter


def test_a_long_conversation_has_results_of_its_own_in_each_turn() -> None:
    upstream = AgentUpstream()
    upstream.begin(has_tools=True)
    turns = [upstream.next_script("long", asked("bash")) for _ in range(4)]
    calls = [step.tool for turn in turns for step in turn.steps if step.tool is not None]
    assert len({call["id"] for call in calls}) == len(turns)
    assert len({call["function"]["arguments"] for call in calls}) == len(turns)
    upstream.begin(has_tools=False)
    assert len(upstream.next_script("long", {}).steps[0].say or "") > 10_000


def test_every_task_ends_well_or_asks_for_an_error() -> None:
    for task in TASKS.values():
        last = task.turns[-1]
        assert isinstance(last, Script)
        finishes = any(step.finish for step in last.steps)
        assert finishes == (task.goal != "error"), task.name


SHOWN = f"\x1b[0m> build\n{SENTENCE.replace(' there', chr(10) + 'there')}\n"

JUDGED: dict[str, tuple[str, int, str, dict[str, str], bool]] = {
    # task, exit code, output, files; whether it is passed
    "an answer": ("answer", 0, SHOWN, {}, True),
    "another exit code": ("answer", 1, SHOWN, {}, False),
    "no answer": ("answer", 0, "Hello.", {}, False),
    "recovered": ("too-long", 1, f"Error: too long\n{SENTENCE}", {}, True),
    "not recovered": ("too-long", 1, "Error: too long", {}, False),
    "a file": ("tool", 0, "done", {"first.txt": FILES["first.txt"]}, True),
    "a file with other content": ("tool", 0, "done", {"first.txt": "?"}, False),
    "one of two files": ("tools", 0, SENTENCE, {"first.txt": FILES["first.txt"]}, False),
    "an error": ("cut", 1, "", {}, True),
    "an error that is only said": ("cut", 0, f"{SENTENCE}\nError: the connection", {}, True),
    "half an answer as the whole": ("cut", 0, SENTENCE, {}, False),
}


@pytest.mark.parametrize("case", JUDGED)
def test_what_passes(tmp_path: Path, case: str) -> None:
    name, code, output, files, passed = JUDGED[case]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    problem = judge(TASKS[name], code, output, tmp_path)
    assert (problem == "") == passed, problem


def test_the_table() -> None:
    results = {
        "qwen": [Result("answer", "", 2, 1.0), Result("cut", "", 1, 1.0)],
        "aider": [Result("answer", "", 1, 1.0), Result("cut", "exit code 0", 9, 1.0)],
    }
    assert table(results, {"qwen": "0.15.10", "aider": "0.86.2"}).splitlines() == [
        "| task | qwen 0.15.10 | aider 0.86.2 |",
        "|---|---|---|",
        "| plain answer | yes (2) | yes |",
        "| cut | yes | no (9) |",
        "",
        "In brackets: requests for the task.",
        "- aider, cut: exit code 0",
    ]


async def test_a_run_from_the_program_to_the_upstream(tmp_path: Path) -> None:
    program = tmp_path / "aider"
    program.write_text(AIDER.format(python=sys.executable))
    program.chmod(0o755)
    async with staged(os.pathsep.join((str(tmp_path), os.environ["PATH"]))) as stage:
        assert version("aider", stage.environment) == "0.0.1"
        assert version("codex", stage.environment | {"PATH": str(tmp_path)}) is None
        for name in ("answer", "tools", "continued", "no-finish"):
            result = await stage.run("aider", TASKS[name])
            assert result.problem == "", name
            assert result.turns == (2 if name == "continued" else 1)
        slow = Task("silence", "", TASKS["silence"].turns, seconds=1.0)
        assert (await stage.run("aider", slow)).problem == "not done after 1 s"
