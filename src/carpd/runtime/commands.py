"""What the supervisor does when `carpctl` asks: the commands of the control socket.

Each is a method that takes the request's fields and returns the answer, both of JSON's own types.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from carpd import __version__
from carpd.config.model import VirtualHostConfig
from carpd.control.protocol import ControlError, Failure
from carpd.control.server import Access, Command, Tell
from carpd.events import CarpState
from carpd.nearest import hint
from carpd.runtime import forced_state, status
from carpd.runtime.configuration import ConfigurationFile
from carpd.runtime.demotions import operators_reason
from carpd.runtime.ifconfig import Ifconfig
from carpd.runtime.inquiries import Inquiries
from carpd.runtime.lateness import NONE_YET
from carpd.runtime.notices import Notice

if TYPE_CHECKING:
    from carpd.runtime.supervisor import Supervisor

AMOUNT_LIMIT = 255
"""An operator's demotion: what fits into byte 4 of an advertisement."""
REASON_LIMIT = 80
"""Characters of a reason: it is to fit on a line."""
FOR_LIMIT_S = 366 * 86400
"""A demotion that should last longer has no end."""

T = TypeVar("T", int, str)


class Commands:
    """The commands of a supervisor."""

    def __init__(self, supervisor: Supervisor, file: ConfigurationFile) -> None:
        self._supervisor = supervisor
        self._file = file
        self._inquiries = Inquiries(self._described)
        supervisor.notices.subscribe(lambda notice: self._inquiries.forget())

    def table(self) -> dict[str, Command]:
        """By name."""
        return {
            "status": Command(Access.READ, self.status),
            "names": Command(Access.READ, self.names),
            "monitor": Command(Access.READ, stream=self.monitor),
            "state": Command(Access.CHANGE, self.state),
            "demote": Command(Access.CHANGE, self.demote),
            "end_demotion": Command(Access.CHANGE, self.end_demotion),
            **self._supervisor.reloader.commands(),
            **Ifconfig(self._supervisor, self, self._file).table(),
            "hook_test": Command(Access.CHANGE, stream=self._supervisor.hooks.test),
        }

    async def status(self, request: dict[str, Any]) -> dict[str, Any]:
        """All that is known; with `name`, of one virtual host or node."""
        supervisor = self._supervisor
        wanted = self.wanted_hosts(request.get("name"))
        described = await self._ask(wanted)
        pid = supervisor.election.pid if supervisor.election else None
        return {
            "node": supervisor.config.node,
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - supervisor.started, 3),
            "election": {"pid": pid, "restarts": supervisor.restarts},
            **supervisor.reloader.status(),
            **described,
            "pfsync": await supervisor.pfsync.status() if supervisor.pfsync else None,
        }

    async def _ask(self, hosts: Iterable[VirtualHostConfig]) -> dict[str, Any]:
        """What the election process says of them. The answer may be given to others, too. Raise ControlError."""
        try:
            return await self._inquiries.ask(tuple(hosts))
        except TimeoutError as error:
            raise ControlError(Failure.TIMED_OUT, "the election process does not answer") from error

    async def _described(self, wanted: tuple[VirtualHostConfig, ...]) -> dict[str, Any]:
        """Their part of the status, and that of their groups and interfaces. Raise TimeoutError."""
        supervisor = self._supervisor
        interfaces = sorted({host.interface for host in wanted})
        names = [host.name for host in wanted]
        reports = await supervisor.election.status(names, interfaces) if supervisor.election else []
        hosts = {host.host: host for report in reports for host in report.hosts}
        return {
            "virtual_hosts": [
                status.virtual_host(host, hosts.get(host.name), supervisor.interfaces.mac(host.interface))
                for host in wanted
            ],
            "groups": status.groups(wanted, hosts, supervisor.demotions.of),
            "interfaces": status.interfaces(i for report in reports for i in report.interfaces),
            "lateness": status.lateness(reports[-1].lateness if reports else NONE_YET),
        }

    async def names(self, request: dict[str, Any]) -> dict[str, Any]:
        """Of virtual hosts, of nodes where they are several to a virtual host, of redundancy groups, of hooks."""
        hosts = self._supervisor.config.virtual_hosts
        return {
            "virtual_hosts": list(dict.fromkeys(host.virtual_host for host in hosts)),
            "nodes": [host.name for host in hosts if host.balancing],
            "groups": list(dict.fromkeys(host.group for host in hosts)),
            "hooks": [hook.name for hook in self._supervisor.config.hooks],
        }

    async def monitor(self, request: dict[str, Any], tell: Tell) -> Callable[[], None]:
        """The state of each virtual host, then every notice; with `name`, what concerns that one alone."""
        name = request.get("name")
        wanted = self.wanted_hosts(name)
        concerned = {n for host in wanted for n in (host.name, host.virtual_host)}, {host.group for host in wanted}
        meanwhile: list[dict[str, Any]] = []
        tell_it = meanwhile.append  # until the states have been told

        def hear(notice: Notice) -> None:
            if name is None or _concerns(notice, *concerned):
                tell_it(notice.document())

        end = self._supervisor.notices.subscribe(hear)
        try:
            described = await self._ask(wanted)
        except BaseException:
            end()
            raise
        for host, document in zip(wanted, described["virtual_hosts"], strict=True):
            tell(status.state_event(host, document))
        if not wanted:
            tell(status.nothing_to_do_event())
        for event in meanwhile:
            tell(event)
        tell_it = tell
        return end

    async def state(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make all nodes of `name` master or backup; their part of the status afterwards."""
        wanted = self.wanted_hosts(_field(request, "name", str))
        try:
            state = CarpState[_field(request, "state", str).upper()]
        except KeyError:
            state = CarpState.INIT
        if state is CarpState.INIT:
            raise ControlError(Failure.BAD_REQUEST, "state: master or backup")
        before = await self._ask(wanted)
        try:
            await asyncio.gather(*(forced_state.force(self._supervisor, host, state) for host in wanted))
        except TimeoutError as error:
            raise ControlError(Failure.TIMED_OUT, "the election process does not answer") from error
        after = await self._ask(wanted)
        return {"before": {host["name"]: host["state"] for host in before["virtual_hosts"]}, **after}

    async def demote(self, request: dict[str, Any]) -> dict[str, Any]:
        """Demote the group of `name` by `amount` for an operator's `reason`, perhaps for `for_s` seconds only."""
        group = self._group(_field(request, "name", str))
        amount = _field(request, "amount", int)
        reason = _reason(request)
        for_s = _field(request, "for_s", int) if request.get("for_s") is not None else None
        if not 1 <= amount <= AMOUNT_LIMIT:
            raise ControlError(Failure.BAD_REQUEST, f"amount: {amount} is not between 1 and {AMOUNT_LIMIT}")
        if for_s is not None and not 1 <= for_s <= FOR_LIMIT_S:
            raise ControlError(Failure.BAD_REQUEST, f"for: {for_s} s is not between a second and a year")
        self._supervisor.demotions.demote(group, operators_reason(reason), amount, for_s)
        return await self._group_status(group)

    async def end_demotion(self, request: dict[str, Any]) -> dict[str, Any]:
        """End what an operator began for this `reason`; without one, all of it."""
        group = self._group(_field(request, "name", str))
        demotions = self._supervisor.demotions
        reasons = demotions.reasons(group)
        reason = _reason(request)
        if not reasons:
            raise ControlError(Failure.NO_SUCH_OBJECT, f"group {group}: no operator has demoted it")
        if reason is not None and operators_reason(reason) not in reasons:
            what = f"group {group} is not demoted by {operators_reason(reason)!r}"
            raise ControlError(Failure.NO_SUCH_OBJECT, f"{what}: {hint(operators_reason(reason), reasons)}")
        ended = reasons if reason is None else [operators_reason(reason)]
        for one in ended:
            demotions.end(group, one)
        return {"ended": ended, **await self._group_status(group)}

    async def _group_status(self, group: str) -> dict[str, Any]:
        """A group's part of the status."""
        self._inquiries.forget()
        described = await self._ask(host for host in self._supervisor.config.virtual_hosts if host.group == group)
        (of_group,) = described["groups"]
        return {"group": of_group}

    def _group(self, name: str) -> str:
        """The group of this name, or of the virtual host of this name. Raise ControlError."""
        hosts = self._supervisor.config.virtual_hosts
        of_hosts = {host.group for host in hosts if name in (host.name, host.virtual_host)}
        of_name = {host.group for host in hosts if host.group == name}
        if len(of_hosts | of_name) > 1:
            (other,) = of_hosts - of_name
            what = f"{name!r} is a group, and a virtual host of group {other!r}"
            raise ControlError(Failure.REFUSED, f"{what}: name the one or the other, or another virtual host of it")
        for group in of_hosts | of_name:
            return group
        known = [known for host in hosts for known in (host.virtual_host, host.group)]
        what = f"no virtual host or group {name!r}"
        raise ControlError(Failure.NO_SUCH_OBJECT, f"{what}: {hint(name, known, otherwise='this node has')}")

    def wanted_hosts(self, name: object) -> list[VirtualHostConfig]:
        """The virtual hosts of this name, all without one; NAME alone means all nodes of it. Raise ControlError."""
        hosts = self._supervisor.config.virtual_hosts
        wanted = [host for host in hosts if name is None or name in (host.name, host.virtual_host)]
        if name is not None and not wanted:
            known = (host.virtual_host for host in hosts)
            what = f"no virtual host {name!r}"
            raise ControlError(Failure.NO_SUCH_OBJECT, f"{what}: {hint(str(name), known, otherwise='this node has')}")
        return wanted


def _concerns(notice: Notice, names: set[str], groups: set[str]) -> bool:
    """Whether a notice is about a virtual host, or its group."""
    about = {notice.fields.get("name"), notice.fields.get("virtual_host")}
    if about == {None}:
        return notice.fields.get("group") in groups
    return bool(about & names)


def _field(request: dict[str, Any], name: str, kind: type[T]) -> T:
    """A field that there must be. Raise ControlError."""
    value = request.get(name)
    if type(value) is not kind:
        raise ControlError(Failure.BAD_REQUEST, f"{name}: need {kind.__name__}, got {value!r:.60}")
    return value


def _reason(request: dict[str, Any]) -> str | None:
    """Words that fit on a line of the log. Raise ControlError."""
    if request.get("reason") is None:
        return None
    reason = _field(request, "reason", str).strip()
    if not reason or not reason.isprintable() or len(reason) > REASON_LIMIT:
        raise ControlError(Failure.BAD_REQUEST, f"reason: need 1 to {REASON_LIMIT} printable characters")
    return reason
