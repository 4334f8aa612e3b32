"""Two firewalls that share the traffic to their gateway addresses, 256 clients, and the traffic itself.

    client -- lan switch --+-- fw-a --+-- wan switch -- server
                           +-- fw-b --+

    python -m benchmarks.sharing_traffic flood MAC CORE MEMORY
    python -m benchmarks.sharing_traffic ask LIMIT CLIENT HOST HOST MEMORY

are the processes behind `Flood` and `Questions`. CLIENT and HOST are descriptors of network namespaces, MEMORY one of
shared memory.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import json
import mmap
import os
import select
import socket
import struct
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple, Self

from carpd.lab.daemons import Carpd
from carpd.lab.firewalls import LAN_GATEWAYS, SERVER, FirewallNetwork
from carpd.lab.measure import Loss
from carpd.lab.nodes import Node, Process
from carpd.lab.topology import Lab
from carpd.lab.waiting import wait_until
from carpd.linux import libc, namespaces
from carpd.units import MILLISECOND, SECOND
from carpd.wire.ethernet import ETHERTYPE_IPV4, EthernetFrame, parse_mac
from carpd.wire.ipv4 import IPv4Packet

CLIENTS = 256
ORDINARY = "ordinary"
"""A virtual host that shares nothing: fw-a is its master."""

_START_NS = 15 * SECOND
_PORT = 4000
_FLOOD_PORT = 5000
_UDP = 17


def client(number: int) -> str:
    """The address of one of the 256 clients: half of them speak IPv4, and either half falls to both nodes alike."""
    return f"2001:db8:9::{1 + number:x}" if number & 2 else f"10.9.{number // 128}.{1 + number % 128}"


def gateway(number: int) -> str:
    """The shared address that a client asks."""
    return LAN_GATEWAYS[number >> 1 & 1]


def node_of(source: str, destination: str, nodes: int = 2) -> int:
    """The position of the node that a packet falls to, straight from the rule. Ref: spec carp §14.2."""
    fold = 0
    for address in map(ip_address, (source, destination)):
        words = struct.unpack(f"!{len(address.packed) // 4}I", address.packed)
        for word in words:
            fold ^= word
    return fold % nodes


# The network

_CONFIGURATION = """\
[carp.lan]
interface = "eth1"
addresses = ["{0}/24", "{1}/64"]
password_file = "password"
preempt = true
advbase = {advbase}
{mine}

