"""carpd on a firewall of the laboratory: one configuration file for both, as an operator would write it."""

from __future__ import annotations

import sys
from typing import Any

from carpd.control import client
from carpd.control.protocol import ControlError
from carpd.lab.firewalls import SYNC_PEERS, Firewall
from carpd.lab.nodes import Process
from carpd.units import SECOND

CONFIGURATION = """\
[carp.lan]
interface = "eth1"
vhid = 1
addresses = ["192.0.2.1/24", "2001:db8:1::1/64"]
password_file = "password"
preempt = true
group = "edge"

[carp.wan]
interface = "eth2"
vhid = 2
addresses = ["198.51.100.1/24", "2001:db8:2::1/64"]
password_file = "password"
preempt = true
group = "edge"

[node.fw-b.carp.lan]
advskew = 100

[node.fw-b.carp.wan]
advskew = 100
"""

PFSYNC = f"""
[pfsync]
syncdev = "eth3"
syncpeer = ["{SYNC_PEERS[0]}", "{SYNC_PEERS[1]}"]
secret_file = "pfsync.key"
"""
"""What makes the standby know the states of the master."""

VIRTUAL_HOSTS = ("lan", "wan")


class Carpd:
    """The daemon of one firewall. It does not run before `start`."""

    def __init__(self, firewall: Firewall, configuration: str = CONFIGURATION, *, pfsync: bool = False) -> None:
        self.firewall = firewall
        self.name = firewall.node.name
        self._directory = firewall.node.directory
        self.socket = self._directory / "carpd.sock"
        self._secret("password", "secret")
        self._secret("pfsync.key", "a secret of the laboratory's firewalls, and of nobody else")
        (self._directory / "carpd.toml").write_text(configuration + (PFSYNC if pfsync else ""))
        self._process: Process | None = None

    def _secret(self, name: str, text: str) -> None:
        file = self._directory / name
        file.touch(mode=0o600)
        file.write_text(f"{text}\n")

    def start(self) -> None:
        options = {
            "--config": self._directory / "carpd.toml",
            "--node": self.name,
            "--socket": self.socket,
            "--state-dir": self._directory,
        }
        argv = [sys.executable, "-m", "carpd.cli.carpd"]
        for name, value in options.items():
            argv += [name, str(value)]
        self._process = self.firewall.node.start(argv, log="carpd.log")

    def stop(self) -> int:
        """End it with SIGTERM and return its exit status."""
        assert self._process is not None, "it was never started"
        return self._process.stop()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def virtual_hosts(self) -> list[dict[str, Any]]:
        """What `carpctl status --json` says of each; none while the daemon does not answer."""
        if not self.running:
            return []
        try:
            hosts: list[dict[str, Any]] = client.request(self.socket, "status")["virtual_hosts"]
        except ControlError:
            return []
        return hosts

    def states(self) -> dict[str, str]:
        """The state of each virtual host by its name: MASTER, BACKUP or INIT."""
        return {host["name"]: host["state"] for host in self.virtual_hosts()}

    def master_down_ns(self) -> int:
        """How long it waits for a silent master."""
        return int(max(host["master_down_s"] for host in self.virtual_hosts()) * SECOND)
