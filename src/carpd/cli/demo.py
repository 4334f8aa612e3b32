"""`carpctl demo`: two firewalls fail over before your eyes, in network namespaces, in under a minute."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO

from carpd.lab import rootless
from carpd.lab.demo import Demo
from carpd.lab.report import render
from carpd.lab.screen import Screen
from carpd.lab.story import table
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a picture: one HTML page, or SVG (*.svg)")


def run(args: argparse.Namespace) -> int:
    """0 if every step did what it must, 1 if one did not, 2 if there can be no laboratory or no report here."""
    try:
        rootless.become_root([sys.executable, *sys.orig_argv[1:]])
        with _report(args.report) as report:
            return _demo(args, report)
    except LabError as error:
        print(f"carpctl demo: {error}", file=sys.stderr)
        return 2


def _report(path: Path | None) -> AbstractContextManager[TextIO | None]:
    """Open before it begins: a minute later would be late for a mistake. Raise LabError."""
    try:
        return path.open("w", encoding="utf-8") if path else nullcontext()
    except OSError as error:
        raise LabError(f"{path} can't be written: {error.strerror}") from error


def _demo(args: argparse.Namespace, report: TextIO | None) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as after Ctrl-C
    screen = Screen(sys.stderr if args.json else sys.stdout)
    with Lab() as lab:
        try:
            story = Demo(lab, screen.show).run()
        finally:
            screen.close()
        logs = {
            f"{node.name}: {name}": text for node in lab.nodes.values() for name, text in node.logs().items() if text
        }
    if report:
        report.write(render(story, svg_alone=args.report.suffix == ".svg"))
    if args.json:
        print(json.dumps(story.as_dict(), indent=2))
    else:
        print(f"\n{table(story.steps)}\n")
        print("Gaps are what the client saw, with a probe every millisecond; the bound is the protocol's own.")
        print(
            "A stall is the longest time in which a connection moved nothing: TCP may need twice the gap to try again."
        )
    if story.faults:
        for name, text in logs.items():
            print(f"\n--- {name}\n{text}", file=sys.stderr)
    return 1 if story.faults else 0
