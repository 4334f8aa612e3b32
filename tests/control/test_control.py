"""The control socket: what is answered, what is refused with which exit status, and that no client can hurt another."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carpd.control import client, protocol
from carpd.control.protocol import ControlError, Failure
from carpd.control.server import CLIENT_LIMIT, Access, Command, ControlServer


async def _status(request: dict[str, Any]) -> dict[str, Any]:
    if request.get("name") == "nobody":
        raise ControlError(Failure.NO_SUCH_HOST, "no virtual host 'nobody'")
    return {"asked": request}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    """A server in a thread of its own; the path of its socket."""
    path = tmp_path / "carpd.sock"
    loop = asyncio.new_event_loop()
    control = ControlServer(path, {"status": Command(Access.READ, _status)})
    loop.run_until_complete(control.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield path
    asyncio.run_coroutine_threadsafe(control.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    assert not path.exists()


def test_answer(server: Path) -> None:
    assert client.request(server, "status", name="lan") == {"asked": {"name": "lan"}}


@pytest.mark.parametrize(
    ("command", "name", "failure"),
    [("status", "nobody", Failure.NO_SUCH_HOST), ("reboot", "lan", Failure.BAD_REQUEST)],
)
def test_refused(server: Path, command: str, name: str, failure: Failure) -> None:
    with pytest.raises(ControlError) as caught:
        client.request(server, command, name=name)
    assert caught.value.failure is failure
    assert "\n" not in str(caught.value)


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


def test_a_daemon_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "TIMEOUT_S", 0.05)
    path = tmp_path / "carpd.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        with pytest.raises(ControlError) as caught:
            client.request(path, "status")
    assert caught.value.failure is Failure.TIMED_OUT


def test_the_exit_statuses_are_distinct() -> None:
    assert len({failure.value for failure in Failure}) == len(Failure)
    assert not {0, 1, 3} & {failure.value for failure in Failure}


GARBAGE = {
    "no JSON": b"\x00\xff\n",
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


def test_too_many_clients_are_cut_off_and_room_is_made_when_they_go(server: Path) -> None:
    idle = []
    for _ in range(CLIENT_LIMIT):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(server))
        connection.sendall(protocol.encode({"command": "status"}))
        assert connection.recv(100)
        idle.append(connection)
    with pytest.raises(ControlError) as caught:
        client.request(server, "status")
    assert caught.value.failure is Failure.UNREACHABLE
    for connection in idle:
        connection.close()
    for _ in range(100):
        try:
            assert client.request(server, "status")
            return
        except ControlError:
            continue
    pytest.fail("no room was made")
