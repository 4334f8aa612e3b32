"""The requester's side of a bulk update: every event in every phase. Ref: spec pfsync §7.9."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from carpd.pfsync.bulk import LIMIT_NS, LINK_NS, PROGRESS_NS, REQUEST_NS, TRIES, BulkPhase, BulkUpdate
from carpd.units import SECOND

PEER, OTHER = b"\x0a" * 4, b"\x0b" * 4
START, SENT, BULK, DONE = BulkPhase


def begun(phase: BulkPhase) -> BulkUpdate:
    """One that is there at the time 0."""
    bulk = BulkUpdate(0)
    if phase is not START:
        bulk.link_is_up(0)
    if phase in (BULK, DONE):
        bulk.begins(0, PEER, 1)
    if phase is DONE:
        bulk.ends(PEER, 2)
        bulk.finish(complete=True)
    assert bulk.phase is phase
    return bulk


def _finished(bulk: BulkUpdate, *ended: bytes, complete: bool = True) -> str | None:
    for peer in ended:
        bulk.ends(peer, 2)
    return bulk.finish(complete=complete)


def _lost(bulk: BulkUpdate) -> str | None:
    bulk.loses(PEER)
    return bulk.finish(complete=True)


Event = Callable[[BulkUpdate], object]
EVENTS: dict[str, Event] = {
    "the link is up": lambda bulk: bulk.link_is_up(0),
    "a peer begins": lambda bulk: bulk.begins(0, OTHER, 1),
    "states come": lambda bulk: bulk.progresses(0),
    "the peer ends": lambda bulk: _finished(bulk, PEER),
    "another ends": lambda bulk: _finished(bulk, OTHER),
    "the peer ends, packets are missing": lambda bulk: _finished(bulk, PEER, complete=False),
    "the peer is lost": lambda bulk: _lost(bulk),
    "too early": lambda bulk: bulk.timer((bulk.deadline or 1) - 1),
    "time is over": lambda bulk: bulk.timer(bulk.deadline or 0),
}
NOTHING = None
REQUEST = (True, None)
PRODUCT: dict[BulkPhase, dict[str, tuple[object, BulkPhase]]] = {
    START: {
        "the link is up": (True, SENT),
        "a peer begins": (NOTHING, BULK),
        "time is over": ((False, "bulk fail: no synchronisation link"), DONE),
    },
    SENT: {"a peer begins": (NOTHING, BULK), "time is over": (REQUEST, SENT)},
    BULK: {
        "the peer ends": ("bulk done", DONE),
        "the peer is lost": ("bulk done", DONE),
        "time is over": (REQUEST, SENT),
    },
    DONE: {},
}
"""What changes the phase, and what is answered; all else leaves it as it is."""
ELSE = {"the link is up": False, "too early": (False, None), "time is over": (False, None)}


@pytest.mark.parametrize("phase", BulkPhase)
@pytest.mark.parametrize("event", EVENTS)
def test_every_event_in_every_phase(phase: BulkPhase, event: str) -> None:
    bulk = begun(phase)
    expected = PRODUCT[phase].get(event, (ELSE.get(event), phase))
    assert (EVENTS[event](bulk), bulk.phase) == expected
    assert (bulk.deadline is None) == bulk.done


def test_whoever_does_not_answer_is_asked_again() -> None:
    bulk, times = BulkUpdate(0), [0]
    bulk.link_is_up(0)
    while True:
        assert bulk.deadline is not None
        now = bulk.deadline
        request, reason = bulk.timer(now)
        if not request:
            break
        times.append(now)
    assert times == [number * REQUEST_NS for number in range(TRIES)]
    assert (reason, now) == ("bulk fail: no peer answers", TRIES * REQUEST_NS)


def test_all_who_began_must_end() -> None:
    bulk = begun(BULK)
    bulk.begins(0, OTHER, 1)
    assert _finished(bulk, PEER) is None
    assert _finished(bulk, OTHER) == "bulk done"


@pytest.mark.parametrize(("end", "beginning", "reason"), [(2, 1, "bulk done"), (1, 2, None)], ids=["this", "earlier"])
def test_an_end_may_overtake_its_beginning(end: int, beginning: int, reason: str | None) -> None:
    """By the numbers of their packets. The end of an earlier bulk update says nothing."""
    bulk = begun(SENT)
    bulk.ends(PEER, end)
    bulk.begins(0, PEER, beginning)
    assert bulk.finish(complete=True) == reason


def test_it_goes_on_as_long_as_states_come() -> None:
    bulk = begun(BULK)
    for now in range(0, 60 * SECOND, PROGRESS_NS // 2):
        assert bulk.timer(now) == (False, None)
        bulk.progresses(now)
    assert bulk.timer(now + PROGRESS_NS) == REQUEST, "what stands still is asked for again"
    assert bulk.finish(complete=True) is None, "and those who had begun must begin again"


@pytest.mark.parametrize("answers", [True, False])
def test_it_ends_whatever_peers_do(answers: bool) -> None:
    bulk, now = BulkUpdate(0), 0
    bulk.link_is_up(0)
    while not bulk.done:
        assert bulk.deadline is not None
        assert now <= LIMIT_NS + LINK_NS
        if answers:
            bulk.begins(now, PEER, 1)
            bulk.progresses(now)
            now += SECOND
        else:
            now = bulk.deadline
        _, reason = bulk.timer(now)
    assert reason == ("bulk fail: it took too long" if answers else "bulk fail: no peer answers")
