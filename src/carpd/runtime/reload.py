"""Changes the configuration of a daemon that runs: read, checked, shown, applied; and taken back if it was no good.

A change is made as a whole or not at all, one at a time. What is to be confirmed is taken back when that is not done in
time; or before, if peers prove that they refuse us because of it:

* A peer that shows a virtual host's *former* vhid, password or addresses has not been configured anew: neither believes
  the other (`PeerLeftBehind`: no stranger, and no noise on the link, can make us go back by that). If this host is
  master there are two of them already, and the change is taken back at once. A backup waits for two thirds of its
  master-down time: so long an operator has for the other nodes, and who then hears no master that it believes would
  soon be a second one.
* Where [pfsync] was changed and peers had been heard: none is heard any more, and what comes is sealed by a secret that
  is not ours.

What was taken back is still in the file; so is what is on trial when the daemon ends. Whoever starts with it is told
that it was never confirmed, until it is, or the file is read again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Protocol

from carpd.config.model import Config, VirtualHostConfig
from carpd.config.parse import Loaded
from carpd.config.plan import Change, needs_restart, plan
from carpd.control.protocol import ControlError, Failure
from carpd.control.server import Access, Command
from carpd.effects import PeerLeftBehind
from carpd.errors import CarpdError
from carpd.runtime import configuration
from carpd.runtime.background import in_background
from carpd.runtime.logs import LOG
from carpd.runtime.notices import Notices
from carpd.runtime.unconfirmed_note import UnconfirmedNote
from carpd.units import SECOND

CONFIRM_LIMIT_S = 86400
"""Who has not confirmed a change after a day has forgotten it."""

LOOK_S = 1.0
"""Between two looks at whether pfsync's peers refuse us."""


class RefusedError(CarpdError):
    """Nothing was changed, for this reason."""


class BadConfigurationError(RefusedError):
    """The file can't be used: a line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Daemon(Protocol):
    """What is changed."""

    config: Config
    notices: Notices

    async def change(self, new: Config) -> Sequence[str]:
        """Go over to this configuration. Raise CarpdError if nothing was changed.

        Return what the kernel refused, a line each: it is tried again.
        """
        ...

    def is_master(self, name: str) -> bool:
        """Whether this host is master of a virtual host."""
        ...

    async def heard_ns(self, name: str) -> int | None:
        """When a virtual host last believed the advertisement of a peer; None: not since it began, or it is master."""
        ...

    async def hears_sync_peers(self) -> bool:
        """Whether pfsync hears any."""
        ...

    async def refuses_sync_peers(self) -> bool:
        """Whether pfsync hears nobody but those who have another secret."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, or would be."""

    plan: Sequence[Change]
    problems: Sequence[str] = ()
    """What the file could do better, a line each."""
    failures: Sequence[str] = ()
    """What the kernel refused, a line each: it is tried again."""
    applied: bool = False
    """Whether the daemon has this configuration now."""
    confirm_s: float | None = None
    """What is changed is taken back after that, unless it is confirmed."""

    def document(self) -> dict[str, Any]:
        """As JSON's own types."""
        return {
            "applied": self.applied,
            "plan": [change.document() for change in self.plan],
            "problems": [*self.problems],
            "failures": [*self.failures],
            "confirm_s": self.confirm_s,
        }


@dataclass(slots=True)
class _Trial:
    """A change that waits for its confirmation."""

    before: Config
    began_ns: int
    until_ns: int
    judging: set[str] = field(default_factory=set)
    """The virtual hosts that peers refuse, of which it is not clear yet whether for long."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Each waits for a reason to go back."""

    def add(self, task: asyncio.Task[None]) -> None:
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    @property
    def left_s(self) -> float:
        return max(0, self.until_ns - time.monotonic_ns()) / SECOND


Wanted = Callable[[], Awaitable[tuple[Config, Sequence[str]]]]
"""Says what to change to, and what is wrong with that. May raise CarpdError."""


