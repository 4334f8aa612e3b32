"""`carpctl monitor`: the present state of every virtual host, then what happens, as it happens."""

from __future__ import annotations

import argparse
import json
import re
import sys

from carpd.cli import moments
from carpd.cli.parser import add_json, add_socket
from carpd.cli.terminal import Style
from carpd.control.client import follow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STATES = re.compile("MASTER|BACKUP|INIT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="only what concerns this virtual host, or its group")
    add_json(parser, "an object a line")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Never returns: raise ControlError when the daemon ends."""
    style = Style(sys.stdout)
    for event in follow(args.socket, "monitor", **({"name": args.name} if args.name else {})):
        print(json.dumps(event) if args.json else _line(event, style), flush=True)
    return 0


def _line(event: dict[str, Any], style: Style) -> str:
    text = _STATES.sub(lambda state: style.paint(state[0], state[0]), event["text"])
    return f"{moments.precise(event['time'])} {text}"