[node.fw-b.carp.lan]
{theirs}
"""

# The server has nothing to say to the flood, and need not look at it.
_SINK = f"""
table netdev sink {{
    chain in {{
        type filter hook ingress device "eth0" priority 0;
        udp dport {_FLOOD_PORT} drop
    }}
}}
"""

# Other switches than Linux's are no hosts, which look at what is flooded themselves.
_SWITCH = """
table netdev switch {
    chain in {
        type filter hook ingress device "lan" priority 0; policy drop;
    }
}
"""


class Timers(NamedTuple):
    """Of both nodes: the advskew of the host that is preferred for one, and of the other."""

    advbase: int
    advskew: int
    other: int


DEFAULT, FAST = Timers(1, 0, 100), Timers(0, 12, 18)


def configuration(balancing: str, timers: Timers) -> str:
    """As an operator would write it for both hosts: each is preferred for one node, or fw-a for the only one."""
    if balancing == ORDINARY:
        mine, theirs = f"vhid = 1\nadvskew = {timers.advskew}", f"advskew = {timers.other}"
    else:
        mine = f'balancing = "{balancing}"\nnodes = {{ 1 = {timers.advskew}, 2 = {timers.other} }}'
        theirs = f"nodes = {{ 1 = {timers.other}, 2 = {timers.advskew} }}"
    return _CONFIGURATION.format(*LAN_GATEWAYS, advbase=timers.advbase, mine=mine, theirs=theirs)


class SharedNetwork:
    """The network above with carpd on both hosts."""

    def __init__(self, lab: Lab, balancing: str, timers: Timers) -> None:
        network = FirewallNetwork(lab)
        self.lab, self.client, self.server = lab, network.client, network.server
        self.hosts = network.firewalls
        addresses = map(client, range(CLIENTS))
        self.client.ip(*(f"address add {address}/{128 if ':' in address else 32} dev eth0" for address in addresses))
        for host in self.hosts:
            host.node.ip("route add 10.9.0.0/16 dev eth1", "route add 2001:db8:9::/64 dev eth1")
            # Whoever forwards first must not wait for an answer to its ARP request.
            host.node.run(("ping", "-nqc1", "-W1", SERVER[0]))
        self.server.run(("nft", "-f", "-"), stdin=_SINK)
        lab.backbone.run(("nft", "-f", "-"), stdin=_SWITCH)
        with contextlib.suppress(FileNotFoundError):  # there is nothing to be set where the module is not loaded
            lab.backbone.sysctl(**{"bridge__bridge-nf-call-iptables": 0})
        text = configuration(balancing, timers)
        self.daemons = [Carpd(host, text) for host in self.hosts]
        self._wanted = [{"lan"}, set()] if balancing == ORDINARY else [{"lan:1"}, {"lan:2"}]
        for daemon in self.daemons:
            daemon.start()

    @property
    def settled(self) -> bool:
        """Whether every host serves what it is preferred for, and that alone."""
        return [serves(daemon) for daemon in self.daemons] == self._wanted

    def settle(self) -> None:
        """Wait for that. Raise LabTimeoutError."""
        wait_until(lambda: self.settled, _START_NS, "every host takes its share", poll_s=0.05)


def serves(daemon: Carpd) -> set[str]:
    """The virtual hosts of which a host takes the traffic."""
    return {host["name"] for host in daemon.virtual_hosts() if host["serves"]}


class Interface(NamedTuple):
    """What it is, and how many packets it has had."""

    mac: bytes
    received: int
    sent: int

    @classmethod
    def of(cls, node: Node, name: str) -> Self:
        (found,) = json.loads(node.run(("ip", "-json", "-stats", "link", "show", "dev", name)))
        stats = found["stats64"]
        return cls(parse_mac(found["address"]), stats["rx"]["packets"], stats["tx"]["packets"])


def _start(
    node: Node, words: int, what: str, *arguments: object, pass_fds: Sequence[int] = ()
) -> tuple[Process, memoryview[int]]:
    """Run this module in a node with so many words of shared memory; it ends with its node."""
    memory = os.memfd_create(what)
    try:
        os.ftruncate(memory, 8 * words)
        argv = [sys.executable, "-m", __name__, what, *map(str, arguments), str(memory)]
        process = node.start(argv, log=f"{what}.log", pass_fds=(*pass_fds, memory))
        return process, memoryview(mmap.mmap(memory, 8 * words)).cast("q")
    finally:
        os.close(memory)


# The flood


class Flood:
    """UDP packets of 256 clients to the server by way of a MAC, as many as one core can send."""

    def __init__(self, node: Node, mac: bytes, core: int) -> None:
        self._process, self._words = _start(node, 1, "flood", mac.hex(), core)
        wait_until(lambda: self.sent > 0, _START_NS, "the flood begins")

    @property
    def sent(self) -> int:
        return self._words[0]

    def stop(self) -> None:
        self._process.stop()


_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20
_sendmmsg = libc.function("sendmmsg", ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


def _flood(mac: str, core: str, memory: str) -> None:
    words = memoryview(mmap.mmap(int(memory), 8)).cast("q")
    os.sched_setaffinity(0, {int(core)})
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packets:
        packets.bind(("eth0", 0))
        packets.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        own_mac: bytes = packets.getsockname()[4]
        frames = [flood_frame(bytes.fromhex(mac), own_mac, number) for number in range(CLIENTS)]
        block = ctypes.create_string_buffer(b"".join(frames))
        size, start = len(frames[0]), ctypes.addressof(block)
        # struct iovec of each, and struct mmsghdr: seven words of struct msghdr, and one of which half is the result.
        buffers = array.array("Q", [n for i in range(CLIENTS) for n in (start + i * size, size)])
        address, _ = buffers.buffer_info()
        messages = array.array("Q", [n for i in range(CLIENTS) for n in (0, 0, address + 16 * i, 1, 0, 0, 0, 0)])
        address, _ = messages.buffer_info()
        while True:
            with contextlib.suppress(OSError):  # a queue was full
                words[0] += _sendmmsg(packets.fileno(), address, CLIENTS, 0)


def flood_frame(mac: bytes, own_mac: bytes, number: int) -> bytes:
    """The packet of one client to the server: 60 bytes, without UDP's checksum."""
    datagram = struct.pack("!HHHH", 1024 + number, _FLOOD_PORT, 26, 0) + bytes(18)
    source, destination = bytes((10, 8, 0, number)), ip_address(SERVER[0]).packed
    packet = IPv4Packet(source=source, destination=destination, ttl=64, protocol=_UDP, payload=datagram)
    return EthernetFrame(mac, own_mac, ETHERTYPE_IPV4, packet.to_bytes()).to_bytes()


# Questions and answers


class Seen(NamedTuple):
    """What became of the questions of some clients in a window."""

    loss: Loss
    taken_by_none: int
    taken_by_two: int


