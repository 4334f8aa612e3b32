"""Two firewalls that both carry traffic: questions go through the first, answers come by the second.

Nothing passes them that belongs to no connection that they know, and both kernels are strict about TCP. So the second
must know of each connection before its first packet has left the first one: that is what `defer` is for.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from carpd.lab import rootless
from carpd.lab.firewalls import SERVER, WAN_GATEWAYS, Firewall
from carpd.lab.nodes import Capture
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError, wait_until
from carpd.linux import defer, links
from carpd.linux.defer import WAITING_MAX
from carpd.pfsync.deferral import HELD_MAX
from carpd.pfsync.peers import SILENT_NS
from carpd.runtime.held_packets import HANG_NS
from carpd.units import SECOND
from carpd.wire import frames
from carpd.wire.conntrack import TCP
from tests.conftest import leave_out
from tests.daemon.carpd import LIMIT_NS
from tests.daemon.pfsync import SyncNode
from tests.daemon.unprivileged import NOBODY, run_as_nobody
from tests.linux.conversations import Conversation, Ping, Sctp, Tcp, Udp, gre, unknown
from tests.linux.firewall_pair import FirewallPair

INTERFACES = ["eth1", "eth2"]
CONNECTIONS = 200
BULK = 8 << 20
ANSWER_S = 5.0
LOST_S = 0.5
"""How long a single answer is waited for. One takes some milliseconds, and a new SYN comes after a second only."""
SNAT = "\n".join(
    f"oif eth2 {ip} daddr {server} snat {ip} to {wan}"
    for ip, server, wan in zip(("ip", "ip6"), SERVER, WAN_GATEWAYS, strict=True)
)
FROM_LAN = "iif eth1 accept"
_SYN, _ACK = 0x02, 0x10


class Detour(FirewallPair):
    """The client's gateway is a. What the server answers goes by b, until `straight` was called."""

    def __init__(self, lab: Lab, *, snat: bool = False, **settings: Any) -> None:
        super().__init__(lab)
        for firewall in self.firewalls:
            self.rules(firewall, new=FROM_LAN, srcnat=SNAT if snat else "")
        _route(self.client, "192.0.2.2", "2001:db8:1::2")
        if snat:  # both translate to addresses that b answers for
            self.b.node.ip(*(f"address add {address} dev eth2" for address in WAN_GATEWAYS))
        _route(self.server, "198.51.100.3", "2001:db8:2::3")
        settings = {"defer": INTERFACES, **settings}
        self.first, self.second = (SyncNode(firewall.node, **settings) for firewall in self.firewalls)
        for daemon in self.daemons:
            daemon.has_begun()
            daemon.says(lambda status: any(peer["coverage"] for peer in status["peers"]), "the other one acknowledges")

    @property
    def daemons(self) -> tuple[SyncNode, SyncNode]:
        return self.first, self.second

    def straight(self) -> None:
        """Answers come by a, too: what is not told to b does no harm now."""
        _route(self.server, "198.51.100.2", "2001:db8:2::2")

    def too_early(self) -> int:
        """Packets that left although nobody had acknowledged: a busy machine is too slow now and then."""
        return sum(daemon.pfsync()["counters"]["defer_timeouts"] for daemon in self.daemons)

    def connect(self, address: str, port: int = 80) -> socket.socket:
        """The client's end of a new connection. Raise OSError if it is not there in time."""
        with self.client.inside():
            end = socket.socket(_family(address), socket.SOCK_STREAM)
        end.settimeout(ANSWER_S)
        end.connect((address, port))
        return end

    def listen(self, address: str) -> socket.socket:
        with self.server.inside():
            return socket.create_server((address, 80), family=_family(address), backlog=CONNECTIONS)


def _route(host: Any, *gateways: str) -> None:
    host.ip(*(f"route replace default via {gateway}" for gateway in gateways))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET


