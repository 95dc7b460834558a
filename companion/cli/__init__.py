"""The command line: `companion demo`, `serve`, `accounts`, `rules`, `change`, `config`."""

from companion.cli.main import main

__all__ = ["main"]
