"""carpd on a node of the laboratory, as a test wants to start, ask and end it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from carpd.control import client
from carpd.control.protocol import ControlError
from carpd.lab.nodes import Node, Process
from carpd.lab.traffic import Probe
from carpd.lab.waiting import LabTimeoutError, wait_until
from carpd.units import SECOND

PASSWORD = "secret"
LIMIT_NS = 15 * SECOND
"""How long what must happen may take, on a busy machine. What is waited for takes a fraction of a second."""

FAST: dict[str, Any] = {"advbase": 0, "advskew": 12}
"""Advertisements every 47 ms, and a master-down time of 141 ms."""
SLOWER: dict[str, Any] = {"advbase": 0, "advskew": 18}
"""Advertisements every 70 ms, and a master-down time of 211 ms."""


def virtual_host(name: str = "lan", **settings: Any) -> str:
    """The table of a virtual host in a configuration file. JSON's strings, numbers and arrays are TOML's."""
    merged: dict[str, Any] = {"interface": "eth1", "vhid": 7, "password": PASSWORD, **settings}
    return "\n".join([f"[carp.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in merged.items())]) + "\n"


def served(probe: Probe, limit_ns: int = LIMIT_NS) -> None:
    """Wait until every address that is probed answers. Raise LabTimeoutError."""
    now = time.monotonic_ns()
    for name, record in probe.records.items():
        wait_until(partial(record.answered_since, now), limit_ns, f"an answer from {name}")


class Carpd:
    """The daemon of one node. It runs, or is being started, from the beginning."""

    def __init__(
        self,
        node: Node,
        *tables: str,
        program: Sequence[str] = (sys.executable, "-m", "carpd.cli.carpd"),
        owner: int = 0,
    ) -> None:
        """With these virtual hosts; `owner` is the user that `program` runs as."""
        self.node = node
        self.socket = node.directory / "carpd.sock"
        self._program = program
        self._configuration = node.directory / "carpd.toml"
        self._configuration.touch(mode=0o600)
        os.chown(self._configuration, owner, owner)
        self.configure(*tables)
        self._runs = 0
        self.start()

    @property
    def argv(self) -> list[str]:
        options = {
            "--config": self._configuration,
            "--node": self.node.name,
            "--socket": self.socket,
            "--state-dir": self.node.directory,
        }
        return [*self._program, *(str(word) for option in options.items() for word in option)]

    def configure(self, *tables: str) -> None:
        """Write its file: it is read at the start, and when it is told to."""
        self._configuration.write_text("\n".join(tables))

    def reload(self, *tables: str, **arguments: Any) -> list[str]:
        """Write its file and tell it to go over to that; what changes, a line each. Raise ControlError."""
        self.configure(*tables)
        outcome = client.request(self.socket, "reload", timeout_s=60.0, **arguments)
        assert outcome["failures"] == [], outcome
        return [f"{change['sign']} {change['text']}" for change in outcome["plan"]]

    def start(self) -> None:
        """Start it, or start it again."""
        self._runs += 1
        self.process: Process = self.node.start(self.argv, log=f"carpd-{self._runs}.log")

    def stop(self) -> int:
        """End it with SIGTERM, and return its exit status."""
        return self.process.stop()

    def log(self) -> str:
        """What it has logged since it was last started."""
        return self.process.log.read_text()

    # What it says of itself

    def status(self) -> dict[str, Any]:
        """As `carpctl status --json`. Raise ControlError."""
        return client.request(self.socket, "status")

    def hosts(self) -> list[dict[str, Any]]:
        """Every virtual host of its status. Raise ControlError."""
        found: list[dict[str, Any]] = self.status()["virtual_hosts"]
        return found

    def host(self, name: str = "lan") -> dict[str, Any]:
        """One virtual host of its status. Raise ControlError."""
        found: dict[str, Any] = client.request(self.socket, "status", name=name)["virtual_hosts"][0]
        return found

    def counters(self, interface: str = "eth1") -> dict[str, int]:
        """What came in on an interface, for any virtual host or none. Raise ControlError."""
        (found,) = (i["counters"] for i in self.status()["interfaces"] if i["name"] == interface)
        counters: dict[str, int] = found
        return counters

    def states(self) -> dict[str, str]:
        """The state of each virtual host; none while it does not answer."""
        try:
            return {host["name"]: host["state"] for host in self.hosts()}
        except ControlError:
            return {}

    # What is waited for

    def becomes(self, state: str, *names: str) -> None:
        """Wait until its virtual hosts (all, or these) are in this state. Raise LabTimeoutError with its log."""

        def reached() -> bool:
            states = self.states()
            return bool(states) and all(states[name] == state for name in names or states)

        self._wait(reached, f"{self.node.name} becomes {state}")

    def hears_a_master(self) -> None:
        """Wait until it has heard one for every virtual host. Raise LabTimeoutError with its log."""
        self._wait(lambda: all(host["master"] for host in self.hosts()), f"{self.node.name} hears a master")

    def logs(self, text: str) -> None:
        """Wait until this is in its log. Raise LabTimeoutError with the log."""
        self._wait(lambda: text in self.log(), f"{self.node.name} logs {text!r}")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        with contextlib.suppress(LabTimeoutError):
            wait_until(lambda: condition() or not self.process.running, LIMIT_NS, what)
        if not condition():
            raise LabTimeoutError(f"waited in vain: {what}; it is {self.states()} and logged:\n{self.log()}")
