"""`legato usage` at terminals of several widths: rows stay on one line and under their headings."""

import itertools
import json
import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from legato.policy.ledger import Row
from legato.store.database import Database
from legato.store.ledger import Writer
from tests.cli.test_cli import cli

SINCE = ("usage", "--since", "4000w")
RECEIVED = 1_795_000_000.0
LONG = "company/production-assistant-with-a-long-name-v2"
SESSION = "3fa1c2d4-5b6e-7f80-9a1b-2c3d4e5f6071"
DEPLOYMENTS = [(f"a-deployment-with-a-long-name-{number}", "upstream_500") for number in range(3)]

NUMBERS = ("prompt", "completion", "TTFT")
ALWAYS = ("received", "route", *NUMBERS)

KINDS = ("prompt", "completion", "reasoning", "cached", "cache_write")

#: What `--by` groups the rows below by.
VALUES: dict[str, set[str | None]] = {
    "route": {LONG, "smart", None},
    "key": {"key_0123456789abcdef", None},
    "outcome": {"complete", "cancelled", "failed"},
    "front": {"chat", "messages"},
    "session": {SESSION, None},
    "agent": {"claude-code/2.1.197", None},
}


def rows(*, errors: bool, costs: bool, writes: int = 0) -> list[Row]:
    complete = Row("complete", RECEIVED, key="key_0123456789abcdef", route=LONG, outcome="complete")
    complete.prompt_tokens, complete.prompt_from = 1_048_576, "exact"
    complete.completion_tokens, complete.completion_from = 128_000, "exact"
    complete.reasoning_tokens, complete.reasoning_from = 24_576, "counted"
    complete.ttft, complete.duration = 118.321, 3599.123
    complete.cache_write_tokens = writes
    complete.front, complete.agent = "messages", "claude-code/2.1.197"
    complete.session = SESSION
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
    command = (*SINCE, *words, "--data", str(folder))
    code, out, err = await cli(*command, COLUMNS=str(width), PYTHONUTF8="1")
    assert (code, err) == (0, "")
    return out.splitlines()


def table_of(lines: list[str]) -> list[list[str]]:
    """The cells of a table, by the positions of its headings; fails if a cell is not under its
    heading. Numbers are aligned with the end of their heading, other cells with its start."""
    numbers = ("prompt", "completion", "reasoning", "cached", "written", "TTFT", "seconds", "cost")
    numbers += ("calls",)
    table = lines[: lines.index("")] if "" in lines else lines
    # A column ends where all lines have a space: before the next heading, or at its own end.
    blank = [
        position
        for position in range(max(map(len, table)) + 1)
        if all(line[position : position + 1] in ("", " ") for line in table)
    ]
    ends = [0]
    for heading in re.finditer(r"\S+", table[0]):
        if heading[0] in numbers:
            ends.append(heading.end())
        else:
            following = re.search(r"\S", table[0][heading.end() :])
            limit = heading.end() + following.start() if following else len(table[0])
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
    assert heading[1:] == ["calls", "prompt", "completion", "reasoning", "cached", "cost"]
    total = dict(zip(heading, groups[-1], strict=True))
    assert total[by] == "all"
    assert (total["calls"], total["prompt"], total["completion"]) == ("3", "1179648", "132096")
    assert total["cost"] == "$1043.20"
    assert sum(int(group[heading.index("calls")]) for group in groups[:-1]) == 3


@pytest.mark.parametrize(
    ("width", "shown_columns"),
    [
        (50, []),
        (60, ["reasoning", "cached"]),
        (80, ["reasoning", "cached", "written"]),
        (120, ["reasoning", "cached", "written"]),
    ],
)
async def test_what_was_written_to_a_cache_is_shown_where_there_is_any(
    tmp_path: Path, width: int, shown_columns: list[str]
) -> None:
    lines = await shown(tmp_path, width, "--by", "agent", writes=20_000)
    assert all(cell_len(line) <= width for line in lines)
    heading, *groups = table_of(lines)
    assert heading == ["agent", "calls", "prompt", "completion", *shown_columns, "cost"]
    if "written" in heading:
        assert [group[heading.index("written")] for group in groups] == ["0", "20000", "20000"]
    if width >= 120:
        assert [group[0] for group in groups] == ["-", "claude-code/2.1.197", "all"]


@pytest.mark.parametrize("by", ["front", "session", "agent"])
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
    for row in json.loads(line)["rows"]:
        assert list(row) == list(Row.__struct_fields__)
