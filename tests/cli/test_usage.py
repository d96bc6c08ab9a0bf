"""`legato usage` at terminals of several widths: rows stay on one line and under their headings. A
function of this process, since it is called so often."""

import asyncio
import csv
import itertools
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.cells import cell_len

from legato.cli import usage, usage_tables
from legato.policy.ledger import Row
from legato.store import ledger
from legato.store.database import Database
from legato.store.ledger import Writer
from legato.store.retention import delete_batch
from tests.cli.test_cli import cli
from tests.cli.test_keys import Cli

SINCE = ("usage", "--since", "4000w")
RECEIVED = 1_795_000_000.0
LONG = "company/production-assistant-with-a-long-name-v2"
SESSION = "3fa1c2d4-5b6e-7f80-9a1b-2c3d4e5f6071"
DEPLOYMENTS = [(f"a-deployment-with-a-long-name-{number}", "upstream_500") for number in range(3)]

NUMBERS = ("prompt", "completion", "TTFT")
ALWAYS = ("received", "route", *NUMBERS)

FIELDS = Row.__struct_fields__

KINDS = ("prompt", "completion", "reasoning", "cached", "cache_write")

#: What `--by` groups the rows below by.
VALUES: dict[str, set[str | None]] = {
    "route": {LONG, "smart", None},
    "key": {"key_0123456789abcdef", None},
    "outcome": {"complete", "cancelled", "failed"},
    "front": {"chat", "messages"},
    "session": {SESSION, None},
    "agent": {"claude-code/2.1.197", None},
    "owner": {"team", None},
    "deployment": {"last", None},
    "day": {"2026-11-18"},
}


def rows(*, errors: bool, costs: bool, writes: int = 0) -> list[Row]:
    complete = Row("complete", RECEIVED, key="key_0123456789abcdef", route=LONG, outcome="complete")
    complete.prompt_tokens, complete.prompt_from = 1_048_576, "exact"
    complete.completion_tokens, complete.completion_from = 128_000, "exact"
    complete.reasoning_tokens, complete.reasoning_from = 24_576, "counted"
    complete.ttft, complete.duration = 118.321, 3599.123
    complete.cache_write_tokens = writes
    complete.front, complete.agent = "messages", "claude-code/2.1.197"
    complete.session, complete.owner = SESSION, "team"
    complete.record_attempts([*DEPLOYMENTS, ("last", "")])
    cancelled = Row("cancelled", RECEIVED + 1, route="smart", outcome="cancelled")
    cancelled.prompt_tokens, cancelled.prompt_from = 131_072, "partial"
    cancelled.completion_tokens, cancelled.completion_from = 4_096, "counted"
    cancelled.ttft, cancelled.duration = 0.213, 12.5
    failed = Row("failed", RECEIVED + 2, outcome="refused")
    if errors:
        failed.outcome, failed.error = "failed", "upstream_first_token_timeout"
    if costs:
        complete.cost, cancelled.cost = 1043.2, 0.000213
    return [complete, cancelled, failed]


async def shown(
    folder: Path, width: int, *words: str, errors: bool = True, costs: bool = True, writes: int = 0
) -> list[str]:
    """The lines that `legato usage` prints at a terminal of this width."""
    database = await Database.open(folder)
    writer = Writer(database, lambda error: pytest.fail(str(error)))
    for row in rows(errors=errors, costs=costs, writes=writes):
        writer.put(row.id, row)
    await writer.stop()
    await database.close()
    code, out, err = await asyncio.to_thread(Cli(folder).run, *SINCE, *words, width=width)
    assert (code, err) == (0, "")
    return out.splitlines()


