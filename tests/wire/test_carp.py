"""Advertisements and VRRP. The vectors are those of spec carp §20."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.units import SECOND
from carpd.wire.carp import (
    ADVERTISEMENT,
    SIZE,
    YIELDED,
    Advertisement,
    checksum_ok,
    is_vrrp,
    multicast_mac,
    virtual_mac,
)
from carpd.wire.ethernet import multicast_mac4

COUNTER = 0x0102030405060708
XYZZY = bytes.fromhex("061a14665f73e7447fb631b28de059dae09e4f83")

WIRE = {
    "1: one IPv4 address": (
        Advertisement(vhid=7, advskew=100, counter=COUNTER, digest=XYZZY),
        "210764070001405e 0102030405060708 061a14665f73e7447fb631b28de059dae09e4f83",
    ),
    "2: demotion 32": (
        Advertisement(vhid=7, advskew=100, demotion=32, counter=COUNTER, digest=XYZZY),
        "210764072001205e 0102030405060708 061a14665f73e7447fb631b28de059dae09e4f83",
    ),
    "3: bow-out": (
        Advertisement(vhid=7, advbase=255, advskew=255, counter=COUNTER, digest=XYZZY),
        "2107ff0700ffa45f 0102030405060708 061a14665f73e7447fb631b28de059dae09e4f83",
    ),
    "the word of who has yielded": (
        Advertisement(vhid=7, advskew=100, type=YIELDED, counter=COUNTER, digest=XYZZY),
        "2207640700013f5e 0102030405060708 061a14665f73e7447fb631b28de059dae09e4f83",
    ),
    "4: two addresses of each family": (
        Advertisement(vhid=200, counter=COUNTER, digest=bytes.fromhex("b88be79de67528cd01cd61391ad49574f43900d6")),
        "21c8000700011650 0102030405060708 b88be79de67528cd01cd61391ad49574f43900d6",
    ),
    "5: without the link-local address": (
        Advertisement(vhid=7, counter=COUNTER, digest=bytes.fromhex("b243911abd06c4bac5f937b369316c06cdc352f1")),
        "2107000700011623 0102030405060708 b243911abd06c4bac5f937b369316c06cdc352f1",
    ),
    "6: hand-set link-layer address": (
        Advertisement(vhid=7, counter=COUNTER, digest=bytes.fromhex("5a3332f92b9317db1638757c1c8b3edf642df46b")),
        "210700070001be89 0102030405060708 5a3332f92b9317db1638757c1c8b3edf642df46b",
    ),
    "9: ucarp": (
        Advertisement(
            vhid=7,
            advskew=100,
            counter=0xB918FA86746CE3DA,
            digest=bytes.fromhex("63d727022d5208022608761ee8fda45d571ef7ab"),
        ),
        "210764070001368f b918fa86746ce3da 63d727022d5208022608761ee8fda45d571ef7ab",
    ),
}

bytes_ = st.integers(0, 255)
nibbles = st.integers(0, 15)
advertisements = st.builds(
    Advertisement,
    vhid=bytes_,
    advbase=bytes_,
    advskew=bytes_,
    demotion=bytes_,
    counter=st.integers(0, 2**64 - 1),
    digest=st.binary(min_size=20, max_size=20),
    version=nibbles,
    type=nibbles,
    authlen=bytes_,
)


@pytest.mark.parametrize(("message", "text"), WIRE.values(), ids=WIRE)
def test_wire(message: Advertisement, text: str) -> None:
    data = bytes.fromhex(text)
    assert message.to_bytes() == data
    assert Advertisement.from_bytes(data) == message
    assert checksum_ok(data)
    assert not is_vrrp(data)


@given(advertisements, st.binary(max_size=20))
def test_round_trip_ignores_trailing_bytes(message: Advertisement, trailing: bytes) -> None:
    data = message.to_bytes()
    assert len(data) == SIZE
    assert Advertisement.from_bytes(data + trailing) == message
    assert checksum_ok(data + trailing)


@given(advertisements, st.integers(0, 8 * SIZE - 1))
def test_checksum_sees_every_changed_bit(message: Advertisement, bit: int) -> None:
    data = bytearray(message.to_bytes())
    data[bit // 8] ^= 1 << bit % 8
    assert not checksum_ok(bytes(data))


@pytest.mark.parametrize("size", range(SIZE))
def test_too_short(size: int) -> None:
    with pytest.raises(DecodeError, match=f"need 36 bytes, got {size}"):
        Advertisement.from_bytes(bytes(size))


@given(st.binary(min_size=SIZE, max_size=80))
def test_everything_else_is_left_to_the_receiver(data: bytes) -> None:
    encoded = Advertisement.from_bytes(data).to_bytes()
    assert (encoded[:6], encoded[8:]) == (data[:6], data[8:SIZE])


def test_interval_and_bow_out() -> None:
    assert Advertisement(vhid=1, advbase=1, advskew=100).interval_ns == SECOND + 100 * SECOND // 256
    assert Advertisement(vhid=1, advbase=0, advskew=1).interval_ns == 3_906_250
    assert Advertisement(vhid=1, advbase=255, advskew=255).is_bow_out
    assert not Advertisement(vhid=1, advbase=1, advskew=255).is_bow_out
    assert not Advertisement(vhid=1, advbase=255, advskew=254).is_bow_out


def test_virtual_mac() -> None:
    assert virtual_mac(200).hex(":") == "00:00:5e:00:01:c8"
    assert multicast_mac(200).hex(":") == "01:00:5e:00:01:c8"


@given(bytes_)
def test_the_multicast_mac_of_a_leader_has_just_the_group_bit(vhid: int) -> None:
    """So it is also that of the IPv4 group 224.0.1.vhid, OpenBSD's as well."""
    assert bytes((multicast_mac(vhid)[0] ^ 1,)) + multicast_mac(vhid)[1:] == virtual_mac(vhid)
    assert multicast_mac(vhid) == multicast_mac4(bytes((224, 0, 1, vhid)))


VRRP = {
    "7: FreeBSD 15, IPv4": ("31016401006405fd c000020a", True),
    "7: FreeBSD 15, IPv6": ("3101640100643d0e 20010db80000000000000000000000aa", True),
    "version 2, one address": ("2101640100010000 c000020a" + "00" * 8, True),
    "version 2, five addresses: as long as CARP": ("2101640500010000" + "c000020a" * 5 + "00" * 8, True),
    "version 2, another length": ("2101640200010000 c000020a" + "00" * 8, False),
    "version 2, cut": ("2101", False),
    "nothing": ("", False),
    "no version at all": ("00" * 36, False),
}


@pytest.mark.parametrize(("text", "expected"), VRRP.values(), ids=VRRP)
def test_is_vrrp(text: str, expected: bool) -> None:
    assert is_vrrp(bytes.fromhex(text)) is expected


@given(advertisements)
def test_no_carp_packet_is_taken_for_vrrp(message: Advertisement) -> None:
    for kind in (ADVERTISEMENT, YIELDED):
        assert not is_vrrp(replace(message, version=2, type=kind, authlen=7).to_bytes())
