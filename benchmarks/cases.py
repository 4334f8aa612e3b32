"""What is done to the master, how it is undone, and what a client sees of both.

    with Lab() as lab:
        pair = Pair(lab, contender)
        pair.settle()
        failure, repair = pair.play(Case.POWER, phase)
"""

from __future__ import annotations

import enum
import signal
import socket
import time
from dataclasses import dataclass

from benchmarks.daemons import ADDRESS4, ADDRESS6, Contender
from benchmarks.wire import Advertiser, advertisements
from carpd.lab.firewalls import Firewall, FirewallNetwork
from carpd.lab.measure import ANSWER_NS
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab, Switch
from carpd.lab.traffic import Probe
from carpd.lab.waiting import LabError, LabTimeoutError, wait_until
from carpd.units import MILLISECOND, SECOND

PATIENCE_NS = 3 * SECOND
"""Beyond the protocol's bound: whoever has not taken over by then never will."""

_CALM_NS = 300 * MILLISECOND
"""So long every probe is answered before something counts as over."""

_START_LIMIT_NS = 15 * SECOND
_SESSION_NS = 1800 * SECOND


class Case(enum.Enum):
    """What happens to the master. Each is undone before the next, and the master's return is measured too."""

    POWER = "power cut"
    """Its switch port drops everything: carrier and learned MAC addresses stay."""
    KILL = "killed"
    """SIGKILL to all its processes; what it had set up in the kernel stays."""
    HANG = "hang"
    """SIGSTOP to all its processes."""
    STOP = "stop"
    """SIGTERM to the daemon."""
    CABLE = "cable lost"
    """The cable is pulled out of the switch: no carrier."""

    @property
    def undoing(self) -> str:
        return _UNDOING[self]

    @property
    def planned(self) -> bool:
        return self is Case.STOP


_UNDOING = {
    Case.POWER: "power back",
    Case.KILL: "restart after kill",
    Case.HANG: "hang ends",
    Case.STOP: "restart after stop",
    Case.CABLE: "cable back",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What the client saw of one thing that happened. Times in nanoseconds."""

    gap_ns: int
    """The longest outage of the IPv4 address; 0 if every probe was answered."""
    lost: int
    """Probes without an answer, all in all."""
    gap6_ns: int
    """The longest outage of the IPv6 address, where the daemon has one."""
    late_ns: int | None
    """The take-over, after its time by the protocol's rule: last advertisement of the old master + master-down time."""
    over: bool
    """Whether all was well in the end, within PATIENCE_NS of the protocol's bound."""


class Pair:
    """Two firewalls with a daemon, a client that probes the shared address, and an observer on the LAN."""

    def __init__(self, lab: Lab, contender: Contender) -> None:
        self.contender = contender
        self._lab = lab
        network = FirewallNetwork(lab)
        self._a, self._b = network.firewalls
        observer = lab.node("observer")
        lab.cable(observer, "eth0", Switch("lan"))
        self._capture = observer.capture("eth0")
        self._start(self._a)
        self._start(self._b)
        targets = {"4": ADDRESS4} | ({"6": ADDRESS6} if contender.daemon == "carpd" else {})
        self._probe = Probe(network.client, targets, limit_ns=_SESSION_NS)
        self._measured_until = time.monotonic_ns()

    def settle(self) -> None:
        """Wait until the one who has to be master is it, and serves. Raise LabTimeoutError if that does not come."""
        limit = self.contender.master_down_ns + _START_LIMIT_NS
        wait_until(self._settled, limit, f"{self.contender.name}: a master at the start")
        self._measure(None, over=True)

    def play(self, case: Case, phase_ns: int) -> tuple[Measured, Measured]:
        """Let something happen to the master after `phase_ns`, and undo it: what the client saw of either."""
        time.sleep(phase_ns / SECOND)
        self._measure(None, over=True)  # all until now belongs to nothing that is measured
        self._capture.frames()
        master, backup = (self._a, self._b) if _holds(self._a.node) else (self._b, self._a)
        _inject(case, self._lab, master)
        over = self._await(lambda: _holds(backup.node) and self._served(), self.contender.master_down_ns)
        failure = self._measure((master, backup), over=over)
        self._undo(case, master)
        over = self._await(self._settled, self.contender.master_down_ns)
        undoing = self._measure(None, over=over)
        if not over:
            self._start_again()
        return failure, undoing

    def _undo(self, case: Case, firewall: Firewall) -> None:
        match case:
            case Case.POWER:
                self._lab.power_back([firewall.lan])
            case Case.KILL | Case.STOP:
                self._start(firewall)
            case Case.HANG:
                _signal_all(firewall.node, signal.SIGCONT)
            case Case.CABLE:
                firewall.lan.plug()

    def _start(self, firewall: Firewall) -> None:
        self.contender.start(firewall)

    def _start_again(self) -> None:
        """From nothing, where a daemon did not find back by itself."""
        for firewall in (self._a, self._b):
            firewall.node.kill()
            if _holds(firewall.node):
                firewall.node.run(("ip", "address", "flush", "to", ADDRESS4))
        for firewall in (self._a, self._b):
            self._start(firewall)
        self.settle()

    def _await(self, condition: Callable[[], bool], bound_ns: int) -> bool:
        try:
            wait_until(condition, bound_ns + PATIENCE_NS, "")
        except LabTimeoutError:
            return False
        return True
