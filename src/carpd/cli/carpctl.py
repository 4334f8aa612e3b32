"""carpctl: the client and the tools. Each subcommand is a module, imported only when it is the one that runs.

It starts quickly, as scripts and completion call it often: what a subcommand that asks the daemon imports on its way is
argparse, socket, json, and little else (benchmarks/carpctl.py).
"""

from __future__ import annotations

import sys
from importlib import import_module

from carpd import __version__
from carpd.cli.parser import AsWritten, Parser
from carpd.cli.streams import standard_streams
from carpd.control.protocol import ControlError, Failure
from carpd.nearest import hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "status": ("carpd.cli.status", "tell the state of every virtual host, or all about one"),
    "monitor": ("carpd.cli.monitor", "tell what happens, as it happens"),
    "state": ("carpd.cli.state", "make this host master of a virtual host, or backup"),
    "demote": ("carpd.cli.demote", "make this host give way to others, or end that"),
    "is-master": ("carpd.cli.is_master", "say by the exit status whether this host is master"),
    "ifconfig": ("carpd.cli.ifconfig", "show and set all of it in the words of OpenBSD's ifconfig"),
    "reload": ("carpd.cli.reload", "read the configuration again, or tell what that would change"),
    "confirm": ("carpd.cli.confirm", "keep the change of reload --confirm"),
    "statistics": ("carpd.cli.statistics", "tell what was received, refused and sent"),
    "hook": ("carpd.cli.hook", "try a hook"),
    "import": ("carpd.cli.import_", "make our configuration from that of another program"),
    "completion": ("carpd.cli.completion", "print what makes a shell complete the words of carpctl"),
    "replay": ("carpd.cli.replay", "walk through a recording of carpd --record"),
    "demo": ("carpd.cli.demo", "let two firewalls fail over before your eyes"),
    "decode": ("carpd.cli.decode", "print the CARP advertisements and pfsync packets in a capture file"),
}
"""Name -> module, and what it does. A module has `add_arguments(parser)`, and `run(args)`: it does it and returns the
exit status, or raises ControlError.
"""

HIDDEN = {
    "names": ("carpd.cli.names", "print names that there are, for completion"),
}
"""Likewise those that nobody types."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: the subcommand's, a `Failure`'s, 130 when interrupted, those of `streams`."""
    try:
        with standard_streams("carpctl"):
            return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return 130
    except Exception:  # the interpreter would end with 1, which is an answer
        sys.excepthook(*sys.exc_info())
        return Failure.DEFECT.value


def _run(argv: Sequence[str]) -> int:
    try:
        if not argv or argv[0] not in COMMANDS | HIDDEN:
            return _none(argv)
        args = subcommand(argv[0]).parse(argv[1:])
        status: int = args.run(args)
    except ControlError as error:
        print(f"carpctl: {error}", file=sys.stderr)
        return error.failure.value
    return status


def subcommand(name: str) -> Parser:
    """The parser of a subcommand; what it reads has the function to run as `run`."""
    module, summary = (COMMANDS | HIDDEN)[name]
    command = import_module(module)
    parser = Parser(prog=f"carpctl {name}", description=f"{summary[0].upper()}{summary[1:]}.")
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)
    return parser


def overview() -> Parser:
    """The parser of what is said without a subcommand."""
    width = max(map(len, COMMANDS))
    parser = Parser(
        prog="carpctl",
        usage="carpctl COMMAND ...",
        description="Ask what CARP and pfsync do, and change it.\n\ncommands:\n"
        + "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()),
        epilog="carpctl COMMAND --help tells more.",
        formatter_class=AsWritten,
    )
    parser.add_argument("--version", action="version", version=f"carpctl {__version__}")
    return parser


def _none(argv: Sequence[str]) -> int:
    parser = overview()
    if not argv:
        parser.error("say what to do")
    if not argv[0].startswith("-"):
        parser.error(f"unknown command {argv[0]!r}: {hint(argv[0], COMMANDS)}")
    behind = [word for word in argv if word in COMMANDS]
    if behind and argv[0].partition("=")[0] in _options(subcommand(behind[0])):
        parser.error(f"options come behind the command: carpctl {behind[0]} {argv[0]}")
    parser.parse(argv)  # --help and --version end here
    return 0


def _options(parser: Parser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}


if __name__ == "__main__":
    sys.exit(main())
