"""Sealed datagrams between nodes, and somebody on the link who records, drops, repeats, delays, changes and invents."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpd.linux.seal_keys import SealCipher, SealKeys
from carpd.pfsync import sealed
from carpd.pfsync.sealed import (
    CHANGE_NS,
    EPOCHS,
    OVERHEAD,
    PATIENCE_LIMIT_NS,
    PATIENCE_NS,
    PROOF_LIFE_NS,
    RENEWAL_NS,
    WINDOW,
    SealedLink,
)
from carpd.units import MILLISECOND, SECOND

SECRET, NEW_SECRET, FOREIGN_SECRET = b"s" * 32, b"n" * 32, b"f" * 32
STEP = 100 * MILLISECOND
DATA = b"data"
REPORT = b"report"
"""What everybody says all the time; the tests look at the rest."""


class Segment:
    """Nodes that all hear each other, a clock, and everything that was ever sent."""

    def __init__(self, *names: str, secrets: tuple[bytes, ...] = (SECRET,), seed: int = 0) -> None:
        self.now = 1000 * SECOND
        self.chance = random.Random(seed)
        self.recorded: list[bytes] = []
        self.links: dict[str, SealedLink] = {}
        self.received: dict[str, list[bytes]] = {}
        for name in names:
            self.start(name, secrets)

    def start(self, name: str, secrets: tuple[bytes, ...] = (SECRET,)) -> None:
        """Or restart: nothing is remembered."""
        self.links[name] = SealedLink(SealKeys(), self.chance.randbytes, secrets)
        self.received[name] = []

    def give(self, name: str, *datagrams: bytes) -> list[bytes]:
        """A node receives these; return what it answers."""
        opened = self.links[name].open(self.now, [("192.0.2.1", datagram) for datagram in datagrams])
        self.received[name] += [payload for _, payload in opened.payloads if payload != REPORT]
        self.recorded += opened.answers
        return opened.answers

    def seal(self, name: str, *payloads: bytes) -> list[bytes]:
        datagrams = self.links[name].seal(self.now, payloads)
        self.recorded += datagrams
        return datagrams

    def deliver(
        self, sender: str, datagrams: Iterable[bytes], passes: Callable[[bytes], bool] = lambda _: True
    ) -> None:
        """To all others, and their answers to all others, until nobody has anything to say."""
        waiting = [(sender, datagram) for datagram in datagrams]
        while waiting:
            sender, datagram = waiting.pop(0)
            for name in self.links:
                if name != sender and passes(datagram):
                    waiting += [(name, answer) for answer in self.give(name, datagram)]

    def send(self, name: str, *payloads: bytes) -> None:
        self.deliver(name, self.seal(name, *payloads))

    def pass_time(self, duration_ns: int) -> None:
        """Everybody reports every 100 ms, and nothing is lost."""
        for _ in range(duration_ns // STEP):
            self.now += STEP
            for name in self.links:
                self.send(name, REPORT)

    def counters(self, name: str) -> dict[str, int]:
        """Those that count what was refused, as far as there was anything."""
        counted = dataclasses.asdict(self.links[name].counters)
        return {key: count for key, count in counted.items() if count and key.startswith("sealed_")}


def acquainted(*names: str) -> Segment:
    segment = Segment(*names)
    for name in names:
        segment.send(name)
    segment.pass_time(STEP)
    return segment


def data_of(segment: Segment, name: str, payload: bytes = DATA) -> bytes:
    """One sealed datagram with data, which nobody has received."""
    return segment.seal(name, payload)[-1]


# Acquaintance


def test_one_exchange_makes_two_nodes_obey_each_other() -> None:
    segment = Segment("a", "b")
    (hello,) = segment.seal("a")
    answer_and_challenge = segment.give("b", hello)
    (answer,) = segment.give("a", *answer_and_challenge)
    assert segment.give("b", answer) == []
    for one, other in (("a", "b"), ("b", "a")):
        assert segment.links[one].proven(segment.now) == 1
        segment.send(one, DATA)
        assert segment.received[other] == [DATA]
        assert segment.counters(one) == {}


def test_what_a_payload_becomes() -> None:
    segment = acquainted("a", "b")
    payloads = [b"", b"x", bytes(1400)]
    datagrams = segment.seal("a", *payloads)
    assert [len(datagram) for datagram in datagrams] == [len(payload) + OVERHEAD for payload in payloads]
    opened = segment.links["b"].open(segment.now, [("192.0.2.1", datagram) for datagram in datagrams])
    assert opened.payloads == [("192.0.2.1", payload) for payload in payloads]


def test_three_nodes_on_one_link() -> None:
    segment = acquainted("a", "b", "c")
    for name in segment.links:
        segment.send(name, name.encode())
    assert {name: sorted(got) for name, got in segment.received.items()} == {
        "a": [b"b", b"c"],
        "b": [b"a", b"c"],
        "c": [b"a", b"b"],
    }
    assert [segment.links[name].proven(segment.now) for name in segment.links] == [2, 2, 2]


def test_data_before_the_proof_are_counted_and_dropped() -> None:
    segment = Segment("a", "b")
    hello, *data = segment.seal("a", DATA, DATA)
    segment.deliver("a", [*data, hello])
    assert segment.received["b"] == []
    assert segment.counters("b") == {"sealed_unproven": 2}
    segment.deliver("a", data)  # they come again after the proof: too old
    assert segment.received["b"] == []
    assert segment.counters("b") == {"sealed_unproven": 2, "sealed_replayed": 2}
    segment.send("a", DATA)
    assert segment.received["b"] == [DATA]


@pytest.mark.parametrize("lost", [{0}, {1}, {2}, {3}, {0, 1}, {1, 2}, {2, 3}, {0, 3}, {1, 4}, {0, 1, 2, 3, 4, 5}])
def test_any_datagram_of_the_handshake_is_lost(lost: set[int]) -> None:
    segment = Segment("a", "b")
    sent = iter(range(1_000_000))
    for _ in range(20):
        for name in segment.links:
            segment.deliver(name, segment.seal(name, DATA), lambda _: next(sent) not in lost)
        segment.now += STEP
    for link in segment.links.values():
        assert link.proven(segment.now) == 1
    assert all(segment.received.values())


def test_a_restarted_sender_is_obeyed_again() -> None:
    segment = acquainted("a", "b")
    segment.pass_time(3 * SECOND)
    segment.start("a")
    segment.send("a")
    segment.send("a", DATA)
    assert segment.received["b"] == [DATA]


def test_challenges_are_spaced_while_a_stranger_does_not_answer() -> None:
    segment = Segment("a", "b")
    challenged = []
    for _ in range(1000):
        before = segment.links["b"].counters.challenges
        segment.give("b", data_of(segment, "a"))
        if segment.links["b"].counters.challenges > before:
            challenged.append(segment.now)
        segment.now += 10 * MILLISECOND
    pauses = [later - earlier for earlier, later in itertools.pairwise(challenged)]
    assert pauses[0] == PATIENCE_NS
    assert pauses[-1] == PATIENCE_LIMIT_NS
    assert pauses == sorted(pauses)


# Recordings


def test_a_restarted_receiver_obeys_no_recording() -> None:
    segment = acquainted("a", "b")
    for _ in range(3):
        segment.send("a", DATA)
    segment.pass_time(25 * SECOND)
    segment.start("a")
    segment.pass_time(25 * SECOND)
    recording = segment.recorded[:]
    segment.start("b")
    segment.give("b", *recording)
    assert segment.received["b"] == []
    segment.pass_time(SECOND)
    segment.give("b", *recording)
    segment.give("b", *reversed(recording))
    assert segment.received["b"] == []
    segment.send("a", b"new")
    assert segment.received["b"] == [b"new"]


def test_nothing_is_obeyed_twice() -> None:
    segment = acquainted("a", "b")
    segment.send("a", DATA)
    for _ in range(5):
        segment.pass_time(20 * SECOND)
        segment.give("b", *segment.recorded)
        assert segment.received["b"] == [DATA]


@pytest.mark.parametrize(("newer", "obeyed"), [(0, True), (1, True), (WINDOW - 1, True), (WINDOW, False)])
def test_window(newer: int, obeyed: bool) -> None:
    segment = acquainted("a", "b")
    late = data_of(segment, "a", b"late")
    segment.give("b", *segment.seal("a", *[DATA] * newer))
    segment.give("b", late, late)
    assert segment.received["b"] == [DATA] * newer + [b"late"] * obeyed
    assert segment.counters("b") == {"sealed_replayed": 1 if obeyed else 2}


def test_any_order_within_the_window() -> None:
    segment = acquainted("a", "b")
    payloads = [number.to_bytes(2, "big") for number in range(WINDOW)]
    datagrams = segment.seal("a", *payloads)
    segment.chance.shuffle(datagrams)
    segment.give("b", *datagrams)
    segment.give("b", *datagrams)
    assert sorted(segment.received["b"]) == payloads
    assert segment.counters("b") == {"sealed_replayed": WINDOW}


def test_what_is_held_back_for_long_is_not_obeyed() -> None:
    """Also while its epoch goes on: the window alone would take it for an hour at one datagram a second."""
    segment = acquainted("a", "b")
    held = data_of(segment, "a")
    segment.pass_time(3 * RENEWAL_NS)
    segment.give("b", held)
    assert segment.received["b"] == []
    assert segment.counters("b") == {"sealed_replayed": 1}


def test_a_dead_epoch_is_forgotten() -> None:
    """What the link swallowed of it may come minutes later."""
    segment = acquainted("a", "b")
    held = data_of(segment, "a")
    del segment.links["a"]
    segment.pass_time(PROOF_LIFE_NS + STEP)
    assert segment.links["b"].proven(segment.now) == 0
    segment.give("b", held)
    assert segment.received["b"] == []
    assert segment.counters("b") == {"sealed_unproven": 1}


def test_a_response_that_was_held_back_brings_no_forgotten_epoch_back() -> None:
    segment = acquainted("a", "b")
    held: list[bytes] = []
    for number in range(PROOF_LIFE_NS // STEP + 2):  # a's responses are held back, b obeys its data meanwhile
        segment.now += STEP
        for challenge in segment.seal("b"):
            held += segment.give("a", challenge)
        segment.give("b", *segment.seal("a", number.to_bytes(2, "big")))
    assert segment.received["b"]
    assert segment.counters("b")["sealed_unproven"]
    segment.give("b", *held, *segment.recorded)
    assert len(set(segment.received["b"])) == len(segment.received["b"])


def test_renewal_goes_on_for_hours() -> None:
    segment = acquainted("a", "b")
    for hour in range(3):
        segment.pass_time(3600 * SECOND // 20)
        segment.send("a", hour.to_bytes(1, "big"))
    assert segment.received["b"] == [b"\0", b"\1", b"\2"]
    assert segment.counters("a") == segment.counters("b") == {}
    assert segment.links["b"].counters.proofs == 1


def test_a_link_that_was_cut_for_minutes() -> None:
    segment = acquainted("a", "b")
    segment.now += 5 * PROOF_LIFE_NS
    segment.send("a", DATA)
    segment.send("a", DATA)
    assert segment.received["b"] == [DATA]


def test_our_own_datagrams_come_back() -> None:
    segment = Segment("a")
    for _ in range(3):
        datagrams = segment.seal("a", DATA)
        assert segment.give("a", *datagrams) == []
        segment.now += RENEWAL_NS
    assert segment.received["a"] == []
    assert segment.counters("a") == {"sealed_reflected": 6}
    assert segment.links["a"].proven(segment.now) == 0


def held_back_answers(segment: Segment, count: int, pause_ns: int) -> list[bytes]:
    """A starts; b challenges it again and again and gets nothing: the answers, for later. Each belongs to one token."""
    answers: list[bytes] = []
    for _ in range(count):
        challenge = segment.give("b", data_of(segment, "a"))[-1]
        answers += [answer for answer in segment.give("a", challenge) if answer[1] == 3]
        segment.now += pause_ns
    assert len(answers) == count
    return answers


@pytest.mark.parametrize(("which", "pause_ns", "proven"), [(-1, SECOND, 1), (-4, SECOND, 1), (-5, SECOND, 0)])
def test_only_the_last_tokens_may_be_answered(which: int, pause_ns: int, proven: int) -> None:
    segment = Segment("a", "b")
    segment.give("b", held_back_answers(segment, 6, pause_ns)[which])
    assert segment.links["b"].proven(segment.now) == proven


@pytest.mark.parametrize(("age_ns", "proven"), [(PROOF_LIFE_NS, 1), (PROOF_LIFE_NS + 1, 0)])
def test_an_answer_proves_life_when_it_was_asked(age_ns: int, proven: int) -> None:
    segment = Segment("a", "b")
    (answer,) = held_back_answers(segment, 1, age_ns)
    segment.give("b", answer)
    assert segment.links["b"].proven(segment.now) == proven
    assert segment.links["b"].counters.proofs == proven


def test_answers_in_the_wrong_order() -> None:
    """A late one takes nothing back and makes nothing too old."""
    segment = Segment("a", "b")
    (first,) = held_back_answers(segment, 1, SECOND)
    held = data_of(segment, "a")
    older, newer = held_back_answers(segment, 2, SECOND)
    segment.give("b", first, newer, older)
    segment.now += PROOF_LIFE_NS - SECOND
    segment.give("b", held)
    assert segment.received["b"] == [DATA]


# Changed and invented datagrams


@given(st.data())
@settings(max_examples=200)
def test_a_changed_bit(data: st.DataObject) -> None:
    segment = _ACQUAINTED
    datagram = data_of(segment, "a")
    position = data.draw(st.integers(0, 8 * len(datagram) - 1))
    changed = (int.from_bytes(datagram, "big") ^ 1 << position).to_bytes(len(datagram), "big")
    before = Counter(segment.counters("b"))
    assert segment.give("b", changed) == []
    assert segment.received["b"] == []
    counted = Counter(segment.counters("b")) - before
    assert counted.total() == 1
    assert counted.keys() <= {"sealed_version", "sealed_unknown_key", "sealed_replayed", "sealed_forged"}


@given(st.integers(0, 60), st.binary(max_size=40))
@settings(max_examples=100)
def test_another_end(cut: int, end: bytes) -> None:
    segment = _ACQUAINTED
    datagram = data_of(segment, "a")
    changed = datagram[: max(len(datagram) - cut, 0)] + end
    before = Counter(segment.counters("b"))
    segment.give("b", changed)
    if changed == datagram:
        assert segment.received["b"].pop() == DATA
    assert segment.received["b"] == []
    counted = Counter(segment.counters("b")) - before
    assert counted.total() == (changed != datagram)


@given(st.binary(max_size=200))
def test_anything(datagram: bytes) -> None:
    before = Counter(_ACQUAINTED.counters("b"))
    assert _ACQUAINTED.give("b", datagram, b"\xc1" + datagram) == []
    assert _ACQUAINTED.received["b"] == []
    assert (Counter(_ACQUAINTED.counters("b")) - before).total() == 2


_ACQUAINTED = acquainted("a", "b")


def sealed_by(secret: bytes, kind: int, payload: bytes, epoch: bytes = bytes(16), number: int = 1) -> bytes:
    """What somebody makes who knows a secret, after the format of the module's docstring."""
    keys = SealKeys()
    header = bytes([0xC1, kind, 0, 0]) + keys.key_id(secret) + epoch + number.to_bytes(8, "big")
    return header + keys.cipher(secret, epoch).seal(bytes(4) + number.to_bytes(8, "big"), payload, header)


