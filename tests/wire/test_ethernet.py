from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire import carp
from carpd.wire.ethernet import EthernetFrame, format_mac, multicast_mac4, multicast_mac6, parse_mac

macs = st.binary(min_size=6, max_size=6)


@given(st.builds(EthernetFrame, macs, macs, st.integers(0, 0xFFFF), st.binary(max_size=60)))
def test_round_trip(frame: EthernetFrame) -> None:
    assert EthernetFrame.from_bytes(frame.to_bytes()) == frame


@pytest.mark.parametrize("size", range(14))
def test_short_frame(size: int) -> None:
    with pytest.raises(DecodeError, match=f"need 14 bytes, got {size}"):
        EthernetFrame.from_bytes(bytes(size))


@given(macs)
def test_mac_text_round_trip(mac: bytes) -> None:
    assert parse_mac(format_mac(mac)) == mac
    assert parse_mac(format_mac(mac).upper()) == mac


@pytest.mark.parametrize(
    "text", ["", "00:00:5e:00:01", "00:00:5e:00:01:07:08", "0:0:5e:0:1:7", "00-00-5e-00-01-07", "00:00:5e:00:01:0g"]
)
def test_no_mac(text: str) -> None:
    with pytest.raises(ValueError, match="link-layer address"):
        parse_mac(text)


def test_multicast_macs() -> None:
    assert format_mac(multicast_mac4(carp.GROUP4)) == "01:00:5e:00:00:12"
    assert format_mac(multicast_mac4(bytes((239, 255, 1, 2)))) == "01:00:5e:7f:01:02"
    assert format_mac(multicast_mac6(carp.GROUP6)) == "33:33:00:00:00:12"
