"""The lease gate, in a real kernel: a host that has the virtual addresses all the time, and a neighbour that asks."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path

import pytest

from carpd.errors import SystemCallError
from carpd.linux import interfaces, lease
from carpd.linux.addresses import AddressTable
from carpd.linux.gate_monitor import GateMonitor
from carpd.linux.lease import Guard, LeaseKeeper
from carpd.linux.packets import PacketSocket
from carpd.linux.sysctls import SysctlJournal
from carpd.units import MILLISECOND, SECOND
from carpd.wire.arp import gratuitous_arp
from carpd.wire.frames import arp_frame, neighbor_advertisement_frame
from carpd.wire.ndp import NeighborAdvertisement
from tests.linux.segment import (
    HOST4,
    HOST6,
    HOST_MAC,
    SILENCE_S,
    VHID,
    VIRTUAL,
    VIRTUAL4,
    VIRTUAL6,
    VIRTUAL_MAC,
    Neighbor,
    advertisement,
    arp_request,
    echo_request,
    is_arp_reply,
    is_from,
    link,
    solicitation,
    wait_until,
)

LONG = 3600 * SECOND
SHORT = 60 * MILLISECOND


class Host:
    """The host under test, in one of the two MAC modes. Nothing but the gate keeps it silent."""

    def __init__(self, virtual: bool, state_dir: Path) -> None:
        self.mac = VIRTUAL_MAC if virtual else None
        self.answering_mac = self.mac or HOST_MAC
        self.install(LONG)
        parent = link("eth1")
        index = parent.index
        if self.mac:
            index = interfaces.prepare("carp-lan", parent, self.mac, SysctlJournal(state_dir / "sysctls.json"))
        assert AddressTable().add(index, VIRTUAL) == 0
        self.packets = PacketSocket(parent.index)
        self.keeper = LeaseKeeper()

    def install(self, lease_ns: int) -> None:
        lease.install("eth1", [Guard(vhid=VHID, mac=self.mac, addresses=VIRTUAL, lease_ns=lease_ns)])

    def advertise(self, **kwargs: bool | int) -> None:
        self.packets.send(advertisement(source_mac=self.answering_mac, **kwargs))  # type: ignore[arg-type]

    def close(self) -> None:
        self.packets.close()
        self.keeper.close()


@pytest.fixture(params=[True, False], ids=["virtual", "real"])
def host(request: pytest.FixtureRequest, neighbor: Neighbor, tmp_path: Path) -> Iterator[Host]:
    host = Host(request.param, tmp_path)
    yield host
    host.close()


def answers(neighbor: Neighbor, host: Host, limit_s: float) -> dict[str, bool]:
    """Which ways of asking for the virtual addresses are answered."""
    questions = {
        "arp": (arp_request(VIRTUAL4), is_arp_reply(VIRTUAL4)),
        "echo": (echo_request(VIRTUAL4, host.answering_mac), is_from(VIRTUAL4)),
        "ns": (solicitation(VIRTUAL6), is_from(VIRTUAL6)),
        "echo6": (echo_request(VIRTUAL6, host.answering_mac), is_from(VIRTUAL6)),
    }
    heard = {}
    for name, (question, is_answer) in questions.items():
        neighbor.forget()
        neighbor.send(question)
        heard[name] = neighbor.hear(is_answer, limit_s) is not None
    return heard


def assert_silent(neighbor: Neighbor, host: Host) -> None:
    assert not any(answers(neighbor, host, SILENCE_S / 3).values())
    assert host.keeper.live("eth1") == set()


def assert_answers(neighbor: Neighbor, host: Host) -> None:
    assert all(answers(neighbor, host, 5).values())
    assert host.keeper.live("eth1") == {VHID}


@pytest.mark.parametrize("family", [4, 6])
def test_open_from_our_advertisement_until_the_lease_is_surrendered(
    neighbor: Neighbor, host: Host, family: int
) -> None:
    assert_silent(neighbor, host)
    host.advertise(family=family)
    assert_answers(neighbor, host)
    assert host.keeper.surrender("eth1", VHID) == 0
    assert_silent(neighbor, host)
    assert host.keeper.surrender("eth1", VHID) == 0
    host.advertise(family=family)
    assert_answers(neighbor, host)


def test_closes_by_itself(neighbor: Neighbor, host: Host) -> None:
    host.install(SHORT)
    deadline = time.monotonic() + SHORT / SECOND
    host.advertise()
    assert wait_until(lambda: not host.keeper.live("eth1"))
    time.sleep(max(deadline - time.monotonic(), 0))
    assert_silent(neighbor, host)


def test_a_killed_daemon_falls_silent(neighbor: Neighbor, host: Host) -> None:
    host.install(SHORT)
    daemon = os.fork()
    if daemon == 0:
        while True:
            host.advertise()
            time.sleep(SHORT / SECOND / 10)
    try:
        assert wait_until(lambda: all(answers(neighbor, host, 1).values()))
    finally:
        os.kill(daemon, signal.SIGKILL)
        os.waitpid(daemon, 0)
    assert wait_until(lambda: not host.keeper.live("eth1"))
    assert_silent(neighbor, host)


NOT_RENEWING = {
    "bow-out": advertisement(bow_out=True),
    "another vhid": advertisement(vhid=VHID + 1),
    "vrrp": advertisement()[: 14 + 20 + 3] + b"\x01" + advertisement()[14 + 20 + 4 :],
    "version 3": advertisement()[: 14 + 20] + b"\x31" + advertisement()[14 + 20 + 1 :],
}


@pytest.mark.parametrize("frame", NOT_RENEWING.values(), ids=NOT_RENEWING.keys())
def test_does_not_renew(neighbor: Neighbor, host: Host, frame: bytes) -> None:
    host.packets.send(frame)
    assert_silent(neighbor, host)


def test_an_advertisement_of_somebody_else_does_not_renew(neighbor: Neighbor, host: Host) -> None:
    """Not one that this host forwards, nor a virtual machine's, nor one that comes in."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as foreign:
        foreign.bind(("eth1", 0))
        foreign.send(advertisement(source_mac=HOST_MAC))
    neighbor.send(advertisement())
    assert_silent(neighbor, host)


