"""The command line: one module per command, imported when the command runs."""

from legato.cli.main import main

__all__ = ["main"]
