"""The engine's child process: runs llama.cpp's HTTP server.

It reads its parameters as one line of JSON from standard input, so that the key is neither in a
command line nor in an environment, and writes its address as one line of JSON to standard output.
It exits when its parent does, even if that is killed: the kernel sends it a signal, and its
standard input closes.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
from typing import Any, Final

#: Tokens of a prompt in one prefill batch on the CPU. All other streams wait for the batch:
#: llama.cpp's default of 2,048 takes eight seconds on two cores.
PREFILL_BATCH: Final = 256


def _exit_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent dies. `_watch_stdin` alone is not enough:
    while a model loads, the GIL is held and no thread runs."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _watch_stdin() -> None:
    """Exits at the end of standard input: the parent is gone."""
    sys.stdin.read()
    os._exit(0)


def llama() -> Any:
    """The extension module; it has no type information."""
    return importlib.import_module("xllamacpp")


def _parameters(values: dict[str, Any]) -> Any:
    """llama.cpp's parameters. `values`: by name, with dots for nested ones."""
    parameters = llama().CommonParams()
    for name, value in values.items():
        owner = parameters
        *path, last = name.split(".")
        for attribute in path:
            owner = getattr(owner, attribute)
        setattr(owner, last, value)
    if parameters.n_gpu_layers == 0 or not _has_gpu():
        parameters.n_batch = PREFILL_BATCH
    return parameters


def _has_gpu() -> bool:
    kinds = llama().ggml_backend_dev_type
    gpus = (kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU)
    return any(device["type"] in gpus for device in llama().get_device_info())


def main() -> None:
    values = json.loads(sys.stdin.readline())
    _exit_with_parent(values.pop("parent"))
    threading.Thread(target=_watch_stdin, daemon=True).start()
    try:
        server = llama().Server(_parameters(values))
    except (RuntimeError, ValueError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        os._exit(1)
    print(json.dumps({"address": server.listening_address}), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
