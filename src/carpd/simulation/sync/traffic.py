"""Connections through the nodes: how far each has come, and whether its ends still want it.

All that the kernels' tables should say follows from this.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from carpd.simulation.sync.node import SyncNode
from carpd.simulation.world import World
from carpd.units import MILLISECOND, SECOND
from carpd.wire.conntrack import (
    ASSURED,
    CLOSE_INIT,
    CONFIRMED,
    DESTINATION_NAT,
    ICMP,
    SACK_PERMITTED,
    SEEN_REPLY,
    SOURCE_NAT,
    TCP,
    UDP,
    WINDOW_SCALE,
    ConntrackEntry,
    TcpState,
    flow_key,
)

_ANSWERED = CONFIRMED | SEEN_REPLY
_OPEN = _ANSWERED | ASSURED
_SCALED = WINDOW_SCALE | SACK_PERMITTED
_ECHO_REQUEST = 8 << 8


@dataclass(eq=False, slots=True)
class Flow:
    """One connection, or query, with the stages that it goes through."""

    stages: Sequence[ConntrackEntry]
    rests: int
    """The stage at which it stays until one of its ends is done with it."""
    home: int
    """The node that it goes through where all carry traffic."""
    asymmetric: bool
    """Whether there it goes through any of them, packet by packet."""
    began_ns: int
    stage: int = 0
    ending: bool = False
    labelled: bool = False
    """Whether it bears labels, which can't be taken from an entry again."""
    live: bool = True
    """Whether its ends want it still."""

    @property
    def key(self) -> bytes:
        return flow_key(self.stages[0])

    @property
    def seen(self) -> ConntrackEntry:
        """What packets show of it now."""
        return self.stages[self.stage]


class Roads(Protocol):
    """Who carries the traffic."""

    def carrier(self, flow: Flow) -> SyncNode | None: ...
    def broken(self, flow: Flow, node: SyncNode) -> None: ...


class Traffic:
    """Begins, advances, marks and ends connections; when it is calm those that are open only live on."""

    def __init__(self, world: World, rng: random.Random, roads: Roads, nodes: int, interval_ns: int) -> None:
        self.flows: dict[bytes, Flow] = {}
        """The last of each flow key, ended ones too."""
        self.calm = True
        self._world = world
        self._rng = rng
        self._roads = roads
        self._nodes = nodes
        self._interval_ns = interval_ns
        """Between two new connections, on average."""
        self._number = 0

    def begin(self) -> None:
        self.calm = False
        self._world.after(0, self._go_on)

    def _go_on(self) -> None:
        if not self.calm:
            self.open()
            self._world.after(self._rng.randint(0, 2 * self._interval_ns), self._go_on)

    def open(self) -> Flow:
        """A new connection, now and then with the addresses and ports of one that has ended."""
        ended = [key for key, flow in self.flows.items() if not flow.live and not flow.labelled]
        if ended and self._rng.random() < 0.2:
            stages = self.flows[self._rng.choice(ended)].stages
        else:
            self._number += 1
            stages = _STAGES[self._rng.choices((TCP, UDP, ICMP), (6, 3, 1))[0]](self._rng, self._number)
        rests = 2 if len(stages) > 2 else 1
        asymmetric = self._rng.random() < 0.3
        flow = Flow(stages, rests, self._rng.randrange(self._nodes), asymmetric, self._world.now)
        self.flows[flow.key] = flow
        self._step(flow)
        return flow

    def _step(self, flow: Flow) -> None:
        """A packet of it, and when the next will come."""
        if not flow.live:
            return
        self._send(flow)
        if not flow.live:
            return
        rests = flow.stage == flow.rests and not flow.ending
        self._world.after(self._pause(rests), lambda: self._step(flow))
        if rests:
            self._change(flow)
        elif flow.stage + 1 < len(flow.stages):
            flow.stage += 1
        else:
            flow.live = False

    def _pause(self, rests: bool) -> int:
        if rests and self.calm:
            return self._rng.randint(5, 9) * SECOND
        return self._rng.randint(1, 1500 if rests else 300) * MILLISECOND

    def _change(self, flow: Flow) -> None:
        """What happens to an open connection."""
        chance = self._rng.random()
        if flow.stages[0].protocol == ICMP:
            flow.live = self._rng.random() < 0.7 and not self.calm
        elif self.calm:
            return
        elif chance < 0.05:
            flow.ending = flow.live = flow.stages[0].protocol == TCP
        elif chance < 0.08 and not flow.asymmetric and (node := self._roads.carrier(flow)):
            labels = self._rng.randbytes(16) if self._rng.random() < 0.3 else None
            flow.labelled |= labels is not None
            node.kernel.mark(flow.key, self._rng.getrandbits(32), labels)
        elif chance < 0.09 and (node := self._roads.carrier(flow)):
            node.kernel.end(flow.key)
            flow.live = False

    def _send(self, flow: Flow) -> None:
        node = self._roads.carrier(flow)
        if node is None:
            return
        first, seen = flow.stages[0], flow.seen
        opening = flow.stage == 0 or (seen.protocol != TCP and node.kernel.slot(flow.key) is None)
        through = node.kernel.packet(first, opens=True) if opening else True
        if through and seen is not first:
            through = node.kernel.packet(seen, opens=False)
        if not through:
            flow.live = False
            if not opening:
                self._roads.broken(flow, node)


