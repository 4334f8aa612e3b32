"""What values of [pfsync] must not be together, nor with those of the virtual hosts."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from carpd.config.model import Transport, Version
from carpd.config.problems import Problems, Severity, dotted
from carpd.config.rules import OwnAddresses, Rule, own_interface
from carpd.config.settings import Settings

PFSYNC_RULES = (
    Rule(
        Severity.ERROR,
        ("version", "transport", "secret_file", "secret"),
        lambda pfsync: pfsync["version"] is not Version.LINUX and pfsync["transport"] is Transport.SEALED,
        'the BSDs have no sealed transport: set transport = "plain", without a secret, on a link for this alone',
    ),
    Rule(
        Severity.ERROR,
        ("transport", "secret_file", "secret", "version"),
        lambda pfsync: (
            pfsync["version"] is Version.LINUX
            and pfsync["transport"] is Transport.SEALED
            and pfsync["secret_file"] is None
            and pfsync["secret"] is None
        ),
        'there is no secret: set secret_file = "/etc/carpd/pfsync.key" for the sealed transport, or transport = '
        '"plain", with which whoever is on the link can open the firewall',
    ),
    Rule(
        Severity.ERROR,
        ("transport", "secret_file", "secret"),
        lambda pfsync: (
            pfsync["transport"] is Transport.PLAIN
            and (pfsync["secret_file"] is not None or pfsync["secret"] is not None)
        ),
        "the plain transport has no use for a secret: keep one of the two, the secret to be safe on any link",
    ),
    Rule(
        Severity.ERROR,
        ("secret", "secret_file"),
        lambda pfsync: pfsync["secret"] is not None and pfsync["secret_file"] is not None,
        "there is also a secret_file: keep one of the two",
    ),
    Rule(
        Severity.WARNING,
        ("port", "transport"),
        lambda pfsync: pfsync["transport"] is Transport.PLAIN and pfsync.get("port") is not None,
        "the plain transport is an IP protocol of its own (240) and has no ports: remove it",
    ),
    Rule(
        Severity.ERROR,
        ("syncpeer",),
        lambda pfsync: len({address.version for address in pfsync["syncpeer"]}) > 1,
        "has addresses of both families: name each node once, all by IPv4 or all by IPv6",
    ),
    Rule(
        Severity.ERROR,
        ("syncpeer",),
        lambda pfsync: len(set(pfsync["syncpeer"])) < len(pfsync["syncpeer"]),
        "a node is listed twice: name each once",
    ),
    Rule(
        Severity.ERROR,
        ("syncpeer", "version"),
        lambda pfsync: pfsync["version"].ipv4_only and any(address.version == 6 for address in pfsync["syncpeer"]),
        "OpenBSD, and FreeBSD before 14 (1301), have pfsync over IPv4 alone: name the nodes by IPv4",
    ),
    Rule(
        Severity.ERROR,
        ("defer", "syncdev"),
        lambda pfsync: pfsync["syncdev"] in pfsync["defer"],
        "the syncdev is one of them, which carries the states that would be waited for: list the interfaces that "
        "connections leave by",
    ),
    Rule(
        Severity.ERROR,
        ("defer",),
        lambda pfsync: len(set(pfsync["defer"])) < len(pfsync["defer"]),
        "an interface is listed twice: name each once",
    ),
)


def check_link(pfsync: Settings, hosts: Iterable[Settings], problems: Problems) -> None:
    """Between the nodes is a link that nobody else is on, and addresses that each has of its own."""
    shared = {address.ip for host in hosts for address in host["addresses"]}
    if pfsync.usable("syncpeer") and not shared.isdisjoint(pfsync["syncpeer"]):
        path, value = pfsync.place("syncpeer")
        problems.error(path, "one is a shared address of a virtual host: list addresses that the nodes have", value)
    if not pfsync.usable("syncdev", "transport"):
        return
    for host in hosts:
        if host.usable("interface") and host["interface"] == pfsync["syncdev"]:
            path, value = pfsync.place("syncdev")
            danger = (
                "whoever is on it can open the firewall"
                if pfsync["transport"] is Transport.PLAIN
                else "its traffic and pfsync's are in each other's way"
            )
            message = f"{dotted(host.path)} is on this link too, and {danger}: use a link for pfsync alone"
            problems.add(Severity.WARNING, path, message, value)
            return


def other_nodes(pfsync: Settings, own: OwnAddresses, problems: Problems) -> tuple[IPv4Address | IPv6Address, ...]:
    """The syncpeers without this host: empty for multicast."""
    named: tuple[IPv4Address | IPv6Address, ...] = pfsync["syncpeer"]
    others = tuple(address for address in named if own_interface(address, pfsync["syncdev"], own) is None)
    if named and not others:
        path, value = pfsync.place("syncpeer")
        problems.error(path, "names this host alone: list the other nodes, or leave it out for multicast", value)
    return others
