"""From what each round measured to tables for the reader, aims, and a JSON document for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, TypeVar

from benchmarks import report
from benchmarks.state_sync.candidates import OURS, Candidate
from benchmarks.state_sync.measures import Cpu, Floor, Latency, Load, TakeOver

_One = TypeVar("_One")

_LIKE_OURS = "conntrackd FTFW direct"
"""The mode that does what pfsyncd does: reliably, and straight into the standby's kernel."""


@dataclass(slots=True)
class Measured:
    """Everything that was measured of one candidate, in the order of the rounds."""

    candidate: Candidate
    cpu: list[Cpu] = field(default_factory=list)
    searches: list[list[Load]] = field(default_factory=list)
    """One a round: the loads that were tried in search of the highest without loss."""
    beyond: list[Load] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    take_overs: list[TakeOver] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """What could not be measured, and why."""

    @property
    def highest(self) -> float | None:
        """The highest rate without loss, new flows a second: the median of the rounds."""
        if not self.searches:
            return None
        return median(max((load.offered for load in search if load.lossless), default=0) for search in self.searches)


@dataclass(slots=True)
class Alone:
    """What the traffic costs, and comes to, with no daemon there; and the floor of any daemon."""

    cpu: list[Cpu] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    floor: Floor | None = None


# Tables


def tables(alone: Alone, measured: Sequence[Measured]) -> Iterator[str]:
    """Each with its title; what was not measured is left out."""
    for title, rows in (
        (_CPU_TITLE, list(_cpu_rows(alone, measured))),
        (_RATE_TITLE, list(_rate_rows(alone, measured))),
        (_LATENCY_TITLE, list(_latency_rows(measured))),
        (_TAKE_OVER_TITLE, list(_take_over_rows(measured))),
    ):
        heading, *columns = title
        if rows:
            yield "\n".join([heading, *report.aligned([columns, *rows], words=1)])


_CPU_TITLE = (
    "CPU seconds per 100 000 new states (SNATed UDP). MACHINE: with the generator, the kernel and whatever else ran",
    "CANDIDATE",
    "FLOWS/S",
    "SENDER",
    "RECEIVER",
    "MACHINE",
)
_RATE_TITLE = (
    "New flows a second. HIGHEST: without loss. Then an offer beyond it: what the generator came to, packets dropped\n"
    "on fw-a, states that the standby lacks after 5 s of quiet and a minute later (–: its daemon does not answer)",
    "CANDIDATE",
    "HIGHEST",
    "OFFERED",
    "CAME TO",
    "DROPPED",
    "MISSING",
    "%",
    "FOR GOOD",
    "%",
)
_LATENCY_TITLE = (
    "µs from an entry in fw-a's kernel to the same in fw-b's",
    "CANDIDATE",
    "FLOWS/S",
    "P50",
    "P99",
    "MAX",
)
_TAKE_OVER_TITLE = (
    "An empty standby beside a full table, and its take-over. FIRST, COMPLETE: s from the start of its daemon. LACKS:\n"
    "states that it never got. BYTES: of memory a state, sender and receiver. STALL: ms, the longest of eight flows\n"
    "that were there before. SCRIPT: s that the steps of a take-over last",
    "CANDIDATE",
    "STATES",
    "FIRST",
    "COMPLETE",
    "LACKS",
    "%",
    "BYTES",
    "BYTES",
    "STALL",
    "SCRIPT",
)


def _cpu_rows(alone: Alone, measured: Iterable[Measured]) -> Iterator[tuple[str, ...]]:
    for name, costs in (("no daemon", alone.cpu), *((one.candidate.name, one.cpu) for one in measured)):
        for rate in _distinct(cost.rate for cost in costs):
            of_rate = [cost for cost in costs if cost.rate == rate]
            figures = (_median(of_rate, lambda c: c.sender), _median(of_rate, lambda c: c.receiver))
            machine = _median(of_rate, lambda c: c.machine)
            yield (name, str(rate), *map(_seconds, (*figures, machine)))
    if floor := alone.floor:
        yield "floor: only reads or inserts", "", _seconds(floor.read), _seconds(floor.insert), ""
        yield "carpd's reader and writer alone", "", _seconds(floor.our_read), _seconds(floor.our_insert), ""


def _rate_rows(alone: Alone, measured: Iterable[Measured]) -> Iterator[tuple[str, ...]]:
    if alone.rates:
        yield "no daemon", f"{median(alone.rates):.0f}", *[""] * 7
    for one in measured:
        highest = "" if one.highest is None else f"{one.highest:.0f}"
        if not one.beyond:
            if highest:
                yield one.candidate.name, highest, *[""] * 7
            continue
        sent = _median(one.beyond, lambda load: load.sent)
        lacks = [_median_or_none([load.missing for load in one.beyond])]
        lacks.append(_median_or_none([load.missing_for_good for load in one.beyond]))
        yield (
            one.candidate.name,
            highest,
            str(one.beyond[0].offered),
            f"{_median(one.beyond, lambda load: load.rate):.0f}",
            f"{_median(one.beyond, lambda load: load.dropped):.0f}",
            *(text for lack in lacks for text in _share(lack, sent)),
        )


