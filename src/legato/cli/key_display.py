"""Prints API keys, without their secrets, for people at a terminal."""

import sys
import time
from collections.abc import Collection, Sequence
from typing import Final

from msgspec.structs import asdict

from legato.cli.terminal import clean
from legato.policy.key_fields import ShownKey

#: The most keys that are listed as a table.
MAX_SHOWN: Final = 1000

#: Fields that are times.
_TIMES: Final = ("created", "expires", "revoked")


def print_keys(keys: Sequence[ShownKey]) -> None:
    """A table of the last keys."""
    from legato.cli.tables import Column, print_table

    hidden, found = keys[:-MAX_SHOWN], keys[-MAX_SHOWN:]
    columns = {
        "id": Column("id", drop_order=5),
        "name": Column("name", min_width=8),
        "owner": Column("owner", drop_order=3, min_width=6),
        "tier": Column("tier", drop_order=4),
        "role": Column("role"),
        "created": Column("created", drop_order=1),
        "expires": Column("expires", drop_order=2),
        "status": Column("state"),
    }
    for optional in ("owner", "tier", "role", "expires"):
        if not any(getattr(each, optional) for each in found):
            del columns[optional]
    print_table(list(columns.values()), [[_cell(each, name) for name in columns] for each in found])
    if hidden:
        print(f"\n{len(hidden)} older keys are not shown; use --owner, or --json for all")


def print_key(key: ShownKey) -> None:
    """All fields that have a value, a line each."""
    limits = {name: value for name, value in asdict(key.limits).items() if value}
    lines = {
        **{name: _cell(key, name) for name in ("id", "name", "owner", "tier", "role", "status")},
        **{name.replace("_", " "): str(value) for name, value in limits.items()},
        "budget": _budget(key),
        **{name: ", ".join(getattr(key, name)) for name in ("routes", "tags")},
        **{name: _cell(key, name) for name in ("created", "expires", "revoked")},
        "old secret until": moment(key.previous_until),
    }
    shown = {name: value for name, value in lines.items() if value not in ("", "-")}
    width = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name:{width}}  {' '.join(clean(value).split())}")


def _budget(key: ShownKey) -> str:
    budget = key.budget
    if budget is None:
        return ""
    warns = " (only a warning)" if budget.action == "warn" else ""
    return f"{budget}{warns}{' (hard)' if budget.hard else ''}"


def _cell(key: ShownKey, name: str) -> str:
    value = getattr(key, name)
    return moment(value) if name in _TIMES else value or "-"


def moment(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def warn_of_tiers(keys: Sequence[ShownKey], tiers: Collection[str]) -> None:
    """Tiers may be taken out of the settings; keys that have them are then less limited."""
    for tier in sorted({key.tier for key in keys if key.tier} - set(tiers)):
        number = sum(key.tier == tier for key in keys)
        text = f"the tier `{clean(tier)}` of {number} key{'s' if number > 1 else ''} is not in the"
        print(f"legato: {text} settings: only limits of their own hold", file=sys.stderr)
