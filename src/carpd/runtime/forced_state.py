"""An operator's wish that this host be master of a virtual host, or backup: done, and seen to last.

Who is better placed takes over again at once: CARP knows no lasting wish but demotion. An operator who was told that it
is done, and is not, would be puzzled. Ref: spec carp §15.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING

from carpd.carp.preference import Preference, own_preference
from carpd.carp.status import HeardMaster, HostStatus
from carpd.config.model import VirtualHostConfig
from carpd.control.protocol import ControlError, Failure
from carpd.events import CarpState, ForceState
from carpd.runtime.notices import Notice
from carpd.units import SECOND

if TYPE_CHECKING:
    from carpd.runtime.supervisor import Supervisor

LIMIT_S = 2.0
"""How long it may take: a master that leaves needs a tenth of a second."""

OBJECTION_S = 0.5
"""So long after its next advertisement a rival has objected, or does not."""
OBJECTION_LIMIT_S = 2.0
"""Nobody's objection is waited for longer: a client waits for five seconds in all."""


async def force(supervisor: Supervisor, host: VirtualHostConfig, wanted: CarpState) -> None:
    """Make it so. Raise ControlError if it can't be, or does not last; TimeoutError."""
    before = await _report(supervisor, host)
    if before.state is wanted:
        return
    if before.state is CarpState.INIT:
        raise ControlError(Failure.REFUSED, f"{host.name} can't be {wanted.name}, it is INIT: {before.waits_for}")
    states: asyncio.Queue[str] = asyncio.Queue()

    def hear(notice: Notice) -> None:
        if notice.kind == "state" and notice.fields["name"] == host.name:
            states.put_nowait(notice.fields["new"])

    with ExitStack() as subscribed:
        subscribed.callback(supervisor.notices.subscribe(hear))
        supervisor.tell(ForceState(host.name, wanted))
        if not await _until(states, lambda state: state == wanted.name, LIMIT_S):
            raise ControlError(Failure.TIMED_OUT, f"{host.name} is not {wanted.name} after {LIMIT_S:g} s")
        rival = _rival(host, wanted, before if wanted is CarpState.MASTER else await _report(supervisor, host))
        if rival is not None:
            next_one_s = rival.message.interval_ns / SECOND
            limit_s = min(next_one_s + OBJECTION_S, OBJECTION_LIMIT_S)
            if await _until(states, lambda state: state != wanted.name, limit_s):
                raise ControlError(Failure.REFUSED, _objection(host, wanted, rival))


def _rival(host: VirtualHostConfig, wanted: CarpState, status: HostStatus) -> HeardMaster | None:
    """For whose sake the election will undo it: as MASTER over there, as BACKUP here."""
    if status.heard is None:
        return None
    own = own_preference(host, status.demotion)
    other = Preference.heard(status.heard.message, host.demotion)
    undone = other < own if wanted is CarpState.MASTER else host.preempt and own < other
    return status.heard if undone else None


def _objection(host: VirtualHostConfig, wanted: CarpState, rival: HeardMaster) -> str:
    source = ip_address(rival.source)
    if wanted is CarpState.MASTER:
        return f"{host.name} is BACKUP again: {source} is better placed; demote {host.virtual_host} there"
    return f"{host.name} is MASTER again: it preempts, better placed than {source}; demote {host.virtual_host} instead"


async def _until(states: asyncio.Queue[str], reached: Callable[[str], bool], limit_s: float) -> bool:
    """Whether such a state comes in time."""
    try:
        async with asyncio.timeout(limit_s):
            while not reached(await states.get()):
                pass
    except TimeoutError:
        return False
    return True


async def _report(supervisor: Supervisor, host: VirtualHostConfig) -> HostStatus:
    """Raise ControlError if there is none, TimeoutError."""
    reports = await supervisor.election.status([host.name], []) if supervisor.election else []
    for report in reports:
        for status in report.hosts:
            return status
    raise ControlError(Failure.REFUSED, f"{host.name}: the election process does not run: its log says why")
