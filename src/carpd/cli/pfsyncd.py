"""pfsyncd: state synchronisation without CARP, for hosts whose addresses something else moves. Reads [pfsync] alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from carpd.cli.carpd import daemon_parser
from carpd.cli.streams import standard_streams

DEFAULT_SOCKET = Path("/run/carpd/pfsyncd.sock")


def parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    return daemon_parser(
        "pfsyncd",
        "Keeps the connection tracking tables of firewalls the same. carpd runs it by itself if its configuration has "
        "[pfsync]; this command is for hosts without CARP.",
        DEFAULT_SOCKET,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after SIGTERM, 1 for a failure (see the log), 2 for wrong usage, 3 for the configuration."""
    with standard_streams("pfsyncd"):
        args = parser().parse_args(argv)
    from carpd.runtime.supervisor import run_pfsync

    return run_pfsync(args.config, args.node, args.socket, args.state_dir)


if __name__ == "__main__":
    sys.exit(main())
