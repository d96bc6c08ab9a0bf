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
from typing import Any, Final

#: Tokens of a prompt that are read at a time where no graphics card does it. All other streams wait
#: meanwhile: llama.cpp's own 2,048 are eight seconds of two cores.
PIECE: Final = 256


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
    if parameters.n_gpu_layers == 0 or not _has_graphics_card():
        parameters.n_batch = PIECE
    return parameters


def _has_graphics_card() -> bool:
    kinds = llama().ggml_backend_dev_type
    found = [device["type"] for device in llama().get_device_info()]
    return any(
        kind in (kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU)
        for kind in found
    )


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
