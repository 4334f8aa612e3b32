"""pfsyncd without CARP: keeps the process that synchronises states running, and answers `carpctl`.

This host carries traffic whenever it comes: there is no master, no backup, and nobody to give way to.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carpd import __version__
from carpd.config.model import Config
from carpd.control.server import Access, Command, ControlServer, Groups
from carpd.runtime.configuration import ConfigurationFile
from carpd.runtime.hooks import Hooks
from carpd.runtime.logs import LOG
from carpd.runtime.metrics_server import MetricsServer
from carpd.runtime.notices import Notices
from carpd.runtime.pfsync_keeper import PfsyncKeeper
from carpd.runtime.readiness import Readiness, ServiceManager
from carpd.runtime.reload import Reloader
from carpd.runtime.unconfirmed_note import UnconfirmedNote

WATCH_S = 1.0
"""Between two questions to the process."""


class SyncSupervisor:
    """One node's pfsyncd, less the synchronisation."""

    def __init__(self, config: Config, file: ConfigurationFile, socket_path: Path, state_dir: Path) -> None:
        """Raise CarpdError."""
        assert config.pfsync is not None, "the file is read for this"
        self.config = config
        self.notices = Notices()
        self._readiness = Readiness(ServiceManager.of_environment())
        self.notices.subscribe(self._readiness.hear)
        self._reloader = Reloader(self, file.of(config.node).read_again, UnconfirmedNote(state_dir))
        self._hooks = Hooks(self.notices)
        self._hooks.configure(config.hooks, config.virtual_hosts)
        self._keeper = PfsyncKeeper(config.pfsync, state_dir, lambda reason, amount: None, self.notices)
        commands = {
            "status": Command(Access.READ, self._status),
            "names": Command(Access.READ, self._names),
            "hook_test": Command(Access.CHANGE, stream=self._hooks.test),
            **self._reloader.commands(),
        }
        self._control = ControlServer(socket_path, commands, Groups.of(config.control))
        self._metrics = MetricsServer(self.notices, lambda: self._status({}), self._hooks.results)

    async def run(self) -> int:
        """Until SIGTERM or SIGINT. Raise OSError if it can't begin."""
        loop = asyncio.get_running_loop()
        finished = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, finished.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.hang_up)
        LOG.info("pfsyncd %s, node %s", __version__, self.config.node)
        self._reloader.begin()
        try:
            await self._control.start()
            await self._metrics.configure(self.config.metrics)
            self._keeper.start(carrying=True)
            watch = asyncio.create_task(self._watch())
            await finished.wait()
            watch.cancel()
            self._readiness.stopping()
        finally:
            await self._reloader.stop()
            await self._keeper.stop()
            await self._control.stop()
            await self._metrics.stop()
            await self._hooks.stop()
        LOG.info("stopped")
        return 0

    async def _watch(self) -> None:
        """The service manager ends a pfsyncd that hangs: without CARP there is no demotion that could show it."""
        while True:
            status = await self._keeper.status()
            if status["running"] and "waits_for" not in status:
                link, bulk = status["link"], status["bulk_update"]
                self._readiness.answers(bulk["reason"] if link["up"] else link["reason"])
            await asyncio.sleep(self._readiness.interval_s(WATCH_S))

    async def _names(self, _request: dict[str, Any]) -> dict[str, Any]:
        hooks = [hook.name for hook in self.config.hooks]
        return {"virtual_hosts": [], "nodes": [], "groups": [], "hooks": hooks}

    async def _status(self, _request: dict[str, Any]) -> dict[str, Any]:
        about = {"node": self.config.node, "version": __version__, "pid": os.getpid()}
        nothing: dict[str, Any] = {"virtual_hosts": [], "groups": [], "interfaces": []}
        return about | nothing | self._reloader.status() | {"pfsync": await self._keeper.status()}

    # Changes of the configuration. Ref: runtime.reload.Daemon

    async def change(self, new: Config) -> Sequence[str]:
        """Go over to another configuration. Raise CarpdError if nothing was changed."""
        assert new.pfsync is not None, "the file is read for this"
        self._control.groups = Groups.of(new.control)
        self.config = new
        self._hooks.configure(new.hooks, new.virtual_hosts)
        await self._metrics.configure(new.metrics)
        await self._keeper.reconfigure(new.pfsync)
        return ()

    def is_master(self, name: str) -> bool:
        """Never: there are no virtual hosts."""
        return False

    async def heard_ns(self, name: str) -> int | None:
        """Likewise."""
        return None

    async def hears_sync_peers(self) -> bool:
        """Whether any is heard."""
        return bool(await self._keeper.peers())

    async def refuses_sync_peers(self) -> bool:
        """Whether nobody is heard but those who have another secret."""
        return await self._keeper.hears_strangers_alone()
