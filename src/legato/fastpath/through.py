"""How texts get from an upstream's events to a stream."""

from msgspec import Struct


class Through(Struct, frozen=True, gc=False):
    """What becomes of a template's texts on their way to the stream, as long as nothing else comes.

    `raw`: JSON of the choice before and after the text. `stop`: a text with this in it has to be
    looked at.
    """

    raw: tuple[bytes, bytes]
    thinks: bool
    stop: str | None = None
