"""Small clusters for directed scenarios."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

from carpd.config.model import Balancing, BalancingMode, VirtualHostConfig
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


def sharing_cluster(
    nodes: int = 2,
    vhids: int = 2,
    *,
    first: int = 0,
    step: int = 60,
    mode: BalancingMode = BalancingMode.IP,
    seed: int = 0,
    quality: Quality = PERFECT,
    lateness_ns: int = 0,
    **changes: Any,
) -> Cluster:
    """Hosts that share lan:1, lan:2, ...: host 0 is preferred for lan:1 and master of it after 6 s, host 1 for lan:2,
    and so on. Next best for a node is the host before its master, the last one for host 0's.
    """
    numbers = tuple(range(1, vhids + 1))
    balancing = Balancing(virtual_host="lan", mode=mode, vhids=numbers)
    usual = replace(LAN, preempt=True, balancing=balancing, **changes)
    configs = []
    for number in range(nodes):
        skews = {vhid: first + step * ((vhid - 1 - number) % nodes) for vhid in numbers}
        configs.append(tuple(replace(usual, name=f"lan:{v}", vhid=v, advskew=skew) for v, skew in skews.items()))
    of_each = [_knowing_the_others(host) for host in zip(*configs, strict=True)]
    settings = Settings(configs=tuple(zip(*of_each, strict=True)), quality=quality, lateness_ns=lateness_ns)
    made = Cluster(settings, seed)
    made.start()
    made.run(6 * SECOND)
    assert all(made.masters(f"lan:{vhid}") == [(vhid - 1) % nodes] for vhid in numbers), made.transcript
    return made


def _knowing_the_others(configs: tuple[VirtualHostConfig, ...]) -> list[VirtualHostConfig]:
    """As the parser makes them of a file that has all hosts."""
    return [
        replace(config, others_master_down_ns=min(other.master_down_ns for other in configs if other is not config))
        for config in configs
    ]


def watch(made: Cluster, duration_ns: int) -> dict[str, int]:
    """Let time pass; for how long nobody answered for a node, at the most."""
    longest = dict.fromkeys(made.invariants.hosts, 0)
    since = dict.fromkeys(made.invariants.hosts, made.world.now)
    end = made.world.now + duration_ns
    while made.world.now < end:
        made.run(DELAY // 4)
        for host in made.invariants.hosts:
            if made.answering(host):
                since[host] = made.world.now
            longest[host] = max(longest[host], made.world.now - since[host])
    return longest
