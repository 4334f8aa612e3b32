"""State records: every field at its offset, in all four layouts. Ref: spec pfsync §5.3, §5.4, §6.1."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.wire.pfsync.batches import Inserts, StateBatch
from carpd.wire.pfsync.numbers import INET, INET6, Dialect, exchanging
from carpd.wire.pfsync.packet import Packet
from carpd.wire.pfsync.state import FreeBSDFields, Key, Peer, PfFields, StateRecord
from tests.wire.pfsync.examples import KEY, STATE, states

SIZES = {
    Dialect.OPENBSD: 264,
    Dialect.FREEBSD_1301: 242,
    Dialect.FREEBSD_1400: 277,
    Dialect.FREEBSD_1500: 360,
}


def encode(state: StateRecord, dialect: Dialect) -> bytes:
    """The record alone."""
    packet = Packet(dialect.version, [Inserts([state], dialect)]).to_bytes()
    return packet[24 : 24 + SIZES[dialect]]


def decode(data: bytes, dialect: Dialect) -> StateRecord:
    packet = Packet(dialect.version, [Inserts([STATE], dialect)]).to_bytes()
    (batch,) = Packet.from_bytes(packet[:24] + data + packet[24 + len(data) :]).batches
    assert isinstance(batch, StateBatch)
    (state,) = batch.messages
    return state


class Place(NamedTuple):
    """A field's value, its bytes, and at which offset of which layout they are."""

    state: StateRecord
    text: str
    offsets: tuple[int | None, ...]  # in the order of SIZES


def pf(**field: Any) -> StateRecord:
    return STATE._replace(pf=PfFields()._replace(**field))


def freebsd(**field: Any) -> StateRecord:
    return STATE._replace(pf=PfFields(freebsd=FreeBSDFields()._replace(**field)))


def wire(**field: Any) -> StateRecord:
    return STATE._replace(wire=KEY._replace(**field))


def stack(**field: Any) -> StateRecord:
    return STATE._replace(stack=KEY._replace(**field))


INET6_STATE = STATE._replace(
    family=INET6,
    wire=Key(bytes(15) + b"\7", bytes(16), 1, 2, 0, INET6),
    stack=Key(bytes(16), bytes(16), 1, 2, 0, INET6),
)

