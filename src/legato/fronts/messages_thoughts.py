"""What other vendors want back with the next request, in a block that clients of this format keep.

Encrypted reasoning and signatures of vendors other than Anthropic have no place in a message here.
Clients send blocks of redacted thinking back as they came, so these carry them. Anthropic would
refuse such a block: it is left out of what goes there.
"""

from typing import Any

from legato.core.signatures import carried, is_carried, uncarried


def packed(entry: dict[str, Any]) -> dict[str, Any]:
    """The block that carries `entry`."""
    return {"type": "redacted_thinking", "data": carried([entry])}


def is_packed(block: dict[str, Any]) -> bool:
    data = block.get("data")
    is_redacted = block.get("type") == "redacted_thinking"
    return is_redacted and isinstance(data, str) and is_carried(data)


def unpacked(block: dict[str, Any]) -> dict[str, Any] | None:
    """The entry in a block that `is_packed`; None where it was damaged."""
    return next(iter(uncarried(block["data"])), None)
