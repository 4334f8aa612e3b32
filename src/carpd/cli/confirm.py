"""`carpctl confirm`: the change that `carpctl reload --confirm` made is to stay."""

from __future__ import annotations

import argparse
import json

from carpd.cli.parser import add_json, add_socket
from carpd.control.client import request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """0. Raise ControlError if nothing waits for it, any more."""
    answer = request(args.socket, "confirm")
    print(json.dumps(answer) if args.json else "confirmed")
    return 0
