"""What an operator may set of an API key: checked, written to the columns of its row, and read."""

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict, replace

from legato.policy.budgets import Budget
from legato.policy.keys import Key, Role
from legato.policy.limits import NO_LIMITS, Count, Limits

#: Text on one line, without control characters. The end is `(?![\s\S])`, since `$` has another
#: meaning in Python than in JSON Schema.
LINE: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+(?![\s\S])"
_GLOB: Final = r"^[A-Za-z0-9._:/@+*?!\[\]-]+(?![\s\S])"
_TAG: Final = r"^[A-Za-z0-9._:/@+=-]+(?![\s\S])"

#: The longest overlap of two secrets: a year, in seconds.
LONGEST_OVERLAP: Final = 31_622_400

#: The end of the year 9999.
_LAST: Final = 253_402_300_799

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=LINE)]
Tier = Annotated[str, Meta(min_length=1, max_length=200, pattern=LINE)]
Globs = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=200, pattern=_GLOB)], ...],
    Meta(max_length=100, description="Patterns of the models that the key may ask for; [] for all"),
]
Tags = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=100, pattern=_TAG)], ...],
    Meta(max_length=100),
]
Time = Annotated[float, Meta(ge=0, le=_LAST, description="Unix seconds")]
Status = Literal["active", "disabled", "expired", "revoked"]


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    """An API key to create. Without tier and limits it is not limited."""

    name: Name
    owner: Name | None = None
    tier: Tier | None = None
    limits: Limits = NO_LIMITS
    budget: Budget | None = None
    routes: Globs = ()
    expires: Time | None = None
    tags: Tags = ()


class LimitChanges(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits to set, or to remove with null; those that are absent stay."""

    requests_per_minute: Count | UnsetType | None = UNSET
    tokens_per_minute: Count | UnsetType | None = UNSET
    requests_per_day: Count | UnsetType | None = UNSET
    concurrent: Count | UnsetType | None = UNSET
    max_tokens: Count | UnsetType | None = UNSET


class KeyChanges(Struct, frozen=True, forbid_unknown_fields=True):
    """Fields of an API key to set, or to remove with null; those that are absent stay."""

    name: Name | UnsetType = UNSET
    owner: Name | UnsetType | None = UNSET
    tier: Tier | UnsetType | None = UNSET
    limits: LimitChanges | UnsetType = UNSET
    budget: Budget | UnsetType | None = UNSET
    routes: Globs | UnsetType = UNSET
    expires: Time | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class ShownKey(Struct, frozen=True):
    """An API key as operators see it, without secret and digest. Times are Unix seconds.

    `previous_until`: until when the secret before the last rotation is good.
    """

    id: str
    name: str
    owner: str | None
    tier: str | None
    role: Role | None
    limits: Limits
    budget: Budget | None
    routes: tuple[str, ...]
    tags: tuple[str, ...]
    status: Status
    created: float
    expires: float | None
    revoked: float | None
    previous_until: float | None


def check(fields: NewKey | KeyChanges, tiers: Collection[str]) -> None:
    """Checks what no type can: raises ValueError with a sentence that begins with the field."""
    tier = fields.tier
    if isinstance(tier, str) and tier not in tiers:
        raise ValueError(f"tier: `{tier}` is not one of {', '.join(sorted(tiers))}")


def new_columns(fields: NewKey) -> dict[str, Any]:
    """The columns of a new key, but for its name."""
    values = asdict(fields)
    del values["name"]
    return _columns(values)


def changed_columns(changes: KeyChanges, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that change. `row`: the key's row as it is."""
    values = {name: value for name, value in asdict(changes).items() if value is not UNSET}
    if "limits" in values:
        given = {k: v for k, v in asdict(values["limits"]).items() if v is not UNSET}
        own = NO_LIMITS if row["limits"] is None else _decoded(row["limits"], Limits)
        values["limits"] = replace(own, **given)
    if "disabled" in values:
        values["is_disabled"] = values.pop("disabled")
    return _columns(values)


def _columns(values: dict[str, Any]) -> dict[str, Any]:
    for name, empty in _EMPTY.items():
        if name in values:
            value = values[name]
            values[name] = None if value == empty else _text(value)
    return values


#: Fields that are columns with JSON, and the values that are NULL.
_EMPTY: Final = {"limits": NO_LIMITS, "budget": None, "routes": (), "tags": ()}


def _text(value: Any) -> str:
    if isinstance(value, Limits):
        value = {name: each for name, each in asdict(value).items() if each is not None}
    return msgspec.json.encode(value).decode()


def from_row(row: Iterable[Any]) -> Key:
    """The key of a row, whose values are in the order of the columns. Raises ValueError for a value
    that cannot be read."""
    values = dict(zip(_FIELDS, row, strict=False))
    for name, (type_, empty) in _TYPES.items():
        text: str | None = values[name]
        values[name] = empty if text is None else _decoded(text, type_)
    return Key(**values)


def disabled(row: Iterable[Any]) -> Key:
    """The key of a row that cannot be read (written by hand, or by another version)."""
    values: dict[str, Any] = dict(zip(_FIELDS, row, strict=False)) | {"is_disabled": True}
    for name, (_, empty) in _TYPES.items():
        values[name] = empty
    return Key(**values)


_FIELDS: Final = Key.__struct_fields__
_TYPES: Final[dict[str, tuple[Any, Any]]] = {
    "limits": (Limits, NO_LIMITS),
    "budget": (Budget, None),
    "routes": (tuple[str, ...], ()),
    "tags": (tuple[str, ...], ()),
}


@lru_cache(maxsize=10_000)
def _decoded(text: str, type_: Any) -> Any:
    """Keys with the same limits share one object."""
    return msgspec.json.decode(text, type=type_)


def shown(key: Key, now: float) -> ShownKey:
    """`now`: Unix seconds."""
    has_previous = key.previous_until is not None and now < key.previous_until
    return ShownKey(
        key.id,
        key.name,
        key.owner,
        key.tier,
        key.role,
        key.limits,
        key.budget,
        key.routes,
        key.tags,
        status(key, now),
        key.created,
        key.expires,
        key.revoked,
        key.previous_until if has_previous else None,
    )


def status(key: Key, now: float) -> Status:
    if key.revoked is not None:
        return "revoked"
    if key.is_disabled:
        return "disabled"
    return "expired" if key.expires is not None and now >= key.expires else "active"
