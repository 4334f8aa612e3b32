"""What is promised, and checked after every action. Ref: design §6, rules 1 to 3 and 5.

Two nodes *hear each other* while both processes run and do not hang, both links are up, sending works, and nothing is
cut or lost between them. A node is *able* to be master if its process runs, its link is up, and it can send and take.

Always, whatever goes wrong:

* Silence (rule 3): who is not MASTER has no lease and none of the addresses; a MASTER has them. Of nodes that share
  the addresses, on one host, each has a lease, and all are one host's as long as one is MASTER.
* Lease (rule 1): when a BACKUP takes over by its timer nobody still answers by virtue of advertisements that all came
  to the BACKUP. So a master that dies, hangs or is paused is silent before it is replaced. Two clocks may differ by
  what they differ in a master-down time. With advbase 0 each must know how long the others wait.

While nodes hear each other, and so do all that matter:

* Overlap: two nodes that answer for the same virtual host notice in a round trip; where their ignorance comes from a
  fault that has ended, or from an operator's order, one interval later. Where traffic is shared, `most_answering` tells
  tests whether there was any.
* Hand-over: a successor answers one delay after a bow-out that was sent to an able node (advbase up to 85, and frames
  of one sender in order: a bow-out must not overtake the advertisement before it).
* Gap: somebody answers, one master-down time after the last change (and the time that who leaves waits to be heard).
* Settled (rule 2): one master-down time after the last fault, and an interval in which the masters speak, exactly one
  is master, if anyone is able; none that is entitled to be waits; every demotion has its reason (rule 5); and then
  nothing changes any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from carpd.carp.share import YIELD_LIMIT_NS
from carpd.carp.virtual_host import SUCCESSOR_LIMIT_NS
from carpd.config.model import VirtualHostConfig
from carpd.effects import Reason, StateChanged
from carpd.events import CarpState, Family
from carpd.simulation.network import Network, Path, Transmission
from carpd.simulation.node import Node
from carpd.simulation.world import World
from carpd.units import MICROSECOND, SKEW, interval_ns


class ViolationError(AssertionError):
    """A promise was broken."""


class Invariants:
    """Watches the nodes of one world. All have the same virtual hosts, with other advskews."""

    def __init__(
        self,
        world: World,
        network: Network[Transmission],
        nodes: Sequence[Node],
        lateness_ns: int,
        drift_ppm: int,
        explain: Callable[[str], str],
    ) -> None:
        self.world = world
        self.network = network
        self.nodes = nodes
        self.hosts = tuple(nodes[0].configs)
        self.last_change = 0
        """When something from outside last changed: a fault, its end, an operator's order."""
        self._lateness_ns = lateness_ns
        self._drift_ppm = drift_ppm
        self._explain = explain
        self._last_transition = 0
        self.most_answering = dict.fromkeys(self.hosts, 0)
        """How many nodes answered at one moment, at the most, since a test has last set it."""
        self._overlap_since: dict[tuple[str, int, int], int] = {}
        self._gap_since: dict[str, int] = {}
        self._hand_overs: dict[str, tuple[Node, int]] = {}
        """Virtual hosts for which a bow-out was sent -> by whom, and when somebody else must answer."""

    # What the nodes are, and the times that follow from their settings

    def _config(self, host: str) -> VirtualHostConfig:
        return self.nodes[0].configs[host]

    def _able(self, node: Node, host: str) -> bool:
        link = node.link_is_up(self._config(host).interface)
        return node.awake and not node.stopping and link and not node.send_errno and not node.take_fails

    def _hear_each_other(self, host: str, one: Node, two: Node) -> bool:
        interface = self._config(host).interface
        return all(node.awake and node.link_is_up(interface) and not node.send_errno for node in (one, two)) and all(
            self.network.hears(Path(interface, a.number, b.number)) for a, b in ((one, two), (two, one))
        )

    @property
    def _round_trip_ns(self) -> int:
        return 2 * self.network.quality.delay_limit_ns

    def _notice_ns(self, host: str) -> int:
        """A master answers worse ones once an interval: with a third node, or a late frame, it may be silent first."""
        alone = len(self.nodes) == 2 and not self.network.quality.reordering
        return 0 if alone else self._interval_ns(host)

    def _interval_ns(self, host: str) -> int:
        """The longest time between two advertisements of a master."""
        return self._slow(max(self._longest_interval_ns(node.configs[host]) for node in self.nodes))

    @staticmethod
    def _longest_interval_ns(config: VirtualHostConfig) -> int:
        advskew = max(config.advskew, 240) if config.demotion.in_advskew else config.advskew
        return max(interval_ns(config.advbase, advskew), SKEW)

    def _master_down_ns(self, host: str) -> int:
        return self._slow(max(node.configs[host].master_down_ns for node in self.nodes))

    def settling_ns(self) -> int:
        """So long after the last change all is as it stays."""
        longest = max(self._master_down_ns(host) + 5 * self._interval_ns(host) for host in self.hosts)
        return longest + SUCCESSOR_LIMIT_NS + YIELD_LIMIT_NS + 2 * self._round_trip_ns

    def _slow(self, duration_ns: int) -> int:
        """A duration by the slowest clock, and a late wake-up at its end."""
        return duration_ns + duration_ns * 2 * self._drift_ppm // 1_000_000 + self._lateness_ns

    def _patience_ns(self, host: str) -> int:
        """How long a new master waits before it takes a share: the timers that begin and end it may be late."""
        return self._slow(YIELD_LIMIT_NS) + self._lateness_ns if self._config(host).balancing else 0

    # What is told

    def conditions_changed(self) -> None:
        """Call after every fault, its end, and every order of an operator."""
        self.last_change = self.world.now
        self._hand_overs.clear()

    def state_changed(self, node: Node, change: StateChanged) -> None:
        self._last_transition = self.world.now
        if change.reason is Reason.MASTER_DOWN:
            self._check_lease(node, change.host)

    def bowed_out(self, node: Node, host: str) -> None:
        if self.network.quality.reordering or self._config(host).advbase > 85:
            return
        if any(
            self._able(other, host) and not other.failed_since_start and self._hear_each_other(host, node, other)
            for other in self.nodes
            if other is not node and other.state(host) is CarpState.BACKUP
        ):
            self._hand_overs[host] = (
                node,
                self.world.now + self.network.quality.delay_limit_ns + self._patience_ns(host),
            )

    # What is checked

    def check_silence(self, node: Node) -> None:
        """After every event that a node was told."""
        for host, config in node.configs.items():
            held = node.kernel.addresses(config)
            if node.state(host) is CarpState.MASTER:
                if held != set(config.addresses) and node.knows_its_interfaces:
                    self._fail(f"{node.number} is MASTER for {host} with the addresses {held}")
                continue
            others = any(
                node.state(other.name) is CarpState.MASTER
                for other in node.configs.values()
                if other.virtual_host == config.virtual_host
            )
            leased = node.kernel.lease_left_ns(host, node.clock) > 0
            if node.engine is not None and (leased or (held and not others)):
                self._fail(f"{node.number} is {node.state(host).value} for {host} and would answer")

    def check(self) -> None:
        """After every action."""
        for host in self.hosts:
            answering = [node for node in self.nodes if node.answers(host)]
            self.most_answering[host] = max(self.most_answering[host], len(answering))
            self._check_overlap(host, answering)
            self._check_hand_over(host, answering)
            self._check_gap(host, answering)

    def _check_lease(self, node: Node, host: str) -> None:
        config = node.configs[host]
        tolerance = config.master_down_ns * 2 * self._drift_ppm // 1_000_000 + MICROSECOND
        families = [f for f, a in ((Family.IPV4, config.addresses4), (Family.IPV6, config.addresses6)) if a]
        for other in self.nodes:
            if other is node or not other.answers(host):
                continue
            heard = [node.heard.get((host, other.number, family), 0) for family in families]
            sent = [other.sent[host, family] for family in families]
            if min(heard) and self.world.now < min(heard) + config.master_down_ns - tolerance:
                self._fail(f"{node.number} took over {host} too early: it had heard {other.number}, which answers")
            if heard == sent and other.kernel.lease_left_ns(host, other.clock) > tolerance:
                self._fail(
                    f"{node.number} took over {host}, and {other.number} answers by what {node.number} has heard"
                )

    def _check_overlap(self, host: str, answering: list[Node]) -> None:
        pairs = {(host, one.number, two.number): (one, two) for one, two in combinations(answering, 2)}
        for key in [key for key in self._overlap_since if key[0] == host and key not in pairs]:
            del self._overlap_since[key]
        for key, pair in pairs.items():
            since = self._overlap_since.setdefault(key, self.world.now)
            limit = max(since + self._notice_ns(host), self.last_change + self._interval_ns(host)) + self._round_trip_ns
            if self.world.now > limit and self._hear_each_other(host, *pair):
                self._fail(f"{key[1]} and {key[2]} hear each other and both answer for {host} since {seconds(since)}")

    def _check_hand_over(self, host: str, answering: list[Node]) -> None:
        if host not in self._hand_overs:
            return
        leaver, deadline = self._hand_overs[host]
        if any(node is not leaver for node in answering):
            del self._hand_overs[host]
        elif self.world.now > deadline:
            self._fail(f"nobody has taken over {host} after the bow-out of {leaver.number}")

    def _check_gap(self, host: str, answering: list[Node]) -> None:
        if answering:
            self._gap_since.pop(host, None)
            return
        since = max(self._gap_since.setdefault(host, self.world.now), self.last_change + SUCCESSOR_LIMIT_NS)
        limit = since + self._master_down_ns(host) + self._round_trip_ns + self._patience_ns(host)
        if self.world.now > limit and any(self._able(node, host) for node in self.nodes):
            self._fail(f"nobody answers for {host} since {seconds(since)}")

    def check_settled(self) -> None:
        """After a time without any change; call it `settling_ns` after the last one at the earliest."""
        assert self.world.now >= self.last_change + self.settling_ns()
        if self._last_transition > self.last_change + self.settling_ns():
            self._fail(f"a state changed at {seconds(self._last_transition)}, although nothing had happened")
        for host in self.hosts:
            for group in self._groups(host):
                self._check_group(host, group)
        for node in self.nodes:
            self._check_demotion(node)

    def _groups(self, host: str) -> Iterator[list[Node]]:
        """Sets of able nodes that all hear each other, and hear the same nodes."""
        able = [node for node in self.nodes if self._able(node, host)]
        heard = {node: [n for n in able if n is node or self._hear_each_other(host, node, n)] for node in able}
        for node, group in heard.items():
            if group[0] is node and all(heard[member] == group for member in group):
                yield group

    def _check_group(self, host: str, group: list[Node]) -> None:
        masters = [node for node in group if node.state(host) is CarpState.MASTER]
        numbers = [node.number for node in masters]
        if len(masters) != 1:
            self._fail(f"of {[node.number for node in group]} the masters of {host} are {numbers}")
        if not masters[0].answers(host):
            self._fail(f"{numbers[0]} is MASTER for {host} and does not answer")
        for node in group:
            if node is not masters[0] and self._is_entitled(node, masters[0], host):
                self._fail(f"{node.number} is better placed for {host} than {numbers[0]}, and waits")

    def _is_entitled(self, node: Node, master: Node, host: str) -> bool:
        """Ref: spec carp §7.2, rules 1 and 2."""
        config = node.configs[host]
        mine, theirs = self._demotion(node, config.group), self._demotion(master, config.group)
        if config.demotion.in_counter and min(mine, 255) != min(theirs, 255):
            return mine < theirs
        return config.preempt and self._demoted_interval(config, mine) < self._demoted_interval(
            master.configs[host], theirs
        )

    @staticmethod
    def _demoted_interval(config: VirtualHostConfig, demotion: int) -> tuple[int, int]:
        if demotion and config.demotion.in_advskew:
            return config.advbase, max(config.advskew, min(config.advskew + demotion, 240))
        return config.advbase, config.advskew

    @staticmethod
    def _demotion(node: Node, group: str) -> int:
        assert node.engine is not None
        return node.engine.groups[group].total

    def _check_demotion(self, node: Node) -> None:
        """A group is demoted by its links that are down and by the operator, and by nothing that is over."""
        if not node.awake or node.failed_since_start:
            return
        for group in {config.group for config in node.configs.values()}:
            factors: dict[str, int] = {}
            for config in node.configs.values():
                if config.group == group and not node.link_is_up(config.interface):
                    factor = max(factors.get(config.interface, 0), config.ifdown_demotion_factor)
                    factors[config.interface] = factor
            expected = sum(factors.values()) + node.operator_demotion.get(group, 0)
            if self._demotion(node, group) != expected:
                self._fail(f"{node.number} is demoted by {self._demotion(node, group)} in {group}, not by {expected}")

    def _fail(self, what: str) -> None:
        raise ViolationError(self._explain(f"{seconds(self.world.now)}: {what}"))


def seconds(time_ns: int) -> str:
    return f"{time_ns / 1e9:.6f} s"
