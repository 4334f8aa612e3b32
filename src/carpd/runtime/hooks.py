"""Hooks: programs of the operator's that are run when something has happened, each in its own time.

A hook is given its notices in order, one at a time; what it has not got to yet waits. Nobody waits for a hook.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from carpd.config.model import HookConfig, HookEvent, VirtualHostConfig
from carpd.control.protocol import ControlError, Failure
from carpd.control.server import Tell
from carpd.errors import CarpdError
from carpd.linux import privileges
from carpd.nearest import hint
from carpd.runtime import hook_run
from carpd.runtime.background import in_background
from carpd.runtime.hook_run import Account, Outcome
from carpd.runtime.logs import LOG
from carpd.runtime.notices import Notice, Notices

WAITING_LIMIT = 1000
"""Notices that wait for one hook. Beyond, the oldest are dropped: the newest tell how things are."""

STOP_LIMIT_S = 10.0
"""How long hooks may take when the daemon ends. The last notices tell that this host is master of nothing any more."""

RESULTS = GOOD, FAILED, TIMED_OUT, NOT_STARTED, DROPPED = "good", "failed", "timed out", "not started", "dropped"
"""What comes of a notice."""


def event_of(notice: Notice) -> HookEvent | None:
    """What hooks know it by; None if there is no hook for it. A reload that has only begun is none yet."""
    if notice.fields.get("phase") == "begin":
        return None
    name = notice.fields["new"].lower() if notice.kind == "state" else notice.kind
    return HookEvent(name) if name in {event.value for event in HookEvent} else None


class Hooks:
    """All hooks of a daemon."""

    def __init__(self, notices: Notices) -> None:
        self.results: Counter[tuple[str, str]] = Counter()
        """How many notices came to what, by hook."""
        self._hooks: dict[str, _Hook] = {}
        self._leaving: list[_Hook] = []
        """Not configured any more, and still at work."""
        self._hosts: Sequence[VirtualHostConfig] = ()
        self._unsubscribe = notices.subscribe(self._notice)

    def configure(self, configs: Iterable[HookConfig], hosts: Sequence[VirtualHostConfig]) -> None:
        """These hooks, and no others, from now on, for these virtual hosts. What waits for a hook that stays, stays."""
        before, self._hooks, self._hosts = self._hooks, {}, hosts
        for config in configs:
            hook = before.pop(config.name) if config.name in before else _Hook(config, self.results)
            hook.configure(config)
            self._hooks[config.name] = hook
            self.results.update(dict.fromkeys(((config.name, result) for result in RESULTS), 0))  # 0 is known, too
        for hook in before.values():
            hook.forget_waiting()
        self._leaving = [hook for hook in (*self._leaving, *before.values()) if hook.work and not hook.work.done()]

    async def test(self, request: dict[str, Any], tell: Tell) -> Callable[[], None]:
        """Run the hook `name` as if `event` had happened. Tell of the beginning, each line that it prints, and the end.

        What is returned ends it before its time. Raise ControlError.
        """
        name, event = request.get("name"), request.get("event")
        hook = self._hooks.get(name) if isinstance(name, str) else None
        if hook is None:
            raise ControlError(Failure.NO_SUCH_OBJECT, f"no hook {name!r}: {hint(str(name), self._hooks)}")
        try:
            happened = hook.config.events[0] if event is None else HookEvent(event)
        except ValueError:
            known = [event.value for event in HookEvent]
            raise ControlError(Failure.BAD_REQUEST, f"no event {event!r}: {hint(str(event), known)}") from None
        notice = _made_up(happened, self._host_of(hook.config))
        tell({"begins": notice.text})
        test = asyncio.create_task(_test(hook, happened, notice, tell))

        def end() -> None:
            test.cancel()

        return end

    async def stop(self) -> None:
        """Let them be told what has happened until now, as far as there is time; then nothing runs any more."""
        self._unsubscribe()
        working = {hook: hook.work for hook in (*self._hooks.values(), *self._leaving) if hook.work}
        if not working:
            return
        await asyncio.wait(working.values(), timeout=STOP_LIMIT_S)
        late = {hook: work for hook, work in working.items() if not work.done()}
        for hook, work in late.items():
            left = hook.forget_waiting()
            LOG.error(
                "hook %s: still at work %.0f s after the end: ending it, untold: %d",
                hook.config.name,
                STOP_LIMIT_S,
                left,
            )
            work.cancel()
        if late:
            await asyncio.wait(late.values())

    def _notice(self, notice: Notice) -> None:
        event = event_of(notice)
        for hook in self._hooks.values() if event else ():
            if event in hook.config.events and self._concerns(notice, hook.config):
                hook.tell(event, notice)

    def _concerns(self, notice: Notice, hook: HookConfig) -> bool:
        """Whether a notice is about the virtual hosts of a hook. One that is about none in particular is about all."""
        if not hook.virtual_hosts:
            return True
        if "virtual_host" in notice.fields:
            return notice.fields["virtual_host"] in hook.virtual_hosts
        if "group" in notice.fields:
            group = notice.fields["group"]
            return any(host.group == group and host.virtual_host in hook.virtual_hosts for host in self._hosts)
        return True

    def _host_of(self, hook: HookConfig) -> VirtualHostConfig | None:
        """One of the virtual hosts that it is for, None if there is none."""
        return next((h for h in self._hosts if not hook.virtual_hosts or h.virtual_host in hook.virtual_hosts), None)


class _Hook:
    """One hook, and what it is still to be run for."""

    def __init__(self, config: HookConfig, results: Counter[tuple[str, str]]) -> None:
        self.config = config
        self.work: asyncio.Task[None] | None = None
        """Under way while notices wait."""
        self._results = results
        self._waiting: deque[tuple[HookEvent, Notice]] = deque()
        self._dropped = 0
        self._one_at_a_time = asyncio.Lock()

    def configure(self, config: HookConfig) -> None:
        """From its next run on."""
        self.config = config
        with contextlib.suppress(CarpdError):  # a user who is not there any more is the next run's matter
            if config.user and Account.named(config.user) and (missing := privileges.missing_to_be_another()):
                LOG.error("hook %s: to run it as %s carpd lacks %s", config.name, config.user, ", ".join(missing))

    def tell(self, event: HookEvent, notice: Notice) -> None:
        """Run it for this, in its turn."""
        if len(self._waiting) == WAITING_LIMIT:
            self._waiting.popleft()
            self._dropped += 1
            self._count(DROPPED)
        self._waiting.append((event, notice))
        if self.work is None or self.work.done():
            self.work = asyncio.create_task(self._work())

    def forget_waiting(self) -> int:
        """Run it for nothing of what waits; how many notices that were."""
        count = len(self._waiting)
        self._waiting.clear()
        return count

    async def run(self, event: HookEvent, notice: Notice, heard: Callable[[str], None]) -> Outcome:
        """Run it for this, after what it is run for now. Raise CarpdError if it can't be."""
        async with self._one_at_a_time:
            config = self.config
            account = await in_background(Account.named, config.user) if config.user else None
            document = json.dumps(notice.document()).encode() + b"\n"
            variables = {"CARP_EVENT": event.value, **notice.variables()}
            return await hook_run.run(config.command, account, config.timeout, document, variables, heard)

    async def _work(self) -> None:
        while self._waiting:
            event, notice = self._waiting.popleft()
            if self._dropped:
                LOG.warning("hook %s: too slow: dropped the %d oldest notices", self.config.name, self._dropped)
                self._dropped = 0
            try:
                outcome = await self.run(event, notice, self._heard)
            except CarpdError as error:
                LOG.error("hook %s: %s", self.config.name, error)
                self._count(NOT_STARTED)
                continue
            if not outcome.is_good:
                LOG.warning("hook %s: %s (%s: %s)", self.config.name, outcome, event.value, notice.text)
            self._count(TIMED_OUT if outcome.timed_out else GOOD if outcome.is_good else FAILED)

    def _count(self, result: str) -> None:
        self._results[self.config.name, result] += 1

    def _heard(self, line: str) -> None:
        LOG.info("hook %s: %s", self.config.name, line)


