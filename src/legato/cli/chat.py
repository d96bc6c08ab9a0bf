"""`legato chat`: a conversation in the terminal, or one question from the shell."""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from legato.cli.conversation import (
    Answer,
    Api,
    ChatError,
    Piece,
    PlainView,
    Thinking,
    interactive,
    styled,
    view_of,
)
from legato.cli.terminal import settings, stop
from legato.settings import Settings

app = typer.Typer(add_completion=False)

_HELP: Final = """\
/model [NAME]       list the models, or go on with another one
/clear              forget the conversation
/save [FILE]        write the conversation, as JSON or (.md) Markdown
/thinking           show the last thinking in full
/thinking on|off    from now on, keep thinking in sight or fold it
/help               this
Ctrl-C stops an answer, Ctrl-D leaves."""


@app.command()
def chat(
    text: Annotated[
        list[str] | None,
        typer.Argument(help="A question; or, alone and without -m, the model to chat with."),
    ] = None,
    model: Annotated[str | None, typer.Option("-m", "--model", help="Model to ask.")] = None,
    base_url: Annotated[
        str | None,
        typer.Option(envvar="LEGATO_BASE_URL", help="The API; else where the settings say."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="LEGATO_API_KEY", help="API key; else this machine's first one."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Folder for keys and usage.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file; else ./legato.toml.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens an answer may have, thinking included.")
    ] = None,
    thinking: Annotated[
        bool | None,
        typer.Option(
            "--thinking/--no-thinking",
            help="Keep the thinking in sight (into a pipe: on standard error), or hide it.",
            show_default="a terminal folds it",
        ),
    ] = None,
) -> None:
    """Chat with a model in the terminal; ask one question, or pipe it in, to get one answer."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an answer may hold what the locale cannot
    words = list(text or ())
    piped = "" if interactive(sys.stdin) else _piped()
    shown: Thinking = "fold" if thinking is None else "keep" if thinking else "hide"
    try:
        api = _api(settings(config, data=data), base_url, key)
        models = api.models() if model is None or not (words or piped) else []
        if model is None:
            model = words.pop() if len(words) == 1 and words[0] in models else _first(models)
        question = "\n\n".join(part for part in (" ".join(words), piped) if part.strip())
        if question:
            raise SystemExit(_once(api, model, _sound(question), max_tokens, shown))
        if models and model not in models:
            stop(f"there is no model `{model}`; there are: {', '.join(models)}")
        if not (interactive(sys.stdin) and interactive(sys.stdout)):
            stop("there is no question, and no terminal to chat in", 2)
        _Chat(api, model, max_tokens, shown).run()
    except ChatError as error:
        _fail(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Nobody reads on; what is still in the buffer must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _piped() -> str:
    return sys.stdin.buffer.read().decode("utf-8", "replace").rstrip("\n") if sys.stdin else ""


def _sound(text: str) -> str:
    """Bytes of an argument that are no UTF-8 came as lone surrogates, which JSON cannot take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _first(models: list[str]) -> str:
    return models[0] if models else stop("the server has no models")


def _api(chosen: Settings, base_url: str | None, key: str | None) -> Api:
    server = chosen.server
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    here = anywhere.get(server.host) or server.host
    url = base_url
    if url is None:
        if server.port == 0:
            stop("with port 0, --base-url has to say where the server listens", 2)
        host = f"[{here}]" if ":" in here else here
        url = f"{'https' if server.tls_cert else 'http'}://{host}:{server.port}/v1"
    try:
        near = urlsplit(url).hostname in {here, "127.0.0.1", "::1", "localhost"}
    except ValueError:
        near = False
    if key is None and near:  # our key is nobody else's business
        with contextlib.suppress(OSError):
            key = (chosen.data_dir / "key").read_text()
    key = key.strip() if key else None
    if key and not (key.isascii() and key.isprintable()):
        stop("the API key has a character that no header takes", 2)
    try:
        return Api(url, key, direct=near, trust=server.tls_cert if near else None)
    except OSError as error:
        stop(f"the certificate {server.tls_cert} cannot be used: {error}", 2)


def _once(api: Api, model: str, question: str, max_tokens: int | None, thinking: Thinking) -> int:
    answer = Answer()
    messages = [{"role": "user", "content": question}]
    view = view_of(answer, thinking, "--thinking keeps it")
    try:
        _play(api.ask(model, messages, max_tokens, answer), view)
    except ChatError as error:
        _fail(error)
        return 1
    if not answer.text:
        _fail("no answer came" + (", only thinking (--thinking shows it)" * bool(answer.thinking)))
    if interactive(sys.stderr) and answer.stats():
        print(styled(answer.stats(), "2", sys.stderr), file=sys.stderr)
    return 0


def _play(pieces: Generator[Piece], view: PlainView) -> None:
    # Closed here and now, whatever happens: a connection left open would go on generating.
    with contextlib.closing(pieces):
        try:
            for piece in pieces:
                view.show(piece)
        finally:
            view.end()


def _fail(error: object) -> None:
    print(styled(f"legato: {error}", "31", sys.stderr), file=sys.stderr, flush=True)


class _Chat:
    """The conversation at the prompt."""

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
        self._note(f"{self._model}: /help says what there is, Ctrl-D leaves")
        while True:
            try:
                line = _sound(session.prompt([("bold", f"{self._model}> ")])).strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if not session.default_buffer.text:
                    self._note("Ctrl-D leaves")
                continue
            try:
                self._do(line)
            except ChatError as error:
                print(styled(str(error), "31", sys.stdout), flush=True)
            except KeyboardInterrupt:
                self._note("stopped")

    def _do(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        # `/usr/bin is what?` is a question.
        if verb.startswith("/") and "/" not in verb[1:]:
            commands = {
                "/model": self._models,
                "/clear": self._clear,
                "/save": self._save,
                "/thinking": self._show_thinking,
                "/help": lambda _: print(_HELP),
            }
            unknown = f"there is no {verb}; /help says what there is"
            commands.get(verb, lambda _: self._note(unknown))(rest.strip())
        elif line:
            self._ask(line)

    def _ask(self, question: str) -> None:
        self._last = answer = Answer()
        messages = [*self._messages, {"role": "user", "content": question}]
        view = view_of(answer, self._thinking, "/thinking shows it")
        how = ""
        try:
            with _no_echo():
                _play(self._api.ask(self._model, messages, self._max_tokens, answer), view)
        except KeyboardInterrupt:
            how = "stopped"
        finally:
            if answer.text:  # a question with no answer at all would only confuse the next one
                self._messages = [*messages, {"role": "assistant", "content": answer.text}]
        how = how or ("" if answer.text else "no answer")
        self._note(" · ".join(filter(None, (how, answer.stats()))))

    def _models(self, wanted: str) -> None:
        models = self._api.models()
        if not wanted:
            for name in models:
                print(f"{'*' if name == self._model else ' '} {name}")
        elif wanted in models:
            self._model = wanted
        else:
            self._note(f"there is no model `{wanted}`; /model lists them")

    def _clear(self, _: str) -> None:
        self._messages = []
        self._last = Answer()
        self._note("the conversation is empty")

    def _save(self, name: str) -> None:
        path = Path(name or time.strftime("chat-%Y%m%d-%H%M%S.md")).expanduser().absolute()
        if path.suffix.lower() == ".json":
            content = json.dumps(self._messages, ensure_ascii=False, indent=2) + "\n"
        else:
            heads = {"user": "## You", "assistant": "## Answer"}
            said = [f"{heads[each['role']]}\n\n{each['content']}\n" for each in self._messages]
            content = "\n".join(said)
        try:
            # Only what this chat wrote is written over.
            with path.open("w" if path in self._saved else "x", encoding="utf-8") as file:
                file.write(content)
        except FileExistsError:
            self._note(f"{path} is there already: choose another name")
        except OSError as error:
            self._note(f"{path} cannot be written: {error.strerror}")
        else:
            self._saved.add(path)
            self._note(f"saved {len(self._messages)} messages in {path}")

    def _show_thinking(self, wanted: str) -> None:
        if wanted in ("on", "off"):
            self._thinking = "keep" if wanted == "on" else "fold"
            self._note("thinking stays in sight" if wanted == "on" else "thinking is folded")
        else:
            self._note(self._last.thinking.strip() or "there was no thinking")

    def _note(self, text: str) -> None:
        print(styled(text, "2", sys.stdout), flush=True)


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """What is typed during an answer waits for the next prompt, instead of standing in between."""
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
