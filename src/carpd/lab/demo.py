"""The demo: two firewalls with carpd, a client that notices everything, and seven things that happen to them.

The firewalls are stateful, and connections that were made once go through them. Each step does something and waits
until what had to come of it is there: the right master, every probe stream answered, every connection moving. Then all
is left alone for a moment, and the step is measured. A connection that does not move in time is broken, and ended.
"""

from __future__ import annotations

import contextlib
import enum
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from carpd import __version__
from carpd.lab.daemons import VIRTUAL_HOSTS, Carpd
from carpd.lab.firewalls import CLIENT, LAN_GATEWAYS, SERVER, WAN_GATEWAYS, FirewallNetwork
from carpd.lab.measure import ANSWER_NS, Loss, joined, outages
from carpd.lab.rules import FORWARDED_PORT, SERVICE_PORT, be_stateful
from carpd.lab.story import FAMILIES, OFF, Span, Step, Story, role
from carpd.lab.topology import Lab
from carpd.lab.traffic import Download, Flow, Probe, ProbeRecord
from carpd.lab.waiting import LabError, LabTimeoutError, wait_until
from carpd.units import MILLISECOND, SECOND

STEP_LIMIT_NS = 20 * SECOND
"""When a step is given up."""

_PATIENCE_NS = SECOND
"""How much longer than the service was away a connection may rest after the calm. TCP doubles its waiting time: who has
waited for T tries again before 2 T."""

_LOOK_NS = 50 * MILLISECOND
"""How often the daemons are asked for their states."""

_CURVE_NS = 100 * MILLISECOND
"""The length of the parts of a throughput curve."""

_CALM_NS = SECOND
"""How long all is left alone after a step, so that what comes late is seen in its own step."""

_RECENT_NS = 200 * MILLISECOND
"""Who was served this recently is served."""


class Kind(enum.Enum):
    """How much of an interruption the protocol can't help."""

    START = enum.auto()
    """Nobody was served before."""
    PLANNED = enum.auto()
    """None at all: the old master leaves when the new one is there."""
    FAILURE = enum.auto()
    """The backup's master-down time: so long it waits for a master that says nothing."""


@dataclass(frozen=True, slots=True)
class Act:
    """What a step does, and which firewall has to be master in the end."""

    name: str
    what: str
    kind: Kind
    master: str
    perform: Callable[[Demo], None]


def _start(demo: Demo) -> None:
    for daemon in demo.daemons:
        daemon.start()


def _cut_power(demo: Demo) -> None:
    demo.network.lab.power_cut(demo.a.firewall.ports)
    demo.begin_trouble("no power")


def _return_power(demo: Demo) -> None:
    demo.network.lab.power_back(demo.a.firewall.ports)
    demo.end_trouble()


def _stop(demo: Demo) -> None:
    status = demo.a.stop()
    if status:
        raise LabError(f"carpd ended with status {status}")
    demo.begin_trouble("stopped")


def _return(demo: Demo) -> None:
    demo.a.start()
    demo.end_trouble()


def _unplug(demo: Demo) -> None:
    demo.a.firewall.lan.unplug()
    demo.begin_trouble("no LAN cable")


def _plug(demo: Demo) -> None:
    demo.a.firewall.lan.plug()
    demo.end_trouble()


ACTS = (
    Act("start", "both firewalls start", Kind.START, "fw-a", _start),
    Act("power cut", "all switch ports of fw-a drop everything", Kind.FAILURE, "fw-b", _cut_power),
    Act("power returns", "the switch ports of fw-a work again", Kind.PLANNED, "fw-a", _return_power),
    Act("stop", "carpd on fw-a is asked to end (SIGTERM)", Kind.PLANNED, "fw-b", _stop),
    Act("return", "carpd on fw-a is started again", Kind.PLANNED, "fw-a", _return),
    Act(
        "cable lost",
        "fw-a loses its LAN cable, and with it both gateways",
        Kind.FAILURE,
        "fw-b",
        _unplug,
    ),
    Act("cable back", "the LAN cable of fw-a is plugged in again", Kind.PLANNED, "fw-a", _plug),
)


