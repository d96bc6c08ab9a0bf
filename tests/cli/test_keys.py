"""`legato keys` and `legato audit`, called as functions of this process: the commands are many."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from legato.cli import database as cli_database
from legato.cli.main import app
from legato.store.database import Database


class Cli:
    """Commands with one data folder. `run` gives (exit code, standard output, standard error)."""

    def __init__(self, folder: Path) -> None:
        self._data = ["--data", str(folder)]

    def run(self, *words: str, width: int = 200) -> tuple[int, str, str]:
        environment = {
            "COLUMNS": str(width),
            "NO_COLOR": "1",
            "TERM": "dumb",
            "LEGATO_CONFIG": None,
        }
        result = CliRunner().invoke(app, [*words, *self._data], env=environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    def json(self, *words: str) -> Any:
        code, out, err = self.run(*words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


OPTIONS = [
    *("--owner", "alice", "--tier", "free", "--rpm", "5", "--tpm", "1000", "--rpd", "50"),
    *("--concurrent", "2", "--max-tokens", "300", "--budget", "10usd/month", "--hard"),
    *("--routes", "smol*", "--routes", "a,b", "--expires", "30d", "--tag", "x=1", "--tag", "y"),
]
LIMITS = {
    "requests_per_minute": 5,
    "tokens_per_minute": 1000,
    "requests_per_day": 50,
    "concurrent": 2,
    "max_tokens": 300,
}


def test_all_options(cli: Cli) -> None:
    made = cli.json("keys", "create", "app", *OPTIONS)
    assert set(made) == {"id", "name", "key"}
    shown = cli.json("keys", "show", "app")
    assert shown["limits"] == LIMITS
    assert (shown["owner"], shown["tier"], shown["routes"]) == (
        "alice",
        "free",
        ["smol*", "a", "b"],
    )
    assert shown["budget"] == {
        "amount": 10.0,
        "unit": "usd",
        "period": "month",
        "action": "block",
        "hard": True,
    }
    assert shown["tags"] == ["x=1", "y"]
    assert shown["expires"] - shown["created"] == pytest.approx(30 * 86_400, abs=10)
    assert cli.json("keys", "list") == [shown] == cli.json("keys", "list", "--owner", "alice")
    assert cli.json("keys", "list", "--owner", "bob") == []
    code, out, _ = cli.run("keys", "show", made["id"])
    assert code == 0
    for each in ("alice", "requests per minute", "10usd/month (hard)", "smol*, a, b", "x=1, y"):
        assert each in out


def test_without_options_there_is_no_limit(cli: Cli) -> None:
    cli.json("keys", "create", "app")
    shown = cli.json("keys", "show", "app")
    assert set(shown["limits"].values()) == {None}
    assert (shown["tier"], shown["budget"], shown["expires"]) == (None, None, None)
    assert (shown["routes"], shown["status"]) == ([], "active")


def test_what_is_not_given_stays(cli: Cli) -> None:
    cli.json("keys", "create", "app", *OPTIONS)
    changed = cli.json(
        *("keys", "update", "app", "--name", "web", "--rpm", "none", "--tpm", "7", "--tier", ""),
        *("--budget", "none", "--routes", "", "--expires", "none", "--tag", ""),
    )
    limits = LIMITS | {"requests_per_minute": None, "tokens_per_minute": 7}
    assert (changed["name"], changed["limits"], changed["owner"]) == ("web", limits, "alice")
    assert (changed["tier"], changed["budget"], changed["expires"]) == (None, None, None)
    assert (changed["routes"], changed["tags"]) == ([], [])


WRONG = {
    ("--tier", "gold"): "--tier: `gold` is not one of basic, enterprise, free, pro; tiers are",
    ("--rpm", "x"): "--rpm: `x` must be a whole number from 1",
    ("--rpm", "0"): "--rpm: must be a whole number from 1",
    ("--concurrent", "-1"): "--concurrent: `-1` must be a whole number",
    ("--max-tokens", "9" * 16): "--max-tokens: must be a whole number",
    ("--budget", "10"): "--budget: the budget `10` has no unit: add `usd` or `tokens`",
    ("--budget", "9" * 30 + "usd"): "--budget: is too large",
    ("--hard",): "--hard: needs a budget",
    ("--warn",): "--warn: needs a budget",
    ("--budget", "1usd", "--hard", "--warn"): "--hard: a budget that cuts calls cannot only warn",
    ("--expires", "soon"): "--expires: `soon` is neither a time such as 12h, 30d or 4w nor a date",
    ("--expires", "2020-01-01"): "--expires: `2020-01-01` is past",
    ("--expires", "30y"): "--expires: `30y` is not a time such as",
    ("--expires", "999999w"): "--expires: must be a time before the year 10000",
    ("--owner", "a\nb"): "--owner: must have 1 to 200 characters on one line",
    ("--routes", "a b"): "--routes: must be names of models, or patterns",
    ("--tag", "a b"): "--tag: must have 1 to 100 letters",
    ("--role", "admin", "--rpm", "5"): "--role: an admin key makes no calls",
}


@pytest.mark.parametrize(
    "words",
    [
        ("create", "\udcff"),
        ("create", "app", "--owner", "\udcff"),
        ("show", "\udcff"),
        ("revoke", "\udcff"),
        ("list", "--owner", "\udcff"),
    ],
    ids=["name", "owner", "show", "revoke", "list"],
)
def test_bytes_that_are_no_text(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli.run("keys", *words) == (2, "", "legato: an argument is not UTF-8\n")


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_an_error_names_the_option(cli: Cli, words: tuple[str, ...]) -> None:
    code, out, err = cli.run("keys", "create", "app", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"legato: {WRONG[words]}")
    assert err.count("\n") == 1
    assert cli.json("keys", "list") == []


def test_a_table_has_the_last_keys(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("legato.cli.key_display.MAX_SHOWN", 2)
    for name in ("one", "two", "three"):
        cli.json("keys", "create", name)
    assert len(cli.json("keys", "list")) == 3
    _, out, _ = cli.run("keys", "list")
    assert [name in out for name in ("one ", "two ", "three ")] == [False, True, True]
    assert out.endswith("1 older keys are not shown; use --owner, or --json for all\n")


def test_a_tier_that_is_gone(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "legato.toml"
    file.write_text("[tiers.gold]\nconcurrent = 3\n")
    assert cli.run("keys", "create", "app", "--tier", "gold", "--config", str(file))[0] == 0
    wanted = "legato: the tier `gold` of 1 key is not in the settings: only limits of their own"
    for words in (("keys", "list"), ("keys", "show", "app")):
        assert cli.run(*words)[2].startswith(wanted)
        assert cli.run(*words, "--config", str(file))[2] == ""


def test_rotation_and_switches(cli: Cli) -> None:
    made = cli.json("keys", "create", "app")
    rotated = cli.json("keys", "rotate", "app", "--overlap", "1h")
    assert rotated["id"] == made["id"]
    assert rotated["key"] != made["key"]
    assert cli.json("keys", "show", "app")["previous_until"] is not None
    assert "The old one is good until" in cli.run("keys", "rotate", "app", "--overlap", "1h")[1]
    assert "old" not in cli.run("keys", "rotate", "app")[1]
    assert cli.run("keys", "disable", "app")[1] == f"disabled the key `app` ({made['id']})\n"
    assert cli.json("keys", "show", "app")["status"] == "disabled"
    assert cli.run("keys", "enable", "app")[0] == 0
    assert cli.json("keys", "show", "app")["status"] == "active"
    code, _, err = cli.run("keys", "rotate", "app", "--overlap", "53w")
    assert (code, err) == (2, "legato: --overlap: `53w` is more than a year\n")
    code, _, err = cli.run("keys", "rotate", "app", "--overlap", "long")
    assert code == 2
    assert err.startswith("legato: --overlap: `long` is not a time")


@pytest.mark.parametrize("command", ["rotate", "disable", "enable", "update"])
def test_which_key_is_meant(cli: Cli, command: str) -> None:
    more = ["--rpm", "5"] if command == "update" else []
    assert cli.run("keys", command, "app", *more) == (1, "", "legato: there is no key `app`\n")
    ids = [cli.json("keys", "create", "app")["id"] for _ in range(2)]
    code, _, err = cli.run("keys", command, "app", *more)
    assert (code, err) == (
        1,
        f"legato: 2 keys have the name `app`: use one of their ids: {', '.join(ids)}\n",
    )
    assert cli.run("keys", "revoke", ids[0])[0] == 0
    assert cli.run("keys", command, "app", *more)[0] == 0
    assert cli.run("keys", "revoke", "app")[1] == "revoked 1 key\n"
    code, _, err = cli.run("keys", command, ids[1], *more)
    assert (code, err) == (1, f"legato: the key `{ids[1]}` has been revoked\n")


def test_admin_keys(cli: Cli) -> None:
    made = cli.json("keys", "create", "ops", "--role", "viewer")
    assert made["key"].startswith("lga-")
    assert cli.json("keys", "rotate", "ops")["key"].startswith("lga-")
    assert cli.json("keys", "show", "ops")["role"] == "viewer"
    assert " viewer " in cli.run("keys", "list")[1]
    code, _, err = cli.run("keys", "update", "ops", "--tier", "free")
    assert code == 2
    assert err.startswith("legato: --role: an admin key makes no calls")


def test_the_audit_log(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "alice")
    made = cli.json("keys", "create", "app", "--tier", "free")
    cli.run("keys", "update", "app", "--tier", "pro")
    secrets = [made["key"], cli.json("keys", "rotate", "app")["key"]]
    cli.run("keys", "disable", "app")
    cli.run("keys", "revoke", "app")
    log = cli.json("audit")
    acts = ["create", "update", "rotate", "disable", "revoke"]
    assert [each["action"] for each in log] == acts
    assert {(each["actor"], each["subject"]) for each in log} == {("user:alice", made["id"])}
    assert (log[1]["before"], log[1]["after"]) == ({"tier": "free"}, {"tier": "pro"})
    assert cli.json("audit", "--since", "1h", "--key", made["id"]) == log
    assert cli.json("audit", "--key", "key_other") == []
    code, out, _ = cli.run("audit")
    assert code == 0
    assert "tier: free → pro" in out
    assert not [secret for secret in secrets if secret in out + json.dumps(log)]
    assert cli.run("audit", "--since", "x")[2].startswith("legato: --since: `x` is not a time")


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert cli_database.actor().name.startswith("user:")


def test_no_text_reaches_the_terminal_as_control(cli: Cli, tmp_path: Path) -> None:
    """A name that was stored by an earlier version, which took any."""
    from legato.store import keys

    async def add() -> None:
        database = await Database.open(tmp_path)
        await keys.add(database, "key_1", "\x1b[31mred\r\n", b"1" * 32, owner="\x07")
        await database.close()

    asyncio.run(add())
    for words in (("keys", "list"), ("keys", "show", "key_1"), ("keys", "disable", "key_1")):
        code, out, _ = cli.run(*words)
        assert code == 0
        assert not {"\x1b", "\r", "\x07"} & set(out)
