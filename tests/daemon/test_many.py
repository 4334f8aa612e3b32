"""Many virtual hosts on one interface."""

from __future__ import annotations

from typing import Any

from carpd.lab.traffic import Probe
from carpd.units import MILLISECOND
from tests.daemon.carpd import FAST, SLOWER, Carpd, served, virtual_host
from tests.daemon.segment import Segment

NUMBER = 50


def test_fifty_move_together(segment: Segment) -> None:
    """They come up, move when the master's power is cut, and back; the first and the last one serve all the time."""
    addresses = {vhid: f"192.0.2.{vhid + 100}" for vhid in range(1, NUMBER + 1)}

    def tables(**timers: Any) -> list[str]:
        return [
            virtual_host(f"v{vhid}", vhid=vhid, addresses=[f"{address}/24"], preempt=True, **timers)
            for vhid, address in addresses.items()
        ]

    a = Carpd(segment["a"].node, *tables(**FAST))
    a.becomes("MASTER")
    b = Carpd(segment["b"].node, *tables(**SLOWER))
    b.becomes("BACKUP")
    b.hears_a_master()
    targets = {address: address for address in (addresses[1], addresses[NUMBER])}
    probe = Probe(segment.client.node, targets, interval_ns=5 * MILLISECOND)
    served(probe)

    segment["a"].port.drop_everything()
    b.becomes("MASTER")
    served(probe)
    segment["a"].port.restore()
    b.becomes("BACKUP")
    a.becomes("MASTER")
    served(probe)
    assert a.counters()["badauth"] == b.counters()["badauth"] == 0
    assert a.stop() == b.stop() == 0
