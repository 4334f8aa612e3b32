"""The supervisor's view of pfsyncd: keeps it running, and demotes every redundancy group while it does not do its work.

A host that has not got the states of its peers, or does not hear of them, is the wrong one to take their connections
over. Ref: spec pfsync §7.11, design §6.4.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from carpd.config.model import PfsyncConfig
from carpd.errors import SystemCallError
from carpd.linux import sysctls
from carpd.pfsync.effects import BulkUpdateChanged
from carpd.pfsync.events import RoleChanged
from carpd.runtime.child_process import ChildProcess, how_it_ended
from carpd.runtime.logs import LOG
from carpd.runtime.messages import PfsyncStatusWanted, StartPfsync, SyncLinkChanged

MODULE = "carpd.runtime.pfsyncd"

NOT_RUNNING, BULK_UPDATE, LINK_DOWN = "pfsyncd does not run", "pfsync bulk update", "pfsync link is down"
"""Reasons of demotion."""
LINK_DEMOTION = 1
"""OpenBSD's, where the counter carries demotion. Ref: spec pfsync §7.11."""

RESTART_DELAY_S = 1.0
RESTART_DELAY_LIMIT_S = 30.0
"""Between two starts of a pfsyncd that does not live long; doubled each time, up to the limit."""
STOP_LIMIT_S = 2.0

_EVENTS = ("netfilter", "nf_conntrack_events")


class PfsyncKeeper:
    """`demote` is called with a reason and an amount, 0 when it is over."""

    def __init__(self, config: PfsyncConfig, demote: Callable[[str, int], None]) -> None:
        self._config = config
        self._demote = demote
        self._process: ChildProcess | None = None
        self._carrying = False
        self._restarts = 0
        self._started = 0.0
        self._delay_s = RESTART_DELAY_S
        self._stopping = False
        self._ended = asyncio.Event()
        self._found: str | None = None
        """The setting of conntrack events that we found, if we changed it."""

    def start(self, *, carrying: bool) -> None:
        """Start it. Until its bulk update is done every group is demoted."""
        self._carrying = carrying
        self._enable_events()
        self._start()

    def carries(self, carrying: bool) -> None:
        """Whether this host is master of anything now."""
        if carrying != self._carrying:
            self._carrying = carrying
            if self._process:
                self._process.send(RoleChanged(carrying))

    async def status(self) -> dict[str, Any]:
        """The `pfsync` element of the status."""
        about = {"syncdev": self._config.syncdev, "transport": self._config.transport.value, "restarts": self._restarts}
        if self._process is None:
            return about | {"running": False}
        try:
            answer = await self._process.ask(PfsyncStatusWanted)
        except TimeoutError:
            return about | {"running": True, "waits_for": "an answer of pfsyncd"}
        document: dict[str, Any] = json.loads(answer.document)
        return about | {"running": True} | document

    async def stop(self) -> None:
        """End it, when nobody needs its states any more. The kernel keeps them."""
        self._stopping = True
        process = self._process
        if process is not None:
            process.leave()
            try:
                async with asyncio.timeout(STOP_LIMIT_S):
                    await self._ended.wait()
            except TimeoutError:
                LOG.error("pfsyncd did not end within %.0f s: ending it", STOP_LIMIT_S)
                process.kill()
        self._restore_events()

    def _start(self) -> None:
        self._demote(BULK_UPDATE, self._config.carp_demotion_factor)
        try:
            self._process = ChildProcess("pfsyncd", MODULE, [], self._fact, self._process_ended)
        except OSError as error:
            LOG.error("pfsyncd can't be started: %s", error)
            self._start_later()
            return
        self._started = time.monotonic()
        self._process.send(StartPfsync(self._config, self._carrying))
        self._demote(NOT_RUNNING, 0)

    def _start_later(self) -> None:
        asyncio.get_running_loop().call_later(self._delay_s, self._start_again)
        self._delay_s = min(2 * self._delay_s, RESTART_DELAY_LIMIT_S)

    def _start_again(self) -> None:
        if not self._stopping:
            self._restarts += 1
            self._start()

    def _process_ended(self, exit_status: int) -> None:
        self._process = None
        if self._stopping:
            self._ended.set()
            return
        LOG.error("pfsyncd ended (%s): states are not synchronised; starting it again", how_it_ended(exit_status))
        self._demote(NOT_RUNNING, self._config.carp_demotion_factor)
        if time.monotonic() - self._started > RESTART_DELAY_LIMIT_S:
            self._delay_s = RESTART_DELAY_S
        self._start_later()

    def _fact(self, fact: object) -> None:
        if isinstance(fact, BulkUpdateChanged):
            LOG.info("pfsync: %s", fact.reason)
            self._demote(BULK_UPDATE, 0 if fact.done else self._config.carp_demotion_factor)
        elif isinstance(fact, SyncLinkChanged):
            if fact.up:
                LOG.info("pfsync: synchronising on %s (%s)", self._config.syncdev, self._config.transport.value)
            else:
                LOG.warning("%s", fact.reason)
            self._demote(LINK_DOWN, 0 if fact.up else LINK_DEMOTION)

    def _enable_events(self) -> None:
        """Without events of every connection there is nothing to be told."""
        now = sysctls.read(*_EVENTS)
        if now == "1":
            return
        if now is None:
            LOG.error("pfsync: this kernel has no connection tracking events (nf_conntrack_events)")
            return
        try:
            sysctls.write("1", *_EVENTS)
        except SystemCallError as error:
            LOG.error("pfsync: %s: no events, nothing is synchronised: set net.netfilter.nf_conntrack_events=1", error)
            return
        self._found = now

    def _restore_events(self) -> None:
        if self._found is not None and sysctls.read(*_EVENTS) == "1":
            try:
                sysctls.write(self._found, *_EVENTS)
            except SystemCallError as error:
                LOG.error("pfsync: %s", error)
