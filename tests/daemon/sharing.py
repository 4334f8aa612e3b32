"""Hosts that share the traffic to one address, and 256 clients that ask it.

    client, with 256 addresses of each family -- lan switch --+-- a
                                                              +-- b, c, d

Every host prefers one node: a the first, b the second, and so on. On each a server answers to the shared addresses with
the name of its host, and writes down what it was asked.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from ipaddress import ip_address
from typing import Any, NamedTuple

from carpd.lab.nodes import Node
from carpd.lab.topology import Lab, Port, Switch
from carpd.lab.waiting import wait_until
from carpd.wire import arp, ndp
from carpd.wire.ethernet import BROADCAST, ETHERTYPE_ARP, ETHERTYPE_IPV6, EthernetFrame, multicast_mac6
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet
from tests.daemon.carpd import LIMIT_NS, Carpd, virtual_host

NAMES = ("a", "b", "c", "d")
SHARED = ("10.1.255.1", "2001:db8:1::ff:1")
PORT = 4000
CLIENTS = 256
QUIET_S = 0.25
"""So long nothing must come any more."""

FREEBIND = {socket.AF_INET: (socket.IPPROTO_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
_UDP = 17


def client(number: int, family: int) -> str:
    """The address of one of the 256 clients."""
    return f"10.1.{number // 250}.{1 + number % 250}" if family == 4 else f"2001:db8:1::{0x100 + number:x}"


def expected_index(one: str, other: str, nodes: int) -> int:
    """Which node a packet between two addresses falls to, straight from the rule. Ref: spec carp §14.2."""
    fold = 0
    for address in (one, other):
        value = int(ip_address(address))
        while value:
            fold ^= value & 0xFFFFFFFF
            value >>= 32
    return fold % nodes


def sharing_host(mode: str, vhids: Sequence[int], preferred: int, **settings: Any) -> str:
    """The virtual host `lan` as the host has it that prefers this node: intervals of 47 ms and a little more."""
    advskews = {vhid: 12 + 6 * ((place - preferred) % len(vhids)) for place, vhid in enumerate(vhids)}
    nodes = ", ".join(f"{vhid} = {advskew}" for vhid, advskew in advskews.items())
    table = virtual_host(
        addresses=[f"{SHARED[0]}/16", f"{SHARED[1]}/64"], advbase=0, preempt=True, balancing=mode, **settings
    )
    return table.replace("vhid = 7\n", f"nodes = {{ {nodes} }}\n")


class Question(NamedTuple):
    """Who asked, of which family, and the how-manieth it was."""

    number: int
    family: int
    sequence: int

    def to_bytes(self) -> bytes:
        return json.dumps(self).encode()


class Servers:
    """One on each host, all in one thread; each socket is of a shared address, whether it is there or not."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.taken: dict[Question, list[str]] = defaultdict(list)
        """Each question, and the hosts that were asked it."""
        self._names: dict[socket.socket, str] = {}
        for node in nodes:
            with node.inside():
                for family, address in ((socket.AF_INET, SHARED[0]), (socket.AF_INET6, SHARED[1])):
                    server = socket.socket(family, socket.SOCK_DGRAM)
                    server.setsockopt(*FREEBIND[family], 1)
                    server.bind((address, PORT))
                    server.setblocking(False)
                    self._names[server] = node.name
        self._end, self._ended = socket.socketpair()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            readable, _, _ = select.select([*self._names, self._ended], [], [])
            if self._ended in readable:
                return
            for server in readable:
                try:
                    payload, asker = server.recvfrom(2048)
                    self.taken[Question(*json.loads(payload))].append(self._names[server])
                    server.sendto(json.dumps([self._names[server], json.loads(payload)]).encode(), asker)
                except OSError:  # the address has just gone
                    continue

    def close(self) -> None:
        self._end.send(b"x")
        self._thread.join()
        for end in (*self._names, self._end, self._ended):
            end.close()


