"""Large files from elsewhere: a wheel by the environment's package client, a file of the hub."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

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
    for bundled in _bundled():
        yield [sys.executable, str(bundled / "pip")], "pip"


def _bundled() -> Iterator[Path]:
    """An environment without pip, as pipx and uv make them: Python itself carries one."""
    places = [sysconfig.get_config_var("WHEEL_PKG_DIR")]  # where a distribution keeps it instead
    ensurepip = importlib.util.find_spec("ensurepip")  # a package of its own on Debian
    if ensurepip is not None and ensurepip.origin is not None:
        places.append(str(Path(ensurepip.origin).parent / "_bundled"))
    for place in places:
        if place:
            yield from sorted(Path(place).glob("pip-*.whl"))


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
    problem = "neither pip nor uv is here"
    refused: set[str] = set()  # clients of one kind ask the same index
    for command, kind in clients():
        if kind in refused:
            continue
        for _ in range(ATTEMPTS):
            place = folder / "timers"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            if kind == "uv":
                # uv has no `download`: it installs aside, and that is put together again.
                arguments = [
                    "install",
                    "--no-deps",
                    "--no-cache",
                    "--python",
                    sys.executable,
                    "--target",
                    str(place),
                    wanted,
                ]
            else:
                arguments = [
                    "download",
                    "--no-deps",
                    "--no-cache-dir",
                    "--dest",
                    str(place),
                    wanted,
                ]
            failed = _watched([*command, *arguments], folder, progress(package, size))
            found = sorted(place.glob("*.whl"))
            if failed is None and found:
                return found[0]
            if failed is None and kind == "uv":
                return _packed(place, folder / "unpacked.zip")
            problem = failed or "the package client brought nothing"
            if "No matching distribution" in problem:
                refused.add(kind)
                break
    raise FetchError(problem)


def _packed(place: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as out:  # as they are: packing model weights gains little
        for path in sorted(place.rglob("*")):
            out.write(path, path.relative_to(place))
    return archive


def _watched(command: list[str], folder: Path, progress: Progress) -> str | None:
    """Runs a package client and watches the bytes arrive; its own words only where it fails."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryFile() as words:
        child = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words,
        )
        try:
            while child.poll() is None:
                progress.at(_size(folder))
                time.sleep(0.1)
            progress.at(_size(folder))
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            progress.close()
        words.seek(0)
        said = words.read().decode(errors="replace")
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


def from_hub(
    name: str,
    target: Path,
    progress: Callable[[str, int], Progress],
    check: Callable[[Path], None] = lambda part: None,
) -> None:
    """A file of the model hub (`owner/repository/path`), gone on with where it broke off.

    The hub is Hugging Face's, or the mirror that `HF_ENDPOINT` names. What came goes through
    `check` before it gets its name. Raises `FetchError`.
    """
    import httpx

    owner, repository, path = name.split("/", 2)
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{hub}/{quote(owner)}/{quote(repository)}/resolve/main/{quote(path)}"
    part = target.with_name(target.name + ".part")
    problem = "what it sends does not go on from what is here"
    for _ in range(ATTEMPTS):
        try:
            if not _go_on(httpx.Client(follow_redirects=True, timeout=30), url, part, progress):
                continue
            check(part)
            part.replace(target)
            return
        except httpx.HTTPStatusError as error:
            raise FetchError(
                f"the model hub answered {error.response.status_code} for {name}"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = str(error)
    raise FetchError(
        f"the model hub cannot be reached ({problem}): connect this machine to it, or name a "
        "mirror in HF_ENDPOINT"
    )


def _go_on(
    client: "object", url: str, part: Path, progress: Callable[[str, int], Progress]
) -> bool:
    """Whether all of the file is here now; False where what was here is of no use, and is gone."""
    import httpx

    assert isinstance(client, httpx.Client)
    have = part.stat().st_size if part.exists() else 0
    token = os.environ.get("HF_TOKEN")
    # A range counts bytes as they are sent: nothing may pack them on the way.
    headers = {"accept-encoding": "identity"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    if have:
        headers["range"] = f"bytes={have}-"
    with client, client.stream("GET", url, headers=headers) as answer:
        if have and answer.status_code == 416:  # all of it is here already, or more than all
            whole = answer.headers.get("content-range", "").rpartition("/")[2]
            if whole != str(have):
                part.unlink()
            return whole == str(have)
        answer.raise_for_status()
        if answer.status_code != 206:
            have = 0
        total = have + int(answer.headers.get("content-length", 0))
        shown = progress(part.name.removesuffix(".part"), total)
        try:
            with part.open("ab" if have else "wb") as out:
                for piece in answer.iter_bytes():
                    out.write(piece)
                    have += len(piece)
                    shown.at(have)
        finally:
            shown.close()
    return True