class Reloader:
    """Changes one daemon. `read` reads its file again, while a configuration runs, as it was read at the start."""

    def __init__(self, daemon: Daemon, read: Callable[[Config], Loaded], note: UnconfirmedNote) -> None:
        self._daemon = daemon
        self._read = read
        self.turn = asyncio.Lock()
        """Who has it may change the configuration, or look at it while nobody does."""
        self._trial: _Trial | None = None
        self._note = note
        self.never_confirmed = False
        """Whether the daemon has started with what `reload --confirm` tried, and nobody has said a word since."""
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """The daemon starts with what is in the file."""
        self.never_confirmed = self._note.is_about(self._daemon.config.tables)
        if self.never_confirmed:
            what = "this configuration was tried by reload --confirm, and never confirmed"
            LOG.warning("%s: carpctl confirm, or mend and reload it", what)
        else:
            self._note.remove()

    async def plan(self) -> Outcome:
        """What `reload` would do. Raise BadConfigurationError, CarpdError."""
        new, problems = usable(await in_background(self._read, self._daemon.config))
        return Outcome(plan(self._daemon.config, new), problems)

    async def reload(self, what: str = "reload", confirm_s: float | None = None) -> Outcome:
        """Read the file again, and go over to what it says, perhaps until it is not confirmed. Raise RefusedError."""

        async def read() -> tuple[Config, Sequence[str]]:
            loaded = await in_background(self._read, self._daemon.config)
            configuration.log(loaded.problems)
            return usable(loaded)

        async with self.turn:
            outcome = await self._perform(what, "reading the configuration", read, confirm_s)
            self.never_confirmed = False
            if self._trial is None:
                self._note.remove()
            return outcome

    async def apply(self, new: Config, what: str) -> Outcome:
        """Go over to this configuration, whatever the file says. `what` names it in the log. Raise RefusedError."""
        return await self.go_over_to(_given(new), what)

    async def go_over_to(self, wanted: Wanted, what: str) -> Outcome:
        """Likewise to what `wanted` says when it is its turn."""
        async with self.turn:
            return await self._perform(what, "changing the configuration", wanted)

    def confirm(self) -> None:
        """The last change is to stay. Raise RefusedError if nothing waits for that."""
        if self._trial is None and not self.never_confirmed:
            raise RefusedError("nothing waits for a confirmation: it was taken back, or confirmed before")
        self._end_trial()
        self.never_confirmed = False
        self._note.remove()
        self._daemon.notices.publish("reload", "reload: confirmed", phase="confirmed")

    @property
    def unconfirmed_s(self) -> float | None:
        """How many seconds are left to confirm the last change; None if it needs no confirmation."""
        return round(self._trial.left_s, 3) if self._trial else None

    def status(self) -> dict[str, Any]:
        """Its part of the status."""
        return {"unconfirmed_s": self.unconfirmed_s, "never_confirmed": self.never_confirmed}

    def commands(self) -> dict[str, Command]:
        """What `carpctl` asks for."""
        return {
            "reload": Command(Access.CHANGE, self._reload_command),
            "confirm": Command(Access.CHANGE, self._confirm_command),
        }

    async def _reload_command(self, request: dict[str, Any]) -> dict[str, Any]:
        """With `plan` it only tells, with `confirm_s` it goes back then. Ref: Outcome.document"""
        confirm_s = request.get("confirm_s")
        if confirm_s is not None and not (type(confirm_s) is int and 1 <= confirm_s <= CONFIRM_LIMIT_S):
            raise ControlError(Failure.BAD_REQUEST, f"confirm_s: {confirm_s!r:.60} is not between a second and a day")
        try:
            outcome = await (self.plan() if request.get("plan") else self.reload(confirm_s=confirm_s))
        except BadConfigurationError as error:
            raise ControlError(Failure.CONFIGURATION, str(error)) from error
        except CarpdError as error:
            raise ControlError(Failure.REFUSED, f"nothing was changed: {error}") from error
        return outcome.document()

    async def _confirm_command(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self.confirm()
        except RefusedError as error:
            raise ControlError(Failure.REFUSED, str(error)) from error
        return {"confirmed": True}

    def hang_up(self) -> None:
        """SIGHUP: `reload`, in its turn. What comes of it is in the log."""
        self._start(self._without_refusal(self.reload("SIGHUP")))

    async def stop(self) -> None:
        """The daemon ends: what is under way is given up."""
        self._end_trial()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # How it is done

    async def _perform(self, what: str, opening: str, wanted: Wanted, confirm_s: float | None = None) -> Outcome:
        """Between the notices of its beginning and its end, whatever comes of it."""
        self._publish(f"{what}: {opening}", phase="begin", reason=what)
        about: dict[str, Any] = {"phase": "end", "reason": what, "applied": False, "plan": [], "problems": []}
        try:
            outcome = await self._change(what, wanted, confirm_s)
        except BadConfigurationError as error:
            about["problems"] = [*error.problems]
            self._publish(f"{what}: nothing was changed: the configuration is wrong", logging.ERROR, **about)
            raise
        except CarpdError as error:
            self._publish(f"{what}: nothing was changed: {error}", logging.ERROR, **about)
            raise RefusedError(str(error)) from error
        except BaseException:
            self._publish(f"{what}: given up", logging.ERROR, **about)
            raise
        lines = [str(change) for change in outcome.plan]
        changes = f"{len(lines)} change{'s' * (len(lines) != 1)}" if lines else "nothing has changed"
        text = f"{what}: {changes}"
        if self._trial:
            text += f", to be confirmed within {self._trial.left_s:.0f} s"
        about |= {"applied": True, "plan": lines, "problems": [*outcome.problems]}
        self._publish(text, **about)
        return outcome

    async def _change(self, what: str, wanted: Wanted, confirm_s: float | None) -> Outcome:
        if self._trial:
            left = f"{self._trial.left_s:.0f} s"
            raise RefusedError(f"the last change waits for `carpctl confirm`, and is taken back without in {left}")
        before = self._daemon.config
        new, problems = await wanted()
        changes = plan(before, new)
        for change in changes:
            LOG.info("%s: %s", what, change)
        failures: Sequence[str] = ()
        if not changes:
            self._daemon.config = new  # the same, perhaps written in another way
        else:
            heard = confirm_s is not None and await self._sync_peers_may_refuse(before, new)
            if confirm_s is not None:
                self._note.write(new.tables)
            failures = await self._daemon.change(new)
            if confirm_s is not None:
                self._begin_trial(before, confirm_s, watch_pfsync=heard)
        return Outcome(changes, problems, failures, applied=True, confirm_s=confirm_s if changes else None)

    def _publish(self, text: str, level: int = logging.INFO, **fields: Any) -> None:
        self._daemon.notices.publish("reload", text, level, **fields)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            LOG.error("reload: an error of carpd itself", exc_info=task.exception())

    @staticmethod
    async def _without_refusal(work: Awaitable[Outcome]) -> None:
        with suppress(RefusedError):  # the log has it
            await work

    # Going back

    def _begin_trial(self, before: Config, confirm_s: float, *, watch_pfsync: bool) -> None:
        now = time.monotonic_ns()
        self._trial = trial = _Trial(before, now, now + int(confirm_s * SECOND))
        trial.add(self._start(self._wait_in_vain(trial)))
        if watch_pfsync:
            trial.add(self._start(self._watch_pfsync(trial)))

    def _end_trial(self) -> None:
        trial, self._trial = self._trial, None
        for task in trial.tasks if trial else ():
            task.cancel()

    def _take_back(self, trial: _Trial, why: str) -> None:
        """In its turn: until then it may be confirmed."""
        self._start(self._go_back(trial, why))

    async def _go_back(self, trial: _Trial, why: str) -> None:
        async with self.turn:
            if self._trial is trial:
                self._end_trial()
                opening = f"{why}: taking the last change back, which is still in the file"
                await self._without_refusal(self._perform("reload", opening, _given(trial.before)))

    async def _wait_in_vain(self, trial: _Trial) -> None:
        await asyncio.sleep(trial.left_s)
        self._take_back(trial, "nobody has confirmed it")

    def left_behind(self, fact: PeerLeftBehind) -> None:
        """A peer has the former settings of a virtual host. This is told every second, as long as it lasts."""
        trial, host = self._trial, _host(self._daemon.config, fact.host)
        if trial is None or host is None or host == _host(trial.before, host.name) or host.name in trial.judging:
            return
        trial.judging.add(host.name)
        trial.add(self._start(self._judge(trial, host, f"{host.name}: {ip_address(fact.source)} refuses us")))

    async def _judge(self, trial: _Trial, host: VirtualHostConfig, why: str) -> None:
        """Go back, or give the peer time: see the beginning of this file."""
        if not self._daemon.is_master(host.name):
            patience_ns = trial.began_ns + 2 * host.master_down_ns // 3
            await asyncio.sleep(max(0, patience_ns - time.monotonic_ns()) / SECOND)
            heard_ns = await self._daemon.heard_ns(host.name)
            if heard_ns is not None and heard_ns > trial.began_ns:
                trial.judging.discard(host.name)
                return
        self._take_back(trial, why)

    async def _sync_peers_may_refuse(self, old: Config, new: Config) -> bool:
        """Whether pfsync is about to speak otherwise with peers that it hears now."""
        if old.pfsync is None or new.pfsync is None or not needs_restart(old.pfsync, new.pfsync):
            return False
        return await self._daemon.hears_sync_peers()

    async def _watch_pfsync(self, trial: _Trial) -> None:
        while not await self._daemon.refuses_sync_peers():
            await asyncio.sleep(LOOK_S)
        self._take_back(trial, "pfsync: the peers have other secrets")


def usable(loaded: Loaded) -> tuple[Config, Sequence[str]]:
    """With what could be better. Raise BadConfigurationError."""
    problems = [str(problem) for problem in loaded.problems]
    if loaded.config is None:
        raise BadConfigurationError(problems)
    return loaded.config, problems


def _given(config: Config) -> Wanted:
    async def given() -> tuple[Config, Sequence[str]]:
        return config, ()

    return given


def _host(config: Config, name: str) -> VirtualHostConfig | None:
    return next((host for host in config.virtual_hosts if host.name == name), None)
