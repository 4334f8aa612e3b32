"""The supervisor: reads the configuration, prepares interfaces, keeps the election process running, answers `carpctl`.

Slow and varied work, in asyncio, in a process of its own, so that it never delays an election. Ref: design §2.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import time
from collections.abc import Collection, Sequence, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TextIO

from carpd import __version__
from carpd.config.model import Config, PfsyncConfig
from carpd.control.server import ControlServer, Groups
from carpd.effects import DemotionChanged, PeerLeftBehind, SharingChanged, StateChanged
from carpd.errors import CarpdError
from carpd.events import CarpState, Configure, ForceState, HostPrepared, SetDemotion, Shutdown
from carpd.linux import privileges
from carpd.runtime import configuration, pfsync_keeper
from carpd.runtime.child_process import how_it_ended
from carpd.runtime.claim import CARPD, Claim
from carpd.runtime.commands import Commands
from carpd.runtime.configuration import ConfigurationFile
from carpd.runtime.demotions import Demotions
from carpd.runtime.election_process import ElectionProcess
from carpd.runtime.hooks import Hooks
from carpd.runtime.interface_keeper import InterfaceKeeper
from carpd.runtime.logs import LOG, start_logging
from carpd.runtime.metrics_server import MetricsServer
from carpd.runtime.notices import Notices
from carpd.runtime.pfsync_keeper import PfsyncKeeper
from carpd.runtime.readiness import NOTHING_TO_DO, Readiness, ServiceManager, Summary
from carpd.runtime.reload import Reloader
from carpd.runtime.sync_supervisor import SyncSupervisor
from carpd.runtime.unconfirmed_note import UnconfirmedNote
from carpd.trace.recording import START

SUCCESSORS_LIMIT_S, SUCCESSORS_LOOK_S = 0.5, 0.005
"""How long masters that are to leave are waited for, which takes a tenth of a second without successors; and between
two looks."""

RESTART_DELAY_S = 1.0
"""Between two starts of an election process that does not live that long."""

SHUTDOWN_LIMIT_S = 5.0
"""How long the election process may take to bow out."""

WATCH_S = 1.0
"""Between two questions to the election process."""

SILENCE_LIMIT = 2
"""Unanswered questions, 2 s each, after which it is taken to hang. One may be our own hanging."""


def run(config_file: Path, node: str | None, socket_path: Path, state_dir: Path, record: Path | None) -> int:
    """Run until SIGTERM or SIGINT; return the exit status: 0, 1 for a failure, 3 for a wrong configuration."""
    start_logging()
    try:
        return _run(config_file, node, socket_path, state_dir, record)
    except (CarpdError, OSError) as error:
        LOG.error("%s", error)
        return 1


def run_pfsync(config_file: Path, node: str | None, socket_path: Path, state_dir: Path) -> int:
    """Run state synchronisation alone, likewise."""
    start_logging("pfsyncd")
    try:
        file = ConfigurationFile(config_file, node, pfsync_alone=True)
        config = _read(file)
        if config is None:
            return 3
        for directory in (socket_path.parent, state_dir):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        return asyncio.run(SyncSupervisor(config, file, socket_path, state_dir).run())
    except (CarpdError, OSError) as error:
        LOG.error("%s", error)
        return 1


def _run(config_file: Path, node: str | None, socket_path: Path, state_dir: Path, record: Path | None) -> int:
    file = ConfigurationFile(config_file, node)
    config = _read(file)
    if config is None:
        return 3
    with ExitStack() as held:
        held.enter_context(Claim(CARPD))
        state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        recording = held.enter_context(_recording(record)) if record else None
        return asyncio.run(Supervisor(config, file, socket_path, state_dir, recording).run())


def _read(file: ConfigurationFile) -> Config | None:
    """The configuration, or None if the log says what is wrong with it. Raise CarpdError."""
    loaded = file.read()
    configuration.log(loaded.problems)
    return loaded.config


def _recording(path: Path) -> TextIO:
    """A file that only we can read, as it will contain the passwords, and that was not there. Raise OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w")


@dataclass(slots=True)
class _Run:
    """One election process, and when it was started."""

    process: ElectionProcess
    started: float = field(default_factory=time.monotonic)


