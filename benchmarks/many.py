"""Hundreds of virtual hosts on two nodes: how many, and how each daemon is told.

Both have an advertisement a second and wait as long for it: MASTER_DOWN_NS.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from benchmarks.daemons import keepalived_argv
from carpd.lab.daemons import Carpd
from carpd.lab.firewalls import Firewall
from carpd.units import SECOND, SKEW

MASTER_DOWN_NS = 3 * SECOND + 100 * SKEW
"""Of fw-b: with advbase 1 and advskew 100, and with advert_int 1 and priority 256 - 100."""


class One(NamedTuple):
    """A virtual host: the number of its interface, its vhid there, its address."""

    interface: int
    vhid: int
    address: str


@dataclass(frozen=True, slots=True)
class Size:
    """So many virtual hosts, in equal parts on so many interfaces."""

    hosts: int
    interfaces: int

    def virtual_hosts(self) -> Iterator[One]:
        for number in range(self.hosts):
            interface, vhid = number % self.interfaces, number // self.interfaces + 1
            yield One(interface, vhid, f"10.{interface}.1.{vhid}")


SIZES = (Size(250, 1), Size(1000, 4))


class Daemon(Protocol):
    """How a daemon is run with so many virtual hosts."""

    name: str

    def start(self, firewall: Firewall, size: Size) -> None: ...

    def listens(self, size: Size) -> bool:
        """Whether the one that was started last is the backup of every virtual host."""


class ManyCarp:
    """carpd as it comes, with virtual MAC addresses."""

    name = "carpd"

    def start(self, firewall: Firewall, size: Size) -> None:
        self._last = Carpd(firewall, self.configuration(firewall, size))
        self._last.start()

    def configuration(self, firewall: Firewall, size: Size) -> str:
        return "".join(
            f'[carp.v{i}-{vhid}]\ninterface = "eth{i}"\nvhid = {vhid}\naddresses = ["{address}/16"]\n'
            f'password_file = "password"\npreempt = true\n[node.fw-b.carp.v{i}-{vhid}]\nadvskew = 100\n'
            for i, vhid, address in size.virtual_hosts()
        )

    def listens(self, size: Size) -> bool:
        return list(self._last.states().values()) == ["BACKUP"] * size.hosts


class ManyVrrp:
    """keepalived as it comes, with real MAC addresses."""

    name = "keepalived"

    def start(self, firewall: Firewall, size: Size) -> None:
        priority = 156 if firewall.node.name == "fw-b" else 254
        instances = [
            f"vrrp_instance v{i}-{vhid} {{\n state BACKUP\n interface eth{i}\n virtual_router_id {vhid}\n"
            f" priority {priority}\n advert_int 1\n virtual_ipaddress {{\n  {address}/16\n }}\n}}\n"
            for i, vhid, address in size.virtual_hosts()
        ]
        firewall.node.start(keepalived_argv(firewall, "".join(instances)))
        self._started_ns = time.monotonic_ns()

    def listens(self, size: Size) -> bool:
        """It can't be asked; 10 s are plenty."""
        return time.monotonic_ns() > self._started_ns + 10 * SECOND


DAEMONS: tuple[type[Daemon], ...] = (ManyCarp, ManyVrrp)
