"""`legato launch`: what an agent is given. The agents here are scripts that report it."""

import asyncio
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legato.cli.agents import AGENTS, ServedModel, Target
from legato.cli.launch import _settings_of
from legato.cli.server_address import ServerAddress
from legato.mock.server import MockServer
from tests.cli.test_cli import cli
from tests.conftest import DEADLINE, Running, serving, settings_for, until

#: Writes what it was given to $REPORT, then does as $THEN says.
AGENT = """\
#!{python}
import json, os, signal, sys, time
from pathlib import Path

folders = [os.environ[name] for name in ("CODEX_HOME", "CLAUDE_CONFIG_DIR", "QWEN_HOME")
           if name in os.environ]
if "OPENCODE_CONFIG" in os.environ:
    folders.append(os.path.dirname(os.environ["OPENCODE_CONFIG"]))
if "AIDER_MODEL_METADATA_FILE" in os.environ:
    folders.append(os.path.dirname(os.environ["AIDER_MODEL_METADATA_FILE"]))
folder = Path(folders[0]) if folders else None
report = dict(
    arguments=sys.argv,
    environment=dict(os.environ),
    folder=str(folder),
    mode=folder.stat().st_mode if folder else None,
    files={{each.name: each.read_text() for each in folder.iterdir()}} if folder else {{}},
    stdin=sys.stdin.read() if os.environ["THEN"] == "read" else "",
)

def tell(**more):
    new = Path(os.environ["REPORT"] + ".new")
    new.write_text(json.dumps(report | more))
    new.rename(os.environ["REPORT"])

if folder:
    (folder / "session.db").write_text("what an agent leaves behind")
match os.environ["THEN"].split():
    case ["exit", code]:
        tell()
        sys.exit(int(code))
    case ["die"]:
        tell()
        os.kill(os.getpid(), signal.SIGKILL)
    case ["stop"]:
        tell()
        os.kill(os.getpid(), signal.SIGSTOP)
        sys.exit(5)
    case ["wait"]:
        def on_signal(number, _):
            tell(signal=number)
            sys.exit(7)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, on_signal)
        tell(pid=os.getpid(), interrupt=signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
        while True:
            time.sleep(60)
    case _:
        tell()
"""

#: Variables of a user who works with other servers.
FOREIGN = {
    "AIDER_OPENAI_API_BASE": "https://elsewhere.invalid/v1",
    "AIDER_OPENAI_API_TYPE": "azure",
    "ANTHROPIC_API_KEY": "sk-ant-theirs",
    "ANTHROPIC_BASE_URL": "https://elsewhere.invalid",
    "CLAUDE_CODE_USE_BEDROCK": "1",
    "CODEX_SQLITE_HOME": "/theirs",
    "OPENAI_API_KEY": "sk-theirs",
    "OPENAI_BASE_URL": "https://elsewhere.invalid/v1",
    "OPENAI_ORG_ID": "org-theirs",
    "OPENCODE_CONFIG_CONTENT": "{}",
}

# What each agent has in its environment; None: the variable is not there. ROOT, KEY and FOLDER
# stand for what differs in each run.
ENVIRONMENT: dict[str, dict[str, str | None]] = {
    "codex": {"CODEX_HOME": "FOLDER", "LEGATO_API_KEY": "KEY", "CODEX_SQLITE_HOME": None},
    "claude": {
        "ANTHROPIC_BASE_URL": "ROOT",
        "ANTHROPIC_AUTH_TOKEN": "KEY",
        "ANTHROPIC_API_KEY": None,
        "ANTHROPIC_MODEL": "smart",
        "ANTHROPIC_SMALL_FAST_MODEL": "smart",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "smart",
        "ANTHROPIC_DEFAULT_SONNET_MODEL": "smart",
        "ANTHROPIC_DEFAULT_OPUS_MODEL": "smart",
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": "120000",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "120000",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "30000",
        "CLAUDE_CONFIG_DIR": "FOLDER",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_USE_BEDROCK": None,
        "CLAUDE_STREAM_IDLE_TIMEOUT_MS": "1800000",
        "DISABLE_TELEMETRY": "1",
    },
    "opencode": {
        "OPENCODE_CONFIG": "FOLDER/opencode.json",
        "OPENCODE_CONFIG_CONTENT": '{"model": "legato/smart", "small_model": "legato/smart"}',
        "LEGATO_API_KEY": "KEY",
    },
    "qwen": {
        "OPENAI_BASE_URL": "ROOT/v1",
        "OPENAI_API_KEY": "KEY",
        "OPENAI_MODEL": "smart",
        "OPENAI_ORG_ID": None,
        "QWEN_HOME": "FOLDER",
    },
    "aider": {
        "OPENAI_API_BASE": "ROOT/v1",
        "OPENAI_API_KEY": "KEY",
        "AIDER_OPENAI_API_BASE": "ROOT/v1",
        "AIDER_OPENAI_API_KEY": "KEY",
        "AIDER_OPENAI_API_TYPE": None,
        "AIDER_MODEL": "openai/smart",
        "AIDER_WEAK_MODEL": "openai/smart",
        "AIDER_MODEL_METADATA_FILE": "FOLDER/models.json",
    },
}

