"""keepalived of Debian speaks VRRP with the same numbers on the same LAN: carpd counts it, and nothing else happens.

VRRP and CARP share a protocol number, the groups and the virtual MACs.
"""

from __future__ import annotations

import pytest

from carpd.lab.topology import Lab
from carpd.lab.waiting import wait_until
from tests.conftest import need
from tests.daemon.carpd import FAST, LIMIT_NS, SLOWER, Carpd, virtual_host
from tests.daemon.segment import ADDRESSES, Host, Segment


@pytest.fixture(autouse=True)
def keepalived() -> None:
    need("keepalived")


INSTANCE = """\
vrrp_instance {name} {{
    interface eth1
    virtual_router_id {vrid}
    version {version}
    priority 200
    advert_int 1
    virtual_ipaddress {{
        {addresses}
    }}
}}
"""

FIVE = [f"192.0.2.{last}" for last in range(111, 116)]
"""With so many addresses a message of VRRPv2 has 36 bytes, as CARP's have."""

VRRP = {2: {7: ["192.0.2.101"], 8: FIVE}, 3: {7: ["192.0.2.101"], 8: ["fe80::101", "2001:db8::101"]}}
"""By version: the addresses of each virtual router."""


def start_keepalived(host: Host, version: int) -> None:
    configuration = host.node.directory / "keepalived.conf"
    configuration.write_text(
        "".join(
            INSTANCE.format(name=f"vrid{vrid}", vrid=vrid, version=version, addresses="\n".join(addresses))
            for vrid, addresses in VRRP[version].items()
        )
    )
    files = (f"--{option}={host.node.directory / option}" for option in ("pid", "vrrp_pid"))
    host.node.start(["keepalived", "--dont-fork", "--no-syslog", f"--use-file={configuration}", *files])


@pytest.mark.parametrize("version", VRRP)
def test_vrrp_of_the_same_numbers(lab: Lab, version: int) -> None:
    """Each packet is counted as `vrrp` by master and backup, and neither changes its state for it."""
    segment = Segment(lab, "a", "b", "vrrp")
    start_keepalived(segment["vrrp"], version)
    a, b = (
        Carpd(
            segment[name].node,
            virtual_host(addresses=ADDRESSES, preempt=True, **timers),
            virtual_host("other", vhid=8, addresses=["192.0.2.77/24"], preempt=True, **timers),
        )
        for name, timers in (("a", FAST), ("b", SLOWER))
    )
    a.becomes("MASTER")
    b.becomes("BACKUP")
    since = changes(a, b)
    packets = len(VRRP[version])  # keepalived sends no second one while it hears more frequent packets of its number
    wait_until(lambda: a.counters()["vrrp"] >= packets <= b.counters()["vrrp"], LIMIT_NS, "VRRP is heard")
    assert changes(a, b) == since
    assert set(a.states().values()) == {"MASTER"}
    assert set(b.states().values()) == {"BACKUP"}
    for daemon in (a, b):
        refused = {name: count for name, count in daemon.counters().items() if name.startswith("bad")}
        assert not any(refused.values())


def changes(*daemons: Carpd) -> int:
    """How often a virtual host has changed its state."""
    return sum(daemon.log().count(" -> ") for daemon in daemons)
