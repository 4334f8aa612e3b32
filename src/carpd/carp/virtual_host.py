"""The CARP state machine of one virtual host: the only file in which a host becomes BACKUP or MASTER.

A `VirtualHost` is told what happened, with the time beside it, and answers with effects. It knows no
socket, clock, log or chance.

              run conditions hold                 master-down timer, or a worse master is preempted
        INIT --------------------> BACKUP -------------------------------------------------------> MASTER
         ^                          |   ^                                                           |  |
         |   a run condition fails  |   +------------------ a better master is heard ---------------+  |
         +--------------------------+------------------------------------------------------------------+

Where it is one of several nodes that share a set of addresses (`balancing`), share.py says when a master may take its
part of the traffic.

Ref: spec carp §7 to §12; OpenBSD sys/netinet/ip_carp.c, carp_proto_input_c and carp_setrun.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from carpd.carp.announce import REPEAT_AFTER, announcement
from carpd.carp.counter import CounterSequence
from carpd.carp.demotion import Demotion
from carpd.carp.preference import Preference, demoted_advskew, demotion_counter, own_preference
from carpd.carp.send_errors import SendErrors
from carpd.carp.share import YIELD_LIMIT_NS, BetterMasters, Heard, Share
from carpd.config.model import Address, VirtualHostConfig
from carpd.effects import (
    Effect,
    OpenShare,
    Reason,
    ReleaseAddresses,
    SendAdvertisement,
    SendWithOwnMac,
    StateChanged,
    SurrenderLease,
    TakeAddresses,
)
from carpd.events import CarpState, Family, InterfaceChanged
from carpd.stats import CarpCounters
from carpd.units import MILLISECOND, SECOND, SKEW, interval_ns
from carpd.wire.carp import ADVERTISEMENT, BOW_OUT, YIELDED, Advertisement
from carpd.wire.carp_auth import Authenticator

SUCCESSOR_LIMIT_NS = 100 * MILLISECOND
"""How long a master that leaves waits to hear its successor, whose answer takes about a millisecond."""

ANSWER_AGAIN_NS = YIELD_LIMIT_NS // 4
"""Where traffic is shared, worse masters are answered no later than this: before they open a share."""

UNREAD_LIMIT_NS = MILLISECOND
"""Between the last look at the sockets and the timers: more is a backlog."""

_UNSPECIFIED_SOURCES = (bytes(4), bytes(16))

_STOPS = (Reason.LINK_DOWN, Reason.INTERFACE_GONE, Reason.CONFIGURED, Reason.SHUTDOWN)

TRANSITIONS = {
    (CarpState.INIT, CarpState.BACKUP): (Reason.READY,),
    (CarpState.BACKUP, CarpState.MASTER): (
        Reason.MASTER_DOWN,
        Reason.PREEMPT,
        Reason.DEMOTED_MASTER,
        Reason.WILL_TIME_OUT,
        Reason.MASTER_LEFT,
        Reason.USER,
    ),
    (CarpState.MASTER, CarpState.BACKUP): (
        Reason.BETTER_MASTER,
        Reason.LESS_DEMOTED,
        Reason.USER,
        Reason.TAKE_FAILED,
    ),
    (CarpState.BACKUP, CarpState.INIT): _STOPS,
    (CarpState.MASTER, CarpState.INIT): _STOPS,
}
"""Every change of state that there is, and what may lead to it. tools/state-diagram draws it for docs/concepts.md."""


class _Leaving(NamedTuple):
    """A master that has bowed out: what it becomes, why, and when at the latest."""

    to: CarpState
    reason: Reason
    until: int


class VirtualHost:
    """Who answers for one vhid on one interface: this node, or another."""

    def __init__(
        self, config: VirtualHostConfig, demotion: Demotion, seed: int, holders: set[str] | None = None
    ) -> None:
        """`holders` are the nodes with the same addresses, by name, that have taken them."""
        self.state = CarpState.INIT
        self.since = 0
        self.reason: Reason | None = None
        self.heard: Heard | None = None
        self.counters = CarpCounters()
        self.prepared = False
        self.interface: InterfaceChanged | None = None
        self._sequence = CounterSequence(seed)
        self._send_errors = SendErrors()
        self._master_down: dict[Family, int] = {}
        self._advertise_at = 0
        self._announce_countdown = 0
        self._answered_worse_master = False
        self._leaving: _Leaving | None = None
        self._holders: set[str] = set() if holders is None else holders
        self._share = Share()
        """For nodes that share; any other host's never waits."""
        self._better = BetterMasters()
        self._configure(config, demotion)

    def _configure(self, config: VirtualHostConfig, demotion: Demotion) -> None:
        self.config = config
        self.demotion = demotion
        self.families = tuple(
            family
            for family, addresses in ((Family.IPV4, config.addresses4), (Family.IPV6, config.addresses6))
            if addresses
        )
        self._authenticator = authenticator_of(config)

    # What the outside reads

    @property
    def deadline(self) -> int | None:
        """When `handle_timers` is wanted next, in nanoseconds. Early calls are harmless."""
        if self.state is CarpState.MASTER:
            due = self._leaving.until if self._leaving else self._advertise_at
            return due if self._share.waits_until is None else min(due, self._share.waits_until)
        if self.state is CarpState.BACKUP:
            return min(self._master_down.values())
        return None

    @property
    def advskew(self) -> int:
        """The advskew that is sent: with the demotion, where the mode says so."""
        return demoted_advskew(self.config, self.demotion.total)

    @property
    def preference(self) -> Preference:
        return own_preference(self.config, self.demotion.total)

    @property
    def serves(self) -> bool:
        """Whether traffic is taken here, as far as advertisements leave."""
        return self.state is CarpState.MASTER and not self._share.waits

    @property
    def _can_run(self) -> bool:
        """Ref: spec carp §8, run conditions: a link, addresses, and here the device and the gate."""
        return self.prepared and self.interface is not None and self.interface.up and bool(self.families)

    def is_authentic(self, message: Advertisement) -> bool:
        """Whether a peer of this virtual host sent it, whatever it says."""
        return self._authenticator.verify(message.counter, message.digest)

    # What can happen

    def device_prepared(self, now: int) -> list[Effect]:
        """The device and the gate stand; for a master they were made anew: it takes what is its own again.

        What could not be sent before was perhaps for want of them.
        """
        self.prepared = True
        self._send_errors = SendErrors()
        if self.state is CarpState.MASTER:
            return [*self._take(), *self._advertise(now), *self._begin_to_serve()]
        return self.run(now)

    def farewell(self, interface: str) -> list[Effect]:
        """The bow-out that can't be sent on our own link any more, for another one.

        Peers that are carpd take over at once instead of after a master-down time; others count an unknown vhid.
        """
        return self._with_own_mac(interface, BOW_OUT, BOW_OUT)

    def run(self, now: int, reason: Reason = Reason.READY) -> list[Effect]:
        """The run conditions may hold from now on: INIT becomes BACKUP, with full timers."""
        if self.state is CarpState.INIT and self._can_run:
            return self._become_backup(now, reason)
        return []

    def leave(self, now: int, to: CarpState, reason: Reason) -> list[Effect]:
        """A planned move: a master bows out, and answers until its successor is heard, so that no packet is lost.

        Without a successor it becomes `to`, BACKUP or INIT, a tenth of a second later. A node that shares does it now.
        """
        if self.state is not CarpState.MASTER:
            return self.halt(now, reason) if to is CarpState.INIT else []
        if self.config.balancing:
            return [*self._step_down(bow_out=True), *self._become(now, to, reason)]
        self._leaving = _Leaving(to, reason, now + SUCCESSOR_LIMIT_NS)
        return [*self._messages(BOW_OUT, BOW_OUT)]

    def halt(self, now: int, reason: Reason, *, bow_out: bool = False) -> list[Effect]:
        """A run condition failed, or the host is to leave at once: anything becomes INIT."""
        if self.state is CarpState.INIT:
            return []
        effects = self._step_down(bow_out)
        return [*effects, self._enter(now, CarpState.INIT, reason)]

    def reconfigure(self, now: int, config: VirtualHostConfig, demotion: Demotion) -> list[Effect]:
        """New settings of the same virtual host. An address that stays is never given up.

        Ref: spec carp §8 has the BSDs go through INIT; between two nodes of one
        configuration nothing is gained by that.
        """
        old = self.config
        effects = [] if config.addresses else self.halt(now, Reason.CONFIGURED)  # it releases the old addresses
        self._configure(config, demotion)
        if self.state is CarpState.INIT:
            return effects + self.run(now)
        if self.state is CarpState.BACKUP:
            self._arm_master_down(now)
            return []
        gone = _without(old.addresses, config.addresses)
        added = _without(config.addresses, old.addresses)
        if added:  # first, so that a master never has none
            effects.append(TakeAddresses(config.name, added))
        if gone:
            effects.append(ReleaseAddresses(config.name, gone))
        return [*effects, *self._advertise(now), *self._announce()]

    def receive(self, now: int, family: Family, source: bytes, message: Advertisement) -> list[Effect]:
        """An advertisement for our vhid, whole and with a right checksum; authenticity is checked here."""
        if not self.is_authentic(message):
            self.counters.badauth += 1
            return []
        if self._is_loop(source, message):
            self.counters.loops += 1
            return []
        self._sequence.heard(message.counter)
        if self.state is CarpState.INIT:
            return []
        if self.config.balancing and message.type == YIELDED:
            return self._open() if self._share.yielded(source) else []
        heard = self.heard = Heard(source, message, now)
        own, ad = self.preference, Preference.heard(message, self.config.demotion)
        self._better.note(family, heard, ad < own)
        if self.state is CarpState.MASTER:
            # Who leaves is no rival, whatever its demotion: its IPv6 bow-out must not depose whom its IPv4 one called.
            return [] if message.is_bow_out else self._receive_as_master(now, source, own, ad)
        return self._receive_as_backup(now, family, heard, own, ad)

    def handle_timers(self, now: int, heard_until: int) -> list[Effect]:
        """Do what is due: advertise by the clock, take over by what has been heard until then."""
        if self.state is CarpState.MASTER and self._leaving:
            return self._left(now) if now >= self._leaving.until else []
        if self.state is CarpState.MASTER:
            advertised = self._advertise_by_timer(now) if now >= self._advertise_at else []
            return [*advertised, *(self._open() if self._share.has_waited(now, heard_until) else [])]
        if self.state is CarpState.BACKUP and heard_until >= min(self._master_down.values()):
            return self._become_master(now, Reason.MASTER_DOWN, all_heard=now - heard_until < UNREAD_LIMIT_NS)
        return []

    def interface_changed(self, now: int, interface: InterfaceChanged) -> list[Effect]:
        """The link, its address or its own addresses changed."""
        old, self.interface = self.interface, interface
        if not interface.up:
            return self.halt(now, Reason.LINK_DOWN)
        if self.state is CarpState.MASTER and old is not None and old.mac != interface.mac:
            return self._announce()
        return self.run(now)

    def interface_gone(self, now: int) -> list[Effect]:
        """The interface was removed, and the device on it too."""
        self.interface, self.prepared = None, False
        return self.halt(now, Reason.INTERFACE_GONE)

    def demotion_changed(self, now: int) -> list[Effect]:
        """Tell the peers at once: who is better placed takes over without waiting for our timer."""
        return self._advertise(now) if self.state is CarpState.MASTER else []

    def advertisement_sent(self, now: int, family: Family, errno: int, *, out_of_memory: bool) -> bool:
        """Count the outcome of a send; return whether send errors demote this host."""
        if family is Family.IPV4:
            self.counters.opackets += 1
        else:
            self.counters.opackets6 += 1
        if errno:
            self.counters.oerrors += 1
            self.counters.onomem += out_of_memory
        elif self.config.balancing:
            self._share.begin_lease(now, self.config.lease_ns)
        return self._send_errors.count(bool(errno))

    def take_failed(self, now: int) -> list[Effect]:
        """We are master of addresses that we do not have: leave it to somebody else, for one master-down time."""
        if self.state is not CarpState.MASTER:
            return []
        return [*self._step_down(bow_out=True), *self._become_backup(now, Reason.TAKE_FAILED)]

    def force(self, now: int, state: CarpState) -> list[Effect]:
        """The operator's wish. In INIT, and in that state already, nothing happens. Ref: spec carp §15.4.

        Unlike the BSDs a master that is sent to BACKUP bows out: a planned move shall not cost a master-down time.
        """
        if self.state is CarpState.BACKUP and state is CarpState.MASTER:
            return self._become_master(now, Reason.USER)
        if self.state is CarpState.MASTER and state is CarpState.BACKUP:
            return self.leave(now, CarpState.BACKUP, Reason.USER)
        if self._leaving and state is CarpState.MASTER:  # BACKUP was asked for a moment ago
            self._leaving = None
            return [*self._advertise(now), *self._announce()]
        return []

    # The rules. Ref: spec carp §7

    def _receive_as_master(self, now: int, source: bytes, own: Preference, ad: Preference) -> list[Effect]:
        if self._leaving:
            return self._left(now)
        if ad < own or (ad == own and self._yields_a_tie(source)):
            reason = Reason.LESS_DEMOTED if ad.demotion < own.demotion else Reason.BETTER_MASTER
            effects = [*self._step_down(bow_out=False), *self._last_word(own, ad), *self._become_backup(now, reason)]
            if ad == own and self.config.tie_address is None:
                self._wait_a_little_longer()
            return effects
        self._share.wait_too(source)
        if self._answered_worse_master:
            if self.config.balancing:  # it may be about to open its share
                self._advertise_at = min(self._advertise_at, now + ANSWER_AGAIN_NS)
            return []
        # A second master, worse than we are: after a partition, say. Our answer makes it step down now and moves the
        # switch's entry back; once an interval, so that nobody can make us send more than twice our rate.
        self._answered_worse_master = True
        self._announce_countdown = REPEAT_AFTER
        return [*self._advertise(now), *self._announce()]

    def _yields_a_tie(self, source: bytes) -> bool:
        """Whoever hears the other first yields; with ucarp, whose address is not the lower one. Ref: spec carp §7.1.

        ucarp compares them as integers of a little-endian machine: the last octet counts most.
        """
        ours = self.config.tie_address
        return ours is None or int.from_bytes(source, "little") < int.from_bytes(ours, "little")

    def _wait_a_little_longer(self) -> None:
        """After a tie the other may have yielded at the same moment. With timers as exact as ours both would take over
        together and yield together again, for seconds: so each waits up to half an interval more.
        """
        extra = self._sequence.below(self._interval_ns // 2)
        self._master_down = {family: deadline + extra for family, deadline in self._master_down.items()}

    def _last_word(self, own: Preference, ad: Preference) -> list[Effect]:
        """After a partition the better master may not know that there were two: it shall hear of us once, and announce
        itself, for others may have our MAC, or a switch our port.

        The advertisement opens the gate, but nothing is behind it any more, and it is closed again.
        Where traffic is shared, the better one waits for it. Ref: spec carp §7.1, ucarp does it.
        """
        if ad == own and self.config.tie_address is None:  # it would yield as well
            return []
        if self.config.balancing:
            return self._with_own_mac(self.config.interface, self.config.advbase, self.advskew, YIELDED)
        word = self._with_own_mac(self.config.interface, self.config.advbase, self.advskew)
        return [*word, SurrenderLease(self.config.name)]

    def _with_own_mac(self, interface: str, advbase: int, advskew: int, kind: int = ADVERTISEMENT) -> list[Effect]:
        return [
            SendWithOwnMac(self.config.name, interface, sent.family, replace(sent.message, type=kind))
            for sent in self._messages(advbase, advskew)
        ]

    def _receive_as_backup(
        self, now: int, family: Family, heard: Heard, own: Preference, ad: Preference
    ) -> list[Effect]:
        bow_out = heard.message.is_bow_out
        reason = self._reason_to_take_over(own, ad, bow_out)
        if reason is not None and bow_out:
            reason = Reason.MASTER_LEFT  # by whichever rule
        if reason is not None and not self._failed_lately(now) and not self._is_outranked(now, family, heard):
            return self._become_master(now, reason)
        if family in self._master_down:
            # never earlier: an old frame may be read late
            self._master_down[family] = max(self._master_down[family], now + self.config.master_down_ns)
        return []

    def _reason_to_take_over(self, own: Preference, ad: Preference, bow_out: bool) -> Reason | None:
        if ad.demotion > own.demotion:
            return Reason.DEMOTED_MASTER
        if self.config.preempt and own < ad:
            return Reason.PREEMPT
        # OpenBSD has no such rule with advbase 0. A bow-out is no less clear there.
        patience_ns = self.config.dead_ratio * self.config.advbase * SECOND + self.advskew * SKEW
        if (self.config.advbase or bow_out) and patience_ns < ad.interval_ns:
            return Reason.WILL_TIME_OUT
        return None

    def _is_outranked(self, now: int, family: Family, heard: Heard) -> bool:
        return bool(self.config.balancing) and self._better.outrank(now, family, heard.source)

    def _failed_lately(self, now: int) -> bool:
        """Two hosts that can't take their addresses would call each other by their bow-outs, as fast as they can."""
        return self.reason is Reason.TAKE_FAILED and now < self.since + self.config.master_down_ns

    def _is_loop(self, source: bytes, message: Advertisement) -> bool:
        """Our own advertisement, sent back by the network, or kept by somebody and sent again.

        A tie with ourselves would make us step down. Where we have no address to send from, the counter tells; alone
        it proves nothing, as two masters that hear each other send the same one (spec carp §5).
        """
        if source in _UNSPECIFIED_SOURCES:
            return self._sequence.is_ours(message.counter)
        return self.interface is not None and source in self.interface.addresses

    # The transitions

    def _become_master(self, now: int, reason: Reason, *, all_heard: bool = False) -> list[Effect]:
        """Ref: spec carp §12. The addresses first: the gate keeps them silent until the advertisement has left."""
        changed = self._enter(now, CarpState.MASTER, reason)
        self.counters.preempt += 1
        if self.config.balancing and not (reason is Reason.MASTER_DOWN and all_heard):
            # A dead one's lease has run out. But who was late may have missed that somebody else has taken over.
            self._share.wait(now, self.heard)
        self.heard = None
        self._master_down.clear()
        self._announce_countdown = REPEAT_AFTER
        self._answered_worse_master = False
        self._share.begin_lease(now, 0)
        return [*self._take(), *self._speak(now), *self._begin_to_serve(), changed]

    def _take(self) -> list[Effect]:
        self._holders.add(self.config.name)
        return [TakeAddresses(self.config.name, self.config.addresses)]

    def _begin_to_serve(self) -> list[Effect]:
        """Behind an advertisement: tell where the addresses are now, or take our share. Hosts that share are all there,
        and say nothing. Ref: spec carp §12.
        """
        if not self.config.balancing:
            return self._announce()
        return [] if self._share.waits else self._open()

    def _open(self) -> list[Effect]:
        self._share.end_wait()
        return [OpenShare(self.config.name)]

    def _become(self, now: int, to: CarpState, reason: Reason) -> list[Effect]:
        """BACKUP or INIT, of a master that has stepped down."""
        return self._become_backup(now, reason) if to is CarpState.BACKUP else [self._enter(now, to, reason)]

    def _become_backup(self, now: int, reason: Reason) -> list[Effect]:
        self._arm_master_down(now)
        return [self._enter(now, CarpState.BACKUP, reason)]

    def _left(self, now: int) -> list[Effect]:
        assert self._leaving is not None, "only who is leaving has left"
        to, reason, _ = self._leaving
        return [*self._step_down(bow_out=False), *self._become(now, to, reason)]

    def _step_down(self, bow_out: bool) -> list[Effect]:
        """Give up what a master has; nothing if we are none."""
        if self.state is not CarpState.MASTER:
            return []
        words: list[Effect] = [*self._messages(BOW_OUT, BOW_OUT)] if bow_out else []
        end: list[Effect] = [SurrenderLease(self.config.name)]
        self._holders.discard(self.config.name)
        gone: list[Effect] = [] if self._holders else [ReleaseAddresses(self.config.name, self.config.addresses)]
        return [*end, *words, *gone] if self.config.balancing else [*words, *end, *gone]

    def _enter(self, now: int, new: CarpState, reason: Reason) -> StateChanged:
        old, self.state = self.state, new
        assert reason in TRANSITIONS.get((old, new), ()), f"{old.name} to {new.name}: {reason.value}"
        self._leaving = None
        self._share.end_wait()
        self.since, self.reason = now, reason
        if new is CarpState.INIT:
            self.heard, self._send_errors = None, SendErrors()
        return StateChanged(self.config.name, old, new, reason)

    # What a master and a backup do

    def _arm_master_down(self, now: int) -> None:
        """One timer a family; whichever expires first makes us master. Ref: spec carp §9."""
        deadline = now + self.config.master_down_ns
        self._master_down = dict.fromkeys(self.families, deadline)

    def _advertise_by_timer(self, now: int) -> list[Effect]:
        due = self._advertise_at
        self._answered_worse_master = False
        effects: list[Effect] = self._advertise(now)
        if due + self._interval_ns > now:  # keep the beat: lateness must not add up
            self._advertise_at = due + self._interval_ns
        if self._announce_countdown:
            self._announce_countdown -= 1
            if not self._announce_countdown:
                effects += self._announce()
        return effects

    def _advertise(self, now: int) -> list[Effect]:
        if self._leaving:  # the bow-out was the last word
            return []
        return [*self._close_what_has_lapsed(now), *self._speak(now)]

    def _close_what_has_lapsed(self, now: int) -> list[Effect]:
        """A share that fell shut with its lease would be opened by the next advertisement: it waits before."""
        if not self.config.balancing or not self._share.has_lapsed(now):
            return []
        self._share.wait(now, self.heard)
        return [SurrenderLease(self.config.name), *self._take()]

    def _speak(self, now: int) -> list[Effect]:
        self._advertise_at = now + self._interval_ns
        return [*self._messages(self.config.advbase, self.advskew)]

    @property
    def _interval_ns(self) -> int:
        """Between two advertisements; 1/256 s at the least. Ref: spec carp §9."""
        return max(interval_ns(self.config.advbase, self.advskew), SKEW)

    def _messages(self, advbase: int, advskew: int) -> list[SendAdvertisement]:
        """One advertisement for each family that has addresses, IPv4 first, each with a counter of its own."""
        unsigned = Advertisement(
            vhid=self.config.vhid,
            advbase=advbase,
            advskew=advskew,
            demotion=demotion_counter(self.config, self.demotion.total),
        )
        effects = []
        for family in self.families:
            counter = self._sequence.next()
            message = replace(unsigned, counter=counter, digest=self._authenticator.sign(counter))
            effects.append(SendAdvertisement(self.config.name, family, message))
        return effects

    def _announce(self) -> list[Effect]:
        if self._leaving or self.config.balancing:
            return []
        assert self.interface is not None, "a master has an interface"
        return [announcement(self.config, self.interface.mac, self.interface.router)]


def authenticator_of(config: VirtualHostConfig) -> Authenticator:
    """What signs its advertisements and knows those of its peers."""
    return Authenticator(
        config.key, config.vhid, config.addresses4, config.addresses6, send_link_local=config.digest_link_local
    )


def _without(addresses: tuple[Address, ...], others: tuple[Address, ...]) -> tuple[Address, ...]:
    """The addresses that are not among the others, whatever the prefix lengths."""
    known = {a.ip for a in others}
    return tuple(a for a in addresses if a.ip not in known)