FILES = {
    "codex": {"config.toml", "models.json"},
    "claude": {".claude.json", "legato.json"},
    "opencode": {"opencode.json"},
    "qwen": {"settings.json"},
    "aider": {"models.json"},
}


#: Arguments before the user's.
ARGUMENTS = {"claude": ["--settings", "FOLDER/legato.json"]}


class Stage:
    """A running server, and a PATH with five agents."""

    def __init__(self, folder: Path, legato: Running) -> None:
        self.legato = legato
        self.root = legato.url
        self.report_file = folder / "report.json"
        self.cache = folder / "cache"
        programs = folder / "programs"
        programs.mkdir()
        for name in ENVIRONMENT:
            (programs / name).write_text(AGENT.format(python=sys.executable))
            (programs / name).chmod(0o755)
        self.environment = {
            "PATH": str(programs),
            "XDG_CACHE_HOME": str(self.cache),
            "REPORT": str(self.report_file),
            "THEN": "exit 0",
        }
        self.words = ("--base-url", f"{self.root}/v1", "--key", legato.key)

    async def launch(self, agent: str, *words: str, **environment: str) -> tuple[int, str, str]:
        return await cli("launch", agent, *self.words, *words, **self.environment | environment)

    @property
    def report(self) -> dict[str, Any]:
        return json.loads(self.report_file.read_text())

    @property
    def left(self) -> list[Path]:
        """Folders of agents that are still there."""
        return list(self.cache.glob("legato/launch-*"))

    def start(self, then: str) -> subprocess.Popen[bytes]:
        """`legato launch codex` as a child of this process, as of a shell."""
        inherited = {name: text for name, text in os.environ.items() if "LEGATO" not in name}
        return subprocess.Popen(
            [sys.executable, "-m", "legato", "launch", "codex", *self.words],
            env=inherited | self.environment | {"THEN": then},
            stdin=subprocess.DEVNULL,
        )


@pytest.fixture
async def stage(tmp_path: Path, scripted: MockServer) -> AsyncIterator[Stage]:
    base = await scripted.start()
    chosen = settings_for(
        tmp_path,
        None,
        deployments=[
            {"name": "a", "base_url": base, "model": "happy", "context_length": 8_000},
            {"name": "b", "base_url": base, "model": "happy", "context_length": 120_000},
            {"name": "other", "base_url": base, "model": "happy"},
        ],
        routes=[
            {"model": "smart", "deployments": ["a", "b"]},
            {"model": "any/*", "deployments": ["b"]},
        ],
    )
    async with serving(chosen) as legato:
        yield Stage(tmp_path, legato)


@pytest.mark.parametrize("agent", ENVIRONMENT)
async def test_what_an_agent_is_given(stage: Stage, agent: str) -> None:
    more = ("--", "exec", "--model", "theirs", "-p", "Fix the tests")
    code, out, err = await stage.launch(agent, *more, **FOREIGN)
    assert (code, out, err) == (0, "", "")
    report = stage.report
    program, *arguments = report["arguments"]
    ours = [each.replace("FOLDER", report["folder"]) for each in ARGUMENTS.get(agent, [])]
    assert (Path(program).name, arguments) == (agent, [*ours, *more[1:]])
    places = {"ROOT": stage.root, "KEY": stage.legato.key, "FOLDER": report["folder"]}
    for name, value in ENVIRONMENT[agent].items():
        for place, text in places.items():
            value = value and value.replace(place, text)
        assert report["environment"].get(name) == value, name
    assert set(report["files"]) == FILES[agent]
    assert stat.S_IMODE(report["mode"]) == 0o700
    assert Path(report["folder"]).parent == stage.cache / "legato"
    assert stage.legato.key not in json.dumps([report["files"], report["arguments"]])
    assert stage.left == []


