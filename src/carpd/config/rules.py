"""What values must not be together: in one virtual host, between those of a node, and between nodes.

Those of pfsync are in `pfsync_rules`.

A rule says nothing about a value that was refused by itself: one mistake is one line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from carpd.config.model import DEVICE_PREFIX, MacMode
from carpd.config.problems import KeyPath, Problems, Severity, dotted
from carpd.config.settings import Settings
from carpd.config.values import NODES_FORM, Node
from carpd.units import SECOND, interval_ns

OwnAddresses = Mapping[str, Collection[IPv4Address | IPv6Address]]
"""The addresses of this host by interface, without zones and without those that carpd has put there."""

SettingsByNode = Mapping[str, Sequence[Settings]]
"""The virtual hosts as each node would use them, by the node's name as it is to be printed."""

_LOOPBACK = "lo"

BOW_OUT_ADVBASE = 86
"""From here on three intervals are longer than a bow-out's 255/255, and a backup ignores it. Ref: spec carp §11.3."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that a virtual host, or pfsync, must not be."""

    severity: Severity
    keys: tuple[str, ...]
    """What it looks at. It is reported at the first of them that is set."""
    broken: Callable[[Settings], bool]
    message: str


HOST_RULES = (
    Rule(
        Severity.ERROR,
        ("interface",),
        lambda host: host["interface"] == _LOOPBACK,
        "no other host is on the loopback interface: name that of the link that the hosts share",
    ),
    Rule(
        Severity.ERROR,
        ("interface",),
        lambda host: host["interface"].startswith(DEVICE_PREFIX),
        f"interfaces called {DEVICE_PREFIX}NAME are carpd's own devices: name the one that they are to be on",
    ),
    Rule(
        Severity.ERROR,
        ("addresses",),
        lambda host: not host["addresses"],
        "a virtual host has at least one address",
    ),
    Rule(
        Severity.ERROR,
        ("nodes", "advskew", "advbase"),
        lambda host: host["advbase"] == 0 and any(node.advskew == 0 for node in nodes_of(host)),
        "with advbase 0 and advskew 0 there is no time between advertisements: set advskew to 1 or more",
    ),
    Rule(
        Severity.ERROR,
        ("demotion", "advbase"),
        lambda host: host["advbase"] == 0 and host["demotion"].in_advskew,
        "with advbase 0 a demoted node would advertise (every 240/256 s) more rarely than its peers wait "
        '(3 advskew/256 s): use demotion = "counter", or advbase 1 or more',
    ),
    Rule(
        Severity.ERROR,
        ("vhid", "nodes"),
        lambda host: host["vhid"] is not None and host["nodes"] is not None,
        "nodes has the vhids: remove vhid, or nodes if no load is to be shared",
    ),
    Rule(
        Severity.ERROR,
        ("advskew", "nodes"),
        lambda host: host.get("advskew") is not None and host["nodes"] is not None,
        "nodes has an advskew for each vhid: remove advskew, or nodes if no load is to be shared",
    ),
    Rule(
        Severity.ERROR,
        ("balancing", "nodes"),
        lambda host: host["balancing"] is not None and host["nodes"] is None,
        f"there are no nodes that would share: set nodes = {NODES_FORM} instead of vhid and advskew, or remove it",
    ),
    Rule(
        Severity.ERROR,
        ("mac", "nodes"),
        lambda host: host["mac"] is MacMode.REAL and host["nodes"] is not None,
        'nodes share by virtual MACs: remove mac = "real", or nodes if no load is to be shared',
    ),
    Rule(
        Severity.ERROR,
        ("addresses", "nodes"),
        lambda host: host.get("nodes") is not None and any(_link_local6(address.ip) for address in host["addresses"]),
        "nodes can't share a link-local address: theirs are on the loopback interface, where Linux finds none of "
        "another link; list global ones",
    ),
    Rule(
        Severity.WARNING,
        ("preempt",),
        lambda host: not host["preempt"] and host.get("nodes") is not None,
        "with nodes, but without preempt, a host that returns does not get its share back: set preempt = true",
    ),
    Rule(
        Severity.ERROR,
        ("multicast", "peers"),
        lambda host: not host["multicast"] and not host["peers"],
        "nobody would hear an advertisement: list the other nodes in peers, or leave multicast on",
    ),
    Rule(
        Severity.ERROR,
        ("peers", "multicast", "addresses"),
        lambda host: (
            not host["multicast"] and host["peers"] and bool(_families(host["addresses"]) - _families(host["peers"]))
        ),
        "without multicast each family of the addresses needs a peer: a backup that misses one family becomes master",
    ),
    Rule(
        Severity.ERROR,
        ("peers", "addresses"),
        lambda host: bool(_families(host["peers"]) - _families(host["addresses"])),
        "a peer is of a family of which the virtual host has no address: nothing would be sent to it",
    ),
    Rule(
        Severity.ERROR,
        ("peers",),
        lambda host: len(set(host["peers"])) < len(host["peers"]),
        "a peer is listed twice: name each once",
    ),
    Rule(
        Severity.ERROR,
        ("peers", "addresses"),
        lambda host: not {address.ip for address in host["addresses"]}.isdisjoint(host["peers"]),
        "a peer is one of the shared addresses: list addresses that the nodes have of their own",
    ),
    Rule(
        Severity.ERROR,
        ("password", "password_file"),
        lambda host: host["password"] is not None and host["password_file"] is not None,
        "there is also a password_file: keep one of the two",
    ),
    Rule(
        Severity.WARNING,
        ("password", "password_file"),
        lambda host: host["password"] is None and host["password_file"] is None,
        "no password: anybody on the link can take the addresses; set password_file",
    ),
    Rule(
        Severity.WARNING,
        ("advbase",),
        lambda host: host["advbase"] >= BOW_OUT_ADVBASE,
        f"with {BOW_OUT_ADVBASE} or more the others don't believe a master that leaves, and wait until it times out",
    ),
    Rule(
        Severity.WARNING,
        ("addresses", "digest_link_local"),
        lambda host: (
            host.get("digest_link_local") is None and any(_link_local6(address.ip) for address in host["addresses"])
        ),
        "has a link-local address: FreeBSD and NetBSD peers want digest_link_local = true, others false; set it",
    ),
)


