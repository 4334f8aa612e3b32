"""What the election engine wants done or known. The order of effects in a list is part of the contract.

*Actions* must be performed; the driver answers those that can fail with an event. *Facts* are for logs,
the status and tests.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from carpd.config.model import Address
from carpd.events import CarpState, Family
from carpd.wire.arp import ArpPacket
from carpd.wire.carp import Advertisement
from carpd.wire.ndp import NeighborAdvertisement
from carpd.wire.sharing_probe import SharingProbe


class Reason(enum.Enum):
    """Why a virtual host changed its state, in FreeBSD's words where it has them (spec carp §15.6)."""

    READY = "initialization complete"
    CONFIGURED = "configuration changed"
    MASTER_DOWN = "master timed out"
    PREEMPT = "preempting a slower master"
    DEMOTED_MASTER = "the master is more demoted than we are"
    WILL_TIME_OUT = "master will time out"
    MASTER_LEFT = "the master has left"
    BETTER_MASTER = "more frequent advertisement received"
    LESS_DEMOTED = "less demoted advertisement received"
    LINK_DOWN = "hardware interface down"
    INTERFACE_GONE = "interface disappeared"
    USER = "user requested"
    TAKE_FAILED = "the addresses could not be taken"
    SHUTDOWN = "shutting down"


@dataclass(frozen=True, slots=True)
class SendAdvertisement:
    """Action: send this to the group and the peers of that family; answered with `AdvertisementSent`."""

    host: str
    family: Family
    message: Advertisement


@dataclass(frozen=True, slots=True)
class SendWithOwnMac:
    """Action: send this to the group on an interface, from that interface's own MAC; best effort.

    The switch's entry for the virtual MAC stays where it is.
    """

    host: str
    interface: str
    family: Family
    message: Advertisement


@dataclass(frozen=True, slots=True)
class TakeAddresses:
    """Action: put these addresses on the device; answered with `TakeFailed` if the kernel refuses.

    Nothing answers for them yet: the advertisement that follows opens the gate (design §6.1).
    """

    host: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class OpenShare:
    """Action: of the traffic that is shared take this node's part from now on, while its advertisements leave."""

    host: str


@dataclass(frozen=True, slots=True)
class SurrenderLease:
    """Action: close the gate now: not one more frame is answered for the virtual host, or taken for the node."""

    host: str


@dataclass(frozen=True, slots=True)
class ReleaseAddresses:
    """Action: take these addresses away from the device."""

    host: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    """Action: tell the link where the addresses are now."""

    host: str
    arps: tuple[ArpPacket, ...]
    neighbors: tuple[NeighborAdvertisement, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Action: answer who asks where a shared address is; best effort, as they ask again."""

    host: str
    """The node that answers."""
    answer: ArpPacket | NeighborAdvertisement
    mac: bytes
    """Of who asked."""
    destination: bytes = b""
    """The IPv6 address that a neighbour advertisement goes to."""


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Action: send this to CARP's group, and to the MAC that the nodes share if there is one, there over each family of
    the addresses; best effort.
    """

    host: str
    probe: SharingProbe


@dataclass(frozen=True, slots=True)
class StateChanged:
    """Fact: the role of a virtual host changed."""

    host: str
    old: CarpState
    new: CarpState
    reason: Reason


@dataclass(frozen=True, slots=True)
class DemotionChanged:
    """Fact: the demotion of a redundancy group changed, by this reason."""

    group: str
    old: int
    new: int
    reason: str


@dataclass(frozen=True, slots=True)
class SharingChanged:
    """Fact: something is wrong, from now on or no longer, with how traffic is shared."""

    virtual_host: str
    finding: str
    present: bool


@dataclass(frozen=True, slots=True)
class PeerLeftBehind:
    """Fact: a peer proved that it has the vhid, password and addresses that a virtual host had before the last change.

    Each refuses what the other says. It is told again every second, as long as that goes on.
    """

    host: str
    source: bytes
    """The address that the peer advertises from, packed."""


Action = (
    SendAdvertisement
    | SendWithOwnMac
    | TakeAddresses
    | OpenShare
    | SurrenderLease
    | ReleaseAddresses
    | Announce
    | Answer
    | SendProbe
)
Fact = StateChanged | DemotionChanged | SharingChanged | PeerLeftBehind
Effect = Action | Fact
