"""The tasks of `scripts/agents`, as data, and the upstream that plays the model in them."""

import json
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from legato.core.chunk import as_object
from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.mock.steps import Script, Step

#: What the model says where a task ends well.
SENTENCE: Final = "Once upon a time, there was a stream."

#: Names of files that a task writes, and what is in them.
FILES: Final = {"first.txt": "made by a tool\n", "second.txt": "made by another\n"}

#: The context length of the tasks' models, in tokens: less than agents assume that are not told it.
CONTEXT: Final = 100_000
#: Tokens of a prompt that leave less room than an agent wants for its next turn.
FULL: Final = CONTEXT - 9_000
CHARACTERS_PER_TOKEN: Final = 4

#: What an agent has to do for a task to be passed. answer: show the sentence, and end with 0.
#: shown: show it, whatever its exit code (OpenCode's is 1 after an error from which it recovered).
#: files: write them, and end with 0. error: end, and not as if all were well.
Goal = Literal["answer", "shown", "files", "error"]

#: One answer of the upstream. calls: it calls a tool for each file of the task, or writes them in
#: aider's format where it has no tool. prints: it calls a tool that prints much, or is a long text.
#: full: the same, and by its usage the context is almost full.
Turn = Script | Literal["calls", "prints", "full"]


class Task(Struct, frozen=True):
    """Its name is a model's. The last of `turns` is repeated.

    `messages`: how many times the user sends the prompt, to an agent that has no tools and so takes
    one turn for each. `continues`: another deployment goes on with a broken answer. `shortens`: it
    is passed only if the agent makes its conversation shorter. `seconds`: the longest time that an
    agent may take.
    """

    name: str
    title: str
    turns: tuple[Turn, ...]
    goal: Goal = "answer"
    prompt: str = "Tell me a story in one sentence."
    files: tuple[str, ...] = ()
    messages: int = 1
    continues: bool = False
    shortens: bool = False
    seconds: float = 90.0


_GOOD: Final = SCRIPTS["happy"]
_LONG: Final[tuple[Turn, ...]] = ("prints", "prints", "prints", "prints")
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
        Task(
            "long",
            "too long once, in a long conversation",
            (*_LONG, SCRIPTS["too-long"], _GOOD),
            "shown",
            messages=6,
            shortens=True,
            seconds=150.0,
        ),
        Task(
            "full",
            "context almost full, in a long conversation",
            (*_LONG, "full", _GOOD),
            messages=6,
            shortens=True,
            seconds=150.0,
        ),
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
    beside it (for a title, for a summary) get an answer and count for nothing. `is_shorter`: a turn
    had a shorter conversation than one before it.
    """

    def __init__(self) -> None:
        super().__init__({})
        self.scripts |= dict.fromkeys(TASKS, _GOOD)  # what the server lists as its models
        self.turns = 0
        self.is_shorter = False
        self._longest = 0
        self._has_tools = False

    def begin(self, *, has_tools: bool) -> None:
        """Another run. `has_tools`: the agent sends tools with its own requests."""
        self.turns = 0
        self.is_shorter = False
        self._longest = 0
        self._has_tools = has_tools

    def next_script(self, model: str, request: dict[str, Any]) -> Script:
        task = TASKS.get(model)
        if task is None:
            return super().next_script(model, request)
        tools = _tools(request)
        # Agents go by the usage: when to make a conversation shorter, and whether that did it.
        tokens = len(json.dumps(request)) // CHARACTERS_PER_TOKEN
        if self._has_tools and not tools:
            return _with_usage(_GOOD, tokens)
        turn = task.turns[min(self.turns, len(task.turns) - 1)]
        self.turns += 1
        size = _conversation_size(request)
        self.is_shorter |= size < self._longest
        self._longest = max(self._longest, size)
        match turn:
            case "calls":
                return _with_usage(_writing(task.files, tools), tokens)
            case "prints":
                return _with_usage(_printing(tools, self.turns), tokens)
            case "full":
                return _with_usage(_printing(tools, self.turns), FULL)
            case Script():
                return _with_usage(turn, tokens)


def _tools(request: dict[str, Any]) -> list[str]:
    """The names of the functions in a request."""
    listed: Any = request.get("tools")
    entries = [as_object(each) or {} for each in listed] if isinstance(listed, list) else []
    return [str((as_object(each.get("function")) or {}).get("name")) for each in entries]


def _conversation_size(request: dict[str, Any]) -> int:
    """Characters of a request's messages, without the system prompt."""
    listed: Any = request.get("messages")
    messages = [as_object(each) or {} for each in listed] if isinstance(listed, list) else []
    return sum(len(json.dumps(each)) for each in messages if each.get("role") != "system")


def _writing(files: tuple[str, ...], tools: list[str]) -> Script:
    """An answer that writes these files."""
    text = "".join(f"{name}\n```\n{FILES[name]}```\n\n" for name in files)
    commands = [f"printf '{FILES[name].strip()}\\n' > {name}" for name in files]
    return _running(commands, tools, text)


def _printing(tools: list[str], turn: int) -> Script:
    """An answer that makes the conversation longer by some 16 kB: less than what agents cut off
    from one result."""
    first = turn * 1_000_000
    lines = "".join(f"{number}\n" for number in range(first, first + 2_000))
    return _running([f"seq {first} {first + 1_999}"], tools, lines, turn)


def _with_usage(script: Script, prompt_tokens: int) -> Script:
    """The same, with a usage behind its finish in place of its own."""
    texts = [step.say or json.dumps(step.tool) for step in script.steps if step.say or step.tool]
    tokens = max(1, sum(map(len, texts)) // CHARACTERS_PER_TOKEN)
    usage = Step(
        usage={
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt_tokens + tokens,
        }
    )
    steps: list[Step] = []
    for step in script.steps:
        if step.usage is None:
            steps += [step, usage] if step.finish else [step]
    return replace(script, steps=steps)


def _running(commands: list[str], tools: list[str], text: str, turn: int = 1) -> Script:
    """An answer that runs commands, or is `text` where there is no tool for them."""
    shell = next((name for name in _SHELLS if name in tools), None)
    if shell is None:
        return Script(steps=[Step(say=text), Step(finish="stop"), Step(done=True)])
    steps: list[Step] = []
    for index, command in enumerate(commands):
        function = {"name": shell, "arguments": json.dumps(_SHELLS[shell](command))}
        name = f"call_{turn}_{index}"
        call = {"index": index, "id": name, "type": "function", "function": function}
        steps.append(Step(tool=call))
    return Script(steps=[*steps, Step(finish="tool_calls"), Step(done=True)])