def nodes_of(host: Settings) -> tuple[Node, ...]:
    """The vhids of a virtual host, ascending, each with the host's advskew: one, or with load sharing several.

    Empty if they are refused; but a single vhid that is missing or refused is 0, as its advskew may still be wrong.
    """
    if host.get("nodes") is not None:
        return host["nodes"] or ()
    return (Node(host["vhid"] or 0, host["advskew"]),) if host.usable("advskew") else ()


def check_rules(settings: Settings, rules: Iterable[Rule], problems: Problems) -> None:
    """The rules within one table."""
    for rule in rules:
        if settings.usable(*rule.keys) and rule.broken(settings):
            path, value = settings.place(*rule.keys)
            problems.add(rule.severity, path, rule.message, value)


def check_required(tables_by_node: SettingsByNode, problems: Problems) -> None:
    """Every node has the keys that have no default. Nodes are named where others do have the key."""
    lacking: dict[KeyPath, list[str]] = {}
    meanings: dict[KeyPath, str] = {}
    for node, tables in tables_by_node.items():
        for settings in tables:
            for key in settings.keys.values():
                if settings.requires(key.name) and settings.get(key.name) is None:
                    path = (*settings.path, key.name)
                    lacking.setdefault(path, []).append(node)
                    meanings[path] = key.meaning
    for path, nodes in lacking.items():
        where = "" if len(nodes) == len(tables_by_node) else f" on {_listed(nodes)}"
        problems.error(path, f"is missing{where}: it is {meanings[path]}")


