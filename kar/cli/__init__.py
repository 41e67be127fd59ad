"""The command line, one module for each group of commands."""

from kar.cli.commands import app, main

__all__ = ["app", "main"]
