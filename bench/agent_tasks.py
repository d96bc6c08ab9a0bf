"""The tasks of `scripts/agents`, as data, and the upstream that plays the model in them."""

import json
from typing import Any, Final, Literal

from msgspec import Struct

from legato.core.chunk import as_object
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step

#: What the model says where a task ends well.
SENTENCE: Final = "Once upon a time, there was a stream."

#: Names of files that a task writes, and what is in them.
FILES: Final = {"first.txt": "made by a tool\n", "second.txt": "made by another\n"}

#: What an agent has to do for a task to be passed. answer: show the sentence, and end with 0.
#: shown: show it, whatever its exit code (OpenCode's is 1 after an error from which it recovered).
#: files: write them, and end with 0. error: end, and not as if all were well.
Goal = Literal["answer", "shown", "files", "error"]

#: One answer of the upstream. calls: it calls a tool for each file of the task, or writes them in
#: aider's format where it has no tool.
Turn = Script | Literal["calls"]


class Task(Struct, frozen=True):
    """Its name is a model's. The last of `turns` is repeated.

    `continues`: another deployment goes on with a broken answer. `seconds`: the longest time that
    an agent may take.
    """

    name: str
    title: str
    turns: tuple[Turn, ...]
    goal: Goal = "answer"
    prompt: str = "Tell me a story in one sentence."
    files: tuple[str, ...] = ()
    continues: bool = False
    seconds: float = 90.0


_GOOD: Final = SCRIPTS["happy"]
_WRITE: Final = "Write the files that are asked for."

TASKS: Final = {
    task.name: task
    for task in (
        Task("answer", "plain answer", (_GOOD,)),
        Task("tool", "tool call", ("calls", _GOOD), "files", _WRITE, ("first.txt",)),
        Task("tools", "two parallel calls", ("calls", _GOOD), "files", _WRITE, tuple(FILES)),
        Task(
            "thinking",
            "thinking",
            (Script(steps=[Step(think="Let me"), Step(think=" think."), *_GOOD.steps]),),
        ),
        Task(
            "silence",
            "20 s of silence",
            (Script(steps=[Step(wait=20.0), *_GOOD.steps]),),
        ),
        Task("cut", "cut", (SCRIPTS["cut"],), "error", seconds=300.0),
        Task("cut-once", "cut once", (SCRIPTS["cut"], _GOOD)),
        Task(
            "continued",
            "cut, another deployment goes on",
            (SCRIPTS["cut"], Script(steps=[Step(say=" The end."), *_GOOD.steps[-3:]])),
            continues=True,
        ),
        Task("error", "error in the stream", (SCRIPTS["error-in-band"],), "error", seconds=300.0),
        Task("no-finish", "no finish", (SCRIPTS["no-finish"],), "error", seconds=300.0),
        Task("429", "429 once", (SCRIPTS["429"], _GOOD)),
        Task("too-long", "too long once", (SCRIPTS["too-long"], _GOOD), "shown", seconds=150.0),
    )
}

#: Tools that run a command, in agents that have one: the arguments for a command.
_SHELLS: Final = {
    "Bash": lambda command: {"command": command, "description": "Write a file"},
    "bash": lambda command: {"command": command, "description": "Write a file"},
    "exec_command": lambda command: {"cmd": command},
    "run_shell_command": lambda command: {"command": command, "is_background": False},
    "shell": lambda command: {"command": ["sh", "-c", command]},
    "shell_command": lambda command: {"command": command},
}


class AgentUpstream(MockServer):
    """A model for agents: each task is a model that takes its turns.

    `turns`: how many it has taken in the run, by the agent's requests for the task itself; requests
    beside it (for a title) get an answer and count for nothing.
    """

    def __init__(self) -> None:
        super().__init__({})
        self.scripts |= dict.fromkeys(TASKS, _GOOD)  # what the server lists as its models
        self.turns = 0
        self._has_tools = False

    def begin(self, *, has_tools: bool) -> None:
        """Another run. `has_tools`: the agent sends tools with its own requests."""
        self.turns = 0
        self._has_tools = has_tools

    def next_script(self, model: str, request: dict[str, Any]) -> Script:
        task = TASKS.get(model)
        if task is None:
            return super().next_script(model, request)
        tools = _tools(request)
        if self._has_tools and not tools:
            return _GOOD
        turn = task.turns[min(self.turns, len(task.turns) - 1)]
        self.turns += 1
        return turn if isinstance(turn, Script) else _writing(task.files, tools)


def _tools(request: dict[str, Any]) -> list[str]:
    """The names of the functions in a request."""
    listed: Any = request.get("tools")
    entries = [as_object(each) or {} for each in listed] if isinstance(listed, list) else []
    return [str((as_object(each.get("function")) or {}).get("name")) for each in entries]


def _writing(files: tuple[str, ...], tools: list[str]) -> Script:
    """An answer that writes these files."""
    shell = next((name for name in _SHELLS if name in tools), None)
    if shell is None:
        text = "".join(f"{name}\n```\n{FILES[name]}```\n\n" for name in files)
        return Script(steps=[Step(say=text), Step(finish="stop"), Step(done=True)])
    steps: list[Step] = []
    for index, name in enumerate(files):
        arguments = _SHELLS[shell](f"printf '{FILES[name].strip()}\\n' > {name}")
        function = {"name": shell, "arguments": json.dumps(arguments)}
        call = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
        steps.append(Step(tool=call))
    return Script(steps=[*steps, Step(finish="tool_calls"), Step(done=True)])
