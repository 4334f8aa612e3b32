"""`carpctl import`: from the configuration of another program to ours."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from carpd.cli.check import check
from carpd.cli.parser import AsWritten
from carpd.errors import CarpdError
from carpd.migration import ucarp
from carpd.migration.formats import FORMATS, PROGRAMS, read_all, recognise
from carpd.migration.found import Found, Place
from carpd.migration.merge import merge
from carpd.migration.write import Written, write

EXIT_UNUSABLE = 1
"""There is nothing to be written."""

_COMMAND_LINE = "a command line of ucarp"

_EPILOG = """\
The hosts share one configuration. Give the files of all of them, each host's as HOST=FILE or HOST=DIRECTORY, where a
directory is that host's /etc or a copy; or those of one host, with --node if there are others.

A list of what was not taken over, or is different, goes to standard error and to the end of the file.

    carpctl import fw-a=/copies/fw-a/etc fw-b=/copies/fw-b/etc --output /etc/carpd/carpd.toml
    carpctl import --interface-map em0=eth0,em1=eth1 hostname.carp0 hostname.pfsync0 sysctl.conf
    carpctl import -- ucarp -i eth0 -s 192.0.2.2 -v 3 -p secret -a 192.0.2.1
"""


class ImportUnusableError(CarpdError):
    """There is nothing to be written; the message is one line for the user."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read how CARP is set up on OpenBSD, on FreeBSD or with ucarp, VRRP with keepalived, or state synchronisation\n"
        "with conntrackd, and write our configuration."
    )
    parser.epilog = _EPILOG
    parser.formatter_class = AsWritten
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="what to read, or behind -- a command line: ucarp -i ..."
    )
    parser.add_argument("--from", dest="program", choices=PROGRAMS, help="what all files are of, if they don't tell")
    parser.add_argument("--node", metavar="HOST", help="the host that files without HOST= are of")
    parser.add_argument(
        "--interface-map", metavar="OLD=NEW,...", type=_interface_map, default={}, help="how interfaces are called here"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write there, with files for secrets beside it, for root alone"
    )


def _interface_map(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(old and new for old, _, new in pairs):
        raise argparse.ArgumentTypeError("write OLD=NEW,OLD=NEW, such as em0=eth0,em1=eth1")
    return {old: new for old, _, new in pairs}


def run(args: argparse.Namespace) -> int:
    """0, 1 if nothing could be made of the files, 3 if carpd would refuse what was made."""
    try:
        hosts = _read_hosts(args)
        configuration = merge(hosts)
        for remark in configuration.remarks:
            print(remark, file=sys.stderr)
        if not configuration.sections:
            raise ImportUnusableError("nothing of CARP, VRRP or pfsync was found")
        sources = [_COMMAND_LINE] if _is_command_line(args.files) else args.files
        written = write(configuration.sections, configuration.scripts, configuration.remarks, sources)
        if args.output is not None:
            _put(written, args.output)
    except (CarpdError, OSError) as error:
        print(f"carpctl import: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    if args.output is None:
        print(written.text, end="")
        if written.files:
            print(f"with --output FILE these are written too: {', '.join(written.files)}", file=sys.stderr)
        return 0
    nodes = [host.node for host in hosts]
    return max(check(args.output, node, None, sys.stderr) for node in nodes)


def _read_hosts(args: argparse.Namespace) -> list[Found]:
    """What the files of each host say. Raise CarpdError, OSError."""
    if _is_command_line(args.files):
        found = Found(args.node, args.interface_map)
        ucarp.read_command(args.files[1:], Place(_COMMAND_LINE, 1), found)
        return [found]
    files: dict[str | None, list[tuple[str, str, str]]] = {}
    for argument in args.files:
        node, path = _host_and_path(argument, args.node)
        for file in _files(path):
            text = file.read_text(encoding="utf-8", errors="replace")
            name = recognise(str(file), text, args.program)
            if name is None:
                raise ImportUnusableError(f"{file}: what is it of? Say --from {'|'.join(PROGRAMS)}")
            files.setdefault(node, []).append((name, str(file), text))
    if len(files) > 1 and None in files:
        raise ImportUnusableError("some files are of a host and some of none: write HOST=FILE, or --node HOST")
    hosts = []
    for node, of_host in files.items():
        found = Found(node, args.interface_map)
        read_all(found, of_host)
        hosts.append(found)
    return hosts


def _is_command_line(words: Sequence[str]) -> bool:
    return Path(words[0]).name == "ucarp" and any(word.startswith("-") for word in words)


def _host_and_path(argument: str, node: str | None) -> tuple[str | None, Path]:
    """A file may have a = in its name."""
    host, equals, path = argument.partition("=")
    if equals and host and "/" not in host and not os.path.lexists(argument):
        return host, Path(path)
    return node, Path(argument)


def _files(path: Path) -> Iterator[Path]:
    """The file; of a directory, those that have the names of what can be read."""
    if not path.is_dir():
        yield path
        return
    there = [file for known in FORMATS.values() for pattern in known.files for file in sorted(path.glob(pattern))]
    if not there:
        raise ImportUnusableError(f"{path}: there is no file in it that can be read")
    yield from there


def _put(written: Written, output: Path) -> None:
    """Write everything, or nothing if one of the files is there already. Raise OSError, ImportUnusableError."""
    texts = {output: written.text, **{output.parent / name: text for name, text in written.files.items()}}
    for path in texts:
        if os.path.lexists(path):
            raise ImportUnusableError(f"{path} is there already: choose another name, or remove it")
    for path, text in texts.items():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    names = ", ".join(str(path) for path in texts)
    print(f"written, for its owner alone: {names}; the same files go to every host", file=sys.stderr)
