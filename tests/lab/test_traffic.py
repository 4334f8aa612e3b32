from __future__ import annotations

import time
from typing import get_args

import pytest

from carpd.lab.firewalls import CLIENT, FirewallNetwork
from carpd.lab.measure import ANSWER_NS
from carpd.lab.topology import Lab
from carpd.lab.traffic import Download, Flow, Kind, Probe
from carpd.lab.waiting import wait_until
from carpd.units import MILLISECOND, SECOND

SELF = {"4": CLIENT[0], "6": CLIENT[1]}


def test_probes_of_both_families_are_answered_and_lost(lab: Lab) -> None:
    """From a firewall to the client, over its cable, which is cut for a while."""
    net = FirewallNetwork(lab)
    probe = Probe(net.a.node, SELF)

    def all_answered_since(when: int) -> bool:
        return all(record.answered_since(when) for record in probe.records.values())

    start = time.monotonic_ns()
    wait_until(lambda: all_answered_since(start), 10 * SECOND, "answers")
    net.a.lan.drop_everything()
    cut = time.monotonic_ns()
    wait_until(lambda: probe["6"].sent[-1] > cut + ANSWER_NS, 10 * SECOND, "probes without an answer")
    before_return = time.monotonic_ns()
    net.a.lan.restore()
    back = time.monotonic_ns()
    wait_until(lambda: all_answered_since(back), 10 * SECOND, "answers again")
    answered = time.monotonic_ns()
    wait_until(lambda: probe["6"].sent[-1] > answered + ANSWER_NS, 10 * SECOND, "the last answers")
    for record in probe.records.values():
        loss = record.loss(start, answered)
        assert loss.gap_ns >= before_return - cut
        assert 0 < loss.lost < loss.sent
        assert loss.sent <= (answered - start) // MILLISECOND + 1
    probe.stop()


def test_a_download_counts_what_arrives(lab: Lab) -> None:
    net = FirewallNetwork(lab)
    download = Download(net.a.node, net.client, CLIENT[1])
    wait_until(lambda: download.connected and sum(download.received) > 1_000_000, 10 * SECOND, "a megabyte")
    assert download.running
    assert download.received_since(download.first_ns - 1)
    assert not download.received_since(time.monotonic_ns())
    download.stop()
    assert not download.running


@pytest.mark.parametrize("address", CLIENT)
@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_flow_is_made_once(lab: Lab, kind: Kind, address: str) -> None:
    """Its path comes later than both its ends, and goes for a while; when an end is gone, so is the flow."""
    net = FirewallNetwork(lab)
    net.a.lan.unplug()
    flow = Flow(kind, net.a.node, net.client, address, rate=1_000_000)
    assert (flow.connected, flow.running, flow.moved_ns) == (False, True, 0)
    net.a.lan.plug()
    wait_until(lambda: flow.connected, 10 * SECOND, "a connection")
    before = time.monotonic_ns()
    net.a.lan.drop_everything()
    wait_until(lambda: not flow.received_since(time.monotonic_ns() - 5 * flow.width_ns), 10 * SECOND, "a stall")
    net.a.lan.restore()
    back = time.monotonic_ns()
    wait_until(lambda: flow.received_since(back), 10 * SECOND, "more")
    assert flow.running
    assert flow.stall_ns(before, flow.moved_ns) >= 3 * flow.width_ns
    net.a.node.kill()
    assert not flow.running
    assert flow.connected
