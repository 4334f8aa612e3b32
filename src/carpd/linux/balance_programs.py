"""The two programs of a share gate (`balance`), and the value in memory that they share with the daemon.

In both R6 is the frame all the time, R7 the node when it is known, and R10 the end of the stack.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence

from carpd.linux.ebpf import Assembler, Comparison, Operation, Register, Width
from carpd.linux.packets import ADVERTISEMENT_MARK
from carpd.wire import carp, ethernet, ipv4, ipv6

NODE_LIMIT = 32
KEY_SIZE = 16
"""Of an address in the set of those of the virtual host, in bytes."""

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register
BYTE, HALF, WORD, DOUBLE = Width
EQUAL, AT_LEAST, DIFFERENT, BELOW = Comparison

# Functions of the kernel, BPF_FUNC_...
_MAP_LOOKUP_ELEM, _SKB_LOAD_BYTES, _SKB_CHANGE_TYPE, _KTIME_GET_BOOT_NS = 1, 26, 32, 125

# struct __sk_buff
_LENGTH, _MARK, _VLAN_PRESENT, _VLAN_TCI, _DATA, _DATA_END = 0, 8, 20, 24, 76, 80
_VLAN_ID = 0x0FFF

_PACKET_HOST = 0
_CONTINUE, _DROP = -1, 2
"""Verdicts: TCX_NEXT and TC_ACT_UNSPEC leave the frame to the next program; TCX_DROP and TC_ACT_SHOT."""

_ETHERTYPE = 12
_IP = ethernet.HEADER.size
_IP4_PAYLOAD, _IP6_PAYLOAD = _IP + ipv4.HEADER.size, _IP + ipv6.HEADER.size
_NO_OPTIONS, _VERSION_TYPE, _AUTHLEN = 0x45, 0x21, 7
_MULTICAST = 224  # the first byte of an IPv4 address that is no host's


# Where headers have what is looked at.
_FRAGMENT4, _PROTOCOL4, _SOURCE4, _DESTINATION4 = 6, 9, 12, 16
_NEXT_HEADER6, _SOURCE6, _DESTINATION6 = 6, 8, 24
_FRAGMENT_BITS = b"\x3f\xff"  # "more fragments", and the offset

_ICMP, _ICMP_HEADER = 1, 8
_ERRORS4 = (3, 11, 12)  # destination unreachable, time exceeded, parameter problem
_ERRORS6 = (1, 2, 3, 4)  # and packet too big
_MAPPED = bytes(10) + b"\xff\xff"

# Places on the stack: an IP header, a key, an ICMP message with the IP header in it. What is loaded there is aligned.
_HEADER_AT, _KEY_AT, _MESSAGE_AT = -40, -56, -104


class Shared(ctypes.Structure):
    """What programs and daemon share. A store of ctypes into a field is one store of the machine."""

    share: int
    lease_ns: ctypes.Array[ctypes.c_uint64]
    deadline_ns: ctypes.Array[ctypes.c_uint64]
    taken: ctypes.Array[ctypes.c_uint64]
    _fields_ = (
        ("share", ctypes.c_uint32),
        ("lease_ns", ctypes.c_uint64 * NODE_LIMIT),
        ("deadline_ns", ctypes.c_uint64 * NODE_LIMIT),
        ("taken", ctypes.c_uint64 * NODE_LIMIT),
    )


_SHARE, _LEASE_NS, _DEADLINE_NS, _TAKEN = (
    getattr(Shared, field).offset for field in ("share", "lease_ns", "deadline_ns", "taken")
)


def key_of(address: bytes) -> bytes:
    """An address of either family as that set has it: as one of IPv6. Ref: RFC 4291, 2.5.5.2."""
    return address if len(address) == KEY_SIZE else _MAPPED + address


def ingress(value: int, macs: Sequence[bytes], nodes: int, addresses: int) -> bytes:
    """Drops what is for the virtual host and not in our share.

    R6 is the frame, R7 the node, R8 the ethertype.
    """
    to = Assembler()
    to.move(R6, R1)
    to.load(WORD, R2, R6, _DATA)
    to.load(WORD, R3, R6, _DATA_END)
    to.move(R4, R2)
    to.alu(Operation.ADD, R4, _IP)
    to.jump_if(R3, BELOW, R4, "continue")  # never: the kernel refuses such frames, but the verifier does not know
    to.load(HALF, R8, R2, _ETHERTYPE)
    _find_mac(to, macs)

    to.label("ours")
    _leave_out_vlans(to)
    if len(macs) == 1:
        _find_node_by_hash(to, nodes, addresses)
    else:
        _check_length(to)

    to.label("judge")
    _point_to_value(to, value)
    to.load(WORD, R1, R8, _SHARE)
    to.alu(Operation.RIGHT, R1, R7)
    to.alu(Operation.AND, R1, 1)
    to.jump_if(R1, EQUAL, 0, "drop")
    to.call(_KTIME_GET_BOOT_NS)
    to.load(DOUBLE, R1, R9, _DEADLINE_NS)
    to.jump_if(R0, AT_LEAST, R1, "drop")
    to.move(R1, 1)
    to.atomic_add(R9, _TAKEN, R1)
    # Linux takes nothing for its own that came to a foreign MAC, and no TCP that came to a multicast one.
    to.move(R1, R6)
    to.move(R2, _PACKET_HOST)
    to.call(_SKB_CHANGE_TYPE)
    to.label("continue")
    to.move(R0, _CONTINUE)
    to.exit()
    to.label("drop")
    to.move(R0, _DROP)
    to.exit()
    return to.to_bytes()


def _find_mac(to: Assembler, macs: Sequence[bytes]) -> None:
    """Leave for "ours" with the position of the destination MAC in R7, or "continue". R2 is the frame's begin."""
    # Half words, because not every machine can load from odd multiples of them. Of the MACs of many nodes the first
    # four bytes are the same, so a foreign frame costs one comparison.
    for offset, register in zip((0, 2, 4), (R3, R4, R5), strict=True):
        to.load(HALF, register, R2, offset)
    to.alu(Operation.LEFT, R3, 16)
    to.alu(Operation.OR, R3, R4)
    split = [(_native(mac[0:2]) << 16 | _native(mac[2:4]), _native(mac[4:6])) for mac in macs]
    for head in dict.fromkeys(head for head, _ in split):
        to.jump_if(R3, DIFFERENT, head, f"not {head:#x}", wide=False)
        for node, (its_head, tail) in enumerate(split):
            if its_head == head:
                to.move(R7, node)
                to.jump_if(R5, EQUAL, tail, "ours")
        to.label(f"not {head:#x}")
    to.jump("continue")