def check_vhids(hosts: Iterable[Settings], problems: Problems) -> None:
    """On one interface each virtual host has its own vhids, and with each its own link-layer address."""
    seen: dict[tuple[str, int], Settings] = {}
    for host in hosts:
        for vhid, _ in nodes_of(host) if host.usable("interface") else ():
            first = seen.setdefault((host["interface"], vhid), host)
            if vhid and first is not host:
                message = f"{dotted(first.path)} has vhid {vhid} on {host['interface']} too: give each its own"
                path, value = host.place("nodes", "vhid", "interface")
                problems.error(path, message, value)


def check_addresses(hosts: Iterable[Settings], problems: Problems) -> None:
    """A node has each address once. Link-local ones are told apart by their interface."""
    seen: dict[tuple[str, IPv4Address | IPv6Address], Settings] = {}
    for host in hosts:
        for address in host["addresses"]:
            scope = host["interface"] if address.ip.is_link_local else ""
            first = seen.get((scope, address.ip))
            seen[scope, address.ip] = host
            if first is not None:
                where = "" if first is host else f" in {dotted(first.path)}"
                path, _ = host.place("addresses")
                problems.error(
                    path, f"is already listed{where}: an address is in one virtual host, once", str(address.ip)
                )


def check_groups(hosts: Iterable[Settings], problems: Problems) -> None:
    """One amount of demotion must mean the same for all that share it: 1 moves a counter, and no advskew by much."""
    first: dict[str, Settings] = {}
    for host in hosts:
        if host.usable("group", "demotion"):
            other = first.setdefault(host["group"], host)
            if other["demotion"] is not host["demotion"]:
                path, value = host.place("demotion", "group")
                others = other["demotion"].value
                message = f'{dotted(other.path)}, of the same group, has demotion = "{others}": use one'
                problems.error(path, message, value)


def check_own_addresses(hosts: Iterable[Settings], own: OwnAddresses, problems: Problems) -> None:
    """A shared address belongs to no host: when another is master it would have two owners."""
    for host in hosts:
        for address in host["addresses"]:
            if interface := own_interface(address.ip, host["interface"], own):
                path, _ = host.place("addresses")
                message = f"is this host's own address, on {interface}: share one that belongs to no host"
                problems.error(path, message, str(address.ip))


def own_interface(address: IPv4Address | IPv6Address, link: str | None, own: OwnAddresses) -> str | None:
    """The interface on which this host has an address that is met on `link`; None if it does not have it."""
    for interface, addresses in own.items():
        if address in addresses and (not address.is_link_local or interface == link):
            return interface
    return None


class _Candidate(NamedTuple):
    """A host that may become master of a vhid."""

    node: str
    """Its name, as it is to be printed."""
    settings: Settings
    advskew: int

    @property
    def interval_ns(self) -> int:
        return interval_ns(self.settings["advbase"], self.advskew)


def _elections(hosts_by_node: SettingsByNode, *keys: str) -> dict[tuple[str, int], list[_Candidate]]:
    """The candidates by virtual host and vhid, where these keys are usable."""
    elections: dict[tuple[str, int], list[_Candidate]] = {}
    for node, hosts in hosts_by_node.items():
        for host in hosts:
            for vhid, advskew in nodes_of(host) if host.usable(*keys) else ():
                elections.setdefault((host.name, vhid), []).append(_Candidate(node, host, advskew))
    return elections


def check_nodes(hosts_by_node: SettingsByNode, problems: Problems) -> None:
    """All hosts that share a virtual host know it by the same vhids. Ref: spec carp §14.1."""
    lists: dict[str, dict[frozenset[int], list[tuple[str, Settings]]]] = {}  # by virtual host
    for node, hosts in hosts_by_node.items():
        for host in hosts:
            if host["nodes"]:
                vhids = frozenset(vhid for vhid, _ in host["nodes"])
                lists.setdefault(host.name, {}).setdefault(vhids, []).append((node, host))
    for by_vhids in lists.values():
        known = frozenset[int]().union(*by_vhids)
        for vhids, group in by_vhids.items():
            if missing := sorted(known - vhids):
                path, value = group[-1][1].place("nodes")
                message = (
                    f"vhid {_listed([*map(str, missing)])} missing on {_listed([node for node, _ in group])}: "
                    "list the same vhids on every host, each with the advskew of that host"
                )
                problems.error(path, message, value)


