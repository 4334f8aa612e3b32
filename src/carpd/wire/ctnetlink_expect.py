"""Messages about connections that helpers expect: bytes <-> values.

Ref: Linux include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c,
ctnetlink_create_expect() and ctnetlink_alloc_expect().
"""

from __future__ import annotations

from collections.abc import Mapping

from carpd.wire import ctnetlink_attributes as cta
from carpd.wire import netlink
from carpd.wire.conntrack import Expectation, FlowTuple
from carpd.wire.netlink import Message, nested

GROUP_NEW = 4
"""The multicast group that hears of new expectations."""

_MASTER, _TUPLE, _MASK, _TIMEOUT, _ID, _HELP_NAME = 1, 2, 3, 4, 5, 6
_ZONE, _FLAGS, _CLASS, _NAT, _FN = 7, 8, 9, 10, 11
_NAT_DIR, _NAT_TUPLE = 1, 2


def insert(expectation: Expectation, zone: int = 0) -> Message:
    """Expect a connection; refused with ENOENT without its master, EOPNOTSUPP if the master has no helper.

    The kernel gives it the helper's own timeout.
    """
    attributes = [
        cta.flow_tuple(_MASTER, expectation.master),
        cta.flow_tuple(_TUPLE, expectation.tuple),
        cta.flow_tuple(_MASK, expectation.mask),
        cta.number(_TIMEOUT, expectation.timeout),
        cta.number(_FLAGS, expectation.flags),
        cta.number(_CLASS, expectation.kind),
        cta.zone(_ZONE, zone),
    ]
    # The name is that of the master's helper, but whoever is inserted with it gets that helper. SIP's signalling wants
    # it; in FTP's data whatever looks like a PORT command would open the firewall. A kind is refused without it.
    if expectation.helper.startswith("sip") or expectation.kind:
        attributes.append(netlink.text(_HELP_NAME, expectation.helper))
    if expectation.function:
        attributes.append(netlink.text(_FN, expectation.function))
    if expectation.nat:
        direction = cta.number(_NAT_DIR, expectation.nat_direction)
        attributes.append(nested(_NAT, direction, cta.flow_tuple(_NAT_TUPLE, expectation.nat)))
    flags = netlink.REQUEST | netlink.CREATE | netlink.EXCLUSIVE
    kind = cta.kind_of(cta.NEW, cta.EXPECTATION)
    return cta.request(kind, flags, cta.family_of(expectation.tuple.source), *attributes)


def dump() -> Message:
    """Ask for all expectations; `read` reads the answers."""
    return cta.request(cta.kind_of(cta.GET, cta.EXPECTATION), netlink.REQUEST | netlink.DUMP, cta.UNSPECIFIED)


def read(message: Message) -> Expectation:
    """One expectation, of a dump or an event. Raise DecodeError."""
    values = netlink.attributes(message.body, cta.FAMILY.size)
    nat = netlink.attributes(values.get(_NAT, b""))

    def number(kind: int, among: Mapping[int, bytes] = values) -> int:
        return int.from_bytes(among.get(kind, b""), "big")

    def flow_tuple(kind: int, among: Mapping[int, bytes] = values) -> FlowTuple:
        data = among.get(kind, b"")
        return cta.read_flow_tuple(cta.read_values(data, 0, len(data), (cta.TUPLE_ORIG,)))

    return Expectation(
        tuple=flow_tuple(_TUPLE),
        mask=flow_tuple(_MASK),
        master=flow_tuple(_MASTER),
        timeout=number(_TIMEOUT),
        flags=number(_FLAGS),
        kind=number(_CLASS),
        helper=netlink.text_value(values.get(_HELP_NAME, b"")),
        function=netlink.text_value(values.get(_FN, b"")),
        nat=flow_tuple(_NAT_TUPLE, nat) if _NAT_TUPLE in nat else None,
        nat_direction=number(_NAT_DIR, nat),
        id=number(_ID),
    )