class Demo:
    """One run. `show` is called whenever the daemons have been asked for their states."""

    def __init__(self, lab: Lab, show: Callable[[Demo], None], *, pfsync: bool = True) -> None:
        self.network = FirewallNetwork(lab)
        for firewall in self.network.firewalls:
            be_stateful(firewall.node)
        self.a, self.b = (Carpd(firewall, pfsync=pfsync) for firewall in self.network.firewalls)
        self.act = ACTS[0]
        self.states: dict[str, dict[str, str]] = {daemon.name: {} for daemon in self.daemons}
        self._show = show
        self._looked_ns = 0
        targets = {("IPv4", "server"): SERVER[0], ("IPv6", "server"): SERVER[1]}
        targets |= {("IPv4", "gateway"): LAN_GATEWAYS[0], ("IPv6", "gateway"): LAN_GATEWAYS[1]}
        self.story = Story(version=__version__, kernel=os.uname().release, start_ns=time.monotonic_ns())
        self._probe = Probe(self.network.client, {" ".join(name): address for name, address in targets.items()})
        self._flows = self._begin_flows()
        self._connected: frozenset[str] = frozenset()

    @property
    def daemons(self) -> tuple[Carpd, Carpd]:
        return self.a, self.b

    @property
    def master(self) -> str | None:
        """The node that is master of every virtual host, if no other that can be heard is master of any."""
        heard = {name: states for name, states in self.states.items() if not self._without_power(name)}
        masters = [name for name, states in heard.items() if "MASTER" in states.values()]
        return masters[0] if len(masters) == 1 and role(heard[masters[0]]) == "MASTER" else None

    def streams(self, family: str) -> list[ProbeRecord]:
        """The probe streams of a family: to the server, through the gateway, and to the gateway."""
        return [record for name, record in self._probe.records.items() if name.startswith(family)]

    @property
    def downloads(self) -> dict[str, Flow]:
        """The one by each family whose throughput is drawn."""
        return {family: self._flows[f"{family} download"] for family in FAMILIES}

    def connections(self) -> frozenset[str]:
        """The names of the connections that are there."""
        return frozenset(name for name, flow in self._flows.items() if flow.connected and flow.running)

    def broken(self) -> frozenset[str]:
        """The names of the connections that are not there any more."""
        return frozenset(name for name, flow in self._flows.items() if flow.connected and not flow.running)

    def run(self) -> Story:
        """All steps, or as many as work."""
        for self.act in ACTS:
            step = self._play(self.act)
            self.story.steps.append(step)
            if step.trouble:
                break
        self._show(self)
        self._conclude()
        return self.story

    def begin_trouble(self, what: str) -> None:
        """Note for the picture what fw-a lacks from now on."""
        now = time.monotonic_ns()
        self.story.troubles.append(Span(self.a.name, what, now, 0))

    def end_trouble(self) -> None:
        self.story.troubles[-1].end_ns = time.monotonic_ns()

    def _begin_flows(self) -> dict[str, Flow]:
        """By family: both directions over TCP, a service of the client's that is used from outside, and UDP."""
        client, server = self.network.client, self.network.server
        service = {"IPv4": (WAN_GATEWAYS[0], FORWARDED_PORT), "IPv6": (CLIENT[1], SERVICE_PORT)}
        flows: dict[str, Flow] = {}
        for family, inside, outside in zip(FAMILIES, CLIENT, SERVER, strict=True):
            flows |= {
                f"{family} download": Download(client, server, outside, port=5001),
                f"{family} upload": Flow("upload", client, server, outside, port=5002),
                f"{family} service": Flow("download", server, client, inside, port=SERVICE_PORT, asked=service[family]),
                f"{family} UDP": Flow("udp", client, server, outside, port=5003),
            }
        return flows

    def _play(self, act: Act) -> Step:
        before, bound, trouble = self.master, self._bound_ns(act), ""
        start = time.monotonic_ns()
        try:
            act.perform(self)
            acted = time.monotonic_ns()
            self._wait(lambda: self.master == act.master and self._served_since(acted), STEP_LIMIT_NS, act)
            away_ns = time.monotonic_ns() - acted
            self._rest(_CALM_NS)
            self._wait_for_flows(away_ns + _PATIENCE_NS)
        except LabError as error:
            trouble = str(error)
        end = time.monotonic_ns()
        self._rest(ANSWER_NS)
        connected, self._connected = self._connected, self.connections()
        alive = connected & self._connected
        return Step(
            name=act.name,
            what=act.what,
            start_ns=start,
            end_ns=end,
            master_before=before,
            master_after=self.master,
            master_wanted=act.master,
            losses={family: self._losses(family, end) for family in FAMILIES},
            bound_ns=bound,
            connections_before=len(connected),
            connections_after=len(self._connected),
            broken=tuple(sorted(connected - self._connected)),
            stall_ns=max((self._flows[name].stall_ns(self._measured_ns, end) for name in alive), default=None),
            trouble=trouble,
        )

    def _bound_ns(self, act: Act) -> int | None:
        if act.kind is Kind.FAILURE:
            return self.b.master_down_ns()
        return 0 if act.kind is Kind.PLANNED else None

    @property
    def _measured_ns(self) -> int:
        """Where the last step's measurement ended, and so the next one's begins: nothing is left out."""
        return self.story.steps[-1].end_ns if self.story.steps else self.story.start_ns

    def _losses(self, family: str, end_ns: int) -> tuple[Loss, ...]:
        return tuple(record.loss(self._measured_ns, end_ns) for record in self.streams(family))

    def _wait_for_flows(self, limit_ns: int) -> None:
        """Until every connection moves. Those that don't in time are broken: end them."""
        since = time.monotonic_ns()

        def at_rest() -> list[Flow]:
            return [flow for flow in self._flows.values() if flow.running and not flow.received_since(since)]

        with contextlib.suppress(LabTimeoutError):
            self._wait(lambda: not at_rest(), limit_ns, self.act)
        for flow in at_rest():
            flow.stop()
        never = sorted(name for name, flow in self._flows.items() if not flow.connected)
        if never:
            raise LabError(f"no connection: {', '.join(never)}")

    def _served_since(self, acted_ns: int) -> bool:
        """Whether each probe stream got an answer recently."""
        since = max(acted_ns, time.monotonic_ns() - _RECENT_NS)
        return all(record.answered_since(since) for family in FAMILIES for record in self.streams(family))

    def _wait(self, condition: Callable[[], bool], limit_ns: int, act: Act) -> None:
        def look_and_check() -> bool:
            self._look()
            return condition()

        try:
            wait_until(look_and_check, limit_ns, act.what)
        except LabTimeoutError:
            roles = ", ".join(f"{name} is {role(states)}" for name, states in self.states.items())
            served = "" if self._served_since(0) else "; the client is not served"
            raise LabTimeoutError(f"after {limit_ns // SECOND} s {roles}{served}") from None

    def _rest(self, duration_ns: int) -> None:
        until = time.monotonic_ns() + duration_ns
        self._wait(lambda: time.monotonic_ns() >= until, 2 * duration_ns, self.act)

    def _look(self) -> None:
        """Ask the daemons for their states, every _LOOK_NS."""
        now = time.monotonic_ns()
        if now < self._looked_ns + _LOOK_NS:
            return
        self._looked_ns = now
        for daemon in self.daemons:
            states = self.states[daemon.name] = daemon.states()
            for name in VIRTUAL_HOSTS:
                self._note(f"{daemon.name} {name}", states.get(name, OFF), now)
        self._show(self)

    def _note(self, lane: str, state: str, now: int) -> None:
        """Lengthen the last span of a lane, and begin another if the state is a new one."""
        last = next((span for span in reversed(self.story.states) if span.lane == lane), None)
        if last:
            last.end_ns = now
        if last is None or last.what != state:
            self.story.states.append(Span(lane, state, now, now))

    def _without_power(self, name: str) -> bool:
        return any(span.lane == name and span.what == "no power" and not span.end_ns for span in self.story.troubles)

    def _conclude(self) -> None:
        """What the picture needs beyond the steps."""
        story = self.story
        story.end_ns = time.monotonic_ns()
        for trouble in story.troubles:
            trouble.end_ns = trouble.end_ns or story.end_ns
        bins = (story.end_ns - story.start_ns) // _CURVE_NS
        for family, download in self.downloads.items():
            story.outages[family] = joined(
                outage
                for record in self.streams(family)
                for outage in outages(record.sent, record.received, story.start_ns, story.end_ns - ANSWER_NS)
            )
            story.throughput[family] = download.throughput(story.start_ns, story.end_ns, bins)
