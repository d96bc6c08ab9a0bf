"""What a dispatch tells the call that it belongs to."""

from typing import Final, Protocol


class Owner(Protocol):
    """The call."""

    def wake(self) -> None:
        """A stream broke that another deployment may continue: see `Dispatch.problem`."""

    def watch_attempt(self, seconds: float) -> None:
        """Another deployment is asked; the first of its timers is due after so many seconds."""


class _Nobody:
    """The owner of a dispatch whose call is settled."""

    def wake(self) -> None: ...
    def watch_attempt(self, seconds: float) -> None: ...


NOBODY: Final = _Nobody()
