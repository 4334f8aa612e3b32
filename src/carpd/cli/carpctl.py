"""carpctl: the client and the tools. Each subcommand is a module, imported only when it is the one that runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from carpd import __version__

COMMANDS = {
    "status": ("carpd.cli.status", "tell the state of every virtual host, or all about one"),
    "replay": ("carpd.cli.replay", "walk through a recording of carpd --record"),
    "demo": ("carpd.cli.demo", "let two firewalls fail over before your eyes"),
    "decode": ("carpd.cli.decode", "print the CARP advertisements and pfsync packets in a capture file"),
}
"""Name -> module (a `Command`), and what it does."""


class Command(Protocol):
    """What the module of a subcommand has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit status."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: the subcommand's, 2 for wrong usage, 130 when interrupted, 141 when nobody reads the output."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="carpctl", description="Ask and show what CARP does.")
    parser.add_argument("--version", action="version", version=f"carpctl {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        if name in argv[:1]:
            command = cast("Command", import_module(module))
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # As after `| head`. What is still buffered goes nowhere, or the interpreter would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
