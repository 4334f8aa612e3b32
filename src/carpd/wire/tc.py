"""Traffic control by routing netlink, as far as eBPF filters on clsact need it.

Ref: Linux include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h; tc-bpf(8).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

from carpd.errors import DecodeError
from carpd.wire import netlink
from carpd.wire.netlink import Message

NEWQDISC, GETQDISC = 36, 38
NEWTFILTER, DELTFILTER, GETTFILTER = 44, 45, 46

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
"""Where a filter sits: TC_H_CLSACT with TC_H_MIN_INGRESS or TC_H_MIN_EGRESS."""

_CLSACT, _BPF = "clsact", "bpf"
_CLSACT_PARENT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_TC = struct.Struct("=BxxxiIII")  # family, interface index, handle, parent, info
_U32 = struct.Struct("=I")
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION = 1  # TCA_BPF_FLAG_ACT_DIRECT: what the program returns is the verdict

_ETH_P_ALL = 0x0003
# A number that nobody takes by hand: all filters of one priority must be of one kind. Handles tell ours apart.
_PRIORITY = 112
# The protocol is in network byte order, and the priority in the high half of the same number, which is in ours.
_INFO = _PRIORITY << 16 | struct.unpack("=H", struct.pack("!H", _ETH_P_ALL))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class QdiscMessage:
    """What the kernel says of one queueing discipline."""

    index: int
    kind: str

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Read NEWQDISC. Raise DecodeError if it is malformed."""
        _, index, _, _, _ = _header(message)
        return cls(index=index, kind=_kind(message))

    @property
    def is_clsact(self) -> bool:
        """It can have filters at INGRESS and EGRESS."""
        return self.kind == _CLSACT


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterMessage:
    """What the kernel says of one filter; `info` holds priority and protocol.

    `name` and `program` are the name and the id of an eBPF program, "" and 0 without any.
    """

    index: int
    parent: int
    handle: int
    info: int
    kind: str
    name: str
    program: int

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Read NEWTFILTER. Raise DecodeError if it is malformed."""
        _, index, handle, parent, info = _header(message)
        kind, name, program = _kind(message), b"", b""
        if kind == _BPF:
            options = netlink.attributes(netlink.attributes(message.body, _TC.size).get(_TCA_OPTIONS, b""))
            name, program = options.get(_TCA_BPF_NAME, b""), options.get(_TCA_BPF_ID, b"")
        return cls(
            index=index,
            parent=parent,
            handle=handle,
            info=info,
            kind=kind,
            name=netlink.text_value(name),
            program=_U32.unpack(program)[0] if len(program) == _U32.size else 0,
        )


def add_clsact(index: int) -> Message:
    """Give an interface a place for filters; refused with EEXIST if it has one."""
    body = _TC.pack(0, index, _CLSACT_HANDLE, _CLSACT_PARENT, 0) + netlink.text(_TCA_KIND, _CLSACT)
    return Message(NEWQDISC, netlink.REQUEST | netlink.CREATE | netlink.EXCLUSIVE, body)


def set_filter(index: int, parent: int, handle: int, name: str, program: int) -> Message:
    """Let an eBPF program, by its descriptor, judge what comes by; it replaces the one with the same handle."""
    options = netlink.nested(
        _TCA_OPTIONS,
        netlink.attribute(_TCA_BPF_FD, _U32.pack(program)),
        netlink.text(_TCA_BPF_NAME, name),
        netlink.attribute(_TCA_BPF_FLAGS, _U32.pack(_DIRECT_ACTION)),
    )
    body = _TC.pack(0, index, handle, parent, _INFO) + netlink.text(_TCA_KIND, _BPF) + options
    return Message(NEWTFILTER, netlink.REQUEST | netlink.CREATE, body)


def delete_filter(index: int, parent: int, handle: int, info: int = _INFO) -> Message:
    """Remove an eBPF filter."""
    body = _TC.pack(0, index, handle, parent, info) + netlink.text(_TCA_KIND, _BPF)
    return Message(DELTFILTER, netlink.REQUEST, body)


def dump_qdiscs() -> Message:
    """Ask for the queueing disciplines of every interface."""
    return Message(GETQDISC, netlink.REQUEST | netlink.DUMP, _TC.pack(0, 0, 0, 0, 0))


def dump_filters(index: int, parent: int) -> Message:
    """Ask for the filters at one place of an interface."""
    return Message(GETTFILTER, netlink.REQUEST | netlink.DUMP, _TC.pack(0, index, 0, parent, 0))


def _header(message: Message) -> tuple[int, int, int, int, int]:
    if len(message.body) < _TC.size:
        raise DecodeError(f"tc: need {_TC.size} bytes, got {len(message.body)}")
    family, index, handle, parent, info = _TC.unpack_from(message.body)
    return family, index, handle, parent, info


def _kind(message: Message) -> str:
    return netlink.text_value(netlink.attributes(message.body, _TC.size).get(_TCA_KIND, b""))
