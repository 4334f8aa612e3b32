"""What hosts that share traffic tell each other of how they do it: a frame of our own, no BSD sends or reads it.

    "carpd", version (1)   mode (1)   number of vhids (1)   vhids (1 each)   HMAC-SHA1 over all of it (20)

It goes to CARP's multicast MAC, where everybody hears it, and to the MAC that the nodes share: who hears the one
without the other sits behind a switch that does not deliver what is to be shared.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from carpd.errors import DecodeError

ETHERTYPE = 0x88B5
"""For local experiments. Ref: IEEE 802 §9.2.4."""

_HEAD = b"carpd\x01"
_DIGEST = 20


@dataclass(frozen=True, slots=True)
class SharingProbe:
    """The sender's mode, by its number, and the vhids of its nodes, ascending."""

    mode: int
    vhids: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> SharingProbe:
        """Padding is ignored; who sent it is `is_authentic`'s to tell. Raise DecodeError if it is none."""
        start = len(_HEAD) + 2
        if len(data) < start or not data.startswith(_HEAD):
            raise DecodeError("sharing probe: it does not begin like one")
        end = start + data[start - 1]
        if len(data) < end + _DIGEST:
            raise DecodeError(f"sharing probe: need {end + _DIGEST} bytes, got {len(data)}")
        return cls(data[start - 2], data[start:end])

    def to_bytes(self, key: bytes) -> bytes:
        """The payload of the frame, signed with the password."""
        body = _HEAD + bytes((self.mode, len(self.vhids))) + self.vhids
        return body + hmac.digest(key, body, "sha1")

    def is_authentic(self, data: bytes, key: bytes) -> bool:
        """Whether the data that this was read from was signed with the password."""
        signed = self.to_bytes(key)
        return hmac.compare_digest(signed, data[: len(signed)])
