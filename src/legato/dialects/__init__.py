"""One file is one wire format: requests out, events in, errors in (`core.dialect.Dialect`)."""

import importlib
import pkgutil
from typing import Final, cast

from legato.core.dialect import Dialect

#: The dialects there are: the files of this folder, but for parts of one (`_...`). A name has `-`
#: where its file has `_`.
NAMES: Final = tuple(
    sorted(
        each.name.replace("_", "-")
        for each in pkgutil.iter_modules(__path__)
        if each.name[0] != "_"
    )
)


def named(name: str) -> Dialect:
    return cast(Dialect, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
