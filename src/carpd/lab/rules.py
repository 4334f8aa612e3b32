"""Stateful packet filters, as strict as Linux can be: what the state table does not know does not pass.

From the LAN anything may be begun; from the WAN only connections to one service of the client: by IPv4 to a port of the
shared address, which is forwarded, by IPv6 to the service itself. IPv4 leaves with the shared address as its source.
Both firewalls have the same rules, and none that depend on who is master.
"""

from __future__ import annotations

from carpd.lab.firewalls import CLIENT, WAN_GATEWAYS
from carpd.lab.nodes import Node

FORWARDED_PORT = 443
"""Of the shared WAN address: TCP that comes here is forwarded to the service."""

SERVICE_PORT = 8443
"""Of the client, where it offers its service."""

_RULES = f"""
define lan = {{ "eth1", "carp-lan" }}  # frames to the virtual MAC address come in by the second
define wan = {{ "eth2", "carp-wan" }}
define sync = "eth3"

table inet firewall {{
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state invalid counter drop
        ct state established,related accept
        meta l4proto {{ icmp, icmpv6 }} accept
        iif lo accept
        iifname $sync udp dport 5240 accept comment "pfsync, sealed"
        iifname $sync meta l4proto 240 accept comment "pfsync, plain"
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state invalid counter drop
        ct state established,related accept
        iifname $lan oifname $wan accept
        iifname $wan ct status dnat accept
        iifname $wan ip6 daddr {CLIENT[1]} tcp dport {SERVICE_PORT} accept
    }}
    chain destination {{
        type nat hook prerouting priority dstnat;
        iifname $wan ip daddr {WAN_GATEWAYS[0]} tcp dport {FORWARDED_PORT} dnat ip to {CLIENT[0]}:{SERVICE_PORT}
    }}
    chain source {{
        type nat hook postrouting priority srcnat;
        oifname $wan ip saddr 192.0.2.0/24 snat ip to {WAN_GATEWAYS[0]}
    }}
}}
"""


def be_stateful(node: Node) -> None:
    """Give a firewall these rules.

    Its kernel does not pick up TCP connections that it did not see begin, believes no packet outside of their windows,
    and tells of every change in its state table.
    """
    node.run(("nft", "-f", "-"), stdin=_RULES)
    node.sysctl(  # there is nothing to be set before a rule asks for states
        netfilter__nf_conntrack_tcp_loose=0,
        netfilter__nf_conntrack_tcp_be_liberal=0,
        netfilter__nf_conntrack_events=1,
    )
