"""How much memory a server takes."""

from pathlib import Path

from tests.support.server_process import ServerProcess


def resident_mb(server: ServerProcess) -> float:
    assert server.child is not None
    status = Path(f"/proc/{server.child.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