def table_of(lines: list[str]) -> list[list[str]]:
    """The cells of a table, by the positions of its headings; fails if a cell is not under its
    heading. Numbers are aligned with the end of their heading, other cells with its start."""
    numbers = ("prompt", "completion", "reasoning", "cached", "written", "TTFT", "seconds", "cost")
    numbers += ("calls", "share")
    table = lines[: lines.index("")] if "" in lines else lines
    # A column ends where all lines have a space: before the next heading, or at its own end.
    blank = [
        position
        for position in range(max(map(len, table)) + 1)
        if all(line[position : position + 1] in ("", " ") for line in table)
    ]
    ends = [0]
    for heading in re.finditer(r"of \S+|\S+", table[0]):
        if heading[0] in numbers:
            ends.append(heading.end())
        else:
            following = re.search(r"\S", table[0][heading.end() :])
            limit = heading.end() + following.start() if following else max(blank) + 1
            ends.append(max(each for each in blank if each < limit))
    assert set(ends[1:]) <= set(blank), "a cell is not under its heading"
    return [[line[start:end].strip() for start, end in itertools.pairwise(ends)] for line in table]


@pytest.mark.parametrize("errors", [True, False])
@pytest.mark.parametrize("costs", [True, False])
@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
async def test_calls(tmp_path: Path, width: int, costs: bool, errors: bool) -> None:
    lines = await shown(tmp_path, width, errors=errors, costs=costs)
    assert all(cell_len(line) <= width for line in lines)
    heading, *calls = table_of(lines)
    assert [name for name in ALWAYS if name not in heading] == []
    assert len(calls) == 3, "each call is on one line"
    by_name = [dict(zip(heading, call, strict=True)) for call in calls]
    for call in by_name:
        assert re.fullmatch(r"\d\d-\d\d \d\d:\d\d:\d\d", call["received"])
    assert [[call[name] for name in NUMBERS] for call in by_name] == [
        ["1048576", "128000", "118.321"],
        ["131072+", "~4096", "0.213"],
        ["-", "-", "-"],
    ]
    route = by_name[0]["route"]
    assert route == LONG or (route.endswith("…") and LONG.startswith(route[:-1]))
    assert len(route) >= 8
    assert by_name[1]["route"][:5] == "smart"
    if "error" in heading:
        assert errors
        assert by_name[2]["error"][:11] == "upstream_fi"
    if "cost" in heading:
        assert costs
        assert [call["cost"] for call in by_name] == ["$1043.20", "$0.000213", "-"]


COLUMNS = {
    # (width, errors, costs): the columns beside those that are always shown
    (50, True, True): [],
    (60, True, True): ["outcome"],
    (60, False, False): ["outcome"],
    (80, True, True): ["outcome", "error"],
    (80, False, True): ["outcome", "seconds", "cost"],
    (80, False, False): ["outcome", "reasoning", "seconds"],
    (100, True, True): ["outcome", "error", "seconds", "cost"],
    (100, False, True): ["outcome", "reasoning", "seconds", "cost"],
    (120, True, True): ["outcome", "error", "reasoning", "seconds", "cost"],
    (120, False, False): ["outcome", "reasoning", "seconds"],
}


@pytest.mark.parametrize(("width", "errors", "costs"), COLUMNS)
async def test_the_least_important_columns_are_left_out_first(
    tmp_path: Path, width: int, errors: bool, costs: bool
) -> None:
    lines = await shown(tmp_path, width, errors=errors, costs=costs)
    found = [name for name in lines[0].split() if name not in ALWAYS]
    assert found == COLUMNS[width, errors, costs]


async def test_the_marks_are_explained(tmp_path: Path) -> None:
    lines = await shown(tmp_path, 80)
    assert lines[-3] == "~: counted, not reported by the upstream; +: at least"
    assert lines[-1] == "3 calls: 1 cancelled, 1 complete, 1 failed"


GROUPS = [(80, by) for by in VALUES] + [(width, "route") for width in (60, 100, 120)]


@pytest.mark.parametrize(("width", "by"), GROUPS)
async def test_totals(tmp_path: Path, width: int, by: str) -> None:
    lines = await shown(tmp_path, width, "--by", by)
    assert all(cell_len(line) <= width for line in lines)
    heading, *groups = table_of(lines)
    assert heading[0] == by
    more = ["reasoning", "cached"] if width >= 80 else []
    bars = ["of cost"] if width >= 80 else []
    assert heading[1:] == ["calls", "prompt", "completion", *more, "cost", "share", *bars]
    total = dict(zip(heading, groups[-1], strict=True))
    assert total[by] == "all"
    assert (total["calls"], total["prompt"], total["completion"]) == ("3", "1179648", "132096")
    assert total["cost"] == "$1043.20"
    assert sum(int(group[heading.index("calls")]) for group in groups[:-1]) == 3