async def test_codexs_files(stage: Stage) -> None:
    assert (await stage.launch("codex"))[0] == 0
    report = stage.report
    settings = tomllib.loads(report["files"]["config.toml"])
    assert (settings["model"], settings["model_provider"]) == ("smart", "legato")
    assert settings["model_catalog_json"] == f"{report['folder']}/models.json"
    assert settings["model_providers"]["legato"] == {
        "name": "Legato",
        "base_url": f"{stage.root}/v1",
        "wire_api": "responses",
        "env_key": "LEGATO_API_KEY",
    }
    smart, other = json.loads(report["files"]["models.json"])["models"]
    assert (smart["slug"], smart["display_name"], smart["priority"]) == ("smart", "smart", 0)
    assert smart["context_window"] == 120_000  # a prompt that is too long for one goes to the other
    assert (other["slug"], other["context_window"]) == ("other", None)
    required = {
        *("slug", "display_name", "supported_reasoning_levels", "shell_type", "visibility"),
        *("supported_in_api", "priority", "base_instructions", "support_verbosity"),
        *("truncation_policy", "experimental_supported_tools"),
    }
    assert required <= smart.keys() & other.keys()


async def test_claude_codes_settings(stage: Stage) -> None:
    """A project's own settings must not lead it to another server."""
    assert (await stage.launch("claude"))[0] == 0
    report = stage.report
    variables = json.loads(report["files"]["legato.json"])["env"]
    assert variables["ANTHROPIC_BASE_URL"] == stage.root
    assert variables.items() <= report["environment"].items()


async def test_the_files_of_opencode_qwen_code_and_aider(stage: Stage) -> None:
    assert (await stage.launch("opencode"))[0] == 0
    provider = json.loads(stage.report["files"]["opencode.json"])["provider"]["legato"]
    assert provider["npm"] == "@ai-sdk/openai-compatible"
    assert provider["options"] == {
        "baseURL": f"{stage.root}/v1",
        "apiKey": "{env:LEGATO_API_KEY}",
    }
    assert list(provider["models"]) == ["smart", "other"]
    assert provider["models"]["smart"]["limit"] == {"context": 120_000, "output": 30_000}
    assert (await stage.launch("qwen"))[0] == 0
    settings = json.loads(stage.report["files"]["settings.json"])
    assert settings["security"]["auth"]["selectedType"] == "openai"
    assert settings["model"] == {
        "name": "smart",
        "generationConfig": {"contextWindowSize": 120_000},
    }
    assert (await stage.launch("aider"))[0] == 0
    models = json.loads(stage.report["files"]["models.json"])
    assert list(models) == ["openai/smart"]  # of the other no length is known
    assert models["openai/smart"]["max_input_tokens"] == 120_000


async def test_a_context_length_that_is_not_known_is_not_told(stage: Stage) -> None:
    assert (await stage.launch("claude", "-m", "other"))[0] == 0
    assert "CLAUDE_CODE_MAX_CONTEXT_TOKENS" not in stage.report["environment"]
    assert (await stage.launch("qwen", "-m", "other"))[0] == 0
    assert json.loads(stage.report["files"]["settings.json"])["model"] == {"name": "other"}


@pytest.mark.parametrize(
    ("length", "told", "room"),
    [
        (None, None, None),
        (32_768, None, "8192"),  # too short for what Claude Code keeps free
        (100_000, "100000", "25000"),
        (1_000_000, "1000000", None),
    ],
)
def test_which_lengths_claude_code_is_told(
    length: int | None, told: str | None, room: str | None
) -> None:
    target = Target("http://x", "key", "smart", (ServedModel("smart", length),), "folder")
    environment = AGENTS["claude"].environment(target)
    assert environment.get("CLAUDE_CODE_MAX_CONTEXT_TOKENS") == told
    assert environment.get("CLAUDE_CODE_AUTO_COMPACT_WINDOW") == told
    assert environment.get("CLAUDE_CODE_MAX_OUTPUT_TOKENS") == room


@pytest.mark.parametrize(
    ("words", "model"),
    [
        ((), "smart"),
        (("--model", "other"), "other"),
        (("-m", "any/name-that-is-not-listed"), "any/name-that-is-not-listed"),
    ],
)
async def test_which_model(stage: Stage, words: tuple[str, ...], model: str) -> None:
    assert (await stage.launch("codex", *words))[0] == 0
    files = stage.report["files"]
    assert tomllib.loads(files["config.toml"])["model"] == model
    listed = [each["slug"] for each in json.loads(files["models.json"])["models"]]
    assert model in listed
    assert {"smart", "other"} <= set(listed)


