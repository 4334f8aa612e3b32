"""What an operator can set, checked and complete: the daemon, the engine and the simulator read this and nothing else.

`config.parse` makes it from a file and is where ranges are checked; here are the meanings, units and defaults.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any

from carpd.units import SECOND, SKEW, interval_ns

DEVICE_PREFIX = "carp-"
"""A virtual host called NAME has the network device carp-NAME (mac = "virtual")."""

LEASE_MARGIN_NS = SKEW
"""The last family's advertisement renews the lease, the first one's starts a peer's timer; and clocks drift."""

NAME_LIMIT = 15 - len(DEVICE_PREFIX)
"""Linux interface names have at most 15 characters (IFNAMSIZ less the terminating zero)."""


Address = IPv4Interface | IPv6Interface
"""A virtual address with the prefix length of its network."""

Network = IPv4Network | IPv6Network
"""Addresses with a common prefix; a single address is one too."""


class MacMode(enum.Enum):
    """Which link-layer address answers for the virtual addresses."""

    VIRTUAL = "virtual"
    """00:00:5e:00:01:vhid, on a macvlan of its own, as the BSDs have it."""
    REAL = "real"
    """The interface's own, moved by gratuitous ARP alone, as ucarp has it."""


class DemotionMode(enum.Enum):
    """How the peers are told of a demotion."""

    COUNTER = "counter"
    """In byte 4 of the advertisement, compared before the interval (OpenBSD)."""
    ADVSKEW = "advskew"
    """Added to advskew, 240 at most (FreeBSD, NetBSD, ucarp)."""
    BOTH = "both"
    """Both ways: for groups of OpenBSD and other hosts."""

    @property
    def in_counter(self) -> bool:
        return self is not DemotionMode.ADVSKEW

    @property
    def in_advskew(self) -> bool:
        return self is not DemotionMode.COUNTER


DEAD_RATIO = 3
"""So many advertisements of a master are missed before a backup takes over. Ref: spec carp §9."""


class MasterDownRule(enum.Enum):
    """How long a backup waits for an advertisement. Ref: spec carp §9."""

    CLASSIC = "classic"
    """3·advbase + advskew/256 (FreeBSD, NetBSD, ucarp, OpenBSD until 2015); with advbase 0: 3·advskew/256."""
    OPENBSD = "openbsd"
    """3·(advbase + advskew/256)."""

    def master_down_ns(self, advbase: int, advskew: int, dead_ratio: int = DEAD_RATIO) -> int:
        if self is MasterDownRule.OPENBSD or advbase == 0:
            return max(dead_ratio * interval_ns(advbase, advskew), dead_ratio * SKEW)
        return dead_ratio * advbase * SECOND + advskew * SKEW


class BalancingMode(enum.Enum):
    """How the nodes of a virtual host come by their parts of its traffic. Ref: spec carp §14; OpenBSD ifconfig(8)."""

    ARP = "arp"
    """Clients are told the virtual MAC of one node or another, by a hash of their own MAC."""
    IP = "ip"
    """Every host receives all, by a multicast MAC, and takes what the hash of its addresses gives to its nodes."""
    IP_STEALTH = "ip-stealth"
    """As `IP`, by a unicast MAC that never is a source, so that switches flood it."""
    IP_UNICAST = "ip-unicast"
    """As `IP`, by an ordinary unicast MAC, behind a hub or a mirror port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancing:
    """What a node knows of the virtual host that it is a part of."""

    virtual_host: str
    """NAME in [carp.NAME]; the node is called NAME:vhid."""
    mode: BalancingMode
    vhids: tuple[int, ...]
    """Of all nodes, ascending, 2 to NODES_LIMIT. The first is the leader's: its master answers ARP and ND for all."""