@pytest.mark.parametrize(
    ("width", "shown_columns"),
    [
        (50, []),
        (60, []),
        (80, ["reasoning", "cached"]),
        (120, ["reasoning", "cached", "written"]),
    ],
)
async def test_what_was_written_to_a_cache_is_shown_where_there_is_any(
    tmp_path: Path, width: int, shown_columns: list[str]
) -> None:
    lines = await shown(tmp_path, width, "--by", "agent", writes=20_000)
    assert all(cell_len(line) <= width for line in lines)
    heading, *groups = table_of(lines)
    shares = [name for name, least in (("share", 60), ("of cost", 80)) if width >= least]
    assert heading == ["agent", "calls", "prompt", "completion", *shown_columns, "cost", *shares]
    if "written" in heading:
        assert [group[heading.index("written")] for group in groups] == ["20000", "0", "20000"]
    if width >= 120:
        assert [group[0] for group in groups] == ["claude-code/2.1.197", "-", "all"]


@pytest.mark.parametrize("by", ["session", "deployment", "day"])
async def test_totals_as_json(tmp_path: Path, by: str) -> None:
    (line,) = await shown(tmp_path, 80, "--by", by, "--json", writes=20_000)
    report = json.loads(line)
    names = {"calls", *(f"{kind}_tokens" for kind in KINDS), "cost"}
    assert set(report["total"]) == names
    assert all(set(row) == {by, *names} for row in report["rows"])
    assert report["total"]["cache_write_tokens"] == 20_000
    values = {row[by]: row["calls"] for row in report["rows"]}
    assert sum(values.values()) == 3
    assert set(values) == VALUES[by]


async def test_calls_as_json_have_every_column(tmp_path: Path) -> None:
    (line,) = await shown(tmp_path, 80, "--json")
    report = json.loads(line)
    assert list(report) == ["total", "outcomes", "rows"]
    for row in report["rows"]:
        assert list(row) == list(Row.__struct_fields__)


def test_what_can_be_grouped_by_is_what_the_ledger_knows() -> None:
    assert [each.value for each in usage.By] == list(get_args(ledger.By))


async def test_totals_as_csv(tmp_path: Path) -> None:
    lines = await shown(tmp_path, 80, "--by", "route", "--csv")
    tokens = "prompt_tokens,completion_tokens,reasoning_tokens,cached_tokens,cache_write_tokens"
    assert lines == [
        f"route,calls,{tokens},cost",
        ",1,0,0,0,0,0,",
        f"{LONG},1,1048576,128000,24576,0,0,1043.2",
        "smart,1,131072,4096,0,0,0,0.000213",
    ]


async def test_calls_as_csv_have_every_column(tmp_path: Path) -> None:
    heading, *calls = csv.DictReader(await shown(tmp_path, 80, "--csv"), list(FIELDS))
    assert list(heading.values()) == list(FIELDS)
    assert [call["id"] for call in calls] == ["complete", "cancelled", "failed"]
    assert calls[0]["deployments"] == ",".join([name for name, _ in [*DEPLOYMENTS, ("last", "")]])
    assert (calls[0]["cost"], calls[0]["streamed"], calls[2]["cost"]) == ("1043.2", "false", "")


CELLS = {
    "=1+1": "'=1+1",
    "+1": "'+1",
    "-1": "'-1",
    "@SUM(A1)": "'@SUM(A1)",
    "\t=1": "'\t=1",
    "\r=1": "'=1",
    "\x1b=1": "'=1",
    "＝1": "'＝1",  # noqa: RUF001
    "a=1": "a=1",
    "\x1b[31mred": "[31mred",
    "": "",
}


@pytest.mark.parametrize("text", CELLS)
def test_a_cell_is_no_formula(text: str) -> None:
    assert usage.cell(text) == CELLS[text]


@pytest.mark.parametrize("value", [None, 0, -1, 0.25])
def test_a_number_stays_one(value: Any) -> None:
    assert usage.cell(value) is value


