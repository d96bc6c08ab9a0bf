"""Other gateways, each in a virtual environment of its own, configured to do as little as they can.

Only `--peers` uses them. The environments are kept in the platform's cache folder, under names with
the version.
"""

import secrets
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, Final, Protocol

import platformdirs

from bench.gateways import Child, Gateway, LeftOut, environment, free_port
from bench.workloads import Workload

#: Seconds that an installation may take.
INSTALL: Final = 1800.0

#: The workloads that all of them can run.
WORKLOADS: Final = ("W1", "W2", "W3", "W7")


class Peer(Child):
    """A gateway from PyPI: `program` of `package`."""

    package: ClassVar[str]
    program: ClassVar[str]
    version: ClassVar[str]
    ready_seconds = 120.0

    @property
    def environment(self) -> Path:
        return Path(platformdirs.user_cache_dir("legato-bench")) / f"{self.name}-{self.version}"

    @property
    def executable(self) -> str:
        return str(self.environment / "bin" / self.program)

    def takes(self, workload: Workload) -> bool:
        return workload.name in WORKLOADS

    def start_error(self, code: int | None) -> Exception:
        how = "did not answer" if code is None else f"ended with status {code}"
        return LeftOut(f"it {how}: {' '.join(self.log_end().split())[-300:]}")

    def install(self) -> None:
        """Installs it unless it is installed. Raises `LeftOut`."""
        mark = self.environment / ".installed"
        if mark.exists():
            return
        shutil.rmtree(self.environment, ignore_errors=True)
        self.environment.parent.mkdir(parents=True, exist_ok=True)
        steps = (
            [sys.executable, "-m", "venv", str(self.environment)],
            [
                *(str(self.environment / "bin" / "python"), "-m", "pip", "install", "-q"),
                *("--disable-pip-version-check", f"{self.package}=={self.version}"),
            ],
        )
        for step in steps:
            try:
                done = subprocess.run(
                    step, capture_output=True, text=True, env=environment(), timeout=INSTALL
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise LeftOut(f"it could not be installed: {error}") from None
            if done.returncode:
                lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
                raise LeftOut(f"it could not be installed: {lines[-1]}")
        mark.touch()


class Smg(Peer):
    name = "smg"
    package, program, version = "smg", "smg", "1.13.0"
    about = (
        "SGLang's model gateway 1.13.0 (Rust): round robin, only errors logged, no health checks,"
        " no load monitoring, no history, no request limit, no key"
    )
    ready_path = "/readiness"

    def command(self, port: int, upstream: int, workload: Workload) -> list[str]:
        return [
            *(self.executable, "launch", "--host", "127.0.0.1", "--port", str(port)),
            *("--worker-urls", f"http://127.0.0.1:{upstream}", "--backend", "openai"),
            *("--policy", "round_robin", "--log-level", "error", "--history-backend", "none"),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
            *("--max-concurrent-requests", "0", "--upstream-pool-idle-timeout-secs", "0"),
            *("--disable-health-check", "--disable-load-monitoring", "--sse-keepalive-secs", "0"),
        ]


class VllmRouter(Peer):
    name = "vllm-router"
    package, program, version = "vllm-router", "vllm-router", "0.1.17"
    about = "vLLM's router 0.1.17 (Rust): round robin, only errors logged, no key"
    ready_path = "/readiness"

    def command(self, port: int, upstream: int, workload: Workload) -> list[str]:
        return [
            *(self.executable, "--host", "127.0.0.1", "--port", str(port)),
            *("--worker-urls", f"http://127.0.0.1:{upstream}", "--policy", "round_robin"),
            *("--log-level", "error", "--prometheus-port", str(free_port())),
            *("--worker-startup-check-interval", "1"),
        ]


class Ferrogw(Peer):
    name = "ferrogw"
    package, program, version = "ferrogw", "ferrogw", "1.5.10"
    about = (
        "Ferro Labs' AI gateway 1.5.10 (Go): one target, only errors logged, no plugins, no"
        " downloaded model catalogue, no request limit, no key; it knows models by name, so the"
        " clients request gpt-4o-mini"
    )
    ready_path = "/readyz"
    model = "gpt-4o-mini"

    def command(self, port: int, upstream: int, workload: Workload) -> list[str]:
        config = self.folder / "config.yaml"
        config.write_text("strategy: {mode: single}\ntargets: [{virtual_key: openai}]\n")
        self.variables = {
            "PORT": str(port),
            "GATEWAY_CONFIG": str(config),
            "MASTER_KEY": secrets.token_hex(16),
            "ALLOW_UNAUTHENTICATED_PROXY": "true",
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream}/v1",
            "LOG_LEVEL": "error",
            "FERRO_MODEL_CATALOG_TIMEOUT": "0",
            "RATE_LIMIT_RPS": "1000000",
            "RATE_LIMIT_BURST": "1000000",
        }
        return [self.executable, "serve"]


class LiteLlm(Peer):
    name = "litellm"
    package, program, version = "litellm[proxy]", "litellm", "1.106.2"
    about = (
        "LiteLLM's proxy 1.106.2 (Python): one worker, only errors logged, no telemetry, no"
        " database, its local price list, the master key as key"
    )
    ready_path = "/health/readiness"
    ready_seconds = 180.0

    def command(self, port: int, upstream: int, workload: Workload) -> list[str]:
        self.key = f"sk-{secrets.token_hex(32)}"
        config = self.folder / "config.yaml"
        base = f"http://127.0.0.1:{upstream}/v1"
        config.write_text(f"""
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "{base}", api_key: none}}
litellm_settings: {{telemetry: false, request_timeout: 600}}
""")
        self.variables = {
            "LITELLM_MASTER_KEY": self.key,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
        }
        return [
            *(self.executable, "--config", str(config), "--host", "127.0.0.1"),
            *("--port", str(port), "--num_workers", "1", "--telemetry", "False"),
        ]


ALL: Final[tuple[type[Peer], ...]] = (Smg, VllmRouter, Ferrogw, LiteLlm)
NAMES: Final = tuple(each.name for each in ALL)


class Report(Protocol):
    configured: dict[str, str]

    def leave_out(self, where: str, reason: LeftOut) -> None: ...
    def progress(self, text: str) -> None: ...


def summary() -> str:
    return ", ".join(f"{each.package} {each.version}" for each in ALL)


def installed(folder: Path, names: Collection[str], report: Report) -> list[Gateway]:
    """Those of `names` that can be installed; the report gets the reason for each other one."""
    found: list[Gateway] = []
    for kind in ALL:
        if kind.name not in names:
            continue
        peer = kind(folder)
        report.progress(f"installing {peer.name} {peer.version} if it is missing ...")
        try:
            peer.install()
        except LeftOut as reason:
            report.configured[peer.name] = peer.about
            report.leave_out(peer.name, reason)
        else:
            found.append(peer)
    return found
