"""Metrics for Prometheus: families of a status document, and of what is counted of notices.

Names begin with `carpd_` and `pfsyncd_`, units are seconds, and a reason is named as `carpctl statistics` names it.
Every family is always there, if need be without a sample, so that alerts and dashboards name nothing that is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from carpd import __version__
from carpd.events import CarpState
from carpd.runtime.notices import Notice, Notices
from carpd.stats import SENT, CarpCounters

GOOD_FOR_S = 1.0
"""How long a text is given to whoever asks: more servers may scrape than one."""

Status = Mapping[str, Any]
"""As of `carpctl status --json`."""
Samples = Iterable[tuple[Sequence[str], float]]
"""The values of the labels, and the sample's own."""

_RECEIVED = {"ipackets": "ipv4", "ipackets6": "ipv6"}
_SENT = {"opackets": "ipv4", "opackets6": "ipv6"}
_NOT_SENT = ("onomem", "oerrors")
_CARP_REFUSED = tuple(f.name for f in fields(CarpCounters) if f.name not in (*_RECEIVED, *SENT))

_PFSYNC_REFUSED = (
    *("badttl", "badpeer", "hdrops", "badver", "badlen", "badact", "loops", "duplicates"),
    *("sealed_short", "sealed_version", "sealed_reflected", "sealed_unknown_key", "sealed_replayed"),
    *("sealed_forged", "sealed_kind", "sealed_unproven"),
)
"""Packets."""
_STATES_REFUSED = ("badval", "stale", "badstate", "unsupported", "limit", "conflicts", "kept")
_CHANGES = ("inserted", "updated", "deleted")
_UNDEFERRED = {"undeferred": "confirmed", "defer_timeouts": "timeout", "defer_overflows": "overflow"}