PLACES = {
    "id": Place(STATE._replace(identity=b"abcdefgh" + bytes(4)), "6162636465666768", (0, 0, 0, 0)),
    "creator id": Place(STATE._replace(identity=bytes(8) + b"abcd"), "61626364", (236, 228, 228, 228)),
    "interface": Place(STATE._replace(interface="em0"), "656d3000 000000000000000000000000", (8, 8, 8, 8)),
    "wire address 0": Place(wire(address0=b"\1\2\3\4"), "01020304" + "00" * 12, (24, 24, 24, 24)),
    "wire address 1": Place(wire(address1=b"\1\2\3\4"), "01020304" + "00" * 12, (40, 40, 40, 40)),
    "wire port 0": Place(wire(port0=0x1234), "1234", (56, 56, 56, 56)),
    "wire port 1": Place(wire(port1=0x1234), "1234", (58, 58, 58, 58)),
    "wire rdomain": Place(wire(rdomain=0x1234), "1234", (60, None, None, None)),
    "wire family": Place(wire(family=INET6, address0=bytes(16), address1=bytes(16)), "18", (62, None, None, None)),
    "stack address 0": Place(stack(address0=b"\1\2\3\4"), "01020304" + "00" * 12, (64, 60, 60, 60)),
    "stack address 1": Place(stack(address1=b"\1\2\3\4"), "01020304" + "00" * 12, (80, 76, 76, 76)),
    "stack port 0": Place(stack(port0=0x1234), "1234", (96, 92, 92, 92)),
    "stack port 1": Place(stack(port1=0x1234), "1234", (98, 94, 94, 94)),
    "stack rdomain": Place(stack(rdomain=0x1234), "1234", (100, None, None, None)),
    "stack family": Place(stack(family=INET6, address0=bytes(16), address1=bytes(16)), "18", (102, None, None, None)),
    "gateway": Place(pf(rt_address=bytes(range(16))), bytes(range(16)).hex(), (168, 160, 160, 160)),
    "rule": Place(pf(rule=0x12345678), "12345678", (184, 176, 176, 176)),
    "anchor": Place(pf(anchor=0x12345678), "12345678", (188, 180, 180, 180)),
    "nat_rule": Place(pf(nat_rule=0x12345678), "12345678", (192, 184, 184, 184)),
    "creation": Place(STATE._replace(creation=0x12345678), "12345678", (196, 188, 188, 188)),
    "expire": Place(STATE._replace(expire=0x12345678), "12345678", (200, 192, 192, 192)),
    "packets 0": Place(STATE._replace(packets0=0x123456789ABCDEF0), "123456789abcdef0", (204, 196, 196, 196)),
    "packets 1": Place(STATE._replace(packets1=0x123456789ABCDEF0), "123456789abcdef0", (212, 204, 204, 204)),
    "bytes 0": Place(STATE._replace(bytes0=0x123456789ABCDEF0), "123456789abcdef0", (220, 212, 212, 212)),
    "bytes 1": Place(STATE._replace(bytes1=0x123456789ABCDEF0), "123456789abcdef0", (228, 220, 220, 220)),
    "rtableid 0": Place(pf(rtableid0=-2), "fffffffe", (240, None, None, None)),
    "rtableid 1": Place(pf(rtableid1=-2), "fffffffe", (244, None, None, None)),
    "max_mss": Place(pf(max_mss=0x1234), "1234", (248, None, 256, 342)),
    "family of OpenBSD": Place(INET6_STATE, "18", (250, None, None, None)),
    "family of FreeBSD": Place(INET6_STATE, "1c", (None, 232, 232, 344)),
    "stack family of FreeBSD": Place(INET6_STATE, "1c", (None, None, None, 345)),
    "protocol": Place(STATE._replace(protocol=17), "11", (251, 233, 233, 347)),
    "stack protocol": Place(freebsd(stack_protocol=58), "3a", (None, None, None, 348)),
    "stack protocol, the same": Place(STATE._replace(protocol=17), "11", (None, None, None, 348)),
    "direction": Place(STATE._replace(direction=2), "02", (252, 234, 234, 351)),
    "log": Place(pf(log=0x12), "12", (253, 237, 237, 349)),
    "rt of OpenBSD": Place(pf(rt=1), "01", (254, None, None, None)),
    "rt of FreeBSD": Place(pf(rt=1), "02", (None, None, 260, 352)),
    "timeout": Place(STATE._replace(timeout=0x12), "12", (255, 239, 239, 350)),
    "sync_flags": Place(pf(sync_flags=0x12), "12", (256, 240, 240, None)),
    "updates": Place(pf(updates=0x12), "12", (257, 241, 241, None)),
    "min_ttl": Place(pf(min_ttl=0x12), "12", (258, None, 254, 353)),
    "set_tos": Place(pf(set_tos=0x12), "12", (259, None, 255, 354)),
    "flags": Place(STATE._replace(flags=0x1234), "1234", (260, None, 235, 332)),
    "flags, eight of them": Place(STATE._replace(flags=0x1234), "34", (None, 238, None, None)),
    "set_prio 0": Place(pf(set_prio0=0x12), "12", (262, None, 258, 355)),
    "set_prio 1": Place(pf(set_prio1=0x12), "12", (263, None, 259, 356)),
    "qid": Place(freebsd(qid=0x1234), "1234", (None, None, 242, 334)),
    "pqid": Place(freebsd(pqid=0x1234), "1234", (None, None, 244, 336)),
    "dnpipe": Place(freebsd(dnpipe=0x1234), "1234", (None, None, 246, 338)),
    "dnrpipe": Place(freebsd(dnrpipe=0x1234), "1234", (None, None, 248, 340)),
    "rtableid of FreeBSD": Place(freebsd(rtableid=-2), "fffffffe", (None, None, 250, 328)),
    "rt_ifname": Place(freebsd(rt_interface="em0"), "656d30" + "00" * 13, (None, None, 261, 296)),
    "rt_af": Place(freebsd(rt_family=INET6), "1c", (None, None, None, 346)),
    "tagname": Place(freebsd(tag="t" * 64), "74" * 64, (None, None, None, 232)),
    "orig_ifname": Place(freebsd(original_interface="em1"), "656d31" + "00" * 13, (None, None, None, 312)),
}

