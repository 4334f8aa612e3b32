"""What happened in a run of the demo, and whether it was right. Times are monotonic nanoseconds.

A step is right if, in the end, the node that had to be master was, on all virtual hosts and alone, if no connection
broke, and if no probe stream had a gap longer than the step allows:

* after a failure that nobody announces (power cut, lost cable) the protocol's own bound is the backup's master-down
  time, 3·advbase + advskew/256; the step allows UNPLANNED_MARGIN_NS on top, for a machine that is busy;
* a planned move (stop, return) has the bound 0: the old master leaves when the new one is there. PLANNED_MARGIN_NS is
  allowed, in which a busy machine may lose a few probes;
* a start has no bound: nobody was there before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from carpd.lab.measure import Loss, Outage
from carpd.units import MILLISECOND

UNPLANNED_MARGIN_NS = 500 * MILLISECOND
PLANNED_MARGIN_NS = 50 * MILLISECOND

FAMILIES = ("IPv4", "IPv6")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done to the firewalls, and what the client saw of it."""

    name: str
    what: str
    start_ns: int
    end_ns: int
    master_before: str | None
    master_after: str | None
    """The node that is master of every virtual host, alone; None if there is no such node."""
    master_wanted: str
    losses: Mapping[str, tuple[Loss, ...]]
    """By family, one a probe stream."""
    bound_ns: int | None
    """What the protocol itself needs; None where nothing was there to be interrupted."""
    connections_before: int
    connections_after: int
    broken: tuple[str, ...]
    """The names of the connections that were there before and moved nothing any more, or ended."""
    stall_ns: int | None
    """The longest time in which one of the others moved nothing; None if there were none."""
    trouble: str = ""
    """What else went wrong; empty if nothing did."""

    def gap_ns(self, family: str) -> int:
        """The longest outage of any stream."""
        return max(loss.gap_ns for loss in self.losses[family])

    @property
    def lost(self) -> int:
        return sum(loss.lost for losses in self.losses.values() for loss in losses)

    @property
    def allowed_ns(self) -> int | None:
        if self.bound_ns is None:
            return None
        return self.bound_ns + (UNPLANNED_MARGIN_NS if self.bound_ns else PLANNED_MARGIN_NS)

    @property
    def fault(self) -> str:
        """What was not as it must be; empty if all was."""
        if self.trouble:
            return self.trouble
        if self.master_after != self.master_wanted:
            return f"the master is {self.master_after or 'nobody alone'}, not {self.master_wanted}"
        if self.broken:
            return f"{len(self.broken)} connections broke" if len(self.broken) > 1 else f"the {self.broken[0]} broke"
        allowed = self.allowed_ns
        for family in FAMILIES:
            if allowed is not None and self.gap_ns(family) > allowed:
                return f"{family} gap of {_ms(self.gap_ns(family)):g} ms, allowed are {_ms(allowed):g}"
        return ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "step": self.name,
            "what": self.what,
            "seconds": round((self.end_ns - self.start_ns) / 1e9, 3),
            "master_before": self.master_before,
            "master_after": self.master_after,
            "gap_ms": {family: _ms(self.gap_ns(family)) for family in FAMILIES},
            "lost": self.lost,
            "bound_ms": None if self.bound_ns is None else _ms(self.bound_ns),
            "allowed_ms": None if self.allowed_ns is None else _ms(self.allowed_ns),
            "connections_before": self.connections_before,
            "connections_after": self.connections_after,
            "broken": list(self.broken),
            "stall_ms": None if self.stall_ns is None else _ms(self.stall_ns),
            "ok": not self.fault,
            "fault": self.fault or None,
        }


OFF = "off"


def role(states: Mapping[str, str]) -> str:
    """The role of a node from the states of its virtual hosts: one word if they agree."""
    if len(set(states.values())) > 1:
        return ", ".join(f"{name} {state}" for name, state in states.items())
    return next(iter(states.values()), OFF)


@dataclass(slots=True)
class Span:
    """What was so for a while on a lane of the picture: the state of a virtual host, or what a node lacked."""

    lane: str
    what: str
    start_ns: int
    end_ns: int


@dataclass(slots=True)
class Story:
    """A whole run, as the table, the JSON document and the report need it."""

    version: str
    kernel: str
    start_ns: int
    end_ns: int = 0
    steps: list[Step] = field(default_factory=list)
    states: list[Span] = field(default_factory=list)
    """MASTER, BACKUP, INIT or off, in lanes like "fw-a lan"."""
    troubles: list[Span] = field(default_factory=list)
    """While a node, its lane, was without power, without a cable, or without a daemon."""
    outages: dict[str, list[Outage]] = field(default_factory=dict)
    """By family, of all probe streams, joined."""
    throughput: dict[str, list[float]] = field(default_factory=dict)
    """By family, bits per second in equal parts of the run."""

    @property
    def faults(self) -> list[str]:
        return [f"{step.name}: {step.fault}" for step in self.steps if step.fault]

    def as_dict(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "kernel": self.kernel,
            "seconds": round((self.end_ns - self.start_ns) / 1e9, 3),
            "ok": not self.faults,
            "steps": [step.as_dict() for step in self.steps],
        }


COLUMNS = ("step", "master", "IPv4 gap", "IPv6 gap", "lost", "bound", "connections", "broken", "stall", "")


def row(step: Step) -> tuple[str, ...]:
    """A step as cells below COLUMNS; gaps, bounds and stalls are in milliseconds."""
    before, after = step.master_before or "-", step.master_after or "-"
    gaps = ("-", "-") if step.bound_ns is None else tuple(f"{_ms(step.gap_ns(family)):.0f} ms" for family in FAMILIES)
    return (
        step.name,
        before if before == after else f"{before} → {after}",
        *gaps,
        "-" if step.bound_ns is None else str(step.lost),
        "-" if step.bound_ns is None else f"{_ms(step.bound_ns):.0f} ms",
        f"{step.connections_before} → {step.connections_after}",
        str(len(step.broken)),
        "-" if step.stall_ns is None else f"{_ms(step.stall_ns):.0f} ms",
        f"WRONG: {step.fault}" if step.fault else "ok",
    )


def table(steps: Iterable[Step]) -> str:
    """All steps, one a line, below the names of the columns."""
    rows = [COLUMNS, *map(row, steps)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_aligned(cells, widths) for cells in rows)


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    """Numbers to the right."""
    padded = [
        cell.rjust(width) if 2 <= i <= 8 else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _ms(ns: int) -> float:
    return round(ns / MILLISECOND, 3)