class Crowd:
    """The clients, with a socket each."""

    def __init__(self, node: Node) -> None:
        self._sequence = 0
        self._sockets: dict[tuple[int, int], socket.socket] = {}
        self._poll = select.epoll()
        self._by_fd: dict[int, socket.socket] = {}
        with node.inside():
            for family, kind in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                for number in range(CLIENTS):
                    asker = socket.socket(kind, socket.SOCK_DGRAM)
                    asker.bind((client(number, family), 0))
                    asker.setblocking(False)
                    self._sockets[number, family] = asker
                    self._by_fd[asker.fileno()] = asker
                    self._poll.register(asker.fileno(), select.EPOLLIN)

    def port(self, number: int, family: int) -> int:
        """The port that a client listens at."""
        port: int = self._sockets[number, family].getsockname()[1]
        return port

    def ask(self, number: int, family: int) -> Question:
        question = self.question(number, family)
        self._sockets[number, family].sendto(question.to_bytes(), (SHARED[family == 6], PORT))
        return question

    def question(self, number: int, family: int) -> Question:
        """One that nobody has asked before."""
        self._sequence += 1
        return Question(number, family, self._sequence)

    def ask_all(self) -> list[Question]:
        """One question of each client and family, in an order in which no server's queue fills up."""
        return [self.ask(number, family) for number in range(CLIENTS) for family in (4, 6)]

    def answers(self) -> dict[Question, list[str]]:
        """What has come, until nothing comes any more."""
        found: dict[Question, list[str]] = defaultdict(list)
        while ready := self._poll.poll(QUIET_S):
            for fd, _ in ready:
                name, question = json.loads(self._by_fd[fd].recv(2048))
                found[Question(*question)].append(name)
        return found

    def close(self) -> None:
        self._poll.close()
        for asker in self._sockets.values():
            asker.close()


class SharedSegment:
    """So many hosts, each master of its node, and the clients."""

    def __init__(self, lab: Lab, mode: str, hosts: int) -> None:
        self.lab, self.mode = lab, mode
        self.vhids = tuple(range(1, hosts + 1))
        self.lan = lab.switch("lan")
        if mode == "ip-unicast":  # a hub: it never learns where a MAC is
            lab.backbone.ip("link set lan type bridge ageing_time 0")
        self.client = lab.node("client")
        addresses = [f"{client(n, 4)}/16" for n in range(CLIENTS)] + [f"{client(n, 6)}/64" for n in range(CLIENTS)]
        lab.cable(self.client, "eth1", self.lan, *addresses)
        self.nodes = [lab.node(name) for name in NAMES[:hosts]]
        self.ports = [self._connect(node, number, self.lan) for number, node in enumerate(self.nodes, 1)]
        self.servers = Servers(self.nodes)
        self.crowd = Crowd(self.client)
        self.daemons = [self.start(number) for number in range(hosts)]

    def _connect(self, node: Node, number: int, lan: Switch) -> Port:
        return self.lab.cable(node, "eth1", lan, f"10.1.254.{number}/16", f"2001:db8:1::fe:{number}/64")

    def start(self, number: int, **settings: Any) -> Carpd:
        """carpd on a host, not waited for."""
        return Carpd(self.nodes[number], sharing_host(self.mode, self.vhids, number, **settings))

    def settle(self) -> None:
        """Wait until every host is master of its node, and of that alone."""
        for number, daemon in enumerate(self.daemons):
            wanted = {f"lan:{vhid}": ("BACKUP", "MASTER")[place == number] for place, vhid in enumerate(self.vhids)}
            wait_until(lambda d=daemon, w=wanted: d.states() == w, LIMIT_NS, f"{NAMES[number]} takes its share")  # type: ignore[misc]
        self.all_are_open()

    def all_are_open(self) -> None:
        """Wait until every node is served by somebody."""
        running = [daemon for daemon in self.daemons if daemon.process.running]

        def whole() -> bool:
            nodes = [host for daemon in running for host in daemon.hosts() if host["balancing"]]
            return sum(bool(node["serves"]) for node in nodes) == len(self.vhids)

        wait_until(whole, LIMIT_NS, "the shares are the whole")

    def expected(self, number: int, family: int) -> str:
        """The host that a client's packets fall to while all hosts live; not in `arp` balancing."""
        return NAMES[expected_index(client(number, family), SHARED[family == 6], len(self.vhids))]

    def close(self) -> None:
        self.crowd.close()
        self.servers.close()