async def _test(hook: _Hook, event: HookEvent, notice: Notice, tell: Tell) -> None:
    try:
        outcome = await hook.run(event, notice, lambda line: tell({"line": line}))
    except CarpdError as error:
        tell({"ends": str(error), "good": False})
    else:
        tell({"ends": str(outcome), "good": outcome.is_good, **asdict(outcome)})


def _made_up(event: HookEvent, host: VirtualHostConfig | None) -> Notice:
    """What a hook is tested with: a notice as such an event brings it, marked as a test."""
    of_host = {}
    of_group = {}
    if host:
        of_host = {"name": host.name, "virtual_host": host.virtual_host, "vhid": host.vhid, "interface": host.interface}
        of_group = {"group": host.group}
    kind = event.value
    fields: dict[str, Any] = {}
    if event in (HookEvent.MASTER, HookEvent.BACKUP, HookEvent.INIT):
        kind = "state"
        old = "MASTER" if event is HookEvent.BACKUP else "BACKUP"
        fields = {**of_host, **of_group, "old": old, "new": event.value.upper(), "reason": "test"}
    elif event is HookEvent.DEMOTION:
        fields = {**of_group, "old": 0, "new": 1, "reason": "test"}
    elif event is HookEvent.SHARING:
        fields = {**of_host, "finding": "test", "present": True}
    elif event is HookEvent.PFSYNC:
        fields = {"part": "link", "ok": True, "reason": "test"}
    elif event is HookEvent.RELOAD:
        fields = {"phase": "end", "reason": "test", "applied": True, "plan": [], "problems": []}
    return Notice(kind, logging.INFO, f"a test of the event {event.value}", {"test": True, **fields}, time.time())
