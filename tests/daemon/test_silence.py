"""A host that is not master sends nothing for the shared addresses, and answers nothing, whoever is asked how."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from carpd.lab.topology import Lab
from carpd.wire.arp import ArpPacket
from carpd.wire.ethernet import BROADCAST, ETHERTYPE_ARP
from carpd.wire.frames import decode_ip_frame
from tests.daemon.carpd import FAST, SLOWER, Carpd, virtual_host
from tests.daemon.segment import ADDRESSES, Host, Segment
from tests.linux.segment import (
    SILENCE_S,
    VIRTUAL4,
    VIRTUAL6,
    VIRTUAL_MAC,
    arp_request,
    echo_request,
    is_arp_reply,
    is_from,
    solicitation,
)


def questions(host: Host) -> Iterator[bytes]:
    """Every way to ask for the shared addresses: to all, to the host's own MAC, and flooded to the virtual one."""
    for question in (arp_request(VIRTUAL4), solicitation(VIRTUAL6)):
        yield question
        yield host.mac + question[6:]
        yield VIRTUAL_MAC + question[6:]
    for address in (VIRTUAL4, VIRTUAL6):
        for mac in (host.mac, VIRTUAL_MAC, BROADCAST):
            yield echo_request(address, mac)


def speaks_for_the_virtual_host(frame: bytes) -> bool:
    """Comes from the virtual MAC or from a shared address, or tells where that is."""
    if frame[6:12] == VIRTUAL_MAC:
        return True
    if frame[12:14] == ETHERTYPE_ARP.to_bytes(2, "big"):
        return ArpPacket.from_bytes(frame[14:]).sender_ip == VIRTUAL4
    packet = decode_ip_frame(frame)
    if packet is None:
        return False
    tells = packet.payload[:1] == b"\x88" and packet.payload[8:24] == VIRTUAL6  # a neighbour advertisement
    return tells or packet.source in (VIRTUAL4, VIRTUAL6)


class Subject:
    """A host that is asked over its own cable, past the switch, and overheard there from the beginning."""

    def __init__(self, lab: Lab, segment: Segment, name: str) -> None:
        self.host = segment[name]
        self._cable = self.host.cable()
        self._capture = lab.backbone.capture(self.host.port.name)

    def ask(self) -> None:
        """All questions, then one for its own address that every host answers, and some time for the other answers."""
        for question in questions(self.host):
            self._cable.send(question)
        own = ip_address(self.host.ipv4).packed
        self._cable.send(echo_request(own, self.host.mac))
        assert self._cable.hear(is_from(own))
        self._cable.hear(lambda _: False, SILENCE_S)

    def said(self) -> list[str]:
        """What it has said for the virtual host since the last call."""
        frames = [frame.frame for frame in self._capture.frames() if not frame.outgoing]
        return [frame.hex() for frame in frames if speaks_for_the_virtual_host(frame)]

    def check_that_it_answers(self, mac: bytes) -> None:
        """As a master does, which shows that the questions are right."""
        for question, answer in (
            (arp_request(VIRTUAL4), is_arp_reply(VIRTUAL4)),
            (solicitation(VIRTUAL6), is_from(VIRTUAL6)),
            (echo_request(VIRTUAL4, mac), is_from(VIRTUAL4)),
            (echo_request(VIRTUAL6, mac), is_from(VIRTUAL6)),
        ):
            self._cable.send(question)
            assert self._cable.hear(answer)


@pytest.mark.parametrize("mac", ["virtual", "real"])
def test_only_the_master_speaks(lab: Lab, mac: str) -> None:
    """As INIT and BACKUP before and after it was MASTER, when its election process was killed, and when all were."""
    segment = Segment(lab, "a", "b")
    subject = Subject(lab, segment, "b")
    table: dict[str, Any] = {"addresses": ADDRESSES, "mac": mac, "preempt": True}
    a = Carpd(segment["a"].node, virtual_host(**table, **FAST))
    a.becomes("MASTER")
    b = Carpd(segment["b"].node, virtual_host(**table, **SLOWER))
    b.becomes("BACKUP")
    subject.ask()
    assert subject.said() == []

    a.stop()
    b.becomes("MASTER")
    subject.check_that_it_answers(subject.host.mac if mac == "real" else VIRTUAL_MAC)
    a.start()
    b.becomes("BACKUP")
    subject.said()
    subject.ask()
    assert subject.said() == []

    b.process.signal_all(signal.SIGKILL)
    subject.ask()
    assert subject.said() == []


def test_init_is_silent(lab: Lab) -> None:
    """A host whose device can't be made, for somebody else has one of that name, waits in INIT until that has gone."""
    segment = Segment(lab, "b")
    subject = Subject(lab, segment, "b")
    segment["b"].node.ip("link add carp-lan type bridge", "link set carp-lan up")
    b = Carpd(segment["b"].node, virtual_host(addresses=ADDRESSES, **FAST))
    b.logs("another interface has this name")
    assert b.host()["state"] == "INIT"
    assert b.host()["waits_for"] == "carp-lan is being prepared"
    subject.ask()
    assert subject.said() == []
    segment["b"].node.ip("link delete carp-lan")
    b.becomes("MASTER")
    subject.check_that_it_answers(VIRTUAL_MAC)
