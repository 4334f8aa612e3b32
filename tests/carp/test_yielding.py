"""Of hosts that share traffic no two ever take one share: who opens it when, and what is said before.

Ref: spec carp §14.2.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from carpd.carp.share import OVERDUE_NS, YIELD_LIMIT_NS
from carpd.carp.status import host_status
from carpd.carp.virtual_host import ANSWER_AGAIN_NS, UNREAD_LIMIT_NS
from carpd.config.model import DemotionMode, VirtualHostConfig
from carpd.effects import (
    Announce,
    Effect,
    OpenShare,
    Reason,
    SendAdvertisement,
    SendWithOwnMac,
    StateChanged,
    SurrenderLease,
    TakeAddresses,
)
from carpd.events import CarpState, Family, ForceState, FrameReceived, SetDemotion, TimersDue
from carpd.units import MILLISECOND, SECOND, SKEW
from carpd.wire.carp import ADVERTISEMENT, BOW_OUT, YIELDED
from tests.carp.harness import (
    IPV4_ONLY,
    OURS,
    PEER,
    EffectContract,
    Node,
    frame,
    host_config,
    node_config,
    sent,
    signed,
    transcript,
)

ONE = node_config(1)
PEER4, PEER6 = PEER[Family.IPV4], PEER[Family.IPV6]
THIRD4, FOURTH4 = bytes((192, 0, 2, 3)), bytes((192, 0, 2, 4))


def opens(effects: list[Effect]) -> bool:
    return any(isinstance(effect, OpenShare) for effect in effects)


def hear_from(node: Node, source: bytes, family: Family = Family.IPV4, **fields: int) -> list[Effect]:
    return node.tell(FrameReceived("eth0", frame(signed(node.configs[0], **fields), family, source)))


def wait_out(node: Node) -> list[Effect]:
    """From taking over to the end of the time that a living master has to yield."""
    assert not opens(node.expire()), "the clock is only looked at"
    assert node.wait == YIELD_LIMIT_NS
    node.at(YIELD_LIMIT_NS - 1)
    assert node.tell(TimersDue(node.now)) == []
    return node.at(1).tell(TimersDue(node.now))


TAKE_OVERS: dict[Reason, tuple[VirtualHostConfig, Callable[[Node], list[Effect]]]] = {
    Reason.PREEMPT: (node_config(1, preempt=True), lambda node: node.hear(advskew=101)),
    Reason.DEMOTED_MASTER: (ONE, lambda node: node.hear(advskew=0, demotion=1)),
    Reason.WILL_TIME_OUT: (ONE, lambda node: node.hear(advbase=4)),
    Reason.MASTER_LEFT: (ONE, lambda node: node.hear(advbase=BOW_OUT, advskew=BOW_OUT)),
    Reason.USER: (ONE, lambda node: node.tell(ForceState("lan:1", CarpState.MASTER))),
}


@pytest.mark.parametrize("reason", TAKE_OVERS, ids=lambda reason: reason.name)
def test_who_takes_over_from_the_living_waits(reason: Reason) -> None:
    config, take_over = TAKE_OVERS[reason]
    node = Node(config)
    effects = take_over(node)
    assert transcript(node, effects, "lan:1") == "MASTER take send changed"
    assert [e.reason for e in effects if isinstance(e, StateChanged)] == [reason]
    assert not node.host.serves
    assert not host_status(node.engine, "lan:1").serves
    assert opens(wait_out(node))
    assert node.host.serves
    assert host_status(node.engine, "lan:1").serves


def test_who_takes_over_from_the_dead_does_not() -> None:
    """Its lease has run out: ours is the only share that is open."""
    node = Node(ONE)
    assert transcript(node, node.expire(), "lan:1") == "MASTER take send open changed probe"
    assert node.host.serves


def test_no_other_reason_makes_a_master() -> None:
    assert set(Reason) - set(TAKE_OVERS) - {Reason.MASTER_DOWN} == {
        *(Reason.READY, Reason.CONFIGURED, Reason.BETTER_MASTER, Reason.LESS_DEMOTED),
        *(Reason.LINK_DOWN, Reason.INTERFACE_GONE, Reason.TAKE_FAILED, Reason.SHUTDOWN),
    }


def test_the_word_opens_at_once_and_only_once() -> None:
    node = Node(ONE)
    hear_from(node, PEER4, advskew=0, demotion=1)
    assert transcript(node, hear_from(node, PEER4, type=YIELDED), "lan:1") == "MASTER open"
    assert hear_from(node, PEER4, type=YIELDED) == []
    assert node.wait == node.host.preference.interval_ns, "there is nothing to wait for but the next advertisement"


def test_who_says_so_has_closed_its_share() -> None:
    """In order: surrendered, released, said: by IPv4 and IPv6, from the host's own MAC, signed, of our own type."""
    node = Node.master(ONE)
    effects = node.hear(advskew=99)
    assert transcript(node, effects, "lan:1") == "BACKUP surrender release yielded changed"
    words = [effect for effect in effects if isinstance(effect, SendWithOwnMac)]
    assert [(word.host, word.interface, word.family) for word in words] == [("lan:1", "eth0", f) for f in Family]
    for word in words:
        assert (word.message.type, word.message.advbase, word.message.advskew) == (YIELDED, 1, 100)
        assert node.host.is_authentic(word.message)
        assert not word.message.is_bow_out


