"""`carpctl status --json`: what the configuration says and what the election process reports, put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from carpd.carp.announce import answering_mac
from carpd.carp.balancing import shared_mac
from carpd.carp.status import HostStatus, InterfaceStatus
from carpd.config.model import VirtualHostConfig
from carpd.runtime.demotions import Demotion
from carpd.runtime.lateness import BOUNDS_NS, Lateness
from carpd.runtime.readiness import NOTHING_TO_DO
from carpd.units import SECOND
from carpd.wire.carp import virtual_mac
from carpd.wire.ethernet import format_mac


def virtual_host(config: VirtualHostConfig, status: HostStatus | None, interface_mac: bytes | None) -> dict[str, Any]:
    """One element of `virtual_hosts`. `status` is None while the election process does not know it (yet)."""
    mac = _mac(config, interface_mac)
    described = {
        "name": config.name,
        "interface": config.interface,
        "device": config.device,
        "vhid": config.vhid,
        "addresses": [str(address) for address in config.addresses],
        "mac": format_mac(mac) if mac else None,
        "group": config.group,
        "preempt": config.preempt,
        "peers": [str(peer) for peer in config.peers],
        "advbase": config.advbase,
        "advskew": config.advskew,
        "master_down_s": config.master_down_ns / SECOND,
        "balancing": _balancing(config),
    }
    return described | (_reported(status) if status else _unknown(config))


def _reported(status: HostStatus) -> dict[str, Any]:
    return {
        "state": status.state.name,
        "since": _utc(status.since_ns) if status.reason else None,
        "reason": status.reason.value if status.reason else None,
        "waits_for": status.waits_for or None,
        "advskew_sent": status.advskew,
        "demotion": status.demotion,
        "demotion_reasons": status.demotion_reasons,
        "master": _master(status),
        "serves": status.serves,
        "taken": status.taken,
        "findings": list(status.findings),
        "counters": asdict(status.counters),
    }


def _unknown(config: VirtualHostConfig) -> dict[str, Any]:
    return {
        "state": "INIT",
        "since": None,
        "reason": None,
        "waits_for": "the election process does not run",
        "advskew_sent": config.advskew,
        "demotion": 0,
        "demotion_reasons": {},
        "master": None,
        "serves": False,
        "taken": None,
        "findings": [],
        "counters": {},
    }


def _mac(config: VirtualHostConfig, interface_mac: bytes | None) -> bytes | None:
    """What clients are told."""
    if config.balancing:
        return shared_mac(config) or virtual_mac(config.vhid)
    return answering_mac(config, interface_mac) if interface_mac else None


def _balancing(config: VirtualHostConfig) -> dict[str, Any] | None:
    """How the virtual host shares its traffic, of which this is a node; None if it is alone."""
    balancing = config.balancing
    if balancing is None:
        return None
    return {"virtual_host": balancing.virtual_host, "mode": balancing.mode.value, "vhids": list(balancing.vhids)}


def _master(status: HostStatus) -> dict[str, Any] | None:
    """The peer that was heard last, as it described itself; `age_s` is the time since."""
    if status.heard is None:
        return None
    message = status.heard.message
    return {
        "source": str(ip_address(status.heard.source)),
        "advbase": message.advbase,
        "advskew": message.advskew,
        "demotion": message.demotion,
        "age_s": round((time.monotonic_ns() - status.heard.time_ns) / SECOND, 3),
    }


def interfaces(statuses: Iterable[InterfaceStatus]) -> list[dict[str, Any]]:
    """The `interfaces` element: what came in on each, for a virtual host or for none."""
    return [{"name": s.interface, "up": s.up, "counters": asdict(s.counters)} for s in statuses]


def lateness(late: Lateness) -> dict[str, Any]:
    """The `lateness` element: how many timers of elections were late by up to each bound, and by more than the last."""
    return {
        "bounds_s": [bound / SECOND for bound in BOUNDS_NS],
        "counts": list(late.counts),
        "sum_s": late.sum_ns / SECOND,
    }


def groups(
    configs: Iterable[VirtualHostConfig],
    statuses: Mapping[str, HostStatus],
    wished: Callable[[str], Iterable[Demotion]],
) -> list[dict[str, Any]]:
    """The `groups` element: who is in each, and what demotes it; `wished` is what the supervisor wants of that."""
    members: dict[str, list[VirtualHostConfig]] = {}
    for config in configs:
        members.setdefault(config.group, []).append(config)
    return [
        {
            "name": name,
            "virtual_hosts": list(dict.fromkeys(host.virtual_host for host in hosts)),
            **_demotion(next((statuses[h.name] for h in hosts if h.name in statuses), None), list(wished(name))),
        }
        for name, hosts in members.items()
    ]


def _demotion(status: HostStatus | None, wished: list[Demotion]) -> dict[str, Any]:
    """As the election process reports it; what it will be told of, while there is none."""
    amounts = status.demotion_reasons if status else {demotion.reason: demotion.amount for demotion in wished}
    until = {demotion.reason: demotion.until_s for demotion in wished}
    return {
        "demotion": sum(amounts.values()),
        "reasons": [
            {"reason": reason, "amount": amount, "until": _iso(end) if (end := until.get(reason)) else None}
            for reason, amount in amounts.items()
        ],
    }


def state_event(config: VirtualHostConfig, described: Mapping[str, Any]) -> dict[str, Any]:
    """What a monitor begins with: as a notice of a change to the present state, from none.

    `described` is the element of `virtual_hosts`.
    """
    state, reason = described["state"], described["reason"] or described["waits_for"]
    where = f"{config.name} (vhid {config.vhid} on {config.interface})"
    return {
        "time": _iso(time.time()),
        "kind": "state",
        "text": f"{where}: {state}" + (f" ({reason})" if reason else ""),
        "name": config.name,
        "virtual_host": config.virtual_host,
        "vhid": config.vhid,
        "interface": config.interface,
        "group": config.group,
        "old": None,
        "new": state,
        "reason": reason,
        "since": described["since"],
    }


def nothing_to_do_event() -> dict[str, Any]:
    """What a monitor begins with where there is no state to tell."""
    return {"time": _iso(time.time()), "kind": "nothing to do", "text": NOTHING_TO_DO}


def _utc(monotonic_ns: int) -> str:
    """A time of the monotonic clock in UTC."""
    return _iso(time.time() - (time.monotonic_ns() - monotonic_ns) / SECOND)


def _iso(time_s: float) -> str:
    """A time of the system's clock as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
