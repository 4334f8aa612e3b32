"""Real traffic between a client and a server, whose other end answers whatever is sent: one class a protocol.

A conversation opens with something that a firewall takes for new, and goes on with what belongs to it.
"""

from __future__ import annotations

import socket
import struct
from abc import ABC, abstractmethod
from functools import cache
from ipaddress import ip_address
from typing import Self

from carpd.lab.nodes import Node
from carpd.wire import conntrack
from carpd.wire.checksum import internet_checksum

ANSWER_LIMIT_S = 5.0
SILENCE_S = 0.3
"""How long we wait for an answer that must come, and for one that must not."""
IDENTIFIER = 4711
"""Of ICMP queries."""


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET


class Conversation(ABC):
    """Between a client and a server: `open` it once, `talk` as often as wanted."""

    protocol: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def open(self) -> Self:
        """Make a firewall on the way know of it. Raise TimeoutError if what that takes does not arrive."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def talk(self, limit_s: float = ANSWER_LIMIT_S) -> None:
        """Say something both ways. Raise TimeoutError if it does not arrive."""


class Tcp(Conversation):
    """A connection over which both send a line."""

    protocol = conntrack.TCP

    def __init__(
        self, client: Node, server: Node, address: str, *, port: int = 80, asked: tuple[str, int] | None = None
    ) -> None:
        """The server listens at (address, port), the client connects to `asked`, without it there as well."""
        with server.inside():
            self._listener = socket.create_server((address, port), family=_family(address))
        self._listener.settimeout(ANSWER_LIMIT_S)
        with client.inside():
            self.client = socket.socket(_family(address), socket.SOCK_STREAM)
        self.client.settimeout(ANSWER_LIMIT_S)
        self._asked = asked or (address, port)
        self._accepted: socket.socket | None = None

    def open(self) -> Self:
        self.client.connect(self._asked)
        return self

    def begin(self) -> None:
        """Send a SYN and do not wait for the answer."""
        self.client.setblocking(False)
        assert self.client.connect_ex(self._asked) != 0
        self.client.settimeout(ANSWER_LIMIT_S)

    def send(self, data: bytes, limit_s: float = ANSWER_LIMIT_S) -> bytes:
        """What arrives of data from the client at the server."""
        self.client.settimeout(limit_s)
        self.client.sendall(data)
        return _receive(self.server, limit_s)

    def send_back(self, data: bytes, limit_s: float = ANSWER_LIMIT_S) -> bytes:
        """What arrives of data from the server at the client."""
        self.server.sendall(data)
        return _receive(self.client, limit_s)

    @property
    def server(self) -> socket.socket:
        """The server's end of the connection, when it is accepted."""
        if self._accepted is None:
            self._accepted, self.seen = self._listener.accept()
        return self._accepted

    def talk(self, limit_s: float = ANSWER_LIMIT_S) -> None:
        assert self.send(b"hello, is it me?\n", limit_s) == b"hello, is it me?\n"
        assert self.send_back(b"it is\n", limit_s) == b"it is\n"

    def close(self) -> None:
        for end in (self._listener, self.client, self._accepted):
            if end:
                end.close()


def _receive(end: socket.socket, limit_s: float) -> bytes:
    end.settimeout(limit_s)
    return end.recv(65536)


class Udp(Conversation):
    """Datagrams from a client's port, answered to where they came from."""

    protocol = conntrack.UDP

    def __init__(
        self, client: Node, server: Node, address: str, *, port: int = 53, asked: tuple[str, int] | None = None
    ) -> None:
        with server.inside():
            self._server = socket.socket(_family(address), socket.SOCK_DGRAM)
            self._server.bind((address, port))
        with client.inside():
            self._client = socket.socket(_family(address), socket.SOCK_DGRAM)
        self._asked = asked or (address, port)

    def open(self) -> Self:
        self.talk()
        return self

    def talk(self, limit_s: float = ANSWER_LIMIT_S) -> None:
        self._client.sendto(b"question", self._asked)
        self._server.settimeout(limit_s)
        question, source = self._server.recvfrom(100)
        self._server.sendto(b"answer to " + question, source)
        self._client.settimeout(limit_s)
        answer, source = self._client.recvfrom(100)
        assert (answer, source[:2]) == (b"answer to question", self._asked)

    def close(self) -> None:
        self._client.close()
        self._server.close()


