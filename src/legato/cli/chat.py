"""`legato chat`: a conversation in the terminal, or one question from the command line."""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from legato.cli.conversation import (
    Answer,
    Api,
    ChatError,
    Piece,
    PlainView,
    Thinking,
    is_terminal,
    styled,
    view_for,
)
from legato.cli.options import ApiKey, BaseUrl, Config, Data
from legato.cli.server_address import server_address
from legato.cli.terminal import settings, stop
from legato.settings import Settings

app = typer.Typer(add_completion=False)

_HELP: Final = """\
/model [NAME]       list the models, or switch to another one
/clear              start a new conversation
/save [FILE]        write the conversation to a file, as JSON or Markdown (.md)
/thinking           show the reasoning of the last answer
/thinking on|off    keep reasoning on the screen from now on, or fold it
/help               show this help
Ctrl-C stops an answer, Ctrl-D exits."""


@app.command()
def chat(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="A question. A single word that is the id of a model, without -m, selects the"
            " model."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("-m", "--model", help="Id of the model. Default: the server's first one."),
    ] = None,
    base_url: BaseUrl = None,
    key: ApiKey = None,
    data: Data = None,
    config: Config = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer in tokens, reasoning included."),
    ] = None,
    thinking: Annotated[
        bool | None,
        typer.Option(
            "--thinking/--no-thinking",
            help="Keep the reasoning on the screen (in a pipe: on standard error), or hide it.",
            show_default="folded at a terminal, hidden in a pipe",
        ),
    ] = None,
) -> None:
    """Chat with a model in the terminal.

    With a question, as an argument or on standard input, prints one answer and exits.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the locale may not support all characters
    words = list(text or ())
    piped = "" if is_terminal(sys.stdin) else _read_stdin()
    display: Thinking = "fold" if thinking is None else "keep" if thinking else "hide"
    try:
        api = _api(settings(config, data=data), base_url, key)
        models = api.models() if model is None or not (words or piped) else []
        if model is None:
            model = words.pop() if len(words) == 1 and words[0] in models else _first(models)
        question = "\n\n".join(part for part in (" ".join(words), piped) if part.strip())
        if question:
            raise SystemExit(_ask_once(api, model, _valid(question), max_tokens, display))
        if models and model not in models:
            stop(f"the model `{model}` does not exist; the models are: {', '.join(models)}")
        if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
            stop("there is no question, and input or output is not a terminal", 2)
        _Chat(api, model, max_tokens, display).run()
    except ChatError as error:
        _print_error(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader of the pipe is gone. Python flushes the buffer at exit: that must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _read_stdin() -> str:
    return sys.stdin.buffer.read().decode("utf-8", "replace").rstrip("\n") if sys.stdin else ""


def _valid(text: str) -> str:
    """`text` without lone surrogates, which stand for bytes of an argument that are not UTF-8 and
    which JSON cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _first(models: list[str]) -> str:
    return models[0] if models else stop("the server has no models")


def _api(chosen: Settings, base_url: str | None, key: str | None) -> Api:
    server = server_address(chosen, base_url, key)
    try:
        return Api(server)
    except OSError as error:
        stop(f"the certificate {server.certificate} cannot be used: {error}", 2)


def _ask_once(
    api: Api, model: str, question: str, max_tokens: int | None, thinking: Thinking
) -> int:
    """Prints the answer to one question. Returns the exit code."""
    answer = Answer()
    messages = [{"role": "user", "content": question}]
    view = view_for(answer, thinking, "--thinking keeps it")
    try:
        _display(api.stream(model, messages, max_tokens, answer), view)
    except ChatError as error:
        _print_error(error)
        return 1
    if not answer.text:
        hint = ": only reasoning (--thinking shows it)" if answer.thinking else ""
        _print_error(f"the answer is empty{hint}")
    if is_terminal(sys.stderr) and answer.stats():
        print(styled(answer.stats(), "2", sys.stderr), file=sys.stderr)
    return 0


def _display(pieces: Generator[Piece], view: PlainView) -> None:
    # Closed explicitly: an open connection would keep the server generating.
    with contextlib.closing(pieces):
        try:
            for piece in pieces:
                view.show(piece)
        finally:
            view.end()


