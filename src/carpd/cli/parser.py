"""How `carpctl` reads its command line: argparse, with one line for a mistake that names the nearest right word."""

from __future__ import annotations

import argparse
import os
import sys

from carpd.control.protocol import DEFAULT_SOCKET, Failure
from carpd.nearest import hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn


class HelpFormatter(argparse.HelpFormatter):
    """As wide as the terminal. It is asked for without shutil, which argparse would import for each command."""

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size().columns
        except OSError:
            columns = 80
        super().__init__(prog, width=max(columns, 40) - 2)


class AsWritten(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Likewise, with the lines of the description as they are."""


class Parser(argparse.ArgumentParser):
    """For a subcommand. Options can't be abbreviated: scripts are to last."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": HelpFormatter, **settings})

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """End with exit status 2 and a line on standard error if they are wrong."""
        args, unknown = self.parse_known_args(argv)
        for word in unknown:
            if word.startswith("-"):
                known = (option for action in self._actions for option in action.option_strings)
                self.error(f"unknown option {word!r}: {hint(word, known)}")
            self.error(f"{word!r} is one argument too many")
        return args

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(Failure.BAD_REQUEST.value)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does, in other words."""
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, f"not {value!r}: {hint(str(value), known)}")


def add_socket(parser: argparse.ArgumentParser) -> None:
    """The option of every subcommand that asks the daemon."""
    parser.add_argument("--socket", default=DEFAULT_SOCKET, metavar="PATH", help="the daemon's socket (%(default)s)")


def add_json(parser: argparse.ArgumentParser, what: str = "one JSON document") -> None:
    """The option of every subcommand that tells something. Ref: docs/json.md"""
    parser.add_argument("--json", action="store_true", help=what)


def listed(words: Iterable[str], limit: int = 4) -> str:
    """A few words, and how many more."""
    known = list(words)
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return ", ".join(known[:limit]) + more
