"""`carpctl is-master NAME`: for scripts. The answer is the exit status: 0 yes, 1 no, others as everywhere."""

from __future__ import annotations

import argparse
import json

from carpd.cli.parser import add_json, add_socket
from carpd.control.client import request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Exit with 0 if this host is master, with 1 if not, with another status if that is not known."
    parser.add_argument("name", metavar="NAME", help="a virtual host with all its nodes, or one node NAME:VHID")
    share = parser.add_mutually_exclusive_group()
    share.add_argument(
        "--any", action="store_true", help="master of one node suffices, where there are several (default)"
    )
    share.add_argument("--all", action="store_true", help="master of all nodes")
    parser.add_argument("--verbose", "-v", action="store_true", help="say it, too")
    add_json(parser)
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """0 or 1. Raise ControlError."""
    hosts = request(args.socket, "status", name=args.name)["virtual_hosts"]
    states = {host["name"]: host["state"] for host in hosts}
    masters = [state == "MASTER" for state in states.values()]
    yes = all(masters) if args.all else any(masters)
    if args.json:
        print(json.dumps({"master": yes, "states": states}))
    elif args.verbose:
        print("\n".join(f"{name}: {state}" for name, state in states.items()))
    return 0 if yes else 1
