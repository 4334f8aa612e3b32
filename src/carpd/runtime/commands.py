"""What the supervisor does when `carpctl` asks: the commands of the control socket.

Each is a method that takes the request's fields and returns the answer, both of JSON's own types.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from carpd import __version__
from carpd.config.model import VirtualHostConfig
from carpd.control.protocol import ControlError, Failure
from carpd.control.server import Access, Command
from carpd.runtime import status

if TYPE_CHECKING:
    from carpd.runtime.supervisor import Supervisor


class Commands:
    """The commands of a supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def table(self) -> dict[str, Command]:
        """By name."""
        return {
            "status": Command(Access.READ, self.status),
        }

    async def status(self, request: dict[str, Any]) -> dict[str, Any]:
        """All that is known; with `name`, of one virtual host or node."""
        supervisor = self._supervisor
        wanted = self.wanted_hosts(request.get("name"))
        interfaces = sorted({host.interface for host in wanted})
        try:
            names = [host.name for host in wanted]
            reports = await supervisor.election.status(names, interfaces) if supervisor.election else []
        except TimeoutError as error:
            raise ControlError(Failure.TIMED_OUT, "the election process does not answer") from error
        hosts = {host.host: host for report in reports for host in report.hosts}
        pid = supervisor.election.pid if supervisor.election else None
        return {
            "node": supervisor.config.node,
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - supervisor.started, 3),
            "election": {"pid": pid, "restarts": supervisor.restarts},
            "virtual_hosts": [
                status.virtual_host(host, hosts.get(host.name), supervisor.interfaces.mac(host.interface))
                for host in wanted
            ],
            "interfaces": status.interfaces(i for report in reports for i in report.interfaces),
            "pfsync": await supervisor.pfsync.status() if supervisor.pfsync else None,
        }

    def wanted_hosts(self, name: object) -> list[VirtualHostConfig]:
        """The virtual hosts of this name, all without one; NAME alone means all nodes of it. Raise ControlError."""
        hosts = self._supervisor.config.virtual_hosts
        wanted = [host for host in hosts if name is None or name in (host.name, host.virtual_host)]
        if name is not None and not wanted:
            known = ", ".join(dict.fromkeys(host.virtual_host for host in hosts))
            raise ControlError(Failure.NO_SUCH_HOST, f"no virtual host {name!r}: this node has {known}")
        return wanted
