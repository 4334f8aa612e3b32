"""The lease gate: nothing answers for a virtual address unless this host's own advertisements leave it.

Every interface has one nftables table, below the host's own firewall, and every virtual host a set in it. The set is
empty, or holds one element, the interface's index, which expires: the lease. An advertisement of ours that leaves puts
it there or renews it. Everything else to and from the virtual MAC and addresses is dropped while the set is empty. So a
host whose daemon is killed, hangs or cannot send falls silent by itself.

A lease expires up to a tick (4 ms) early, never late. Ref: nft(8); docs/architecture.md, "Lease".
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Self

from carpd.errors import SystemCallError
from carpd.linux import nft
from carpd.linux.netlink import NetlinkSocket
from carpd.linux.packets import ADVERTISEMENT_MARK
from carpd.units import MILLISECOND
from carpd.wire import carp, netlink, nftnetlink

_TABLE = "carpd_"
_LIVE = "live_"
_PLAIN = re.compile(r"[A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What the gate of an interface must know of one virtual host on it."""

    vhid: int
    mac: bytes | None
    """The virtual MAC; None if the virtual host answers with the interface's own."""
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    lease_ns: int
    """How long one advertisement keeps the gate open, in nanoseconds. The gate takes whole milliseconds, rounded up."""
    nodes: tuple[int, ...] = ()
    """The vhids of all nodes that share the addresses, `vhid` being the leader's: the host answers while any of them is
    advertised. Which part of the traffic it takes is `balance`'s to say."""

    @property
    def renewed_by(self) -> tuple[int, ...]:
        """The vhids whose advertisements keep it open."""
        return self.nodes or (self.vhid,)


def table_name(parent: str) -> str:
    """The table of an interface's gate. Bytes that nft takes in no name become like /40: no interface has a "/"."""
    plain = (chr(b) if _PLAIN.match(chr(b)) else f"/{b:02x}" for b in os.fsencode(parent))
    return _TABLE + "".join(plain)


def _parent(table: str) -> str:
    escaped = table.removeprefix(_TABLE).encode()
    return os.fsdecode(re.sub(rb"/(..)", lambda found: bytes.fromhex(found[1].decode()), escaped))


def render(parent: str, guards: Sequence[Guard], stale: Collection[int] = ()) -> str:
    """The nftables transaction that makes the gate of an interface for these virtual hosts, whatever was there before.

    Leases of virtual hosts that stay go on. `stale` are the vhids that the table has and `guards` has not.
    """
    table = table_name(parent)
    lines = [f"add table netdev {table}", f"flush table netdev {table}"]
    for vhid in sorted(stale):
        lines += [f"delete chain netdev {table} {chain}_{vhid}" for chain in ("in", "out", "renew")]
        lines += [f"delete set netdev {table} {_LIVE}{vhid}"]
    lines += [f"table netdev {table} {{"]
    for guard in guards:
        lines += _virtual_host(guard)
    lines += _ingress(parent, guards) + _egress(parent, guards) + ["}"]
    return "\n".join(lines) + "\n"


