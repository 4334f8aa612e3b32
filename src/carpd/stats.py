"""Counters with the names of BSD's `netstat -s -p carp`.

Ref: spec carp §6.1; `vrrp` and `loops` are ours: BSD counts the first as badver or badlen, and the second as
badauth or nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CarpCounters:
    """What was received, refused and sent, in packets. One instance an interface, and one a virtual host."""

    ipackets: int = 0
    ipackets6: int = 0
    badif: int = 0
    badttl: int = 0
    hdrops: int = 0
    badsum: int = 0
    badver: int = 0
    badlen: int = 0
    badauth: int = 0
    badvhid: int = 0
    badaddrs: int = 0
    vrrp: int = 0
    loops: int = 0
    opackets: int = 0
    opackets6: int = 0
    onomem: int = 0
    oerrors: int = 0
    preempt: int = 0


SENT = ("opackets", "opackets6", "onomem", "oerrors", "preempt")
"""The counters of what a virtual host does itself; the others count what it, or an interface, is sent."""