@pytest.mark.parametrize("family", Family)
def test_a_node_hears_the_word_of_another_node(family: Family) -> None:
    """The bytes of one are read by the other."""
    old, new = Node.master(node_config(1, demotion=DemotionMode.BOTH)), Node(node_config(1, demotion=DemotionMode.BOTH))
    old.tell(SetDemotion("carp", "test", 7))
    for message, on in zip(sent(old.tell(SetDemotion("carp", "test", 9))), Family, strict=True):
        new.tell(FrameReceived("eth0", frame(message, on)))
    assert new.state is CarpState.MASTER
    assert not new.host.serves
    effects = old.tell(FrameReceived("eth0", frame(new.contract.sent[0].message, Family.IPV4)))
    words = [effect.message for effect in effects if isinstance(effect, SendWithOwnMac)]
    for word, on in zip(words, Family, strict=True):
        new.tell(FrameReceived("eth0", frame(word, on)))
    assert old.state is CarpState.BACKUP
    assert new.host.serves
    assert new.counters.badauth == 0


WHATEVER: list[dict[str, Any]] = [
    {"advskew": 0},
    {"advskew": 254},
    {"demotion": 255},
    {"advbase": BOW_OUT, "advskew": BOW_OUT},
    {"advskew": 100},
    {"advbase": 3},
]


def test_a_word_is_no_advertisement_to_who_shares() -> None:
    """Whatever it says of its sender, it makes nobody step down or take over, and no timer begins anew."""
    backup, master = Node(node_config(1, preempt=True)), Node.master(ONE)
    for node in (backup, master):
        before = (node.state, node.engine.deadline, node.host.heard)
        for fields in WHATEVER[:4]:
            assert node.at(MILLISECOND).hear(type=YIELDED, **fields) == []
            assert (node.state, node.engine.deadline, node.host.heard) == before
        assert node.counters.ipackets == 4


@pytest.mark.parametrize("kind", [ADVERTISEMENT, YIELDED, 0, 15])
def test_the_type_is_nothing_to_who_does_not_share(kind: int) -> None:
    """As it is nothing to the BSDs: the same happens as by an ordinary one."""
    makes: list[Callable[[], Node]] = [Node, lambda: Node(host_config(preempt=True)), Node.master]
    for make in makes:
        for fields in WHATEVER:
            node, usual = make(), make()
            effects = node.hear(type=kind, **fields)
            assert list(map(type, effects)) == list(map(type, usual.hear(**fields)))
            assert (node.state, node.engine.deadline) == (usual.state, usual.engine.deadline)
            assert node.host.heard is None or node.host.heard.message.type == kind


@pytest.mark.parametrize("kind", [0, 3, 15])
def test_an_unknown_type_is_an_advertisement(kind: int) -> None:
    node = Node.master(ONE)
    assert transcript(node, node.hear(advskew=99, type=kind), "lan:1").startswith("BACKUP")


def test_a_word_with_a_wrong_digest_opens_nothing() -> None:
    node = Node(ONE)
    node.hear(demotion=1)
    for config in (node_config(1, key=b"other"), node_config(2), node_config(1, addresses=IPV4_ONLY)):
        message = signed(config, type=YIELDED)
        assert node.tell(FrameReceived("eth0", frame(message))) == []
    own = signed(ONE, type=YIELDED)
    assert node.tell(FrameReceived("eth0", frame(own, source=OURS[Family.IPV4]))) == [], "a loop"
    assert not node.host.serves


# Three hosts


