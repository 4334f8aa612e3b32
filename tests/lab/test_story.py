"""Verdicts, the table and the picture of an invented run."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import pytest

from carpd.lab.measure import Loss, Outage
from carpd.lab.report import render
from carpd.lab.story import FAMILIES, PLANNED_MARGIN_NS, UNPLANNED_MARGIN_NS, Span, Step, Story, role, table
from carpd.units import MILLISECOND, SECOND

BOUND = 3 * SECOND


def step(
    bound_ns: int | None = BOUND,
    gap_ns: int = 0,
    master: str | None = "fw-b",
    trouble: str = "",
    broken: tuple[str, ...] = (),
    stall_ns: int | None = 0,
) -> Step:
    return Step(
        name="power <cut>",
        what="all switch ports of fw-a drop everything",
        start_ns=10 * SECOND,
        end_ns=14 * SECOND,
        master_before="fw-a",
        master_after=master,
        master_wanted="fw-b",
        losses={family: (Loss(0, 0, 4000), Loss(gap_ns, gap_ns // MILLISECOND, 4000)) for family in FAMILIES},
        bound_ns=bound_ns,
        connections_before=8,
        connections_after=8 - len(broken),
        broken=broken,
        stall_ns=stall_ns,
        trouble=trouble,
    )


STORY = Story(
    version="1.0",
    kernel="6.1",
    start_ns=8 * SECOND,
    end_ns=15 * SECOND,
    steps=[
        step(gap_ns=2 * SECOND, stall_ns=3 * SECOND),
        step(master=None),
        step(broken=("IPv4 download", "IPv6 upload"), stall_ns=None),
    ],
    states=[Span("fw-a lan", "MASTER", 8 * SECOND, 15 * SECOND), Span("fw-b wan", "off", 8 * SECOND, 15 * SECOND)],
    troubles=[Span("fw-a", "no power", 10 * SECOND, 15 * SECOND)],
    outages={family: [Outage(10 * SECOND, 12 * SECOND, 1999)] for family in FAMILIES},
    throughput={family: [0.0, 8e7, 8e7] for family in FAMILIES},
)


@pytest.mark.parametrize(
    ("measured", "fault"),
    [
        (step(gap_ns=BOUND), ""),
        (step(gap_ns=BOUND + UNPLANNED_MARGIN_NS), ""),
        (step(gap_ns=BOUND + UNPLANNED_MARGIN_NS + 1), "gap of 3500"),
        (step(bound_ns=0, gap_ns=PLANNED_MARGIN_NS), ""),
        (step(bound_ns=0, gap_ns=PLANNED_MARGIN_NS + 1), "gap of 50"),
        (step(bound_ns=None, gap_ns=9 * SECOND), ""),
        (step(master="fw-a"), "the master is fw-a, not fw-b"),
        (step(master=None), "the master is nobody alone, not fw-b"),
        (step(trouble="it broke"), "it broke"),
        (step(stall_ns=9 * SECOND), ""),
        (step(broken=("IPv4 upload",)), "the IPv4 upload broke"),
        (step(broken=("IPv4 upload", "IPv6 upload")), "2 connections broke"),
    ],
)
def test_verdict(measured: Step, fault: str) -> None:
    assert measured.fault == fault if not fault else fault in measured.fault
    assert measured.as_dict()["ok"] is not bool(fault)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({}, "off"),
        ({"lan": "MASTER", "wan": "MASTER"}, "MASTER"),
        ({"lan": "INIT", "wan": "BACKUP"}, "lan INIT, wan BACKUP"),
    ],
)
def test_role(states: dict[str, str], expected: str) -> None:
    assert role(states) == expected


def test_table() -> None:
    assert table(STORY.steps).splitlines() == [
        "step         master       IPv4 gap  IPv6 gap  lost    bound  connections  broken    stall",
        "power <cut>  fw-a → fw-b   2000 ms   2000 ms  4000  3000 ms        8 → 8       0  3000 ms  ok",
        "power <cut>  fw-a → -         0 ms      0 ms     0  3000 ms        8 → 8       0     0 ms  WRONG: "
        "the master is nobody alone, not fw-b",
        "power <cut>  fw-a → fw-b      0 ms      0 ms     0  3000 ms        8 → 6       2        -  WRONG: "
        "2 connections broke",
    ]


def test_the_picture_is_well_formed_and_complete() -> None:
    svg = render(STORY, svg_alone=True)
    titles = [element.text for element in ElementTree.parse(io.StringIO(svg)).iter("{http://www.w3.org/2000/svg}title")]
    assert "fw-a lan: MASTER for 7.00 s" in titles
    assert "IPv6: 1999 probes in 2000 ms" in titles
    assert "no power" in svg
    assert "power <cut>" not in svg


def test_the_page_contains_the_picture_and_the_table() -> None:
    page = render(STORY)
    assert render(STORY, svg_alone=True) in page
    assert "<td>fw-a → fw-b</td><td>2000 ms</td>" in page
    assert "power &lt;cut&gt;: the master is nobody alone" in page
