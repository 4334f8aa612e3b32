"""The supervisor's view of pfsyncd: keeps it running, and demotes every redundancy group while it does not do its work.

A host that has not got the states of its peers, or does not hear of them, is the wrong one to take their connections
over. Ref: spec pfsync §7.11, design §6.4.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from carpd.config.model import PfsyncConfig
from carpd.config.plan import needs_restart
from carpd.errors import CarpdError, SystemCallError
from carpd.linux import defer, sysctls
from carpd.linux.sysctls import SysctlJournal
from carpd.pfsync.effects import BulkUpdateChanged
from carpd.pfsync.events import RoleChanged
from carpd.runtime.child_process import ChildProcess, how_it_ended
from carpd.runtime.claim import PFSYNCD, Claim
from carpd.runtime.logs import LOG
from carpd.runtime.messages import PfsyncStatusWanted, StartPfsync, SyncLinkChanged
from carpd.runtime.notices import Notices

MODULE = "carpd.runtime.pfsyncd"

NOT_RUNNING, BULK_UPDATE, LINK_DOWN = "pfsyncd does not run", "pfsync bulk update", "pfsync link is down"
"""Reasons of demotion."""
LINK_DEMOTION = 1
"""OpenBSD's, where the counter carries demotion. Ref: spec pfsync §7.11."""

RESTART_DELAY_S = 1.0
RESTART_DELAY_LIMIT_S = 30.0
"""Between two starts of a pfsyncd that does not live long; doubled each time, up to the limit."""
STOP_LIMIT_S = 2.0

JOURNAL = "pfsync-sysctls.json"
"""In the state directory: a pfsyncd that somebody kills may be followed by a carpd, and the other way round."""

_EVENTS = ("netfilter", "nf_conntrack_events")


