"""A daemon for carpctl that is none: a control server that gives the answers of a test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from carpd.control.protocol import ControlError
from carpd.control.server import Access, Command, ControlServer, Tell

Answer = dict[str, Any] | list[dict[str, Any]] | ControlError
"""A list is told one after the other, and then the connection is closed."""


class Daemon:
    """Runs in a thread of its own from `start` to `stop`."""

    def __init__(self, path: Path, answers: Mapping[str, Answer]) -> None:
        self.path = path
        self.asked: list[dict[str, Any]] = []
        """Every request, in order, with its command."""
        self._loop = asyncio.new_event_loop()
        self._control = ControlServer(path, {name: self._command(name, answer) for name, answer in answers.items()})
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        self._loop.run_until_complete(self._control.start())
        self._thread.start()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._control.stop(), self._loop).result()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result()  # what was cancelled ends
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _command(self, name: str, answer: Answer) -> Command:
        if isinstance(answer, list):
            return Command(Access.READ, stream=self._stream(name, answer))

        async def handler(request: dict[str, Any]) -> dict[str, Any]:
            self.asked.append({"command": name} | request)
            if isinstance(answer, ControlError):
                raise answer
            return answer

        return Command(Access.READ, handler)

    def _stream(self, name: str, answers: list[dict[str, Any]]) -> Callable[..., Any]:
        async def stream(request: dict[str, Any], tell: Tell) -> Callable[[], None]:
            self.asked.append({"command": name} | request)
            for answer in answers:
                tell(answer)
            asyncio.get_running_loop().call_soon(asyncio.create_task, self._control.stop())
            return lambda: None

        return stream


# What a daemon says


CONFIRMED = {"unconfirmed_s": None, "never_confirmed": False}


def ago(**length: float) -> str:
    """A moment as the daemon writes it."""
    return (datetime.now(UTC) - timedelta(**length)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


COUNTERS = {"ipackets": 1203, "ipackets6": 1, "badauth": 2, "opackets": 0, "preempt": 1}


def host(name: str, state: str = "MASTER", **others: Any) -> dict[str, Any]:
    """An element of `virtual_hosts`."""
    master = {"source": "192.0.2.3", "advbase": 1, "advskew": 0, "demotion": 0, "age_s": 0.4}
    return {
        "name": name,
        "interface": "eth1",
        "device": f"carp-{name}",
        "vhid": 1,
        "addresses": ["192.0.2.1/24", "2001:db8:1::1/64"],
        "mac": "00:00:5e:00:01:01",
        "group": "edge",
        "preempt": True,
        "peers": [],
        "advbase": 1,
        "advskew": 0,
        "master_down_s": 3.0,
        "balancing": None,
        "state": state,
        "since": ago(hours=3.5),
        "reason": "master timed out",
        "waits_for": None,
        "advskew_sent": 0,
        "demotion": 0,
        "demotion_reasons": {},
        "master": master if state == "BACKUP" else None,
        "serves": state == "MASTER",
        "taken": None,
        "findings": [],
        "counters": COUNTERS,
        **others,
    }


def group(name: str, *virtual_hosts: str, **reasons: int) -> dict[str, Any]:
    """An element of `groups`; a reason's blanks are written as underscores."""
    named = [{"reason": reason.replace("_", " "), "amount": n, "until": None} for reason, n in reasons.items()]
    return {"name": name, "virtual_hosts": list(virtual_hosts), "demotion": sum(reasons.values()), "reasons": named}


def status(*hosts: dict[str, Any], groups: list[dict[str, Any]] | None = None, **others: Any) -> dict[str, Any]:
    """The whole answer to "status"."""
    return {
        "node": "fw-a",
        "version": "0.1.0",
        "pid": 100,
        "uptime_s": 12.5,
        "election": {"pid": 101, "restarts": 0},
        **CONFIRMED,
        "virtual_hosts": list(hosts),
        "groups": [group("edge", "lan", "wan")] if groups is None else groups,
        "lateness": {"bounds_s": [0.001, 0.01], "counts": [1000, 1, 0], "sum_s": 0.2},
        "interfaces": [{"name": name, "up": True, "counters": COUNTERS} for name in ("eth0", "eth1")],
        "pfsync": None,
        **others,
    }


def status_of_pfsyncd(pfsync: dict[str, Any]) -> dict[str, Any]:
    """Likewise of pfsyncd, alone."""
    about = {"node": "fw-a", "version": "0.1.0", "pid": 100, **CONFIRMED, "pfsync": pfsync}
    return {**about, "virtual_hosts": [], "groups": [], "interfaces": []}


def pfsync(*peers: dict[str, Any], **others: Any) -> dict[str, Any]:
    """The element `pfsync`."""
    return {
        "syncdev": "eth2",
        "transport": "sealed",
        "version": "linux",
        "restarts": 0,
        "running": True,
        "pid": 102,
        "creator_id": "01020304",
        "link": {"up": True, "reason": None},
        "carrying": True,
        "bulk_update": {"done": True, "reason": "bulk done"},
        "states": 5182,
        "max_states": None,
        "unsent": 0,
        "unconfirmed_age_s": None,
        "defer": None,
        "peers": list(peers),
        "resyncs": {},
        "refused": {},
        "counters": {"ipackets": 1, "sealed_forged": 2, "inserted": 3},
        **others,
    }


def peer(**others: Any) -> dict[str, Any]:
    """One of its peers."""
    about = {"address": "10.0.0.2", "creator_id": "05060708", "heard_age_s": 0.4, "carrying": False, "states": 5182}
    return {**about, "coverage": 100.0, **others}
