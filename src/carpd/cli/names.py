"""`carpctl names`: what shells complete words by. Without a daemon there are none, and nothing is said."""

from __future__ import annotations

import argparse

from carpd.cli.parser import add_socket
from carpd.control.client import request
from carpd.control.protocol import ControlError

HOSTS, GROUPS, HOOKS, INTERFACES = KINDS = "hosts", "groups", "hooks", "interfaces"
"""What has names: virtual hosts and their nodes, redundancy groups, hooks, what `ifconfig` knows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kinds", metavar="KIND", nargs="+", choices=KINDS, help=f"of what: {', '.join(KINDS)}")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """0, or quietly the failure."""
    try:
        names = request(args.socket, "names")
    except ControlError as error:
        return error.failure.value
    known = {
        HOSTS: [*names["virtual_hosts"], *names["nodes"]],
        GROUPS: names["groups"],
        HOOKS: names["hooks"],
        INTERFACES: [*names["virtual_hosts"], "pfsync0"],
    }
    for name in dict.fromkeys(name for kind in args.kinds for name in known[kind]):
        print(name)
    return 0
