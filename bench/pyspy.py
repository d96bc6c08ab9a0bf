"""py-spy, installed into this environment when it is first asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def find() -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def install() -> str | None:
    """Where it is; None where it cannot be had."""
    if find() is None:
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "py-spy>=0.4,<1"],
            stdout=subprocess.DEVNULL,
            timeout=300,
        )
    return find()


if __name__ == "__main__":
    found = install()
    if found is None:
        sys.exit("py-spy cannot be installed: is there a network?")
    os.execv(found, [found, *sys.argv[1:]])
