"""`carpctl status`: every virtual host at a glance, or one of them in full."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carpd.control.client import request
from carpd.control.protocol import DEFAULT_SOCKET, ControlError

_COLOURS = {"MASTER": "\033[32m", "BACKUP": "\033[36m", "INIT": "\033[31m"}
_PLAIN = "\033[0m"
_COLUMNS = ("NAME", "STATE", "SINCE", "VHID", "INTERFACE", "ADVSKEW", "DEMOTION", "SHARE", "MASTER", "ADDRESSES")
_SHARE = _COLUMNS.index("SHARE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="one virtual host, in full")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--socket", type=Path, default=DEFAULT_SOCKET, help="the daemon's socket (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """0, or the exit status of the failure. Ref: control.protocol.Failure."""
    arguments = {"name": args.name} if args.name else {}
    try:
        status = request(args.socket, "status", **arguments)
    except ControlError as error:
        print(f"carpctl: {error}", file=sys.stderr)
        return error.failure.value
    if args.json:
        print(json.dumps(status))
    elif args.name:
        print("\n".join(line for host in status["virtual_hosts"] for line in _in_full(host)))
    else:
        print("\n".join(_overview(status, coloured=sys.stdout.isatty())))
    return 0


def _overview(status: dict[str, Any], *, coloured: bool) -> Iterable[str]:
    """A table of the virtual hosts, below it what is unusual, and the state synchronisation."""
    if status["virtual_hosts"]:
        yield from _virtual_hosts(status, coloured=coloured)
    if status["pfsync"]:
        yield from _pfsync(status["pfsync"])


def _virtual_hosts(status: dict[str, Any], *, coloured: bool) -> Iterable[str]:
    rows = [_COLUMNS, *(_row(host) for host in status["virtual_hosts"])]
    if not any(host["balancing"] for host in status["virtual_hosts"]):
        rows = [row[:_SHARE] + row[_SHARE + 1 :] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if coloured and row[1] in _COLOURS:
            cells[1] = _COLOURS[row[1]] + cells[1] + _PLAIN
        yield "  ".join(cells).rstrip()
    for host in status["virtual_hosts"]:
        if host["waits_for"]:
            yield f"{host['name']}: {host['waits_for']}"
    findings = {(h["balancing"]["virtual_host"], f) for h in status["virtual_hosts"] for f in h["findings"]}
    yield from (f"{name}: {finding}" for name, finding in sorted(findings))
    reasons = {(h["group"], r, n) for h in status["virtual_hosts"] for r, n in h["demotion_reasons"].items()}
    for group, reason, amount in sorted(reasons):
        yield f"group {group}: demoted by {amount}: {reason}"


def _row(host: dict[str, Any]) -> tuple[str, ...]:
    master = host["master"]
    return (
        host["name"],
        host["state"],
        _age(host["since"]),
        str(host["vhid"]),
        host["interface"],
        _advskew(host),
        str(host["demotion"]),
        _share(host),
        "this host" if host["state"] == "MASTER" else master["source"] if master else "-",
        " ".join(host["addresses"]),
    )


def _pfsync(pfsync: dict[str, Any]) -> Iterable[str]:
    """What is here, what the peers have of it, and what went wrong since the start."""
    title = f"pfsync on {pfsync['syncdev']} ({pfsync['transport']})"
    if not pfsync["running"]:
        yield f"{title}: pfsyncd does not run"
        return
    if "waits_for" in pfsync:
        yield f"{title}: waits for {pfsync['waits_for']}"
        return
    link, bulk, age = pfsync["link"], pfsync["bulk_update"], pfsync["unconfirmed_age_s"]
    yield f"{title}: {pfsync['states']} states, {bulk['reason']}" + ("" if link["up"] else f"; {link['reason']}")
    for peer in pfsync["peers"]:
        coverage = "not compared yet" if peer["coverage"] is None else f"{peer['coverage']:g} % of ours"
        carrying = ", carries traffic" if peer["carrying"] else ""
        heard = f"heard {peer['heard_age_s']:.1f} s ago"
        yield f"  {peer['address']}: {peer['states']} states, {coverage}{carrying}, {heard}"
    if not pfsync["peers"]:
        yield "  no peer is heard"
    if age is not None:
        yield f"  oldest change that is not confirmed: {age:.3f} s"
    if pfsync["defer"] and not pfsync["defer"]["working"]:
        yield f"  defer does not work: {pfsync['defer']['reason']}"
    for title, reasons in (("resynchronised", pfsync["resyncs"]), ("refused by the kernel", pfsync["refused"])):
        for reason, count in reasons.items():
            yield f"  {title} {count} times: {reason}"


def _in_full(host: dict[str, Any]) -> Iterable[str]:
    master = host["master"]
    heard = (
        f"{master['source']} advbase {master['advbase']} advskew {master['advskew']} "
        f"demotion {master['demotion']}, heard {master['age_s']:.1f} s ago"
        if master
        else "none heard"
    )
    reasons = "".join(f"; {reason}: {amount}" for reason, amount in host["demotion_reasons"].items())
    counters = {name: value for name, value in host["counters"].items() if value}
    lines = {
        "state": f"{host['state']} since {host['since'] or 'the start'} ({host['reason'] or 'start'})",
        "waits for": host["waits_for"],
        "vhid": f"{host['vhid']} on {host['interface']}, device {host['device']}, mac {host['mac'] or 'unknown'}",
        "addresses": " ".join(host["addresses"]),
        "interval": f"advbase {host['advbase']} advskew {_advskew(host)}",
        "master down": f"after {host['master_down_s']:.3f} s",
        "preempt": "yes" if host["preempt"] else "no",
        "peers": " ".join(host["peers"]),
        "share": _share_in_full(host),
        "demotion": f"{host['demotion']} (group {host['group']}{reasons})",
        "master": "this host" if host["state"] == "MASTER" and not master else heard,
        "findings": "; ".join(host["findings"]),
        "counters": " ".join(f"{name} {value}" for name, value in counters.items()) or "all 0",
    }
    yield f"{host['name']}:"
    for title, text in lines.items():
        if text:
            yield f"  {title:<11} {text}"


def _share_in_full(host: dict[str, Any]) -> str:
    balancing = host["balancing"]
    if not balancing:
        return ""
    nodes = " ".join(map(str, balancing["vhids"]))
    taken = "unknown" if host["taken"] is None else host["taken"]
    return f"{_share(host)}, balancing {balancing['mode']} among the nodes {nodes}; packets taken: {taken}"


def _share(host: dict[str, Any]) -> str:
    """What this node adds to the host's share of the traffic; "-" if nothing is shared."""
    if not host["balancing"]:
        return "-"
    return f"{100 / len(host['balancing']['vhids']):.3g} %" if host["serves"] else "0 %"


def _advskew(host: dict[str, Any]) -> str:
    """As configured, and what is sent if that is another."""
    configured, sent = host["advskew"], host["advskew_sent"]
    return str(configured) if configured == sent else f"{configured} (sent {sent})"


def _age(since: str | None) -> str:
    """How long ago, in the largest unit: 45s, 12m, 3h, 5d."""
    if since is None:
        return "-"
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(seconds, 0)}s"
