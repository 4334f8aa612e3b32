"""`carpctl ifconfig`: what is configured and what it does, shown and set in OpenBSD's words.

What is set so lives until the daemon ends or reads its file again. `--save` writes it into the file, which is ours to
do: the daemon may read its configuration alone.
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
    parser.add_argument(
        "--save", action="store_true", help="write it into the configuration file, too; without words, all that was set"
    )
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
    parser.set_defaults(wrong_usage=parser.error)


def run(args: argparse.Namespace) -> int:
    """0; 8 if a part of it was refused. Raise ControlError."""
    words = args.words if args.group is None else ["-g", *args.group]
    if len(words) > (2 if words[:1] == ["-g"] else 1):
        return _set(args, words)
    if not args.save:
        shown = request(args.socket, "ifconfig", words=words)["shown"]
        for line in [json.dumps(shown)] if args.json else _shown(shown):
            print(line)
    elif words:
        args.wrong_usage("--save wants words that set something, or none at all: then it saves all that was set")
    else:
        _tell_saved(_save(args.socket), json_wanted=args.json)
    return 0


def _set(args: argparse.Namespace, words: Sequence[str]) -> int:
    """The exit status. Raise ControlError; what was done before is told all the same."""
    answer = request(args.socket, "ifconfig_set", words=words)
    paths = answer.pop("paths")
    try:
        if args.save:
            answer["saved"] = _save(args.socket, paths) if paths else None
    finally:
        _tell_set(answer, json_wanted=args.json)
    return Failure.REFUSED.value if answer["failures"] or answer["refused"] else 0


def _save(socket: str, paths: Sequence[Sequence[str]] | None = None) -> dict[str, Any]:
    """Write what was set at these paths into the file; without them, all. What that was. Raise ControlError."""
    from carpd.config.edits import Edit
    from carpd.config.save import SaveError, alone, save

    saving = request(socket, "ifconfig_save", paths=paths)
    try:
        if saving["edits"]:
            with alone(saving["file"]):
                saving = request(socket, "ifconfig_save", paths=paths)  # behind what others have saved meanwhile
                save(saving["file"], [Edit(tuple(path), value) for path, value in saving["edits"]])
    except SaveError as error:
        raise ControlError(Failure.REFUSED, f"{error}; what was set holds until the daemon ends") from error
    del saving["edits"]
    return saving


def _tell_set(answer: dict[str, Any], *, json_wanted: bool) -> None:
    """What has changed in the daemon; and what is still not in its file."""
    if json_wanted:
        print(json.dumps(answer))
        return
    saved = answer.get("saved") or {"problems": [], "left": []}
    for line in dict.fromkeys((*answer["problems"], *saved["problems"], *answer["failures"])):
        print(line, file=sys.stderr)
    _tell_plan(answer["plan"])
    if answer.get("saved", saved) is None:
        print("carpctl: state and carpdemote are not saved: they are for now", file=sys.stderr)
    if saved["left"]:
        left = ", ".join(saved["left"])
        print(f"carpctl: not saved: what was set of {left} before; carpctl ifconfig --save saves all", file=sys.stderr)
    if answer["failures"]:
        print("carpctl: the kernel refused a part of it, which is tried again", file=sys.stderr)
    for line in answer["refused"]:
        print(f"carpctl: {line}", file=sys.stderr)


def _tell_saved(saved: dict[str, Any], *, json_wanted: bool) -> None:
    """What has changed in the file."""
    if json_wanted:
        print(json.dumps(saved))
        return
    for line in saved["problems"]:
        print(line, file=sys.stderr)
    _tell_plan(saved["plan"])
    print(f"saved in {saved['file']}" if saved["plan"] else f"{saved['file']} has all that was set")


def _tell_plan(changes: Iterable[dict[str, Any]]) -> None:
    for change in changes:
        print(f"{change['sign']} {change['text']}")


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
