"""Two stateful firewalls between a client and a server; one of them has the gateways' addresses.

The second lets nothing new pass: what passes belongs to a connection that somebody told it of.
"""

from __future__ import annotations

from carpd.lab.firewalls import LAN_GATEWAYS, WAN_GATEWAYS, Firewall, FirewallNetwork
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab
from carpd.linux.conntrack import ConntrackTable
from carpd.linux.netlink import Refusal
from carpd.wire import conntrack
from carpd.wire.conntrack import ConntrackEntry, Expectation, flow_key
from carpd.wire.ctnetlink import SYNCHRONISED_FLAGS

_RULES = """
flush ruleset
table inet filter {{
    ct helper ftp {{ type "ftp" protocol tcp; l3proto ip; }}
    chain early {{ type filter hook prerouting priority -400; {early}
    }}
    chain raw {{ type filter hook prerouting priority -300; {raw}
    }}
    chain dstnat {{ type nat hook prerouting priority dstnat; {dstnat}
    }}
    chain srcnat {{ type nat hook postrouting priority srcnat; {srcnat}
    }}
    chain forward {{
        type filter hook forward priority 0; policy drop;
        ip6 nexthdr icmpv6 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        ct state invalid drop
        ct state established,related accept
        {new}
    }}
}}
"""
_CARRIED_OVER = SYNCHRONISED_FLAGS & ~conntrack.LIBERAL
_LOCAL_STATUS = conntrack.SOURCE_NAT_DONE | conntrack.DESTINATION_NAT_DONE | conntrack.HELPER | conntrack.FIXED_TIMEOUT


class FirewallPair(FirewallNetwork):
    """The laboratory's network with firewalls that are strict about TCP and tell of every change."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        for firewall in self.firewalls:
            self.rules(firewall)
            firewall.node.sysctl(
                netfilter__nf_conntrack_tcp_loose=0,
                netfilter__nf_conntrack_tcp_be_liberal=0,
                netfilter__nf_conntrack_events=1,
            )
        self._active: Firewall | None = None

    def rules(
        self, firewall: Firewall, *, new: str = "", early: str = "", raw: str = "", dstnat: str = "", srcnat: str = ""
    ) -> None:
        """Give a firewall these rules and no others; `new` is for what belongs to no connection yet."""
        text = _RULES.format(new=new, early=early, raw=raw, dstnat=dstnat, srcnat=srcnat)
        firewall.node.run(("nft", "-f", "-"), stdin=text)

    def same_rules(self, *, new: str = "accept", early: str = "", **rules: str) -> None:
        """The same for both, except that the second lets nothing new pass."""
        self.rules(self.a, new=new, early=early, **rules)
        self.rules(self.b, new=f"{new.removesuffix('accept')} drop" if "label" in new else "", **rules)

    def activate(self, firewall: Firewall) -> None:
        """Move the gateways' addresses here."""
        old = self._active
        if old:
            _addresses(old.node, "del")
        _addresses(firewall.node, "add")
        for host in (self.client, self.server):
            host.ip("neigh flush dev eth0")
        self._active = firewall

    def entries(self, firewall: Firewall, protocol: int | None = None) -> list[ConntrackEntry]:
        """The connections that a firewall knows, of one protocol."""
        with firewall.node.inside(), ConntrackTable() as table:
            found = [entry for piece in table.dump() for entry in piece]
        # IPv6 hosts look for their neighbours in multicast, and nobody answers for the firewall.
        return [e for e in found if protocol is None or e.protocol == protocol]

    def insert(self, firewall: Firewall, entries: list[ConntrackEntry]) -> list[Refusal]:
        with firewall.node.inside(), ConntrackTable() as table:
            return table.insert(entries)

    def expectations(self, firewall: Firewall) -> list[Expectation]:
        with firewall.node.inside(), ConntrackTable() as table:
            return table.expectations()

    def clear(self) -> None:
        """No firewall knows any connection, or lets one pass."""
        for firewall in self.firewalls:
            self.rules(firewall)
            with firewall.node.inside(), ConntrackTable() as table:
                table.delete([flow_key(entry) for piece in table.dump() for entry in piece])


def _addresses(node: Node, command: str) -> None:
    node.ip(
        f"address {command} {LAN_GATEWAYS[0]}/32 dev eth1",
        f"address {command} {LAN_GATEWAYS[1]}/128 dev eth1" + (" nodad" if command == "add" else ""),
        f"address {command} {WAN_GATEWAYS[0]}/32 dev eth2",
        f"address {command} {WAN_GATEWAYS[1]}/128 dev eth2" + (" nodad" if command == "add" else ""),
    )


def comparable(entry: ConntrackEntry) -> ConntrackEntry:
    """An entry without what another kernel does not know or count in its own way.

    Its number, the seconds it has left, bits that say how this kernel came to it, and TCP flags that go with sequence
    numbers. Inserted GRE has a fixed timeout, and the kernel is liberal about inserted TCP.
    """
    return entry._replace(
        id=0,
        timeout=None,
        status=entry.status & ~_LOCAL_STATUS,
        original_flags=entry.original_flags & _CARRIED_OVER,
        reply_flags=entry.reply_flags & _CARRIED_OVER,
    )
