"""Classic BPF programs that sort packets inside the kernel, before they are copied to us.

Ref: Linux Documentation/networking/filter.rst; include/uapi/linux/filter.h (SKF_AD_... for the offsets of metadata).
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from carpd.wire import carp, ethernet, sharing_probe
from carpd.wire.ipv4 import HEADER as IPV4_HEADER
from carpd.wire.ipv6 import HEADER as IPV6_HEADER
from carpd.wire.ipv6 import NEXT_HEADER_ICMPV6

_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _AND, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x28, 0x30, 0x54, 0x15, 0x35, 0x06
_JUMP = 0x05
_PACKET_TYPE, _VLAN_TAG = 0xFFFFF004, 0xFFFFF02C
_OTHER_HOST = 3  # PACKET_OTHERHOST, a foreign destination MAC; the next and last one is PACKET_OUTGOING
_PASS, _DROP = 0xFFFF, 0
_NETLINK_PORT = 12
_ARP_REQUEST = 1
_NEIGHBOR_SOLICITATION = 135

_IP = ethernet.HEADER.size
_IPV4_HEADER, _IPV6_HEADER = IPV4_HEADER.size, IPV6_HEADER.size
_SO_ATTACH_FILTER = 26


class Instruction(NamedTuple):
    """One instruction; a comparison skips as many of the following ones as it says."""

    opcode: int
    skip_if_true: int
    skip_if_false: int
    operand: int


ADVERTISEMENTS = (
    Instruction(_LOAD_WORD, 0, 0, _PACKET_TYPE),
    Instruction(_IF_AT_LEAST, 11, 0, _OTHER_HOST),
    Instruction(_LOAD_WORD, 0, 0, _VLAN_TAG),
    Instruction(_AND, 0, 0, 0x0FFF),  # a tag with VLAN 0 is only a priority: the frame is this interface's own
    Instruction(_IF_EQUAL, 0, 8, 0),
    Instruction(_LOAD_HALF, 0, 0, 12),
    Instruction(_IF_EQUAL, 0, 2, ethernet.ETHERTYPE_IPV4),
    Instruction(_LOAD_BYTE, 0, 0, _IP + 9),
    Instruction(_IF_EQUAL, 3, 4, carp.PROTOCOL),
    Instruction(_IF_EQUAL, 0, 3, ethernet.ETHERTYPE_IPV6),
    Instruction(_LOAD_BYTE, 0, 0, _IP + 6),
    Instruction(_IF_EQUAL, 0, 1, carp.PROTOCOL),
    Instruction(_RETURN, 0, 0, _PASS),
    Instruction(_RETURN, 0, 0, _DROP),
)
"""On a packet socket: what came to this host, in no VLAN, with IP protocol or next header 112."""

NOTHING = (Instruction(_RETURN, 0, 0, _DROP),)


def solicitations(addresses4: Sequence[bytes], addresses6: Sequence[bytes]) -> tuple[Instruction, ...]:
    """On a packet socket: who asks, in no VLAN, where one of these addresses is, whichever MAC it asks; sharing probes.

    Probes in IP packets are told from what clients send by their TTL, with which nothing has come from afar.

    A test skips 255 instructions at the most: each address is a small block of its own, whole parts are jumped over.
    """
    ip = (_matches(_IP + 24, address) for address in addresses4)  # an ARP packet's target
    arp = (
        Instruction(_LOAD_HALF, 0, 0, _IP + 6),
        Instruction(_IF_EQUAL, 1, 0, _ARP_REQUEST),
        Instruction(_RETURN, 0, 0, _DROP),
        *chain.from_iterable(ip),
        Instruction(_RETURN, 0, 0, _DROP),
    )
    targets = (_matches(_IP + _IPV6_HEADER + 8, address) for address in addresses6)
    neighbors = (
        Instruction(_LOAD_BYTE, 0, 0, _IP + 6),
        Instruction(_IF_EQUAL, 0, 2, NEXT_HEADER_ICMPV6),
        Instruction(_LOAD_BYTE, 0, 0, _IP + _IPV6_HEADER),
        Instruction(_IF_EQUAL, 1, 0, _NEIGHBOR_SOLICITATION),
        Instruction(_RETURN, 0, 0, _DROP),
        *chain.from_iterable(targets),
        Instruction(_RETURN, 0, 0, _DROP),
    )
    probe4 = _probe_in(_IP + 8, sharing_probe.TTL << 8 | sharing_probe.UDP, _IP + _IPV4_HEADER)
    probe6 = _probe_in(_IP + 6, sharing_probe.UDP << 8 | sharing_probe.TTL, _IP + _IPV6_HEADER)
    return (
        Instruction(_LOAD_WORD, 0, 0, _VLAN_TAG),
        Instruction(_AND, 0, 0, 0x0FFF),
        Instruction(_IF_EQUAL, 1, 0, 0),
        Instruction(_RETURN, 0, 0, _DROP),
        Instruction(_LOAD_HALF, 0, 0, 12),
        Instruction(_IF_EQUAL, 0, 1, sharing_probe.ETHERTYPE),
        Instruction(_RETURN, 0, 0, _PASS),
        Instruction(_IF_EQUAL, 1, 0, ethernet.ETHERTYPE_ARP),
        Instruction(_JUMP, 0, 0, len(arp)),
        *arp,
        Instruction(_IF_EQUAL, 0, len(probe4) + 1, ethernet.ETHERTYPE_IPV4),
        *probe4,
        Instruction(_RETURN, 0, 0, _DROP),
        Instruction(_IF_EQUAL, 1, 0, ethernet.ETHERTYPE_IPV6),
        Instruction(_RETURN, 0, 0, _DROP),
        *probe6,
        *neighbors,
    )


def _probe_in(offset: int, limit_and_protocol: int, payload: int) -> tuple[Instruction, ...]:
    """Pass a sharing probe in an IP packet, which has hop limit and protocol, one beside the other, at an offset."""
    return (
        Instruction(_LOAD_HALF, 0, 0, offset),
        Instruction(_IF_EQUAL, 0, 3, limit_and_protocol),
        Instruction(_LOAD_HALF, 0, 0, payload + 2),
        Instruction(_IF_EQUAL, 0, 1, sharing_probe.PORT),
        Instruction(_RETURN, 0, 0, _PASS),
    )


def _matches(offset: int, address: bytes) -> tuple[Instruction, ...]:
    """Pass what has the address there; go on behind this with what has not."""
    words = struct.unpack(f"!{len(address) // 4}I", address)
    block: list[Instruction] = []
    for number, word in enumerate(words):
        left = 2 * (len(words) - number - 1)
        block += Instruction(_LOAD_WORD, 0, 0, offset + 4 * number), Instruction(_IF_EQUAL, 0, left + 1, word)
    return (*block, Instruction(_RETURN, 0, 0, _PASS))


def messages_not_of(port: int) -> tuple[Instruction, ...]:
    """On a netlink socket: the messages that do not bear this port, which they have in the machine's byte order."""
    return (
        Instruction(_LOAD_WORD, 0, 0, _NETLINK_PORT),
        Instruction(_IF_EQUAL, 0, 1, socket.htonl(port)),
        Instruction(_RETURN, 0, 0, _DROP),
        Instruction(_RETURN, 0, 0, _PASS),
    )


def attach(receiver: socket.socket, program: tuple[Instruction, ...]) -> None:
    """Let only what the program passes into a socket's queue. Raise OSError."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    receiver.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer))
    )
