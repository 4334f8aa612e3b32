"""carpctl decode: the advertisements in a capture file, one a line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from itertools import combinations
from pathlib import Path
from typing import BinaryIO, NamedTuple

from carpd.errors import DecodeError
from carpd.trace.linktype import UnsupportedLinkTypeError, find_packet
from carpd.trace.pcap import CapturedFrame, read_capture
from carpd.units import SECOND
from carpd.wire import carp
from carpd.wire.carp import Advertisement, checksum_ok, is_vrrp
from carpd.wire.carp_auth import KEY_SIZE, Authenticator
from carpd.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, format_mac
from carpd.wire.frames import ReceivedPacket, decode_ip

_PASSWORD_LIMIT = KEY_SIZE - 1  # as the tools of the BSDs have it
_PROTOCOL_OFFSET = {ETHERTYPE_IPV4: 9, ETHERTYPE_IPV6: 6}
_CARP_VERSION = 2
_SUBSETS_OF = 10
"""Up to so many addresses all their subsets are tried: 1024 digests of a microsecond."""


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
    show = _json_line if args.json else _text_line
    skipped = _Skipped()
    trouble = None
    try:
        with _open(args.file) as file:
            for seen in _advertisements(read_capture(file), skipped):
                print(show(seen, digests.check(seen.message)))
    except DecodeError as error:
        trouble = str(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        trouble = error.strerror
    sys.stdout.flush()
    if notes := skipped.notes(vrrp=not args.json):
        _complain(f"{args.file}: {notes}", 0)
    return _complain(f"{args.file}: {trouble}", 1) if trouble else 0


def _complain(message: str, status: int) -> int:
    print(f"carpctl decode: {message}", file=sys.stderr)
    return status


def _open(name: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb")


def _digests(args: argparse.Namespace) -> _Digests:
    """Raise ValueError for arguments that can't be used, OSError for a password file that can't be read."""
    if args.password_file is not None:
        key = args.password_file.read_bytes().removesuffix(b"\n")
    elif args.password is not None:
        key = os.fsencode(args.password)
    else:
        key = None
    if key is None and args.address:
        raise ValueError("a digest is checked with the password too: give --password or --password-file")
    if key is not None and len(key) > _PASSWORD_LIMIT:
        raise ValueError(f"a password has at most {_PASSWORD_LIMIT} bytes, this one has {len(key)}")
    return _Digests(key, [address.ip.packed for address in args.address])


class _Verdict(NamedTuple):
    """What became of checking a digest; `over` says which addresses it covers if it is not all that were given."""

    digest: str
    over: str = ""


class _Digests:
    """Checks digests with one key (None: not at all).

    A capture may show several vhids, and one vhid with changing addresses. So a digest is right if it covers any of the
    given addresses, and the line says which where it is not all of them.
    """

    def __init__(self, key: bytes | None, addresses: list[bytes]) -> None:
        self._key = key
        self._sets = [addresses]
        if len(addresses) <= _SUBSETS_OF:
            for size in range(len(addresses) - 1, -1, -1):
                self._sets += map(list, combinations(addresses, size))
        self._authenticators: dict[tuple[int, int], Authenticator] = {}
        self._last_right: dict[int, int] = {}

    def check(self, message: Advertisement) -> _Verdict:
        if self._key is None:
            return _Verdict("unchecked")
        likely = self._last_right.get(message.vhid, 0)
        for number in (likely, *range(len(self._sets))):
            if self._authenticator(message.vhid, number).verify(message.counter, message.digest):
                self._last_right[message.vhid] = number
                return _Verdict("ok", self._over(number))
        return _Verdict("bad")

    def _authenticator(self, vhid: int, number: int) -> Authenticator:
        known = self._authenticators.get((vhid, number))
        if known is None:
            addresses = self._sets[number]
            known = self._authenticators[vhid, number] = Authenticator(
                self._key or b"", vhid, (a for a in addresses if len(a) == 4), (a for a in addresses if len(a) == 16)
            )
        return known

    def _over(self, number: int) -> str:
        if number == 0:
            return ""
        return " over " + (" ".join(str(ip_address(a)) for a in self._sets[number]) or "no address")


class _Seen(NamedTuple):
    """An advertisement, and how it came."""

    time_ns: int
    elapsed_ns: int  # since the first frame of the capture
    packet: ReceivedPacket
    message: Advertisement


@dataclass(slots=True)
class _Skipped:
    """What could not be shown."""

    vrrp: int = 0
    undecodable: int = 0
    other_links: int = 0

    def notes(self, *, vrrp: bool) -> str:
        """One line, empty if there is nothing to say; VRRP packets are told of if wanted."""
        counts = (
            (self.vrrp if vrrp else 0, "VRRP"),
            (self.undecodable, "of protocol 112, but no whole CARP packet"),
            (self.other_links, "of a link type that is not supported"),
        )
        told = [f"{count} {what}" for count, what in counts if count]
        return f"packets skipped: {', '.join(told)}" if told else ""


def _advertisements(frames: Iterable[CapturedFrame], skipped: _Skipped) -> Iterator[_Seen]:
    start_ns = None
    for frame in frames:
        if start_ns is None:
            start_ns = frame.time_ns
        try:
            packet = _protocol_packet(frame)
            if packet is None:
                continue
            if is_vrrp(packet.payload):
                skipped.vrrp += 1
                continue
            message = _advertisement(packet)
        except UnsupportedLinkTypeError:
            skipped.other_links += 1
        except DecodeError:
            skipped.undecodable += 1
        else:
            yield _Seen(frame.time_ns, frame.time_ns - start_ns, packet, message)


def _protocol_packet(frame: CapturedFrame) -> ReceivedPacket | None:
    """The packet of protocol 112 in a frame. Raise DecodeError if it is one, but can't be read."""
    found = find_packet(frame)
    if found is None or found.ethertype not in _PROTOCOL_OFFSET:
        return None
    # Looked at first, for a capture with a short snapshot length cuts many other packets.
    protocol = found.offset + _PROTOCOL_OFFSET[found.ethertype]
    if frame.data[protocol : protocol + 1] != bytes((carp.PROTOCOL,)):
        return None
    return decode_ip(found.ethertype, frame.data, found.offset, found.source_mac, found.destination_mac)


