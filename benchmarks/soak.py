"""No false take-over: two nodes with a master-down time of 47 ms, ten minutes on a busy machine.

    python -m benchmarks.soak
    python -m benchmarks.soak --minutes 1

Both nodes run carpd with advbase 0, advskew 4: an advertisement every 15.6 ms. Every core is kept busy by a program
that only counts; a client downloads through the firewalls over IPv4 and IPv6, and probes the shared addresses every
millisecond. Nothing fails, so whoever becomes master after the beginning becomes it wrongly: exit status 1 then.
Needs root.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.observer import Advertised, Observer
from carpd.control import client
from carpd.errors import CarpdError
from carpd.lab.daemons import Carpd
from carpd.lab.firewalls import LAN_GATEWAYS, SERVER, FirewallNetwork
from carpd.lab.measure import ANSWER_NS, percentile
from carpd.lab.topology import Lab, Switch
from carpd.lab.traffic import Download, Probe
from carpd.lab.waiting import wait_until
from carpd.units import MILLISECOND, SECOND, interval_ns

ADVBASE, ADVSKEW = 0, 4

_CONFIGURATION = f"""\
[carp.lan]
interface = "eth1"
vhid = 1
addresses = ["192.0.2.1/24", "2001:db8:1::1/64"]
password_file = "password"
advbase = {ADVBASE}
advskew = {ADVSKEW}
preempt = true

[carp.wan]
interface = "eth2"
vhid = 2
addresses = ["198.51.100.1/24", "2001:db8:2::1/64"]
password_file = "password"
advbase = {ADVBASE}
advskew = {ADVSKEW}
preempt = true
"""

_START_NS = 15 * SECOND
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """What was seen. Intervals are those between two advertisements of the master on the LAN, in milliseconds."""

    minutes: float
    busy: int
    """Programs that only count."""
    false_take_overs: int
    restarts: int
    """Of election processes."""
    advertisements: int
    interval_ms: float
    """As configured."""
    interval_median_ms: float
    interval_p99_ms: float
    interval_max_ms: float
    master_down_ms: float
    probes_sent: int
    probes_lost: int
    downloaded_mib: float


def soak(minutes: float, busy: int) -> Result:
    """Raise LabError if the nodes do not even begin well."""
    duration_ns = int(minutes * 60 * SECOND)
    limit_ns = duration_ns + 2 * _START_NS
    with Lab() as lab:
        network = FirewallNetwork(lab)
        observer = Observer(lab, Switch("lan"))
        daemons = [Carpd(firewall, _CONFIGURATION) for firewall in network.firewalls]
        for daemon in daemons:
            daemon.start()
        wait_until(lambda: _masters(daemons) == ["lan", "wan"], _START_NS, "a master of each virtual host")
        probe = Probe(network.client, {"4": LAN_GATEWAYS[0], "6": LAN_GATEWAYS[1]}, limit_ns=limit_ns)
        downloads = [Download(network.client, network.server, address, limit_ns=limit_ns) for address in SERVER]
        load = lab.node("load")
        for _ in range(busy):
            load.start([sys.executable, "-c", "while True: pass"])
        begin_ns = time.monotonic_ns()
        wait_until(lambda: all(d.received_since(begin_ns) for d in downloads), _START_NS, "both downloads")
        before = _take_overs(daemons)
        observer.read()
        heard: list[Advertised] = []
        begin_ns = time.monotonic_ns()
        while time.monotonic_ns() < begin_ns + duration_ns:
            time.sleep(_LOOK_S)
            heard += observer.read()[0]
        end_ns = time.monotonic_ns() - ANSWER_NS
        losses = [record.loss(begin_ns, end_ns) for record in probe.records.values()]
        intervals = [later.time_ns - earlier.time_ns for earlier, later in itertools.pairwise(heard)]
        return Result(
            minutes=minutes,
            busy=busy,
            false_take_overs=_take_overs(daemons) - before,
            restarts=sum(client.request(daemon.socket, "status")["election"]["restarts"] for daemon in daemons),
            advertisements=len(heard),
            interval_ms=interval_ns(ADVBASE, ADVSKEW) / MILLISECOND,
            interval_median_ms=percentile(intervals, 50) / MILLISECOND,
            interval_p99_ms=percentile(intervals, 99) / MILLISECOND,
            interval_max_ms=max(intervals) / MILLISECOND,
            master_down_ms=daemons[0].master_down_ns() / MILLISECOND,
            probes_sent=sum(loss.sent for loss in losses),
            probes_lost=sum(loss.lost for loss in losses),
            downloaded_mib=sum(sum(d.received) for d in downloads) / (1 << 20),
        )


def _masters(daemons: Sequence[Carpd]) -> list[str]:
    """The virtual hosts that have a master, once for each master."""
    states = [item for daemon in daemons for item in daemon.states().items()]
    return sorted(name for name, state in states if state == "MASTER")


def _take_overs(daemons: Sequence[Carpd]) -> int:
    """How often any virtual host became master on any node."""
    return sum(host["counters"]["preempt"] for daemon in daemons for host in daemon.virtual_hosts())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="No false take-over under load.")
    parser.add_argument("--minutes", type=float, default=10, help="how long (%(default)s)")
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="programs that only count (one a core)")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="directory (%(default)s)")
    args = parser.parse_args()
    try:
        result = soak(args.minutes, args.busy)
    except CarpdError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    for name, value in asdict(result).items():
        print(f"{name:<20} {value:g}")
    report.write(args.out / "soak.json", {"benchmark": "soak", "machine": report.machine(), "result": asdict(result)})
    return 1 if result.false_take_overs or result.restarts else 0


if __name__ == "__main__":
    sys.exit(main())
