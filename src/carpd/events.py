"""What can happen to the election engine: every input is one of these values, and time comes beside it.

`engine.handle(now, event)`, with `now` in nanoseconds on a monotonic clock. The daemon makes them of sockets and
timers, the simulator of its world, a replay of a recording.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from carpd.config.model import VirtualHostConfig


class Family(enum.IntEnum):
    """The address family of an advertisement, by its IP version."""

    IPV4 = 4
    IPV6 = 6


class CarpState(enum.Enum):
    """The role of a virtual host on this node."""

    INIT = "INIT"
    BACKUP = "BACKUP"
    MASTER = "MASTER"


@dataclass(frozen=True, slots=True)
class Configure:
    """These virtual hosts, and no others, from now on. The engine finds out what is new, changed and gone."""

    virtual_hosts: tuple[VirtualHostConfig, ...]
    seed: int
    """64 random bits, drawn by the driver: first counters come from it."""


@dataclass(frozen=True, slots=True)
class InterfaceChanged:
    """What an interface is like now. An interface of which nothing was said yet does not exist."""

    interface: str
    up: bool
    """Administratively up, with a carrier. "Unknown" counts as up (OpenBSD's reading)."""
    mac: bytes
    """Its own link-layer address, 6 bytes."""
    addresses: tuple[bytes, ...] = ()
    """The host's own addresses on it, packed: what unicast advertisements are sent to, and ours come from."""
    router: bool = False
    """The host forwards IPv6: neighbour advertisements carry the Router flag."""


@dataclass(frozen=True, slots=True)
class InterfaceGone:
    """The interface does not exist any more, and with it all that was prepared on it."""

    interface: str


@dataclass(frozen=True, slots=True)
class HostPrepared:
    """The device and the lease gate of a virtual host stand: it may take part."""

    host: str


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """An Ethernet frame, as it came; `now` is when the kernel received it.

    It is of IP protocol 112; or, where traffic is shared, an ARP request, a neighbour solicitation or a sharing probe.
    """

    interface: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class TimersDue:
    """Time has passed. Every frame that came before `heard_until` has been handed over.

    A backup believes a master-down timer only up to there: what waits in the socket may be the advertisement
    that it misses. Without a backlog it equals `now`.
    """

    heard_until: int


@dataclass(frozen=True, slots=True)
class AdvertisementSent:
    """What became of a `SendAdvertisement`: `errno` 0 is success."""

    host: str
    family: Family
    errno: int = 0


@dataclass(frozen=True, slots=True)
class TakeFailed:
    """`TakeAddresses` failed: we are master of addresses that we don't have."""

    host: str
    errno: int


@dataclass(frozen=True, slots=True)
class ForceState:
    """The operator wants this state: MASTER or BACKUP (spec carp §15.4)."""

    host: str
    state: CarpState


@dataclass(frozen=True, slots=True)
class SetDemotion:
    """A named reason demotes a group by `amount` from now on, instead of what it demoted by before; 0 ends it."""

    group: str
    reason: str
    amount: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Leave: every master bows out, and gives its addresses up to a successor; then `CarpEngine.stopped` is true."""


Event = (
    Configure
    | InterfaceChanged
    | InterfaceGone
    | HostPrepared
    | FrameReceived
    | TimersDue
    | AdvertisementSent
    | TakeFailed
    | ForceState
    | SetDemotion
    | Shutdown
)
