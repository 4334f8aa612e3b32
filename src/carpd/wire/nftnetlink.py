"""nftables' netlink, as far as the hot path needs it: tables, sets and their elements in the family `netdev`
unless another one is named.

Ref: Linux include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

import struct

from carpd.errors import DecodeError
from carpd.wire import netlink
from carpd.wire.netlink import Message

INET, NETDEV = 1, 5
"""Families: NFPROTO_..."""

GROUP_NFTABLES = 7
"""The multicast group that hears of every change."""

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_GET_TABLE, _DELETE_TABLE, _GET_SET, _GET_ELEMENT, _DELETE_ELEMENT = 1, 2, 10, 13, 14
_UNSPECIFIED = 0

_HEADER = struct.Struct("!BBH")  # family, version, resource: the subsystem in a batch's begin and end

_NFTA_TABLE_NAME = 1
_NFTA_SET_TABLE, _NFTA_SET_NAME = 1, 2
_NFTA_LIST_TABLE, _NFTA_LIST_SET, _NFTA_LIST_ELEMENTS = 1, 2, 3
_NFTA_LIST_ELEMENT = 1
_NFTA_ELEMENT_KEY = 1
_NFTA_DATA_VALUE = 1


def batch(message: Message) -> bytes:
    """A transaction of one message, which asks for an acknowledgement, with one sequence number in all its parts.

    Whatever goes wrong, with the message or with the batch, is answered under that number, once.
    """
    limit = _HEADER.pack(_UNSPECIFIED, 0, _SUBSYSTEM)
    parts = (
        Message(_BATCH_BEGIN, netlink.REQUEST, limit, message.sequence),
        message._replace(flags=message.flags | netlink.ACK),
        Message(_BATCH_END, netlink.REQUEST, limit, message.sequence),
    )
    return b"".join(part.to_bytes() for part in parts)


def flush_set(table: str, set_name: str) -> Message:
    """Delete all elements of a set: goes into a `batch`.

    An empty set is as good as a full one. To name an element that has expired meanwhile would abort the transaction,
    and that takes the kernel 16 ms.
    """
    return _request(_DELETE_ELEMENT, _element_list(table, set_name))


def delete_table(table: str, family: int = NETDEV) -> Message:
    """Delete a table and all that is in it: goes into a `batch`."""
    return _request(_DELETE_TABLE, netlink.text(_NFTA_TABLE_NAME, table), family=family)


def dump_tables(family: int = NETDEV) -> Message:
    """Ask for every table; `table_name` reads the answers."""
    return _request(_GET_TABLE, b"", netlink.DUMP, family)


def dump_sets(table: str) -> Message:
    """Ask for the sets and maps of a table; `set_name` reads the answers."""
    return _request(_GET_SET, netlink.text(_NFTA_SET_TABLE, table), netlink.DUMP)


def dump_elements(table: str, set_name: str) -> Message:
    """Ask for the elements of a set; `element_keys` reads the answers."""
    return _request(_GET_ELEMENT, _element_list(table, set_name), netlink.DUMP)


def is_table_deletion(message: Message) -> bool:
    """Whether this tells the members of GROUP_NFTABLES that a table was deleted, by whomever."""
    return message.kind == _SUBSYSTEM << 8 | _DELETE_TABLE


def table_name(message: Message) -> str:
    """The name in an answer to `dump_tables`. Raise DecodeError if there is none."""
    return netlink.text_value(_required(message.body, _HEADER.size, _NFTA_TABLE_NAME))


def set_name(message: Message) -> str:
    """The name in an answer to `dump_sets`. Raise DecodeError if there is none."""
    return netlink.text_value(_required(message.body, _HEADER.size, _NFTA_SET_NAME))


def element_keys(message: Message) -> list[bytes]:
    """The keys in an answer to `dump_elements`, as many as it has. Raise DecodeError if it is malformed."""
    elements = netlink.attributes(message.body, _HEADER.size).get(_NFTA_LIST_ELEMENTS, b"")
    return [
        _required(_required(element, 0, _NFTA_ELEMENT_KEY), 0, _NFTA_DATA_VALUE)
        for kind, element in netlink.each_attribute(elements)
        if kind == _NFTA_LIST_ELEMENT
    ]


def _request(kind: int, body: bytes, flags: int = 0, family: int = NETDEV) -> Message:
    return Message(_SUBSYSTEM << 8 | kind, netlink.REQUEST | flags, _HEADER.pack(family, 0, 0) + body)


def _element_list(table: str, set_name: str) -> bytes:
    return netlink.text(_NFTA_LIST_TABLE, table) + netlink.text(_NFTA_LIST_SET, set_name)


def _required(data: bytes, offset: int, kind: int) -> bytes:
    try:
        return netlink.attributes(data, offset)[kind]
    except KeyError:
        raise DecodeError(f"nftables: attribute {kind} is missing") from None
