"""What is done to the master, how it is undone, and what a client sees of both.

with Lab() as lab:
    pair = Pair(lab, contender)
    pair.settle(rest_ns)
    failure, undoing = pair.play(Case.POWER, rest_ns)
"""

from __future__ import annotations

import enum
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.daemons import ADDRESS4, ADDRESS6, Contender, own_address4
from benchmarks.observer import Advertised, Observer
from carpd.lab.firewalls import Firewall, FirewallNetwork
from carpd.lab.measure import ANSWER_NS
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab, Switch
from carpd.lab.traffic import Probe
from carpd.lab.waiting import LabTimeoutError, wait_until
from carpd.units import MILLISECOND, SECOND

PATIENCE_NS = 3 * SECOND
"""Beyond the protocol's bound: what has not come right by then never will."""

_CALM_NS = 200 * MILLISECOND
"""After so long without a probe lost, something is over."""

_START_NS = 15 * SECOND
_SESSION_NS = 1800 * SECOND


class Case(enum.Enum):
    """What happens to the master. It is undone before the next, and what comes of that is measured too."""

    POWER = "power cut"
    """Its switch port drops everything; carrier and learned MAC addresses stay."""
    KILL = "kill -9"
    """To all its processes at once. What they had set up in the kernel stays."""
    HANG = "hang"
    """SIGSTOP to all its processes."""
    STOP = "stop"
    """SIGTERM to all its processes, as service managers do."""
    CABLE = "cable lost"
    """Its cable is pulled out: no carrier."""

    @property
    def undoing(self) -> str:
        """How it is undone: the return of the better node."""
        return _UNDOING[self]


