"""`carpctl status`: every virtual host at a glance, or one of them in full."""

from __future__ import annotations

import argparse
import json
import sys
import time

from carpd.cli import moments
from carpd.cli.parser import add_json, add_socket, listed
from carpd.cli.terminal import Style, aligned
from carpd.control.client import request
from carpd.control.protocol import ControlError, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_COLUMNS = ("NAME", "STATE", "SINCE", "VHID", "INTERFACE", "ADVSKEW", "DEMOTION", "SHARE", "MASTER", "ADDRESSES")
_SHARE = _COLUMNS.index("SHARE")

_WATCH_S = 2.0
_PASSING = (Failure.UNREACHABLE, Failure.TIMED_OUT, Failure.REFUSED)
"""What somebody who watches waits to pass."""

_ENOUGH_COVERAGE = 95
"""Per cent. While many connections come and go, the last few are always on their way."""

_LINUX = "linux"
"""The version of pfsync whose peers report what they have."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="one virtual host, in full")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_seconds,
        const=_WATCH_S,
        help=f"again and again, with so much time between; {_WATCH_S:g} s if it is not said",
    )
    add_json(parser)
    add_socket(parser)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; NAME comes before it") from None
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text} s is not between 0.1 s and a day")
    return seconds


def run(args: argparse.Namespace) -> int:
    """0. Raise ControlError."""
    style = Style(sys.stdout)
    if args.watch is None:
        print("\n".join(_lines(args, style)))
        return 0
    while True:
        try:
            lines = list(_lines(args, style))
        except ControlError as error:
            if args.json or error.failure not in _PASSING:
                raise
            lines = [f"carpctl: {error}"]
        if style.terminal and not args.json:
            sys.stdout.write(style.screen(lines))
        else:
            print("\n".join(lines if args.json else [*lines, ""]))
        sys.stdout.flush()
        time.sleep(args.watch)


def _lines(args: argparse.Namespace, style: Style) -> Iterable[str]:
    """Raise ControlError."""
    status = request(args.socket, "status", **({"name": args.name} if args.name else {}))
    if args.json:
        return [json.dumps(status)]
    if args.name:
        return [line for host in status["virtual_hosts"] for line in _in_full(host, status["groups"])]
    return _overview(status, style)


def _overview(status: dict[str, Any], style: Style) -> Iterator[str]:
    """The sum of it, a table of the virtual hosts, below it what is unusual, and the state synchronisation."""
    yield style.paint(headline(status), "bold")
    if status["virtual_hosts"]:
        yield from _virtual_hosts(status, style)
    if status["pfsync"]:
        yield from _pfsync(status["pfsync"], style)


def headline(status: dict[str, Any]) -> str:
    """What somebody wants to know first: `fw-a: MASTER of lan, wan; all well`."""
    roles = {state: listed(_names(status, state)) for state in ("MASTER", "BACKUP", "INIT")}
    parts = [f"{state} of {names}" for state, names in roles.items() if names]
    return f"{status['node']}: {'; '.join([*parts, *(list(_troubles(status)) or ['all well'])])}"


def _names(status: dict[str, Any], state: str) -> Iterator[str]:
    """Who has this state; nodes only where those of a virtual host differ."""
    states: dict[str, set[str]] = {}
    for host in status["virtual_hosts"]:
        states.setdefault(_virtual_host(host), set()).add(host["state"])
    named = (
        _virtual_host(host) if len(states[_virtual_host(host)]) == 1 else host["name"]
        for host in status["virtual_hosts"]
        if host["state"] == state
    )
    return iter(dict.fromkeys(named))


def _virtual_host(host: dict[str, Any]) -> str:
    return str(host["balancing"]["virtual_host"] if host["balancing"] else host["name"])


def _troubles(status: dict[str, Any]) -> Iterator[str]:
    """What is not as it should be, most important first."""
    if status.get("unconfirmed_s") is not None:
        yield f"the former configuration comes back in {status['unconfirmed_s']:.0f} s without `carpctl confirm`"
    if status.get("never_confirmed"):
        yield "the configuration was never confirmed: carpctl confirm, or mend and reload it"
    if "election" in status:  # pfsyncd, alone, has none
        yield from _election_troubles(status)
    demoted: dict[str, list[str]] = {}
    for group in status["groups"]:
        if group["demotion"]:
            reasons = ", ".join(reason["reason"] for reason in group["reasons"])
            demoted.setdefault(f"demoted by {group['demotion']} ({reasons})", []).append(group["name"])
    for how, groups in demoted.items():
        yield how if len(groups) == len(status["groups"]) else f"{listed(groups)} {how}"
    unheard = [h for h in status["virtual_hosts"] if h["state"] == "BACKUP" and not h["master"]]
    if unheard:
        yield f"no master of {listed(dict.fromkeys(map(_virtual_host, unheard)))} is heard"
    found = [host for host in status["virtual_hosts"] if host["findings"]]
    if found:
        yield f"{listed(dict.fromkeys(map(_virtual_host, found)))}: see below"
    if status["pfsync"]:
        yield from _sync_troubles(status["pfsync"])


def _election_troubles(status: dict[str, Any]) -> Iterator[str]:
    """Why virtual hosts don't take part, unless what demotes a group says it."""
    if not status["virtual_hosts"]:
        yield "no virtual host is configured"
    if status["election"]["pid"] is None:
        yield "the election process does not run"
        return
    demoting = {reason["reason"] for group in status["groups"] for reason in group["reasons"]}
    unexplained = [h for h in status["virtual_hosts"] if f"link of {h['interface']} is down" not in demoting]
    for reason, names in _waiting(unexplained).items():
        yield f"{listed(names)}: {reason}"


