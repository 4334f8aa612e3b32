"""A state in words, as `pfctl -ss -vv` has them, and as a JSON object. Ref: spec pfsync §5.2."""

from __future__ import annotations

import enum
from ipaddress import ip_address

from carpd.wire.pfsync.numbers import IN, INET, OUT, TcpState, Timeout, TrafficState
from carpd.wire.pfsync.state import Key, Peer, StateRecord

_ICMP, _TCP, _ICMPV6 = 1, 6, 58
_PROTOCOLS = {
    _ICMP: "icmp",
    _TCP: "tcp",
    17: "udp",
    33: "dccp",
    47: "gre",
    50: "esp",
    51: "ah",
    _ICMPV6: "ipv6-icmp",
    132: "sctp",
}
_DIRECTIONS = {IN: "in", OUT: "out"}


def state_text(state: StateRecord) -> str:
    """One line. The responder of a connection that came in, or the opener of one that went out, stands left."""
    if state.direction == OUT:
        near, far, arrow, left, right = state.stack, state.wire, "->", state.src, state.dst
    else:
        near, far, arrow, left, right = state.wire, state.stack, "<-", state.dst, state.src
    ends = f"{_end(far, near, 1)} {arrow} {_end(far, near, 0)}"
    return (
        f"{_word(state.interface)} {_protocol(state)} {ends}  {_phase(state, left)}:{_phase(state, right)}  "
        f"age {_clock(state.creation)}, expires in {_clock(state.expire)}, "
        f"{state.packets0}:{state.packets1} pkts, {state.bytes0}:{state.bytes1} bytes, "
        f"id {state.identity[:8].hex()} creatorid {state.identity[8:].hex()}"
    )


def state_fields(state: StateRecord) -> dict[str, object]:
    """What an object tells of a state."""
    return {
        "id": state.identity[:8].hex(),
        "creator_id": state.identity[8:].hex(),
        "interface": state.interface,
        "protocol": _protocol(state),
        "direction": _DIRECTIONS.get(state.direction, str(state.direction)),
        "wire": _ends(state.wire),
        "stack": _ends(state.stack),
        "src": {**state.src._asdict(), "state": _phase(state, state.src)},
        "dst": {**state.dst._asdict(), "state": _phase(state, state.dst)},
        "timeout": _name(Timeout, state.timeout),
        "age": state.creation,
        "expires": state.expire,
        "packets": [state.packets0, state.packets1],
        "bytes": [state.bytes0, state.bytes1],
        "flags": state.flags,
        "rule": state.pf.rule,
    }


def _protocol(state: StateRecord) -> str:
    return _PROTOCOLS.get(state.protocol, str(state.protocol))


def _end(far: Key, near: Key, slot: int) -> str:
    """One end as the far side knows it, and in parentheses how the near side does if that differs."""
    text, translated = _host(far, slot), _host(near, slot)
    return text if text == translated else f"{text} ({translated})"


def _host(key: Key, slot: int) -> str:
    address, port = _ends(key)[slot]
    if not port:
        return address
    return f"{address}:{port}" if key.family == INET else f"{address}[{port}]"


def _ends(key: Key) -> list[tuple[str, int]]:
    return [(str(ip_address(key.address0)), key.port0), (str(ip_address(key.address1)), key.port1)]


def _phase(state: StateRecord, peer: Peer) -> str:
    """How far an end is; ICMP has no words for it."""
    if state.protocol in (_ICMP, _ICMPV6):
        return str(peer.state)
    return _name(TcpState if state.protocol == _TCP else TrafficState, peer.state)


def _name(numbers: type[enum.IntEnum], number: int) -> str:
    """The name of a number, or itself if it has none."""
    try:
        return numbers(number).name
    except ValueError:
        return str(number)


def _word(name: str) -> str:
    """A name from the network, which may hold anything, quoted unless it is an ordinary one."""
    return name if name and name.isascii() and name.isprintable() else ascii(name)


def _clock(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