_UNDOING = {
    Case.POWER: "power back",
    Case.KILL: "start after kill",
    Case.HANG: "hang ends",
    Case.STOP: "start after stop",
    Case.CABLE: "cable back",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What a client saw of one thing that happened. Times in nanoseconds."""

    gap_ns: int
    """The longest outage of the IPv4 address; 0 if every probe was answered."""
    lost: int
    """Probes to it without an answer, all in all."""
    gap6_ns: int | None
    """The longest outage of the IPv6 address, where the daemon serves one."""
    lost6: int
    """Probes to that without an answer; 0 where there is none."""
    late_ns: int | None
    """A failure's take-over, after its time: last advertisement of the old master + how long the backup has to wait."""
    over: bool
    """Whether all was well within PATIENCE_NS of the protocol's bound."""


class Pair:
    """Two firewalls with a daemon, a client that probes the shared address, and an observer on their LAN."""

    def __init__(self, lab: Lab, contender: Contender) -> None:
        self.contender = contender
        self._lab = lab
        network = FirewallNetwork(lab)
        self._a, self._b = network.firewalls
        self._observer = Observer(lab, Switch("lan"))
        for firewall in network.firewalls:
            contender.start(firewall)
        targets = {"4": ADDRESS4} | ({"6": ADDRESS6} if contender.daemon == "carpd" else {})
        self._probe = Probe(network.client, targets, limit_ns=_SESSION_NS)
        self._measured_until = 0
        self._advertised: list[Advertised] = []

    def settle(self, rest_ns: int) -> None:
        """Wait for the first master, and `rest_ns` longer. Raise LabTimeoutError if none comes."""
        limit = self.contender.master_down_ns + _START_NS
        wait_until(self._settled_since(time.monotonic_ns()), limit, f"{self.contender.name}: a first master")
        time.sleep(rest_ns / SECOND)
        self._measured_until = time.monotonic_ns() - ANSWER_NS

    def play(self, case: Case, rest_ns: int) -> tuple[Measured, Measured]:
        """Let something happen to the master, and undo it: what the client saw of either.

        `rest_ns` is how long the return is watched when all is well again: the next failure comes then.
        """
        master, backup = (self._a, self._b) if _holds(self._a.node) else (self._b, self._a)
        begin_ns = time.monotonic_ns()
        _inject(case, self._lab, master)
        bound_ns = self.contender.leave_ns if case is Case.STOP else self.contender.master_down_ns
        over = self._await(lambda: _holds(backup.node) and self._calm(begin_ns))
        failure = self._measure(over, self._late_ns(begin_ns, master, backup, bound_ns))
        self._undo(case, master)
        over = self._await(self._settled_since(time.monotonic_ns()))
        time.sleep(rest_ns / SECOND)
        undoing = self._measure(over, None)
        if not over:
            self._start_again(rest_ns)
        return failure, undoing

    def _undo(self, case: Case, firewall: Firewall) -> None:
        match case:
            case Case.POWER:
                self._lab.power_back([firewall.lan])
            case Case.KILL | Case.STOP:
                self.contender.start(firewall)
            case Case.HANG:
                _signal_all(firewall.node, signal.SIGCONT)
            case Case.CABLE:
                firewall.lan.plug()

    def _start_again(self, rest_ns: int) -> None:
        """From nothing, where a daemon did not find back by itself."""
        firewalls = (self._a, self._b)
        for firewall in firewalls:
            firewall.node.kill()
            firewall.node.run(("ip", "address", "flush", "to", ADDRESS4))
        for firewall in firewalls:
            self.contender.start(firewall)
        self.settle(rest_ns)

    # What can be seen

    def _await(self, come_right: Callable[[], bool]) -> bool:
        """Whether it has come right in time."""
        try:
            wait_until(come_right, self.contender.master_down_ns + PATIENCE_NS, "")
        except LabTimeoutError:
            return False
        return True

    def _settled_since(self, since_ns: int) -> Callable[[], bool]:
        """Whether one node has the address, the better one if there is one, serves, and can be relieved."""

        def settled() -> bool:
            on_a, on_b = _holds(self._a.node), _holds(self._b.node)
            one_master = on_a != on_b and (on_a or self.contender.tied)
            return one_master and self._calm(since_ns) and all(map(self.contender.ready, (self._a, self._b)))

        return settled

    def _calm(self, since_ns: int) -> bool:
        """Whether the last probes were all answered, and were sent after since_ns."""
        end = time.monotonic_ns() - ANSWER_NS
        start = end - _CALM_NS
        return start >= since_ns and self._probe["4"].loss(start, end).lost == 0

    def _measure(self, over: bool, late_ns: int | None) -> Measured:
        """What the client saw since it was measured last: nothing in between is left out."""
        since, self._measured_until = self._measured_until, time.monotonic_ns() - ANSWER_NS
        losses = {name: record.loss(since, self._measured_until) for name, record in self._probe.records.items()}
        return Measured(
            gap_ns=losses["4"].gap_ns,
            lost=losses["4"].lost,
            gap6_ns=losses["6"].gap_ns if "6" in losses else None,
            lost6=losses["6"].lost if "6" in losses else 0,
            late_ns=late_ns,
            over=over,
        )

    def _late_ns(self, begin_ns: int, master: Firewall, backup: Firewall, bound_ns: int) -> int | None:
        """When the backup advertised first, seen from when it had to; None if it never did."""
        self._advertised += self._observer.read()[0]
        old, new = (socket.inet_aton(own_address4(firewall)) for firewall in (master, backup))
        take_over = next((ad.time_ns for ad in self._advertised if ad.source == new and ad.time_ns > begin_ns), None)
        if take_over is None:
            return None
        last = max(ad.time_ns for ad in self._advertised if ad.source == old and ad.time_ns < take_over)
        return take_over - last - bound_ns


def _inject(case: Case, lab: Lab, firewall: Firewall) -> None:
    match case:
        case Case.POWER:
            lab.power_cut([firewall.lan])
        case Case.KILL:
            firewall.node.kill()
        case Case.HANG:
            _signal_all(firewall.node, signal.SIGSTOP)
        case Case.STOP:
            _signal_all(firewall.node, signal.SIGTERM)
        case Case.CABLE:
            firewall.lan.unplug()


def _signal_all(node: Node, number: signal.Signals) -> None:
    """To every process of the node."""
    node.run(("sh", "-c", f"kill -{number.name.removeprefix('SIG')} -1"))


def _holds(node: Node) -> bool:
    """Whether the shared address is one of the node's own."""
    with node.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ADDRESS4, 0))
        except OSError:
            return False
    return True