REFUSED = {
    "empty": (b"", "sealed_short"),
    "no payload and no tag": (sealed_by(SECRET, 1, b"")[:-1], "sealed_short"),
    "another version": (b"\xc2" + sealed_by(SECRET, 1, DATA)[1:], "sealed_version"),
    "another secret": (sealed_by(FOREIGN_SECRET, 1, DATA), "sealed_unknown_key"),
    "another key under the number of ours": (
        sealed_by(SECRET, 1, DATA)[:8] + sealed_by(FOREIGN_SECRET, 1, DATA)[8:],
        "sealed_forged",
    ),
    "another kind": (sealed_by(SECRET, 4, DATA), "sealed_kind"),
    "a token of another length": (sealed_by(SECRET, 2, bytes(15)), "sealed_kind"),
    "data that prove nothing": (sealed_by(SECRET, 1, DATA), "sealed_unproven"),
}


@pytest.mark.parametrize(("datagram", "counter"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(datagram: bytes, counter: str) -> None:
    segment = acquainted("a", "b")
    segment.give("b", datagram)
    assert segment.received["b"] == []
    assert segment.counters("b") == {counter: 1}
    segment.send("a", DATA)
    assert segment.received["b"] == [DATA]


@pytest.mark.parametrize("payload", [b"", bytes(16), bytes(15), bytes(1600)])
def test_a_response_to_what_nobody_asked(payload: bytes) -> None:
    segment = acquainted("a", "b")
    segment.give("b", sealed_by(SECRET, 3, payload))
    assert segment.links["b"].proven(segment.now) == 1


def test_a_flood_of_challenges_is_answered_at_a_bounded_rate() -> None:
    segment = acquainted("a", "b")
    answers: list[bytes] = []
    for step in range(100):
        segment.now += MILLISECOND
        flood = [sealed_by(SECRET, 2, segment.chance.randbytes(16), number=100 * step + i) for i in range(100)]
        answers += segment.give("b", *flood)
    assert len(answers) <= 100 * MILLISECOND // (10 * MILLISECOND) + 2  # and up to two challenges for the stranger
    assert max(map(len, answers)) <= OVERHEAD + 64 * 16


def test_strangers_take_no_place_from_those_who_proved_themselves() -> None:
    segment = acquainted("a", "b")
    recorded = [sealed_by(SECRET, 1, DATA, epoch=number.to_bytes(16, "big")) for number in range(20 * EPOCHS)]
    segment.give("b", *recorded)
    segment.send("a", b"new")
    assert segment.received["b"] == [b"new"]


def test_one_who_knows_the_secret_and_restarts_all_the_time() -> None:
    """Its epochs take a bounded number of places, and never that of a peer that goes on."""
    segment = acquainted("a", "b", "c")
    for _ in range(5 * EPOCHS):
        segment.start("c")
        segment.pass_time(SECOND)
        assert segment.links["b"].proven(segment.now) <= EPOCHS
    segment.send("a", DATA)
    assert segment.received["b"] == [DATA]
    assert segment.counters("b") == {"sealed_unproven": 5 * EPOCHS}  # the first report of each start, and no others


# Keys


def steady(segment: Segment, duration_ns: int) -> None:
    """Everybody sends a numbered payload every 100 ms, and all the others receive it."""
    for number in range(duration_ns // STEP):
        segment.now += STEP
        for name in segment.links:
            payload = f"{name}{number}".encode()
            segment.send(name, payload)
            assert all(segment.received[other][-1] == payload for other in segment.links if other != name)


def test_another_secret_loses_nothing() -> None:
    """The order that the manual says: all open the new one, then it seals, then the old one goes."""
    segment = acquainted("a", "b", "c")
    for secrets in ([SECRET, NEW_SECRET], [NEW_SECRET, SECRET], [NEW_SECRET]):
        for name in segment.links:
            segment.links[name].set_secrets(segment.now, secrets)
            steady(segment, 2 * CHANGE_NS)
        steady(segment, 2 * RENEWAL_NS)
    key_id = SealKeys().key_id(NEW_SECRET)
    assert data_of(segment, "a")[4:8] == key_id
    assert all(segment.counters(name) == {} for name in segment.links)


@pytest.mark.parametrize("lost", [{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 1, 2, 3}])
def test_a_lost_handshake_of_a_new_epoch_loses_no_data(lost: set[int]) -> None:
    segment = acquainted("a", "b")
    segment.links["b"].set_secrets(segment.now, [SECRET, NEW_SECRET])
    segment.links["a"].set_secrets(segment.now, [NEW_SECRET, SECRET])
    handshake = iter(range(1_000_000))
    for number in range(20):
        segment.now += STEP
        payload = number.to_bytes(1, "big")
        segment.deliver("a", segment.seal("a", payload), lambda d: d[1] == 1 or next(handshake) not in lost)
        assert segment.received["b"][-1] == payload
    assert segment.recorded[-1][4:8] == SealKeys().key_id(NEW_SECRET)


def test_a_secret_that_is_taken_away_opens_nothing_any_more() -> None:
    segment = acquainted("a", "b")
    segment.links["b"].set_secrets(segment.now, [NEW_SECRET])
    segment.send("a", DATA)
    assert segment.received["b"] == []
    assert segment.counters("b") == {"sealed_unknown_key": 1}
    assert segment.links["b"].proven(segment.now) == 0
    (own,) = segment.links["b"].seal(segment.now, [DATA])[-1:]
    assert own[4:8] == SealKeys().key_id(NEW_SECRET)  # at once: the old one may be known to others


def test_a_secret_that_seals_before_the_peer_knows_it() -> None:
    segment = acquainted("a", "b")
    segment.links["a"].set_secrets(segment.now, [NEW_SECRET, SECRET])
    segment.pass_time(2 * CHANGE_NS)
    segment.send("a", DATA)
    assert segment.received["b"] == []
    assert set(segment.counters("b")) == {"sealed_unknown_key"}
    segment.links["b"].set_secrets(segment.now, [SECRET, NEW_SECRET])
    segment.pass_time(2 * PATIENCE_LIMIT_NS)
    segment.send("a", DATA)
    segment.send("a", DATA)
    assert DATA in segment.received["b"]


def test_the_same_secret_again_keeps_the_epoch() -> None:
    segment = acquainted("a", "b")
    before = data_of(segment, "a")
    segment.links["a"].set_secrets(segment.now, [SECRET, NEW_SECRET])
    segment.links["a"].set_secrets(segment.now, [SECRET])
    segment.now += 2 * CHANGE_NS
    assert data_of(segment, "a")[:24] == before[:24]


def test_no_nonce_is_used_twice_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[bytes, bytes]] = []

    class Recording(SealCipher):
        def __init__(self, key: bytes) -> None:
            super().__init__(key)
            seal = self.seal

            def recorded(nonce: bytes, payload: bytes, header: bytes) -> bytes:
                used.append((key, nonce))
                return seal(nonce, payload, header)

            self.seal = recorded  # type: ignore[assignment]

    monkeypatch.setattr("carpd.linux.seal_keys.SealCipher", Recording)
    segment = acquainted("a", "b")
    for _ in range(5):
        segment.start("a")
        segment.links["b"].set_secrets(segment.now, [NEW_SECRET, SECRET])
        segment.pass_time(3 * SECOND)
        segment.links["b"].set_secrets(segment.now, [SECRET, NEW_SECRET])
        segment.pass_time(3 * SECOND)
        segment.start("b")
    assert len(used) > 100
    assert len(set(used)) == len(used)


# Everything at once


@pytest.mark.parametrize("seed", range(12))
def test_somebody_who_does_everything(seed: int) -> None:
    """No payload is obeyed twice, none that was sealed before the receiver started, none that is a minute old."""
    print(f"seed {seed}")
    names = ("a", "b", "c")
    segment = Segment(*names, seed=seed)
    chance = segment.chance
    sealed_ns: dict[bytes, int] = {}
    started_ns = dict.fromkeys(names, segment.now)
    checked = dict.fromkeys(names, 0)
    obeyed = 0

    def check() -> int:
        """How many more payloads have been obeyed."""
        before = sum(checked.values())
        for name, payloads in segment.received.items():
            assert len(set(payloads)) == len(payloads)
            for payload in payloads[checked[name] :]:
                assert sealed_ns[payload] >= started_ns[name]
                assert segment.now - sealed_ns[payload] <= 2 * PROOF_LIFE_NS
            checked[name] = len(payloads)
        return sum(checked.values()) - before

    on_the_way: list[tuple[str, bytes]] = []
    for step in range(3000):
        segment.now += chance.choice((0, MILLISECOND, MILLISECOND, STEP, STEP, SECOND * (chance.random() < 0.05)))
        name = chance.choice(names)
        payload = step.to_bytes(4, "big")
        sealed_ns[payload] = segment.now
        on_the_way += [(name, datagram) for datagram in segment.seal(name, payload)]
        for _ in range(len(on_the_way)):
            sender, datagram = on_the_way.pop(chance.randrange(len(on_the_way)))
            for other in names:
                if other != sender and chance.random() < 0.8:
                    on_the_way += [(other, answer) for answer in segment.give(other, datagram)]
        victim = chance.choice(names)
        for recorded in chance.choices(segment.recorded, k=3):
            segment.give(victim, recorded)  # its answers are lost
        changed = bytearray(chance.choice(segment.recorded))
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        segment.give(victim, bytes(changed))
        obeyed += check()
        if chance.random() < 0.004:
            segment.start(victim)
            started_ns[victim], checked[victim] = segment.now, 0
    del on_the_way[:]
    segment.pass_time(2 * SECOND)
    for name in names:
        others = [other for other in names if other != name]
        segment.send(name, b"last " + name.encode())
        assert all(segment.received[other][-1] == b"last " + name.encode() for other in others)
    assert obeyed > 1000


def test_format() -> None:
    """The bytes that go out: a change of them is a new version."""
    link = SealedLink(SealKeys(), bytes, [SECRET])
    _, data = link.seal(SECOND, [DATA])
    assert data == sealed_by(SECRET, 1, DATA, number=2)
    assert data[0] == sealed.VERSION
