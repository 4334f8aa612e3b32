"""Conntrack messages attribute by attribute: bytes that a kernel sent, requests, malformed ones."""

from __future__ import annotations

import contextlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire import conntrack, ctnetlink, ctnetlink_expect, netlink
from carpd.wire.conntrack import ConntrackEntry, Flow, SctpState, TcpState, Translation
from carpd.wire.ctnetlink import Change
from tests.wire.conntrack_kernel import entries, kernel_message

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes are those of a little-endian machine")

CLIENT, SERVER, OUTSIDE = bytes([192, 0, 2, 10]), bytes([198, 51, 100, 10]), bytes([198, 51, 100, 1])
CLIENT6, SERVER6 = bytes.fromhex("20010db8000100000000000000000010"), bytes.fromhex("20010db8000200000000000000000010")

TCP = ConntrackEntry(
    CLIENT, SERVER, conntrack.TCP, 40000, 80, SERVER, OUTSIDE, 80, 50000,
    id=0xD40025F1, status=0x19E, timeout=600, state=TcpState.ESTABLISHED,
    original_scale=7, reply_scale=8, original_flags=3, reply_flags=3, mark=5,
)  # fmt: skip
PING = ConntrackEntry(
    CLIENT6, SERVER6, conntrack.ICMPV6, 77, 128 << 8, SERVER6, CLIENT6, 128 << 8, 77, id=9, status=0x0A, timeout=30
)

EVENTS = {
    "tcp new": (
        Change.NEW,
        TCP,
        "e8000000 0001 0006 00000000 35760000 02 00 0000"
        "34000180 14000180 08000100 c000020a 08000200 c633640a"
        "1c000280 05000100 06000000 06000200 9c400000 06000300 00500000"
        "34000280 14000180 08000100 c633640a 08000200 c6336401"
        "1c000280 05000100 06000000 06000200 00500000 06000300 c3500000"
        "08000c00 d40025f1 08000300 0000019e 08000700 00000258"
        "30000480 2c000180 05000100 03000000 05000200 07000000 05000300 08000000 06000400 03000000 06000500 03000000"
        "1c001880 08000100 00000000 08000200 00000000 08000300 00000000"
        "08000800 00000005",
    ),
    "icmpv6 destroy": (
        Change.DESTROY,
        PING,
        "d4000000 0201 0000 00000000 00000000 0a 00 0000"
        "54000180 2c000180 14000300 20010db8000100000000000000000010 14000400 20010db8000200000000000000000010"
        "24000280 05000100 3a000000 06000700 004d0000 05000800 80000000 05000900 00000000"
        "54000280 2c000180 14000300 20010db8000200000000000000000010 14000400 20010db8000100000000000000000010"
        "24000280 05000100 3a000000 06000700 004d0000 05000800 81000000 05000900 00000000"
        "08000c00 00000009 08000300 0000000a 08000700 0000001e",
    ),
}


@little_endian
@pytest.mark.parametrize(("change", "entry", "data"), EVENTS.values(), ids=EVENTS)
def test_events(change: Change, entry: ConntrackEntry, data: str) -> None:
    assert ctnetlink.read(bytes.fromhex(data)) == (change, entry)