def _virtual_host(guard: Guard) -> list[str]:
    live = f"{_LIVE}{guard.vhid}"
    lease_ms = -(-guard.lease_ns // MILLISECOND)
    # Without a size the kernel reserves 1 MiB a set. Expired elements stay for a second: 85 of the shortest lease.
    return [
        f"set {live} {{ type iface_index; size 256; flags dynamic, timeout; }}",
        f"chain in_{guard.vhid} {{ meta iif @{live} return; counter drop; }}",
        f"chain out_{guard.vhid} {{ meta oif @{live} return; counter drop; }}",
        f"chain renew_{guard.vhid} {{ update @{live} {{ meta oif timeout {lease_ms}ms }}; accept; }}",
    ]


# What renews: an advertisement of CARP (version 2, type 1, authlen 7) that is no bow-out, from our own packet socket.
# Its mark tells it from what this host forwards, and from virtual machines on this host that speak CARP themselves.
_OURS = f"meta mark {ADVERTISEMENT_MARK:#x}"
_RENEWING = f"{carp.PROTOCOL} @th,0,8 0x21 @th,24,8 7 @th,40,8 != {carp.BOW_OUT}"

# Frames of VLANs only pass through the interface that they stand on; VLAN 0 is no VLAN but a priority. MACs and tags
# are matched as raw bytes: to `ether` nft adds a test of the incoming interface, which not every kernel has at egress.
_FOREIGN_VLANS = ["@ll,96,16 0x8100 @ll,116,12 != 0 accept", "@ll,96,16 0x88a8 accept"]


def _ingress(parent: str, guards: Sequence[Guard]) -> list[str]:
    return [
        "chain ingress {",
        f'type filter hook ingress device "{parent}" priority -500; policy accept;',
        *_FOREIGN_VLANS,
        *_verdicts("@ll,0,48", "in", _macs(guards)),
        *_verdicts("ip daddr", "in", _addresses(guards, 4)),
        *_verdicts("ip6 daddr", "in", _addresses(guards, 6)),
        "}",
    ]


def _egress(parent: str, guards: Sequence[Guard]) -> list[str]:
    vhids = [(str(vhid), guard) for guard in guards for vhid in guard.renewed_by]
    return [
        "chain egress {",
        f'type filter hook egress device "{parent}" priority 500; policy accept;',
        *_FOREIGN_VLANS,
        *_verdicts(f"{_OURS} ip protocol {_RENEWING} @th,8,8", "renew", vhids),
        *_verdicts(f"{_OURS} ip6 nexthdr {_RENEWING} @th,8,8", "renew", vhids),
        *_verdicts("@ll,48,48", "out", _macs(guards)),
        *_verdicts("ip saddr", "out", _addresses(guards, 4)),
        *_verdicts("arp saddr ip", "out", _addresses(guards, 4)),
        *_verdicts("ip6 saddr", "out", _addresses(guards, 6)),
        *_verdicts("icmpv6 type nd-neighbor-advert @th,64,128", "out", _neighbor_targets(guards)),
        "}",
    ]


def _verdicts(what: str, chain: str, keys: Sequence[tuple[str, Guard]]) -> list[str]:
    """One rule that sends a frame to the chain of its virtual host, by one of its fields."""
    jumps = ", ".join(f"{key} : jump {chain}_{guard.vhid}" for key, guard in keys)
    return [f"{what} vmap {{ {jumps} }}"] if jumps else []


def _macs(guards: Sequence[Guard]) -> list[tuple[str, Guard]]:
    return [(f"0x{guard.mac.hex()}", guard) for guard in guards if guard.mac]


def _addresses(guards: Sequence[Guard], version: int) -> list[tuple[str, Guard]]:
    return [(str(a.ip), guard) for guard in guards for a in guard.addresses if a.version == version]


def _neighbor_targets(guards: Sequence[Guard]) -> list[tuple[str, Guard]]:
    return [(f"0x{a.packed.hex()}", guard) for guard in guards for a in guard.addresses if a.version == 6]


def install(parent: str, guards: Sequence[Guard]) -> None:
    """Make the gate of an interface what these virtual hosts need, in one transaction; without any, remove it.

    It takes some 20 ms: for set-up only. Raise SystemCallError, also when there is no `nft`.
    """
    if not guards:
        remove(parent)
        return
    tried = f"install the lease gate of {parent}"
    if not parent.isprintable() or set(parent) & set('"\\*'):
        raise SystemCallError(tried, errno.EINVAL, "nft cannot write the interface's name")
    with NetlinkSocket(netlink.NETFILTER) as kernel:
        stale = _vhids(kernel, parent) - {guard.vhid for guard in guards}
    nft.run(tried, render(parent, guards, stale))


def remove(parent: str) -> None:
    """Remove the gate of an interface, if there is one. Raise SystemCallError."""
    with NetlinkSocket(netlink.NETFILTER) as kernel:
        error = kernel.commit(nftnetlink.delete_table(table_name(parent)))
    if error not in (0, errno.ENOENT):
        raise SystemCallError(f"remove the lease gate of {parent}", error, os.strerror(error))


def installed() -> list[str]:
    """The interfaces, by name, that have a gate of ours. Raise SystemCallError."""
    with NetlinkSocket(netlink.NETFILTER) as kernel:
        answers = kernel.ask("list the nftables tables", nftnetlink.dump_tables())
    names = map(nftnetlink.table_name, answers)
    return [_parent(name) for name in names if name.startswith(_TABLE)]


class LeaseKeeper:
    """Ends leases and tells which are live, on one socket that stays open. Renewing is the gate's own work."""

    def __init__(self) -> None:
        """Raise SystemCallError."""
        self._kernel = NetlinkSocket(netlink.NETFILTER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._kernel.close()

    def surrender(self, parent: str, vhid: int) -> int:
        """Close the gate of a virtual host now; return 0, also if it was closed already, or the errno."""
        try:
            error = self._kernel.commit(nftnetlink.flush_set(table_name(parent), f"{_LIVE}{vhid}"))
        except SystemCallError as failed:
            return failed.errno
        return 0 if error == errno.ENOENT else error

    def live(self, parent: str) -> set[int]:
        """The vhids with a live lease on an interface. Raise SystemCallError."""
        return {vhid for vhid in _vhids(self._kernel, parent) if self._is_live(parent, vhid)}

    def _is_live(self, parent: str, vhid: int) -> bool:
        elements = nftnetlink.dump_elements(table_name(parent), f"{_LIVE}{vhid}")
        return any(map(nftnetlink.element_keys, self._kernel.ask("read a lease", elements)))


def _vhids(kernel: NetlinkSocket, parent: str) -> set[int]:
    """The vhids that the gate of an interface knows; none without a gate."""
    try:
        answers = kernel.ask("read the lease gate", nftnetlink.dump_sets(table_name(parent)))
    except SystemCallError as error:
        if error.errno == errno.ENOENT:
            return set()
        raise
    names = map(nftnetlink.set_name, answers)
    return {int(name.removeprefix(_LIVE)) for name in names if name.startswith(_LIVE)}