def _sync_troubles(pfsync: dict[str, Any]) -> Iterator[str]:
    if not pfsync["running"]:
        yield "pfsyncd does not run"
    elif "waits_for" in pfsync:
        yield f"pfsync waits for {pfsync['waits_for']}"
    elif not pfsync["link"]["up"]:
        yield f"pfsync: {pfsync['link']['reason']}"
    elif not pfsync["peers"] and pfsync["version"] == _LINUX:
        yield "no pfsync peer is heard"
    else:
        for peer in pfsync["peers"]:
            if peer["coverage"] is not None and peer["coverage"] < _ENOUGH_COVERAGE:
                yield f"{peer['address']} has {peer['coverage']:g} % of our states"
        if pfsync["defer"] and not pfsync["defer"]["working"]:
            yield "defer does not work"


def _virtual_hosts(status: dict[str, Any], style: Style) -> Iterator[str]:
    rows = [_COLUMNS, *(_row(host) for host in status["virtual_hosts"])]
    if not any(host["balancing"] for host in status["virtual_hosts"]):
        rows = [row[:_SHARE] + row[_SHARE + 1 :] for row in rows]
    for row, cells in zip(rows, aligned(rows), strict=True):
        cells[1] = style.paint(cells[1], row[1])
        yield "  ".join(cells).rstrip()
    for reason, names in _waiting(status["virtual_hosts"]).items():
        yield style.paint(f"{listed(names)}: {reason}", "trouble")
    findings = {(h["balancing"]["virtual_host"], f) for h in status["virtual_hosts"] for f in h["findings"]}
    for name, finding in sorted(findings):
        yield style.paint(f"{name}: {finding}", "trouble")
    for group in status["groups"]:
        for reason in group["reasons"]:
            yield style.paint(f"group {group['name']}: demoted by {reason['amount']}: {_reason(reason)}", "trouble")


def _waiting(hosts: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """Who can't take part, by what they wait for."""
    waiting: dict[str, list[str]] = {}
    for host in hosts:
        if host["waits_for"]:
            waiting.setdefault(host["waits_for"], []).append(host["name"])
    return waiting


def _reason(reason: dict[str, Any]) -> str:
    """`operator: upgrade (until 03:12)`"""
    return f"{reason['reason']} (until {moments.clock(reason['until'])})" if reason["until"] else str(reason["reason"])


def _row(host: dict[str, Any]) -> tuple[str, ...]:
    master = host["master"]
    return (
        host["name"],
        host["state"],
        moments.age(host["since"]),
        str(host["vhid"]),
        host["interface"],
        _advskew(host),
        str(host["demotion"]),
        _share(host),
        "this host" if host["state"] == "MASTER" else master["source"] if master else "-",
        " ".join(host["addresses"]),
    )


def _pfsync(pfsync: dict[str, Any], style: Style) -> Iterator[str]:
    """What is here, what the peers have of it, and what went wrong since the start."""
    title = f"pfsync on {pfsync['syncdev']} ({pfsync['transport']})"
    if not pfsync["running"]:
        yield style.paint(f"{title}: pfsyncd does not run", "trouble")
        return
    if "waits_for" in pfsync:
        yield style.paint(f"{title}: waits for {pfsync['waits_for']}", "trouble")
        return
    link, age = pfsync["link"], pfsync["unconfirmed_age_s"]
    state = f"{title}: {_states(pfsync)}, {_bulk_update(pfsync, style)}"
    yield state if link["up"] else style.paint(f"{state}; {link['reason']}", "trouble")
    for peer in pfsync["peers"]:
        coverage = "not compared yet" if peer["coverage"] is None else f"{peer['coverage']:g} % of ours"
        carrying = ", carries traffic" if peer["carrying"] else ""
        heard = f"heard {peer['heard_age_s']:.1f} s ago"
        yield f"  {peer['address']}: {_states(peer)}, {coverage}{carrying}, {heard}"
    if not pfsync["peers"]:
        yield "  no peer is heard" if pfsync["version"] == _LINUX else "  such peers don't say what they have"
    if age is not None:
        yield f"  oldest change that is not confirmed: {age:.3f} s"
    if pfsync["defer"] and not pfsync["defer"]["working"]:
        yield style.paint(f"  defer does not work: {pfsync['defer']['reason']}", "trouble")
    for title, reasons in (("resynchronised", pfsync["resyncs"]), ("refused by the kernel", pfsync["refused"])):
        for reason, count in reasons.items():
            yield f"  {title} {count} times: {reason}"


def _states(of: dict[str, Any]) -> str:
    """How many pfsync, or one of its peers, has."""
    return f"{of['states']} state{'s' * (of['states'] != 1)}"


def _bulk_update(pfsync: dict[str, Any], style: Style) -> str:
    """How far it is, in words; on a terminal also how much has come of what the largest peer has."""
    bulk = pfsync["bulk_update"]
    most = max((peer["states"] for peer in pfsync["peers"]), default=0)
    bar = style.bar(min(pfsync["states"] / most, 1.0)) if most and not bulk["done"] else ""
    return f"{bulk['reason']} {bar}".rstrip()


def _in_full(host: dict[str, Any], groups: list[dict[str, Any]]) -> Iterator[str]:
    master = host["master"]
    heard = (
        f"{master['source']} advbase {master['advbase']} advskew {master['advskew']} "
        f"demotion {master['demotion']}, heard {master['age_s']:.1f} s ago"
        if master
        else "none heard"
    )
    reasons = "".join(
        f"; {_reason(reason)}: {reason['amount']}"
        for group in groups
        if group["name"] == host["group"]
        for reason in group["reasons"]
    )
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