def _native(data: bytes) -> int:
    """What the machine loads from there."""
    return int.from_bytes(data, sys.byteorder)


def _leave_out_vlans(to: Assembler) -> None:
    """Frames of VLANs only pass through. VLAN 0 is no VLAN but a priority. R6 is the frame."""
    to.load(WORD, R1, R6, _VLAN_PRESENT)
    to.jump_if(R1, EQUAL, 0, "untagged")
    to.load(WORD, R1, R6, _VLAN_TCI)
    to.alu(Operation.AND, R1, _VLAN_ID)
    to.jump_if(R1, DIFFERENT, 0, "continue")
    to.label("untagged")


def _find_node_by_hash(to: Assembler, nodes: int, addresses: int) -> None:
    """Put the node into R7; go to "drop" if there are no IP addresses, to "continue" if it is for no host.

    Source and destination are folded: an ICMP error to an address of the virtual host has those of the packet that it
    is about, so that it comes to the host which sent that; any other one is for somebody behind us. So do OpenBSD's
    ip_input_if and icmp_input; icmp6_input lets all hosts take such errors. R9 points to the addresses.

    Ref: spec carp §14.2; OpenBSD sys/netinet/ip_input.c, ip_icmp.c.
    """
    to.jump_if(R8, EQUAL, _ethertype(ethernet.ETHERTYPE_IPV4), "ipv4")
    to.jump_if(R8, DIFFERENT, _ethertype(ethernet.ETHERTYPE_IPV6), "drop")
    header = _HEADER_AT
    _load_bytes(to, _IP, ipv6.HEADER.size, "drop", at=header)
    _point_to_stack(to, R9, header + _SOURCE6)
    to.load(BYTE, R1, R10, header + _NEXT_HEADER6)
    to.jump_if(R1, DIFFERENT, ipv6.NEXT_HEADER_ICMPV6, "fold ipv6")
    _load_bytes(to, _IP6_PAYLOAD, _ICMP_HEADER + ipv6.HEADER.size, "fold ipv6", at=_MESSAGE_AT)
    _need_kind(to, _ERRORS6, "fold ipv6")
    for offset in (0, 8):
        to.load(DOUBLE, R1, R10, header + _DESTINATION6 + offset)
        to.store(DOUBLE, R10, _KEY_AT + offset, R1)
    _look_up(to, addresses, "fold ipv6")
    _point_to_stack(to, R9, _MESSAGE_AT + _ICMP_HEADER + _SOURCE6)
    to.label("fold ipv6")
    to.load(DOUBLE, R1, R9, 0)
    for offset in (8, 16, 24):
        to.load(DOUBLE, R2, R9, offset)
        to.alu(Operation.XOR, R1, R2)
    to.move(R2, R1)
    to.alu(Operation.RIGHT, R2, 32)
    to.jump("fold")

    to.label("ipv4")
    _load_bytes(to, _IP, ipv4.HEADER.size, "drop", at=header)
    # A multicast MAC is that of a multicast group, too: 01:00:5e:00:01:07 also of 224.0.1.7.
    to.load(BYTE, R1, R10, header + _DESTINATION4)
    to.jump_if(R1, AT_LEAST, _MULTICAST, "continue")
    _point_to_stack(to, R9, header + _SOURCE4)
    to.load(BYTE, R1, R10, header + _PROTOCOL4)
    to.jump_if(R1, DIFFERENT, _ICMP, "fold ipv4")
    # Fragments must come to one host, and only the first has a packet in it.
    to.load(HALF, R1, R10, header + _FRAGMENT4)
    to.alu(Operation.AND, R1, _native(_FRAGMENT_BITS))
    to.jump_if(R1, DIFFERENT, 0, "fold ipv4")
    to.load(BYTE, R7, R10, header)
    to.alu(Operation.AND, R7, 0x0F)
    to.alu(Operation.LEFT, R7, 2)
    to.alu(Operation.ADD, R7, _IP)
    _load_bytes(to, R7, _ICMP_HEADER + ipv4.HEADER.size, "fold ipv4", at=_MESSAGE_AT)
    _need_kind(to, _ERRORS4, "fold ipv4")
    to.move(R1, 0)
    to.store(DOUBLE, R10, _KEY_AT, R1)
    to.move(R1, _native(_MAPPED[8:]))
    to.store(WORD, R10, _KEY_AT + 8, R1)
    to.load(WORD, R1, R10, header + _DESTINATION4)
    to.store(WORD, R10, _KEY_AT + 12, R1)
    _look_up(to, addresses, "fold ipv4")
    _point_to_stack(to, R9, _MESSAGE_AT + _ICMP_HEADER + _SOURCE4)
    to.label("fold ipv4")
    to.load(WORD, R1, R9, 0)
    to.load(WORD, R2, R9, 4)
    to.label("fold")
    to.alu(Operation.XOR, R1, R2)
    to.big_endian(R1, 32)
    to.alu(Operation.MODULO, R1, nodes, wide=False)
    to.move(R7, R1)


