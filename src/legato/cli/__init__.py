"""The command line: one file a verb. Verbs are imported when they are asked for."""

from legato.cli.main import main

__all__ = ["main"]
