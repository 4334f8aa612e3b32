"""`carpctl statistics`: the counters of CARP and pfsync, in the words of BSD's `netstat -s`.

Ref: spec carp §6.1, pfsync §8.1; carpd.stats, carpd.pfsync.counters, carpd.linux.sync_sockets, carpd.pfsync.sealed.
"""

from __future__ import annotations

import argparse
import json

from carpd.cli.parser import add_json, add_socket
from carpd.control.client import request
from carpd.control.protocol import ControlError, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

CARP = {
    "ipackets": "packet{s} received (IPv4)",
    "ipackets6": "packet{s} received (IPv6)",
    "badif": "\tdiscarded for bad interface",
    "badttl": "\tdiscarded for wrong TTL",
    "hdrops": "\tshorter than header",
    "badsum": "\tdiscarded for bad checksum{s}",
    "badver": "\tdiscarded with a bad version",
    "badlen": "\tdiscarded because packet too short",
    "badauth": "\tdiscarded for bad authentication",
    "badvhid": "\tdiscarded for unknown vhid",
    "badaddrs": "\tdiscarded because of a bad address list",
    "vrrp": "\tof VRRP, which is not for us",
    "loops": "\tof our own, sent back by the network",
    "opackets": "packet{s} sent (IPv4)",
    "opackets6": "packet{s} sent (IPv6)",
    "onomem": "\tsend failed due to memory error",
    "oerrors": "\tsend failed",
    "preempt": "transition{s} to master",
}
"""The words of each counter, in the order of the checks; {s} is for more than one. What is set in is a part of what
stands above it.
"""

PFSYNC = {
    "ipackets": "packet{s} received (IPv4)",
    "ipackets6": "packet{s} received (IPv6)",
    "badttl": "\tdiscarded for bad TTL",
    "badpeer": "\tdiscarded because the sender is no syncpeer",
    "sealed_short": "\tdiscarded because too short to be sealed",
    "sealed_version": "\tdiscarded with another version of the seal",
    "sealed_reflected": "\tof our own, sent back sealed",
    "sealed_unknown_key": "\tdiscarded because sealed with another secret",
    "sealed_replayed": "\tdiscarded because seen before",
    "sealed_forged": "\tdiscarded because the seal does not open",
    "sealed_kind": "\tsealed, of an unknown kind",
    "sealed_unproven": "\tdiscarded until the sender has answered a challenge",
    "hdrops": "\tdiscarded for short header",
    "badver": "\tdiscarded for bad version",
    "badlen": "\tdiscarded for short packet{s}",
    "badact": "\tdiscarded for bad action",
    "loops": "\tof our own, sent back by the network",
    "duplicates": "\treceived twice",
    "late": "\treceived late",
    "badval": "state{s} discarded for bad values",
    "stale": "stale state{s}",
    "badstate": "failed state lookup/insert{s}",
    "unsupported": "state{s} that Linux can't have",
    "limit": "state{s} beyond max_states",
    "conflicts": "state{s} that clash with another connection",
    "kept": "state{s} kept because carried here",
    "inserted": "state{s} inserted",
    "updated": "state{s} updated",
    "deleted": "state{s} deleted",
    "told": "state change{s} told to peers",
    "lost": "packet{s} lost and told anew",
    "forgotten": "packet{s} lost that the sender had forgotten",
    "throttled": "request{s} beyond what is answered in a second",
    "overflows": "time{s} that the kernel told faster than we read",
    "challenges": "challenge{s} sent",
    "proofs": "sender{s} that came to be obeyed",
    "deferred": "packet{s} deferred",
    "undeferred": "\tlet go because the peers had the state",
    "defer_timeouts": "\tlet go because held too long",
    "defer_overflows": "\tlet go because there were too many",
    "defer_errors": "\tlet go and not taken by the interface",
    "defer_passed": "packet{s} not deferred because too many waited",
    "opackets": "packet{s} sent (IPv4)",
    "opackets6": "packet{s} sent (IPv6)",
    "onomem": "\tsend failed due to memory error",
    "oerrors": "\tsend error{s}",
}
"""Likewise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("protocol", metavar="PROTOCOL", nargs="?", choices=("carp", "pfsync"), help="carp or pfsync")
    add_json(parser)
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """0. Raise ControlError."""
    counters = _counters(request(args.socket, "status"))
    if args.protocol is not None:
        if args.protocol not in counters:
            raise ControlError(Failure.NO_SUCH_OBJECT, f"{args.protocol} is not running here")
        counters = {args.protocol: counters[args.protocol]}
    if args.json:
        print(json.dumps(counters))
    else:
        words = {"carp": CARP, "pfsync": PFSYNC}
        for name, of in counters.items():
            print("\n".join(_lines(name, of, words[name])))
    return 0


def _counters(status: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Of each protocol whose process runs: CARP's summed over the interfaces."""
    counters: dict[str, dict[str, int]] = {}
    if status["interfaces"]:
        of_interfaces = [interface["counters"] for interface in status["interfaces"]]
        counters["carp"] = {name: sum(of[name] for of in of_interfaces) for name in of_interfaces[0]}
    if status["pfsync"] and "counters" in status["pfsync"]:
        counters["pfsync"] = status["pfsync"]["counters"]
    return counters


def _lines(protocol: str, counters: Mapping[str, int], words: Mapping[str, str]) -> Iterator[str]:
    """What a counter is that we have no words for is said by its name."""
    yield f"{protocol}:"
    for name in (*(name for name in words if name in counters), *(name for name in counters if name not in words)):
        value = counters[name]
        text = words.get(name, name.replace("_", " ")).format(s="" if value == 1 else "s")
        inset = "\t" * (1 + text.startswith("\t"))
        yield f"{inset}{value} {text.lstrip()}"