async def test_a_model_that_is_not_listed_has_its_context_length(stage: Stage) -> None:
    assert (await stage.launch("codex", "-m", "any/thing"))[0] == 0
    found, *_ = json.loads(stage.report["files"]["models.json"])["models"]
    assert (found["slug"], found["context_window"]) == ("any/thing", 120_000)


@pytest.mark.parametrize("more", [(), ("--print",)])
@pytest.mark.parametrize(
    ("model", "expected", "said"),
    [
        ("smrat", 1, "no model `smrat`: it has smart, other."),
        ("any/*", 1, "no model `any/*`"),
        ("", 2, "--model is empty"),
    ],
)
async def test_a_model_that_the_server_does_not_know(
    stage: Stage, model: str, expected: int, said: str, more: tuple[str, ...]
) -> None:
    code, out, err = await stage.launch("codex", "--model", model, *more)
    assert (code, out) == (expected, "")
    assert said in err
    assert not stage.report_file.exists()


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
async def test_a_base_url_may_end_without_its_version(stage: Stage, end: str) -> None:
    words = ("--base-url", f"{stage.root}{end}", "--key", stage.legato.key)
    assert await cli("launch", "qwen", *words, **stage.environment) == (0, "", "")
    assert stage.report["environment"]["OPENAI_BASE_URL"] == f"{stage.root}/v1"


@pytest.mark.parametrize(
    ("then", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("die", 128 + 9)]
)
async def test_the_exit_code_is_the_agents(stage: Stage, then: str, code: int) -> None:
    assert await stage.launch("claude", THEN=then) == (code, "", "")
    assert stage.left == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_the_agent_first(stage: Stage, number: int) -> None:
    process = stage.start("wait")
    await until(stage.report_file.exists, "the agent runs")
    assert not stage.report["interrupt"], "the agent has to hear Ctrl-C"
    process.send_signal(signal.SIGINT)  # from a terminal the agent has it as well, and decides
    process.send_signal(number)
    assert await asyncio.to_thread(process.wait, DEADLINE) == 7
    assert stage.report["signal"] == number
    assert stage.left == []