PEER = {
    "scrub flags": (0, Peer(scrub_flags=0x1234), "1234"),
    "scrub TTL": (2, Peer(scrub_ttl=0x12), "12"),
    "scrub present": (3, Peer(scrub_present=1), "01"),
    "scrub timestamp": (4, Peer(scrub_timestamp=0x12345678), "12345678"),
    "seqlo": (8, Peer(seqlo=0x12345678), "12345678"),
    "seqhi": (12, Peer(seqhi=0x12345678), "12345678"),
    "seqdiff": (16, Peer(seqdiff=0x12345678), "12345678"),
    "max_win": (20, Peer(max_win=0x1234), "1234"),
    "mss": (22, Peer(mss=0x1234), "1234"),
    "state": (24, Peer(state=0x12), "12"),
    "wscale": (25, Peer(wscale=0x12), "12"),
}
for name, (inner, value, text) in PEER.items():
    PLACES[f"src {name}"] = Place(STATE._replace(src=value), text, (104 + inner, *[96 + inner] * 3))
    PLACES[f"dst {name}"] = Place(STATE._replace(dst=value), text, (136 + inner, *[128 + inner] * 3))


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_every_field_is_where_the_spec_says(place: Place) -> None:
    wanted = bytes.fromhex(place.text)
    for (dialect, size), offset in zip(SIZES.items(), place.offsets, strict=True):
        data = encode(place.state, dialect)
        assert len(data) == size
        if offset is not None:
            assert data[offset : offset + len(wanted)] == wanted, dialect
        assert encode(decode(data, dialect), dialect) == data


@pytest.mark.parametrize("dialect", Dialect)
@given(data=st.data())
def test_states_both_ways(dialect: Dialect, data: st.DataObject) -> None:
    state = data.draw(states(dialect))
    assert decode(encode(state, dialect), dialect) == state


@pytest.mark.parametrize("dialect", Dialect)
def test_a_batch_is_its_states_one_after_the_other(dialect: Dialect) -> None:
    different = [STATE, INET6_STATE, STATE._replace(identity=bytes(12)), STATE._replace(wire=KEY._replace(port0=1))]
    packet = Packet(dialect.version, [Inserts(different, dialect)]).to_bytes()
    end = 24 + 4 * SIZES[dialect]
    assert packet[24:end] == b"".join(encode(state, dialect) for state in different)
    assert Packet.from_bytes(packet).batches == [Inserts(different, dialect)]


FAMILIES = {
    "OpenBSD": (Dialect.OPENBSD, [62, 102, 250], 24),
    "FreeBSD 1301": (Dialect.FREEBSD_1301, [232], 28),
    "FreeBSD 1500": (Dialect.FREEBSD_1500, [344, 345], 28),
}


@pytest.mark.parametrize(("dialect", "offsets", "inet6"), FAMILIES.values(), ids=FAMILIES)
def test_families_are_translated_and_wrong_ones_stay_wrong(dialect: Dialect, offsets: list[int], inet6: int) -> None:
    right = {INET: INET, inet6: INET6}
    for native in range(1, 256):
        data = bytearray(encode(INET6_STATE, dialect))
        for offset in offsets:
            data[offset] = native
        state = decode(bytes(data), dialect)
        families = {state.family, state.wire.family, state.stack.family}
        assert families == {right[native]} if native in right else families.isdisjoint({INET, INET6})
        assert len(state.wire.address0) == (4 if native == INET else 16)
        if native != INET:
            assert encode(state, dialect) == data


@pytest.mark.parametrize("state", [STATE, INET6_STATE], ids=["IPv4", "IPv6"])
def test_old_senders_write_the_family_of_the_state_alone(state: StateRecord) -> None:
    data = bytearray(encode(state, Dialect.OPENBSD))
    data[62] = data[102] = 0
    assert decode(bytes(data), Dialect.OPENBSD) == state
    data[62] = data[250]
    assert decode(bytes(data), Dialect.OPENBSD).stack.family == 0, "one of two is a mistake, for the receiver to find"


def test_route_options_have_one_meaning() -> None:
    """None, route-to, dup-to, reply-to; FreeBSD's list has fastroute in second place. Ref: spec pfsync §5.5."""
    on_wire = [encode(pf(rt=rt), Dialect.FREEBSD_1500)[352] for rt in range(6)]
    assert on_wire == [0, 2, 3, 4, 1, 5]


def test_names_end_at_the_first_zero() -> None:
    data = bytearray(encode(STATE, Dialect.OPENBSD))
    data[8:24] = b"em0\0rubbish\xff\xff\xff\xff\xff"
    assert decode(bytes(data), Dialect.OPENBSD).interface == "em0"
    data[8:24] = bytes(range(0xF0, 0x100))
    assert encode(decode(bytes(data), Dialect.OPENBSD), Dialect.OPENBSD) == data, "any bytes come back"


@pytest.mark.parametrize("interface", ["i" * 17, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 9])
def test_names_that_are_too_long_are_not_cut(interface: str) -> None:
    with pytest.raises(ValueError, match="longer than 16 bytes"):
        encode(STATE._replace(interface=interface), Dialect.OPENBSD)


def test_exchanging() -> None:
    table = exchanging(10, 24)
    assert (table[10], table[24]) == (24, 10)
    assert bytes(table[table[value]] for value in range(256)) == bytes(range(256))
