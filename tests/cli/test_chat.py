"""`legato chat` as a person uses it: the program itself, in a pipe and at a terminal."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from legato.cli import chat
from legato.cli.conversation import Answer
from legato.cli.server_address import ServerAddress
from legato.settings import Settings

DEADLINE = 15.0


class Player(BaseHTTPRequestHandler):
    """Answers as the test's `play` says; without HTTP/1.1, the end of the body is the end."""

    server: "FakeServer"

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model"} for name in self.server.models]
        self.reply(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, self.headers.get("authorization"), body))
        self.server.play(self)

    def reply(self, status: int, body: Any) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def stream(self, *frames: Any) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.frames(*frames)

    def frames(self, *frames: Any) -> None:
        for frame in frames:
            data = frame if isinstance(frame, str) else json.dumps(frame)
            self.wfile.write(f"data: {data}\n\n".encode())
            self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Player)
        self.models = ["one", "two"]
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []
        self.play: Callable[[Player], None] = lambda player: player.stream(*WHOLE)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: Any) -> None:
        """A client that goes away in the middle is what some tests do."""


def delta(**members: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": members, "finish_reason": None}], "usage": None}


FINISH = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None}
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
END = (FINISH, USAGE, "[DONE]")
WHOLE = (delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo."), *END)
THINKING = (delta(reasoning_content="Well, "), delta(reasoning_content="let me see."))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield fake
        fake.shutdown()
        thread.join()


def environment(home: Path, **more: str) -> dict[str, str]:
    ours = ("LEGATO_", "NO_COLOR", "PYTHON", "COLUMNS", "LINES")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name == "PYTHONPATH" or not name.startswith(ours)
    }
    return inherited | {
        "LEGATO_DATA": str(home),
        "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody answers at the other end of the pty
        "PYTHONUTF8": "1",
        "TERM": "xterm",
        **more,
    }


def run(
    home: Path, url: str, *words: str, piped: str | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "legato", "chat", "--base-url", url, *words],
        input=piped,
        stdin=subprocess.DEVNULL if piped is None else None,
        capture_output=True,
        env=environment(home, **more),
        cwd=home,
        timeout=DEADLINE,
        encoding="utf-8",
        check=False,
    )


class Terminal:
    """`legato chat` on a pty of 24 lines with 80 columns."""

    def __init__(self, home: Path, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        # Without a controlling terminal, Ctrl-C would be no signal.
        launch = (
            "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
            # A suite that was started in the background has Ctrl-C ignored, and hands that down.
            " signal.signal(signal.SIGINT, signal.SIG_DFL);"
            " os.execv(sys.executable, [sys.executable, '-m', 'legato', 'chat', *sys.argv[1:]])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", launch, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(home),
            cwd=home,
            start_new_session=True,
        )
        os.close(theirs)
        self._unread = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def expect(self, wanted: str) -> str:
        """What was shown up to and with `wanted`, since the last time."""
        deadline = time.monotonic() + DEADLINE
        while wanted not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._ours], [], [], left)[0]:
                pytest.fail(f"no {wanted!r} in {self._unread!r}")
            try:
                self._unread += os.read(self._ours, 65536).decode()
            except OSError:  # EIO: the other end is closed
                pytest.fail(f"ended before {wanted!r}: {self._unread!r}")
        shown, _, self._unread = self._unread.partition(wanted)
        return shown + wanted

    def prompt(self, name: str) -> None:
        self.expect("\x1b[?2004h")  # written once per prompt, when keys are read one by one
        self.expect(f"{name}>")

    def ended(self) -> int:
        """The exit status; the pty is emptied, so that nothing waits for a reader."""
        deadline = time.monotonic() + DEADLINE
        with contextlib.suppress(OSError):
            while select.select([self._ours], [], [], deadline - time.monotonic())[0]:
                os.read(self._ours, 65536)
        return self.process.wait(DEADLINE)


# One question


