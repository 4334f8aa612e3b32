"""The state record: one type for the four layouts that are on the wire (`v6`, `v5`), and what they share.

Ref: spec pfsync §5.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from carpd.wire.pfsync.numbers import NONE

NAME_SIZE = 16
"""Bytes of an interface name with its terminating zero."""

_PEER = struct.Struct("!HBBIIIIHHBB6x")  # the fields of Peer, in their order
PEER_SIZE = _PEER.size

# Peers of Linux, names and pf's fields repeat from state to state: these are how many different ones are remembered.
CACHE = 1024


class Peer(NamedTuple):
    """One end of a connection: `src` opened it, `dst` is the other, whatever the direction.

    `state` is a TcpState or a TrafficState, or neither: the receiver judges. `wscale` is a shift, and 0x80 if the
    option was seen. Sequence numbers are zero where nobody tracks the window: Linux does not tell.

    Ref: spec pfsync §5.1.
    """

    scrub_flags: int = 0
    scrub_ttl: int = 0
    scrub_present: int = 0
    scrub_timestamp: int = 0
    seqlo: int = 0
    seqhi: int = 0
    seqdiff: int = 0
    max_win: int = 0
    mss: int = 0
    state: int = 0
    wscale: int = 0


class Key(NamedTuple):
    """The two ends as packets show them, on the network (`wire`) or inside the host (`stack`).

    The opener has slot 0 in a state of direction in, slot 1 in one of direction out. Addresses are packed; they have 16
    bytes if the family is neither INET nor INET6. Ports are 0 where the protocol has none. Ref: spec pfsync §5.2.
    """

    address0: bytes
    address1: bytes
    port0: int
    port1: int
    rdomain: int
    family: int


class FreeBSDFields(NamedTuple):
    """What only FreeBSD's longer states carry; `stack_protocol` is None if it is the one on the wire."""

    qid: int = 0
    pqid: int = 0
    dnpipe: int = 0
    dnrpipe: int = 0
    rtableid: int = -1
    rt_interface: str = ""
    rt_family: int = 0
    tag: str = ""
    original_interface: str = ""
    stack_protocol: int | None = None


NO_FREEBSD_FIELDS = FreeBSDFields()


class PfFields(NamedTuple):
    """What only pf understands, most of it from the rule that made the state: kept to be sent back as it came.

    `rt` is 0 for none, 1 route-to, 2 dup-to, 3 reply-to (and 4 FreeBSD's fastroute); `rt_address` has 16 bytes, padded
    with zeros. Ref: spec pfsync §5.5.
    """

    rt_address: bytes = bytes(16)
    rule: int = NONE
    anchor: int = NONE
    nat_rule: int = NONE
    rtableid0: int = 0
    rtableid1: int = -1
    max_mss: int = 0
    log: int = 0
    rt: int = 0
    sync_flags: int = 0
    updates: int = 0
    min_ttl: int = 0
    set_tos: int = 0
    set_prio0: int = 0
    set_prio1: int = 0
    freebsd: FreeBSDFields = NO_FREEBSD_FIELDS


NO_PF_FIELDS = PfFields()


class StateRecord(NamedTuple):
    """One firewall state.

    `identity` is its id (8 bytes) and the creator id (4 bytes): opaque, and what the short messages name it by.
    `creation` is its age, `expire` what is left of its life, both in seconds; counters with 0 count the packets and
    bytes of the opener, those with 1 the answers. `family` and `protocol` are those of the wire key.

    Ref: spec pfsync §5.
    """

    identity: bytes
    interface: str
    wire: Key
    stack: Key
    src: Peer
    dst: Peer
    creation: int
    expire: int
    packets0: int
    packets1: int
    bytes0: int
    bytes1: int
    family: int
    protocol: int
    direction: int
    timeout: int
    flags: int
    pf: PfFields = NO_PF_FIELDS


@lru_cache(CACHE)
def decode_peer(data: bytes) -> Peer:
    """Read 32 bytes."""
    return Peer._make(_PEER.unpack(data))


@lru_cache(CACHE)
def encode_peer(peer: Peer) -> bytes:
    """Write 32 bytes."""
    return _PEER.pack(*peer)


@lru_cache(CACHE)
def decode_name(data: bytes) -> str:
    """The text before the first zero; any bytes can be read, as `os.fsdecode` reads names."""
    return data.partition(b"\0")[0].decode(errors="surrogateescape")


@lru_cache(CACHE)
def encode_name(name: str, size: int = NAME_SIZE) -> bytes:
    """The text; padding is left to struct. Raise ValueError if it is too long: struct would cut it."""
    data = name.encode(errors="surrogateescape")
    if len(data) > size:
        raise ValueError(f"pfsync: {name!r} is longer than {size} bytes")
    return data
