"""`carpctl ifconfig`: what is configured and what it does, shown and set in OpenBSD's words.

What is set so lives until the daemon ends or reads its file again; `--save` writes it into the file, too.
"""

from __future__ import annotations

import argparse
import json
import sys

from carpd.cli.parser import add_json, add_socket
from carpd.control.client import request
from carpd.control.protocol import ControlError, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

_UP, _BROADCAST, _RUNNING, _SIMPLEX, _MULTICAST = 0x1, 0x2, 0x40, 0x800, 0x8000
_FLAGS = {_UP: "UP", _BROADCAST: "BROADCAST", _RUNNING: "RUNNING", _SIMPLEX: "SIMPLEX", _MULTICAST: "MULTICAST"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show and set virtual hosts and pfsync in the words of OpenBSD's ifconfig. What is set lives until the daemon "
        "ends or reads its configuration again."
    )
    parser.add_argument("--save", action="store_true", help="write it into the configuration file, too")
    add_json(parser)
    add_socket(parser)
    parser.add_argument(
        "-g",
        dest="group",
        nargs=argparse.REMAINDER,
        metavar="GROUP [WORDS]",
        help="a redundancy group: carpdemote [N], -carpdemote [N]; its demotion without them",
    )
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="[INTERFACE [WORDS]]",
        help="INTERFACE is the NAME of a virtual host, or pfsync0; e.g. carp0 create vhid 1 carpdev eth1 192.0.2.1/24, "
        "carp0 advskew 50, carp0 state backup, pfsync0 syncdev eth2 up",
    )


def run(args: argparse.Namespace) -> int:
    """0, or 3 if what was asked for can't be. Raise ControlError."""
    words = args.words if args.group is None else ["-g", *args.group]
    if len(words) < 2 or (words[0] == "-g" and len(words) == 2):
        shown = request(args.socket, "ifconfig", words=words)["shown"]
        print(json.dumps(shown) if args.json else "\n".join(_shown(shown)))
        return 0
    answer = request(args.socket, "ifconfig_set", words=words)
    edits = answer.pop("edits")
    if args.save and edits:
        _save(answer["file"], edits)
    if args.json:
        print(json.dumps(answer))
    else:
        for line in (*answer["problems"], *answer["failures"]):
            print(line, file=sys.stderr)
        for change in answer["plan"]:
            print(f"{change['sign']} {change['text']}")
    return 0


def _save(file: str, edits: Sequence[tuple[Sequence[str], Any]]) -> None:
    from carpd.config.save import SaveError, save

    try:
        save(file, edits)
    except SaveError as error:
        raise ControlError(Failure.REFUSED, f"{error}; what was asked for holds until the daemon ends") from error


def _shown(document: dict[str, Any]) -> Iterator[str]:
    for interface in document["interfaces"]:
        yield from _carp(interface)
    if document["pfsync"]:
        yield from _pfsync(document["pfsync"])
    for group in document["groups"]:
        yield f"{group['name']}: carp demote count {group['demotion']}"


def _carp(interface: dict[str, Any]) -> Iterator[str]:
    """Ref: spec carp §15.1."""
    nodes = interface["nodes"]
    runs = any(node["state"] != "INIT" for node in nodes)
    yield f"{interface['name']}: flags={_flags(up=interface['up'], runs=runs)}"
    if interface["mac"]:
        yield f"\tlladdr {interface['mac']}"
    common = f"carpdev {interface['interface']}"
    peers = "".join(f" carppeer {peer}" for peer in interface["peers"])
    if interface["balancing"]:
        yield f"\tcarp: {common} advbase {interface['advbase']} balancing {interface['balancing']}{peers}"
        for node in nodes:
            yield f"\t\tstate {node['state']} vhid {node['vhid']} advskew {node['advskew']}"
    for node in () if interface["balancing"] else nodes:
        timing = f"vhid {node['vhid']} advbase {interface['advbase']} advskew {node['advskew']}"
        yield f"\tcarp: {node['state']} {common} {timing}{peers}"
    if interface["group"]:
        yield f"\tgroups: {interface['group']}"
    yield f"\tstatus: {_status(nodes)}"
    yield from _addresses(interface["addresses"])


def _status(nodes: Sequence[dict[str, Any]]) -> str:
    states = {node["state"] for node in nodes}
    return "master" if "MASTER" in states else "backup" if "BACKUP" in states else "invalid"


def _addresses(addresses: Iterable[str]) -> Iterator[str]:
    from ipaddress import ip_interface

    for text in addresses:
        address = ip_interface(text)
        if address.version == 6:
            yield f"\tinet6 {address.ip} prefixlen {address.network.prefixlen}"
        else:
            netmask, broadcast = int(address.network.netmask), address.network.broadcast_address
            yield f"\tinet {address.ip} netmask {netmask:#010x} broadcast {broadcast}"


def _pfsync(pfsync: dict[str, Any]) -> Iterator[str]:
    """Ref: spec pfsync §8."""
    flags = (_UP if pfsync["up"] else 0) | (_RUNNING if pfsync["running"] else 0)
    yield f"pfsync0: flags={_named(flags)}"
    peers = "".join(f" syncpeer: {peer}" for peer in pfsync["syncpeer"])
    defer = "on" if pfsync["defer"] else "off"
    yield f"\tpfsync: syncdev: {pfsync['syncdev']}{peers} maxupd: {pfsync['maxupd']} defer: {defer}"


def _flags(*, up: bool, runs: bool) -> str:
    return _named((_UP if up else 0) | (_RUNNING if runs else 0) | _BROADCAST | _SIMPLEX | _MULTICAST)


def _named(flags: int) -> str:
    return f"{flags:x}<{','.join(name for flag, name in _FLAGS.items() if flags & flag)}>"