def syns(capture: Capture) -> Counter[bytes]:
    """How often the client has asked for each connection, by its ports and first sequence number."""
    asked: Counter[bytes] = Counter()
    for _, frame, outgoing in capture.frames():
        packet = frames.decode_ip_frame(frame) if outgoing else None
        if packet and packet.protocol == TCP and packet.payload[13] & (_SYN | _ACK) == _SYN:
            asked[packet.payload[:8]] += 1
    return asked


@contextlib.contextmanager
def made(**settings: Any) -> Iterator[Detour]:
    try:
        rootless.check()
    except LabError as error:
        leave_out(str(error))
    with Lab() as lab:
        yield Detour(lab, **settings)


@pytest.fixture(scope="module", params=[False, True], ids=["untranslated", "snat"])
def detour(request: pytest.FixtureRequest) -> Iterator[Detour]:
    with made(snat=request.param) as detour:
        yield detour


@pytest.fixture
def own_detour() -> Iterator[Detour]:
    """One that a test may damage."""
    with made() as detour:
        yield detour


@pytest.mark.parametrize("address", SERVER)
def test_connections(detour: Detour, address: str) -> None:
    """Each of them is there at once: the client has to ask for none twice."""
    capture = detour.client.capture("eth0")
    with detour.listen(address) as listener:
        for _ in range(CONNECTIONS):
            with detour.connect(address) as client, listener.accept()[0] as server:
                client.sendall(b"question")
                assert server.recv(100) == b"question"
                server.sendall(b"answer")
                assert client.recv(100) == b"answer"
    asked = syns(capture)
    capture.close()
    assert len(asked) == CONNECTIONS
    assert asked.total() - CONNECTIONS <= detour.too_early()
    status = detour.first.pfsync()
    assert status["defer"] == {"interfaces": INTERFACES, "working": True, "reason": None}
    assert status["counters"]["undeferred"] > 0


KINDS: dict[str, Callable[..., Conversation]] = {
    "tcp": Tcp,
    "udp": Udp,
    "ping": Ping,
    "sctp": Sctp,
    "gre": gre,
    "unknown": unknown,
}


@pytest.mark.parametrize("address", SERVER)
@pytest.mark.parametrize("kind", KINDS)
def test_every_protocol(detour: Detour, kind: str, address: str) -> None:
    with KINDS[kind](detour.client, detour.server, address) as conversation:
        conversation.open()
        conversation.talk()


