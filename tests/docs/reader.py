"""Somebody who sets up two firewalls by the documentation alone, word by word, on machines with systemd."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from carpd.control.protocol import DEFAULT_SOCKET
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError, wait_until
from carpd.units import SECOND
from tests.docs.markdown import Block
from tests.docs.shape import fits
from tests.packaging.machine import Machine

NAMES = ("fw-a", "fw-b")
CLIENT, GATEWAY, SERVER = "192.0.2.10/24", "192.0.2.1", "198.51.100.10/24"
PORT = 7

PATIENCE_NS = 15 * SECOND
"""How long a reader looks again and again for what the document promises."""

_LOOKS = re.compile(
    r"carpctl (status|is-master|statistics|ifconfig [\w-]*$)|journalctl|systemctl status|ping|ip |nft list"
)
"""Commands that change nothing: these are what is repeated."""


class Firewalls:
    """The machines of the quick start, with cables and the package's file alone; a client inside, a server outside."""

    def __init__(self, lab: Lab, package: Path, end: ExitStack) -> None:
        """The machines last until `end`. Raise LabError where there can be none."""
        self.machines: dict[str, Machine] = {}
        switches = {"eth0": lab.switch("outside"), "eth1": lab.switch("inside"), "eth2": lab.switch("sync")}
        self.client, self.server = lab.node("client"), lab.node("server")
        lab.cable(self.client, "eth0", switches["eth1"], CLIENT)
        lab.cable(self.server, "eth0", switches["eth0"], SERVER)
        self.client.ip(f"route add default via {GATEWAY}")
        for name in NAMES:
            machine = self.machines[name] = Machine()
            end.callback(machine.close)
            machine.run("hostname", name)
            shutil.copy(package, machine.root / "root")
            for interface, switch in switches.items():
                port = f"{name}.{interface}"
                lab.backbone.ip(
                    f"link add {port} type veth peer name {interface} netns {machine.root.parent}/ns/net",
                    f"link set {port} master {switch.name} up",
                )
                machine.run("ip", "link", "set", interface, "up")

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """One from the client through the firewalls to the server."""
        with self.server.inside():
            listener = socket.create_server(("", PORT))
        threading.Thread(target=_echo, args=(listener,), daemon=True).start()
        with listener:
            with self.client.inside():
                client = socket.create_connection((SERVER.partition("/")[0], PORT), timeout=PATIENCE_NS / SECOND)
            with client:
                yield Connection(client)


class Connection:
    """What is said comes back, as long as it exists."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._said = 0

    def lives(self) -> None:
        """Raise OSError or AssertionError if it does not."""
        self._said += 1
        word = self._said.to_bytes(4, "big")
        self._client.sendall(word)
        answer = self._client.recv(len(word), socket.MSG_WAITALL)
        assert answer == word, f"the connection answers {answer!r} to {word!r}"


def _echo(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        while data := connection.recv(4096):
            connection.sendall(data)


class _Exchange(NamedTuple):
    """What is typed on a host, and what the document shows below it."""

    block: Block
    host: str
    command: str
    shown: str


class Reader:
    """Does what blocks say."""

    def __init__(self, machines: dict[str, Machine]) -> None:
        self._machines = machines
        self._going_on: list[_Exchange] = []
        """What goes on until Ctrl-C."""

    def do(self, block: Block) -> None:
        """Raise AssertionError if it does not go as the document says."""
        what, _, rest = block.orders.partition(" ")
        if what == "file":
            path, _, where = rest.partition(" on ")
            for host in self._hosts(block, where) if where else NAMES:
                self._path(host, path).write_text(block.text)
            return
        where, _, how = rest.partition(", ")
        assert what == "on", f"{block}: where? {block.orders!r}"
        assert how in ("", "until Ctrl-C"), f"{block}: how? {block.orders!r}"
        hosts = self._hosts(block, where)
        if block.language == "sh":
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda host: self._script(block, host), hosts))
            return
        assert block.language in ("console", "json"), f"{block}: nobody can type {block.language!r}"
        for host in hosts:
            if block.language == "json":
                self._ask(block, host)
            else:
                for exchange in _exchanges(block, host):
                    (self._begin if how else self._type)(exchange)

    def interrupt(self) -> None:
        """Ctrl-C: end what goes on, when it has printed what is shown."""
        for exchange in self._going_on:
            self._compare(exchange, self._path(exchange.host, "/tmp/goes-on").read_text)
            self._machines[exchange.host].run("systemctl", "stop", "goes-on")
        self._going_on.clear()

    def _hosts(self, block: Block, where: str) -> list[str]:
        hosts = where.split(" and ")
        assert set(hosts) <= self._machines.keys(), f"{block}: there is no {where!r}"
        return hosts

    def _path(self, host: str, path: str) -> Path:
        return self._machines[host].root / path.lstrip("/")

    def _script(self, block: Block, host: str) -> None:
        """Between the machines there is no ssh: what scp copies is copied by us."""
        lines = block.text.splitlines()
        copies = [line for line in lines if line.startswith("scp ")]
        script = "\n".join(["cd /root", *(line for line in lines if line not in copies)])
        try:
            self._machines[host].run("sh", "-ec", script)
        except LabError as error:
            raise AssertionError(f"{block}: {host}: {error}") from error
        for line in copies:
            _, *files, target = shlex.split(line)
            name, _, directory = target.partition(":")
            for file in files:
                shutil.copy(self._path(host, file), self._path(name, directory))

    def _type(self, exchange: _Exchange) -> None:
        machine = self._machines[exchange.host]

        def printed() -> str:
            return machine.run("sh", "-c", f"cd /root\n({exchange.command})\ntrue")

        self._compare(exchange, printed, once=not _LOOKS.match(exchange.command))

    def _ask(self, block: Block, host: str) -> None:
        """Line by line a request to the daemon, and its answer."""
        lines = block.text.splitlines()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_NS / SECOND)
            connection.connect(str(self._path(host, DEFAULT_SOCKET)))
            with connection.makefile("rw") as daemon:
                for request, answer in zip(lines[::2], lines[1::2], strict=True):
                    print(request, file=daemon, flush=True)
                    assert json.loads(daemon.readline()) == json.loads(answer), f"{block}: {request}"

    def _begin(self, exchange: _Exchange) -> None:
        """Go on when it has printed something."""
        output = self._path(exchange.host, "/tmp/goes-on")
        output.write_text("")
        order = f"exec {exchange.command} >/tmp/goes-on 2>&1"
        self._machines[exchange.host].run("systemd-run", "--quiet", "--unit=goes-on", "sh", "-c", order)
        wait_until(lambda: bool(output.read_text()), PATIENCE_NS, f"{exchange.command} to begin")
        self._going_on.append(exchange)

    def _compare(self, exchange: _Exchange, look: Callable[[], str], *, once: bool = False) -> None:
        """See what is printed, again and again until it is what is shown, or just once."""
        end = time.monotonic_ns() + (0 if once else PATIENCE_NS)
        while not fits(printed := look(), exchange.shown):
            what = f"{exchange.block}: {exchange.host}: {exchange.command}"
            assert time.monotonic_ns() < end, f"{what}\nshould print\n{exchange.shown}\nbut prints\n{printed}"
            time.sleep(0.2)


def _exchanges(block: Block, host: str) -> Iterator[_Exchange]:
    """Each line behind "# ", and what is shown below it."""
    before, *parts = re.split(r"^# ", block.text, flags=re.MULTILINE)
    assert not before, f"{block}: it does not begin with a command"
    for part in parts:
        command, _, shown = part.partition("\n")
        yield _Exchange(block, host, command, shown)
