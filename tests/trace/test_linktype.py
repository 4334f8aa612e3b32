from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.trace.linktype import NetworkPacket, UnsupportedLinkTypeError, find_packet
from carpd.trace.pcap import ETHERNET, LINUX_COOKED, LINUX_COOKED2, RAW_IP, CapturedFrame

SOURCE, DESTINATION = bytes.fromhex("00005e000107"), bytes.fromhex("01005e000012")
MACS = "01005e000012 00005e000107"

FOUND = {
    "ethernet": (ETHERNET, f"{MACS} 0800", NetworkPacket(0x0800, 14, SOURCE, DESTINATION)),
    "VLAN": (ETHERNET, f"{MACS} 8100 0064 0800", NetworkPacket(0x0800, 18, SOURCE, DESTINATION)),
    "two VLAN tags": (ETHERNET, f"{MACS} 88a8 0064 8100 0065 86dd", NetworkPacket(0x86DD, 22, SOURCE, DESTINATION)),
    "cooked": (LINUX_COOKED, "0002 0001 0006 00005e0001070000 0800", NetworkPacket(0x0800, 16, SOURCE)),
    "cooked, no address": (LINUX_COOKED, "0000 0304 0000 0000000000000000 86dd", NetworkPacket(0x86DD, 16)),
    "cooked, VLAN": (LINUX_COOKED, "0002 0001 0006 00005e0001070000 8100 0064 0800", NetworkPacket(0x0800, 20, SOURCE)),
    "cooked 2": (LINUX_COOKED2, "0800 0000 00000003 0001 02 06 00005e0001070000", NetworkPacket(0x0800, 20, SOURCE)),
    "raw IPv4": (RAW_IP, "45", NetworkPacket(0x0800, 0)),
    "raw IPv6": (RAW_IP, "60", NetworkPacket(0x86DD, 0)),
    "raw, something else": (RAW_IP, "00", NetworkPacket(0, 0)),
}


@pytest.mark.parametrize(("linktype", "text", "expected"), FOUND.values(), ids=FOUND)
def test_found(linktype: int, text: str, expected: NetworkPacket) -> None:
    data = bytes.fromhex(text)
    assert find_packet(CapturedFrame(0, linktype, data, len(data))) == expected
    assert find_packet(CapturedFrame(0, linktype, data[:-1], len(data))) is None


@given(st.sampled_from([ETHERNET, LINUX_COOKED, LINUX_COOKED2, RAW_IP]), st.binary(max_size=40))
def test_any_bytes(linktype: int, data: bytes) -> None:
    packet = find_packet(CapturedFrame(0, linktype, data, len(data)))
    assert packet is None or packet.offset <= len(data)


def test_unsupported() -> None:
    with pytest.raises(UnsupportedLinkTypeError, match="link type 127 is not supported"):
        find_packet(CapturedFrame(0, 127, bytes(60), 60))
