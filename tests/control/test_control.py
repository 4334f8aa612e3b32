"""The control socket: what is answered, what is refused with which exit status, and that no client can hurt another.

Who may do what is tested with a real daemon and real users, in tests/daemon/test_carpctl.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from carpd.config.model import ControlConfig
from carpd.control import client, protocol
from carpd.control.protocol import ControlError, Failure
from carpd.control.server import BACKLOG_LIMIT, CLIENT_LIMIT, Access, Command, ControlServer, Groups, Peer, Tell
from carpd.errors import CarpdError
from carpd.lab.waiting import wait_until
from carpd.units import SECOND

LIMIT_NS = 10 * SECOND
T = TypeVar("T")


class Server:
    """A server in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners: list[Tell] = []
        """Those who are told without asking."""
        self._loop = asyncio.new_event_loop()
        self.control = ControlServer(
            path,
            {
                "status": Command(Access.READ, self._status),
                "monitor": Command(Access.READ, stream=self._monitor),
            },
        )
        self._loop.run_until_complete(self.control.start())
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    async def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("name") == "nobody":
            raise ControlError(Failure.NO_SUCH_OBJECT, "no virtual host 'nobody'")
        if request.get("name") == "defect":
            raise ZeroDivisionError
        return {"asked": request}

    async def _monitor(self, request: dict[str, Any], tell: Tell) -> Callable[[], None]:
        await self._status(request)
        self.listeners.append(tell)
        tell({"event": "hello"})
        return lambda: self.listeners.remove(tell)

    def tell_all(self, *answers: dict[str, Any]) -> None:
        async def tell() -> None:
            for answer in answers:
                for listener in tuple(self.listeners):
                    listener(answer)

        self.do(tell())

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def close(self) -> None:
        self.do(self.control.stop())
        self.do(asyncio.sleep(0))  # what was cancelled ends
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert not self.path.exists()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "carpd.sock")
    yield running
    running.close()


@pytest.fixture
def server(running: Server) -> Path:
    """The path of its socket."""
    return running.path


def connect(path: Path, request: dict[str, Any] | None = None) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))  # waits while others queue
    connection.settimeout(10)
    if request:
        connection.sendall(protocol.encode(request))
    return connection


def test_answer(server: Path) -> None:
    assert client.request(server, "status", name="lan") == {"asked": {"name": "lan"}}


@pytest.mark.parametrize(
    ("command", "name", "failure"),
    [
        ("status", "nobody", Failure.NO_SUCH_OBJECT),
        ("monitor", "nobody", Failure.NO_SUCH_OBJECT),
        ("status", "defect", Failure.DEFECT),
        ("statsu", "lan", Failure.BAD_REQUEST),
    ],
)
def test_refused(server: Path, command: str, name: str, failure: Failure) -> None:
    with pytest.raises(ControlError) as caught:
        client.request(server, command, name=name)
    assert caught.value.failure is failure
    assert "\n" not in str(caught.value)