def _need_kind(to: Assembler, kinds: Sequence[int], otherwise: str) -> None:
    """Leave for `otherwise` unless the ICMP message on the stack is one of these."""
    to.load(BYTE, R1, R10, _MESSAGE_AT)
    for kind in kinds:
        to.jump_if(R1, EQUAL, kind, f"one of {kinds}")
    to.jump(otherwise)
    to.label(f"one of {kinds}")


def _look_up(to: Assembler, addresses: int, missing: str) -> None:
    """Leave for `missing` unless the key on the stack is an address of the virtual host."""
    to.map(R1, addresses)
    _point_to_stack(to, R2, _KEY_AT)
    to.call(_MAP_LOOKUP_ELEM)
    to.jump_if(R0, EQUAL, 0, missing)


def _point_to_stack(to: Assembler, target: Register, at: int) -> None:
    to.move(target, R10)
    to.alu(Operation.ADD, target, at)


def _check_length(to: Assembler) -> None:
    """Go to "drop" if there is no whole IP header."""
    to.load(WORD, R1, R6, _LENGTH)
    to.jump_if(R8, EQUAL, _ethertype(ethernet.ETHERTYPE_IPV4), "ipv4")
    to.jump_if(R8, DIFFERENT, _ethertype(ethernet.ETHERTYPE_IPV6), "drop")
    to.jump_if(R1, BELOW, _IP6_PAYLOAD, "drop")
    to.jump("judge")
    to.label("ipv4")
    to.jump_if(R1, BELOW, _IP4_PAYLOAD, "drop")