# Nodes that share the addresses: one gate, which the advertisement of each keeps open

NODES = (VHID, 8, 9)


@pytest.fixture
def sharing(neighbor: Neighbor, tmp_path: Path) -> Iterator[Host]:
    """Its addresses are on the interface, so that the kernel would answer: all that is asked here is the gate's."""
    host = Host(False, tmp_path)
    install_nodes()
    yield host
    host.close()


def install_nodes(lease_ns: int = LONG, nodes: tuple[int, ...] = NODES) -> None:
    lease.install("eth1", [Guard(vhid=VHID, mac=None, addresses=VIRTUAL, lease_ns=lease_ns, nodes=nodes)])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("vhid", NODES)
def test_any_node_s_advertisement_opens_it_for_all(neighbor: Neighbor, sharing: Host, vhid: int, family: int) -> None:
    assert_silent(neighbor, sharing)
    sharing.advertise(vhid=vhid, family=family)
    assert_answers(neighbor, sharing)
    assert sharing.keeper.surrender("eth1", VHID) == 0
    assert_silent(neighbor, sharing)


def test_one_node_is_enough_to_renew(neighbor: Neighbor, sharing: Host) -> None:
    install_nodes(10 * SHORT)
    for vhid in (VHID, 8, 8, 8, 8):
        sharing.advertise(vhid=vhid)
        time.sleep(6 * SHORT / SECOND)
        assert sharing.keeper.live("eth1") == {VHID}
    assert wait_until(lambda: not sharing.keeper.live("eth1"))
    assert_silent(neighbor, sharing)


YIELDED = advertisement()[: 14 + 20] + b"\x22" + advertisement()[14 + 20 + 1 :]
NO_NODE_RENEWS = {
    **NOT_RENEWING,
    "another vhid": advertisement(vhid=10),
    "bow-out of a node": advertisement(vhid=8, bow_out=True),
    "bow-out of a node, IPv6": advertisement(6, vhid=8, bow_out=True),
    "type 2": YIELDED,
    "type 2 of a node": YIELDED[: 14 + 20 + 1] + b"\x08" + YIELDED[14 + 20 + 2 :],
}


@pytest.mark.parametrize("frame", NO_NODE_RENEWS.values(), ids=NO_NODE_RENEWS)
def test_nothing_else_opens_it(neighbor: Neighbor, sharing: Host, frame: bytes) -> None:
    sharing.packets.send(frame)
    assert neighbor.hear(lambda heard: heard == frame), "it leaves"
    assert_silent(neighbor, sharing)


def test_nor_does_anything_while_there_is_no_node(neighbor: Neighbor, host: Host) -> None:
    """Without nodes the advertisements of other vhids are somebody else's."""
    for vhid in (8, 9):
        host.advertise(vhid=vhid)
    assert_silent(neighbor, host)


