"""pfsyncd: state synchronisation without CARP, for hosts whose addresses something else moves. Reads [pfsync] alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from carpd import __version__
from carpd.cli.carpd import DEFAULT_CONFIG

DEFAULT_SOCKET = Path("/run/carpd/pfsyncd.sock")


def parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = argparse.ArgumentParser(
        prog="pfsyncd",
        description="Keeps the connection tracking tables of firewalls the same. carpd runs it by itself if its "
        "configuration has [pfsync]; this command is for hosts without CARP.",
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--node", metavar="NAME", help="which [node.NAME] we are (default: the host name)")
    parser.add_argument(
        "--socket", type=Path, default=DEFAULT_SOCKET, metavar="PATH", help="for carpctl (default: %(default)s)"
    )
    parser.add_argument("--version", action="version", version=f"pfsyncd {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after SIGTERM, 1 for a failure (see the log), 2 for wrong usage, 3 for the configuration."""
    args = parser().parse_args(argv)
    from carpd.runtime.supervisor import run_pfsync

    return run_pfsync(args.config, args.node, args.socket)


if __name__ == "__main__":
    sys.exit(main())
