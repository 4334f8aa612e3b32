"""The supervisor: reads the configuration, prepares interfaces, keeps the election process running, answers `carpctl`.

Slow and varied work, in asyncio, in a process of its own, so that it never delays an election. Ref: design §2.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from carpd import __version__
from carpd.config.model import Config, PfsyncConfig
from carpd.config.parse import load
from carpd.config.problems import Severity
from carpd.control.server import Access, Command, ControlServer
from carpd.effects import DemotionChanged, SharingChanged, StateChanged
from carpd.errors import CarpdError
from carpd.events import CarpState, Configure, HostPrepared, SetDemotion, Shutdown
from carpd.linux import privileges
from carpd.runtime.child_process import how_it_ended
from carpd.runtime.commands import Commands
from carpd.runtime.election_process import ElectionProcess
from carpd.runtime.interface_keeper import InterfaceKeeper
from carpd.runtime.logs import LOG, start_logging
from carpd.runtime.notices import Notices
from carpd.runtime.pfsync_keeper import PfsyncKeeper
from carpd.runtime.preparation import own_addresses_by_interface
from carpd.trace.recording import START

RESTART_DELAY_S = 1.0
"""Between two starts of an election process that does not live that long."""

SHUTDOWN_LIMIT_S = 5.0
"""How long the election process may take to bow out."""

CLAIM = "carpd"
PFSYNC_CLAIM = "pfsyncd"
"""The abstract socket names of the daemons: whoever synchronises states has the second."""

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


def run_pfsync(config_file: Path, node: str | None, socket_path: Path) -> int:
    """Run state synchronisation alone, likewise. This host carries traffic whenever it comes."""
    start_logging()
    try:
        config = _load(config_file, node)
        if config is None:
            return 3
        if config.pfsync is None:
            LOG.error("%s: there is no [pfsync]: write at least syncdev and secret_file below it", config_file)
            return 3
        with ExitStack() as held:
            _claim(held, PFSYNC_CLAIM)
            socket_path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            return asyncio.run(_run_pfsync(config.node, config.pfsync, socket_path))
    except (CarpdError, OSError) as error:
        LOG.error("%s", error)
        return 1


def _run(config_file: Path, node: str | None, socket_path: Path, state_dir: Path, record: Path | None) -> int:
    config = _load(config_file, node)
    if config is None:
        return 3
    if not config.virtual_hosts:
        LOG.error("%s: there is no [carp.NAME]: for state synchronisation alone run pfsyncd", config_file)
        return 3
    with ExitStack() as held:
        _claim(held, CLAIM)
        if config.pfsync:
            _claim(held, PFSYNC_CLAIM)
        state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        recording = held.enter_context(_recording(record)) if record else None
        return asyncio.run(Supervisor(config, socket_path, state_dir, recording).run())


def _load(config_file: Path, node: str | None) -> Config | None:
    """The configuration, or None if the log says what is wrong with it. Raise CarpdError without capabilities."""
    loaded = load(config_file, node, own_addresses_by_interface())
    for problem in loaded.problems:
        (LOG.error if problem.severity is Severity.ERROR else LOG.warning)("%s", problem)
    sharing = loaded.config is not None and any(host.balancing for host in loaded.config.virtual_hosts)
    missing = privileges.missing_capabilities(bpf=sharing)
    if loaded.config is not None and missing:
        raise CarpdError(f"missing capabilities: {', '.join(missing)}: be root, or let the service manager grant them")
    return loaded.config


def _claim(held: ExitStack, name: str) -> None:
    """Be the only daemon of this network namespace: what is left behind in it is then a dead one's. Raise CarpdError.

    Abstract socket names belong to the namespace, and are free again when their owner is gone.
    """
    claim = held.enter_context(socket.socket(socket.AF_UNIX))
    try:
        claim.bind(f"\0{name}")
    except OSError as error:
        raise CarpdError(f"another {name} is running in this network namespace (see `ss -xlp`)") from error
    claim.listen()


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

    def __init__(self, config: Config, socket_path: Path, state_dir: Path, recording: TextIO | None) -> None:
        self.config = config
        self.notices = Notices()
        self.started = time.monotonic()
        self.restarts = 0
        """Of the election process."""
        self.interfaces = InterfaceKeeper(config.virtual_hosts, state_dir, self._tell_prepared)
        self.pfsync = PfsyncKeeper(config.pfsync, self._demote_all) if config.pfsync else None
        self._recording = recording
        self._by_name = {host.name: host for host in config.virtual_hosts}
        self._control = ControlServer(socket_path, Commands(self).table())
        self._demotions: dict[str, int] = {}
        """What demotes every group, by reason: an election process that is started again must know."""
        self._masters: set[str] = set()
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
        hosts = ", ".join(self._by_name)
        LOG.info("carpd %s, node %s: virtual hosts %s", __version__, self.config.node, hosts)
        reason = privileges.keep_capabilities_for_children()
        if reason:
            LOG.warning("%s", reason)
        self.interfaces.clean_left_behind()
        try:
            await self._control.start()
            self._start_election()
            if self.pfsync:
                self.pfsync.start(carrying=False)
            self.interfaces.start()
            watch = asyncio.create_task(self._watch_election())
            await self._finished.wait()
            watch.cancel()
            if self.pfsync:  # until now it told the successor of every connection
                await self.pfsync.stop()
        finally:
            await self._control.stop()
            self.interfaces.undo()
        LOG.info("stopped")
        return 0

    # The election process

    def _start_election(self) -> None:
        if self._recording:
            print(START, file=self._recording)
        process = ElectionProcess(self._fact, self._election_ended, self._recording)
        self._run = _Run(process)
        process.send(Configure(self.config.virtual_hosts, secrets.randbits(64)))
        for reason, amount in self._demotions.items():
            self._demote_all(reason, amount)

    def _demote_all(self, reason: str, amount: int) -> None:
        """Demote every redundancy group for this reason."""
        self._demotions[reason] = amount
        if self._run is not None:
            for group in sorted({host.group for host in self.config.virtual_hosts}):
                self._run.process.send(SetDemotion(group, reason, amount))

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
        LOG.error("the election process ended (%s): every virtual host is silent; starting it again", how)
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
            await asyncio.sleep(WATCH_S)
            run = self._run
            try:
                if run is not None:
                    await run.process.status([], [])
                silences = 0
            except TimeoutError:
                silences += 1
            if silences == SILENCE_LIMIT and run is self._run and run is not None:
                LOG.error("the election process %d does not answer: ending it", run.process.pid)
                run.process.kill()
                silences = 0

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
        elif isinstance(fact, DemotionChanged):
            how = "demoted" if fact.new > fact.old else "promoted"
            text = f"group {fact.group}: {how} from {fact.old} to {fact.new} ({fact.reason})"
            about = {"group": fact.group, "old": fact.old, "new": fact.new, "reason": fact.reason}
            self.notices.publish("demotion", text, logging.WARNING, **about)

    def _stop(self, number: int) -> None:
        if self._stopping:
            return
        self._stopping = True
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


async def _run_pfsync(node: str, config: PfsyncConfig, socket_path: Path) -> int:
    """From the start of pfsyncd to SIGTERM or SIGINT. Raise OSError if it can't begin."""
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, finished.set)
    LOG.info("pfsyncd %s, node %s", __version__, node)
    keeper = PfsyncKeeper(config, lambda reason, amount: None)

    async def status(_request: dict[str, Any]) -> dict[str, Any]:
        about = {"node": node, "version": __version__, "pid": os.getpid(), "virtual_hosts": [], "interfaces": []}
        return about | {"pfsync": await keeper.status()}

    control = ControlServer(socket_path, {"status": Command(Access.READ, status)})
    try:
        await control.start()
        keeper.start(carrying=True)
        await finished.wait()
    finally:
        await keeper.stop()
        await control.stop()
    LOG.info("stopped")
    return 0
