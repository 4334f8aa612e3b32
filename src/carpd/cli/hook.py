"""`carpctl hook test NAME`: run a hook once, as if something had happened, and see what it prints and how it ends."""

from __future__ import annotations

import argparse
import json

from carpd.cli.parser import add_json, add_socket
from carpd.config.model import HookEvent
from carpd.control.client import follow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run a hook once, now, as if its event had happened."
    parser.add_argument("action", metavar="test", choices=("test",), help="what there is to be done with one")
    parser.add_argument("name", metavar="HOOK", help="NAME in [hook.NAME]")
    parser.add_argument(
        "--event",
        metavar="EVENT",
        choices=[event.value for event in HookEvent],
        help="one that hooks are run for (the first of its own)",
    )
    add_json(parser, "an object a line")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """0 if the hook has exited with 0, otherwise 1. Raise ControlError."""
    for answer in follow(args.socket, "hook_test", name=args.name, event=args.event):
        if args.json:
            print(json.dumps(answer), flush=True)
        elif "line" in answer:
            print(answer["line"], flush=True)
        elif "ends" in answer:
            print(f"hook {args.name}: {answer['ends']}")
        if "ends" in answer:
            return 0 if answer["good"] else 1
    raise AssertionError("follow() does not end by itself")