def _advertisement(packet: ReceivedPacket) -> Advertisement:
    if packet.fragment:
        raise DecodeError("carp: a fragment")
    message = Advertisement.from_bytes(packet.payload)
    if message.version != _CARP_VERSION:
        raise DecodeError(f"carp: need version {_CARP_VERSION}, got {message.version}")
    return message


def _text_line(seen: _Seen, verdict: _Verdict) -> str:
    message, packet = seen.message, seen.packet
    route = f"{ip_address(packet.source)} > {ip_address(packet.destination)}"
    return (
        f"{seen.elapsed_ns / SECOND:>11.6f} {route:<35} carp vhid {message.vhid:<3} advbase {message.advbase:<3} "
        f"advskew {message.advskew:<3} demotion {message.demotion:<3} counter {message.counter:016x} "
        f"ttl {packet.ttl:<3} checksum {_checksum(packet)} digest {verdict.digest}{verdict.over}"
    )


def _json_line(seen: _Seen, verdict: _Verdict) -> str:
    message, packet = seen.message, seen.packet
    fields = {
        "time": seen.time_ns / SECOND,
        "family": packet.family,
        "source": str(ip_address(packet.source)),
        "destination": str(ip_address(packet.destination)),
        "source_mac": format_mac(packet.source_mac) or None,  # not every link type has one
        "ttl": packet.ttl,
        "vhid": message.vhid,
        "advbase": message.advbase,
        "advskew": message.advskew,
        "demotion": message.demotion,
        "counter": f"{message.counter:016x}",
        "checksum": _checksum(packet),
        "digest": verdict.digest,
    }
    return json.dumps(fields)


def _checksum(packet: ReceivedPacket) -> str:
    return "ok" if checksum_ok(packet.payload) else "bad"
