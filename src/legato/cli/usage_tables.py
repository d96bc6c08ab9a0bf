"""The tables of `legato usage`: the last calls, and totals with a bar for the share of each."""

import time
from collections.abc import Mapping
from typing import Any, Final

from legato.cli.tables import Cell, Column, bar, print_table

_TOKEN_KINDS: Final = ("prompt", "completion", "reasoning", "cached")

_LEGEND: Final = "~: counted, not reported by the upstream; +: at least"

#: The most groups that are listed; the rest is added up in one row.
MAX_GROUPS: Final = 40

#: Cells of a bar.
_BAR: Final = 8

Group = dict[str, Any]


def print_calls(report: dict[str, Any]) -> None:
    rows = report["rows"]
    columns = {
        "received": Column("received"),
        "route": Column("route", min_width=8),
        "outcome": Column("outcome", drop_order=5),
        "error": Column("error", drop_order=4, min_width=12),
        "prompt": Column("prompt", is_number=True),
        "completion": Column("completion", is_number=True),
        "reasoning": Column("reasoning", drop_order=1, is_number=True),
        "ttft": Column("TTFT", is_number=True),
        "duration": Column("seconds", drop_order=2, is_number=True),
        "cost": Column("cost", drop_order=3, is_number=True),
    }
    if not any(row["error"] for row in rows):
        del columns["error"]
    if report["total"]["cost"] is None:
        del columns["cost"]
    cells = [_cells(row) for row in rows]
    print_table(list(columns.values()), [[each[name] for name in columns] for each in cells])
    if any(mark in each[kind] for each in cells for kind in _TOKEN_KINDS[:3] for mark in "~+"):
        print(f"\n{_LEGEND}")
    print(f"\n{report['total']['calls']} calls: {_outcomes(report)}")
    _print_deleted(report)


def print_groups(report: dict[str, Any], by: str, since: str, names: Mapping[str, str]) -> None:
    """`since`: the period, as it was asked for. `names`: those of keys, by their ids.

    Days are in their order; all others begin with the one with the largest share.
    """
    total = report["total"]
    has_cost = total["cost"] is not None
    columns = [
        Column(by, min_width=12),
        Column("calls", is_number=True),
        Column("prompt", is_number=True),
        Column("completion", is_number=True),
        Column("reasoning", drop_order=3, is_number=True),
        Column("cached", drop_order=2, is_number=True),
    ]
    kinds: list[str] = list(_TOKEN_KINDS)
    if total["cache_write_tokens"]:
        columns.append(Column("written", drop_order=1, is_number=True))
        kinds.append("cache_write")
    if has_cost:
        columns.append(Column("cost", is_number=True))
    columns.append(Column("share", is_number=True, drop_order=5))
    columns.append(Column("of cost" if has_cost else "of tokens", drop_order=4))
    rows: list[list[Cell]] = []
    for row in [*_listed(report["rows"], by, names), {by: "all", **total}]:
        cells: list[Cell] = [row[by] or "-", str(row["calls"])]
        cells += [str(row[f"{kind}_tokens"]) for kind in kinds]
        if has_cost:
            cells.append(_rounded(row["cost"], total["cost"]))
        share = _measure(row, total) / (_measure(total, total) or 1)
        rows.append([*cells, _percent(share), (bar(share, _BAR), "cyan")])
    print_table(columns, rows)
    print(f"\n{total['calls']} calls: {_outcomes(report)}")
    print(f"In the last {since}{', by days in UTC' if by == 'day' else ''}")
    _print_deleted(report)


def said_of_deleted(sums: dict[str, Any]) -> str:
    """A sentence on the calls of the period whose rows are gone."""
    first, last = sums["from"], sums["to"]
    days = f"on {first}" if first == last else f"from {first} to {last}"
    cost = f", {_dollars(sums['cost'])}" if sums["cost"] else ""
    return (
        f"Not in these numbers, since retention_days has deleted their rows: {sums['calls']} calls"
        f" {days} (UTC), {sums['prompt_tokens']} prompt and {sums['completion_tokens']} completion"
        f" tokens{cost}"
    )


def _print_deleted(report: dict[str, Any]) -> None:
    if report["deleted"] is not None:
        print(f"\n{said_of_deleted(report['deleted'])}")


def _listed(rows: list[Group], by: str, names: Mapping[str, str]) -> list[Group]:
    """The groups in the order in which they are shown. Of days the first ones are added up where
    there are too many, of others those with the smallest shares."""
    if by == "day":
        rest, shown = rows[:-MAX_GROUPS], rows[-MAX_GROUPS:]
        return [_sum(rest, by, f"{len(rest)} before"), *shown] if rest else shown
    costs = any(row["cost"] is not None for row in rows)
    ordered = sorted(rows, key=lambda row: -_measure(row, {"cost": 0.0 if costs else None}))
    shown, rest = ordered[:MAX_GROUPS], ordered[MAX_GROUPS:]
    if by == "key":
        shown = [row | {by: _named(row[by], names)} for row in shown]
    return [*shown, _sum(rest, by, f"{len(rest)} others")] if rest else shown


def _named(key: str | None, names: Mapping[str, str]) -> str | None:
    return f"{names[key]} ({key})" if key is not None and key in names else key


def _sum(rows: list[Group], by: str, label: str) -> Group:
    counts = [name for name in rows[0] if name == "calls" or name.endswith("_tokens")]
    numbers = {name: sum(row[name] for row in rows) for name in counts}
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    return {by: label, **numbers, "cost": sum(costs) if costs else None}


def _measure(row: Group, total: Group) -> float:
    """What shares are of: cost, or tokens where no call has a price."""
    if total["cost"] is not None:
        return row["cost"] or 0.0
    return row["prompt_tokens"] + row["completion_tokens"]


def _percent(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _rounded(cost: float | None, total: float) -> str:
    """To cents where the total has dollars, so that the numbers of a column can be compared."""
    if cost is None or total < 1:
        return _dollars(cost)
    return "<$0.01" if 0 < cost < 0.005 else f"${cost:.2f}"


def _outcomes(report: dict[str, Any]) -> str:
    found = sorted(report["outcomes"].items())
    return ", ".join(f"{number} {name}" for name, number in found if number) or "none"


def _cells(row: dict[str, Any]) -> dict[str, str]:
    return {
        "received": time.strftime("%m-%d %H:%M:%S", time.localtime(row["received"])),
        "route": row["route"] or "-",
        "outcome": row["outcome"],
        "error": row["error"] or "",
        **{kind: _tokens(row, kind) for kind in _TOKEN_KINDS},
        "ttft": _seconds(row["ttft"]),
        "duration": _seconds(row["duration"]),
        "cost": _dollars(row["cost"]),
    }


def _tokens(row: dict[str, Any], kind: str) -> str:
    """A token count, marked by its source."""
    number, source = row[f"{kind}_tokens"], row[f"{kind}_from"]
    marked = {"none": "-", "counted": f"~{number}", "partial": f"{number}+"}
    return marked.get(source, str(number))


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _dollars(cost: float | None) -> str:
    return "-" if cost is None else f"${cost:.2f}" if cost >= 1 else f"${cost:.6f}"