def _print_error(error: object) -> None:
    print(styled(f"legato: {error}", "31", sys.stderr), file=sys.stderr, flush=True)


class _Chat:
    """An interactive conversation."""

    def __init__(self, api: Api, model: str, max_tokens: int | None, thinking: Thinking) -> None:
        self._api = api
        self._model = model
        self._max_tokens = max_tokens
        self._thinking: Thinking = thinking
        self._messages: list[dict[str, str]] = []
        self._last = Answer()
        self._saved: set[Path] = set()

    def run(self) -> None:
        from prompt_toolkit import PromptSession

        session: PromptSession[str] = PromptSession()
        self._print_note(f"{self._model}: /help lists the commands, Ctrl-D exits")
        while True:
            try:
                line = _valid(session.prompt([("bold", f"{self._model}> ")])).strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if not session.default_buffer.text:
                    self._print_note("Ctrl-D exits")
                continue
            try:
                self._handle(line)
            except ChatError as error:
                print(styled(str(error), "31", sys.stdout), flush=True)
            except KeyboardInterrupt:
                self._print_note("stopped")

    def _handle(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        # With a second slash it is a question, such as `/usr/bin is what?`.
        if command.startswith("/") and "/" not in command[1:]:
            commands = {
                "/model": self._select_model,
                "/clear": self._clear,
                "/save": self._save,
                "/thinking": self._set_thinking,
                "/help": lambda _: print(_HELP),
            }
            unknown = f"unknown command {command}; /help lists the commands"
            commands.get(command, lambda _: self._print_note(unknown))(argument.strip())
        elif line:
            self._ask(line)

    def _ask(self, question: str) -> None:
        self._last = answer = Answer()
        messages = [*self._messages, {"role": "user", "content": question}]
        view = view_for(answer, self._thinking, "/thinking shows it")
        outcome = ""
        try:
            with _no_echo():
                _display(self._api.stream(self._model, messages, self._max_tokens, answer), view)
        except KeyboardInterrupt:
            outcome = "stopped"
        finally:
            if answer.text:  # an unanswered question does not become part of the conversation
                self._messages = [*messages, {"role": "assistant", "content": answer.text}]
        outcome = outcome or ("" if answer.text else "no answer")
        self._print_note(" · ".join(filter(None, (outcome, answer.stats()))))

    def _select_model(self, name: str) -> None:
        models = self._api.models()
        if not name:
            for each in models:
                print(f"{'*' if each == self._model else ' '} {each}")
        elif name in models:
            self._model = name
        else:
            self._print_note(f"the model `{name}` does not exist; /model lists the models")

    def _clear(self, _: str) -> None:
        self._messages = []
        self._last = Answer()
        self._print_note("the conversation is empty")

    def _save(self, name: str) -> None:
        path = Path(name or time.strftime("chat-%Y%m%d-%H%M%S.md")).expanduser().absolute()
        if path.suffix.lower() == ".json":
            content = json.dumps(self._messages, ensure_ascii=False, indent=2) + "\n"
        else:
            headings = {"user": "## You", "assistant": "## Answer"}
            content = "\n".join(
                f"{headings[each['role']]}\n\n{each['content']}\n" for each in self._messages
            )
        try:
            # Only files that this conversation wrote are overwritten.
            with path.open("w" if path in self._saved else "x", encoding="utf-8") as file:
                file.write(content)
        except FileExistsError:
            self._print_note(f"{path} already exists: choose another name")
        except OSError as error:
            self._print_note(f"{path} cannot be written: {error.strerror}")
        else:
            self._saved.add(path)
            self._print_note(f"saved {len(self._messages)} messages in {path}")

    def _set_thinking(self, mode: str) -> None:
        if mode in ("on", "off"):
            self._thinking = "keep" if mode == "on" else "fold"
            self._print_note(
                "reasoning stays on the screen" if mode == "on" else "reasoning is folded"
            )
        else:
            self._print_note(self._last.thinking.strip() or "the last answer has no reasoning")

    def _print_note(self, text: str) -> None:
        print(styled(text, "2", sys.stdout), flush=True)


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Turns the terminal's echo off: text typed during an answer appears at the next prompt."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
