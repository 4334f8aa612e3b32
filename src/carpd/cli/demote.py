"""`carpctl demote`: make this host give way, for a reason that everybody can see, and perhaps for a time."""

from __future__ import annotations

import argparse
import json

from carpd.cli import moments
from carpd.cli.parser import add_json, add_socket, listed
from carpd.cli.terminal import aligned
from carpd.control.client import request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make this host give way to others, or end that. What demotes is the sum of all reasons, the same for all "
        "virtual hosts of a group. Without arguments it tells them."
    )
    parser.add_argument("name", metavar="NAME|GROUP", nargs="?", help="a redundancy group, or a virtual host of it")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--by", metavar="N", type=_amount, help="demote by 1 to 255, in place of what was said before")
    action.add_argument("--end", action="store_true", help="end it: what has this reason, or what any operator began")
    parser.add_argument("--reason", metavar="TEXT", help="what it is for; each reason counts by itself")
    parser.add_argument(
        "--for", dest="for_s", metavar="TIME", type=moments.length, help="end it after 90s, 30m, 2h, 1d or 1h30m"
    )
    add_json(parser)
    add_socket(parser)
    parser.set_defaults(wrong_usage=parser.error)


def _amount(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 255:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1 and 255")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """0. Raise ControlError."""
    wrong = _what_is_wrong(args)
    if wrong:
        args.wrong_usage(wrong)
    if args.end:
        answer = request(args.socket, "end_demotion", name=args.name, reason=args.reason)
    elif args.by:
        answer = request(args.socket, "demote", name=args.name, amount=args.by, reason=args.reason, for_s=args.for_s)
    else:
        answer = {"groups": request(args.socket, "status")["groups"]}
    if args.json:
        print(json.dumps(answer))
    elif args.name:
        print("\n".join(_of_group(answer["group"], answer.get("ended", []))))
    else:
        print("\n".join(_table(answer["groups"])))
    return 0


def _what_is_wrong(args: argparse.Namespace) -> str:
    """What argparse can't see."""
    if args.name is None and (args.by or args.end or args.reason or args.for_s):
        return "name a virtual host or a group"
    if args.name is not None and not (args.by or args.end):
        return "say --by how much, or --end"
    return "--for goes with --by" if args.end and args.for_s else ""


def _of_group(group: dict[str, Any], ended: list[str]) -> Iterator[str]:
    """What has become of one group."""
    hosts = f"group {group['name']} ({listed(group['virtual_hosts'])})"
    over = f"ended: {', '.join(ended)}; " if ended else ""
    yield f"{hosts}: {over}demoted by {group['demotion']}" + (":" if group["reasons"] else "")
    for reason in group["reasons"]:
        until = f", until {moments.clock(reason['until'])}" if reason["until"] else ""
        yield f"  {reason['amount']:>3}  {reason['reason']}{until}"


def _table(groups: list[dict[str, Any]]) -> Iterator[str]:
    """Every reason of every group."""
    rows = [
        (group["name"], str(one["amount"]), moments.clock(one["until"]) if one["until"] else "-", one["reason"])
        for group in groups
        for one in group["reasons"]
    ]
    if not rows:
        yield "no group is demoted"
        return
    for cells in aligned([("GROUP", "BY", "UNTIL", "REASON"), *rows]):
        yield "  ".join(cells).rstrip()
