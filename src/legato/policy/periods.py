"""Periods of time as users write them: 30m, 24h, 7d, 4w."""

import re
from typing import Final

EXAMPLES: Final = "30m, 24h, 7d or 4w"

_UNITS: Final = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_FORM: Final = re.compile(r"([0-9]{1,6})([mhdw])")


def seconds(text: str) -> int:
    """The length of a period. Raises ValueError."""
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise ValueError(f"`{text[:40]}` is not a time such as {EXAMPLES}")
    return int(form[1]) * _UNITS[form[2]]
