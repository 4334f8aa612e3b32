"""`carpctl names`: what shells complete NAME by. Without a daemon there are none, and nothing is said."""

from __future__ import annotations

import argparse

from carpd.cli.parser import add_socket
from carpd.control.client import request
from carpd.control.protocol import ControlError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--groups", action="store_true", help="of redundancy groups, too")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """0, or quietly the failure."""
    try:
        names = request(args.socket, "names")
    except ControlError as error:
        return error.failure.value
    wanted = [*names["virtual_hosts"], *names["nodes"], *(names["groups"] if args.groups else ())]
    for name in dict.fromkeys(wanted):
        print(name)
    return 0
