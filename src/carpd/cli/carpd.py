"""carpd, the daemon: runs in the foreground until SIGTERM; `--check` reads a configuration and says what is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from carpd import __version__
from carpd.cli.streams import standard_streams
from carpd.control.protocol import DEFAULT_SOCKET

DEFAULT_CONFIG = Path("/etc/carpd/carpd.toml")
DEFAULT_STATE_DIR = Path("/run/carpd")


def parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = daemon_parser("carpd", "CARP for Linux: hosts share addresses and fail over.", Path(DEFAULT_SOCKET))
    parser.add_argument("--check", type=Path, metavar="FILE", help="say what is wrong with a configuration, and end")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write down every event, passwords included, for carpctl replay"
    )
    return parser


def daemon_parser(name: str, description: str, socket: Path) -> argparse.ArgumentParser:
    """Of a daemon that is called so, with what the command lines of carpd and pfsyncd have in common."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--node", metavar="NAME", help="which [node.NAME] we are (default: the host name)")
    parser.add_argument(
        "--socket", type=Path, default=socket, metavar="PATH", help="for carpctl (default: %(default)s)"
    )
    parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE_DIR, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after SIGTERM, 1 for a failure (see the log), 2 for wrong usage, 3 for the configuration."""
    with standard_streams("carpd"):
        args = parser().parse_args(argv)
        if args.check is not None:
            from carpd.cli.check import check
            from carpd.runtime.preparation import own_addresses_by_interface

            # another node's addresses are not known here
            return check(args.check, args.node, None if args.node else own_addresses_by_interface(), sys.stdout)
    from carpd.runtime.supervisor import run

    return run(args.config, args.node, args.socket, args.state_dir, args.record)


if __name__ == "__main__":
    sys.exit(main())