def test_what_is_no_text(server: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A word is refused before it is asked, an answer has a question mark there; and the log has no words at all."""
    with pytest.raises(ControlError, match="not UTF-8") as caught:
        client.request(server, "status", name="s\udce9same")
    assert caught.value.failure is Failure.BAD_REQUEST
    assert protocol.decode(protocol.encode({"file": "caf\udce9", "text": "é \N{BEAMED EIGHTH NOTES}"})) == {
        "file": "caf?",
        "text": "é \N{BEAMED EIGHTH NOTES}",
    }
    with pytest.raises(ControlError):
        client.request(server, "status", name="defect", words=["pass", "swordfish"])
    (record,) = caplog.records
    assert record.getMessage() == "control: the command status met an error of carpd itself"
    assert "swordfish" not in caplog.text


def test_not_running(tmp_path: Path) -> None:
    path = tmp_path / "carpd.sock"
    with pytest.raises(ControlError, match="not running") as caught:
        client.request(path, "status")
    assert caught.value.failure is Failure.UNREACHABLE
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with pytest.raises(ControlError, match="not running"):
        client.request(path, "status")


def test_what_is_in_its_place_is_left_alone(running: Server, tmp_path: Path) -> None:
    """But a socket that nobody listens on any more is replaced."""
    file, stale, link = tmp_path / "file", tmp_path / "stale", tmp_path / "link"
    file.write_text("precious")
    link.symlink_to(file)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(stale))

    async def start(path: Path) -> None:
        server = ControlServer(path, {})
        await server.start()
        await server.stop()

    for path, why in {
        file: "there is something else of that name",
        link: "there is something else of that name",
        running.path: "Address already in use",
        tmp_path / "no" / "directory": "No such file or directory",
    }.items():
        with pytest.raises(CarpdError) as caught:
            asyncio.run(start(path))
        assert str(caught.value) == f"can't listen on {path}: {why}"
    asyncio.run(start(stale))
    assert file.read_text() == "precious"
    assert link.is_symlink()
    assert client.request(running.path, "status")


def test_a_daemon_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "TIMEOUT_S", 0.05)
    path = tmp_path / "carpd.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        with pytest.raises(ControlError) as caught:
            client.request(path, "status")
    assert caught.value.failure is Failure.TIMED_OUT


def test_a_daemon_that_ends_before_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "carpd.sock"

    def accept_and_end() -> None:
        connection, _ = listener.accept()
        connection.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=accept_and_end)
        thread.start()
        with pytest.raises(ControlError) as caught:
            client.request(path, "status")
        thread.join()
    assert caught.value.failure is Failure.UNREACHABLE


def test_the_exit_statuses_are_distinct() -> None:
    assert len({failure.value for failure in Failure}) == len(Failure)
    assert not {0, 1} & {failure.value for failure in Failure}


GARBAGE = {
    "no JSON": b"\x00\n",
    "no UTF-8": b'{"command":"status","name":"\xe9"}\n',
    "half a surrogate pair": b'{"command":"status","name":"\\udce9"}\n',
    "a command that is half a surrogate pair": b'{"command":"\\udce9"}\n',
    "no object": b"[]\n",
    "no command": b"{}\n",
    "a command that is no text": b'{"command": []}\n',
    "deeply nested": b"[" * 20000 + b"\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_refused_on_a_connection_that_goes_on(server: Path, garbage: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rwb") as stream:
        connection.connect(str(server))
        stream.write(garbage)
        stream.flush()
        assert json.loads(stream.readline())["error"] == "BAD_REQUEST"
        stream.write(protocol.encode({"command": "status"}))
        stream.flush()
        assert "ok" in json.loads(stream.readline())


def test_a_line_without_end_is_cut_off(server: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(server))
        with pytest.raises(OSError, match=r"."):  # reset or broken pipe, as it happens
            connection.sendall(b"x" * (1000 * protocol.LINE_LIMIT))
    assert client.request(server, "status")


def test_a_slow_request_is_cut_off(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "TIMEOUT_S", 0.05)
    with connect(server) as connection:
        connection.send(b'{"command": ')
        assert connection.recv(100) == b""


def test_who_does_not_read_is_cut_off(running: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not fit into the socket is not kept for ever."""
    monkeypatch.setattr(protocol, "TIMEOUT_S", 0.05)
    with connect(running.path, {"command": "status", "name": "x" * 60000}) as connection:
        wait_until(lambda: bool(connection.recv(1, socket.MSG_PEEK)), LIMIT_NS, "an answer")
        for _ in range(40):
            try:
                connection.sendall(protocol.encode({"command": "status", "name": "x" * 60000}))
            except OSError:
                break
        wait_until(lambda: not running.control._clients, LIMIT_NS, "the end of the connection")
    assert client.request(running.path, "status")


def test_too_many_clients_are_told_so_and_room_is_made_when_they_go(running: Server) -> None:
    idle = [connect(running.path, {"command": "status"}) for _ in range(CLIENT_LIMIT)]
    for connection in idle:
        assert connection.recv(100)
    with pytest.raises(ControlError, match="64 other connections") as caught:
        client.request(running.path, "status")
    assert caught.value.failure is Failure.REFUSED
    for connection in idle:
        connection.close()
    wait_until(lambda: not running.control._clients, LIMIT_NS, "room")
    assert client.request(running.path, "status")


def test_a_thousand_connections_at_once(running: Server) -> None:
    """Those that are too many get a line and are closed; afterwards all is as before."""
    crowd = [connect(running.path) for _ in range(1000)]
    for connection in crowd:
        connection.setblocking(False)

    def refused(connection: socket.socket) -> bool:
        with contextlib.suppress(BlockingIOError):
            return b"REFUSED" in connection.recv(1000, socket.MSG_PEEK)
        return False

    wait_until(lambda: sum(map(refused, crowd)) == 1000 - CLIENT_LIMIT, LIMIT_NS, "the refusal of the others")
    assert len(running.control._clients) == CLIENT_LIMIT
    for connection in crowd:
        connection.close()
    wait_until(lambda: not running.control._clients, LIMIT_NS, "room")
    assert client.request(running.path, "status")


# Streams


def test_a_stream_goes_on_until_the_client_goes(running: Server) -> None:
    events = client.follow(running.path, "monitor")
    assert next(events) == {"event": "hello"}
    running.tell_all({"event": 1}, {"event": 2})
    assert [next(events), next(events)] == [{"event": 1}, {"event": 2}]
    events.close()
    wait_until(lambda: not running.listeners, LIMIT_NS, "the end of the stream")
    running.tell_all({"event": 3})


def test_a_stream_ends_with_the_daemon(tmp_path: Path) -> None:
    running = Server(tmp_path / "carpd.sock")
    events = client.follow(running.path, "monitor")
    assert next(events) == {"event": "hello"}
    running.close()
    with pytest.raises(ControlError) as caught:
        next(events)
    assert caught.value.failure is Failure.UNREACHABLE
    assert not running.listeners


def test_who_reads_a_stream_too_slowly_is_cut_off_with_a_line_that_says_so(running: Server) -> None:
    events = client.follow(running.path, "monitor")
    assert next(events) == {"event": "hello"}
    long = {"event": "x" * 10000}
    for _ in range(2 * BACKLOG_LIMIT // 10000):
        running.tell_all(long)
    wait_until(lambda: not running.listeners, LIMIT_NS, "the end of the stream")
    with pytest.raises(ControlError, match="cut off") as caught:
        assert all(event == long for event in events)
    assert caught.value.failure is Failure.TIMED_OUT
    wait_until(lambda: not running.control._clients, LIMIT_NS, "the end of the connection")


def test_who_reads_nothing_of_a_stream_is_cut_off(running: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "TIMEOUT_S", 0.05)
    with connect(running.path, {"command": "monitor"}):
        wait_until(lambda: bool(running.listeners), LIMIT_NS, "a stream")
        while running.listeners:
            running.tell_all({"event": "x" * 10000})
        wait_until(lambda: not running.control._clients, LIMIT_NS, "the end of the connection")


# Who may do what

ROOT, OURS, OTHER = Peer(0, frozenset()), Peer(os.geteuid(), frozenset()), Peer(54321, frozenset({1, 2, 3}))
GROUPS = {
    "root": (Groups(), ROOT, set(Access)),
    "our own user": (Groups(), OURS, set(Access)),
    "another, without groups": (Groups(), OTHER, set()),
    "of no such group": (Groups(read=4, change=5), OTHER, set()),
    "of the read_group": (Groups(read=2, change=5), OTHER, {Access.READ}),
    "of the change_group": (Groups(read=4, change=3), OTHER, {Access.READ, Access.CHANGE}),
}


@pytest.mark.parametrize(("groups", "peer", "allowed"), GROUPS.values(), ids=GROUPS.keys())
def test_who_may_do_what(groups: Groups, peer: Peer, allowed: set[Access]) -> None:
    assert {access for access in Access if groups.allow(access, peer)} == allowed


def test_groups_by_name() -> None:
    assert Groups.of(ControlConfig()) == Groups()
    assert Groups.of(ControlConfig(read_group="root")) == Groups(read=0)
    with pytest.raises(CarpdError, match="change_group: this host has no group 'no-such-group'"):
        Groups.of(ControlConfig(change_group="no-such-group"))