class Ping(Conversation):
    """Echo requests that the server's kernel answers."""

    def __init__(self, client: Node, server: Node, address: str) -> None:
        self.protocol = conntrack.ICMPV6 if _family(address) == socket.AF_INET6 else conntrack.ICMP
        with client.inside():
            self._client = socket.socket(_family(address), socket.SOCK_RAW, self.protocol)
        self._address = address

    def open(self) -> Self:
        self.talk()
        return self

    def talk(self, limit_s: float = ANSWER_LIMIT_S) -> None:
        kind, answer = (128, 129) if self.protocol == conntrack.ICMPV6 else (8, 0)
        echo = struct.pack("!HHH", 0, IDENTIFIER, 1) + b"carpd"
        checksum = internet_checksum(bytes([kind, 0]) + echo)  # over IPv6 the kernel writes its own
        self._client.sendto(bytes([kind, 0]) + checksum.to_bytes(2, "big") + echo[2:], (self._address, 0))
        self._client.settimeout(limit_s)
        while True:
            packet = self._client.recv(2000)
            message = packet if self.protocol == conntrack.ICMPV6 else packet[(packet[0] & 15) * 4 :]
            if message[0] == answer and message[4:6] == IDENTIFIER.to_bytes(2, "big"):
                return

    def close(self) -> None:
        self._client.close()


class Raw(Conversation):
    """Packets of any IP protocol both ways; the kernel of neither end knows it."""

    def __init__(self, client: Node, server: Node, address: str, protocol: int, payload: bytes) -> None:
        self.protocol = protocol
        self._payload = payload
        with client.inside():
            self._client = socket.socket(_family(address), socket.SOCK_RAW, protocol)
        with server.inside():
            self._server = socket.socket(_family(address), socket.SOCK_RAW, protocol)
        self._address = address

    def open(self) -> Self:
        self.talk()
        return self

    def talk(self, limit_s: float = ANSWER_LIMIT_S) -> None:
        source = self._pass(self._client, self._server, (self._address, 0), self._payload, limit_s)
        self._pass(self._server, self._client, source, self._payload, limit_s)

    def _pass(
        self, sender: socket.socket, receiver: socket.socket, to: tuple[str, int], payload: bytes, limit_s: float
    ) -> tuple[str, int]:
        """Send a packet, and return from where the receiver saw it come."""
        sender.sendto(payload, to)
        receiver.settimeout(limit_s)
        while True:
            packet, source = receiver.recvfrom(2000)
            if packet.endswith(payload):
                return source[0], 0

    def close(self) -> None:
        self._client.close()
        self._server.close()


def gre(client: Node, server: Node, address: str) -> Raw:
    """A tunnel of version 0, without a key."""
    return Raw(client, server, address, conntrack.GRE, bytes.fromhex("0000 0800") + b"carpd")


def unknown(client: Node, server: Node, address: str) -> Raw:
    """A protocol that nobody knows anything of."""
    return Raw(client, server, address, 253, b"carpd")


class Sctp(Raw):
    """An association, chunk by chunk: these kernels have no SCTP of their own.

    Ref: RFC 9260 §3.3, §5.1.
    """

    _INIT, _INIT_ACK, _COOKIE_ECHO, _COOKIE_ACK, _DATA, _SACK = 1, 2, 10, 11, 0, 3
    client_tag, server_tag = 0xC11E4717, 0x5E2FE2AA

    def __init__(self, client: Node, server: Node, address: str) -> None:
        super().__init__(client, server, address, conntrack.SCTP, b"")
        self.ports = (36412, 36422)

    def open(self) -> Self:
        def start(tag: int) -> bytes:
            return struct.pack("!IIHHI", tag, 65536, 1, 1, 1)

        self._source = self._send(True, 0, self._INIT, start(self.client_tag))
        self._send(False, self.client_tag, self._INIT_ACK, start(self.server_tag))
        self._send(True, self.server_tag, self._COOKIE_ECHO, b"cookie..")
        self._send(False, self.client_tag, self._COOKIE_ACK, b"")
        return self

    def talk(self, limit_s: float = ANSWER_LIMIT_S) -> None:
        self._send(True, self.server_tag, self._DATA, struct.pack("!IHHI", 1, 0, 0, 0) + b"data", limit_s)
        self._send(False, self.client_tag, self._SACK, struct.pack("!IIHH", 1, 65536, 0, 0), limit_s)

    def _send(self, forth: bool, tag: int, kind: int, value: bytes, limit_s: float = ANSWER_LIMIT_S) -> tuple[str, int]:
        ports = self.ports if forth else self.ports[::-1]
        header = struct.pack("!HHI", *ports, tag)
        chunk = struct.pack("!BBH", kind, 3 if kind == self._DATA else 0, 4 + len(value)) + value
        packet = header + struct.pack("<I", crc32c(header + bytes(4) + chunk)) + chunk
        if forth:
            return self._pass(self._client, self._server, (self._address, 0), packet, limit_s)
        return self._pass(self._server, self._client, self._source, packet, limit_s)


@cache
def _crc_table() -> list[int]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        return value

    return [entry(i) for i in range(256)]


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum. Ref: RFC 9260 appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _crc_table()[crc & 0xFF ^ byte]
    return crc ^ 0xFFFFFFFF
