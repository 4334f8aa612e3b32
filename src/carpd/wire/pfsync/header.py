"""The header, the subheaders between the batches, and what a packet that breaks their rules gets.

Ref: spec pfsync §1, §2, §7.4.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from carpd.errors import DecodeError

if TYPE_CHECKING:
    from carpd.wire.pfsync.batches import AnyBatch

PROTOCOL = 240
"""The IP protocol number."""
GROUP4 = bytes((224, 0, 0, 240))
GROUP6 = bytes.fromhex("ff12 0000 0000 0000 0000 0000 0000 00f0")
TTL = 255
"""What is sent, and the only TTL or hop limit that is accepted, of unicast too."""

HEADER = struct.Struct("!BxH16s")  # version, length with this header, ruleset checksum
SUBHEADER = struct.Struct("!BBH")  # action, size of a message in words (version 5: 0), number of messages

NO_CHECKSUM = bytes(16)
"""The ruleset checksum of those that have no pf rules."""


class PacketError(DecodeError):
    """A packet that is wrong from some point on: `batches` are those before, which are to be obeyed all the same.

    `counter` is the one of BSD's statistics in which it counts.
    """

    def __init__(
        self,
        counter: Literal["hdrops", "badver", "badlen", "badact"],
        reason: str,
        batches: Sequence[AnyBatch] = (),
    ) -> None:
        super().__init__(f"pfsync: {reason}")
        self.counter = counter
        self.reason = reason
        self.batches = batches
