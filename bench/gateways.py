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
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from bench import proc

#: Seconds that a gateway may take to answer, and to end.
READY: Final = 30.0
END: Final = 10.0


class Gateway(Protocol):
    """One row of a comparison. Started anew for every workload of every round."""

    name: str
    url: str
    """OpenAI's base URL, `/v1` included."""
    key: str
    start_seconds: float | None
    """From start to ready, where it was ours to start."""

    def start(self, upstream: int, cpu: int) -> None:
        """Comes back when it answers. `upstream` is the upstream's port."""

    def pids(self) -> list[int]: ...
    def stop(self) -> None: ...


class BenchError(Exception):
    """What keeps the bench from measuring, in a sentence."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Direct:
    """No gateway: what the upstream and the clients themselves take."""

    name = "direct"
    key = "none"
    start_seconds: float | None = None

    def __init__(self) -> None:
        self.url = ""

    def start(self, upstream: int, cpu: int) -> None:
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
    start_seconds: float | None = None

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        if not self.url.endswith("/v1"):
            self.url += "/v1"
        self.key = key
        self._port = urlsplit(url).port or 80

    def start(self, upstream: int, cpu: int) -> None:
        pass

    def pids(self) -> list[int]:
        return sorted({pid for each in proc.listeners(self._port) for pid in proc.tree(each)})

    def stop(self) -> None:
        pass


class Child(ABC):
    """A gateway that is a child process, with a folder for what it writes."""

    name = "child"
    ready_path = "/"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.folder.mkdir()
        self.key = "none"
        self.url = ""
        self.start_seconds: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, port: int, upstream: int) -> list[str]:
        """What starts it, to listen on `port` in front of the bench's upstream."""

    def start(self, upstream: int, cpu: int) -> None:
        port = free_port()
        command = self.command(port, upstream)
        self.url = f"http://127.0.0.1:{port}/v1"
        began = time.monotonic()
        with (self.folder / "log").open("wb") as log, proc.pinned(cpu):
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
            )
        while not self._answers(f"http://127.0.0.1:{port}{self.ready_path}"):
            if self._process.poll() is not None or time.monotonic() - began > READY:
                self.stop()
                raise BenchError(f"{self.name} did not start:\n{self.said()}")
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

    def command(self, port: int, upstream: int) -> list[str]:
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
    ready_path = "/readyz"
    more = ""
    """Further settings, TOML."""

    def command(self, port: int, upstream: int) -> list[str]:
        if self.key == "none":
            self.key = self._create_key()
        config = self.folder / "legato.toml"
        config.write_text(f"""
[[deployments]]
name = "bench"
model = "bench"
base_url = "http://127.0.0.1:{upstream}/v1"
{self.more}
""")
        return [
            *(sys.executable, "-m", "legato", "serve", "--config", str(config)),
            *("--data", str(self.folder), "--port", str(port)),
        ]

    def _create_key(self) -> str:
        create = ("keys", "create", "bench", "--json", "--data", str(self.folder))
        made = subprocess.run(
            [sys.executable, "-m", "legato", *create],
            capture_output=True,
            text=True,
            env=environment(),
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