@pytest.mark.parametrize("words", [(), ("--by", "route"), ("--csv",), ("--json",)])
async def test_calls_whose_rows_are_deleted_are_told_apart(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    await shown(tmp_path, 80)
    database = await Database.open(tmp_path)
    assert await delete_batch(database, RECEIVED + 2) == 2
    await database.close()
    _, out, err = await cli(*SINCE, *words, "--data", str(tmp_path), COLUMNS="80")
    sums = {"calls": 2, "prompt_tokens": 1_179_648, "completion_tokens": 132_096}
    if "--json" in words:
        report = json.loads(out)
        assert report["total"]["calls"] == 1
        day = {"from": "2026-11-18", "to": "2026-11-18"}
        assert report["deleted"] == day | sums | {"cost": pytest.approx(1043.200213)}
        return
    said = (
        "Not in these numbers, since retention_days has deleted their rows: 2 calls on 2026-11-18"
        " (UTC), 1179648 prompt and 132096 completion tokens, $1043.20"
    )
    if "--csv" in words:
        assert (len(out.splitlines()), err) == (2, f"legato: {said}\n")
    else:
        assert out.splitlines()[-1] == said
        assert "1 calls: 1 failed" in out.splitlines()
    _, out, err = await cli("usage", "--since", "1h", *words, "--data", str(tmp_path))
    assert "retention_days" not in out + err, "they are not of this period"


async def test_json_and_csv_exclude_each_other() -> None:
    code, out, err = await cli("usage", "--json", "--csv")
    assert (code, out, err) == (2, "", "legato: choose one of --json and --csv\n")


def group(name: str, tokens: int, cost: float | None = None) -> dict[str, Any]:
    numbers = {f"{kind}_tokens": 0 for kind in KINDS} | {"prompt_tokens": tokens}
    return {"calls": 1, **numbers, "cost": cost, "key": name, "day": name}


def printed(
    rows: list[dict[str, Any]], by: str, capsys: pytest.CaptureFixture[str]
) -> list[list[str]]:
    """The words of each line of a table."""
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    total = group("", sum(row["prompt_tokens"] for row in rows)) | {"calls": len(rows)}
    total["cost"] = sum(costs) if costs else None
    report = {"total": total, "outcomes": {"complete": len(rows)}, "rows": rows, "deleted": None}
    usage_tables.print_groups(report, by, "7d", {"key_1": "production"})
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_largest_share_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [group("key_0", 0), group("key_1", 75), group("key_2", 25)]
    heading, *groups, total, _, calls, period = printed(rows, "key", capsys)
    assert heading[-3:] == ["share", "of", "tokens"]
    assert [each[0] for each in groups] == ["production", "key_2", "key_0"]
    assert groups[0][-2:] == ["75%", "██████"]
    assert groups[1][-2:] == ["25%", "██"]
    assert groups[2][-1] == "0%"
    assert total[-2:] == ["100%", "████████"]
    assert calls == ["3", "calls:", "3", "complete"]
    assert period == ["In", "the", "last", "7d"]


def test_shares_are_of_cost_where_there_is_any(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [group("a", 99), group("b", 1, 1000.0), group("c", 1, 0.001)]
    _, *groups = printed(rows, "key", capsys)
    found = {each[0]: each[-3:] for each in groups if each}
    assert found["b"] == ["$1000.00", "100%", "████████"]
    assert found["c"] == ["<$0.01", "<1%", "▏"]
    assert found["a"][1:] == ["-", "0%"]


@pytest.mark.parametrize(("by", "label", "at"), [("key", "60 others", -1), ("day", "60 before", 0)])
def test_many_groups_are_added_up(
    by: str, label: str, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [group(f"{number:03}", 100 - number * (by == "key")) for number in range(100)]
    lines = printed(rows, by, capsys)
    assert lines[-1][4:] == (["by", "days", "in", "UTC"] if by == "day" else [])
    groups = lines[1 : lines.index([]) - 1]
    assert len(groups) == usage_tables.MAX_GROUPS + 1
    assert " ".join(groups[at][:3]) == f"{label} 60"
    assert sum(int(each[2 if each is groups[at] else 1]) for each in groups) == 100
    first = groups[1 if by == "day" else 0][0]
    assert first == ("060" if by == "day" else "000")
