"""The CARP advertisement, version 2. Ref: spec carp §1, §2, §4; OpenBSD sys/netinet/ip_carp.h, struct carp_header."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from carpd.errors import DecodeError
from carpd.units import interval_ns
from carpd.wire.checksum import internet_checksum

PROTOCOL = 112
"""The IP protocol number, shared with VRRP."""
GROUP4 = bytes((224, 0, 0, 18))
GROUP6 = bytes.fromhex("ff02 0000 0000 0000 0000 0000 0000 0012")
TTL = 255
"""What is sent, and the only TTL or hop limit that is accepted: the sender is on this link."""
BOW_OUT = 255
"""Both advbase and advskew of the last advertisement of a master that leaves."""

_LAYOUT = struct.Struct("!BBBBBBHQ20s")  # version/type, vhid, advskew, authlen, demotion, advbase, sum, counter, digest
SIZE = _LAYOUT.size

ADVERTISEMENT = 1
YIELDED = 2
"""The type of our own for the last word of a node that shares traffic: it has stepped down, its share is free.

The BSDs don't look at the type, and take it for a worse master's advertisement. Ref: spec carp §6; FreeBSD captures.
"""

_VERSION_TYPE = 0x21  # of CARP and of VRRPv2 alike
_VRRP3_VERSION_TYPE = 0x31


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """How well placed its sender is to be master of a vhid: advbase in seconds, advskew in 1/256 s.

    `demotion` is OpenBSD's; the others send 0. `counter` has 64 bits, `digest` is the HMAC-SHA1 (`carp_auth`).
    """

    vhid: int
    advbase: int = 1
    advskew: int = 0
    demotion: int = 0
    counter: int = 0
    digest: bytes = bytes(20)
    version: int = 2
    type: int = ADVERTISEMENT
    authlen: int = 7

    @classmethod
    def from_bytes(cls, payload: bytes) -> Advertisement:
        """Raise DecodeError if the payload is too short, and for nothing else; what follows 36 bytes is ignored.

        Version, checksum and digest are the receiver's to check: in a fixed order, with a counter each (spec carp §6).
        """
        if len(payload) < SIZE:
            raise DecodeError(f"carp: need {SIZE} bytes, got {len(payload)}")
        version_type, vhid, advskew, authlen, demotion, advbase, _, counter, digest = _LAYOUT.unpack_from(payload)
        return cls(
            vhid=vhid,
            advbase=advbase,
            advskew=advskew,
            demotion=demotion,
            counter=counter,
            digest=digest,
            version=version_type >> 4,
            type=version_type & 0x0F,
            authlen=authlen,
        )

    def to_bytes(self) -> bytes:
        """The 36 bytes, with their checksum. There is no pseudo header in it, for IPv6 neither."""
        version_type = self.version << 4 | self.type
        head = (version_type, self.vhid, self.advskew, self.authlen, self.demotion, self.advbase)
        checksum = internet_checksum(_LAYOUT.pack(*head, 0, self.counter, self.digest))
        return _LAYOUT.pack(*head, checksum, self.counter, self.digest)

    @property
    def interval_ns(self) -> int:
        """Nanoseconds between two advertisements of the sender."""
        return interval_ns(self.advbase, self.advskew)

    @property
    def is_bow_out(self) -> bool:
        """Whether the sender leaves: it will not advertise again."""
        return self.advbase == BOW_OUT and self.advskew == BOW_OUT


def virtual_mac(vhid: int) -> bytes:
    """The link-layer address of a virtual host, for IPv4 and IPv6."""
    return b"\x00\x00\x5e\x00\x01" + bytes((vhid,))


def multicast_mac(vhid: int) -> bytes:
    """The link-layer address that switches flood, of a leader in `balancing ip`. Ref: spec carp §1.1."""
    return b"\x01" + virtual_mac(vhid)[1:]


def checksum_ok(payload: bytes) -> bool:
    """Whether the first 36 bytes have their right checksum."""
    return internet_checksum(payload[:SIZE]) == 0


def is_vrrp(payload: bytes) -> bool:
    """Whether a packet of protocol 112 is VRRP: version 3 by its first byte, version 2 by its length.

    A VRRPv2 message has 8 bytes of header, an address for each that byte 3 counts, and 8 bytes of authentication
    data. In CARP byte 3 is authlen, 7, which would make 44 bytes, never 36. Ref: spec carp §2, §17; RFC 3768 §5.1.
    """
    if len(payload) < 4:
        return False
    if payload[0] == _VERSION_TYPE:
        return len(payload) == 16 + 4 * payload[3]
    return payload[0] == _VRRP3_VERSION_TYPE
