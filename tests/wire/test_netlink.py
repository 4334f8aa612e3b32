"""Netlink messages: their bytes, both ways, and what malformed ones get."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire import netlink, nftnetlink, rtnetlink
from carpd.wire.netlink import Acknowledgement, Message
from carpd.wire.rtnetlink import AddressMessage, LinkMessage

MAC = bytes.fromhex("00005e000107")
IPV4 = bytes([192, 0, 2, 1])
IPV6 = bytes.fromhex("2001 0db8 0000 0000 0000 0000 0000 0001")

U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes are those of a little-endian machine")

REQUESTS = {
    "dump links": (
        rtnetlink.dump_links(),
        "28000000 1200 0103 00000000 00000000 00000000 00000000 00000000 00000000 0800 1d00 08000000",
    ),
    "get link": (
        rtnetlink.get_link("lo"),
        "30000000 1200 0100 00000000 00000000 00000000 00000000 00000000 00000000"
        "0700 0300 6c6f00 00 0800 1d00 08000000",
    ),
    "set up": (
        rtnetlink.set_up(3),
        "20000000 1300 0100 00000000 00000000 00000000 03000000 01000000 01000000",
    ),
    "set group": (
        rtnetlink.set_group(3, 0x40000001),
        "28000000 1300 0100 00000000 00000000 00000000 03000000 00000000 00000000 0800 1b00 01000040",
    ),
    "delete group": (
        rtnetlink.delete_group(0x40000001),
        "28000000 1100 0100 00000000 00000000 00000000 00000000 00000000 00000000 0800 1b00 01000040",
    ),
    "macvlan": (
        rtnetlink.new_macvlan("carp-lan", 2, MAC),
        "60000000 1000 0106 00000000 00000000 00000000 00000000 00000000 00000000"
        "0d00 0300 636172702d6c616e00 000000 0800 0500 02000000 0a00 0100 00005e000107 0000"
        "1c00 1280 0c00 0100 6d6163766c616e00 0c00 0280 0800 0100 04000000",
    ),
    "alias": (
        rtnetlink.mark_link("carp-lan", "carpd"),
        "4c000000 1300 0100 00000000 00000000 00000000 00000000 00000000 00000000"
        "0d00 0300 636172702d6c616e00 000000 0a00 1400 636172706400 0000 1000 1a80 0c00 0a80 0500 0800 01 000000",
    ),
    "add IPv4": (
        rtnetlink.add_address(3, IPV4),
        "30000000 1400 0106 00000000 00000000 02 20 00 00 03000000"
        "0800 0200 c0000201 0800 0100 c0000201 0500 0b00 70 000000",
    ),
    "delete IPv4": (
        rtnetlink.delete_address(3, IPV4),
        "28000000 1500 0100 00000000 00000000 02 20 00 00 03000000 0800 0200 c0000201 0800 0100 c0000201",
    ),
    "add IPv6": (
        rtnetlink.add_address(3, IPV6),
        "64000000 1400 0106 00000000 00000000 0a 80 00 00 03000000"
        "1400 0200 20010db8000000000000000000000001 1400 0100 20010db8000000000000000000000001"
        "0500 0b00 70 000000 0800 0800 02020000 1400 0600 00000000 ffffffff 00000000 00000000",
    ),
    "dump tables": (nftnetlink.dump_tables(), "14000000 010a 0103 00000000 00000000 05 00 0000"),
    "flush set": (
        nftnetlink.flush_set("t", "s"),
        "24000000 0e0a 0100 00000000 00000000 05 00 0000 0600 0100 7400 0000 0600 0200 7300 0000",
    ),
}


@little_endian
@pytest.mark.parametrize(("message", "text"), REQUESTS.values(), ids=REQUESTS.keys())
def test_wire(message: Message, text: str) -> None:
    assert message.to_bytes().hex(" ") == bytes.fromhex(text).hex(" ")
    assert netlink.messages(bytes.fromhex(text)) == [message]


@little_endian
def test_batch() -> None:
    """Begin and end name the subsystem, and all three parts have one number."""
    text = (
        "14000000 1000 0100 05000000 00000000 00 00 000a"
        "14000000 010a 0503 05000000 00000000 05 00 0000"
        "14000000 1100 0100 05000000 00000000 00 00 000a"
    )
    assert nftnetlink.batch(nftnetlink.dump_tables()._replace(sequence=5)) == bytes.fromhex(text)


@given(st.lists(st.builds(Message, U16, U16, st.binary(max_size=40), U32, U32)))
def test_messages_both_ways(sent: list[Message]) -> None:
    assert netlink.messages(b"".join(message.to_bytes() for message in sent)) == sent


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=20))))
def test_attributes_both_ways(pairs: list[tuple[int, bytes]]) -> None:
    plain = [netlink.attribute(kind, value) for kind, value in pairs]
    assert [*netlink.each_attribute(b"".join(plain))] == pairs
    assert netlink.attributes(netlink.nested(7, *plain)) == {7: b"".join(plain)}


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_text_both_ways(value: str) -> None:
    ((_, data),) = netlink.each_attribute(netlink.text(1, value))
    assert netlink.text_value(data) == value


LINK = Message(rtnetlink.NEWLINK, 0, rtnetlink.dump_links().body[:16])
LINK_ATTRIBUTES = {
    "name": netlink.text(3, "eth1"),
    "mtu": netlink.attribute(4, (1500).to_bytes(4, sys.byteorder)),
    "operstate": netlink.attribute(16, b"\x06"),
}


def test_link() -> None:
    extra = netlink.attribute(1, MAC) + netlink.attribute(5, (9).to_bytes(4, sys.byteorder)) + netlink.text(20, "carpd")
    kind = netlink.nested(18, netlink.text(1, "macvlan"))
    message = LINK._replace(body=LINK.body + b"".join(LINK_ATTRIBUTES.values()) + extra + kind)
    expected = LinkMessage(
        index=0, name="eth1", mac=MAC, flags=0, operstate=6, mtu=1500, kind="macvlan", alias="carpd", parent=9
    )
    assert LinkMessage.from_message(message) == expected
    # Its parent is in another namespace: the number means nothing here.
    elsewhere = message._replace(body=message.body + netlink.attribute(37, bytes(4)))
    assert LinkMessage.from_message(elsewhere) == dataclasses.replace(expected, parent=0)


@pytest.mark.parametrize("missing", LINK_ATTRIBUTES)
def test_messages_about_something_else_than_links(missing: str) -> None:
    attributes = [value for name, value in LINK_ATTRIBUTES.items() if name != missing]
    assert LinkMessage.from_message(LINK._replace(body=LINK.body + b"".join(attributes))) is None
    of_a_bridge_port = b"\x07" + LINK.body[1:] + b"".join(LINK_ATTRIBUTES.values())
    assert LinkMessage.from_message(LINK._replace(body=of_a_bridge_port)) is None


@pytest.mark.parametrize("packed", [IPV4, IPV6])
def test_address(packed: bytes) -> None:
    sent = rtnetlink.add_address(3, packed)
    assert AddressMessage.from_message(sent) == AddressMessage(
        index=3,
        address=packed,
        prefix_length=8 * len(packed),
        scope=rtnetlink.SCOPE_GLOBAL,
        flags=rtnetlink.NODAD | rtnetlink.NOPREFIXROUTE if len(packed) == 16 else 0,
        protocol=rtnetlink.OUR_PROTOCOL,
    )


def test_the_far_end_of_a_point_to_point_link_is_not_ours() -> None:
    head = rtnetlink.dump_addresses().body
    body = head + netlink.attribute(1, bytes([192, 0, 2, 9])) + netlink.attribute(2, IPV4)
    assert AddressMessage.from_message(Message(rtnetlink.NEWADDR, 0, body)).address == IPV4


def test_element_keys() -> None:
    def element(key: bytes) -> bytes:
        return netlink.nested(1, netlink.nested(1, netlink.attribute(1, key)))

    elements = netlink.nested(3, element(b"1111"), element(b"2222"))
    message = Message(0, 0, bytes(4) + netlink.text(1, "t") + netlink.text(2, "s") + elements)
    assert nftnetlink.element_keys(message) == [b"1111", b"2222"]
    assert nftnetlink.element_keys(message._replace(body=bytes(4))) == []
    assert nftnetlink.set_name(message) == "s"
    assert nftnetlink.table_name(message) == "t"


REQUEST = rtnetlink.set_up(3).to_bytes()
REASON = netlink.attribute(2, bytes(4)) + netlink.text(1, "no such thing")
ERRNO = (-19).to_bytes(4, sys.byteorder, signed=True)
ACKNOWLEDGEMENTS = {
    "done": (Message(netlink.ERROR, 0, bytes(4) + REQUEST[:16]), Acknowledgement(0, "")),
    "refused": (Message(netlink.ERROR, 0, ERRNO + REQUEST), Acknowledgement(19, "")),
    "with a reason": (
        Message(netlink.ERROR, netlink.ACK_ATTRIBUTES, ERRNO + REQUEST + REASON),
        Acknowledgement(19, "no such thing"),
    ),
    "capped, with a reason": (
        Message(netlink.ERROR, netlink.ACK_ATTRIBUTES | netlink.CAPPED, ERRNO + REQUEST[:16] + REASON),
        Acknowledgement(19, "no such thing"),
    ),
    "end of a dump": (Message(netlink.DONE, netlink.MULTI, bytes(4)), Acknowledgement(0, "")),
    "bare end of a dump": (Message(netlink.DONE, netlink.MULTI, b""), Acknowledgement(0, "")),
    "failed dump": (
        Message(netlink.DONE, netlink.MULTI | netlink.ACK_ATTRIBUTES, ERRNO + REASON),
        Acknowledgement(19, "no such thing"),
    ),
}


@pytest.mark.parametrize(("message", "expected"), ACKNOWLEDGEMENTS.values(), ids=ACKNOWLEDGEMENTS.keys())
def test_acknowledgement(message: Message, expected: Acknowledgement) -> None:
    assert Acknowledgement.from_message(message) == expected


READERS: list[Callable[[Message], object]] = [
    LinkMessage.from_message,
    AddressMessage.from_message,
    Acknowledgement.from_message,
    nftnetlink.table_name,
    nftnetlink.set_name,
    nftnetlink.element_keys,
]


@given(st.sampled_from(READERS), st.sampled_from([netlink.ERROR, netlink.DONE]), U16, st.binary(max_size=120))
def test_any_body_is_read_or_refused(read: Callable[[Message], object], kind: int, flags: int, body: bytes) -> None:
    with contextlib.suppress(DecodeError):
        read(Message(kind, flags, body))


@given(
    st.sampled_from(READERS),
    st.lists(st.builds(netlink.attribute, st.integers(1, 40), st.binary(max_size=20))),
    st.integers(0, 60),
)
def test_any_attributes_are_read_or_refused(
    read: Callable[[Message], object], attributes: list[bytes], cut: int
) -> None:
    for head in (4, 8, 16):
        body = bytes(head) + b"".join(attributes)
        with contextlib.suppress(DecodeError):
            read(Message(netlink.ERROR, netlink.ACK_ATTRIBUTES, body[: len(body) - cut]))


@given(st.binary(max_size=60))
def test_any_datagram_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        netlink.messages(data)
