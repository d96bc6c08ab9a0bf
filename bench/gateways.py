"""What is between clients and upstream: nothing, nginx, Legato, or a gateway that already runs."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from bench import proc
from bench.workloads import Workload

#: Seconds within which a gateway must answer, and end.
READY: Final = 30.0
END: Final = 10.0

#: The source tree that this bench is part of.
ROOT: Final = Path(__file__).parent.parent


class Gateway(Protocol):
    """One column of a comparison. Started for every workload of every round."""

    name: str
    about: str
    """How it is configured."""
    url: str
    """OpenAI's base URL, with `/v1`."""
    key: str
    model: str
    """The model that clients request."""
    start_seconds: float | None
    """From start to ready, if the bench starts it."""

    def takes(self, workload: Workload) -> bool: ...

    def start(self, upstream: int, cpu: int | None, workload: Workload) -> None:
        """Returns when it answers. `upstream` is the upstream's port."""

    def pids(self) -> list[int]: ...
    def stop(self) -> None: ...


class BenchError(Exception):
    """The bench cannot go on; the message is a sentence for the user."""


class LeftOut(Exception):
    """One workload or one gateway cannot be measured; the others go on."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Direct:
    """No gateway: the latency of the upstream and the clients themselves."""

    name = "direct"
    about = "no gateway"
    key = "none"
    model = "bench"
    start_seconds: float | None = None

    def __init__(self) -> None:
        self.url = ""

    def takes(self, workload: Workload) -> bool:
        return True

    def start(self, upstream: int, cpu: int | None, workload: Workload) -> None:
        self.url = f"http://127.0.0.1:{upstream}/v1"

    def pids(self) -> list[int]:
        return []

    def stop(self) -> None:
        pass


class Running:
    """A gateway that the user has started. Its processes on this machine are found by its port.

    For figures that compare, it has to be pinned to the gateways' core, and its upstream has to be
    the mock, so that the mock needs a port that is known in advance.
    """

    name = "other"
    about = "started by the user"
    model = "bench"
    start_seconds: float | None = None

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        if not self.url.endswith("/v1"):
            self.url += "/v1"
        self.key = key
        self._port = urlsplit(url).port or 80

    def takes(self, workload: Workload) -> bool:
        return True

    def start(self, upstream: int, cpu: int | None, workload: Workload) -> None:
        pass

    def pids(self) -> list[int]:
        return sorted({pid for each in proc.listeners(self._port) for pid in proc.tree(each)})

    def stop(self) -> None:
        pass


class Child(ABC):
    """A gateway that is a child process, with a folder for its files."""

    name = "child"
    about = ""
    ready_path = "/"
    ready_seconds = READY
    model = "bench"
    variables: Mapping[str, str] = {}
    """Added to this process's environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.folder.mkdir(parents=True)
        self.key = "none"
        self.url = ""
        self.start_seconds: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, port: int, upstream: int, workload: Workload) -> list[str]:
        """Starts it on `port` in front of the bench's upstream."""

    def takes(self, workload: Workload) -> bool:
        return True

    def start_error(self, code: int | None) -> Exception:
        """The error for a start that ended with status `code`, or, if None, was not ready in
        time."""
        return BenchError(f"{self.name} did not start:\n{self.log_end()}")

    def start(self, upstream: int, cpu: int | None, workload: Workload) -> None:
        port = free_port()
        command = self.command(port, upstream, workload)
        self.url = f"http://127.0.0.1:{port}/v1"
        began = time.monotonic()
        with (self.folder / "log").open("wb") as log, proc.pinned(cpu):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment(), **self.variables},
                cwd=self.folder,
            )
        while not self._answers(f"http://127.0.0.1:{port}{self.ready_path}"):
            code = self._process.poll()
            if code is not None or time.monotonic() - began > self.ready_seconds:
                self.stop()
                raise self.start_error(code)
            time.sleep(0.01)
        self.start_seconds = time.monotonic() - began

    def pids(self) -> list[int]:
        return proc.tree(self._process.pid) if self._process else []

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_end(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def _answers(self, url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


class Nginx(Child):
    """The reference: one worker that forwards every read and keeps its upstream connections."""

    name = "nginx"
    about = "one worker, proxy_buffering off, no access log, upstream connections kept open"

    def command(self, port: int, upstream: int, workload: Workload) -> list[str]:
        binary = nginx()
        assert binary is not None
        folder = self.folder
        paths = "\n".join(
            f"  {kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = folder / "nginx.conf"
        config.write_text(f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
worker_rlimit_nofile 65536;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 32768; }}
http {{
  access_log off;
  keepalive_requests 1000000;
{paths}
  upstream mock {{
    server 127.0.0.1:{upstream};
    keepalive 512;
    keepalive_requests 1000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
""")
        return [binary, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]


class Legato(Child):
    """Legato with its default settings: it checks keys, repairs and meters streams, writes the
    ledger.

    `source`: the source tree that it runs from, which need not be this one.
    """

    name = "legato"
    about = "default settings: keys checked, streams repaired and metered, the ledger written"
    ready_path = "/readyz"

    def __init__(self, folder: Path, more: str = "", source: Path = ROOT) -> None:
        """`more`: further settings, TOML."""
        super().__init__(folder)
        self.more = more
        before = os.environ.get("PYTHONPATH")
        path = str(source / "src")
        self.variables = {"PYTHONPATH": f"{path}{os.pathsep}{before}" if before else path}

    @property
    def database(self) -> Path:
        return self.folder / "legato.db"

    def command(self, port: int, upstream: int, workload: Workload) -> list[str]:
        self.create_key()
        config = self.folder / "legato.toml"
        config.write_text(self.settings(upstream, workload))
        return [
            *(sys.executable, "-m", "legato", "serve", "--config", str(config)),
            *("--data", str(self.folder), "--port", str(port)),
        ]

    def settings(self, upstream: int, workload: Workload) -> str:
        # Anthropic's paths begin with /v1, OpenAI's are below it.
        version = "" if workload.dialect == "anthropic" else "/v1"
        return f"""
{workload.settings}

[[deployments]]
name = "bench"
model = "bench"
base_url = "http://127.0.0.1:{upstream}{version}"
{workload.deployment}
{self.more}
"""

    def start_error(self, code: int | None) -> Exception:
        # 2: unknown settings. The last line of the log names them.
        if code == 2:
            return LeftOut(" ".join(self.log_end().split())[-300:])
        return super().start_error(code)

    def create_key(self) -> None:
        """Creates the database and a key in it, once."""
        if self.key == "none":
            self.key = self._create_key()

    def _create_key(self) -> str:
        create = ("keys", "create", "bench", "--json", "--data", str(self.folder))
        return json.loads(self.command_line(*create))["key"]

    def command_line(self, *arguments: str) -> str:
        """What `legato ARGUMENTS` prints. Raises `BenchError` if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "legato", *arguments],
            capture_output=True,
            text=True,
            env={**environment(), **self.variables},
            cwd=self.folder,
            timeout=READY,
        )
        if done.returncode:
            raise BenchError(f"legato {arguments[0]} failed:\n{done.stderr[-2000:]}")
        return done.stdout


class OtherTree(Legato):
    """Legato from another source tree, on the same interpreter, with the same settings."""

    def __init__(self, folder: Path, source: Path) -> None:
        """Raises `BenchError` if there is no Legato in `source`."""
        source = source.resolve()
        if not (source / "src" / "legato").is_dir():
            raise BenchError(f"--compare: there is no src/legato in {source}")
        self.name = f"legato@{source.name}"
        self.about = f"as legato, from the source tree {source.name}, commit {commit(source)}"
        super().__init__(folder, source=source)


def commit(source: Path = ROOT) -> str:
    """The commit of a source tree, and whether `src` has changes."""
    shown = _git(source, "rev-parse", "--short", "HEAD") or "unknown"
    return f"{shown} and changes" if _git(source, "status", "--porcelain", "src") else shown


def _git(source: Path, *arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(source), *arguments], capture_output=True, text=True
        ).stdout.strip()
    except OSError:
        return ""


def nginx() -> str | None:
    """The path of nginx. Debian's is not on a user's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def environment() -> dict[str, str]:
    """This process's environment, without variables that change Legato's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LEGATO_")}