def test_all_that_were_heard_as_masters_have_to_yield() -> None:
    """The old master has yielded to a third host that took over, too, and does not know of us yet."""
    node = Node(ONE)
    hear_from(node, PEER4, demotion=1)
    hear_from(node, THIRD4, advskew=101)
    assert hear_from(node, PEER4, type=YIELDED) == []
    assert not node.host.serves
    assert opens(hear_from(node, THIRD4, type=YIELDED))


def test_or_their_time_runs_out() -> None:
    node = Node(ONE)
    hear_from(node, PEER4, demotion=1)
    hear_from(node, THIRD4, advskew=101)
    hear_from(node, PEER4, type=YIELDED)
    assert opens(wait_out(node))


def test_a_word_of_each_family_is_waited_for_whose_advertisement_was_heard() -> None:
    """By IPv6 an address is another one, but each that advertises by it yields by it."""
    node = Node(ONE)
    hear_from(node, PEER4, demotion=1)
    hear_from(node, PEER6, Family.IPV6, demotion=1)
    assert hear_from(node, PEER4, type=YIELDED) == []
    assert opens(hear_from(node, PEER6, Family.IPV6, type=YIELDED))


def test_who_bowed_out_says_nothing_more() -> None:
    """Of those whom its bow-out has called the worse ones yield."""
    node = Node(ONE)
    hear_from(node, PEER4, advbase=BOW_OUT, advskew=BOW_OUT)
    hear_from(node, THIRD4, advskew=101)
    assert opens(hear_from(node, THIRD4, type=YIELDED))


def test_who_yields_without_having_opened_says_so_too() -> None:
    """The better one has heard it, and waits for it."""
    node = Node(ONE)
    hear_from(node, PEER4, demotion=1)
    effects = hear_from(node, THIRD4, advskew=99)
    assert transcript(node, effects, "lan:1") == "BACKUP surrender release yielded changed"
    assert not opens(hear_from(node, PEER4, type=YIELDED))


def test_what_was_waited_for_once_is_not_the_next_time() -> None:
    node = Node(ONE)
    hear_from(node, PEER4, demotion=1)
    hear_from(node, THIRD4, advskew=99)
    hear_from(node, THIRD4, demotion=1)
    assert opens(hear_from(node, THIRD4, type=YIELDED))


def test_a_stream_of_senders_fills_no_memory() -> None:
    """Source addresses are not signed, and an old advertisement can be sent again."""
    node = Node.master(ONE)
    for number in range(1000):
        hear_from(node, number.to_bytes(4, "big"), advskew=200)
    assert node.host._share._predecessors == set()


def test_who_has_yielded_to_a_better_one_does_not_take_over_from_a_worse_one() -> None:
    """Of four hosts three took over at once. The word of the worst would open our share beside that of the best."""
    node = Node(node_config(1, preempt=True))
    hear_from(node, PEER4, demotion=1)
    hear_from(node, THIRD4, advskew=99)
    assert hear_from(node, FOURTH4, advskew=101) == []
    assert hear_from(node, FOURTH4, type=YIELDED) == []
    assert node.state is CarpState.BACKUP


OVERDUE_AFTER_NS = SECOND + 99 * SKEW + OVERDUE_NS

NOT_OUTRANKED: dict[str, Callable[[Node], object]] = {
    # what happened since a better one was heard -> whom we take over from
    "it is overdue": lambda node: node.at(OVERDUE_AFTER_NS),
    "it leaves": lambda node: hear_from(node, THIRD4, advbase=BOW_OUT, advskew=BOW_OUT),
    "it is a worse one now": lambda node: hear_from(node, THIRD4, demotion=2),
}


@pytest.mark.parametrize("happens", NOT_OUTRANKED.values(), ids=NOT_OUTRANKED)
def test_unless_that_is_no_better_one_any_more(happens: Callable[[Node], object]) -> None:
    node = Node(node_config(1, preempt=True))
    hear_from(node, THIRD4, advskew=99)
    assert hear_from(node.at(OVERDUE_AFTER_NS - SECOND), FOURTH4, advskew=101) == [], "not yet"
    hear_from(node, THIRD4, advskew=99)
    happens(node)
    if node.state is CarpState.BACKUP:
        hear_from(node, FOURTH4, advskew=101)
    assert node.state is CarpState.MASTER


