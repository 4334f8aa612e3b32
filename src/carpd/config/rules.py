"""What values must not be together: in one virtual host, between those of a node, and between nodes.

Those of pfsync are in `pfsync_rules`.

A rule says nothing about a value that was refused by itself: one mistake is one line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from carpd.config.problems import KeyPath, Problems, Severity, dotted
from carpd.config.settings import Settings
from carpd.units import SECOND, interval_ns

OwnAddresses = Mapping[str, Collection[IPv4Address | IPv6Address]]
"""The addresses of this host by interface, without zones and without those that carpd has put there."""

SettingsByNode = Mapping[str, Sequence[Settings]]
"""The virtual hosts as each node would use them, by the node's name as it is to be printed."""

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
        ("addresses",),
        lambda host: not host["addresses"],
        "a virtual host has at least one address",
    ),
    Rule(
        Severity.ERROR,
        ("advskew", "advbase"),
        lambda host: host["advbase"] == 0 and host["advskew"] == 0,
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
                if key.required and settings.get(key.name) is None:
                    path = (*settings.path, key.name)
                    lacking.setdefault(path, []).append(node)
                    meanings[path] = key.meaning
    for path, nodes in lacking.items():
        where = "" if len(nodes) == len(tables_by_node) else f" on {_listed(nodes)}"
        problems.error(path, f"is missing{where}: it is {meanings[path]}")


def check_vhids(hosts: Iterable[Settings], problems: Problems) -> None:
    """On one interface each virtual host has its own vhid, and with it its own link-layer address."""
    seen: dict[tuple[str, int], Settings] = {}
    for host in hosts:
        if host.usable("interface", "vhid"):
            first = seen.setdefault((host["interface"], host["vhid"]), host)
            if first is not host:
                message = f"{dotted(first.path)} has vhid {host['vhid']} on {host['interface']} too: give each its own"
                path, value = host.place("vhid", "interface")
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


def check_preference(hosts_by_node: SettingsByNode, problems: Problems) -> None:
    """Nodes of one virtual host differ in advskew: else chance decides who of them is master. Ref: spec carp §19.5."""
    alike: dict[tuple[str, int, int], list[tuple[str, Settings]]] = {}
    for node, hosts in hosts_by_node.items():
        for host in hosts:
            if host.usable("advbase", "advskew"):
                alike.setdefault((host.name, host["advbase"], host["advskew"]), []).append((node, host))
    for (_, _, advskew), group in alike.items():
        if len(group) > 1:
            _, last = group[-1]
            path, value = last.place("advskew", "advbase")
            nodes = _listed([node for node, _ in group])
            message = f"{nodes} have one advskew, {advskew}: give each its own, the preferred one the smallest"
            problems.add(Severity.WARNING, path, message, value)


def check_patience(hosts_by_node: SettingsByNode, problems: Problems) -> None:
    """A node that does not wait for another's next advertisement can't be its backup."""
    by_name: dict[str, list[tuple[str, Settings]]] = {}
    for node, hosts in hosts_by_node.items():
        for host in hosts:
            if host.usable("advbase", "advskew", "master_down"):
                by_name.setdefault(host.name, []).append((node, host))
    for nodes in by_name.values():
        for slow, host in nodes:
            interval = interval_ns(host["advbase"], host["advskew"])
            hasty = [node for node, other in nodes if master_down_ns(other) <= interval]
            if hasty:
                path, value = host.place("advskew", "advbase")
                message = (
                    f"{slow} would advertise every {interval / SECOND:.3f} s, for which {_listed(hasty)} "
                    "will not wait: give the nodes about the same advbase, and with advbase 0 about the same advskew"
                )
                problems.add(Severity.WARNING, path, message, value)


def master_down_ns(host: Settings) -> int:
    """How long a node with these settings waits for an advertisement, in nanoseconds."""
    waits: int = host["master_down"].master_down_ns(host["advbase"], host["advskew"])
    return waits


def _families(addresses: Iterable[IPv4Address | IPv6Address]) -> set[int]:
    return {address.version for address in addresses}


def _link_local6(address: IPv4Address | IPv6Address) -> bool:
    return address.version == 6 and address.is_link_local


def _listed(nodes: Sequence[str]) -> str:
    return " and ".join([", ".join(nodes[:-1]), nodes[-1]] if len(nodes) > 1 else nodes)
