"""The engine's child process: llama.cpp's own HTTP server, and nothing else.

Told what to do in one line of JSON on standard input (so that the key stands in no command line and
no environment), answers with one line of JSON on standard output, and ends when its parent does,
however the parent ends: the kernel is asked to see to it, and standard input closes.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
from typing import Any


def _end_with_parent(parent: int) -> None:
    """The thread below cannot run while a model loads (the load holds the GIL); the kernel can."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _watch_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def llama() -> Any:
    """The extension module; it comes without types."""
    return importlib.import_module("xllamacpp")


def _parameters(wanted: dict[str, Any]) -> Any:
    parameters = llama().CommonParams()
    for name, value in wanted.items():
        owner = parameters
        *path, last = name.split(".")
        for step in path:
            owner = getattr(owner, step)
        setattr(owner, last, value)
    return parameters


def main() -> None:
    wanted = json.loads(sys.stdin.readline())
    _end_with_parent(wanted.pop("parent"))
    threading.Thread(target=_watch_parent, daemon=True).start()
    try:
        server = llama().Server(_parameters(wanted))
    except (RuntimeError, ValueError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        os._exit(1)
    print(json.dumps({"address": server.listening_address}), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
