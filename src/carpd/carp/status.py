"""What an operator is told of a virtual host: a snapshot of the machine, in its own terms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from carpd.carp.engine import CarpEngine
from carpd.effects import Reason
from carpd.events import CarpState
from carpd.stats import SENT, CarpCounters
from carpd.wire.carp import Advertisement


@dataclass(frozen=True, slots=True)
class HeardMaster:
    """The last valid advertisement of a peer: packed source address, message, nanoseconds on the monotonic clock."""

    source: bytes
    message: Advertisement
    time_ns: int


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A virtual host at one moment. Times are nanoseconds on the monotonic clock."""

    host: str
    state: CarpState
    since_ns: int
    reason: Reason | None
    waits_for: str
    """Why it is INIT, in words; empty otherwise."""
    serves: bool
    """Whether traffic is taken here: a node that shares waits for a living predecessor before."""
    advskew: int
    """As it is sent: with the demotion, where the mode says so."""
    demotion: int
    demotion_reasons: dict[str, int]
    heard: HeardMaster | None
    counters: CarpCounters
    findings: tuple[str, ...] = ()
    """What is wrong with how the virtual host's traffic is shared, a line each."""
    taken: int | None = None
    """Packets that the kernel took for this node: the driver knows. None if nothing is shared."""


@dataclass(frozen=True, slots=True)
class InterfaceStatus:
    """What came in on an interface, for any virtual host or none, and what went out."""

    interface: str
    up: bool
    counters: CarpCounters


def host_status(engine: CarpEngine, name: str) -> HostStatus:
    """Raise KeyError if there is no such virtual host."""
    host = engine.hosts[name]
    heard = host.heard
    return HostStatus(
        host=name,
        state=host.state,
        since_ns=host.since,
        reason=host.reason,
        waits_for=_waits_for(engine, name) if host.state is CarpState.INIT else "",
        serves=host.serves,
        advskew=host.advskew,
        demotion=host.demotion.total,
        demotion_reasons=dict(host.demotion.reasons),
        heard=HeardMaster(*heard) if heard else None,
        counters=replace(host.counters),
        findings=engine.sharing[host.config.virtual_host].findings if host.config.balancing else (),
    )


def interface_status(engine: CarpEngine, name: str) -> InterfaceStatus:
    """What came in, for whomever, and what its virtual hosts sent. Raise KeyError if none is on the interface."""
    known = engine.interfaces.get(name)
    hosts = [host.counters for host in engine.hosts.values() if host.config.interface == name]
    sent = {field: sum(getattr(counters, field) for counters in hosts) for field in SENT}
    counters = replace(engine.interface_counters[name], **sent)
    return InterfaceStatus(name, known is not None and known.up, counters)


def _waits_for(engine: CarpEngine, name: str) -> str:
    host = engine.hosts[name]
    interface = host.config.interface
    known = engine.interfaces.get(interface)
    if known is None:
        return f"interface {interface} does not exist"
    if not known.up:
        return f"link of {interface} is down"
    if not host.prepared:
        what = "the sharing of its traffic" if host.config.balancing else host.config.device
        return f"{what} is being prepared"
    return ""