def _tcp(rng: random.Random, number: int) -> list[ConntrackEntry]:
    entry = _connection(rng, number, TCP)
    sack = entry._replace(original_flags=SACK_PERMITTED)
    scaled = entry._replace(
        original_scale=rng.randrange(15), reply_scale=7, original_flags=_SCALED, reply_flags=_SCALED, status=_OPEN
    )
    closing = scaled._replace(original_flags=_SCALED | CLOSE_INIT)
    if rng.random() < 0.4:
        closing = scaled._replace(reply_flags=_SCALED | CLOSE_INIT)
    opened = [
        sack._replace(state=TcpState.SYN_SENT),
        scaled._replace(state=TcpState.SYN_RECV, status=entry.status | SEEN_REPLY),
        scaled._replace(state=TcpState.ESTABLISHED),
    ]
    if rng.random() < 0.2:
        return [*opened, scaled._replace(state=TcpState.CLOSE)]
    over = (TcpState.FIN_WAIT, TcpState.CLOSE_WAIT, TcpState.LAST_ACK, TcpState.TIME_WAIT)
    return opened + [closing._replace(state=state) for state in over]


def _udp(rng: random.Random, number: int) -> list[ConntrackEntry]:
    entry = _connection(rng, number, UDP)
    return [entry, entry._replace(status=entry.status | SEEN_REPLY), entry._replace(status=entry.status | _OPEN)]


def _icmp(_rng: random.Random, number: int) -> list[ConntrackEntry]:
    here, there = _inside(number), _OUTSIDE
    entry = ConntrackEntry(
        here, there, ICMP, number, _ECHO_REQUEST, there, here, _ECHO_REQUEST, number, status=CONFIRMED
    )
    return [entry, entry._replace(status=_ANSWERED)]


def _connection(rng: random.Random, number: int, protocol: int) -> ConntrackEntry:
    """Translated one way, the other, or not, and some of IPv6."""
    here, there = _inside(number), _OUTSIDE
    plain = ConntrackEntry(here, there, protocol, 1024 + number, 443, there, here, 443, 1024 + number, status=CONFIRMED)
    form = rng.choice(("plain", "plain", "source", "destination", "IPv6", "zone"))
    match form:
        case "source":
            return plain._replace(
                reply_destination=_SHARED, reply_destination_port=20000 + number, status=CONFIRMED | SOURCE_NAT
            )
        case "destination":
            return plain._replace(reply_source=_SERVER, reply_source_port=8443, status=CONFIRMED | DESTINATION_NAT)
        case "IPv6":
            here, there = _NET6 + here, _NET6 + there
            return plain._replace(source=here, destination=there, reply_source=there, reply_destination=here)
        case "zone":
            return plain._replace(zone=7)
    return plain


def _inside(number: int) -> bytes:
    return bytes((10, 0, number >> 8, number & 255))


_OUTSIDE, _SHARED, _SERVER = bytes((198, 51, 100, 1)), bytes((192, 0, 2, 1)), bytes((10, 1, 0, 2))
_NET6 = bytes.fromhex("20010db8 00000000 00000000")
_STAGES = {TCP: _tcp, UDP: _udp, ICMP: _icmp}