REQUESTS = {
    "insert tcp with source NAT": (
        ctnetlink.insert(TCP),
        "dc000000 0001 0106 00000000 00000000 02 00 0000"
        "34000180 14000180 08000100 c000020a 08000200 c633640a"
        "1c000280 05000100 06000000 06000200 9c400000 06000300 00500000"
        # The inverse of the original tuple, which is not what a dump shows.
        "34000280 14000180 08000100 c633640a 08000200 c000020a"
        "1c000280 05000100 06000000 06000200 00500000 06000300 9c400000"
        "08000300 0000019e 08000700 00000258 08000800 00000005"
        "30000480 2c000180 05000100 03000000 05000200 07000000 05000300 08000000 06000400 0b0f0000 06000500 0b0f0000"
        "18000680 08000100 c6336401 0c000380 06000100 c3500000",
    ),
    "insert ping": (
        ctnetlink.insert(PING),
        "d4000000 0001 0106 00000000 00000000 0a 00 0000"
        "54000180 2c000180 14000300 20010db8000100000000000000000010 14000400 20010db8000200000000000000000010"
        "24000280 05000100 3a000000 06000700 004d0000 05000800 80000000 05000900 00000000"
        "54000280 2c000180 14000300 20010db8000200000000000000000010 14000400 20010db8000100000000000000000010"
        "24000280 05000100 3a000000 06000700 004d0000 05000800 81000000 05000900 00000000"
        "08000300 0000000a 08000700 0000001e 08000800 00000000",
    ),
    "update": (
        ctnetlink.update(ConntrackEntry(*TCP[:9], status=0x20E, timeout=9)),
        "60000000 0001 0100 00000000 00000000 02 00 0000"
        "34000180 14000180 08000100 c000020a 08000200 c633640a"
        "1c000280 05000100 06000000 06000200 9c400000 06000300 00500000"
        "08000300 0000000e 08000700 00000009 08000800 00000000",
    ),
    "update that leaves most as it is": (
        ctnetlink.update(ConntrackEntry(*TCP[:9], status=0x20E, mark=None)),
        "50000000 0001 0100 00000000 00000000 02 00 0000"
        "34000180 14000180 08000100 c000020a 08000200 c633640a"
        "1c000280 05000100 06000000 06000200 9c400000 06000300 00500000"
        "08000300 0000000e",
    ),
    "set timeout": (
        ctnetlink.set_timeout(Flow(*TCP[:5], zone=3), 258),
        "58000000 0001 0100 00000000 00000000 02 00 0000"
        "34000180 14000180 08000100 c000020a 08000200 c633640a"
        "1c000280 05000100 06000000 06000200 9c400000 06000300 00500000"
        "06001200 00030000 08000700 00000102",
    ),
    "loosen": (
        ctnetlink.loosen(Flow(*TCP[:5], zone=0)),
        "60000000 0001 0100 00000000 00000000 02 00 0000"
        "34000180 14000180 08000100 c000020a 08000200 c633640a"
        "1c000280 05000100 06000000 06000200 9c400000 06000300 00500000"
        "18000480 14000180 06000400 08080000 06000500 08080000",
    ),
    "get": (
        ctnetlink.get(Flow(*TCP[:5], zone=0)),
        "48000000 0101 0100 00000000 00000000 02 00 0000"
        "34000180 14000180 08000100 c000020a 08000200 c633640a"
        "1c000280 05000100 06000000 06000200 9c400000 06000300 00500000",
    ),
    "delete": (
        ctnetlink.delete(Flow(*TCP[:5], zone=3)),
        "50000000 0201 0100 00000000 00000000 02 00 0000"
        "34000180 14000180 08000100 c000020a 08000200 c633640a"
        "1c000280 05000100 06000000 06000200 9c400000 06000300 00500000"
        "06001200 00030000",
    ),
    "dump": (
        ctnetlink.dump(zone=3, mark=5, mark_mask=15),
        "2c000000 0101 0103 00000000 00000000 00 00 0000 06001200 00030000 08000800 00000005 08001500 0000000f",
    ),
    "dump expectations": (
        ctnetlink_expect.dump(),
        "14000000 0102 0103 00000000 00000000 00 00 0000",
    ),
}


@little_endian
@pytest.mark.parametrize(("message", "data"), REQUESTS.values(), ids=REQUESTS)
def test_requests(message: netlink.Message, data: str) -> None:
    assert message.to_bytes().hex() == bytes.fromhex(data).hex()


@given(st.sampled_from(Change), entries(), st.booleans(), st.booleans())
def test_what_the_kernel_tells(change: Change, entry: ConntrackEntry, dump: bool, extras: bool) -> None:
    change = Change.UPDATE if dump else change
    told = entry
    if change is Change.DESTROY:
        told = entry._replace(
            original_scale=0, reply_scale=0, original_flags=0, reply_flags=0, original_tag=0, reply_tag=0
        )
    assert ctnetlink.read(kernel_message(change, entry, dump=dump, extras=extras)) == (change, told)


