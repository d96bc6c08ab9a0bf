"""`legato keys`: manages API keys in the database; a running server follows within a second."""

import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from legato.cli import key_display, key_options
from legato.cli.database import actor, with_database
from legato.cli.key_options import (
    BudgetText,
    Concurrent,
    Expires,
    Hard,
    MaxTokens,
    Owner,
    Routes,
    Rpd,
    Rpm,
    Tag,
    Tier,
    Tpm,
    Warn,
)
from legato.cli.options import Config, Data, Json
from legato.cli.terminal import clean, settings, stop
from legato.policy import key_fields
from legato.policy import keys as policy
from legato.policy.key_fields import KeyChanges, NewKey, ShownKey
from legato.settings import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The name or the id of the key.")]

#: A change of one key: takes the database and the key's id, and returns its row.
Change = Callable[[Any, str], Awaitable[Any]]


class Role(StrEnum):
    admin = "admin"
    viewer = "viewer"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for the key, such as its user.")],
    owner: Owner = None,
    tier: Tier = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    rpd: Rpd = None,
    concurrent: Concurrent = None,
    max_tokens: MaxTokens = None,
    budget: BudgetText = None,
    hard: Hard = False,
    warn: Warn = False,
    routes: Routes = None,
    expires: Expires = None,
    tag: Tag = None,
    role: Annotated[
        Role | None,
        typer.Option(help="Create an admin key, for the admin API alone; a viewer only reads."),
    ] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Create an API key and print it; it cannot be shown again.

    Without a tier and limits it is not limited. Its own limits replace those of its tier.
    """
    from legato.store import keys as store

    chosen = settings(config, data=data)
    limits = _limits(rpm, tpm, rpd, concurrent, max_tokens)
    fields = key_options.fields(
        NewKey,
        chosen.all_tiers,
        name=name,
        owner=owner,
        tier=tier,
        limits=limits,
        budget=budget,
        hard=hard,
        warn=warn,
        routes=routes,
        expires=expires,
        tag=tag,
    )
    columns = key_fields.new_columns(fields)
    if role is not None:
        _refuse_limits_of_admin(columns)
        columns["role"] = role.value
    identity, key, digest = policy.create(role.value if role else None)
    with_database(
        chosen,
        lambda database: store.add(database, identity, name, digest, actor(), **columns),
    )
    if as_json:
        _print_json({"id": identity, "name": name, "key": key})
    else:
        print(f"{key}\n\nThis is the only time that the key `{name}` ({identity}) is shown.")


@app.command("list")
def list_keys(
    owner: Annotated[str | None, typer.Option(help="Only the keys of this owner.")] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """List API keys, without their secrets, oldest first.

    At most the last 1000; --json has all of them.
    """
    from legato.store import keys as store

    chosen = settings(config, data=data)
    rows = with_database(chosen, lambda database: store.page(database, owner=owner))
    found = [_shown(row) for row in rows]
    key_display.warn_of_tiers(found, chosen.all_tiers)
    if as_json:
        _print_json(found)
        return
    key_display.print_keys(found)


@app.command()
def show(name: Name, as_json: Json = False, data: Data = None, config: Config = None) -> None:
    """Show all fields of an API key, without its secret."""
    chosen = settings(config, data=data)
    row = _one(chosen, name, None)
    key_display.warn_of_tiers([_shown(row)], chosen.all_tiers)
    _report(row, as_json)


@app.command()
def update(
    name: Name,
    rename: Annotated[str | None, typer.Option("--name", help="Another name.")] = None,
    owner: Owner = None,
    tier: Tier = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    rpd: Rpd = None,
    concurrent: Concurrent = None,
    max_tokens: MaxTokens = None,
    budget: BudgetText = None,
    hard: Hard = False,
    warn: Warn = False,
    routes: Routes = None,
    expires: Expires = None,
    tag: Tag = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Change fields of an API key; those that are not given stay.

    `none` removes a limit, the budget or the expiry; '' removes owner, tier, routes or tags.
    """
    from legato.store import keys as store

    chosen = settings(config, data=data)
    changes = key_options.fields(
        KeyChanges,
        chosen.all_tiers,
        name=rename,
        owner=owner,
        tier=tier,
        limits=_limits(rpm, tpm, rpd, concurrent, max_tokens),
        budget=budget,
        hard=hard,
        warn=warn,
        routes=routes,
        expires=expires,
        tag=tag,
    )
    if changes == KeyChanges():
        stop("there is nothing to change: give an option, such as --rpm 10", 2)

    def columns(row: Any) -> Any:
        found = key_fields.changed_columns(changes, row)
        if row["role"] is not None:
            _refuse_limits_of_admin(found)
        return found

    async def change(database: Any, identity: str) -> Any:
        return await store.update(database, identity, columns, actor())

    _report(_one(chosen, name, change), as_json)