def test_stdout_is_the_answer_and_nothing_else(tmp_path: Path, server: FakeServer) -> None:
    server.play = lambda player: player.stream(*THINKING, *WHOLE)
    done = run(tmp_path, server.url, "-m", "two", "--max-tokens", "9", "What", "now?")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello.\n", "")
    path, _, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "two",
        "messages": [{"role": "user", "content": "What now?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
    }


def test_a_newline_at_the_end_is_not_doubled(tmp_path: Path, server: FakeServer) -> None:
    server.play = lambda player: player.stream(delta(content="\na\n\nb\n"), *END)
    assert run(tmp_path, server.url, "-m", "one", "?").stdout == "\na\n\nb\n"


@pytest.mark.parametrize(
    ("words", "piped", "model", "question"),
    [
        ((), "from the pipe\n", "one", "from the pipe"),
        (("two",), "from the pipe\n", "two", "from the pipe"),
        (("three",), None, "one", "three"),
        (("-m", "two", "Explain:"), "a\nb\n", "two", "Explain:\n\na\nb"),
    ],
)
def test_which_model_is_asked_what(
    words: tuple[str, ...],
    piped: str | None,
    model: str,
    question: str,
    tmp_path: Path,
    server: FakeServer,
) -> None:
    done = run(tmp_path, server.url, *words, piped=piped)
    assert done.stdout == "Hello.\n", done.stderr
    body = server.asked[0][2]
    assert (body["model"], body["messages"][0]["content"]) == (model, question)


def test_thinking_is_shown_beside_the_answer_when_wanted(
    tmp_path: Path, server: FakeServer
) -> None:
    server.play = lambda player: player.stream(*THINKING, *WHOLE)
    done = run(tmp_path, server.url, "-m", "one", "--thinking", "?")
    assert (done.stdout, done.stderr) == ("Hello.\n", "Well, let me see.\n")


def test_an_answer_is_shown_while_it_comes(tmp_path: Path, server: FakeServer) -> None:
    seen = threading.Event()

    def play(player: Player) -> None:
        player.stream(delta(content="first"))
        if seen.wait(DEADLINE):
            player.frames(delta(content=" last"), *END)

    server.play = play
    command = [sys.executable, "-m", "legato", "chat", "--base-url", server.url, "-m", "one", "?"]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(tmp_path),
        cwd=tmp_path,
    ) as process:
        assert process.stdout
        assert select.select([process.stdout], [], [], DEADLINE)[0]
        assert os.read(process.stdout.fileno(), 100) == b"first"
        seen.set()
        assert process.stdout.read() == b" last\n"
        assert process.wait(DEADLINE) == 0


def test_control_characters_do_not_reach_the_reader(tmp_path: Path, server: FakeServer) -> None:
    evil = "a\x1b[31mb\x07\x9b2Jc\r\nd\te\x7f\x00\ud83df\x85"
    server.play = lambda player: player.stream(delta(content=evil), *END)
    assert run(tmp_path, server.url, "-m", "one", "?").stdout == "a[31mb2Jc\nd\te\ufffdf\n"


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (
            [delta(content="Hel"), {"error": {"message": "The engine\x1b died.", "code": "gone"}}],
            "legato: The engine died. (gone)\n",
        ),
        (
            [delta(content="Hel"), FINISH],
            "legato: The stream ended early: the answer is incomplete. (stream_incomplete)\n",
        ),
        (
            [delta(content="Hel"), "nonsense", *END],
            "legato: The server sent an event that is not a JSON object. (bad_stream)\n",
        ),
    ],
)
def test_a_broken_stream_is_never_a_whole_answer(
    frames: list[Any], message: str, tmp_path: Path, server: FakeServer
) -> None:
    server.play = lambda player: player.stream(*frames)
    done = run(tmp_path, server.url, "-m", "one", "?")
    assert (done.returncode, done.stdout, done.stderr) == (1, "Hel\n", message)


def test_a_refusal_is_one_sentence(tmp_path: Path, server: FakeServer) -> None:
    error = {"error": {"message": "This key is\nnot known.", "code": "invalid_api_key"}}
    server.play = lambda player: player.reply(401, error)
    done = run(tmp_path, server.url, "-m", "one", "?")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "legato: This key is not known. Set one with --key or LEGATO_API_KEY. (invalid_api_key)\n"
    )


def test_without_a_server_it_says_how_to_start_one(tmp_path: Path) -> None:
    with FakeServer() as fake:
        url = fake.url
    done = run(tmp_path, url, "?")
    assert done.returncode == 1
    assert done.stderr == (
        f"legato: No server answers at {url}: start one with `legato serve`. (no_server)\n"
    )


def test_nothing_to_ask_is_a_mistake_of_the_caller(tmp_path: Path, server: FakeServer) -> None:
    done = run(tmp_path, server.url, piped="")
    assert (done.returncode, done.stdout, server.asked) == (2, "", [])
    assert "no question" in done.stderr


