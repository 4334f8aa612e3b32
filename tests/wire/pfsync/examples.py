"""The state of spec pfsync §14, and states of any kind."""

from __future__ import annotations

from hypothesis import strategies as st

from carpd.wire.pfsync.numbers import INET, INET6, Dialect
from carpd.wire.pfsync.state import FreeBSDFields, Key, Peer, PfFields, StateRecord

CREATOR = bytes.fromhex("1a2b3c4d")
FIRST = bytes.fromhex("5f00000000000001") + CREATOR
SECOND = bytes.fromhex("5f00000000000002") + CREATOR

KEY = Key(bytes([10, 0, 0, 5]), bytes([192, 0, 2, 80]), 40000, 80, 0, INET)
SRC = Peer(seqlo=1001, seqhi=66001, max_win=65535, mss=1460, state=4, wscale=0x87)
DST = Peer(seqlo=5001, seqhi=131001, max_win=65160, mss=1460, state=4, wscale=0x86)
STATE = StateRecord(
    identity=FIRST,
    interface="all",
    wire=KEY,
    stack=KEY,
    src=SRC,
    dst=DST,
    creation=90,
    expire=86390,
    packets0=12,
    packets1=10,
    bytes0=3456,
    bytes1=78901,
    family=INET,
    protocol=6,
    direction=1,
    timeout=2,
    flags=2,
)

U8, U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
identities = st.binary(min_size=12, max_size=12)
names = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=16).filter(
    lambda name: len(name.encode()) <= 16
)
peers = st.builds(Peer, U16, U8, U8, U32, U32, U32, U32, U16, U16, U8, U8)


@st.composite
def keys(draw: st.DrawFn, family: int, *, rdomain: bool) -> Key:
    addresses = st.binary(min_size=4, max_size=4) if family == INET else st.binary(min_size=16, max_size=16)
    return Key(draw(addresses), draw(addresses), draw(U16), draw(U16), draw(U16) if rdomain else 0, family)


@st.composite
def states(draw: st.DrawFn, dialect: Dialect) -> StateRecord:
    """Any state that says nothing which the dialect has no field for."""
    openbsd, short = dialect is Dialect.OPENBSD, dialect is Dialect.FREEBSD_1301
    newest = dialect is Dialect.FREEBSD_1500
    families = st.sampled_from([INET, INET6])
    wire = draw(families)
    stack = draw(families) if openbsd or newest else wire
    pf = PfFields(
        rt_address=draw(st.binary(min_size=16, max_size=16)),
        rule=draw(U32),
        anchor=draw(U32),
        nat_rule=draw(U32),
        log=draw(U8),
    )
    if not newest:
        pf = pf._replace(sync_flags=draw(U8), updates=draw(U8))
    if openbsd:
        signed = st.integers(-(2**31), 2**31 - 1)
        pf = pf._replace(rtableid0=draw(signed), rtableid1=draw(signed))
    if not short:
        pf = pf._replace(rt=draw(U8), max_mss=draw(U16), min_ttl=draw(U8), set_tos=draw(U8))
        pf = pf._replace(set_prio0=draw(U8), set_prio1=draw(U8))
    if not openbsd and not short:
        freebsd = FreeBSDFields(*draw(st.tuples(U16, U16, U16, U16)), draw(st.integers(-1, 99)), draw(names))
        if newest:
            freebsd = freebsd._replace(rt_family=draw(families), tag=draw(names), original_interface=draw(names))
            freebsd = freebsd._replace(stack_protocol=draw(st.sampled_from([None, 1, 58])))
        pf = pf._replace(freebsd=freebsd)
    return StateRecord(
        identity=draw(identities),
        interface=draw(names),
        wire=draw(keys(wire, rdomain=openbsd)),
        stack=draw(keys(stack, rdomain=openbsd)),
        src=draw(peers),
        dst=draw(peers),
        creation=draw(U32),
        expire=draw(U32),
        packets0=draw(U64),
        packets1=draw(U64),
        bytes0=draw(U64),
        bytes1=draw(U64),
        family=wire,
        protocol=draw(st.sampled_from([6, 17, 132])),
        direction=draw(U8),
        timeout=draw(U8),
        flags=draw(U8 if short else U16),
        pf=pf,
    )
