"""Makes interfaces ready for virtual hosts, keeps them so, and puts everything back at the end.

The order is what makes it safe: the gate of an interface stands, closed, before the first macvlan on it is up, and goes
after the last one. A change has two parts, and the election process changes between them: `widen` makes gates serve
what is and what will be; `change` takes away what nobody needs any more, and `prepare` makes what is new. Ref: design
§6.1, §7; architecture.md, "Changing the configuration".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from carpd.config.model import Address, MacMode, VirtualHostConfig
from carpd.errors import SystemCallError
from carpd.linux import interfaces, lease
from carpd.linux.addresses import AddressTable
from carpd.linux.interfaces import JOURNAL
from carpd.linux.lease import Guard, LeaseKeeper
from carpd.linux.links import Link, delete_links, links, own_addresses
from carpd.linux.links import addresses as all_addresses
from carpd.linux.sysctls import SysctlJournal
from carpd.wire.carp import virtual_mac


def own_addresses_by_interface() -> Mapping[str, Sequence[IPv4Address | IPv6Address]]:
    """The host's own addresses, without what carpd has put there. Raise SystemCallError."""
    names = {link.index: link.name for link in links()}
    found: dict[str, list[IPv4Address | IPv6Address]] = {name: [] for name in names.values()}
    for own in own_addresses():
        if own.index in names:
            found[names[own.index]].append(ip_address(own.address))
    return found


class Preparation:
    """The devices and gates of these virtual hosts, as far as their interfaces exist."""

    def __init__(self, hosts: Iterable[VirtualHostConfig], state_dir: Path) -> None:
        self._state_dir = state_dir
        self._hosts = {host.name: host for host in hosts}
        self._coming: dict[str, VirtualHostConfig] | None = None
        """During a change: how those will be that stay in their places."""
        self._journal: SysctlJournal | None = None
        self._parents: dict[str, Link] = {}
        self._gates: dict[str, list[Guard]] = {}
        """What the gates of interfaces know, as far as it was said here."""
        self._devices: dict[str, int] = {}
        """Virtual hosts that are prepared, and the interface index of the device of each."""

    @property
    def prepared(self) -> Sequence[str]:
        """The virtual hosts that may take part; during a change those alone that will go on."""
        return [name for name in self._devices if self._coming is None or name in self._coming]

    def nodes_of(self, virtual_hosts: Collection[str]) -> Sequence[str]:
        """Those of the prepared that are nodes of these virtual hosts."""
        return [name for name in self.prepared if self._hosts[name].virtual_host in virtual_hosts]

    @property
    def interfaces(self) -> Sequence[str]:
        """Those that the virtual hosts are on."""
        return list(self._by_interface())

    def _by_interface(self) -> dict[str, list[VirtualHostConfig]]:
        found: dict[str, list[VirtualHostConfig]] = {}
        for host in self._hosts.values():
            found.setdefault(host.interface, []).append(host)
        return found

    def mac(self, interface: str) -> bytes | None:
        """The link-layer address of an interface, as far as it is there."""
        parent = self._parents.get(interface)
        return parent.mac if parent else None

    def clean_left_behind(self) -> list[str]:
        """Undo what a killed daemon has done; return what that was, a line each. Raise SystemCallError."""
        done = interfaces.clean_left_behind(self._state_dir)
        self._journal = SysctlJournal(self._state_dir / JOURNAL)
        return done

    def missing_gates(self) -> list[str]:
        """The interfaces that had a gate and have none now. Raise SystemCallError."""
        return sorted(self._parents.keys() - set(lease.installed()))

    def prepare(self) -> tuple[list[str], list[str]]:
        """Prepare what can be and is not yet, or not any more: (virtual hosts that are ready now, what was refused)."""
        ready: list[str] = []
        refused: list[str] = []
        try:
            present = {link.name: link for link in links()}
            gates = set(lease.installed())
        except SystemCallError as error:
            return [], [str(error)]
        for interface, hosts in self._by_interface().items():
            parent = present.get(interface)
            before = self._parents.get(interface)
            if parent is None or before is None or before.index != parent.index:
                self._forget(hosts)
                self._parents.pop(interface, None)
            if parent is None:
                continue
            try:
                new_gate = interface not in gates or interface not in self._parents
                if new_gate:
                    self._gates.pop(interface, None)
                self._install_gate(interface)
                self._parents[interface] = parent
                for host in hosts:
                    device = present.get(host.device)
                    new_device = device is None or device.index != self._devices.get(host.name)
                    disabled = host.device != interface and device is not None and not device.enabled
                    if new_device or disabled:
                        self._devices[host.name] = self._device(host, parent)
                    if new_device or disabled or new_gate:
                        ready.append(host.name)
            except SystemCallError as error:
                refused.append(str(error))
        return ready, refused

    def _device(self, host: VirtualHostConfig, parent: Link) -> int:
        assert self._journal is not None, "clean_left_behind comes first"
        if host.balancing:
            return interfaces.prepare_sharing(host.device, parent, self._journal)
        if host.mac is MacMode.REAL:
            return parent.index
        return interfaces.prepare(host.device, parent, virtual_mac(host.vhid), self._journal)

    def _forget(self, hosts: Iterable[VirtualHostConfig]) -> None:
        for host in hosts:
            self._devices.pop(host.name, None)

    def _install_gate(self, interface: str) -> None:
        """Make the gate of an interface what the virtual hosts need now; leases go on. Raise SystemCallError."""
        coming = self._coming or {}
        guards = _guards(host for host in (*self._hosts.values(), *coming.values()) if host.interface == interface)
        if self._gates.get(interface) != guards:
            lease.install(interface, guards)
            self._gates[interface] = guards

    # Changes

    def widen(self, hosts: Iterable[VirtualHostConfig]) -> None:
        """Let the gates serve the virtual hosts that stay in their places as they are and as they will be.

        Addresses that come are silent before they are there, and leases are the longer ones. Raise SystemCallError:
        `prepare` then makes them again what they were.
        """
        self._coming = {
            host.name: host
            for host in hosts
            if host.name in self._hosts and not host.is_another_than(self._hosts[host.name])
        }
        try:
            for interface in self._parents:
                self._install_gate(interface)
        except SystemCallError:
            self._coming = None
            raise

    def change(self, hosts: Iterable[VirtualHostConfig]) -> list[str]:
        """These virtual hosts, and no others, from now on: devices, gates and settings of those that were go.

        They must have given up their addresses. `prepare` makes what is new. Return what failed, a line each.
        """
        assert self._coming is not None, "gates are widened before"
        leaving = [host for name, host in self._hosts.items() if name not in self._coming]
        self._hosts, self._coming = {host.name: host for host in hosts}, None
        devices = [self._devices[host.name] for host in leaving if host.name in self._devices and _has_macvlan(host)]
        failed = _tried(delete_links, devices) if devices else []
        self._forget(leaving)
        for interface in {host.interface for host in leaving}.difference(self.interfaces):
            failed += _tried(lease.remove, interface)
            if self._journal is not None:
                failed += _tried(self._journal.restore, interface)
            self._gates.pop(interface, None)
            self._parents.pop(interface, None)
        for interface in _sharing(leaving) - _sharing(self._hosts.values()):
            if self._journal is not None:
                failed += _tried(interfaces.end_sharing, interface, self._journal)
        return failed

    def lacking_addresses(self, masters: Iterable[str]) -> list[str]:
        """Those of these virtual hosts whose device has not all of their addresses. Raise SystemCallError."""
        present = {(found.index, found.address) for found in all_addresses()}
        return [
            name
            for name in masters
            if name in self._devices
            and any((self._devices[name], address.ip.packed) not in present for address in self._hosts[name].addresses)
        ]

    def is_device(self, index: int) -> bool:
        """Whether virtual addresses belong on the interface of this index."""
        return index in self._devices.values()

    def silence(self) -> list[str]:
        """End every lease and take every address away, for nobody decides now. Return what failed, a line each."""
        leases, table = LeaseKeeper(), AddressTable()
        failed = []
        for host in (*self._hosts.values(), *(self._coming or {}).values()):
            index = self._devices.get(host.name)
            if index is not None:
                error = leases.surrender(host.interface, host.leader_vhid) or table.remove(index, host.addresses)
                if error:
                    failed.append(f"{host.name}: can't be silenced: errno {error}")
        leases.close()
        table.close()
        return failed

    def undo(self) -> list[str]:
        """Put everything back: macvlans, gates, settings. Return what failed, a line each."""
        failed = self.silence()
        failed += _tried(interfaces.unprepare)
        for interface in self.interfaces:
            failed += _tried(lease.remove, interface)
        if self._journal is not None:
            failed += _tried(self._journal.restore)
        return failed


