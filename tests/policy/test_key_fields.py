"""Fields of API keys: what is allowed, how they are written to a row, and how they are read."""

from typing import Any

import msgspec
import pytest

from legato.policy import key_fields
from legato.policy.budgets import Budget
from legato.policy.key_fields import KeyChanges, NewKey
from legato.policy.keys import Key
from legato.policy.limits import Limits
from legato.store.tables import keys

NOW = 1_000.0
TIERS = {"free": Limits(10)}


def row(**columns: Any) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(column.name for column in keys.c)
    found |= {"id": "key_1", "name": "one", "digest": b"d" * 32, "created": 1.0}
    return found | {"is_disabled": False, "changed": 1} | columns


def test_the_columns_are_the_fields_of_a_key() -> None:
    assert [column.name for column in keys.c] == [*Key.__struct_fields__, "changed"]


FIELDS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "owner": {"owner": "Åsa's team; DROP TABLE keys"},
    "tier": {"tier": "free"},
    "limits": {"limits": {"requests_per_minute": 5, "max_tokens": 100}},
    "budget": {"budget": {"amount": 10.5, "unit": "usd", "period": "month", "hard": True}},
    "routes": {"routes": ["smol*", "claude-[34]?"]},
    "expires": {"expires": 2_000.5},
    "tags": {"tags": ["team=a", "b"]},
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_row_is_read_as_it_was_written(name: str) -> None:
    fields = msgspec.convert({"name": "one", **FIELDS[name]}, NewKey)
    key_fields.check(fields, TIERS)
    columns = key_fields.new_columns(fields)
    assert all(isinstance(each, str | float | None) for each in columns.values())
    key = key_fields.from_row(row(**columns).values())
    for field in NewKey.__struct_fields__:
        assert getattr(key, field) == getattr(fields, field)


def test_keys_with_the_same_limits_share_them() -> None:
    one, two = (key_fields.from_row(row(limits='{"concurrent":7}').values()) for _ in range(2))
    assert one.limits is two.limits


WRONG: list[dict[str, Any]] = [
    {},
    *({"name": name} for name in ("", "x" * 201, "a\n", "a\0b", "\x1b[31m", "a\u2028b", None, 5)),
    {"name": "a", "owner": ""},
    {"name": "a", "limits": {"requests_per_minute": 0}},
    {"name": "a", "limits": {"requests_per_minute": 10**16}},
    {"name": "a", "limits": {"requests_per_hour": 1}},
    {"name": "a", "budget": {"amount": 0, "unit": "usd"}},
    {"name": "a", "budget": {"amount": -1, "unit": "usd"}},
    {"name": "a", "budget": {"amount": 1, "unit": "eur"}},
    {"name": "a", "budget": {"amount": 1, "unit": "usd", "perod": "month"}},
    {"name": "a", "routes": ["a b"]},
    {"name": "a", "routes": ["a\n"]},
    {"name": "a", "routes": "a"},
    {"name": "a", "tags": ["x"] * 101},
    {"name": "a", "expires": -1},
    {"name": "a", "expires": 1e12},
    {"name": "a", "role": "admin"},
    {"name": "a", "digest": "x"},
]


@pytest.mark.parametrize("value", WRONG)
def test_what_is_not_taken(value: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(value, NewKey)


def test_an_unknown_tier() -> None:
    with pytest.raises(ValueError, match=r"^tier: `gold` is not one of free$"):
        key_fields.check(NewKey("a", tier="gold"), TIERS)
    with pytest.raises(ValueError, match=r"^tier: "):
        key_fields.check(KeyChanges(tier="gold"), TIERS)
    key_fields.check(KeyChanges(tier=None), TIERS)


LIMITED = row(tier="free", limits='{"requests_per_minute":5,"concurrent":2}', owner="a")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, {}),
        ({"owner": None, "tier": None}, {"owner": None, "tier": None}),
        ({"disabled": True}, {"is_disabled": True}),
        ({"limits": {}}, {"limits": '{"requests_per_minute":5,"concurrent":2}'}),
        ({"limits": {"concurrent": 3}}, {"limits": '{"requests_per_minute":5,"concurrent":3}'}),
        ({"limits": {"concurrent": None}}, {"limits": '{"requests_per_minute":5}'}),
        ({"limits": {"concurrent": None, "requests_per_minute": None}}, {"limits": None}),
        ({"routes": []}, {"routes": None}),
        ({"budget": None}, {"budget": None}),
    ],
)
def test_changes_leave_the_rest(changes: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert key_fields.changed_columns(msgspec.convert(changes, KeyChanges), LIMITED) == wanted


@pytest.mark.parametrize("name", ["limits", "budget", "routes", "tags"])
@pytest.mark.parametrize("text", ["", "{", '"x"', '{"requests_per_minute":0}', "[1]"])
def test_a_row_that_cannot_be_read_is_a_key_that_is_disabled(name: str, text: str) -> None:
    broken = row(**{name: text}).values()
    with pytest.raises(ValueError):
        key_fields.from_row(broken)
    key = key_fields.disabled(broken)
    assert (key.is_disabled, key.limits, key.budget, key.routes) == (True, Limits(), None, ())


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        ({}, "active"),
        ({"expires": NOW + 1}, "active"),
        ({"expires": NOW}, "expired"),
        ({"expires": NOW, "is_disabled": True}, "disabled"),
        ({"is_disabled": True, "revoked": 2.0}, "revoked"),
    ],
)
def test_status(columns: dict[str, Any], status: str) -> None:
    assert key_fields.shown(key_fields.from_row(row(**columns).values()), NOW).status == status


def test_what_is_shown_has_no_digest() -> None:
    key = key_fields.from_row(
        row(previous=b"p" * 32, previous_until=NOW + 1, budget='{"amount":1,"unit":"usd"}').values()
    )
    shown = key_fields.shown(key, NOW)
    assert (shown.previous_until, shown.budget) == (NOW + 1, Budget(1, "usd"))
    assert key_fields.shown(key, NOW + 1).previous_until is None
    assert not {"digest", "previous"} & set(shown.__struct_fields__)