@pytest.mark.parametrize("address", SERVER)
def test_datagrams(detour: Detour, address: str) -> None:
    """Two questions at once from one port, as a resolver has them: both are answered, in their order."""
    with detour.server.inside():
        server = socket.socket(_family(address), socket.SOCK_DGRAM)
    with server:
        server.bind((address, 53))
        server.settimeout(LOST_S)
        unanswered = 0
        for _ in range(CONNECTIONS // 4):
            with detour.client.inside():
                client = socket.socket(_family(address), socket.SOCK_DGRAM)
            with client:
                client.settimeout(LOST_S)
                client.connect((address, 53))
                client.send(b"first")
                client.send(b"second")
                for _ in range(2):
                    question, asker = server.recvfrom(100)
                    server.sendto(question, asker)
                try:
                    assert [client.recv(100), client.recv(100)] == [b"first", b"second"]
                except TimeoutError:
                    unanswered += 1
    assert unanswered <= detour.too_early()


@pytest.mark.parametrize("address", SERVER)
def test_much_both_ways(detour: Detour, address: str) -> None:
    """Each kernel sees one direction of it, and can't judge by windows."""
    sent = random.Random(1).randbytes(BULK)

    def receive(end: socket.socket) -> bytes:
        received = bytearray()
        while len(received) < BULK and (some := end.recv(1 << 20)):
            received += some
        return bytes(received)

    with detour.listen(address) as listener, detour.connect(address) as client, listener.accept()[0] as server:
        for end in (client, server):
            end.settimeout(ANSWER_S)
        for sender, receiver in ((client, server), (server, client)):
            sending = threading.Thread(target=sender.sendall, args=(sent,))
            sending.start()
            assert receive(receiver) == sent
            sending.join()


def connects(detour: Detour, address: str) -> int:
    """How often the client had to ask for a new connection."""
    capture = detour.client.capture("eth0")
    with detour.listen(address), detour.connect(address):
        pass
    asked = syns(capture)
    capture.close()
    return asked.total()


def test_a_peer_that_dies(own_detour: Detour) -> None:
    """Packets leave after 20 ms, and later at once; nothing has to be asked for again."""
    detour = own_detour
    detour.straight()
    detour.b.node.kill()
    for address in SERVER:
        assert connects(detour, address) == 1
    counters = detour.first.pfsync()["counters"]
    assert counters["defer_timeouts"] > 0
    time.sleep((SILENT_NS + 2 * SECOND) / SECOND)
    before = detour.first.pfsync()["counters"]["deferred"]
    for address in SERVER:
        assert connects(detour, address) == 1
    assert detour.first.pfsync()["counters"]["deferred"] == before, "nobody is there to be waited for"


def test_pfsyncd_is_killed(own_detour: Detour) -> None:
    """Nobody waits for it, and the next one goes on."""
    detour = own_detour
    detour.straight()
    child = detour.first.child()
    os.kill(child, signal.SIGKILL)
    detour.first.logs("pfsyncd ended (killed by SIGKILL)")
    for address in SERVER:
        assert connects(detour, address) == 1
    detour.first.says(lambda status: status["pid"] and status["restarts"] == 1, "another one runs")
    detour.first.has_begun()
    before = detour.first.pfsync()["counters"]["deferred"]
    for address in SERVER:
        assert connects(detour, address) == 1
    assert detour.first.pfsync()["counters"]["deferred"] > before


def test_pfsyncd_hangs(own_detour: Detour) -> None:
    """For a while what is new waits for it, and then no longer."""
    detour = own_detour
    detour.straight()
    child = detour.first.child()
    os.kill(child, signal.SIGSTOP)
    time.sleep(HANG_NS / SECOND)
    for address in SERVER:
        assert connects(detour, address) == 1
    os.kill(child, signal.SIGCONT)
    detour.first.says(lambda status: status["defer"]["working"], "it goes on")
    for address in SERVER:
        connects(detour, address)


def test_more_than_may_be_held(own_detour: Detour) -> None:
    """All arrive: what is too much for pfsyncd to read passes, and of what it has read the oldest go at once.

    Nobody acknowledges, and all come at the same time.
    """
    detour = own_detour
    (address, _), count = SERVER, WAITING_MAX + 72
    first, second = (daemon.child() for daemon in detour.daemons)
    with detour.server.inside():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, contextlib.ExitStack() as clients:
        server.bind((address, 53))
        server.settimeout(ANSWER_S)
        os.kill(second, signal.SIGSTOP)
        os.kill(first, signal.SIGSTOP)
        for number in range(count):
            with detour.client.inside():
                client = clients.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.sendto(b"%d" % number, (address, 53))
        os.kill(first, signal.SIGCONT)
        arrived = [int(server.recv(100)) for _ in range(count)]
        os.kill(second, signal.SIGCONT)
    counters = detour.first.pfsync()["counters"]
    passed, deferred = counters["defer_passed"], counters["deferred"]
    assert passed + deferred == count
    assert WAITING_MAX <= deferred <= WAITING_MAX + (os.cpu_count() or 1)
    assert arrived == [*range(deferred, count), *range(deferred)]
    assert counters["defer_overflows"] + counters["defer_timeouts"] == deferred
    assert counters["defer_overflows"] >= deferred - HELD_MAX
    detour.first.logs("WARNING: pfsync: defer: too many new connections to hold all: some pass at once")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"link set {defer.DEVICE} down", f"somebody set {defer.DEVICE} down: set it up again"),
        (f"link delete {defer.DEVICE}", f"somebody deleted {defer.DEVICE}: made it again"),
    ],
    ids=["down", "deleted"],
)
def test_somebody_damages_the_device(own_detour: Detour, command: str, said: str) -> None:
    """It is mended, and pfsyncd goes on: connections open by the detour again."""
    detour = own_detour
    child = detour.first.child()
    detour.a.node.ip(command)
    detour.first.logs(f"WARNING: pfsync: defer: {said}")
    detour.first.says(lambda status: status["defer"]["working"], "it works again")
    before = detour.first.pfsync()["counters"]["deferred"]
    for address in SERVER:
        assert connects(detour, address) <= 1 + detour.too_early()
    assert detour.first.pfsync()["counters"]["deferred"] > before
    assert detour.first.child() == child