def test_the_better_one_that_is_demoted_is_taken_over_from_at_once() -> None:
    for family, source in PEER.items():
        node = Node(ONE)
        for each in Family:
            node.hear(each, advskew=99)
        assert opens([*hear_from(node, source, family, demotion=1), *hear_from(node, source, family, type=YIELDED)])


def test_who_does_not_share_takes_over_as_ever() -> None:
    node = Node(host_config(preempt=True))
    hear_from(node, THIRD4, advskew=99)
    hear_from(node, FOURTH4, advskew=101)
    assert node.state is CarpState.MASTER


def test_worse_masters_are_answered_before_they_open_their_shares() -> None:
    """Who did not share would hear the next one in an interval: an answer is enough in that."""
    node = Node.master(ONE)
    assert sent(hear_from(node, PEER4, advskew=101))
    node.at(MILLISECOND)
    assert hear_from(node, THIRD4, advskew=101) == []
    assert node.wait == ANSWER_AGAIN_NS < YIELD_LIMIT_NS // 2
    assert sent(node.expire())
    assert sent(hear_from(node, PEER4, advskew=101)), "and at once again"


def test_nobody_can_make_us_send_without_end() -> None:
    """A flood of old advertisements of a worse master, for a second."""
    node = Node.master(ONE)
    begin, answers = node.now, 0
    while node.now < begin + SECOND:
        answers += len(sent(hear_from(node.at(MILLISECOND // 10), PEER4, advskew=101)))
        if node.engine.deadline is not None and node.engine.deadline <= node.now:
            answers += len(sent(node.tell(TimersDue(node.now))))
    assert answers < 2 * 2 * SECOND // ANSWER_AGAIN_NS + 10


# Late


def test_it_counts_from_the_clock_and_not_from_a_frame_that_waited() -> None:
    """After a hang the advertisement of a worse master may have lain in the socket for a while; it hears of us now."""
    node = Node(node_config(1, preempt=True))
    node.hear(advskew=101)  # the kernel's time
    node.at(SECOND)  # when it was read, and we advertised
    assert not opens(node.tell(TimersDue(node.now)))
    assert node.wait == YIELD_LIMIT_NS
    assert opens(node.expire())


def test_not_while_something_waits_in_the_socket() -> None:
    """It may be the advertisement of a better one, that has opened long ago."""
    node = Node(ONE)
    node.hear(demotion=1)
    node.expire()
    read_until = node.now
    node.at(YIELD_LIMIT_NS)
    assert not opens(node.tell(TimersDue(read_until + YIELD_LIMIT_NS - 1)))
    node.at(SECOND)
    assert not opens(node.tell(TimersDue(read_until + YIELD_LIMIT_NS - 1)))
    assert opens(node.tell(TimersDue(read_until + YIELD_LIMIT_NS)))


def test_a_master_is_dead_only_as_far_as_was_read() -> None:
    """Who was late may have missed that another one has taken over from the dead one: it opens when nobody objects."""
    punctual, late = Node(ONE), Node(ONE)
    assert punctual.wait
    punctual.at(punctual.wait + UNREAD_LIMIT_NS - 1)
    assert opens(punctual.tell(TimersDue(punctual.now - UNREAD_LIMIT_NS + 1)))
    late.at(punctual.now - late.now + 4 * SECOND)
    assert transcript(late, late.tell(TimersDue(punctual.now)), "lan:1") == "MASTER take send changed probe"
    assert not late.host.serves
    assert opens(wait_out(late))


LATE: dict[str, tuple[Callable[[Node], list[Effect]], str]] = {
    "by the clock": (lambda node: node.tell(TimersDue(node.now)), "surrender take send probe"),
    "answering a worse one": (lambda node: node.hear(advskew=101), "surrender take send"),
    "telling of a demotion": (
        lambda node: node.tell(SetDemotion("carp", "test", 1)),
        "demotion surrender take send",
    ),
}


@pytest.mark.parametrize(("speak", "words"), LATE.values(), ids=LATE)
def test_a_master_whose_lease_has_run_out_closes_before_it_speaks(
    speak: Callable[[Node], list[Effect]], words: str
) -> None:
    """Its advertisement would open the share at once, while somebody that has taken over answers."""
    in_time, late = Node.master(ONE).at(ONE.lease_ns - 1), Node.master(ONE).at(ONE.lease_ns)
    assert transcript(in_time, speak(in_time), "lan:1") == "MASTER " + words.replace("surrender take ", "")
    assert in_time.host.serves
    assert transcript(late, speak(late), "lan:1") == f"MASTER {words}"
    assert not late.host.serves
    late.tell(TimersDue(late.now))
    assert opens(late.expire())


def test_the_late_one_hears_its_successor_yield() -> None:
    node = Node.master(ONE)
    node.at(10 * SECOND)
    hear_from(node, PEER4, advskew=101)
    assert not node.host.serves
    assert opens(hear_from(node, PEER4, type=YIELDED))


def test_what_does_not_leave_renews_no_lease() -> None:
    """The host that could not send finds out, when it can again, that it was silent."""
    node = Node.master(ONE)
    lease_end = node.now + ONE.lease_ns
    node.send_errno = errno.ENOBUFS
    while node.engine.deadline is not None and node.engine.deadline < lease_end:
        assert not any(isinstance(effect, SurrenderLease) for effect in node.expire())
    node.send_errno = 0
    assert "surrender take send" in transcript(node, node.expire(), "lan:1")
    assert not node.host.serves


def test_one_family_is_enough_for_a_lease() -> None:
    node = Node.master(ONE)
    for _ in range(10):
        node.at(SECOND)
        node.host.advertisement_sent(node.now, Family.IPV4, 0, out_of_memory=False)
        node.host.advertisement_sent(node.now, Family.IPV6, errno.EADDRNOTAVAIL, out_of_memory=False)
        assert not any(isinstance(effect, SurrenderLease) for effect in node.host.handle_timers(node.now, node.now))


def test_nothing_of_the_kind_happens_to_who_does_not_share() -> None:
    node = Node.master()
    node.at(20 * SECOND)
    assert transcript(node, node.tell(TimersDue(node.now))) == "MASTER send"
    assert not any(isinstance(effect, SurrenderLease) for effect in node.at(20 * SECOND).hear(advskew=101))


def test_a_taking_is_proved_by_an_interval_and_not_by_the_wait() -> None:
    """The demotion for addresses that could not be taken ends with the first advertisement by the clock."""
    node = Node(ONE)
    node.engine.groups["carp"].set("lan:1: the addresses can't be taken", 1)
    node.hear(advbase=BOW_OUT, advskew=BOW_OUT)
    assert opens(wait_out(node))
    assert node.engine.groups["carp"].total == 1
    node.expire()
    assert node.engine.groups["carp"].total == 0


# Two nodes of one host


def test_the_last_node_releases_the_addresses() -> None:
    nodes = [node_config(vhid, vhids=(1, 2, 3)) for vhid in (1, 2, 3)]
    node = Node.master(*nodes)
    assert "release" not in transcript(node, node.hear(host=1, advskew=0), "lan:2")
    assert "release" not in transcript(node, node.hear(host=0, advskew=0), "lan:1")
    assert "release" in transcript(node, node.hear(host=2, advskew=0), "lan:3")
    assert not node.contract.held["lan"]


def test_nodes_of_two_virtual_hosts_do_not_hold_for_each_other() -> None:
    ours = Node.master(node_config(1), node_config(2), host_config(name="dmz", vhid=9))
    ours.hear(host=0, advskew=0)
    assert "release" in transcript(ours, ours.hear(host=1, advskew=0), "lan:2")
    assert ours.contract.held["dmz"]


def test_nobody_announces() -> None:
    """Everybody answers with the same MAC wherever the master is; each node with its own is where its master is."""
    node = Node.master(node_config(1), node_config(2))
    told: list[Effect] = []
    for _ in range(5):
        told += node.expire()
    told += node.hear(advskew=101)
    told += node.tell(ForceState("lan:1", CarpState.BACKUP))
    assert not any(isinstance(effect, Announce) for effect in told)


def test_the_contract_would_notice() -> None:
    """A node that says that its share is free before it has closed it."""
    contract = EffectContract()
    contract.follow([TakeAddresses("lan:1", ONE.addresses), SendAdvertisement("lan:1", Family.IPV4, signed(ONE))])
    contract.follow([OpenShare("lan:1")])
    with pytest.raises(AssertionError, match="yields while it still takes its share"):
        contract.follow([SendWithOwnMac("lan:1", "eth0", Family.IPV4, signed(ONE, type=YIELDED))])
    bow_out = signed(ONE, advbase=BOW_OUT, advskew=BOW_OUT)
    with pytest.raises(AssertionError, match="bowed out while it still takes its share"):
        contract.follow([SendAdvertisement("lan:1", Family.IPV4, bow_out)])
