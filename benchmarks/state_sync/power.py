"""What a TCP connection notices of a power cut: carpd with pfsyncd beside keepalived with conntrackd.

    python -m benchmarks.state_sync.power
    python -m benchmarks.state_sync.power --runs 1

Two stateful firewalls between a client and a server, as in the demo: a download and an upload go through them when all
switch ports of the master drop everything. Their sender tries again after a time that it doubles: a connection stalls
for the outage, which probes measure, and one retransmission. Needs root, keepalived and conntrackd.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks import report
from benchmarks.daemons import DEFAULT, FASTEST, keepalived_argv, versions
from benchmarks.state_sync.candidates import TAKE_OVER, Conntrackd
from carpd.errors import CarpdError
from carpd.lab.daemons import CONFIGURATION, Carpd
from carpd.lab.firewalls import LAN_GATEWAYS, SERVER, WAN_GATEWAYS, Firewall, FirewallNetwork
from carpd.lab.measure import ANSWER_NS
from carpd.lab.rules import be_stateful
from carpd.lab.topology import Lab
from carpd.lab.traffic import Flow, Probe
from carpd.lab.waiting import LabError, wait_until
from carpd.units import MILLISECOND, SECOND

_START_NS = 30 * SECOND
_CALM_S = 3
"""So long everything goes well before the cut: whatever synchronises has done it."""
_PATIENCE_NS = 30 * SECOND
_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class Contender:
    """Everything that runs on a firewall."""

    name: str
    timers: str
    start: Callable[[Firewall], None]


# carpd


def _carpd(timers: str, configuration: str) -> Contender:
    return Contender("carpd + pfsyncd", timers, lambda firewall: Carpd(firewall, configuration, pfsync=True).start())


_FASTEST_CARP = CONFIGURATION.replace("preempt = true", "preempt = true\nadvbase = 0\nadvskew = 1").replace(
    "advskew = 100", "advskew = 1"
)


# keepalived, with conntrackd and the script of its examples

_GROUP = """\
global_defs {{
    vrrp_rt_priority 50
    script_user root
}}
vrrp_sync_group edge {{
    group {{
        lan
        wan
    }}
    notify_master "{script} primary"
    notify_backup "{script} backup"
    notify_fault "{script} fault"
}}
"""
_INSTANCE = """\
vrrp_instance {name} {{
    version {version}
    state BACKUP
    interface {interface}
    virtual_router_id {router}
    priority {priority}
    advert_int {interval_s:g}
    virtual_ipaddress {{
        {address}/24
    }}
}}
"""
_SCRIPT = """\
#!/bin/sh
case "$1" in
primary) {primary} ;;
backup) {command} -t; {command} -n ;;
fault) {command} -t ;;
esac
"""
_ACCEPT = """\
insert rule inet firewall input ip protocol vrrp accept
insert rule inet firewall input iifname "eth3" udp dport 3780 accept
"""


def _keepalived(
    timers: str, mode: str, external_cache: bool, version: int, interval_ns: int, priorities: tuple[int, int]
) -> Contender:
    def start(firewall: Firewall) -> None:
        node = firewall.node
        node.run(("nft", "-f", "-"), stdin=_ACCEPT)
        conntrackd = Conntrackd(node, mode, external_cache)
        conntrackd.start()
        command = " ".join(conntrackd.command)
        script = node.directory / "primary-backup.sh"
        primary = "; ".join(f"{command} {option}" for option in TAKE_OVER.values())
        script.write_text(_SCRIPT.format(primary=primary, command=command))
        script.chmod(0o700)
        instances = (
            _INSTANCE.format(
                name=name,
                version=version,
                interface=interface,
                router=router,
                priority=priorities[node.name == "fw-b"],
                interval_s=interval_ns / SECOND,
                address=address,
            )
            for router, (name, interface, address) in enumerate(
                (("lan", "eth1", LAN_GATEWAYS[0]), ("wan", "eth2", WAN_GATEWAYS[0])), 1
            )
        )
        node.start(keepalived_argv(firewall, _GROUP.format(script=script) + "".join(instances)))

    name = f"keepalived + conntrackd {mode}{'' if external_cache else ' direct'}"
    return Contender(name, timers, start)


CONTENDERS = (
    _carpd(DEFAULT, CONFIGURATION),
    _keepalived(DEFAULT, "FTFW", True, 2, SECOND, (254, 156)),
    _keepalived(DEFAULT, "FTFW", False, 2, SECOND, (254, 156)),
    _carpd(FASTEST, _FASTEST_CARP),
    _keepalived(FASTEST, "FTFW", True, 3, 10 * MILLISECOND, (254, 253)),
    _keepalived(FASTEST, "FTFW", False, 3, 10 * MILLISECOND, (254, 253)),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What the client saw of one power cut, in milliseconds. None: for longer than 30 s."""

    outage_ms: float
    """Of probes, which pass any firewall that has the addresses."""
    download_ms: float | None
    upload_ms: float | None
    """The longest time in which nothing arrived, in steps of 10 ms."""