class Record(NamedTuple):
    """Questions in the order of asking, each of the client (its index % 256). Times are monotonic nanoseconds."""

    sent: Sequence[int]
    received: Sequence[int]
    """When the answer came; 0: not yet."""
    taken: Sequence[int]
    """How often each host was given it, in a byte a host."""

    def seen(self, clients: frozenset[int], start_ns: int, end_ns: int) -> Seen:
        """In a window that ended at least measure.ANSWER_NS ago."""
        window = range(bisect_left(self.sent, start_ns), bisect_right(self.sent, end_ns))
        theirs = [index for index in window if index % CLIENTS in clients]
        sent, received, taken = ([column[index] for index in theirs] for column in self)
        return Seen(
            Loss.of(sent, received, start_ns, end_ns),
            sum(not times for times in taken),
            sum(times & 0xFF != 0 and times >> 8 != 0 for times in taken),
        )


class Questions:
    """Each millisecond another client asks a shared address; a server on either host answers."""

    def __init__(self, network: SharedNetwork, limit_ns: int) -> None:
        self._limit = limit_ns // MILLISECOND
        descriptors = [network.client.network, *(host.node.network for host in network.hosts)]
        _, self._words = _start(
            network.client, 1 + 3 * self._limit, "ask", self._limit, *descriptors, pass_fds=descriptors
        )

    @property
    def record(self) -> Record:
        """Until now; it grows."""
        count = self._words[0]
        return Record(*(self._words[1 + i * self._limit :][:count] for i in range(3)))


_FREEBIND = {socket.AF_INET: (socket.IPPROTO_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
_INDEX = struct.Struct("!Q")
_PRIORITY = 1  # the lowest that preempts ordinary programs: an election process is above


class _Table:
    """All clients and all servers, in one process: it sees everything happen in one order."""

    def __init__(self, words: memoryview[int], limit: int, client_network: int, host_networks: Sequence[int]) -> None:
        self._count = words[:1]
        self._sent, self._received, self._taken = (words[1 + i * limit : 1 + (i + 1) * limit] for i in range(3))
        self._limit = limit
        self._poll = select.epoll()
        self._clients = {}
        self._servers = {}
        with namespaces.inside(client_network):
            for number in range(CLIENTS):
                asker = self._socket(client(number), 0)
                asker.connect((gateway(number), _PORT))
                self._clients[asker.fileno()] = asker
        for number, network in enumerate(host_networks):
            with namespaces.inside(network):
                for address in LAN_GATEWAYS:
                    server = self._socket(address, _PORT)
                    self._servers[server.fileno()] = (server, number)
        self._askers = list(self._clients.values())

    def _socket(self, address: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.setsockopt(*_FREEBIND[family], 1)  # a server is there when the address is not
        made.bind((address, port))
        made.setblocking(False)
        self._poll.register(made.fileno(), select.EPOLLIN)
        return made

    def ask(self) -> bool:
        """One question; False if there is no room for more."""
        index = self._count[0]
        if index == self._limit:
            return False
        self._sent[index] = time.monotonic_ns()
        with contextlib.suppress(OSError):  # what can't be sent is lost
            self._askers[index % CLIENTS].send(_INDEX.pack(index))
        self._count[0] = index + 1
        return True

    def listen(self) -> None:
        """Whatever has come."""
        while ready := self._poll.poll(0):
            for fd, _ in ready:
                with contextlib.suppress(OSError):  # an answer needs an address that has just gone
                    if fd in self._servers:
                        self._answer(*self._servers[fd])
                    else:
                        (index,) = _INDEX.unpack(self._clients[fd].recv(64))
                        self._received[index] = self._received[index] or time.monotonic_ns()

    def _answer(self, server: socket.socket, number: int) -> None:
        question, asker = server.recvfrom(64)
        (index,) = _INDEX.unpack(question)
        self._taken[index] += 1 << 8 * number
        server.sendto(question, asker)


def _ask(limit: str, client_network: str, *others: str) -> None:
    *host_networks, memory = map(int, others)
    words = memoryview(mmap.mmap(memory, 0)).cast("q")
    table = _Table(words, int(limit), int(client_network), host_networks)
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
    gc.disable()
    for _ in _every(MILLISECOND):
        table.listen()
        if not table.ask():
            return


def _every(interval_ns: int) -> Iterator[None]:
    """Intervals in which it could not run are left out, never made up for in a burst."""
    due = time.monotonic_ns()
    while True:
        yield
        now = time.monotonic_ns()
        due = max(due + interval_ns, now - interval_ns)
        if due > now:
            time.sleep((due - now) / SECOND)


if __name__ == "__main__":
    if sys.argv[1] == "flood":
        _flood(*sys.argv[2:])
    else:
        _ask(*sys.argv[2:])