def _latency_rows(measured: Iterable[Measured]) -> Iterator[tuple[str, ...]]:
    for one in measured:
        if found := one.latency:
            figures = (
                _median(found, lambda x: x.p50_us),
                _median(found, lambda x: x.p99_us),
                _median(found, lambda x: x.max_us),
            )
            yield one.candidate.name, str(found[0].rate), *(f"{figure:.0f}" for figure in figures)


def _take_over_rows(measured: Iterable[Measured]) -> Iterator[tuple[str, ...]]:
    for one in measured:
        for states in _distinct(found.states for found in one.take_overs):
            found = [x for x in one.take_overs if x.states == states]
            yield (
                one.candidate.name,
                str(states),
                _seconds(_median(found, lambda x: x.first_s)),
                _seconds(_median_or_none([x.complete_s for x in found])),
                *_share(_median_or_none([x.missing for x in found]), states),
                f"{_median(found, lambda x: x.sender_bytes):.0f}",
                f"{_median(found, lambda x: x.receiver_bytes):.0f}",
                _whole(_median_or_none([x.gap_ms for x in found])),
                _seconds(_median(found, lambda x: x.script_s)),
            )


def _distinct(values: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(values))


def _median(values: Sequence[_One], of: Callable[[_One], float]) -> float:
    return median(of(value) for value in values)


def _median_or_none(values: Sequence[float | None]) -> float | None:
    """None counts as more than any number: it stands for what never came."""
    ordered = sorted(values, key=lambda value: (value is None, value or 0))
    return ordered[(len(ordered) - 1) // 2]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _share(part: float | None, whole: float) -> tuple[str, str]:
    """A number, and how many per cent it is."""
    return _whole(part), "" if not part else f"{100 * part / whole:.1f}"


# What pfsyncd is to reach


def aims(measured: Sequence[Measured]) -> Iterator[tuple[str, bool]]:
    """Each aim in words with what was measured, and whether it is reached. Only of what was measured."""
    peer = next((one for one in measured if one.candidate.name == _LIKE_OURS), None)
    for one in measured:
        if one.candidate.name.startswith(OURS):
            yield from ((f"{one.candidate.name}: {text}", reached) for text, reached in _aims(one, peer))


def _aims(one: Measured, peer: Measured | None) -> Iterator[tuple[str, bool]]:
    for rate in _distinct(cost.rate for cost in one.cpu):
        theirs = [cost for cost in peer.cpu if cost.rate == rate] if peer else []
        if theirs:
            ours = [cost for cost in one.cpu if cost.rate == rate]
            for side in ("sender", "receiver"):
                ratio = median(getattr(cost, side) for cost in ours) / median(getattr(cost, side) for cost in theirs)
                yield f"CPU at {rate} flows/s, {side}: {ratio:.2f} of {_LIKE_OURS}'s (aim: 0.5)", ratio <= 0.5
    if one.highest is not None:
        yield f"{one.highest:.0f} new flows/s without loss (aim: 45000)", one.highest >= 45_000
    if one.beyond:
        lost = max((load.missing_for_good or 0 for load in one.beyond), default=0)
        answered = all(load.missing_for_good is not None for load in one.beyond)
        yield f"{lost} states lost for good beyond that (aim: 0)", answered and lost == 0
    if one.latency:
        p50, p99 = (_median(one.latency, of) for of in (lambda x: x.p50_us, lambda x: x.p99_us))
        yield f"to the standby's kernel in {p50:.0f} µs, p99 {p99:.0f} (aim: 200, 1000)", p50 <= 200 and p99 <= 1000
    for states in _distinct(found.states for found in one.take_overs):
        yield from _take_over_aims(states, [x for x in one.take_overs if x.states == states])


def _take_over_aims(states: int, found: Sequence[TakeOver]) -> Iterator[tuple[str, bool]]:
    complete = _median_or_none([x.complete_s for x in found])
    limit = states / 100_000
    yield (
        f"bulk update of {states}: {_seconds(complete)} s (aim: {limit:g})",
        complete is not None and complete <= limit,
    )
    stall = _median_or_none([x.gap_ms for x in found])
    yield f"stall at take-over with {states}: {_whole(stall)} ms (aim: none)", stall == 0
    memory = max(_median(found, of) for of in (lambda x: x.sender_bytes, lambda x: x.receiver_bytes))
    yield f"memory a state with {states}: {memory:.0f} bytes at most (aim: 410)", memory <= 410


# JSON


def document(alone: Alone, measured: Sequence[Measured]) -> dict[str, Any]:
    return {
        "benchmark": "state_sync",
        "machine": report.machine(),
        "versions": {one.candidate.name: one.candidate.version() for one in measured},
        "aims": [{"aim": text, "reached": reached} for text, reached in aims(measured)],
        "alone": asdict(alone),
        "results": [_result(one) for one in measured],
    }


def _result(one: Measured) -> dict[str, Any]:
    return {
        "candidate": one.candidate.name,
        "settings": one.candidate.settings,
        "cpu": [asdict(x) for x in one.cpu],
        "highest_without_loss": one.highest,
        "searches": [[asdict(x) for x in search] for search in one.searches],
        "beyond": [asdict(x) for x in one.beyond],
        "latency": [asdict(x) for x in one.latency],
        "take_overs": [asdict(x) for x in one.take_overs],
        "failures": one.failures,
    }
