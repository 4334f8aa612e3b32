"""carpctl decode: the CARP advertisements and pfsync packets in a capture file, one a line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from typing import BinaryIO

from carpd.cli.decode.advertisements import Digests, advertisement_json, advertisement_text
from carpd.cli.decode.packets import SeenPacket, Skipped, ip_packets
from carpd.errors import DecodeError
from carpd.trace.pcap import CapturedFrame, read_capture
from carpd.wire import carp
from carpd.wire.carp import is_vrrp
from carpd.wire.carp_auth import PASSWORD_LIMIT
from carpd.wire.pfsync import header as pfsync

_Show = Callable[[SeenPacket], str]
"""The lines for a packet. Raises DecodeError if there is nothing to show."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a pcap or pcapng capture; - is standard input")
    password = parser.add_mutually_exclusive_group()
    password.add_argument(
        "--password",
        help="check the digests with this password, which other users can see in the list of processes",
    )
    password.add_argument(
        "--password-file", type=Path, metavar="FILE", help="check the digests with the password in this file"
    )
    parser.add_argument(
        "--address",
        action="append",
        default=[],
        type=_address,
        help="a virtual address, like 192.0.2.1 or 192.0.2.1/24; the digest covers all of a vhid; give those of "
        "every vhid",
    )
    parser.add_argument("--states", action="store_true", help="print the states in pfsync packets too")
    parser.add_argument("--json", action="store_true", help="print an object a line, with the time since 1970")


def _address(text: str) -> IPv4Interface | IPv6Interface:
    try:
        return ip_interface(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    """Exit status 0, or 1 if a file could not be read to its end, or 2 for arguments that can't be used."""
    try:
        digests = _digests(args)
    except ValueError as error:
        return _complain(str(error), 2)
    except OSError as error:
        return _complain(f"{args.password_file}: {error.strerror}", 1)
    skipped = Skipped()
    show: dict[int, _Show] = {
        carp.PROTOCOL: partial(advertisement_json if args.json else advertisement_text, digests=digests),
        pfsync.PROTOCOL: partial(_pfsync, json=args.json, states=args.states, skipped=skipped),
    }
    trouble = None
    try:
        for line in _lines(_read(args.file), show, skipped):
            print(line)
    except DecodeError as error:
        trouble = str(error)
    sys.stdout.flush()
    if notes := skipped.notes(vrrp=not args.json):
        _complain(f"{args.file}: {notes}", 0)
    return _complain(f"{args.file}: {trouble}", 1) if trouble else 0


def _complain(message: str, status: int) -> int:
    print(f"carpctl decode: {message}", file=sys.stderr)
    return status


def _read(name: str) -> Iterator[CapturedFrame]:
    """What was captured. Raise DecodeError if it can't be read."""
    try:
        with _open(name) as file:
            yield from read_capture(file)
    except OSError as error:
        raise DecodeError(error.strerror) from error


def _open(name: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb")


def _digests(args: argparse.Namespace) -> Digests:
    """Raise ValueError for arguments that can't be used, OSError for a password file that can't be read."""
    if args.password_file is not None:
        key = args.password_file.read_bytes().removesuffix(b"\n")
    elif args.password is not None:
        key = os.fsencode(args.password)
    else:
        key = None
    if key is None and args.address:
        raise ValueError("a digest is checked with the password too: give --password or --password-file")
    if key is not None and len(key) > PASSWORD_LIMIT:
        raise ValueError(f"a password has at most {PASSWORD_LIMIT} bytes, this one has {len(key)}")
    return Digests(key, [address.ip.packed for address in args.address])


def _lines(frames: Iterable[CapturedFrame], show: Mapping[int, _Show], skipped: Skipped) -> Iterator[str]:
    for seen in ip_packets(frames, show.keys(), skipped):
        protocol = seen.packet.protocol
        if protocol == carp.PROTOCOL and is_vrrp(seen.packet.payload):
            skipped.vrrp += 1
            continue
        try:
            yield show[protocol](seen)
        except DecodeError:
            skipped.undecodable[protocol] += 1


def _pfsync(seen: SeenPacket, *, json: bool, states: bool, skipped: Skipped) -> str:
    # Imported when the first packet needs it: it takes 10 ms, and most captures are of CARP alone.
    from carpd.cli.decode.pfsync_packets import pfsync_json, pfsync_text

    return pfsync_json(seen, states, skipped) if json else pfsync_text(seen, states)
