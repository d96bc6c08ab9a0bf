"""The bench works: every workload runs, small, and no stream of it fails."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_smoke_run_measures_every_workload_without_a_failed_stream(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench", "--smoke", "--json", str(file)]
    if not (shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")):
        command.append("--no-nginx")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    workloads = json.loads(file.read_text())["workloads"]
    assert set(workloads) == {"W1", "W2", "W3", "W7"}
    for gateways in workloads.values():
        assert {"direct", "legato"} <= set(gateways)
        for of in gateways.values():
            assert of["failed"] == 0, of["failures"]
            assert of["median"]["chunks"] > 0
        assert gateways["legato"]["median"]["cpu_us_per_chunk"] > 0