def what_is_there(firewall: Firewall) -> tuple[bool, bool]:
    """Whether there is our table, and our device."""
    with firewall.node.inside():
        return defer.is_table_installed(), links.find_link(defer.DEVICE) is not None


def test_nothing_is_left_behind(own_detour: Detour) -> None:
    """Not when it is stopped, and of one that was killed nothing but a table, until the next start."""
    detour = own_detour
    assert [what_is_there(firewall) for firewall in detour.firewalls] == [(True, True)] * 2
    detour.straight()
    assert detour.second.stop() == 0
    assert what_is_there(detour.b) == (False, False)
    detour.a.node.kill()
    wait_until(lambda: what_is_there(detour.a) == (True, False), LIMIT_NS, "the end of the device")
    for address in SERVER:
        assert connects(detour, address) == 1
    again = SyncNode(detour.a.node)
    again.says(lambda status: status["defer"] is None, "it runs, and defers nothing")
    assert what_is_there(detour.a) == (False, False)


def test_somebody_flushes_the_ruleset(own_detour: Detour) -> None:
    detour = own_detour
    for firewall in detour.firewalls:
        detour.rules(firewall, new=FROM_LAN)  # it begins with that
    for daemon, firewall in zip(detour.daemons, detour.firewalls, strict=True):
        daemon.logs("pfsync: defer: somebody deleted the nftables table: installed it again")
        assert what_is_there(firewall) == (True, True)
    for address in SERVER:
        assert connects(detour, address) <= 1 + detour.too_early()


def test_an_interface_that_comes_later(lab: Lab) -> None:
    """Until then its packets are not held, and the status says so."""
    node = lab.node("early")
    lab.cable(node, "eth3", lab.switch("sync"), "10.0.0.1/24")
    daemon = SyncNode(node, defer=["eth1"])
    daemon.logs("ERROR: pfsync: defer does not work: there is no interface eth1")
    assert daemon.pfsync()["defer"]["working"] is False
    lab.cable(node, "eth1", lab.switch("lan"))
    daemon.logs("INFO: pfsync: defer works")
    node.ip("link delete eth1")
    wait_until(lambda: not daemon.pfsync()["defer"]["working"], LIMIT_NS, "it says that the interface has gone")
    assert daemon.stop() == 0


def test_without_the_capability(lab: Lab) -> None:
    """A line in the log says why packets are not held; all else works."""
    node = lab.node("nobody")
    lab.cable(node, "eth3", lab.switch("sync"), "10.0.0.1/24")
    lab.cable(node, "eth1", lab.switch("lan"))
    program = run_as_nobody(node.directory, "carpd.cli.pfsyncd", "net_admin", "net_raw")
    daemon = SyncNode(node, program=program, owner=NOBODY, secrets=(), defer=["eth1"])
    daemon.logs("pfsync: synchronising on eth3 (plain)")
    (line,) = (line for line in daemon.log().splitlines() if "defer" in line)
    assert "ERROR: pfsync: defer does not work: " in line
    status = daemon.pfsync()["defer"]
    assert (status["working"], status["reason"]) == (False, line.partition("does not work: ")[2])
    with node.inside():
        assert links.find_link(defer.DEVICE) is None
