"""What the verbs share at a terminal: settings or a sentence why not, and a progress bar."""

import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from legato.configuration import load
from legato.engine.download import Progress
from legato.settings import Settings, SettingsError


def stop(message: object, code: int = 1) -> NoReturn:
    """Says why, and ends."""
    print(f"legato: {message}", file=sys.stderr)
    raise SystemExit(code)


def settings(config: Path | None = None, **flags: Any) -> Settings:
    """The settings in force; a mistake in them ends the program with 2."""
    try:
        return load(config, {name.replace("__", "."): value for name, value in flags.items()})
    except SettingsError as error:
        stop(error, 2)


class Bar(Progress):
    """A progress bar with rate and time to go; plain lines where no one can see a bar."""

    def __init__(self, name: str, total: int) -> None:
        super().__init__(name, total)
        self._began = time.monotonic()
        self._done = 0
        self._printed = self._began  # the first line comes when there is something to say
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(f"fetching {name}", total=total or None)
            self._bar.start()
        else:
            print(f"fetching {name}", file=sys.stderr, flush=True)

    def update(self, done: int) -> None:
        self._done = min(done, self.total or done)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif time.monotonic() - self._printed > 5:
            self._printed = time.monotonic()
            self._line()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._line()

    def _line(self) -> None:
        seconds = max(time.monotonic() - self._began, 1e-3)
        rate = self._done / seconds
        said = f"  {self._done / 1e6:.1f} MB"
        if self.total:
            left = (self.total - self._done) / rate if rate else 0
            said += f" of {self.total / 1e6:.1f} MB, {left:.0f} s to go"
        print(f"{said}, {rate / 1e6:.1f} MB/s", file=sys.stderr, flush=True)