async def test_an_agent_that_stops_gives_the_terminal_back(stage: Stage) -> None:
    process = stage.start("stop")
    _, status = await asyncio.to_thread(os.waitpid, process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    assert await asyncio.to_thread(process.wait, DEADLINE) == 5
    assert stage.left == []


@pytest.mark.parametrize("agent", AGENTS)
async def test_an_agent_that_is_not_installed(stage: Stage, agent: str) -> None:
    code, out, err = await stage.launch(agent, PATH="/nowhere")
    assert (code, out) == (127, "")
    assert err.count("\n") == 1
    assert AGENTS[agent].title in err
    assert f"`{AGENTS[agent].install}`" in err


@pytest.mark.parametrize("agent", AGENTS)
async def test_print_shows_what_would_be_set_and_starts_nothing(stage: Stage, agent: str) -> None:
    nothing_installed = {"PATH": "/nowhere"}
    words = ("--print", "--", "exec", "hello, it's me")
    code, out, err = await stage.launch(agent, *words, **nothing_installed)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert stage.legato.key not in out
    assert shlex.split(lines[-1]) == [
        *("#", agent),
        *(each.replace("FOLDER", "TEMPORARY_FOLDER") for each in ARGUMENTS.get(agent, [])),
        *("exec", "hello, it's me"),
    ]
    for name, value in ENVIRONMENT[agent].items():
        if value is not None:
            value = value.replace("ROOT", stage.root).replace("FOLDER", "TEMPORARY_FOLDER")
            assert f"{name}={shlex.quote(value.replace('KEY', '***'))}" in lines
    assert {line.rpartition("/")[2] for line in lines if line.startswith("# TEMPORARY")} == FILES[
        agent
    ]
    assert not stage.report_file.exists()
    assert not stage.cache.exists()


async def test_print_shows_the_key_when_wanted(stage: Stage) -> None:
    code, out, _ = await stage.launch("qwen", "--print", "--show-key")
    assert code == 0
    assert f"OPENAI_API_KEY={stage.legato.key}\n" in out


async def test_print_without_a_server_has_the_models_of_the_settings(tmp_path: Path) -> None:
    config = tmp_path / "legato.toml"
    config.write_text(
        '[server]\nport = 1\n[[deployments]]\nname = "a"\nmodel = "m"\n'
        'base_url = "http://127.0.0.1:9/v1"\n[[deployments]]\nname = "b"\nmodel = "m"\n'
        'base_url = "http://127.0.0.1:9/v1"\n'
        '[[routes]]\nmodel = "smart"\ndeployments = ["a"]\n'
    )
    words = ("--print", "--config", str(config), "--data", str(tmp_path))
    code, out, err = await cli("launch", "codex", *words)
    assert (code, err) == (0, "")
    assert 'model = "smart"\n' in out
    assert 'base_url = "http://127.0.0.1:1/v1"\n' in out
    assert '"slug": "b"' in out
    assert '"slug": "a"' not in out


REFUSED: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no server": (("--base-url", "http://127.0.0.1:1/v1", "--key", "k"), 1, "legato serve"),
    "no key": (("--base-url", "http://192.0.2.1:1/v1"), 2, "--key"),
    "an unknown agent": ((), 2, "emacs"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_started(stage: Stage, case: str) -> None:
    words, expected, said = REFUSED[case]
    agent = "emacs" if case == "an unknown agent" else "codex"
    code, out, err = await cli("launch", agent, *words, **stage.environment)
    assert (code, out) == (expected, "")
    assert said in err
    assert "Traceback" not in err
    assert not stage.report_file.exists()
    assert stage.left == []


async def test_a_key_that_the_server_refuses(stage: Stage) -> None:
    words = ("--base-url", f"{stage.root}/v1", "--key", "lg-wrong")
    code, out, err = await cli("launch", "codex", *words, **stage.environment)
    assert (code, out) == (1, "")
    assert "invalid_api_key" in err
    assert not stage.report_file.exists()


def test_the_page_has_every_agent() -> None:
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    for name, agent in AGENTS.items():
        (row,) = (line for line in page.splitlines() if f"| `legato launch {name}` |" in line)
        assert row.startswith(f"| {agent.title} | ")
        assert row.endswith(f"| `{agent.install}` |")
        (row,) = (
            line
            for line in page.partition("## What is set")[2].splitlines()
            if line.startswith(f"| {agent.title} | ")
        )
        for file in FILES[name]:
            assert f"`{file}`" in row


# What depends on the server's address

HERE = ServerAddress("http://127.0.0.1:8000/v1", "k", is_local=True)
THERE = ServerAddress("https://legato.example/v1", "k", is_local=False)
MODELS = (ServedModel("smart", 120_000), ServedModel('a "quoted" \\ name \x7f', None, reasons=True))
TARGET = Target("http://127.0.0.1:8000", "the-key", MODELS[1].name, MODELS, "/a folder")

PROXIES: dict[str, tuple[ServerAddress, dict[str, str], str | None]] = {
    # server, environment, NO_PROXY
    "no proxy": (HERE, {}, None),
    "a proxy": (HERE, {"HTTP_PROXY": "http://p:1"}, "127.0.0.1"),
    "by its other name": (HERE, {"https_proxy": "http://p:1"}, "127.0.0.1"),
    "with exceptions": (
        HERE,
        {"ALL_PROXY": "socks5://p:1", "NO_PROXY": "a.example,b.example"},
        "a.example,b.example,127.0.0.1",
    ),
    "a server elsewhere": (THERE, {"HTTP_PROXY": "http://p:1"}, None),
}


@pytest.mark.parametrize("case", PROXIES)
def test_a_server_on_this_machine_is_asked_without_a_proxy(case: str) -> None:
    server, environment, exempt = PROXIES[case]
    variables = _settings_of(AGENTS["qwen"], TARGET, server, environment)
    assert (variables.get("NO_PROXY"), variables.get("no_proxy")) == (exempt, exempt)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_certificate_of_ones_own_is_trusted(agent: str) -> None:
    server = ServerAddress("https://127.0.0.1:8000/v1", "k", is_local=True, certificate="tls.pem")
    variables = _settings_of(AGENTS[agent], TARGET, server, {})
    assert variables[AGENTS[agent].certificate] == str(Path("tls.pem").absolute())
    assert AGENTS[agent].certificate not in _settings_of(AGENTS[agent], TARGET, HERE, {})


@pytest.mark.parametrize("agent", AGENTS)
def test_files_are_well_formed_whatever_a_model_is_called(agent: str) -> None:
    for name, text in AGENTS[agent].files(TARGET).items():
        read = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
        assert isinstance(read, dict)
        assert "the-key" not in text
    if agent == "codex":
        files = AGENTS[agent].files(TARGET)
        assert tomllib.loads(files["config.toml"])["model"] == MODELS[1].name
        thinker = json.loads(files["models.json"])["models"][1]
        efforts = [each["effort"] for each in thinker["supported_reasoning_levels"]]
        assert efforts == ["low", "medium", "high"]
        assert thinker["default_reasoning_level"] in efforts
