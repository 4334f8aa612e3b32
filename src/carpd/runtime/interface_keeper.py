"""Keeps the interfaces as the virtual hosts need them, whatever comes, goes, or is undone by somebody else.

What it hears by netlink: links that come and go, gates that are deleted, devices and addresses that are taken away. Of
the programs of share gates nobody tells: every second it looks at them, as the kernel may let it wait.
What it does about it is in `preparation`; whom it tells is the election process, by the names of virtual hosts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from carpd.config.model import VirtualHostConfig
from carpd.effects import StateChanged
from carpd.errors import SystemCallError
from carpd.events import CarpState
from carpd.linux.balance import GatePrograms, displaced
from carpd.linux.gate_monitor import GateMonitor
from carpd.linux.links import AddressesChanged, Link, LinkAppeared, LinkChanged, LinkMonitor
from carpd.linux.neighbors import forget_unresolved
from carpd.runtime.logs import LOG
from carpd.runtime.preparation import Preparation

PREPARE_AGAIN_S = 5.0
"""After the kernel refused to prepare an interface."""

LOOK_DELAY_S = 0.05
"""Between a change of a device's addresses and a look at them: most changes are our own, and come in bursts."""


class InterfaceKeeper:
    """`on_prepared` is told the virtual hosts whose device and gate stand now, or were made anew."""

    def __init__(
        self,
        hosts: Sequence[VirtualHostConfig],
        state_dir: Path,
        on_prepared: Callable[[Collection[str]], None],
    ) -> None:
        """Raise SystemCallError."""
        self._preparation = Preparation(hosts, state_dir)
        self._on_prepared = on_prepared
        self._links = LinkMonitor()
        self._gates = GateMonitor()
        self._masters: set[str] = set()
        self._stopped = False
        self._changing = False
        self._retry: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None

    @property
    def prepared(self) -> Sequence[str]:
        """The virtual hosts that may take part."""
        return self._preparation.prepared

    def mac(self, interface: str) -> bytes | None:
        """The link-layer address of an interface, as far as it is there."""
        return self._preparation.mac(interface)

    def clean_left_behind(self) -> None:
        """Undo what a killed daemon has done. Raise SystemCallError."""
        for line in self._preparation.clean_left_behind():
            LOG.warning("left behind by a daemon that was killed: %s", line)

    def start(self) -> None:
        """Prepare what can be, and look after it from now on."""
        loop = asyncio.get_running_loop()
        self._prepare()
        loop.add_reader(self._links.fileno(), self._links_changed)
        loop.add_reader(self._gates.fileno(), self._gates_changed)

    def begin_change(self, hosts: Sequence[VirtualHostConfig]) -> None:
        """Let the gates serve these virtual hosts, too. Until `end_change` nothing else is made or made anew.

        Raise SystemCallError if the kernel refuses: nothing has changed then.
        """
        try:
            self._preparation.widen(hosts)
        except SystemCallError:
            self._prepare()
            raise
        self._changing = True

    def end_change(self, hosts: Sequence[VirtualHostConfig]) -> list[str]:
        """These virtual hosts, and no others: those that were have given up their addresses, the others are prepared.

        Return what the kernel refused, a line each: it is tried again.
        """
        self._changing = False
        failed = self._preparation.change(hosts)
        for line in failed:
            LOG.error("%s", line)
        return failed + self._prepare()

    def stop(self) -> None:
        """Make nothing anew any more."""
        self._stopped = True

    def undo(self) -> None:
        """Put everything back."""
        self.stop()
        for line in self._preparation.undo():
            LOG.error("%s", line)

    def silence(self) -> None:
        """The election process has ended: end every lease, take every address away."""
        self._masters.clear()
        for line in self._preparation.silence():
            LOG.error("%s", line)

    def state_changed(self, fact: StateChanged) -> None:
        """Only a master's addresses are missed."""
        (self._masters.add if fact.new is CarpState.MASTER else self._masters.discard)(fact.host)

    def _prepare(self) -> list[str]:
        """Prepare what can be and is not yet; try again where the kernel refused, which is returned."""
        if self._stopped or self._changing:
            return []
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        ready, refusals = self._preparation.prepare()
        for refusal in refusals:
            LOG.error("%s; trying again in %.0f s", refusal, PREPARE_AGAIN_S)
        if refusals:
            self._retry = asyncio.get_running_loop().call_later(PREPARE_AGAIN_S, self._prepare)
        self._on_prepared(ready)
        return refusals

    def _links_changed(self) -> None:
        try:
            changes = self._links.changes()
        except SystemCallError as error:
            LOG.error("%s", error)
            return
        if changes:
            self._prepare()
        for change in changes:
            if isinstance(change, (LinkAppeared, LinkChanged)) and change.link.up:
                self._link_is_up(change.link)
            elif isinstance(change, AddressesChanged) and self._preparation.is_device(change.index):
                self._look_at_addresses_soon()

    def _link_is_up(self, link: Link) -> None:
        """What the kernel could not find without the link it shall ask for anew, and not a second later."""
        if link.name not in self._preparation.interfaces:
            return
        try:
            forget_unresolved(link.index)
        except SystemCallError as error:
            LOG.warning("%s: %s", link.name, error)

    def _gates_changed(self) -> None:
        """A gate that somebody deleted is made anew: without it a master that hangs would go on answering."""
        try:
            missing = self._preparation.missing_gates() if self._gates.table_deleted() else []
        except SystemCallError as error:
            LOG.error("%s", error)
            return
        if missing and not self._stopped:
            gates = ", ".join(missing)
            LOG.warning("somebody deleted the lease gate of %s (nft flush ruleset?): making it anew", gates)
            self._prepare()

    def look_at_gates(self, gates: Collection[GatePrograms]) -> None:
        """Share gates, as the election process has them, are attached anew if somebody detached them, or stands before
        them: what comes past them is nobody's.
        """
        if self._stopped or self._changing:
            return
        try:
            lost = {gate.virtual_host for gate in displaced(gates)}
        except SystemCallError as error:
            LOG.error("%s", error)
            return
        if lost:
            gates_of = ", ".join(sorted(lost))
            LOG.warning("somebody detached the share gate of %s, or stands before it: attaching it anew", gates_of)
            self._on_prepared(self._preparation.nodes_of(lost))

    def _look_at_addresses_soon(self) -> None:
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_DELAY_S, self._look_at_addresses)

    def _look_at_addresses(self) -> None:
        """What somebody took from a master is put back: it would advertise and not answer."""
        self._look = None
        if self._changing:  # what it has is about to be what it shall have
            self._look_at_addresses_soon()
            return
        try:
            lacking = self._preparation.lacking_addresses(self._masters)
        except SystemCallError as error:
            LOG.error("%s", error)
            return
        if lacking and not self._stopped:
            LOG.warning("somebody took addresses away from %s: putting them back", ", ".join(lacking))
            self._on_prepared(lacking)
