"""Sealed datagrams: only who knows a secret can make or read one, and none is obeyed twice, or much later.

A start of a sender, under one secret, is an *epoch*: a random number, from which and from the secret its key is
derived. Datagrams of an epoch are numbered, and the number is the nonce: a key and a nonce never meet twice, whatever
clocks do.

    version 1 | kind 1 | zero 2 | key id 4 | epoch 16 | number 8 | sealed payload | tag 16

The header is sealed as associated data. Kinds:

    DATA       a payload
    CHALLENGE  a token: 16 random bytes. Whoever lives shall answer
    RESPONSE   the tokens of the challenges heard

A seal that opens says that the epoch's owner knows a secret. It does not say that the owner still lives: the datagram
may be a recording. So an epoch is obeyed only after it answered a token that was drawn here, and only for so long that
it must answer again and again. Challenges name nobody and all who hear them answer: recordings of old epochs, however
many, can't keep us from challenging the living, and of strangers nothing is remembered.

One thing is not seen: a virtual machine that is set back to a snapshot in the middle of a run uses numbers again.
"""

from __future__ import annotations

import enum
import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from carpd.units import MILLISECOND, SECOND

VERSION = 0xC1
"""Version 1; the first byte of a datagram."""

_HEADER = struct.Struct("!BBxx20sQ")  # version, kind, name of the epoch, number
_NAME = struct.Struct("!4s16s")  # key id, epoch
_NONCE = struct.Struct("!4xQ")
_TAG = 16
OVERHEAD = _HEADER.size + _TAG
"""So many bytes a sealed datagram is longer than its payload."""

_EPOCH = 16
_TOKEN = 16
WINDOW = 4096
"""A datagram is obeyed only if fewer than this many newer ones of its epoch have come."""
EPOCHS = 16
"""So many epochs of peers are known at once: who knows a secret can't make us remember more."""

RENEWAL_NS = 10 * SECOND
"""So often everybody is challenged who is known."""
PROOF_LIFE_NS = 30 * SECOND
"""So long an epoch is obeyed, from the moment that the token was drawn which it answered."""
PATIENCE_NS = 100 * MILLISECOND
"""Between two challenges while strangers are heard; doubled with each, up to the limit."""
PATIENCE_LIMIT_NS = SECOND
CHANGE_NS = SECOND
"""How long a new epoch presents itself while data still go out under the old one."""
_CHANGE_PATIENCE_NS = CHANGE_NS // 5

_TOKENS = 4
"""So many of our last tokens may be answered: a round trip may take longer than our patience."""
_ANSWERED_AT_ONCE = 64
_ANSWER_INTERVAL_NS = 10 * MILLISECOND


class _Kind(enum.IntEnum):
    DATA = 1
    CHALLENGE = 2
    RESPONSE = 3


class Cipher(Protocol):
    """Authenticated encryption under the key of one epoch, with a tag of 16 bytes."""

    def seal(self, nonce: bytes, payload: bytes, header: bytes) -> bytes: ...

    def open(self, nonce: bytes, sealed: bytes, header: bytes) -> bytes | None:
        """The payload, or None if this was not sealed under this key, nonce and header."""


class Keys(Protocol):
    """What is derived from a secret."""

    def key_id(self, secret: bytes) -> bytes:
        """4 bytes that say which secret it is, and nothing about it."""

    def cipher(self, secret: bytes, epoch: bytes) -> Cipher: ...


@dataclass(slots=True)
class SealedCounters:
    """Datagrams that were refused, in the order of the checks, and what the handshake did."""

    sealed_short: int = 0
    sealed_version: int = 0
    sealed_reflected: int = 0
    """Our own, come back."""
    sealed_unknown_key: int = 0
    """Of a secret that we don't have."""
    sealed_replayed: int = 0
    """Seen before, or too old to know."""
    sealed_forged: int = 0
    """The seal does not open."""
    sealed_kind: int = 0
    """Sealed well, and of no kind that we know."""
    sealed_unproven: int = 0
    """Data of an epoch that has not answered yet: a peer that has just started, or a recording."""
    challenges: int = 0
    """Sent."""
    proofs: int = 0
    """Epochs that came to be obeyed."""


class Opened(NamedTuple):
    """What came out of received datagrams: payloads with where they came from, and datagrams to answer with."""

    payloads: list[tuple[str, bytes]]
    answers: list[bytes]


class _OwnEpoch:
    """One of our epochs: numbers and seals."""

    def __init__(self, keys: Keys, secret: bytes, epoch: bytes) -> None:
        self.name = _NAME.pack(keys.key_id(secret), epoch)
        self._cipher = keys.cipher(secret, epoch)
        self._number = 0

    def seal(self, kind: _Kind, payload: bytes) -> bytes:
        self._number = number = self._number + 1
        header = _HEADER.pack(VERSION, kind, self.name, number)
        return header + self._cipher.seal(_NONCE.pack(number), payload, header)


