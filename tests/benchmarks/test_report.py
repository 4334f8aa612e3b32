"""What the failover benchmark concludes from single measurements."""

from __future__ import annotations

import pytest

from benchmarks import report
from benchmarks.cases import Case, Measured
from benchmarks.daemons import CONTENDERS
from benchmarks.report import Row
from carpd.units import MILLISECOND


def measured(gap_ms: int, *, lost6: int = 0, late_ms: int | None = None, over: bool = True) -> Measured:
    late_ns = None if late_ms is None else late_ms * MILLISECOND
    return Measured(gap_ns=gap_ms * MILLISECOND, lost=gap_ms, gap6_ns=None, lost6=lost6, late_ns=late_ns, over=over)


def row(daemon: str, timers: str, event: str, *of_runs: Measured, planned: bool = False) -> Row:
    contender = next(c for c in CONTENDERS if (c.daemon, c.timers) == (daemon, timers))
    return Row(contender, event, contender.master_down_ns, planned, of_runs)


def test_each_case_gives_a_row_for_what_happened_and_one_for_its_undoing() -> None:
    carpd = CONTENDERS[0]
    power, back, stop, start = report.rows(
        carpd, {Case.POWER: [(measured(3000), measured(0))], Case.STOP: [(measured(1), measured(0))]}
    )
    assert [r.event for r in (power, back, stop, start)] == ["power cut", "power back", "stop", "start after stop"]
    assert [r.planned for r in (power, back, stop, start)] == [False, True, True, True]
    assert [r.bound_ns for r in (power, back, stop, start)] == [3_390_625_000, 0, 0, 0]


def test_the_ratio_is_to_the_best_peer_that_came_right() -> None:
    ours = row("carpd", "fastest", "power cut", measured(10))
    slow = row("ucarp", "fastest", "power cut", measured(2000))
    quick = row("keepalived", "fastest", "power cut", measured(40))
    quick_once = row("keepalived", "fastest", "power cut", measured(5), measured(5, over=False))
    elsewhere = row("keepalived", "default", "power cut", measured(1))
    assert report.ratio(ours, [ours, slow, quick, elsewhere]) == 0.25
    assert report.ratio(ours, [ours, slow, quick_once]) == 0.005
    assert report.ratio(ours, [ours]) is None
    assert report.ratio(quick, [ours, slow, quick]) is None


AIMS = {
    "within 5 ms of the bound": (row("carpd", "default", "power cut", measured(3395, late_ms=1)), True),
    "later than that": (row("carpd", "default", "power cut", measured(3396, late_ms=6)), False),
    "late in a lucky phase": (row("carpd", "default", "power cut", measured(2600, late_ms=6)), False),
    "fastest": (row("carpd", "fastest", "power cut", measured(15), measured(15), measured(99)), True),
    "not fast": (row("carpd", "fastest", "power cut", measured(16)), False),
    "one probe lost in a stop": (row("carpd", "default", "stop", measured(1), planned=True), True),
    "two over IPv6": (row("carpd", "default", "stop", measured(0, lost6=2), planned=True), False),
    "two probes": (row("carpd", "default", "stop", measured(0), measured(2), planned=True), False),
}


@pytest.mark.parametrize(("one", "reached"), AIMS.values(), ids=AIMS)
def test_aims(one: Row, reached: bool) -> None:
    (_, first), (_, none_failed) = report.aims([one])
    assert (first, none_failed) == (reached, True)


def test_who_does_not_come_right_misses_an_aim() -> None:
    hang = row("carpd", "default", "hang", measured(400), measured(400, over=False))
    assert [reached for _, reached in report.aims([hang])] == [False]


def test_the_table_has_every_row_and_the_document_every_run() -> None:
    rows = [row("carpd", "default", "stop", measured(0), planned=True), row("ucarp", "default", "stop", measured(4300))]
    text = report.table(rows)
    assert text.count("\nstop ") == 2
    assert "4300.0" in text
    document = report.document(rows, seed=7)
    assert [result["gap_ms"]["all"] for result in document["results"]] == [[0.0], [4300.0]]
