"""Whatever bytes come from the network: the engine does not raise, and has no states but those that were said."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from carpd.pfsync import effects, events
from carpd.pfsync.effects import Effect
from carpd.pfsync.engine import SyncEngine
from carpd.pfsync.events import Event
from carpd.pfsync.selection import Selection
from carpd.pfsync.state_sync import Settings
from carpd.pfsync.timeouts import LinuxTimeouts
from carpd.units import SECOND
from carpd.wire.conntrack import ConntrackEntry, TcpState, flow_key
from carpd.wire.ctnetlink import Change

PEER = "10.0.0.2"
FLOWS = [
    ConntrackEntry(
        *(bytes((10, 0, 0, n)), bytes((192, 0, 2, 1)), 6, 1000 + n, 80),
        *(bytes((192, 0, 2, 1)), bytes((10, 0, 0, n)), 80, 1000 + n),
        *(n, 8, 120, TcpState.SYN_SENT),
        mark=n % 3,
    )
    for n in range(1, 20)
]


class Host:
    """An engine on a kernel that does all that it is told."""

    def __init__(self, creator_id: bytes, *, carrying: bool) -> None:
        chosen = Settings(creator_id=creator_id, first_id=2, selection=Selection(), max_states=100, max_packet=1400)
        self.engine = SyncEngine(0, chosen, LinuxTimeouts({}), carrying=carrying)
        self.table: dict[bytes, ConntrackEntry] = {}
        self.sent: list[bytes] = []
        self.tell(0, events.LinkChanged(True))

    def tell(self, now: int, event: Event) -> None:
        waiting = deque([event])
        while waiting:
            for effect in self.engine.handle(now, waiting.popleft()):
                outcome = self._perform(effect)
                if outcome is not None:
                    waiting.append(outcome)

    def _perform(self, effect: Effect) -> Event | None:
        match effect:
            case effects.SendPackets():
                self.sent += effect.packets
            case effects.InsertEntries():
                self.table.update({flow_key(entry): entry for entry in effect.entries})
            case effects.DeleteEntries():
                for key in effect.keys:
                    self.table.pop(key, None)
            case effects.FetchEntries():
                return events.EntriesFetched(effect.purpose, effect.keys, [self.table.get(key) for key in effect.keys])
            case effects.ReadTable():
                return events.TableRead(list(self.table.values()) if effect.begin else [], last=True)
            case effects.ReadExpectations():
                return events.ExpectationsFound([])
        return None


def _said() -> list[bytes]:
    """Packets that an engine has sent: beginnings, changes, ends, reports and digests."""
    host, other = Host(b"aaaa", carrying=True), Host(b"bbbb", carrying=False)
    changed = [flow._replace(status=14, state=TcpState.ESTABLISHED) for flow in FLOWS[:9]]
    for change, flows in ((Change.NEW, FLOWS), (Change.UPDATE, changed), (Change.DESTROY, FLOWS[:5])):
        host.tell(0, events.TableChanged([(change, flow) for flow in flows]))
    for second in range(1, 4):
        for one, two in ((host, other), (other, host)):
            one.tell(second * SECOND, events.TimersDue())
            two.tell(second * SECOND, events.PacketsReceived([(PEER, payload) for payload in one.sent[-3:]]))
    return host.sent + other.sent


SAID = _said()
KEYS = {flow_key(flow) for flow in FLOWS}


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SAID)))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=200) | mutated(), max_size=12), st.booleans())
def test_any_bytes(payloads: list[bytes], carrying: bool) -> None:
    host = Host(b"cccc", carrying=carrying)
    for second, payload in enumerate(payloads):
        host.tell(second * SECOND, events.PacketsReceived([(PEER, payload)]))
        host.tell(second * SECOND, events.TimersDue())
        deadline = host.engine.deadline
        assert deadline is not None
        assert deadline > second * SECOND
    assert set(host.engine.sync.table.records) == set(host.table)


@settings(max_examples=100)
@given(st.lists(st.sampled_from(SAID), max_size=30), st.booleans())
def test_any_order(payloads: list[bytes], carrying: bool) -> None:
    """Packets that were said, in any order and number: no state is made that was not."""
    host = Host(b"cccc", carrying=carrying)
    host.tell(0, events.PacketsReceived([(PEER, payload) for payload in payloads]))
    assert set(host.engine.sync.table.records) <= KEYS


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=300), max_size=20))
def test_noise_makes_no_states(payloads: list[bytes]) -> None:
    host = Host(b"cccc", carrying=False)
    host.tell(0, events.PacketsReceived([(PEER, payload) for payload in payloads]))
    assert not host.table
