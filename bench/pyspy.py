"""py-spy, which the extra `bench` installs."""

import shutil
import sys
from pathlib import Path

from bench.gateways import BenchError


def required() -> str:
    """The path of its program. Raises `BenchError` if it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise BenchError("py-spy is not installed: pip install '.[bench]'")
    return found
