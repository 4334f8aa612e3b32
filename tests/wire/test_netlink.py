"""Netlink messages: their bytes, both ways, and what malformed ones get."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire import netlink, nftnetlink, rtnetlink
from carpd.wire.netlink import Acknowledgement, Message
from carpd.wire.rtnetlink import AddressMessage, LinkMessage

# The bytes are those of a little-endian machine, as `ip` and `nft` send them there.
MAC = bytes.fromhex("00005e000107")
PREFIX = "00000000 "  # sequence and port
"""Requests are numbered by the socket."""

REQUESTS = {
    "set up": (rtnetlink.set_up(3), "20000000 1300 0100 00000000 00000000 00 00 0000 03000000 01000000 01000000"),
    "delete link": (rtnetlink.delete_link(3), "20000000 1100 0100 00000000 00000000 00 00 0000 03000000 00000000 00000000"),
    "add IPv4": (
        rtnetlink.add_address(3, bytes([192, 0, 2, 1])),
        "30000000 1400 0106 00000000 00000000 02 20 00 00 03000000"
        "0800 0200 c0000201 0800 0100 c0000201 0500 0b00 70 000000",
    ),
    "delete IPv4": (
        rtnetlink.delete_address(3, bytes([192, 0, 2, 1])),
        "28000000 1500 0100 00000000 00000000 02 20 00 00 03000000 0800 0200 c0000201 0800 0100 c0000201",
    ),
    "add IPv6": (
        rtnetlink.add_address(3, bytes.fromhex("20010db8000000000000000000000001")),
        "64000000 1400 0106 00000000 00000000 0a 80 00 00 03000000"
        "1400 0200 20010db8000000000000000000000001 1400 0100 20010db8000000000000000000000001"
        "0500 0b00 70 000000 0800 0800 02020000 1400 0600 00000000 ffffffff 00000000 00000000",
    ),
    "macvlan": (
        rtnetlink.new_macvlan("carp-lan", 2, MAC),
        "60000000 1000 0106 00000000 00000000 00 00 0000 00000000 00000000 00000000"
        "0d00 0300 636172702d6c616e00 000000 0800 0500 02000000 0a00 0100 00005e000107 0000"
        "2000 1280 0c00 0100 6d6163766c616e00 1000 0280"[:-20]
        + "1c00 1280 0c00 0100 6d6163766c616e00 0c00 0280 0800 0100 04000000",
    ),
}
