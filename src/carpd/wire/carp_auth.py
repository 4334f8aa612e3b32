"""The digest of an advertisement: HMAC-SHA1 over the vhid, the virtual addresses and the counter. Ref: spec carp §3."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from hmac import compare_digest

KEY_SIZE = 20
"""Bytes of the key in the kernels."""

PASSWORD_LIMIT = KEY_SIZE - 1
"""Bytes of a password: the BSDs' tools ignore what follows, ucarp refuses it."""

_BLOCK_SIZE = 64  # of SHA-1
_VERSION_TYPE = b"\x02\x01"  # a byte each here, packed in one on the wire
_NEVER_HASHED = frozenset((bytes(4), b"\xff" * 4, bytes(16), b"\xff" * 16))


class Authenticator:
    """Signs and verifies the advertisements of one virtual host.

    Its key and addresses are hashed once: what is left for a packet is the counter. Addresses are packed and may
    come in any order.

    Link-local IPv6 addresses: OpenBSD leaves them out when it sends and accepts both forms; FreeBSD and NetBSD
    always include them. So both are accepted here too, and `send_link_local` says which one is sent.

    `link_layer` is the address of an OpenBSD carp interface whose operator set another than the virtual MAC.
    """

    def __init__(
        self,
        key: bytes,
        vhid: int,
        addresses4: Iterable[bytes],
        addresses6: Iterable[bytes],
        send_link_local: bool = False,
        link_layer: bytes | None = None,
    ) -> None:
        """Raise ValueError for a key of more than 20 bytes; a shorter one is padded with zeros, as HMAC does."""
        if len(key) > KEY_SIZE:
            raise ValueError(f"the key must have at most {KEY_SIZE} bytes, got {len(key)}")
        head = _VERSION_TYPE + (link_layer or b"") + bytes((vhid,)) + b"".join(_hashed(addresses4))
        everything = _hashed(addresses6)
        without_link_local = [address for address in everything if not _is_link_local(address)]
        sent, other = (everything, without_link_local) if send_link_local else (without_link_local, everything)

        block = key.ljust(_BLOCK_SIZE, b"\0")
        self._outer = hashlib.sha1(bytes(byte ^ 0x5C for byte in block))
        self._sent = hashlib.sha1(bytes(byte ^ 0x36 for byte in block) + head)
        self._other = self._sent.copy() if other != sent else None
        self._sent.update(b"".join(sent))
        if self._other is not None:
            self._other.update(b"".join(other))

    def sign(self, counter: int) -> bytes:
        """The digest to send with this counter, 20 bytes."""
        return self._digest(self._sent, counter)

    def verify(self, counter: int, digest: bytes) -> bool:
        """Whether a digest is one of the accepted ones; the time it takes does not tell how nearly."""
        if compare_digest(self._digest(self._sent, counter), digest):
            return True
        return self._other is not None and compare_digest(self._digest(self._other, counter), digest)

    def _digest(self, inner: hashlib._Hash, counter: int) -> bytes:
        inner = inner.copy()
        inner.update(counter.to_bytes(8, "big"))
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


def _hashed(addresses: Iterable[bytes]) -> list[bytes]:
    """The addresses that are hashed, in that order: ascending as unsigned numbers, each once."""
    return sorted(set(addresses) - _NEVER_HASHED)


def _is_link_local(address: bytes) -> bool:
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80