NODES_LIMIT = 32
"""The shares of a host are the bits of one word. Ref: spec carp §14.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualHostConfig:
    """One vhid on one interface, and the addresses that its master answers for: alone, or as one of several nodes."""

    name: str
    interface: str
    vhid: int
    addresses: tuple[Address, ...]
    key: bytes = field(repr=False)
    """The password: 0 to 19 bytes. Empty means that anybody on the link can take the addresses."""
    advbase: int = 1
    advskew: int = 0
    preempt: bool = False
    group: str = "carp"
    """The redundancy group: its virtual hosts share their demotion. As on the BSDs all are in one unless told."""
    mac: MacMode = MacMode.VIRTUAL
    peers: tuple[IPv4Address | IPv6Address, ...] = ()
    """Hosts that are sent each advertisement by unicast."""
    multicast: bool = True
    """Whether 224.0.0.18 and ff02::12 are sent to: alone, or beside the peers."""
    demotion: DemotionMode = DemotionMode.COUNTER
    master_down: MasterDownRule = MasterDownRule.CLASSIC
    ifdown_demotion_factor: int = 1
    """What a lost link adds to the group's demotion; the parser makes it 240 where advskew carries it."""
    senderr_demotion_factor: int = 1
    """What failing to send (or to take the addresses) adds; 240 likewise."""
    others_master_down_ns: int | None = None
    """The shortest master-down time of the other nodes that the file knows of; not a key, the parser finds it."""
    digest_link_local: bool = False
    """Send the digest with link-local addresses, for FreeBSD and NetBSD peers that have them. Ref: spec carp §3."""
    balancing: Balancing | None = None
    """Set if this is one node of several that share the addresses."""
    dead_ratio: int = DEAD_RATIO
    """Another one is no key: only the program ucarp has it."""
    tie_address: bytes | None = None
    """Our own address, packed, where of two equal masters the lower one goes on, as with ucarp; likewise no key."""

    def __repr__(self) -> str:  # the key stays out of logs and tracebacks
        return f"VirtualHostConfig({self.name}: vhid {self.vhid} on {self.interface})"

    @property
    def addresses4(self) -> tuple[bytes, ...]:
        """The IPv4 addresses, packed, in configured order."""
        return tuple(a.ip.packed for a in self.addresses if a.version == 4)

    @property
    def addresses6(self) -> tuple[bytes, ...]:
        """The IPv6 addresses, packed, in configured order."""
        return tuple(a.ip.packed for a in self.addresses if a.version == 6)

    @property
    def master_down_ns(self) -> int:
        """How long this host, as a backup, waits for an advertisement, in nanoseconds."""
        return self.master_down.master_down_ns(self.advbase, self.advskew, self.dead_ratio)

    @property
    def lease_ns(self) -> int:
        """How long one advertisement of ours lets us answer: no longer than the quickest peer waits for the next.

        A peer with our advbase waits 3·advbase or longer, whatever its advskew is. With advbase 0 advskew is all it
        has: what the file says of the others counts, or else they are taken to have ours. A peer that does not even
        wait for our next advertisement is left out: it takes over in any case, and we would be silent in between.
        Ref: design §6.1; architecture.md, "Lease".
        """
        lease = 3 * self.advbase * SECOND - LEASE_MARGIN_NS if self.advbase else 3 * max(self.advskew, 1) * SKEW
        known = self.others_master_down_ns
        if known is not None and known > interval_ns(self.advbase, self.advskew):
            return min(lease, known)
        return lease

    @property
    def virtual_host(self) -> str:
        """NAME in [carp.NAME]: what all nodes of one virtual host have in common."""
        return self.balancing.virtual_host if self.balancing else self.name

    @property
    def leader_vhid(self) -> int:
        """The vhid of the leader: the lowest of the nodes', or the only one."""
        return self.balancing.vhids[0] if self.balancing else self.vhid

    def is_another_than(self, old: VirtualHostConfig) -> bool:
        """Whether the device and the gate of the old one of this name don't serve for this one: it is given up, and
        taken anew. Whatever else differs can be changed in place.
        """
        ours, theirs = ((c.interface, c.vhid, c.mac, c.balancing) for c in (self, old))
        return ours != theirs

    @property
    def device(self) -> str:
        """The device that holds the addresses while we are master.

        Shared ones are on the loopback interface: there the kernel answers neither ARP nor ND for them by itself.
        """
        if self.balancing:
            return "lo"
        return DEVICE_PREFIX + self.name if self.mac is MacMode.VIRTUAL else self.interface


class Transport(enum.Enum):
    """How pfsync messages go from node to node."""

    SEALED = "sealed"
    """In UDP datagrams, encrypted and authenticated by a secret that the nodes have in common."""
    PLAIN = "plain"
    """As IP protocol 240, as the BSDs have it: whoever is on the link can read, make and delete states."""


class Version(enum.Enum):
    """Whom pfsync is spoken with, which settles the form of the messages. Ref: spec pfsync §2, §12."""

    LINUX = "linux"
    OPENBSD = "openbsd"
    FREEBSD_1301 = "1301"
    FREEBSD_1400 = "1400"
    FREEBSD_1500 = "1500"

    @property
    def ipv4_only(self) -> bool:
        """Whether those systems know no pfsync over IPv6. Ref: spec pfsync §1."""
        return self in (Version.OPENBSD, Version.FREEBSD_1301)