def check_preference(hosts_by_node: SettingsByNode, problems: Problems) -> None:
    """Nodes of one virtual host differ in advskew: else chance decides who of them is master. Ref: spec carp §19.5."""
    for (_, vhid), candidates in _elections(hosts_by_node, "advbase").items():
        alike: dict[tuple[int, int], list[_Candidate]] = {}
        for candidate in candidates:
            alike.setdefault((candidate.settings["advbase"], candidate.advskew), []).append(candidate)
        for (_, advskew), group in alike.items():
            if len(group) > 1:
                last = group[-1].settings
                path, value = last.place("nodes", "advskew", "advbase")
                nodes = _listed([candidate.node for candidate in group])
                of_vhid = f" for vhid {vhid}" if last["nodes"] else ""
                message = (
                    f"{nodes} have one advskew{of_vhid}, {advskew}: give each its own, the preferred one the smallest"
                )
                problems.add(Severity.WARNING, path, message, value)


def check_shares(hosts_by_node: SettingsByNode, possible: SettingsByNode, problems: Problems) -> None:
    """No host is preferred for all vhids of a virtual host that is shared: the others would have nothing to do.

    `possible` are hosts of which the file does not tell whether they exist.
    """
    shared: dict[str, dict[int, list[_Candidate]]] = {}  # by virtual host and vhid
    for (name, vhid), candidates in _elections({**possible, **hosts_by_node}, "advbase").items():
        if candidates[0].settings["nodes"]:
            shared.setdefault(name, {})[vhid] = sorted(candidates, key=lambda candidate: candidate.interval_ns)
    for elections in shared.values():
        preferred = {_preferred(ranked) for ranked in elections.values()}
        vhid, (best, *others) = elections.popitem()
        if preferred == {best.node} and others and best.node in hosts_by_node:
            path, value = best.settings.place("nodes", "advbase")
            message = (
                f"{best.node} is preferred for every vhid and leaves nothing to the others while it lives: with one "
                f"advbase, give each host the smallest advskew for a vhid, such as {others[0].node} for vhid {vhid}"
            )
            problems.add(Severity.WARNING, path, message, value)


def _preferred(ranked: Sequence[_Candidate]) -> str | None:
    """Which of them is master while all live; None if chance decides."""
    first = ranked[0]
    return None if any(other.interval_ns == first.interval_ns for other in ranked[1:]) else first.node


def check_patience(hosts_by_node: SettingsByNode, problems: Problems) -> None:
    """A node that does not wait for another's next advertisement can't be its backup."""
    for (_, vhid), candidates in _elections(hosts_by_node, "advbase", "master_down").items():
        for slow in candidates:
            interval = slow.interval_ns
            hasty = [other.node for other in candidates if master_down_ns(other.settings, other.advskew) <= interval]
            if hasty:
                path, value = slow.settings.place("nodes", "advskew", "advbase")
                of_vhid = f" for vhid {vhid}" if slow.settings["nodes"] else ""
                message = (
                    f"{slow.node} would advertise{of_vhid} every {interval / SECOND:.3f} s, for which {_listed(hasty)} "
                    "will not wait: give the nodes about the same advbase, and with advbase 0 about the same advskew"
                )
                problems.add(Severity.WARNING, path, message, value)


def master_down_ns(host: Settings, advskew: int) -> int:
    """How long a node with these settings waits for an advertisement, in nanoseconds."""
    waits: int = host["master_down"].master_down_ns(host["advbase"], advskew)
    return waits


def _families(addresses: Iterable[IPv4Address | IPv6Address]) -> set[int]:
    return {address.version for address in addresses}


def _link_local6(address: IPv4Address | IPv6Address) -> bool:
    return address.version == 6 and address.is_link_local


def _listed(nodes: Sequence[str]) -> str:
    return " and ".join([", ".join(nodes[:-1]), nodes[-1]] if len(nodes) > 1 else nodes)