class Supervisor:
    """One node's daemon, less the elections."""

    def __init__(
        self, config: Config, file: ConfigurationFile, socket_path: Path, state_dir: Path, recording: TextIO | None
    ) -> None:
        self.config = config
        self._state_dir = state_dir
        self.notices = Notices()
        self.reloader = Reloader(self, file.of(config.node).read_again, UnconfirmedNote(state_dir))
        self.summary = Summary(lambda: self.config.virtual_hosts)
        self.readiness = Readiness(ServiceManager.of_environment())
        for hear in (self.summary.hear, self.readiness.hear):
            self.notices.subscribe(hear)
        self.started = time.monotonic()
        self.restarts = 0
        """Of the election process."""
        self.demotions = Demotions(lambda: {host.group for host in self.config.virtual_hosts}, self.tell)
        self.interfaces = InterfaceKeeper(config.virtual_hosts, state_dir, self._tell_prepared)
        self.pfsync = self._keeper(config.pfsync) if config.pfsync else None
        self.hooks = Hooks(self.notices)
        self.hooks.configure(config.hooks, config.virtual_hosts)
        commands = Commands(self, file)
        self.metrics = MetricsServer(self.notices, lambda: commands.status({}), self.hooks.results)
        self._recording = recording
        self._by_name = {host.name: host for host in config.virtual_hosts}
        self._control = ControlServer(socket_path, commands.table(), Groups.of(config.control))
        self._masters: set[str] = set()
        self._left_behind: set[tuple[str, str]] = set()
        """Virtual hosts, and peers that have their former settings: who was told of since the last change."""
        self._run: _Run | None = None
        self._stopping = False
        self._finished = asyncio.Event()
        self._shutdown_limit: asyncio.TimerHandle | None = None

    @property
    def election(self) -> ElectionProcess | None:
        """The election process, while there is one."""
        return self._run.process if self._run else None

    async def run(self) -> int:
        """From the first interface to the last setting put back. Raise CarpdError, OSError if it can't begin."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self.reloader.hang_up)
        hosts = f"virtual hosts {', '.join(self._by_name)}" if self._by_name else NOTHING_TO_DO
        LOG.info("carpd %s, node %s: %s", __version__, self.config.node, hosts)
        self.reloader.begin()
        reason = privileges.keep_capabilities_for_children()
        if reason:
            LOG.warning("%s", reason)
        self.interfaces.clean_left_behind()
        for line in () if self.pfsync else pfsync_keeper.clean_left_behind(self._state_dir):
            LOG.warning("left behind by a daemon that was killed: %s", line)
        try:
            await self._control.start()
            await self.metrics.configure(self.config.metrics)
            self._start_election()
            if self.pfsync:
                self.pfsync.start(carrying=False)
            self.interfaces.start()
            watch = asyncio.create_task(self._watch_election())
            await self._finished.wait()
            watch.cancel()
            await self.reloader.stop()
            if self.pfsync:  # until now it told the successor of every connection
                await self.pfsync.stop()
        finally:
            await self._control.stop()
            await self.metrics.stop()
            self.interfaces.undo()
            await self.hooks.stop()  # they have been told of what became of it
        LOG.info("stopped")
        return 0

    # Changes of the configuration

    async def change(self, new: Config) -> Sequence[str]:
        """Go over to another configuration while all goes on. Raise CarpdError if nothing was changed.

        What stays is never given up, by this order:

        1. Whoever may refuse is asked before anything has changed.
        2. Gates serve old and new addresses, with the longer leases: an address is guarded before it is there, and a
           lease has grown before the election process advertises more rarely.
        3. Masters that are to leave call their successors, and answer until these are heard.
        4. The election process changes, as a whole. Its answer to a question comes behind all that follows from it:
           then nothing of those that left is advertised, answered or held.
        5. Their devices are deleted; gates forget what nobody has any more, and shorter leases begin, as advertisements
           come more often by now; new devices are made behind gates that stand.
        6. What only watches or serves: pfsyncd, hooks, metrics, the control socket.

        An election process that ends meanwhile is silenced, and started with the configuration of 4.
        Return what the kernel refused, a line each: it is tried again.
        """
        self._go_on()
        groups = Groups.of(new.control)
        added = self._keeper(new.pfsync) if new.pfsync and not self.pfsync else None
        try:
            self.interfaces.begin_change(new.virtual_hosts)
        except CarpdError:
            if added:
                await added.stop()
            raise
        by_name = {host.name: host for host in new.virtual_hosts}
        await self._call_successors(
            {name for name, old in self._by_name.items() if name not in by_name or by_name[name].is_another_than(old)}
        )
        self._go_on()
        self.config = new
        self._by_name = by_name | self._by_name  # who leaves has a last word
        self._left_behind.clear()
        self._configure_election()
        await self._election_has_done_it()
        self._go_on()
        self._by_name = by_name
        failures = self.interfaces.end_change(new.virtual_hosts)
        self._control.groups = groups
        self.hooks.configure(new.hooks, new.virtual_hosts)
        await self.metrics.configure(new.metrics)
        await self._change_pfsync(new.pfsync, added)
        return failures

    def _go_on(self) -> None:
        """Raise CarpdError at the end of the daemon: everything is about to be put back."""
        if self._stopping:
            raise CarpdError("carpd is about to end")

    async def _call_successors(self, leaving: Set[str]) -> None:
        """Let those of them that are masters leave as in a planned move; without a successor they don't wait for it."""
        for name in leaving & self._masters:
            self.tell(ForceState(name, CarpState.BACKUP))
        limit = time.monotonic() + SUCCESSORS_LIMIT_S
        while leaving & self._masters and time.monotonic() < limit:
            await asyncio.sleep(SUCCESSORS_LOOK_S)

    async def _election_has_done_it(self) -> None:
        """Wait until the election process has performed what it was told; or has ended, and what it did is undone."""
        while (run := self._run) is not None:
            with suppress(TimeoutError):
                await run.process.status([], [])
                return
            if run is not self._run:
                return

    def _keeper(self, config: PfsyncConfig) -> PfsyncKeeper:
        """Raise CarpdError if somebody else synchronises states here."""
        return PfsyncKeeper(config, self._state_dir, self.demotions.demote_all, self.notices)

    async def _change_pfsync(self, config: PfsyncConfig | None, added: PfsyncKeeper | None) -> None:
        if added:
            self.pfsync = added
            added.start(carrying=bool(self._masters))
        elif self.pfsync and config:
            await self.pfsync.reconfigure(config)
        elif self.pfsync:
            removed, self.pfsync = self.pfsync, None
            await removed.stop()

    def is_master(self, name: str) -> bool:
        """Whether this host is master of a virtual host."""
        return name in self._masters

    async def heard_ns(self, name: str) -> int | None:
        """When a virtual host last believed a peer's advertisement; None: not since it began, or it is master."""
        with suppress(TimeoutError):
            for report in await self.election.status([name], []) if self.election else ():
                for host in report.hosts:
                    return host.heard.time_ns if host.heard else None
        return None

    async def hears_sync_peers(self) -> bool:
        """Whether pfsync hears any."""
        return bool(self.pfsync and await self.pfsync.peers())

    async def refuses_sync_peers(self) -> bool:
        """Whether pfsync hears nobody but those who have another secret."""
        return bool(self.pfsync and await self.pfsync.hears_strangers_alone())

    # The election process

    def _start_election(self) -> None:
        if self._recording:
            print(START, file=self._recording)
        process = ElectionProcess(self._fact, self._election_ended, self._recording)
        self._run = _Run(process)
        self._configure_election()

    def _configure_election(self) -> None:
        """Tell it the present configuration, and what demotes its groups."""
        self.tell(Configure(self.config.virtual_hosts, secrets.randbits(64)))
        self.demotions.tell_all()

    def tell(self, event: Configure | ForceState | SetDemotion) -> None:
        """An operator's wish, or what follows from the state of this host. Without an election process it is lost."""
        if self._run is not None:
            self._run.process.send(event)

    def _note_master(self, fact: StateChanged) -> None:
        """Whether this host carries traffic is what pfsyncd needs to know, and whether its share has changed."""
        (self._masters.add if fact.new is CarpState.MASTER else self._masters.discard)(fact.host)
        if self.pfsync:
            self.pfsync.carries(bool(self._masters), moved=self._by_name[fact.host].balancing is not None)

    def _election_ended(self, exit_status: int) -> None:
        run, self._run = self._run, None
        if self._stopping:
            if self._shutdown_limit is not None:
                self._shutdown_limit.cancel()
            self._finished.set()
            return
        how = how_it_ended(exit_status)
        text = f"the election process ended ({how}): every virtual host is silent; starting it again"
        self.notices.publish("election", text, logging.ERROR, how=how)
        self.restarts += 1
        self._masters.clear()
        if self.pfsync:
            self.pfsync.carries(False)
        self.interfaces.silence()
        lived = time.monotonic() - run.started if run else 0.0
        delay = 0.0 if lived > RESTART_DELAY_S else RESTART_DELAY_S
        asyncio.get_running_loop().call_later(delay, self._restart_election)

    def _restart_election(self) -> None:
        if self._stopping:
            self._finished.set()
            return
        try:
            self._start_election()
        except OSError as error:
            LOG.error("the election process can't be started: %s", error)
            asyncio.get_running_loop().call_later(RESTART_DELAY_S, self._restart_election)
            return
        self._tell_prepared(self.interfaces.prepared)

    async def _watch_election(self) -> None:
        """A process that hangs is silent, by its lease, and its peers take over. It is ended, and started again."""
        silences = 0
        while True:
            run = self._run
            try:
                if run is not None:
                    report, *_ = await run.process.status([], [])
                    self.interfaces.look_at_gates(report.gates)
                    self.readiness.answers(self.summary.line())
                silences = 0
            except TimeoutError:
                silences += 1
            if silences == SILENCE_LIMIT and run is self._run and run is not None:
                LOG.error("the election process %d does not answer: ending it", run.process.pid)
                run.process.kill()
                silences = 0
            await asyncio.sleep(self.readiness.interval_s(WATCH_S))

    def _fact(self, fact: object) -> None:
        if isinstance(fact, StateChanged):
            self.interfaces.state_changed(fact)
            self._note_master(fact)
            host = self._by_name[fact.host]
            where = f"{fact.host} (vhid {host.vhid} on {host.interface})"
            text = f"{where}: {fact.old.name} -> {fact.new.name} ({fact.reason.value})"
            self.notices.publish(
                "state",
                text,
                name=host.name,
                virtual_host=host.virtual_host,
                vhid=host.vhid,
                interface=host.interface,
                group=host.group,
                old=fact.old.name,
                new=fact.new.name,
                reason=fact.reason.value,
            )
        elif isinstance(fact, SharingChanged):
            text = f"{fact.virtual_host}: {'' if fact.present else 'no longer: '}{fact.finding}"
            about = {"virtual_host": fact.virtual_host, "finding": fact.finding, "present": fact.present}
            self.notices.publish("sharing", text, logging.WARNING, **about)
        elif isinstance(fact, PeerLeftBehind):
            self._peer_left_behind(fact)
        elif isinstance(fact, DemotionChanged):
            how = "demoted" if fact.new > fact.old else "promoted"
            text = f"group {fact.group}: {how} from {fact.old} to {fact.new} ({fact.reason})"
            about = {"group": fact.group, "old": fact.old, "new": fact.new, "reason": fact.reason}
            self.notices.publish("demotion", text, logging.WARNING, **about)

    def _peer_left_behind(self, fact: PeerLeftBehind) -> None:
        """It is repeated as long as it lasts: the log has it once after each change."""
        source = str(ip_address(fact.source))
        if (fact.host, source) not in self._left_behind:
            self._left_behind.add((fact.host, source))
            text = f"{fact.host}: {source} has its former vhid, password or addresses: change it there, too"
            host = self._by_name[fact.host]
            about = {"name": host.name, "virtual_host": host.virtual_host, "group": host.group, "source": source}
            self.notices.publish("left behind", text, logging.WARNING, **about)
        self.reloader.left_behind(fact)

    def _stop(self, number: int) -> None:
        if self._stopping:
            return
        self._stopping = True
        self.readiness.stopping()
        self.interfaces.stop()
        LOG.info("%s: leaving", signal.Signals(number).name)
        if self._run is None:
            self._finished.set()
            return
        process = self._run.process
        process.send(Shutdown())
        self._shutdown_limit = asyncio.get_running_loop().call_later(SHUTDOWN_LIMIT_S, self._end_election, process)

    def _end_election(self, process: ElectionProcess) -> None:
        LOG.error("the election process did not leave within %.0f s: ending it", SHUTDOWN_LIMIT_S)
        process.kill()

    def _tell_prepared(self, names: Collection[str]) -> None:
        if self._run is not None:
            for name in names:
                self._run.process.send(HostPrepared(name))
