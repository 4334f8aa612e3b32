"""A whole pfsync packet, of either version. Ref: spec pfsync §2, §7.4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from carpd.wire.pfsync import v5, v6
from carpd.wire.pfsync.batches import AnyBatch
from carpd.wire.pfsync.header import HEADER, NO_CHECKSUM, PacketError


class Packet(NamedTuple):
    """What stands behind an IP header. FreeBSD's ruleset checksum says whether rule numbers mean the same."""

    version: int
    batches: Sequence[AnyBatch]
    ruleset_checksum: bytes = NO_CHECKSUM

    @classmethod
    def from_bytes(cls, payload: bytes, *, packed: bool = False) -> Packet:
        """What follows the length in the header is cut off. With `packed`, states of version 6 are left as bytes.

        Raise PacketError if the packet is wrong, with the batches that come before that. What the messages say is the
        receiver's to check, message by message (spec pfsync §7.5).
        """
        if len(payload) < HEADER.size:
            raise PacketError("hdrops", f"need {HEADER.size} bytes, got {len(payload)}")
        version, length, checksum = HEADER.unpack_from(payload)
        if version not in (v5.VERSION, v6.VERSION):
            raise PacketError("badver", f"need version 5 or 6, got {version}")
        if not HEADER.size <= length <= len(payload):
            raise PacketError("badlen", f"the header says {length} bytes, got {len(payload)}")
        data = payload[:length]
        return cls(version, v6.read(data, packed=packed) if version == v6.VERSION else v5.read(data), checksum)

    def to_bytes(self) -> bytes:
        """Batches without messages are left out. Raise ValueError if this version can't say one of them.

        How much fits into a packet is the caller's to know: `KINDS.message_size`, `attributes.encoded_size`.
        """
        if self.version == v6.VERSION:
            parts = [v6.write(batch) for batch in self.batches if batch.count]
        else:
            parts = [v5.write(batch) for batch in self.batches if batch.count]
            parts.append(v5.EOF)
        body = b"".join(parts)
        return HEADER.pack(self.version, HEADER.size + len(body), self.ruleset_checksum) + body
