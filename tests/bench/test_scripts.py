"""scripts/setup on machines without what it needs: it changes nothing outside the checkout."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "cat", "dirname", "env", "flock", "ls", "mkdir", "mv", "paste", "rm", "sed")
TOOLS += ("sha256sum", "shasum", "sort", "tail", "tr")

#: An interpreter that is new enough and can do nothing.
PYTHON = """#!/usr/bin/env bash
case "$*" in
*_base_executable*) printf '%s\\n' "$0" ;;
*version_info\\[*) printf '3.14\\n' ;;
*) exit 1 ;;
esac
"""
#: The same of Debian: it makes environments, but without pip.
WITHOUT_PIP = PYTHON.replace("*) exit 1", "*--without-pip*) exit 0 ;;\n*) exit 1")

#: A program that notes how it was called, and does nothing.
CALLED = """#!/usr/bin/env bash
printf '%s\\n' "${0##*/} $*" >>"$(dirname "$0")/../called"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in TOOLS:
        path = shutil.which(tool)
        if path:
            (programs / tool).symlink_to(path)
    for name in ("apt-get", "dpkg-deb", "sudo"):
        (programs / name).write_text(CALLED)
        (programs / name).chmod(0o755)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def setup(checkout: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(checkout / "bin"), "HOME": str(checkout)}
    command = [str(checkout / "scripts" / "setup")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_without_python(checkout: Path) -> None:
    done = setup(checkout)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr
    assert not (checkout / "called").exists()


def test_without_ensurepip_pip_and_uv(checkout: Path) -> None:
    python = checkout / "bin" / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    done = setup(checkout)
    assert done.returncode == 1
    assert f"{python} has no ensurepip, and there is neither pip nor uv" in done.stderr
    assert "apt-get install python3.14-venv" in done.stderr
    assert not (checkout / "called").exists()
    assert not (checkout / ".venv" / ".stamp").exists()


def test_debians_pip_is_unpacked_into_the_environment_and_not_installed(checkout: Path) -> None:
    python = checkout / "bin" / "python3"
    python.write_text(WITHOUT_PIP)
    python.chmod(0o755)
    assert setup(checkout).returncode == 1
    folder = checkout / ".venv" / ".apt"
    apt = f"apt-get -o Dir::State::lists={folder}/lists -o Dir::Cache={folder}/cache"
    assert (checkout / "called").read_text().splitlines() == [
        f"{apt} update",
        f"{apt} download python3-pip-whl",
        f"dpkg-deb -x {folder}/python3-pip-whl_*.deb {folder}/unpacked",
    ]


@pytest.mark.parametrize("script", ["check", "serve", "setup", "test"])
def test_no_script_but_the_bench_installs_system_packages(script: str) -> None:
    """Messages may name it."""
    lines = (ROOT / "scripts" / script).read_text().splitlines()
    code = [line.strip() for line in lines if not line.lstrip().startswith(("#", '"'))]
    assert not [line for line in code if "policy-rc.d" in line or "apt-get install" in line]