@given(entries())
def test_what_is_inserted(entry: ConntrackEntry) -> None:
    """An insert is read like an event, except for NAT, which it tells apart from the tuples."""
    change, read = ctnetlink.read(ctnetlink.insert(entry).to_bytes())
    assert change is Change.NEW
    assert read.status & (conntrack.CONFIRMED | conntrack.EXPECTED | conntrack.DYING) == conntrack.CONFIRMED
    flags = conntrack.LIBERAL if entry.protocol == conntrack.TCP and entry.state is not None else 0
    assert read == entry._replace(
        id=0,
        status=read.status,
        reply_source=entry.destination,
        reply_destination=entry.source,
        reply_source_port=entry.destination_port,
        reply_destination_port=entry.source_port,
        original_flags=entry.original_flags | flags,
        reply_flags=entry.reply_flags | flags,
    )


@given(entries())
def test_what_is_updated(entry: ConntrackEntry) -> None:
    """Nothing that can't change is told, not even its tuple of replies: the kernel would refuse all the rest."""
    message = ctnetlink.update(entry)
    kinds = {kind for kind, _ in netlink.each_attribute(message.body, 4)}
    assert not kinds & {2, 5, 6, 13, 14}
    assert message.flags == netlink.REQUEST


TRANSLATIONS = {
    "none": (TCP[:4], (SERVER, CLIENT, 80, 40000), None, None),
    "source": (TCP[:4], (SERVER, OUTSIDE, 80, 40000), Translation(OUTSIDE, 40000), None),
    "source port": (TCP[:4], (SERVER, CLIENT, 80, 40001), Translation(CLIENT, 40001), None),
    "destination": (TCP[:4], (OUTSIDE, CLIENT, 80, 40000), None, Translation(OUTSIDE, 80)),
    "destination port": (TCP[:4], (SERVER, CLIENT, 8080, 40000), None, Translation(SERVER, 8080)),
    "both": (TCP[:4], (CLIENT, OUTSIDE, 81, 1), Translation(OUTSIDE, 1), Translation(CLIENT, 81)),
}


@pytest.mark.parametrize("case", TRANSLATIONS.values(), ids=TRANSLATIONS)
def test_translations(
    case: tuple[object, tuple[bytes, bytes, int, int], Translation | None, Translation | None],
) -> None:
    _, reply, source, destination = case
    entry = ConntrackEntry(*TCP[:5], *reply)
    assert conntrack.source_nat(entry) == source
    assert conntrack.destination_nat(entry) == destination


@given(entries(), entries())
def test_flow_keys(entry: ConntrackEntry, other: ConntrackEntry) -> None:
    key = conntrack.flow_key(entry)
    flow = Flow(*conntrack.unpack_flow_key(key))
    assert flow == (*entry[:5], entry.zone or entry.original_zone)
    assert (conntrack.flow_key(other) == key) == (conntrack.unpack_flow_key(conntrack.flow_key(other)) == flow)


BAD = {
    "empty": b"",
    "headers only": netlink.Message(0x100, 0, bytes(4)).to_bytes(),
    "half a header": bytes(19),
    "no reply tuple": ctnetlink.delete(Flow(*TCP[:5], zone=0)).to_bytes(),
    "another subsystem": netlink.Message(0xA00, 0, ctnetlink.insert(TCP).body).to_bytes(),
    "a short value": netlink.Message(0x100, 0, ctnetlink.insert(PING).body + netlink.attribute(7, b"\0\0")).to_bytes(),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        ctnetlink.read(data)


@given(entries(), st.data())
def test_any_bytes(entry: ConntrackEntry, data: st.DataObject) -> None:
    """Whatever comes is an entry or a DecodeError."""
    message = bytearray(kernel_message(Change.NEW, entry))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(message)))
    with contextlib.suppress(DecodeError):
        ctnetlink.read(bytes(message[:cut]))
    with contextlib.suppress(DecodeError):
        ctnetlink_expect.read(netlink.Message(0x200, 0, bytes(message[16:cut])))


def test_sctp_states() -> None:
    assert (SctpState.ESTABLISHED, SctpState.HEARTBEAT_SENT) == (4, 8)