def test_the_key_comes_from_flag_environment_or_file(tmp_path: Path, server: FakeServer) -> None:
    (tmp_path / "key").write_text("lg-file\n")
    run(tmp_path, server.url, "-m", "one", "?")
    run(tmp_path, server.url, "-m", "one", "?", LEGATO_API_KEY="lg-environment")
    run(tmp_path, server.url, "-m", "one", "--key", "lg-flag", "?", LEGATO_API_KEY="lg-x")
    keys = [key for _, key, _ in server.asked]
    assert keys == ["Bearer lg-file", "Bearer lg-environment", "Bearer lg-flag"]


@pytest.mark.parametrize(
    ("url", "key"),
    [
        (None, "lg-file"),
        ("http://localhost:1/v1", "lg-file"),
        ("https://api.example.com/v1", None),
        ("https://127.0.0.1@api.example.com/v1", None),
    ],
)
def test_the_first_key_goes_to_this_machine_alone(
    url: str | None, key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("lg-file\n")
    found: list[ServerAddress] = []
    monkeypatch.setattr(chat, "Api", found.append)
    chat._api(Settings(data=str(tmp_path)), url, None)
    base_url = url or "http://127.0.0.1:8000/v1"
    assert found == [ServerAddress(base_url, key, is_local=key is not None)]


# At the terminal


def test_a_conversation(tmp_path: Path, server: FakeServer) -> None:
    server.play = lambda player: player.stream(*THINKING, delta(content="\n\n"), *WHOLE)
    with Terminal(tmp_path, "--base-url", server.url, "two") as terminal:
        terminal.prompt("two")
        terminal.type("Hi there\r")
        # Dim while it comes, then gone but for one line.
        terminal.expect("\x1b[2mWell, \x1b[0m\x1b[2mlet me see.\x1b[0m\r\x1b[J")
        after = terminal.expect("7 prompt + 3 completion tokens")
        assert re.search(r"▸ thought for \d+\.\d s, 2 tokens \(/thinking shows it\)", after)
        assert "shows it)\x1b[0m\r\nHello.\r\n" in after
        assert re.search(r"TTFT \d+\.\d\d s · \d+\.\d tokens/s · 7 prompt", after)

        terminal.prompt("two")
        terminal.type("/thinking\r")
        terminal.expect("Well, let me see.")
        terminal.prompt("two")
        terminal.type("/model\r")
        terminal.expect("  one\r\n* two\r\n")
        terminal.prompt("two")
        terminal.type("/model one\r")
        terminal.prompt("one")
        terminal.type("/usr/bin is what?\r")
        terminal.expect("completion tokens")
        body = server.asked[1][2]
        assert body["model"] == "one"
        assert body["messages"] == [
            {"role": "user", "content": "Hi there"},
            {"role": "assistant", "content": "\n\nHello."},
            {"role": "user", "content": "/usr/bin is what?"},
        ]

        terminal.prompt("one")
        terminal.type("/clear\r")
        terminal.expect("the conversation is empty")
        terminal.prompt("one")
        terminal.type("Again\r")
        terminal.expect("completion tokens")
        assert server.asked[2][2]["messages"] == [{"role": "user", "content": "Again"}]
        terminal.prompt("one")
        terminal.type("\x04")
        assert terminal.ended() == 0


def test_the_conversation_is_saved(tmp_path: Path, server: FakeServer) -> None:
    (tmp_path / "mine.md").write_text("mine")
    with Terminal(tmp_path, "--base-url", server.url) as terminal:
        terminal.prompt("one")
        terminal.type("Hi\r")
        terminal.expect("completion tokens")
        for name, message in (
            ("a.json", "saved 2 messages"),
            ("a.json", "saved 2 messages"),  # its own file may be written again,
            ("b.md", "saved 2 messages"),
            ("mine.md", "already exists"),  # another one never
            ("no/where.md", "cannot be written"),
        ):
            terminal.prompt("one")
            terminal.type(f"/save {name}\r")
            terminal.expect(message)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    assert json.loads((tmp_path / "a.json").read_text()) == messages
    assert (tmp_path / "b.md").read_text() == "## You\n\nHi\n\n## Answer\n\nHello.\n"
    assert (tmp_path / "mine.md").read_text() == "mine"


def test_ctrl_c_stops_the_answer_on_both_sides(tmp_path: Path, server: FakeServer) -> None:
    closed = threading.Event()

    def play(player: Player) -> None:
        player.stream(delta(content="It was"))
        player.connection.settimeout(DEADLINE)
        with contextlib.suppress(ConnectionError):
            assert player.connection.recv(1) == b""  # the client's end of file
        closed.set()

    server.play = play
    with Terminal(tmp_path, "--base-url", server.url) as terminal:
        terminal.prompt("one")
        terminal.type("A long story\r")
        terminal.expect("It was")
        assert not closed.is_set()
        terminal.type("\x03")
        terminal.expect("stopped")
        assert closed.wait(DEADLINE)
        terminal.prompt("one")

        server.play = lambda player: player.stream(*WHOLE)
        terminal.type("Go on\r")
        terminal.expect("completion tokens")
        assert server.asked[1][2]["messages"] == [
            {"role": "user", "content": "A long story"},
            {"role": "assistant", "content": "It was"},
            {"role": "user", "content": "Go on"},
        ]
        terminal.prompt("one")
        terminal.type("\x03")
        terminal.expect("Ctrl-D exits")
        terminal.prompt("one")
        terminal.type("\x04")
        assert terminal.ended() == 0


def test_what_is_typed_during_an_answer_waits_for_the_prompt(
    tmp_path: Path, server: FakeServer
) -> None:
    typed = threading.Event()

    def play(player: Player) -> None:
        player.stream(delta(content="Hel"))
        if typed.wait(DEADLINE):
            player.frames(delta(content="lo."), *END)

    server.play = play
    with Terminal(tmp_path, "--base-url", server.url) as terminal:
        terminal.prompt("one")
        terminal.type("Hi\r")
        terminal.expect("Hel")
        terminal.type("Next\r")  # an echo of it would be there before the server goes on
        typed.set()
        assert terminal.expect("lo.") == "lo."
        assert "Next" not in terminal.expect("completion tokens")
        terminal.prompt("one")
        terminal.expect("completion tokens")
        assert server.asked[1][2]["messages"][-1]["content"] == "Next"


def test_after_an_error_the_chat_goes_on(tmp_path: Path, server: FakeServer) -> None:
    error = {"error": {"message": "Too many calls.", "code": "rate_limited"}}
    server.play = lambda player: player.reply(429, error)
    with Terminal(tmp_path, "--base-url", server.url) as terminal:
        terminal.prompt("one")
        terminal.type("Hi\r")
        terminal.expect("\x1b[31mToo many calls. (rate_limited)\x1b[0m")
        terminal.prompt("one")
        server.play = lambda player: player.stream(*WHOLE)
        terminal.type("Hi again\r")
        terminal.expect("Hello.")
        # What was never answered is not part of the conversation.
        assert server.asked[1][2]["messages"] == [{"role": "user", "content": "Hi again"}]


def test_thinking_that_left_the_screen_is_left_alone(tmp_path: Path, server: FakeServer) -> None:
    def thinks(lines: int) -> None:
        pieces = [delta(reasoning_content=f"{number:>79}\n") for number in range(lines)]
        server.play = lambda player: player.stream(*pieces, *WHOLE)

    with Terminal(tmp_path, "--base-url", server.url) as terminal:
        for lines, folded in ((23, True), (24, False)):
            terminal.prompt("one")
            thinks(lines)
            terminal.type("Hi\r")
            shown = terminal.expect("Hello.")
            assert (f"\r\x1b[{lines}A\x1b[J" in shown) is folded
            assert ("▸ thought" in shown, "▾ thought" in shown) == (folded, not folded)


def test_one_question_at_a_terminal_can_be_stopped(tmp_path: Path, server: FakeServer) -> None:
    def play(player: Player) -> None:
        player.stream(delta(content="It was"))
        player.connection.settimeout(DEADLINE)
        player.connection.recv(1)

    server.play = play
    with Terminal(tmp_path, "--base-url", server.url, "-m", "one", "A story") as terminal:
        terminal.expect("It was")
        terminal.type("\x03")
        assert terminal.ended() == 130


def test_the_rate_does_not_count_the_prompt() -> None:
    answer = Answer()
    answer.requested_at, answer.first_at, answer.last_at = 1.0, 3.0, 4.0
    answer.usage = {"prompt_tokens": 5, "completion_tokens": 11}
    answer.finish_reason = "length"
    assert answer.stats() == (
        "TTFT 2.00 s · 10.0 tokens/s · 5 prompt + 11 completion tokens · cut at the token limit"
    )
