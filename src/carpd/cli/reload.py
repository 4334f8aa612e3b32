"""`carpctl reload`: let the daemon read its configuration again and go over to it; or see before what that would do."""

from __future__ import annotations

import argparse
import json
import sys

from carpd.cli import moments
from carpd.cli.parser import add_json, add_socket
from carpd.cli.terminal import Style
from carpd.control.client import request
from carpd.control.protocol import ControlError, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

TIMEOUT_S = 60.0
"""A thousand virtual hosts take some seconds, and a process that hangs is ended before it goes on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Let the daemon read its configuration again, and go over to it as a whole: addresses that stay are never "
        "given up, and a file with a mistake changes nothing."
    )
    parser.add_argument("--plan", action="store_true", help="tell what would change, and change nothing")
    parser.add_argument(
        "--confirm",
        dest="confirm_s",
        metavar="SECONDS",
        type=_seconds,
        help="take it back then, or when peers refuse this host for it, unless `carpctl confirm` comes before",
    )
    add_json(parser)
    add_socket(parser)
    parser.set_defaults(wrong_usage=parser.error)


def _seconds(text: str) -> int:
    seconds = int(text[:9]) if text.isascii() and text.isdigit() else moments.length(text)
    if not 1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not between a second and a day")
    return seconds


def run(args: argparse.Namespace) -> int:
    """0; 3 if the configuration is wrong; 8 if the kernel refused a part of it. Raise ControlError."""
    if args.plan and args.confirm_s:
        args.wrong_usage("--plan changes nothing: there is nothing to --confirm")
    try:
        outcome = request(args.socket, "reload", timeout_s=TIMEOUT_S, plan=args.plan, confirm_s=args.confirm_s)
    except ControlError as error:
        if error.failure is not Failure.CONFIGURATION:
            raise
        return _wrong(str(error).splitlines(), json_wanted=args.json)
    if args.json:
        print(json.dumps(outcome))
    else:
        for line in (*outcome["problems"], *outcome["failures"]):
            print(line, file=sys.stderr)
        print("\n".join(_told(outcome, Style(sys.stdout))))
    if not outcome["failures"]:
        return 0
    print("carpctl: the kernel refused a part of it, which is tried again", file=sys.stderr)
    return Failure.REFUSED.value


def _wrong(problems: list[str], *, json_wanted: bool) -> int:
    """Every mistake, as `carpd --check` tells it."""
    if json_wanted:
        print(json.dumps({"applied": False, "plan": [], "problems": problems, "failures": [], "confirm_s": None}))
    else:
        for line in (*problems, "carpctl: nothing was changed: the configuration is wrong"):
            print(line, file=sys.stderr)
    return Failure.CONFIGURATION.value


def _told(outcome: dict[str, Any], style: Style) -> Iterator[str]:
    changes = outcome["plan"]
    for change in changes:
        line = f"{change['sign']} {change['text']}"
        yield style.paint(line, "trouble") if change["disruptive"] else line
    if not changes:
        yield "nothing changes" if not outcome["applied"] else "nothing has changed"
        return
    number = len(changes)
    what = f"{number} change{'s' * (number != 1)}"
    disruptive = sum(change["disruptive"] for change in changes)
    if disruptive:
        what += f", {disruptive} of which give{'s' * (disruptive == 1)} addresses up"
    if not outcome["applied"]:
        yield f"{what}; nothing is changed yet"
    elif outcome["confirm_s"]:
        yield f"{what}; taken back in {outcome['confirm_s']} s unless you say: carpctl confirm"
    else:
        yield what
