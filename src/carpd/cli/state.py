"""`carpctl state NAME master|backup`: move a virtual host, now. Where a better placed host preempts it can't last."""

from __future__ import annotations

import argparse
import json
import sys

from carpd.cli.parser import add_json, add_socket
from carpd.cli.terminal import Style
from carpd.control.client import request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a virtual host with all its nodes, or one node NAME:VHID")
    parser.add_argument("state", metavar="STATE", choices=("master", "backup"), help="master or backup")
    add_json(parser)
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """0 when it is so. Raise ControlError if it is not, or does not last."""
    answer = request(args.socket, "state", name=args.name, state=args.state)
    if args.json:
        print(json.dumps(answer))
    else:
        style = Style(sys.stdout)
        for host in answer["virtual_hosts"]:
            print(_line(host, answer["before"][host["name"]], style))
    return 0


def _line(host: dict[str, Any], before: str, style: Style) -> str:
    state = style.paint(host["state"], host["state"])
    what = f"{host['name']}: {state}, as before" if host["state"] == before else f"{host['name']}: {before} -> {state}"
    if host["state"] != "BACKUP":
        return what
    if host["master"]:
        return f"{what}; master is {host['master']['source']}"
    return f"{what}; no master is heard: without one this host takes over in {host['master_down_s']:.1f} s"
