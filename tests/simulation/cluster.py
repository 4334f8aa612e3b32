"""Small clusters for directed scenarios."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

from carpd.config.model import VirtualHostConfig
from carpd.simulation.network import Quality
from carpd.simulation.scenario import Cluster, Settings
from carpd.units import MILLISECOND, SECOND

DELAY = MILLISECOND
PERFECT = Quality(delay_ns=DELAY, jitter_ns=0, duplication=0.0, reordering=False)

LAN = VirtualHostConfig(
    name="lan",
    interface="eth0",
    vhid=1,
    addresses=(ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64")),
    key=b"simulated",
    group="edge",
)
WAN = replace(LAN, name="wan", interface="eth1", vhid=2)


def cluster(
    *hosts: VirtualHostConfig,
    nodes: int = 2,
    step: int = 100,
    seed: int = 0,
    quality: Quality = PERFECT,
    **changes: Any,
) -> Cluster:
    """Node 0 is the best one, and master of everything after four seconds. The next ones have advskew 100, 200, ..."""
    configs = tuple(
        tuple(replace(host, advskew=step * number, **changes) for host in hosts or (LAN,)) for number in range(nodes)
    )
    made = Cluster(Settings(configs=configs, quality=quality), seed)
    made.start()
    made.run(4 * SECOND)
    assert all(made.masters(host.name) == [0] for host in hosts or (LAN,))
    return made


def run_until(made: Cluster, host: str, answering: list[int], limit_ns: int) -> int:
    """Run until just these nodes answer; how many nanoseconds that took."""
    start = made.world.now
    while made.answering(host) != answering:
        assert made.world.now - start <= limit_ns, made.explain(f"{made.answering(host)} answer, not {answering}")
        made.run(DELAY // 10)
    return made.world.now - start