def test_a_node_that_is_removed_does_not_renew_any_more(neighbor: Neighbor, sharing: Host) -> None:
    install_nodes(nodes=(VHID, 8))
    sharing.advertise(vhid=9)
    assert_silent(neighbor, sharing)
    sharing.advertise(vhid=8)
    assert_answers(neighbor, sharing)


def test_two_virtual_hosts_that_share_beside_one_that_does_not(neighbor: Neighbor, sharing: Host) -> None:
    lease.install(
        "eth1",
        [
            Guard(vhid=VHID, mac=None, addresses=VIRTUAL, lease_ns=LONG, nodes=NODES),
            Guard(vhid=1, mac=None, addresses=(ip_interface("192.0.2.8/24"),), lease_ns=LONG, nodes=(1, 2)),
            Guard(vhid=3, mac=VIRTUAL_MAC, addresses=(ip_interface("192.0.2.9/24"),), lease_ns=LONG),
        ],
    )
    for vhid, live in ((2, {1}), (3, {1, 3}), (9, {1, 3, VHID})):
        sharing.advertise(vhid=vhid)
        assert sharing.keeper.live("eth1") == live


def test_32_nodes(neighbor: Neighbor, sharing: Host) -> None:
    nodes = (*range(VHID, 32 * VHID, VHID), 255)
    assert len(nodes) == 32
    install_nodes(nodes=nodes)
    for vhid in nodes:
        assert sharing.keeper.live("eth1") == set()
        sharing.advertise(vhid=vhid)
        assert sharing.keeper.live("eth1") == {VHID}
        assert sharing.keeper.surrender("eth1", VHID) == 0


def test_a_bow_out_leaves_while_the_lease_is_live(neighbor: Neighbor, host: Host) -> None:
    host.advertise()
    host.advertise(bow_out=True)
    sent = advertisement(source_mac=host.answering_mac, bow_out=True)
    assert neighbor.hear(lambda frame: frame == sent)
    assert host.keeper.live("eth1") == {VHID}


def test_announcements_leave_with_a_lease_only(neighbor: Neighbor, host: Host) -> None:
    mac = host.answering_mac
    announcements = [
        arp_frame(gratuitous_arp(mac, VIRTUAL4)),
        neighbor_advertisement_frame(NeighborAdvertisement(VIRTUAL6, mac, router=True)),
    ]
    for frame in announcements:
        host.packets.send(frame)
    assert neighbor.hear(lambda frame: frame in announcements, SILENCE_S) is None
    host.advertise()
    for frame in announcements:
        assert host.packets.send(frame) == 0
        assert neighbor.hear(lambda heard, sent=frame: heard == sent)  # type: ignore[misc]


def test_nothing_leaves_from_the_virtual_mac(neighbor: Neighbor, tmp_path: Path) -> None:
    """A macvlan that goes up tells of its groups; no switch may learn the virtual MAC from that."""
    host = Host(True, tmp_path)
    assert neighbor.hear(lambda frame: frame[6:12] == VIRTUAL_MAC, SILENCE_S) is None
    host.close()


def test_all_else_is_untouched(neighbor: Neighbor, host: Host) -> None:
    questions = {
        "arp": (arp_request(HOST4), is_arp_reply(HOST4)),
        "echo": (echo_request(HOST4, HOST_MAC), is_from(HOST4)),
        "ns": (solicitation(HOST6), is_from(HOST6)),
        "echo6": (echo_request(HOST6, HOST_MAC), is_from(HOST6)),
    }
    for name, (question, is_answer) in questions.items():
        neighbor.send(question)
        assert neighbor.hear(is_answer), name


def test_the_master_may_ask(neighbor: Neighbor) -> None:
    """ARP from a virtual address is what a backup hears from its master."""
    host_guard = Guard(vhid=VHID, mac=VIRTUAL_MAC, addresses=VIRTUAL, lease_ns=LONG)
    lease.install("eth1", [host_guard])
    neighbor.send(arp_request(HOST4, sender=VIRTUAL4))
    assert neighbor.hear(is_arp_reply(HOST4))


def test_vlans_are_another_link(neighbor: Neighbor, tmp_path: Path) -> None:
    """A VLAN on the interface may have the same vhid, and so the same virtual MAC. VLAN 0 is only a priority."""
    host = Host(True, tmp_path)
    frame = arp_frame(gratuitous_arp(VIRTUAL_MAC, VIRTUAL4))

    def tagged(tag: int) -> bytes:
        return frame[:12] + b"\x81\x00" + tag.to_bytes(2, "big") + frame[12:]

    # The neighbour's kernel takes the tag off, so the two look alike when they come: exactly one must.
    host.packets.send(tagged(0xE000))
    host.packets.send(tagged(0xE005))
    assert neighbor.hear(lambda heard: heard == frame)
    assert neighbor.hear(lambda heard: heard == frame, SILENCE_S) is None
    host.close()