@app.command()
def rotate(
    name: Name,
    overlap: Annotated[
        str, typer.Option(help="For how long the old secret is good, too: 30m, 1h, 7d.")
    ] = "0s",
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Give an API key another secret and print it; it cannot be shown again."""
    from legato.store import keys as store

    seconds = key_options.duration("--overlap", overlap)
    if seconds > key_fields.LONGEST_OVERLAP:
        stop(f"--overlap: `{overlap}` is more than a year", 2)
    secrets: list[str] = []

    async def change(database: Any, identity: str) -> Any:
        secret, digest = policy.create_secret((await store.get(database, identity))["role"])
        secrets.append(secret)
        return await store.rotate(database, identity, digest, seconds, actor())

    row = _one(settings(config, data=data), name, change)
    if as_json:
        _print_json({"id": row["id"], "name": row["name"], "key": secrets[0]})
        return
    print(f"{secrets[0]}\n\nThis is the only time that the new secret is shown.")
    if seconds:
        print(f"The old one is good until {key_display.moment(row['previous_until'])}.")


@app.command()
def disable(name: Name, data: Data = None, config: Config = None) -> None:
    """Refuse all calls with an API key until it is enabled again."""
    _switch(settings(config, data=data), name, "disable")


@app.command()
def enable(name: Name, data: Data = None, config: Config = None) -> None:
    """Accept calls with an API key that was disabled."""
    _switch(settings(config, data=data), name, "enable")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The name or the id of the key.")],
    data: Data = None,
    config: Config = None,
) -> None:
    """Revoke an API key for good; all further calls with it are refused.

    With a name that several keys have, all of them.
    """
    from legato.store import keys as store

    chosen = settings(config, data=data)
    number = with_database(chosen, lambda database: store.revoke(database, name, actor()))
    if not number:
        stop(f"there is no active key `{name}`")
    print(f"revoked {number} key{'s' if number > 1 else ''}")


def _switch(chosen: Settings, name: str, action: str) -> None:
    from legato.store import keys as store

    async def change(database: Any, identity: str) -> Any:
        columns = {"is_disabled": action == "disable"}
        return await store.update(database, identity, lambda _: columns, actor(), action)

    row = _one(chosen, name, change)
    print(f"{action}d the key `{clean(row['name'])}` ({row['id']})")


def _one(chosen: Settings, name: str, change: Change | None) -> Any:
    """The row of the one key with this name or id, after the change; exits with 1 if there is no
    such key, or if there are several. None: nothing is changed, and it may be revoked."""
    from legato.store import keys as store

    async def run(database: Any) -> Any:
        rows = await store.named(database, name)
        active = [row for row in rows if row["revoked"] is None]
        found = active if active or change is not None else rows
        if not found:
            stop(f"the key `{name}` has been revoked" if rows else f"there is no key `{name}`")
        if len(found) > 1:
            ids = ", ".join(row["id"] for row in found)
            stop(f"{len(found)} keys have the name `{name}`: use one of their ids: {ids}")
        return await change(database, found[0]["id"]) if change else found[0]

    return with_database(chosen, run)


def _limits(*texts: str | None) -> dict[str, str | None]:
    names = ("requests_per_minute", "tokens_per_minute", "requests_per_day", "concurrent")
    return dict(zip((*names, "max_tokens"), texts, strict=True))


def _refuse_limits_of_admin(columns: dict[str, Any]) -> None:
    if any(columns.get(each) is not None for each in ("tier", "limits", "budget", "routes")):
        stop("--role: an admin key makes no calls: leave out tier, limits, budget and routes", 2)


def _shown(row: Any) -> ShownKey:
    return key_fields.shown(key_fields.from_row(row.values()), time.time())


def _print_json(value: Any) -> None:
    print(msgspec.json.encode(value).decode())


def _report(row: Any, as_json: bool) -> None:
    if as_json:
        _print_json(_shown(row))
    else:
        key_display.print_key(_shown(row))