@dataclass(frozen=True, slots=True)
class Mark:
    """Conntrack marks: those that have `value` in the bits of `mask`."""

    value: int
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignore:
    """Connections that are not synchronised: those that any of these is true of."""

    addresses: tuple[Network, ...] = ()
    """One of their addresses, in either direction's tuple, is in one of these networks."""
    protocols: tuple[int, ...] = ()
    """IP protocol numbers."""
    marks: tuple[Mark, ...] = ()
    zones: tuple[int, ...] = ()
    """Conntrack zones; 0 is that of connections which no rule has put in another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PfsyncConfig:
    """How the state table is kept the same on all nodes."""

    syncdev: str
    """The interface of the link between the nodes."""
    syncpeers: tuple[IPv4Address | IPv6Address, ...] = ()
    """The other nodes, of one family. Empty: the multicast groups 224.0.0.240 and ff12::f0."""
    transport: Transport = Transport.SEALED
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """Sealed: 1 to 8 of 16 to 256 bytes. The first seals, all open."""
    secret_file: str | None = None
    """Where they were read, as a path that can be opened; None if in no file of their own."""
    port: int = 5240
    """Sealed: the UDP port, of sender and receiver."""
    maxupd: int = 128
    """So many changes of a state are merged into one update at most."""
    max_states: int | None = None
    """So many states are held for peers at most; None: as many as the kernel's table takes."""
    local: bool = False
    """Whether connections that end on the firewall itself are synchronised."""
    version: Version = Version.LINUX
    defer: tuple[str, ...] = ()
    """Interfaces on which the first packets of a forwarded connection leave only when the peers have its state."""
    carp_demotion_factor: int = 32
    """What a bulk update adds to the demotion of every group until it is done; the parser makes it 240 where a virtual
    host carries its demotion in advskew."""
    ignore: Ignore = Ignore()


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlConfig:
    """Who may use the control socket beside root and the daemon's own user: members of these groups, by name."""

    read_group: str | None = None
    """May ask."""
    change_group: str | None = None
    """May also change what the daemon does."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a TCP server listens."""

    address: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Where metrics are to be had, as Prometheus reads them."""

    listen: Endpoint | str
    """A string is the path of a Unix socket."""


class HookEvent(enum.Enum):
    """What a hook is run for."""

    MASTER = "master"
    """A virtual host has this state now; so the next two."""
    BACKUP = "backup"
    INIT = "init"
    DEMOTION = "demotion"
    """The demotion of a redundancy group has changed."""
    SHARING = "sharing"
    """Something is wrong with how nodes share their traffic, or no longer."""
    PFSYNC = "pfsync"
    """A bulk update has begun or ended, or the link to the peers was lost or found."""
    RELOAD = "reload"
    """The configuration was read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookConfig:
    """A program that is run when something happens."""

    name: str
    """NAME in [hook.NAME]."""
    command: tuple[str, ...]
    """The program, as an absolute path, and its arguments."""
    events: tuple[HookEvent, ...] = (HookEvent.MASTER, HookEvent.BACKUP, HookEvent.INIT)
    virtual_hosts: tuple[str, ...] = ()
    """Of events of a virtual host, or of its group: those that it is run for, by NAME in [carp.NAME]; empty: all."""
    user: str | None = None
    """Who runs it; None: the daemon's own user."""
    timeout: int = 30
    """Seconds after which it is ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration file as one node reads it."""

    node: str
    virtual_hosts: tuple[VirtualHostConfig, ...]
    """Empty: there is nothing to do yet; or beside `pfsync`, state synchronisation without CARP."""
    pfsync: PfsyncConfig | None = None
    control: ControlConfig = ControlConfig()
    metrics: MetricsConfig | None = None
    hooks: tuple[HookConfig, ...] = ()
    tables: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What all of this was made of: the values of the file, as TOML has them, passwords included."""
    set_since: tuple[tuple[str, ...], ...] = field(default=(), repr=False, compare=False)
    """Paths in `tables` that `carpctl ifconfig` has set, or deleted, since the file was read."""
    in_file: tuple[Mapping[str, Any], ...] = field(default=(), repr=False, compare=False)
    """What the file may have there, unless somebody has edited it: what it had when it was read or last compared, and
    what was to be saved in it. Empty: nothing was set, and it had `tables`."""
