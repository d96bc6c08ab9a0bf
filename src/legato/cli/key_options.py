"""The options that set fields of an API key: `--tier`, `--rpm`, `--budget` and so on."""

import re
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer

from legato.cli.terminal import stop
from legato.policy import budgets, key_fields
from legato.policy.key_fields import KeyChanges, NewKey

T = TypeVar("T", NewKey, KeyChanges)

Owner = Annotated[
    str | None, typer.Option(help="The person or team whose key it is, and whose budget it shares.")
]
Tier = Annotated[str | None, typer.Option(help="The tier whose limits hold, such as free.")]
Rpm = Annotated[str | None, typer.Option("--rpm", help="Requests per minute.")]
Tpm = Annotated[str | None, typer.Option("--tpm", help="Tokens per minute.")]
Rpd = Annotated[str | None, typer.Option("--rpd", help="Requests per day.")]
Concurrent = Annotated[str | None, typer.Option(help="Calls in progress at the same time.")]
MaxTokens = Annotated[
    str | None, typer.Option(help="Tokens that one call may ask to be generated.")
]
BudgetText = Annotated[
    str | None,
    typer.Option(
        "--budget", help="What it may spend: 10usd, 10usd/month, 500ktokens, 2Mtokens/month."
    ),
]
Hard = Annotated[
    bool, typer.Option("--hard", help="Cut calls in progress once the budget is spent.")
]
Warn = Annotated[
    bool, typer.Option("--warn", help="Only report that the budget is spent; refuse nothing.")
]
Routes = Annotated[
    list[str] | None,
    typer.Option(
        help="Models that it may ask for: a name or a pattern such as 'smol*'. Repeatable."
    ),
]
Expires = Annotated[
    str | None,
    typer.Option(help="When it ends: 12h, 30d, 4w from now, or a date 2027-01-31 (UTC)."),
]
Tag = Annotated[list[str] | None, typer.Option(help="A tag, such as team=search. Repeatable.")]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

#: The option of each field, by the field's path; and what it has to be.
_LIMITS: Final = {
    "requests_per_minute": "--rpm",
    "tokens_per_minute": "--tpm",
    "requests_per_day": "--rpd",
    "concurrent": "--concurrent",
    "max_tokens": "--max-tokens",
}
_LINE: Final = "must have 1 to 200 characters on one line, without control characters"
_RULES: Final = {
    "name": ("NAME", _LINE),
    "owner": ("--owner", _LINE),
    "tier": ("--tier", _LINE),
    "budget": ("--budget", "is too large"),
    "routes": (
        "--routes",
        "must be names of models, or patterns with *, ? and [...]; each of at most 200 letters, "
        "digits and any of ._:/@+-",
    ),
    "expires": ("--expires", "must be a time before the year 10000"),
    "tags": (
        "--tag",
        "must have 1 to 100 letters, digits and any of ._:/@+=-",
    ),
    **{
        f"limits.{name}": (option, "must be a whole number from 1 to 1000000000000000")
        for name, option in _LIMITS.items()
    },
}


def fields(
    type_: type[T],
    tiers: Collection[str],
    *,
    limits: Mapping[str, str | None],
    budget: str | None,
    hard: bool,
    warn: bool,
    routes: list[str] | None,
    expires: str | None,
    tag: list[str] | None,
    **texts: str | None,
) -> T:
    """The fields that these options set, checked. Exits with 2, naming the option and the fix.

    `none` removes a limit, a budget or an expiry; an empty text removes owner, tier, routes or
    tags. `limits`: the options' texts, by field. `texts`: name, owner and tier.
    """
    values: dict[str, Any] = {
        name: (text or None) if name != "name" else text
        for name, text in texts.items()
        if text is not None
    }
    given = {name: _number(name, text) for name, text in limits.items() if text is not None}
    if given:
        values["limits"] = given
    if budget is not None:
        values["budget"] = _budget(budget, hard=hard, warn=warn)
    elif hard or warn:
        stop(f"{'--hard' if hard else '--warn'}: needs a budget: add --budget, such as 10usd", 2)
    if routes is not None:
        values["routes"] = [each for text in routes for each in text.split(",") if each]
    if expires is not None:
        values["expires"] = None if expires == "none" else moment("--expires", expires)
    if tag is not None:
        values["tags"] = [each for each in tag if each]
    return _checked(values, type_, tiers)


def _checked(values: dict[str, Any], type_: type[T], tiers: Collection[str]) -> T:
    try:
        found = msgspec.convert(values, type_)
        key_fields.check(found, tiers)
    except msgspec.ValidationError as error:
        path = re.sub(r"\[.*?\]", "", str(error).rpartition("`$.")[2].rstrip("`"))
        option, rule = _RULES[path if path in _RULES else path.partition(".")[0]]
        stop(f"{option}: {rule}", 2)
    except ValueError as error:
        is_tier = str(error).startswith("tier: ")
        more = "; tiers are added to the settings as [tiers.NAME]" if is_tier else ""
        stop(f"--{error}{more}", 2)
    return found


def _number(name: str, text: str) -> int | None:
    option, rule = _RULES[f"limits.{name}"]
    if text == "none":
        return None
    if not re.fullmatch(r"[0-9]{1,16}", text):
        stop(f"{option}: `{text}` {rule}; `none` removes the limit", 2)
    return int(text)


def _budget(text: str, *, hard: bool, warn: bool) -> Any:
    if text == "none":
        return None
    if hard and warn:
        stop("--hard: a budget that cuts calls cannot only warn: leave out --hard or --warn", 2)
    try:
        parsed = budgets.parse(text, action="warn" if warn else "block", hard=hard)
    except ValueError as error:
        stop(f"--budget: {error}", 2)
    return msgspec.to_builtins(parsed)


def duration(option: str, text: str) -> float:
    """Seconds of a text like 90s, 30m, 24h, 30d, 4w. Exits with 2 for another one."""
    match = re.fullmatch(r"([0-9]{1,6})([smhdw])", text.strip())
    if match is None:
        stop(f"{option}: `{text}` is not a time such as 90s, 30m, 24h, 30d or 4w", 2)
    return float(match[1]) * _UNITS[match[2]]


def moment(option: str, text: str) -> float:
    """Unix seconds of a time from now, or of a date in UTC. Exits with 2 for another text, and for
    a date that is past."""
    if re.fullmatch(r"[0-9]+[a-z]", text.strip()):
        return time.time() + duration(option, text)
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        stop(f"{option}: `{text}` is neither a time such as 12h, 30d or 4w nor a date", 2)
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    if date.timestamp() <= time.time():
        stop(f"{option}: `{text}` is past; `legato keys disable` stops a key at once", 2)
    return date.timestamp()