def egress(value: int, vhids: Sequence[int]) -> bytes:
    """Renews a lease when an advertisement leaves: of the same kind as those that renew the lease gate (`lease`).

    Its mark tells it from what this host forwards, and from virtual machines on this host that speak CARP themselves.
    """
    to = Assembler()
    to.move(R6, R1)
    to.load(WORD, R1, R6, _MARK)
    to.jump_if(R1, DIFFERENT, ADVERTISEMENT_MARK, "continue", wide=False)
    _leave_out_vlans(to)
    # The shortest advertisement, over IPv4, is longer than all that is looked at over IPv6.
    size = _IP4_PAYLOAD + carp.SIZE
    frame = -(size + -size % 8)
    _load_bytes(to, 0, size, "continue", at=frame)

    def need(base: Register, offset: int, value: int) -> None:
        to.load(BYTE, R1, base, offset)
        to.jump_if(R1, DIFFERENT, value, "continue")

    to.move(R2, R10)
    to.load(HALF, R8, R10, frame + _ETHERTYPE)
    to.jump_if(R8, EQUAL, _ethertype(ethernet.ETHERTYPE_IPV4), "ipv4")
    to.jump_if(R8, DIFFERENT, _ethertype(ethernet.ETHERTYPE_IPV6), "continue")
    need(R10, frame + _IP + 6, carp.PROTOCOL)
    to.alu(Operation.ADD, R2, frame + _IP6_PAYLOAD)
    to.jump("carp")
    to.label("ipv4")
    need(R10, frame + _IP, _NO_OPTIONS)
    need(R10, frame + _IP + 9, carp.PROTOCOL)
    to.alu(Operation.ADD, R2, frame + _IP4_PAYLOAD)

    to.label("carp")
    need(R2, 0, _VERSION_TYPE)
    need(R2, 3, _AUTHLEN)
    to.load(BYTE, R1, R2, 5)
    to.jump_if(R1, EQUAL, carp.BOW_OUT, "continue")
    to.load(BYTE, R1, R2, 1)
    for node, vhid in enumerate(vhids):
        to.move(R7, node)
        to.jump_if(R1, EQUAL, vhid, "renew")
    to.jump("continue")

    to.label("renew")
    _point_to_value(to, value)
    to.call(_KTIME_GET_BOOT_NS)
    to.load(DOUBLE, R1, R9, _LEASE_NS)
    to.alu(Operation.ADD, R0, R1)
    to.store(DOUBLE, R9, _DEADLINE_NS, R0)
    to.label("continue")
    to.move(R0, _CONTINUE)
    to.exit()
    return to.to_bytes()


def _point_to_value(to: Assembler, value: int) -> None:
    """Point R8 to what is shared, and R9 to where its arrays, each by its offset, have the node of R7."""
    # A number that is another constant on each path may be added to an address by those with CAP_PERFMON alone. So the
    # verifier is made to forget what it is, and told how large.
    to.load(WORD, R1, R6, _MARK)
    to.alu(Operation.XOR, R7, R1)
    to.alu(Operation.XOR, R7, R1)
    to.alu(Operation.AND, R7, NODE_LIMIT - 1)
    to.map_value(R8, value)
    to.move(R1, R7)
    to.alu(Operation.LEFT, R1, 3)
    to.move(R9, R8)
    to.alu(Operation.ADD, R9, R1)


def _load_bytes(to: Assembler, offset: int | Register, size: int, missing: str, *, at: int) -> None:
    """Copy part of the frame R6 to the stack, or leave for `missing` if it is shorter.

    The frame's memory itself is not looked at: drivers may leave all but the Ethernet header in pages.
    """
    to.move(R1, R6)
    to.move(R2, offset)
    _point_to_stack(to, R3, at)
    to.move(R4, size)
    to.call(_SKB_LOAD_BYTES)
    to.jump_if(R0, DIFFERENT, 0, missing)


def _ethertype(number: int) -> int:
    """An ethertype as the machine loads it."""
    return _native(number.to_bytes(2, "big"))