def measure(contender: Contender) -> Result:
    """Raise LabError if there is no traffic even before the cut."""
    with Lab() as lab:
        network = FirewallNetwork(lab)
        for firewall in network.firewalls:
            be_stateful(firewall.node)
            contender.start(firewall)
        wait_until(lambda: len(_masters(network)) == 1, _START_NS, f"{contender.name}: a master")
        probe = Probe(network.client, {"server": SERVER[0]})["server"]
        download = Flow("download", network.client, network.server, SERVER[0])
        upload = Flow("upload", network.client, network.server, SERVER[0], port=5002, rate=1_000_000)
        flows = (download, upload)
        wait_until(lambda: all(flow.connected for flow in flows), _START_NS, f"{contender.name}: both connections")
        time.sleep(_CALM_S)
        masters = _masters(network)
        if len(masters) != 1:
            raise LabError(f"{contender.name}: {len(masters)} masters")
        begin = time.monotonic_ns()
        lab.power_cut(masters[0].ports)
        after = begin + SECOND // 2  # what was on its way is there by then
        deadline = begin + _PATIENCE_NS
        while not all(flow.received_since(after) for flow in flows) and time.monotonic_ns() < deadline:
            time.sleep(0.05)
        time.sleep(_AFTER_S)
        end = time.monotonic_ns() - ANSWER_NS
        stalls = [flow.stall_ns(begin, end) / MILLISECOND if flow.received_since(after) else None for flow in flows]
        return Result(probe.loss(begin, end).gap_ns / MILLISECOND, *stalls)


def _masters(network: FirewallNetwork) -> list[Firewall]:
    """Who has the shared address of the LAN."""
    return [f for f in network.firewalls if f"{LAN_GATEWAYS[0]}/" in f.node.run(("ip", "-4", "address"))]


_TITLES = ("TIMERS", "FIREWALLS", "RUNS", "OUTAGE", "MAX", "DOWNLOAD", "MAX", "UPLOAD", "MAX", "BROKEN")
_NOTES = """\
In ms, medians and maxima. OUTAGE: of probes every millisecond. DOWNLOAD, UPLOAD: how long the connection stalled.
BROKEN: connections that did not move again within 30 s."""


def _cells(contender: Contender, found: list[Result]) -> tuple[str, ...]:
    columns: list[list[float | None]] = [
        [one.outage_ms for one in found],
        [one.download_ms for one in found],
        [one.upload_ms for one in found],
    ]
    cells = []
    for column in columns:
        alive = [value for value in column if value is not None]
        cells += [f"{median(alive):.0f}", f"{max(alive):.0f}"] if alive else ["–", "–"]
    broken = sum(value is None for column in columns for value in column)
    return contender.timers, contender.name, str(len(found)), *cells, str(broken or "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.state_sync.power", description="TCP and a power cut.")
    parser.add_argument("--runs", type=int, default=5, help="of each pair of firewalls (%(default)s)")
    parser.add_argument("--only", default="", help="a part of the name of some, as conntrackd")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="directory (%(default)s)")
    args = parser.parse_args()
    rows, document = [], []
    try:
        for contender in CONTENDERS:
            if args.only not in contender.name:
                continue
            found = [measure(contender) for _ in range(args.runs)]
            rows.append(_cells(contender, found))
            named = {"firewalls": contender.name, "timers": contender.timers}
            document.append(named | {"runs": [asdict(one) for one in found]})
            print(f"{contender.name}, {contender.timers}: done", flush=True)
    except CarpdError as error:
        print(f"state_sync.power: {error}", file=sys.stderr)
        return 1
    print("\n".join(report.aligned([_TITLES, *rows])))
    print(f"\n{_NOTES}")
    head = {"benchmark": "state_sync.power", "machine": report.machine(), "versions": versions()}
    report.write(args.out / "state_sync_power.json", head | {"results": document})
    return 0


if __name__ == "__main__":
    sys.exit(main())
