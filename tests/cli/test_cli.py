"""The command line from outside: what it prints, where, and its exit code."""

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.cells import cell_len

from legato import __version__
from legato.cli.main import COMMANDS, app


async def cli(*words: str, **environment: str) -> tuple[int, str, str]:
    """Runs `legato WORDS`: (exit code, standard output, standard error)."""
    inherited = {name: value for name, value in os.environ.items() if "LEGATO" not in name}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "legato",
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=inherited | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"} | environment,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("command", ["", *COMMANDS])
async def test_help(command: str) -> None:
    code, out, err = await cli(*([command] if command else []), "--help")
    assert (code, err) == (0, "")
    assert "Usage:" in out
    for sentence in [COMMANDS[command]] if command else COMMANDS.values():
        assert sentence in out or sentence.split(",")[0].rstrip(".") in out


async def test_every_option_and_argument_has_a_help_text() -> None:
    without: list[str] = []

    def visit(command: Any, name: str) -> None:
        without.extend(
            f"{name} {each.name}" for each in command.params if not getattr(each, "help", None)
        )
        for word in command.list_commands(None) if hasattr(command, "list_commands") else ():
            visit(command.get_command(None, word), f"{name} {word}")

    visit(typer.main.get_command(app), "legato")
    assert without == []


async def test_version() -> None:
    assert await cli("--version") == (0, f"legato {__version__}\n", "")


@pytest.mark.parametrize("words", [("sevre",), ("keys", "make"), ("serve", "--prot", "1")])
async def test_what_is_unknown(words: tuple[str, ...]) -> None:
    code, out, err = await cli(*words)
    assert (code, out) == (2, "")
    assert words[-1].lstrip("-") in err or words[1].lstrip("-") in err
    assert "Traceback" not in err


BAD = {
    "unknown key": "[server]\nprot = 1\n",
    "range": "[server]\nport = 70000\n",
    "no toml": "[server\n",
    "unknown model": "[[engine.models]]\nname = 'no-such-model'\n",
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_settings_are_one_sentence_and_2(tmp_path: Path, name: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(BAD[name])
    words = ("--config", str(file), "--data", str(tmp_path))
    code, out, err = await cli("serve", *words, LEGATO_MODELS=str(tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith("legato: ")
    assert err.count("\n") == 1


async def test_an_unknown_variable_is_one_sentence_and_2(tmp_path: Path) -> None:
    code, _, err = await cli("config", "show", LEGATO_PROT="1")
    assert code == 2
    assert err.startswith("legato: LEGATO_PROT: unknown setting")
    assert err.count("\n") == 1


async def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "legato.toml"
    file.write_text(
        '[[deployments]]\nname = "a"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "m"\n'
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, out, err = await cli(
            "serve", "--config", str(file), "--data", str(tmp_path), "--port", port
        )
    assert code not in (0, None)
    assert out == ""
    assert "Traceback" not in err
    assert port in err
    assert err.count("\n") == 1


async def test_config_init_and_show(tmp_path: Path) -> None:
    file = str(tmp_path / "new.toml")
    assert await cli("config", "init", file) == (0, f"wrote {file}\n", "")
    code, out, err = await cli("config", "init", file)
    assert (code, out) == (1, "")
    assert err == f"legato: {file} already exists\n"
    code, out, err = await cli("config", "show", "--config", file, LEGATO_PORT="7")
    assert (code, err) == (0, "")
    assert "port = 7\n" in out


async def test_lists_fit_the_terminal(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    for name in ("alice", "the continuous integration of " + "a very " * 10 + "long name"):
        assert (await cli("keys", "create", name, *data))[0] == 0
    for command, first_column in ((("keys", "list", *data), "id"), (("models", "list"), "name")):
        for width in (50, 60, 80, 120):
            environment = {"COLUMNS": str(width), "LEGATO_MODELS": str(tmp_path), "PYTHONUTF8": "1"}
            code, out, err = await cli(*command, **environment)
            assert (code, err) == (0, "")
            heading, *rows = out.splitlines()
            assert heading.startswith(first_column)
            assert len(rows) == 2, "each entry is on one line"
            assert all(cell_len(line) <= width for line in out.splitlines())


async def test_models_list_and_remove(tmp_path: Path) -> None:
    where = {"LEGATO_MODELS": str(tmp_path)}
    code, out, err = await cli("models", "list", **where)
    assert (code, err) == (0, "")
    assert "smollm2-135m " in out
    assert "Apache-2.0" in out
    fetched = tmp_path / "hub" / "o" / "r" / "f.gguf"
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(b"GGUF")
    name = "hf:o/r/f.gguf"
    assert await cli("models", "remove", name, **where) == (0, f"removed {name}\n", "")
    assert not fetched.exists()
    code, _, err = await cli("models", "remove", name, **where)
    assert (code, err) == (1, f"legato: there is no downloaded file of {name}\n")


@pytest.mark.parametrize("name", ["no-such-model", "hf:../../x", "hf:o/../x.gguf"])
async def test_models_remove_what_is_no_model(tmp_path: Path, name: str) -> None:
    code, out, err = await cli("models", "remove", name, LEGATO_MODELS=str(tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith("legato: ")
    assert err.count("\n") == 1