class _PeerEpoch:
    """An epoch that has proved to be alive, and which of its numbers have been seen."""

    def __init__(self, cipher: Cipher, number: int, drawn_ns: int) -> None:
        """It answered, in its datagram of this number, a token drawn at drawn_ns: what it sent before is too old."""
        self.cipher = cipher
        self.proof_ns = drawn_ns
        self._proof_number = self._floor = self._newest = number
        self._seen = array("Q", bytes(8 * WINDOW))  # at n % WINDOW stands the last such n: no shifting, no clearing

    def is_new(self, number: int) -> bool:
        return number > self._floor and number > self._newest - WINDOW and self._seen[number % WINDOW] != number

    def mark(self, number: int) -> None:
        self._seen[number % WINDOW] = number
        if number > self._newest:
            self._newest = number

    def renew(self, number: int, drawn_ns: int) -> None:
        """It has answered again. What it sent before its answer before that is too old from now on.

        Were there only the window, a datagram could be held back for as long as 4096 others take.
        """
        if drawn_ns > self.proof_ns:
            self.proof_ns = drawn_ns
            self._floor, self._proof_number = self._proof_number, number


class SealedLink:
    """Seals what goes to all peers, opens what comes from them, and has everybody prove to be alive.

    Both calls may return datagrams of the handshake beside those of the caller, and do what is due: there is no timer,
    as long as something is sent about every second. Nothing that comes from the network raises.
    """

    def __init__(self, keys: Keys, random_bytes: Callable[[int], bytes], secrets: Sequence[bytes]) -> None:
        """The first secret seals, all open."""
        self.counters = SealedCounters()
        self._keys, self._random_bytes = keys, random_bytes
        self._secrets = _by_key_id(keys, secrets)
        self._own = self._new_epoch(secrets[0])
        self._next: _OwnEpoch | None = None
        self._change_ns = 0
        self._proven: dict[bytes, _PeerEpoch] = {}
        self._tokens: dict[bytes, int] = {}
        """Those of our challenges that may be answered, and when they were drawn."""
        self._to_answer: dict[bytes, None] = {}
        self._answer_ns = 0
        self._challenged_ns = self._challenge_ns = 0
        self._patience_ns = PATIENCE_NS

    def set_secrets(self, now: int, secrets: Sequence[bytes]) -> None:
        """Seal with the first of these from now on and open with all.

        A new first secret begins a new epoch. It proves itself to the peers while data still go out under the old one,
        for a second: nothing is lost. If the old secret is not among these, it is not used any more at once.
        """
        self._secrets = _by_key_id(self._keys, secrets)
        for name in [name for name in self._proven if name[:4] not in self._secrets]:
            self._forget(name)
        sealing = self._keys.key_id(secrets[0])
        if sealing == self._own.name[:4]:
            self._next = None
            return
        self._next = self._new_epoch(secrets[0])
        self._change_ns = now + CHANGE_NS if self._own.name[:4] in self._secrets else now
        self._challenge_ns = now

    def proven(self, now: int) -> int:
        """How many epochs of peers are obeyed."""
        return sum(now - peer.proof_ns <= PROOF_LIFE_NS for peer in self._proven.values())

    def seal(self, now: int, payloads: Iterable[bytes]) -> list[bytes]:
        """The datagrams to send for these payloads, in their order, and those of the handshake that are due."""
        due = self._due(now)  # first: it may change the epoch
        seal, data = self._own.seal, _Kind.DATA
        return due + [seal(data, payload) for payload in payloads]

    def open(self, now: int, datagrams: Iterable[tuple[str, bytes]]) -> Opened:
        """The payloads of received datagrams, each with its source; what is wrong is counted and dropped."""
        payloads: list[tuple[str, bytes]] = []
        for source, datagram in datagrams:
            payload = self._open(now, datagram)
            if payload is not None:
                payloads.append((source, payload))
        return Opened(payloads, self._due(now))

    def _open(self, now: int, datagram: bytes) -> bytes | None:
        counters = self.counters
        if len(datagram) < OVERHEAD:
            counters.sealed_short += 1
            return None
        version, kind, name, number = _HEADER.unpack_from(datagram)
        if version != VERSION:
            counters.sealed_version += 1
            return None
        peer = self._proven.get(name)
        if peer is not None and now - peer.proof_ns > PROOF_LIFE_NS:
            self._forget(name)
            peer = None
        if peer is None:
            self._open_strange(now, kind, name, number, datagram)
            return None
        if not peer.is_new(number):
            counters.sealed_replayed += 1
            return None
        payload = _opened(peer.cipher, number, datagram)
        if payload is None:
            counters.sealed_forged += 1
            return None
        peer.mark(number)
        if kind == _Kind.DATA:
            return payload
        if kind == _Kind.RESPONSE:
            drawn_ns = self._answered(payload)
            if drawn_ns is not None:
                peer.renew(number, drawn_ns)
        else:
            self._note(kind, payload)
        return None

    def _open_strange(self, now: int, kind: int, name: bytes, number: int, datagram: bytes) -> None:
        """Nothing of this epoch is obeyed. It is answered, and may prove itself."""
        counters = self.counters
        if name in (self._own.name, self._next and self._next.name):  # or we would prove ourselves to ourselves
            counters.sealed_reflected += 1
            return
        key_id, epoch = _NAME.unpack(name)
        secret = self._secrets.get(key_id)
        if secret is None:
            counters.sealed_unknown_key += 1
            return
        cipher = self._keys.cipher(secret, epoch)
        payload = _opened(cipher, number, datagram)
        if payload is None:
            counters.sealed_forged += 1
            return
        if kind == _Kind.RESPONSE:
            drawn_ns = self._answered(payload)
            if drawn_ns is not None and now - drawn_ns <= PROOF_LIFE_NS:
                self._admit(name, _PeerEpoch(cipher, number, drawn_ns))
                return
        elif kind == _Kind.DATA:
            counters.sealed_unproven += 1
        else:
            self._note(kind, payload)
        self._challenge_ns = min(self._challenge_ns, self._challenged_ns + self._patience_ns)

    def _note(self, kind: int, payload: bytes) -> None:
        """Whatever is neither data nor a response. A challenge is answered, whoever it came from: it does no harm."""
        if kind != _Kind.CHALLENGE or len(payload) != _TOKEN:
            self.counters.sealed_kind += 1
        elif len(self._to_answer) < _ANSWERED_AT_ONCE:
            self._to_answer[payload] = None

    def _answered(self, payload: bytes) -> int | None:
        """When the newest of our tokens was drawn that a response has in it."""
        tokens = (payload[i : i + _TOKEN] for i in range(0, len(payload), _TOKEN))
        return max((self._tokens[token] for token in tokens if token in self._tokens), default=None)

    def _admit(self, name: bytes, peer: _PeerEpoch) -> None:
        if len(self._proven) >= EPOCHS:
            self._forget(min(self._proven, key=lambda known: self._proven[known].proof_ns))
        self._proven[name] = peer
        self._patience_ns = PATIENCE_NS
        self.counters.proofs += 1

    def _forget(self, name: bytes) -> None:
        """And all tokens: with a response to one of them, held back, it could come back with its numbers unseen."""
        del self._proven[name]
        self._tokens.clear()

    # What we send of ourselves

    def _due(self, now: int) -> list[bytes]:
        if self._next is not None and now >= self._change_ns:
            self._own, self._next = self._next, None
        due = []
        if self._to_answer and now >= self._answer_ns:
            due += self._answers()
            self._answer_ns = now + _ANSWER_INTERVAL_NS
        if now >= self._challenge_ns:
            due.append(self._challenge(now))
        return due

    def _answers(self) -> list[bytes]:
        """What was asked is answered in one datagram; while the epoch changes, both prove themselves."""
        tokens = b"".join(self._to_answer)
        self._to_answer.clear()
        return [epoch.seal(_Kind.RESPONSE, tokens) for epoch in (self._own, self._next) if epoch is not None]

    def _challenge(self, now: int) -> bytes:
        """Also the way to present ourselves: who hears a strange epoch challenges it."""
        token = self._random_bytes(_TOKEN)
        if len(self._tokens) >= _TOKENS:
            del self._tokens[next(iter(self._tokens))]  # the oldest
        self._tokens[token] = now
        quiet = now - self._challenged_ns > 2 * PATIENCE_LIMIT_NS
        self._patience_ns = PATIENCE_NS if quiet else min(2 * self._patience_ns, PATIENCE_LIMIT_NS)
        self._challenged_ns = now
        self._challenge_ns = now + (_CHANGE_PATIENCE_NS if self._next is not None else RENEWAL_NS)
        self.counters.challenges += 1
        return (self._next or self._own).seal(_Kind.CHALLENGE, token)

    def _new_epoch(self, secret: bytes) -> _OwnEpoch:
        return _OwnEpoch(self._keys, secret, self._random_bytes(_EPOCH))


def _opened(cipher: Cipher, number: int, datagram: bytes) -> bytes | None:
    return cipher.open(_NONCE.pack(number), datagram[_HEADER.size :], datagram[: _HEADER.size])


def _by_key_id(keys: Keys, secrets: Sequence[bytes]) -> dict[bytes, bytes]:
    return {keys.key_id(secret): secret for secret in secrets}
