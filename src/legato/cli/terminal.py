"""What the commands share: loading settings, error messages, safe output, a progress bar."""

import sys
import time
from pathlib import Path
from typing import Any, Final, NoReturn

from legato.configuration import load
from legato.engine.download import Progress
from legato.settings import Settings, SettingsError

#: C0 and C1 control characters, which start escape sequences, except tab and newline; and lone
#: surrogates, which JSON can contain but UTF-8 cannot.
_UNSAFE: Final[dict[int, str | None]] = {
    **{code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)},
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}


def clean(text: str) -> str:
    """`text` from a server or a database, safe to print at a terminal."""
    return text.translate(_UNSAFE)


def stop(message: object, code: int = 1) -> NoReturn:
    """Prints an error message and exits."""
    print(f"legato: {message}", file=sys.stderr)
    raise SystemExit(code)


def settings(config: Path | None = None, **flags: Any) -> Settings:
    """The effective settings; exits with 2 if they are not valid. `flags`: by setting, with `__`
    for the dot."""
    try:
        return load(config, {name.replace("__", "."): value for name, value in flags.items()})
    except SettingsError as error:
        stop(error, 2)


class ProgressBar(Progress):
    """Progress of a download on standard error: a bar at a terminal, otherwise a line every five
    seconds."""

    def __init__(self, name: str, total: int) -> None:
        super().__init__(name, total)
        self._started_at = time.monotonic()
        self._done = 0
        self._printed_at = self._started_at
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
            self._task = self._bar.add_task(f"downloading {name}", total=total or None)
            self._bar.start()
        else:
            print(f"downloading {name}", file=sys.stderr, flush=True)

    def update(self, done: int) -> None:
        self._done = min(done, self.total or done)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif time.monotonic() - self._printed_at > 5:
            self._printed_at = time.monotonic()
            self._print_line()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._print_line()

    def _print_line(self) -> None:
        seconds = max(time.monotonic() - self._started_at, 1e-3)
        rate = self._done / seconds
        line = f"  {self._done / 1e6:.1f} MB"
        if self.total:
            remaining = (self.total - self._done) / rate if rate else 0
            line += f" of {self.total / 1e6:.1f} MB, {remaining:.0f} s remaining"
        print(f"{line}, {rate / 1e6:.1f} MB/s", file=sys.stderr, flush=True)