class PfsyncKeeper:
    """`demote` is called with a reason and an amount, 0 when it is over."""

    def __init__(
        self, config: PfsyncConfig, state_dir: Path, demote: Callable[[str, int], None], notices: Notices
    ) -> None:
        """Raise CarpdError if somebody else synchronises states here."""
        self._settings = SysctlJournal(state_dir / JOURNAL)
        self._claim = Claim(PFSYNCD)
        self._config = config
        self._demote = demote
        self._notices = notices
        self._process: ChildProcess | None = None
        self._carrying = False
        self._restarts = 0
        self._started = 0.0
        self._delay_s = RESTART_DELAY_S
        self._again: asyncio.TimerHandle | None = None
        self._missing: set[str] = set()
        """Why states of the peers may be missing here: NOT_RUNNING, BULK_UPDATE."""
        self._leaving = False
        self._ended = asyncio.Event()

    def start(self, *, carrying: bool) -> None:
        """Start it. Until its bulk update is done every group is demoted, but for a host that carries traffic already.

        That one has the states of what it carries, and nobody else has them: who gave way would break connections.
        """
        self._carrying = carrying
        self._enable_events()
        if not self._config.defer:  # one that was killed may have marked packets
            self._remove_table()
        self._lacks(BULK_UPDATE, not carrying)
        self._start()

    async def reconfigure(self, config: PfsyncConfig) -> None:
        """Other settings from now on. A pfsyncd that needs them is started anew.

        This demotes nobody: the kernel keeps the states that it has, and what is missed meanwhile is asked for.
        """
        restarted = needs_restart(self._config, config)
        if restarted:
            LOG.info("pfsync: starting pfsyncd anew with other settings")
            if self._process is None:  # it had ended by itself
                self._missing.add(BULK_UPDATE)
            await self._leave()
        self._config = config
        for reason in self._missing:
            self._demote(reason, config.carp_demotion_factor)
        if restarted:
            self._delay_s = RESTART_DELAY_S
            self._start()

    def carries(self, carrying: bool, *, moved: bool = False) -> None:
        """Whether this host is master of anything now; `moved`: what it carries is not the same any more."""
        if carrying != self._carrying or (carrying and moved):
            self._carrying = carrying
            if self._process:
                self._process.send(RoleChanged(carrying))

    async def status(self) -> dict[str, Any]:
        """The `pfsync` element of the status."""
        config = self._config
        about = {
            "syncdev": config.syncdev,
            "transport": config.transport.value,
            "version": config.version.value,
            "restarts": self._restarts,
        }
        if self._process is None:
            return about | {"running": False}
        try:
            answer = await self._process.ask(PfsyncStatusWanted)
        except TimeoutError:
            return about | {"running": True, "waits_for": "an answer of pfsyncd"}
        document: dict[str, Any] = json.loads(answer.document)
        return about | {"running": True} | document

    async def peers(self) -> list[dict[str, Any]]:
        """Those that are heard, as the status has them."""
        peers: list[dict[str, Any]] = (await self.status()).get("peers", [])
        return peers

    async def hears_strangers_alone(self) -> bool:
        """Whether somebody is heard, but nobody who has a secret of ours."""
        status = await self.status()
        return status.get("peers") == [] and status["counters"].get("sealed_unknown_key", 0) > 0

    async def stop(self) -> None:
        """End it, when nobody needs its states any more. The kernel keeps them."""
        await self._leave()
        self._restore_events()
        for reason in (NOT_RUNNING, BULK_UPDATE, LINK_DOWN):
            self._demote(reason, 0)
        self._claim.release()

    async def _leave(self) -> None:
        """End the process, if there is one; it is not started again."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        process = self._process
        if process is not None:
            self._leaving = True
            self._ended.clear()
            process.leave()
            try:
                async with asyncio.timeout(STOP_LIMIT_S):
                    await self._ended.wait()
            except TimeoutError:
                LOG.error("pfsyncd did not end within %.0f s: ending it", STOP_LIMIT_S)
                process.kill()
                await self._ended.wait()
            self._leaving = False
        if self._config.defer:
            self._remove_table()

    def _start(self) -> None:
        try:
            self._process = ChildProcess("pfsyncd", MODULE, [], self._fact, self._process_ended)
        except OSError as error:
            LOG.error("pfsyncd can't be started: %s", error)
            self._start_later()
            return
        self._started = time.monotonic()
        self._process.send(StartPfsync(self._config, self._carrying))
        self._lacks(NOT_RUNNING, False)

    def _lacks(self, reason: str, lacks: bool) -> None:
        """Whether the states of peers may be missing for this reason, which demotes."""
        (self._missing.add if lacks else self._missing.discard)(reason)
        self._demote(reason, self._config.carp_demotion_factor if lacks else 0)

    def _start_later(self) -> None:
        self._again = asyncio.get_running_loop().call_later(self._delay_s, self._start_again)
        self._delay_s = min(2 * self._delay_s, RESTART_DELAY_LIMIT_S)

    def _start_again(self) -> None:
        self._again = None
        self._restarts += 1
        self._lacks(BULK_UPDATE, True)
        self._start()

    def _process_ended(self, exit_status: int) -> None:
        self._process = None
        if self._leaving:
            self._ended.set()
            return
        text = f"pfsyncd ended ({how_it_ended(exit_status)}): states are not synchronised; starting it again"
        self._publish("process", False, text, logging.ERROR)
        self._lacks(NOT_RUNNING, True)
        if time.monotonic() - self._started > RESTART_DELAY_LIMIT_S:
            self._delay_s = RESTART_DELAY_S
        self._start_later()

    def _fact(self, fact: object) -> None:
        if isinstance(fact, BulkUpdateChanged):
            self._publish("bulk update", fact.done, f"pfsync: {fact.reason}")
            self._lacks(BULK_UPDATE, not fact.done)
        elif isinstance(fact, SyncLinkChanged):
            if fact.up:
                transport = self._config.transport.value
                self._publish("link", True, f"pfsync: synchronising on {self._config.syncdev} ({transport})")
            else:
                self._publish("link", False, f"pfsync: {fact.reason}", logging.WARNING)
            self._demote(LINK_DOWN, 0 if fact.up else LINK_DEMOTION)

    def _publish(self, part: str, ok: bool, text: str, level: int = logging.INFO) -> None:
        """`part` of the synchronisation is as it should be, from now on, or is not."""
        self._notices.publish("pfsync", text, level, part=part, ok=ok, reason=text.removeprefix("pfsync: "))

    def _remove_table(self) -> None:
        """Packets need not be marked any more. A pfsyncd that was not killed has done it itself."""
        try:
            defer.remove_table()
        except SystemCallError as error:
            LOG.error("pfsync: %s", error)

    def _enable_events(self) -> None:
        """Without events of every connection there is nothing to be told."""
        if sysctls.read(*_EVENTS) is None:
            LOG.error("pfsync: this kernel has no connection tracking events (nf_conntrack_events)")
            return
        try:
            self._settings.set("1", *_EVENTS)
        except SystemCallError as error:
            LOG.error("pfsync: %s: no events, nothing is synchronised: set net.netfilter.nf_conntrack_events=1", error)

    def _restore_events(self) -> None:
        try:
            self._settings.restore()
        except SystemCallError as error:
            LOG.error("pfsync: %s", error)


def clean_left_behind(state_dir: Path) -> list[str]:
    """Undo what a daemon that was killed did to synchronise states, unless another one does it now.

    Say what that was, a line for each. Who goes on with it needs not begin with this. Raise SystemCallError.
    """
    try:
        claim = Claim(PFSYNCD)
    except CarpdError:
        return []
    with claim:
        done = [f"restored net/{'/'.join(name)}" for name in SysctlJournal(state_dir / JOURNAL).restore()]
        if defer.is_table_installed():
            defer.remove_table()
            done.append(f"removed the nftables table {defer.TABLE}")
    return done