def test_installing_again_keeps_the_leases_of_those_that_stay(neighbor: Neighbor, host: Host) -> None:
    here = Guard(vhid=VHID, mac=host.mac, addresses=VIRTUAL, lease_ns=LONG)
    other = Guard(vhid=8, mac=None, addresses=(ip_interface("192.0.2.8/24"),), lease_ns=LONG)
    lease.install("eth1", [here, other])
    host.advertise()
    host.advertise(vhid=8)
    assert host.keeper.live("eth1") == {VHID, 8}
    lease.install("eth1", [dataclasses.replace(here, lease_ns=SECOND)])
    assert_answers(neighbor, host)
    lease.install("eth1", [here, other])
    assert host.keeper.live("eth1") == {VHID}
    assert lease.installed() == ["eth1"]
    lease.install("eth1", [])
    assert lease.installed() == []
    lease.remove("eth1")


def test_a_deleted_gate_is_noticed(namespace: None) -> None:
    guards = [Guard(vhid=1, mac=VIRTUAL_MAC, addresses=VIRTUAL, lease_ns=SECOND)]
    monitor = GateMonitor()
    lease.install("eth1", guards)
    lease.install("eth1", guards)
    with LeaseKeeper() as keeper:
        keeper.surrender("eth1", 1)
    assert not monitor.table_deleted()
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert monitor.table_deleted()
    assert not monitor.table_deleted()
    assert lease.installed() == []


@pytest.mark.parametrize("name", ["eth1", "br-lan", "eth_0.5", "wl@n", "a%b#c", "x{y", "1net", "$x", "ä", "a;b'c"])
def test_any_interface_name(namespace: None, name: str) -> None:
    lease.install(name, [Guard(vhid=1, mac=VIRTUAL_MAC, addresses=VIRTUAL, lease_ns=SECOND)])
    assert lease.installed() == [name]
    with LeaseKeeper() as keeper:
        assert keeper.surrender(name, 1) == 0
        assert keeper.live(name) == set()


@pytest.mark.parametrize("name", ['a"b', "a\\b", "eth*", "a\nb"])
def test_refused_interface_name(namespace: None, name: str) -> None:
    with pytest.raises(SystemCallError, match="cannot write"):
        lease.install(name, [Guard(vhid=1, mac=None, addresses=VIRTUAL, lease_ns=SECOND)])


def test_255_virtual_hosts(neighbor: Neighbor) -> None:
    guards = [
        Guard(
            vhid=vhid,
            mac=VIRTUAL_MAC[:5] + bytes([vhid]),
            addresses=(ip_interface(f"192.0.2.{vhid}"), ip_interface(f"2001:db8::{vhid:x}")),
            lease_ns=LONG,
        )
        for vhid in range(1, 256)
    ]
    lease.install("eth1", guards)
    packets = PacketSocket(link("eth1").index)
    for vhid in (1, 128, 255):
        packets.send(advertisement(vhid=vhid))
    packets.close()
    with LeaseKeeper() as keeper:
        assert keeper.live("eth1") == {1, 128, 255}


def test_without_nft(namespace: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(SystemCallError, match="install the package nftables"):
        lease.install("eth1", [Guard(vhid=1, mac=None, addresses=VIRTUAL, lease_ns=SECOND)])


def test_nft_refuses(namespace: None) -> None:
    """What nft says comes in one line."""
    subprocess.run(["nft", "add", "table", "netdev", "carpd_eth1"], check=True)
    subprocess.run(["nft", "add", "set", "netdev", "carpd_eth1", "live_1", "{ type mark; }"], check=True)
    with pytest.raises(SystemCallError) as refused:
        lease.install("eth1", [Guard(vhid=1, mac=None, addresses=VIRTUAL, lease_ns=SECOND)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("lease_ns", "text"), [(1, "1ms"), (11_718_750, "12ms"), (SECOND, "1000ms"), (SECOND + 1, "1001ms")]
)
def test_lease_is_rounded_up(lease_ns: int, text: str) -> None:
    rendered = lease.render("eth1", [Guard(vhid=1, mac=None, addresses=VIRTUAL, lease_ns=lease_ns)])
    assert f"meta oif timeout {text} }}" in rendered
