"""Tells the service manager how the daemon does: ready, alive, reloading, leaving, and a line of status.

The protocol is a datagram of assignments to a Unix socket: less than a library for it would be. Ref: sd_notify(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Self, TypeVar

from carpd.config.model import VirtualHostConfig
from carpd.runtime.logs import LOG
from carpd.runtime.notices import Notice

T = TypeVar("T")

NAMES_LIMIT = 8
"""Virtual hosts that the status line names of each state; the others are counted."""

NOTHING_TO_DO = "no virtual host is configured"

_PATIENCE_S = 1.0
"""How long a service manager that does not read holds us up."""


class ServiceManager:
    """Who has started us, if it wants to be told."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """`address`: a path, or @NAME of an abstract socket; empty: nobody. `watchdog_s` is its patience."""
        self.watchdog_s = watchdog_s
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def of_environment(cls) -> Self:
        """As the environment says, where it is taken away: programs that we start have nothing to tell."""
        address, usec, pid = (os.environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        watched = usec.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(usec) / 1_000_000 if watched else None)

    def tell(self, **assignments: object) -> None:
        """Tell it all of these; nobody, if nobody asked."""
        if not self._address:
            return
        lines = (f"{name}={value}".replace("\n", " ") for name, value in assignments.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_PATIENCE_S)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            LOG.warning("the service manager can't be told %s: %s", ", ".join(assignments), error)


class Readiness:
    """What a daemon tells its service manager."""

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager
        self._ready = False
        self._stopping = False
        self._status = ""

    def interval_s(self, longest: float) -> float:
        """How often `answers` is to be called, half the service manager's patience or `longest`."""
        watchdog_s = self._manager.watchdog_s
        return longest if watchdog_s is None else min(longest, watchdog_s / 2)

    def answers(self, status: str) -> None:
        """The process that does the work has its configuration, and has just answered: only that counts as alive."""
        if self._stopping:
            return
        news: dict[str, object] = {}
        if not self._ready:
            news["READY"] = 1
        if status != self._status:
            news["STATUS"] = status
        if self._manager.watchdog_s is not None:
            news["WATCHDOG"] = 1
        if news:
            self._manager.tell(**news)
        self._ready, self._status = True, status

    def hear(self, notice: Notice) -> None:
        """A reload has its beginning and its end."""
        if notice.kind != "reload" or not self._ready or self._stopping:
            return
        if notice.fields["phase"] == "begin":
            self._manager.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        elif notice.fields["phase"] == "end":
            self._manager.tell(READY=1)

    def stopping(self) -> None:
        self._stopping = True
        self._manager.tell(STOPPING=1, STATUS="")  # it would be shown when we are gone


class Summary:
    """What carpd does, in a line: its states, and what demotes it."""

    def __init__(self, hosts: Callable[[], Iterable[VirtualHostConfig]]) -> None:
        """`hosts` are asked for each time: a reload changes them."""
        self._hosts = hosts
        self._states: dict[str, str] = {}
        self._demotions: dict[str, dict[str, int]] = {}
        """By group, the amounts of its reasons."""

    def hear(self, notice: Notice) -> None:
        """Learn from a notice."""
        facts = notice.fields
        if notice.kind == "state":
            self._states[facts["name"]] = facts["new"]
        elif notice.kind == "demotion":
            reasons = self._demotions.setdefault(facts["group"], {})
            reasons[facts["reason"]] = reasons.get(facts["reason"], 0) + facts["new"] - facts["old"]
        elif notice.kind == "election":  # it is started anew, and tells everything again
            self._states.clear()
            self._demotions.clear()
        elif notice.kind == "reload":  # what is not there any more may come back as another
            hosts = list(self._hosts())
            self._states = _only(self._states, {host.name for host in hosts})
            self._demotions = _only(self._demotions, {host.group for host in hosts})

    def line(self) -> str:
        """MASTER of lan, wan; BACKUP of dmz; demoted by 32: pfsync bulk update"""
        hosts = list(self._hosts())
        if not hosts:
            return NOTHING_TO_DO
        by_state: dict[str, list[str]] = {"MASTER": [], "BACKUP": [], "INIT": []}
        for host in hosts:
            by_state[self._states.get(host.name, "INIT")].append(host.name)
        parts = [f"{state} of {_listed(names)}" for state, names in by_state.items() if names]
        groups = dict.fromkeys(host.group for host in hosts)
        by_reasons: dict[str, list[str]] = {}
        for group in groups:
            by_reasons.setdefault(_reasons(self._demotions.get(group, {})), []).append(group)
        for reasons, demoted in by_reasons.items():
            if reasons:
                parts.append(reasons if len(demoted) == len(groups) else f"{_listed(demoted)} {reasons}")
        return "; ".join(parts)


def _only(values: Mapping[str, T], keys: Container[str]) -> dict[str, T]:
    return {key: value for key, value in values.items() if key in keys}


def _listed(names: list[str]) -> str:
    more = len(names) - NAMES_LIMIT
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:NAMES_LIMIT])} and {more} more"


def _reasons(reasons: Mapping[str, int]) -> str:
    """What demotes a group; nothing if it is not demoted."""
    amounts = {reason: amount for reason, amount in reasons.items() if amount}
    return f"demoted by {sum(amounts.values())}: {', '.join(amounts)}" if amounts else ""