class RawClients:
    """Clients with a MAC each, which ask for the shared address's and then talk to it, frame by frame."""

    def __init__(self, segment: SharedSegment) -> None:
        self._segment = segment
        with segment.client.inside():
            self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._packets.bind(("eth1", 0))
        self._packets.settimeout(0.5)

    @staticmethod
    def mac(number: int) -> bytes:
        return bytes((2, 0x55, number * 7 % 256, number >> 8, 3, number & 0xFF))

    def told_mac(self, number: int, family: int) -> bytes:
        """The MAC that a client is told; nobody else answers within half a second."""
        mac, source = self.mac(number), ip_address(client(number, family)).packed
        target = ip_address(SHARED[family == 6]).packed
        if family == 4:
            request = arp.ArpPacket(arp.REQUEST, mac, source, bytes(6), target)
            frame = EthernetFrame(BROADCAST, mac, ETHERTYPE_ARP, request.to_bytes())
        else:
            group = ndp.solicited_node(target)
            message = ndp.NeighborSolicitation(target, mac).to_bytes(source, group)
            packet = IPv6Packet(source=source, destination=group, hop_limit=255, next_header=58, payload=message)
            frame = EthernetFrame(multicast_mac6(group), mac, ETHERTYPE_IPV6, packet.to_bytes())
        self._packets.send(frame.to_bytes())
        received = self._hear(mac)
        return arp.ArpPacket.from_bytes(received.payload).sender_mac if family == 4 else _told(received).mac

    def told_of_a_duplicate(self, number: int) -> bytes:
        """The MAC that all are told for the IPv6 address when a client asks whether it may have that itself."""
        target = ip_address(SHARED[1]).packed
        group = ndp.solicited_node(target)
        message = ndp.NeighborSolicitation(target).to_bytes(bytes(16), group)
        packet = IPv6Packet(source=bytes(16), destination=group, hop_limit=255, next_header=58, payload=message)
        frame = EthernetFrame(multicast_mac6(group), self.mac(number), ETHERTYPE_IPV6, packet.to_bytes())
        self._packets.send(frame.to_bytes())
        return _told(self._hear(multicast_mac6(ndp.ALL_NODES))).mac

    def _hear(self, destination: bytes) -> EthernetFrame:
        """The next frame to this MAC. Raise TimeoutError."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            received = EthernetFrame.from_bytes(self._packets.recv(2048))
            if received.destination == destination:
                return received
        raise TimeoutError(f"nothing came to {destination.hex(':')}")

    def ask(self, number: int, family: int, destination: bytes) -> Question:
        """A question of the crowd's client, from this client's MAC to the one that it was told."""
        crowd = self._segment.crowd
        question = crowd.question(number, family)
        payload = question.to_bytes()
        source, target = (ip_address(text).packed for text in (client(number, family), SHARED[family == 6]))
        ports = crowd.port(number, family).to_bytes(2, "big") + PORT.to_bytes(2, "big")
        datagram = ports + (8 + len(payload)).to_bytes(2, "big") + bytes(2) + payload
        assert family == 4, "an IPv6 datagram needs a checksum"
        packet = IPv4Packet(source=source, destination=target, ttl=64, protocol=_UDP, payload=datagram)
        self._packets.send(EthernetFrame(destination, self.mac(number), 0x0800, packet.to_bytes()).to_bytes())
        return question

    def close(self) -> None:
        self._packets.close()

    @cached_property
    def numbers(self) -> range:
        return range(CLIENTS)


def _told(frame: EthernetFrame) -> ndp.NeighborAdvertisement:
    answer = IPv6Packet.from_bytes(frame.payload)
    return ndp.NeighborAdvertisement.from_bytes(answer.payload, answer.source, answer.destination)
