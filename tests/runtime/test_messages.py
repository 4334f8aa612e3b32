"""What one process writes the other reads back; everything else is refused, never obeyed."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.carp.status import HeardMaster, HostStatus, InterfaceStatus
from carpd.config.model import Balancing, BalancingMode, MacMode, VirtualHostConfig
from carpd.effects import DemotionChanged, PeerLeftBehind, Reason, SharingChanged, StateChanged
from carpd.errors import DecodeError
from carpd.events import CarpState, Configure, ForceState, HostPrepared, SetDemotion, Shutdown
from carpd.linux.balance import GatePrograms
from carpd.runtime.lateness import Lateness
from carpd.runtime.messages import CODEC, LogLine, StatusReport, StatusWanted
from carpd.stats import CarpCounters
from carpd.wire.carp import Advertisement

HOST = VirtualHostConfig(
    name="lan",
    interface="eth1",
    vhid=7,
    addresses=(ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64")),
    key=b"\x00secret\xff",
    mac=MacMode.REAL,
    peers=(ip_address("192.0.2.3"), ip_address("2001:db8::3")),
    balancing=Balancing(virtual_host="lan", mode=BalancingMode.IP_STEALTH, vhids=(7, 8)),
)
STATUS = HostStatus(
    host="lan",
    state=CarpState.BACKUP,
    since_ns=1 << 62,
    reason=Reason.READY,
    waits_for="",
    serves=False,
    advskew=100,
    demotion=1,
    demotion_reasons={"link of eth2 is down": 1},
    heard=HeardMaster(b"\xc0\x00\x02\x02", Advertisement(vhid=7, counter=(1 << 64) - 1), 5),
    counters=CarpCounters(ipackets=3),
    findings=("something is wrong",),
    taken=7,
)
LATENESS = Lateness((1, 2, *(0,) * 11), 5_000_000)
MESSAGES: dict[str, Any] = {
    "configure": Configure((HOST,), seed=(1 << 64) - 1),
    "prepared": HostPrepared("lan"),
    "force": ForceState("lan", CarpState.MASTER),
    "demotion": SetDemotion("edge", "operator", 10),
    "shutdown": Shutdown(),
    "wanted": StatusWanted(1, ("lan",), ("eth1",)),
    "state": StateChanged("lan", CarpState.INIT, CarpState.BACKUP, Reason.READY),
    "demoted": DemotionChanged("edge", 0, 1, "link of eth2 is down"),
    "sharing": SharingChanged("lan", "something is wrong", present=True),
    "left behind": PeerLeftBehind("lan", b"\xc0\x00\x02\x03"),
    "report": StatusReport(
        1,
        (STATUS,),
        (InterfaceStatus("eth1", True, CarpCounters(badttl=2)),),
        LATENESS,
        (GatePrograms("lan", 2, 7, 9),),
    ),
    "nothing heard": StatusReport(2, (), ()),
    "log": LogLine(30, 'a "quoted"\nline'),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
def test_round_trip(message: object) -> None:
    line = CODEC.encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert CODEC.decode(line) == message


REFUSED = {
    "empty": b"",
    "no JSON": b"{",
    "no object": b"[1]",
    "no type": b"{}",
    "unknown type": b'{"type": "TakeAddresses", "host": "lan"}',
    "a field too many": b'{"type": "HostPrepared", "host": "lan", "user": "x"}',
    "a field too few": b'{"type": "HostPrepared"}',
    "wrong kind": b'{"type": "HostPrepared", "host": 1}',
    "unknown member": b'{"type": "ForceState", "host": "lan", "state": "KING"}',
    "a boolean for a number": b'{"type": "LogLine", "level": true, "text": ""}',
}


@pytest.mark.parametrize("line", REFUSED.values(), ids=REFUSED.keys())
def test_refused(line: bytes) -> None:
    with pytest.raises(DecodeError):
        CODEC.decode(line)


@given(st.sampled_from([*MESSAGES.values()]), st.data())
def test_damaged_lines_never_raise_anything_else(message: object, data: st.DataObject) -> None:
    line = bytearray(CODEC.encode(message))
    line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DecodeError):
        CODEC.decode(bytes(line))
