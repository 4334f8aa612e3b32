"""What the benchmark of load sharing concludes from what it has seen."""

from __future__ import annotations

import pytest

from benchmarks import sharing
from benchmarks.sharing import Answered, Forwarded, Judged, Run, TakeOver
from benchmarks.sharing_traffic import CLIENTS, FAST, Record, client, gateway, node_of
from carpd.lab.nodes import CapturedFrame
from carpd.units import MILLISECOND


@pytest.mark.parametrize(
    ("source", "destination", "nodes"),
    [
        ("203.0.113.5", "192.0.2.10", (1, 0, 3)),
        ("203.0.113.6", "192.0.2.10", (0, 0, 0)),
        ("2001:db8:5::77", "2001:db8::aa", (1, 1, 1)),
    ],
)
def test_the_examples_of_the_specification(source: str, destination: str, nodes: tuple[int, ...]) -> None:
    assert tuple(node_of(source, destination, count) for count in (2, 3, 4)) == nodes


def test_a_quarter_of_the_clients_is_of_each_node_and_family() -> None:
    found = [(":" in client(number), node_of(client(number), gateway(number))) for number in range(CLIENTS)]
    assert len({client(number) for number in range(CLIENTS)}) == CLIENTS
    assert {kind: found.count(kind) for kind in found} == dict.fromkeys(
        [(f, n) for f in (False, True) for n in (0, 1)], 64
    )


def test_what_became_of_the_questions_of_some_clients() -> None:
    """The even ones are of one host: it takes 0, nobody takes 2 and 4, the other one 6, and both take 8."""
    sent = [i * MILLISECOND for i in range(1, 11)]
    received = [0 if i in (2, 4) else at + 1 for i, at in enumerate(sent)]
    taken = [{0: 1, 2: 0, 4: 0, 6: 1 << 8, 8: 1 | 1 << 8}.get(i, 1 << 8) for i in range(10)]
    record = Record(sent, received, taken)
    even = record.seen(frozenset(range(0, CLIENTS, 2)), 0, 20 * MILLISECOND)
    assert (even.loss.gap_ns, even.loss.lost, even.taken_by_none, even.taken_by_two) == (6 * MILLISECOND, 2, 2, 1)
    odd = record.seen(frozenset(range(1, CLIENTS, 2)), 0, 20 * MILLISECOND)
    assert (odd.loss.gap_ns, odd.taken_by_none, odd.taken_by_two) == (0, 0, 0)


def test_an_answer_belongs_to_the_request_of_its_receiver() -> None:
    first, second = (bytes.fromhex(f"0255000200{number:02x}") for number in (1, 2))
    other = bytes(6)
    frames = [
        CapturedFrame(100, other + first, True),
        CapturedFrame(150, other + second, True),
        CapturedFrame(160, second + other, False),
        CapturedFrame(300, first + other, False),
        CapturedFrame(310, first + other, False),
    ]
    assert list(sharing.answer_times(frames)) == [10, 200]


def test_the_tables_have_every_row() -> None:
    runs = [Run("fw-a", 150.0, 70, 0.0, 0), Run("fw-b", 170.0, 90, 4.0, 2)]
    text = sharing.tables(
        [Judged("ingress", 1, 2)],
        [
            Forwarded(setup, 2, 9, 8, 7.5, 7.25, 0.125, shares)
            for setup, shares in (("ip", [50.0, 50.0]), (sharing.NO_HOST, [100.0]))
        ],
        [Answered("ip", "ARP", 100, 200, 0)],
        [TakeOver(FAST, "kill -9", 210.9, runs)],
    )
    cells = [line.split() for line in text.splitlines()]
    assert ["0,", "12/18", "kill", "-9", "210.9", "160.0", "170.0", "90", "4.0", "2"] in cells
    assert ["ip", "2", "9", "8", "7.50", "7.25", "0.12", "50.0", "50.0"] in cells
    assert ["no", "host", "2", "9", "8", "7.50", "7.25", "0.12"] in cells
