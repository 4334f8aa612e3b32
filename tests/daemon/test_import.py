"""The samples of two hosts of every format go in, and a pair that works comes out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from carpd.control.protocol import ControlError
from carpd.lab.firewalls import LAN_GATEWAYS, WAN_GATEWAYS, FirewallNetwork
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab
from carpd.lab.traffic import Probe
from carpd.lab.waiting import wait_until
from carpd.units import MILLISECOND
from tests.daemon.carpd import LIMIT_NS, Carpd, served
from tests.migration.test_samples import PAIRS, imported


class Imported(Carpd):
    """carpd with what was imported."""

    def __init__(self, node: Node, directory: Path) -> None:
        for file in directory.iterdir():
            shutil.copy(file, node.directory)
        super().__init__(node, (directory / "carpd.toml").read_text())

    def hears_its_peer(self) -> bool:
        """Whether it has packets of the other one's pfsync, and the states of the other."""
        try:
            pfsync = self.status()["pfsync"]
        except ControlError:
            return False
        return bool(pfsync["counters"]["ipackets"]) and bool(pfsync["bulk_update"]["done"])


@pytest.mark.parametrize("sample", PAIRS)
def test_a_pair(sample: str, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fw-a is preferred, as it was; when it leaves fw-b takes over, and when it is back it takes them back."""
    assert imported(sample, tmp_path / "carpd.toml", monkeypatch) == 0
    network = FirewallNetwork(lab)
    families = 1 if sample == "ucarp" else 2  # ucarp knows IPv4 alone
    lan = Probe(network.client, {address: address for address in LAN_GATEWAYS[:families]}, interval_ns=5 * MILLISECOND)
    wan = Probe(network.server, {address: address for address in WAN_GATEWAYS[:families]}, interval_ns=5 * MILLISECOND)
    first, second = (Imported(firewall.node, tmp_path) for firewall in network.firewalls)
    first.becomes("MASTER")
    second.becomes("BACKUP")
    for probe in (lan, wan):
        served(probe)
    if sample != "ucarp":
        wait_until(lambda: first.hears_its_peer() and second.hears_its_peer(), LIMIT_NS, "pfsync works")

    assert first.stop() == 0
    second.becomes("MASTER")
    for probe in (lan, wan):
        served(probe)
    first.start()
    first.becomes("MASTER")
    second.becomes("BACKUP")
    for probe in (lan, wan):
        served(probe)
        probe.stop()