def _tried(action: Callable[..., object], *arguments: object) -> list[str]:
    try:
        action(*arguments)
    except SystemCallError as error:
        return [str(error)]
    return []


def _has_macvlan(host: VirtualHostConfig) -> bool:
    return host.balancing is None and host.mac is MacMode.VIRTUAL


def _sharing(hosts: Iterable[VirtualHostConfig]) -> set[str]:
    """The interfaces of those that share their traffic."""
    return {host.interface for host in hosts if host.balancing}


def _guards(hosts: Iterable[VirtualHostConfig]) -> list[Guard]:
    """One for each virtual host, however many nodes it has, and however many of its configurations are told here.

    During a change an address may be of two: until it is over, the one that had it decides.
    """
    by_leader: dict[int, list[VirtualHostConfig]] = {}
    addresses: dict[IPv4Address | IPv6Address, tuple[int, Address]] = {}
    for host in hosts:
        by_leader.setdefault(host.leader_vhid, []).append(host)
        for address in host.addresses:
            addresses.setdefault(address.ip, (host.leader_vhid, address))
    return [
        _guard(nodes, tuple(address for owner, address in addresses.values() if owner == vhid))
        for vhid, nodes in by_leader.items()
    ]


def _guard(nodes: Sequence[VirtualHostConfig], addresses: tuple[Address, ...]) -> Guard:
    host = nodes[0]
    return Guard(
        vhid=host.leader_vhid,
        mac=virtual_mac(host.vhid) if _has_macvlan(host) else None,
        addresses=addresses,
        lease_ns=max(node.lease_ns for node in nodes),
        nodes=tuple(dict.fromkeys(node.vhid for node in nodes)) if host.balancing else (),
    )
