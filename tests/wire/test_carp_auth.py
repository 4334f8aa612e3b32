"""Digests. The vectors are those of spec carp §20."""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.wire.carp_auth import Authenticator

COUNTER = 0x0102030405060708


def packed(*addresses: str) -> list[bytes]:
    return [ip_address(address).packed for address in addresses]


LINK_LOCAL = packed("fe80::200:5eff:fe00:107", "2001:db8::aa")
FOUR = (packed("198.51.100.9", "192.0.2.10"), packed("2001:db8:2::1", "2001:db8::aa"))
DIGESTS = {
    "1: one IPv4 address": (
        Authenticator(b"xyzzy", 7, packed("192.0.2.10"), []),
        COUNTER,
        "061a14665f73e7447fb631b28de059dae09e4f83",
    ),
    "4: no password, sorted": (Authenticator(b"", 200, *FOUR), COUNTER, "b88be79de67528cd01cd61391ad49574f43900d6"),
    "5: with link-local": (
        Authenticator(b"correct horse batte", 7, packed("192.0.2.10"), LINK_LOCAL, send_link_local=True),
        COUNTER,
        "e6e5d7e465b2f094630866a8e5f4aa4d620c89dc",
    ),
    "5: without link-local": (
        Authenticator(b"correct horse batte", 7, packed("192.0.2.10"), LINK_LOCAL),
        COUNTER,
        "b243911abd06c4bac5f937b369316c06cdc352f1",
    ),
    "6: hand-set link-layer address": (
        Authenticator(b"xyzzy", 7, packed("192.0.2.10"), [], link_layer=bytes.fromhex("0200000000cc")),
        COUNTER,
        "5a3332f92b9317db1638757c1c8b3edf642df46b",
    ),
    "8: 19 bytes of key": (
        Authenticator(b"abcdefghijklmnopqrs", 1, packed("10.0.0.1"), []),
        0,
        "680376d92ea38dd7011d0f09b32145c5e152c5bf",
    ),
    "8: 20 bytes of key": (
        Authenticator(b"abcdefghijklmnopqrst", 1, packed("10.0.0.1"), []),
        0,
        "e7583119211d8cf3a7be5fcc339cbba8708e4d1d",
    ),
    "9: ucarp": (
        Authenticator(b"xyzzy", 7, packed("192.0.2.10"), []),
        0xB918FA86746CE3DA,
        "63d727022d5208022608761ee8fda45d571ef7ab",
    ),
}


@pytest.mark.parametrize(("authenticator", "counter", "digest"), DIGESTS.values(), ids=DIGESTS)
def test_vectors(authenticator: Authenticator, counter: int, digest: str) -> None:
    assert authenticator.sign(counter).hex() == digest
    assert authenticator.verify(counter, bytes.fromhex(digest))
    assert not authenticator.verify(counter ^ 1, bytes.fromhex(digest))


def test_both_link_local_forms_are_accepted() -> None:
    sends_without = Authenticator(b"secret", 7, [], LINK_LOCAL)
    sends_with = Authenticator(b"secret", 7, [], LINK_LOCAL, send_link_local=True)
    assert sends_without.sign(1) != sends_with.sign(1)
    for authenticator in (sends_without, sends_with):
        assert authenticator.verify(1, sends_without.sign(1))
        assert authenticator.verify(1, sends_with.sign(1))
        assert not authenticator.verify(2, sends_with.sign(1))


def test_one_digest_is_accepted_where_the_forms_are_equal() -> None:
    sends_with = Authenticator(b"secret", 7, *FOUR, send_link_local=True)
    assert sends_with.sign(1) == Authenticator(b"secret", 7, *FOUR).sign(1)
    assert not sends_with.verify(1, Authenticator(b"secret", 7, FOUR[0], []).sign(1))


keys = st.binary(max_size=20)
vhids = st.integers(1, 255)
counters = st.integers(0, 2**64 - 1)
addresses4 = st.lists(st.binary(min_size=4, max_size=4), max_size=5)
addresses6 = st.lists(st.binary(min_size=16, max_size=16), max_size=5)
NEVER_HASHED = (packed("0.0.0.0", "255.255.255.255"), [bytes(16), b"\xff" * 16])


@given(keys, vhids, addresses4, addresses6, counters)
def test_is_hmac_over_the_message_of_the_specification(
    key: bytes, vhid: int, addresses4: list[bytes], addresses6: list[bytes], counter: int
) -> None:
    hashed4 = [a for a in sorted(set(addresses4)) if a not in NEVER_HASHED[0]]
    hashed6 = [a for a in sorted(set(addresses6)) if a not in NEVER_HASHED[1]]
    message = b"\x02\x01" + bytes([vhid]) + b"".join(hashed4 + hashed6) + counter.to_bytes(8, "big")
    expected = hmac.new(key.ljust(20, b"\0"), message, hashlib.sha1).digest()
    authenticator = Authenticator(key, vhid, addresses4, addresses6, send_link_local=True)
    assert authenticator.sign(counter) == expected
    assert authenticator.verify(counter, expected)


@given(addresses4, addresses6)
def test_order_duplicates_and_unhashable_addresses_do_not_matter(
    addresses4: list[bytes], addresses6: list[bytes]
) -> None:
    plain = Authenticator(b"secret", 7, addresses4, addresses6)
    other = Authenticator(
        b"secret", 7, addresses4[::-1] + addresses4 + NEVER_HASHED[0], addresses6[::-1] + addresses6 + NEVER_HASHED[1]
    )
    assert plain.sign(1) == other.sign(1)


@given(st.binary(max_size=40))
def test_other_bytes_are_refused(digest: bytes) -> None:
    assert not Authenticator(b"secret", 7, *FOUR).verify(1, digest)


def test_key_too_long() -> None:
    with pytest.raises(ValueError, match="at most 20 bytes, got 21"):
        Authenticator(bytes(21), 7, [], [])