class Metrics:
    """The text that Prometheus reads."""

    def __init__(
        self,
        notices: Notices,
        status: Callable[[], Awaitable[Status]],
        hook_results: Mapping[tuple[str, str], int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`status` is asked for one, `hook_results` are counts by hook and result."""
        self._status = status
        self._hook_results = hook_results
        self._clock = clock
        self._started = time.time()
        self._transitions: Counter[tuple[str, str, str, str]] = Counter()
        self._turn = asyncio.Lock()
        self._text = b""
        self._good_until = 0.0
        notices.subscribe(self._count)

    async def text(self) -> bytes:
        """Not older than a second. Raise ControlError if there is no status."""
        async with self._turn:
            if self._clock() >= self._good_until:
                parts = []
                for family in self._families(await self._status()):
                    parts.append(generate_latest(_Only(family)))
                    await asyncio.sleep(0)  # those of a thousand virtual hosts take a while
                self._text = b"".join(parts)
                self._good_until = self._clock() + GOOD_FOR_S
            return self._text

    def _count(self, notice: Notice) -> None:
        if notice.kind == "state":
            about = notice.fields
            self._transitions[about["name"], about["old"], about["new"], about["reason"]] += 1

    def _families(self, status: Status) -> Iterator[Metric]:
        yield _gauge("carpd_build_info", "1; which version this is", ["version"], [((__version__,), 1)])
        start = "When the daemon was started, in seconds of the Unix epoch"
        yield _gauge("carpd_start_time_seconds", start, [], [((), self._started)])
        runs = "Notices of a hook by what came of them: good, failed, timed out, not started or dropped"
        yield _counter("carpd_hook_notices", runs, ["hook", "result"], self._hook_results.items())
        if "election" in status:
            changes = "Changes of a virtual host's state"
            labels = ["name", "from", "to", "reason"]
            yield _counter("carpd_transitions", changes, labels, self._transitions.items())
            yield from _carp(status)
        if status["pfsync"]:
            yield from _pfsync(status["pfsync"])


class _Only:
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _carp(status: Status) -> Iterator[Metric]:
    election, hosts, interfaces = status["election"], status["virtual_hosts"], status["interfaces"]
    running = election["pid"] is not None
    yield _gauge("carpd_election_up", "Whether the election process runs", [], [((), running)])
    restarts = "Times that the election process had to be started again"
    yield _counter("carpd_election_restarts", restarts, [], [((), election["restarts"])])
    yield _lateness(status["lateness"])

    yield _gauge(
        "carpd_virtual_host_info",
        "1; what a virtual host, or a node that shares one, is",
        ["name", "virtual_host", "interface", "vhid", "group"],
        (
            ((host["name"], _virtual_host(host), host["interface"], str(host["vhid"]), host["group"]), 1)
            for host in hosts
        ),
    )
    yield _gauge(
        "carpd_state",
        "1 for the state that a virtual host is in, 0 for the others",
        ["name", "state"],
        (((host["name"], state.name), host["state"] == state.name) for host in hosts for state in CarpState),
    )
    serves = "Whether this host takes the traffic"
    yield _gauge("carpd_serves", serves, ["name"], (((host["name"],), host["serves"]) for host in hosts))
    yield _gauge(
        "carpd_demotion",
        "What demotes a group, by reason; none is 0",
        ["group", "reason"],
        (
            ((group["name"], reason["reason"]), reason["amount"])
            for group in status["groups"]
            for reason in group["reasons"]
        ),
    )
    yield _gauge(
        "carpd_findings",
        "What is wrong with how a virtual host is shared: how many things",
        ["virtual_host"],
        {(_virtual_host(host),): len(host["findings"]) for host in hosts if host["balancing"]}.items(),
    )
    yield _counter(
        "carpd_shared_packets",
        "Packets that the kernel took for a node",
        ["name"],
        (((host["name"],), host["taken"]) for host in hosts if host["taken"] is not None),
    )

    by_name = [((host["name"],), host["counters"]) for host in hosts]
    by_interface = [((interface["name"],), interface["counters"]) for interface in interfaces]
    yield _gauge(
        "carpd_interface_up",
        "Whether an interface is there and has a link",
        ["interface"],
        (((interface["name"],), interface["up"]) for interface in interfaces),
    )
    sent, not_sent = "Advertisements sent", "Advertisements that could not be sent"
    yield _counter("carpd_advertisements_sent", sent, ["name", "family"], _named(by_name, _SENT))
    yield _counter("carpd_advertisements_not_sent", not_sent, ["interface", "reason"], _named(by_interface, _NOT_SENT))
    received = "Advertisements received, whatever became of them"
    yield _counter("carpd_advertisements_received", received, ["interface", "family"], _named(by_interface, _RECEIVED))
    refused = "Advertisements received and refused"
    yield _counter(
        "carpd_advertisements_refused", refused, ["interface", "reason"], _named(by_interface, _CARP_REFUSED)
    )


def _virtual_host(host: Status) -> str:
    """NAME in [carp.NAME]."""
    name: str = host["balancing"]["virtual_host"] if host["balancing"] else host["name"]
    return name


def _lateness(late: Status) -> Metric:
    family = HistogramMetricFamily(
        "carpd_timer_lateness_seconds", "How late the timers of elections were: most are of advertisements"
    )
    bounds = [*map(str, late["bounds_s"]), "+Inf"]
    family.add_metric([], list(zip(bounds, accumulate(late["counts"]), strict=True)), late["sum_s"])
    return family


def _pfsync(status: Status) -> Iterator[Metric]:
    answering = "states" in status
    yield _gauge("pfsyncd_up", "Whether pfsyncd runs and answers", [], [((), answering)])
    yield _counter("pfsyncd_restarts", "Times that it had to be started again", [], [((), status["restarts"])])
    link, bulk = status.get("link", {}), status.get("bulk_update", {})
    for name, meaning, value in (
        ("link_up", "Whether the peers can be spoken to", link.get("up")),
        (
            "bulk_update_done",
            "Whether the states of the peers are here, or it is clear that they don't come",
            bulk.get("done"),
        ),
        ("carrying", "Whether this host carries traffic", status.get("carrying")),
        ("states", "States here that take part", status.get("states")),
        ("states_limit", "max_states: of peers so many are held", status.get("max_states")),
        ("states_unsent", "States that are yet to be told of", status.get("unsent")),
        ("unconfirmed_age_seconds", "The age of the oldest change that a peer has not confirmed", _age(status)),
        ("defer_working", "Whether packets can be held until the peers have their state", _defer(status)),
    ):
        yield _gauge(f"pfsyncd_{name}", meaning, [], [] if value is None else [((), value)])

    peers = {peer["address"]: peer for peer in status.get("peers", ())}  # of two starts of one the last
    yield _gauge("pfsyncd_peers", "Peers that are heard", [], [((), len(peers))] if answering else [])
    for name, meaning, key, unit in (
        ("coverage_ratio", "How much of what is here a peer has, 0 to 1", "coverage", 100),
        ("states", "States that a peer has", "states", 1),
        ("heard_age_seconds", "How long a peer has not been heard", "heard_age_s", 1),
    ):
        found = (((address,), peer[key]) for address, peer in peers.items())
        yield _gauge(
            f"pfsyncd_peer_{name}",
            meaning,
            ["peer"],
            ((labels, value / unit) for labels, value in found if value is not None),
        )

    counters = [((), status.get("counters", {}))]
    for name, meaning, label, names in (
        ("packets_received", "Packets received, whatever became of them", "family", _RECEIVED),
        ("packets_sent", "Packets sent, one for each peer", "family", _SENT),
        ("packets_not_sent", "Packets not sent", "reason", _NOT_SENT),
        ("packets_refused", "Packets received and refused", "reason", _PFSYNC_REFUSED),
        ("states_refused", "States of peers that were not taken over", "reason", _STATES_REFUSED),
        ("states_changed", "States changed here as peers told", "change", _CHANGES),
        ("packets_undeferred", "Packets that were held and left, by why", "reason", _UNDEFERRED),
    ):
        yield _counter(f"pfsyncd_{name}", meaning, [label], _named(counters, names))
    for name, meaning, key in (
        ("states_told", "States that peers were told of", "told"),
        ("packets_lost", "Packets of peers that never came and were told anew", "lost"),
        ("packets_late", "Packets of peers that came out of order", "late"),
        ("packets_forgotten", "Packets that were missed and that a peer did not remember", "forgotten"),
        ("packets_deferred", "Packets that were held for a connection's sake", "deferred"),
        ("packets_not_deferred", "Packets that were not held because too many waited", "defer_passed"),
        ("packets_deferred_lost", "Packets that were held and then not taken by the interface", "defer_errors"),
        ("requests_throttled", "Requests of peers beyond what is answered in a second", "throttled"),
        ("overflows", "Times that the kernel told of changes faster than they were read", "overflows"),
        ("challenges", "Challenges sent to peers whose messages may be recordings", "challenges"),
        ("proofs", "Starts of peers that came to be obeyed", "proofs"),
    ):
        yield _counter(f"pfsyncd_{name}", meaning, [], ((labels, c[key]) for labels, c in counters if key in c))
    for name, meaning, key in (
        ("resyncs", "Times that tables had to be compared", "resyncs"),
        ("refused", "What the kernel would not do", "refused"),
    ):
        found = status.get(key, {}).items()
        yield _counter(f"pfsyncd_{name}", meaning, ["reason"], (((reason,), count) for reason, count in found))


def _age(pfsync: Status) -> float | None:
    """0 if all is confirmed, None if it does not answer."""
    return pfsync["unconfirmed_age_s"] or 0.0 if "states" in pfsync else None


def _defer(pfsync: Status) -> bool | None:
    """None if nothing is to be held."""
    return pfsync["defer"]["working"] if pfsync.get("defer") else None


def _named(by: Iterable[tuple[Sequence[str], Mapping[str, int]]], names: Iterable[str]) -> Samples:
    """A sample for each of these counters, with its name, or what `names` maps that to, as the last label."""
    labels = names if isinstance(names, Mapping) else {name: name for name in names}
    return (
        ((*others, label), counters[name])
        for others, counters in by
        for name, label in labels.items()
        if name in counters
    )


def _gauge(name: str, meaning: str, labels: Sequence[str], samples: Samples) -> Metric:
    return _filled(GaugeMetricFamily(name, meaning, labels=labels), samples)


def _counter(name: str, meaning: str, labels: Sequence[str], samples: Samples) -> Metric:
    """`_total` is added to the name."""
    return _filled(CounterMetricFamily(name, meaning, labels=labels), samples)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Samples) -> Metric:
    for labels, value in samples:
        family.add_metric(labels, float(value))
    return family
