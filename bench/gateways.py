"""What stands between clients and upstream: nothing, nginx, Legato, or one already running."""

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

#: Seconds that a gateway may take to answer, and to end.
READY: Final = 30.0
END: Final = 10.0


class Gateway(Protocol):
    """One row of a comparison. Started anew for every workload of every round."""

    name: str
    about: str
    """How it is configured."""
    url: str
    """OpenAI's base URL, `/v1` included."""
    key: str
    model: str
    """What clients ask for."""
    start_seconds: float | None
    """From start to ready, where it was ours to start."""

    def takes(self, workload: Workload) -> bool: ...

    def start(self, upstream: int, cpu: int | None, workload: Workload) -> None:
        """Comes back when it answers. `upstream` is the upstream's port."""

    def pids(self) -> list[int]: ...
    def stop(self) -> None: ...


class BenchError(Exception):
    """What keeps the bench from measuring, in a sentence."""


class LeftOut(Exception):
    """What keeps one workload, or one gateway, from being measured: the others go on."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Direct:
    """No gateway: what the upstream and the clients themselves take."""

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
    """Somebody else's: measured as it stands. On this machine its processes are found by its port.

    For figures that compare, it has to be pinned to the gateways' core, and its upstream has to be
    the mock, so the mock needs a port that is known before.
    """

    name = "other"
    about = "as it was found running"
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
    """A gateway that is a child process, with a folder for what it writes."""

    name = "child"
    about = ""
    ready_path = "/"
    ready_seconds = READY
    model = "bench"
    variables: Mapping[str, str] = {}
    """Its environment, beside ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.folder.mkdir(parents=True)
        self.key = "none"
        self.url = ""
        self.start_seconds: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, port: int, upstream: int, workload: Workload) -> list[str]:
        """What starts it, to listen on `port` in front of the bench's upstream."""

    def takes(self, workload: Workload) -> bool:
        return True

    def refused(self, code: int | None) -> Exception:
        """What to make of it that it ended, or did not answer (None), instead of starting."""
        return BenchError(f"{self.name} did not start:\n{self.said()}")

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
                raise self.refused(code)
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

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def _answers(self, url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


class Nginx(Child):
    """The yardstick: one worker that passes on every read, connections to the upstream kept."""

    name = "nginx"
    about = "one worker, proxy_buffering off, no access log, connections to the upstream kept"

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
    """As it is out of the box: keys are checked, streams mended and metered."""

    name = "legato"
    about = "as it comes: keys checked, streams mended and metered, the ledger written"
    ready_path = "/readyz"

    def __init__(self, folder: Path, more: str = "") -> None:
        """`more`: further settings, TOML."""
        super().__init__(folder)
        self.more = more

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

    def refused(self, code: int | None) -> Exception:
        # 2: settings that it does not know. It says which on its last line.
        if code == 2:
            return LeftOut(" ".join(self.said().split())[-300:])
        return super().refused(code)

    def create_key(self) -> None:
        """Makes the database and a key in it, once."""
        if self.key == "none":
            self.key = self._create_key()

    def _create_key(self) -> str:
        create = ("keys", "create", "bench", "--json", "--data", str(self.folder))
        made = subprocess.run(
            [sys.executable, "-m", "legato", *create],
            capture_output=True,
            text=True,
            env=environment(),
            cwd=self.folder,
            timeout=READY,
        )
        if made.returncode:
            raise BenchError(f"legato made no key:\n{made.stderr[-2000:]}")
        return json.loads(made.stdout)["key"]


def nginx() -> str | None:
    """Where nginx is; Debian keeps it where a user's PATH does not look."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def environment() -> dict[str, str]:
    """Ours, without what would change Legato's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LEGATO_")}
