"""Addresses of databases: SQLite in the data folder, or PostgreSQL. Imports nothing of SQLAlchemy,
since the settings are checked by commands that never open a database."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

_SCHEMES: Final = ("postgresql", "postgres")

#: Parameters of a PostgreSQL address, and what asyncpg calls them.
_PARAMETERS: Final = {"sslmode": "ssl", "ssl": "ssl", "host": "host", "port": "port"}

_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def sqlite_url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'legato.db'}"


def postgresql_url(address: str) -> str:
    """SQLAlchemy's URL for an address `postgresql://user:password@host:port/name?sslmode=require`.

    Raises ValueError with a sentence that does not repeat the address, which has a password in it.
    """
    parts = urlsplit(address)
    if parts.scheme not in _SCHEMES:
        raise ValueError("must be postgresql://user:password@host/name")
    if parts.netloc.count("@") > 1 or parts.fragment or "@" in parts.path:
        raise ValueError("write special characters of the password as %40, %2F, %23 and so on")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("the port is not a number from 0 to 65535") from None
    name = unquote(parts.path.strip("/"))
    if not name or "/" in name:
        raise ValueError(
            "the name of the database is missing: postgresql://user:password@host/name"
        )
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for parameter in given:
        if parameter not in _PARAMETERS:
            allowed = ", ".join(_PARAMETERS)
            raise ValueError(f"`{parameter}` is not a parameter; allowed are {allowed}")
    mode = given.get("sslmode", given.get("ssl"))
    if mode is not None and mode not in _SSL_MODES:
        raise ValueError(f"`sslmode` is not one of {', '.join(_SSL_MODES)}")
    if not parts.hostname and "host" not in given:
        raise ValueError("the host is missing: postgresql://user:password@host/name")
    query = urlencode({_PARAMETERS[key]: value for key, value in given.items()})
    return f"postgresql+asyncpg://{parts.netloc}{parts.path}" + (f"?{query}" if query else "")


def database_url(folder: Path, address: str | None) -> str:
    """`address`: the setting `database`; None: SQLite in `folder`."""
    return sqlite_url(folder) if address is None else postgresql_url(address)


def masked(url: str) -> str:
    """`url` without the user and the password."""
    return re.sub(r"://[^?]*@", "://********@", url)
