"""Metrics: what becomes of a status document, and a server that no client can hold up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from carpd.config.model import Endpoint, MetricsConfig
from carpd.control.protocol import ControlError, Failure
from carpd.linux.defer import DeferCounters
from carpd.linux.sync_sockets import SyncSocketCounters
from carpd.pfsync.counters import PfsyncCounters
from carpd.pfsync.sealed import SealedCounters
from carpd.runtime import metrics_server
from carpd.runtime.metrics import Metrics
from carpd.runtime.metrics_server import CLIENT_LIMIT, REQUEST_LIMIT, MetricsServer
from carpd.runtime.notices import Notices
from carpd.stats import CarpCounters


def numbered(names: Iterator[str], first: int) -> dict[str, int]:
    """A value of its own for each counter."""
    return dict(zip(names, range(first, 1000), strict=False))


def host(name: str, **changes: Any) -> dict[str, Any]:
    about = {"name": name, "interface": "eth1", "vhid": 7, "group": "carp", "balancing": None, "state": "INIT"}
    counts = numbered(iter(asdict(CarpCounters())), 100)
    more = {"serves": False, "findings": [], "taken": None, "counters": counts}
    return {**about, **more, **changes}


def sharing(vhid: int, **changes: Any) -> dict[str, Any]:
    balancing = {"virtual_host": "web", "mode": "ip", "vhids": [3, 4]}
    return host(f"web:{vhid}", vhid=vhid, balancing=balancing, findings=["one", "two"], **changes)


def peer(address: str, coverage: float | None) -> dict[str, Any]:
    return {"address": address, "coverage": coverage, "states": 5, "heard_age_s": 0.25}


PFSYNC_COUNTERS = [
    *asdict(SyncSocketCounters()),
    *asdict(SealedCounters()),
    *asdict(DeferCounters()),
    *(f.name for f in fields(PfsyncCounters) if f.type == "int"),
]
PFSYNC: dict[str, Any] = {
    "restarts": 2,
    "link": {"up": True},
    "carrying": True,
    "bulk_update": {"done": False},
    "states": 10,
    "max_states": None,
    "unsent": 3,
    "unconfirmed_age_s": None,
    "defer": {"working": True},
    "peers": [peer("10.0.0.2", 12.5), peer("10.0.0.2", None), peer("10.0.0.3", 99.99)],
    "resyncs": {"lost events": 4},
    "refused": {'a "reason"\\': 5},
    "counters": numbered(iter(PFSYNC_COUNTERS), 200),
}
STATUS: dict[str, Any] = {
    "election": {"pid": 1, "restarts": 3},
    "virtual_hosts": [host("lan", state="MASTER", serves=True), sharing(3, taken=8), sharing(4, taken=0)],
    "groups": [{"name": "carp", "reasons": [{"reason": "r", "amount": 240}]}, {"name": "edge", "reasons": []}],
    "interfaces": [{"name": "eth1", "up": True, "counters": numbered(iter(asdict(CarpCounters())), 300)}],
    "lateness": {"bounds_s": [0.001, 0.1], "counts": [1, 2, 4], "sum_s": 1.5},
    "pfsync": PFSYNC,
}


def scrape(status: dict[str, Any], act: Callable[[Notices], None] = lambda _: None) -> dict[str, float]:
    """Every sample, as `name{label=value}`."""

    async def main() -> bytes:
        async def ask() -> dict[str, Any]:
            return status

        notices = Notices()
        metrics = Metrics(notices, ask, {("x", "good"): 6})
        act(notices)
        return await metrics.text()

    return {
        f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(asyncio.run(main()).decode())
        for sample in family.samples
    }


def test_what_a_status_becomes() -> None:
    def act(notices: Notices) -> None:
        for _ in range(2):
            notices.publish("state", "", name="lan", old="BACKUP", new="MASTER", reason="r")
        notices.publish("pfsync", "")

    found = scrape(STATUS, act)
    expected = {
        "carpd_transitions_total{from=BACKUP,name=lan,reason=r,to=MASTER}": 2,
        "carpd_hook_notices_total{hook=x,result=good}": 6,
        "carpd_election_up{}": 1,
        "carpd_election_restarts_total{}": 3,
        "carpd_state{name=lan,state=MASTER}": 1,
        "carpd_state{name=lan,state=BACKUP}": 0,
        "carpd_state{name=web:3,state=INIT}": 1,
        "carpd_serves{name=lan}": 1,
        "carpd_virtual_host_info{group=carp,interface=eth1,name=web:3,vhid=3,virtual_host=web}": 1,
        "carpd_demotion{group=carp,reason=r}": 240,
        "carpd_findings{virtual_host=web}": 2,
        "carpd_shared_packets_total{name=web:3}": 8,
        "carpd_shared_packets_total{name=web:4}": 0,
        "carpd_timer_lateness_seconds_bucket{le=0.001}": 1,
        "carpd_timer_lateness_seconds_bucket{le=0.1}": 3,
        "carpd_timer_lateness_seconds_bucket{le=+Inf}": 7,
        "carpd_timer_lateness_seconds_count{}": 7,
        "carpd_timer_lateness_seconds_sum{}": 1.5,
        "carpd_interface_up{interface=eth1}": 1,
        "pfsyncd_up{}": 1,
        "pfsyncd_restarts_total{}": 2,
        "pfsyncd_bulk_update_done{}": 0,
        "pfsyncd_states{}": 10,
        "pfsyncd_unconfirmed_age_seconds{}": 0,
        "pfsyncd_defer_working{}": 1,
        "pfsyncd_peers{}": 2,
        "pfsyncd_peer_coverage_ratio{peer=10.0.0.3}": 0.9999,
        "pfsyncd_resyncs_total{reason=lost events}": 4,
        'pfsyncd_refused_total{reason=a "reason"\\}': 5,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert "pfsyncd_states_limit{}" not in found
    assert "pfsyncd_peer_coverage_ratio{peer=10.0.0.2}" not in found  # not compared since its last start
    assert "carpd_shared_packets_total{name=lan}" not in found


def test_no_counter_is_forgotten() -> None:
    """Whatever is counted is told; but `preempt`, which is a change of state."""
    told = set(scrape(STATUS).values())
    carp = list(asdict(CarpCounters()))
    by_interface, by_host = numbered(iter(carp), 300), numbered(iter(carp), 100)
    for_hosts = ("opackets", "opackets6")
    assert told >= {by_host[name] for name in for_hosts}
    assert told >= {count for name, count in by_interface.items() if name not in ("preempt", *for_hosts)}
    assert told >= set(PFSYNC["counters"].values())


@pytest.mark.parametrize(
    "pfsync", [{"running": False, "restarts": 1}, {"running": True, "restarts": 1, "waits_for": ""}]
)
def test_what_does_not_answer(pfsync: dict[str, Any]) -> None:
    """Nothing is made up for it."""
    found = scrape({"pfsync": pfsync})
    told = {name: value for name, value in found.items() if name.startswith("pfsyncd_")}
    assert told == {"pfsyncd_up{}": 0, "pfsyncd_restarts_total{}": 1}
    assert not any(name.startswith("pfsyncd_") for name in scrape(STATUS | {"pfsync": None}))


def test_a_text_is_good_for_a_second() -> None:
    """However many ask for it at once."""
    asked = []
    now = 100.0

    async def status() -> dict[str, Any]:
        asked.append(now)
        await asyncio.sleep(0)
        return STATUS

    async def main() -> None:
        nonlocal now
        metrics = Metrics(Notices(), status, {}, clock=lambda: now)
        first, *others = await asyncio.gather(*(metrics.text() for _ in range(5)))
        assert all(text is first for text in others)
        now = 100.9
        assert await metrics.text() is first
        now = 101.0
        assert await metrics.text() == first

    asyncio.run(main())
    assert asked == [100.0, 101.0]


class Server:
    """A MetricsServer on a Unix socket."""

    def __init__(self, path: Path, status: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self.path = path
        self.server = MetricsServer(Notices(), status, {})

    async def start(self) -> None:
        await self.server.configure(MetricsConfig(listen=str(self.path)))
        while not self.path.exists():
            await asyncio.sleep(0.005)

    async def ask(self, request: bytes) -> bytes:
        """All that comes back."""
        reader, writer = await asyncio.open_unix_connection(self.path, limit=1 << 20)
        writer.write(request)
        try:
            return await reader.read()
        except ConnectionResetError:  # with bytes of ours unread
            return b""
        finally:
            writer.close()


async def good() -> dict[str, Any]:
    return STATUS


def served(
    path: Path, act: Callable[[Server], Awaitable[None]], status: Callable[[], Awaitable[dict[str, Any]]] = good
) -> None:
    async def main() -> None:
        server = Server(path / "metrics.sock", status)
        await server.start()
        await act(server)
        await server.server.stop()
        assert not server.path.exists()

    asyncio.run(main())


REQUESTS = {
    "good": (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK"),
    "with a query": (b"GET /metrics?x=y HTTP/1.1\r\n\r\n", b"200 OK"),
    "of long ago": (b"GET /metrics HTTP/1.0\r\n\r\n", b"200 OK"),
    "another page": (b"GET /metrics/ HTTP/1.1\r\n\r\n", b"404 Not Found"),
    "the head alone": (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200 OK"),
    "another method": (b"POST /metrics HTTP/1.1\r\n\r\nx", b"405 Method Not Allowed"),
    "another version": (b"GET /metrics HTTP/2\r\n\r\n", b"400 Bad Request"),
    "no version": (b"GET /metrics\r\n\r\n", b"400 Bad Request"),
    "nothing": (b"\r\n\r\n", b"400 Bad Request"),
    "garbage": (b"\x16\x03\x01" * 100 + b"\r\n\r\n", b"400 Bad Request"),
    "no end": (b"GET " + b"x" * (2 * REQUEST_LIMIT), b""),
}


@pytest.mark.parametrize(("request_", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_requests(tmp_path: Path, request_: bytes, expected: bytes) -> None:
    async def act(server: Server) -> None:
        head, _, body = (await server.ask(request_)).partition(b"\r\n\r\n")
        if not expected:
            assert head == b""
            return
        status, *lines = head.split(b"\r\n")
        assert status == b"HTTP/1.1 " + expected
        if request_.startswith(b"HEAD"):
            assert body == b""
            *_, body = (await server.ask(request_.replace(b"HEAD", b"GET"))).partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in lines
        assert b"Connection: close" in lines
        assert (b"Allow: GET, HEAD" in lines) == expected.startswith(b"405")
        assert (b"carpd_state" in body) == expected.startswith(b"200")

    served(tmp_path, act)


def test_no_status(tmp_path: Path) -> None:
    async def act(server: Server) -> None:
        answer = await server.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert answer.endswith(b"\r\n\r\nthe election process does not answer\n")

    async def status() -> dict[str, Any]:
        raise ControlError(Failure.TIMED_OUT, "the election process does not answer")

    served(tmp_path, act, status)


def test_slow_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many are listened to, for only so long; who asks is answered in the midst of them."""
    monkeypatch.setattr(metrics_server, "TIMEOUT_S", 0.3)

    async def act(server: Server) -> None:
        slow = [await asyncio.open_unix_connection(server.path) for _ in range(3 * CLIENT_LIMIT)]
        await asyncio.sleep(0)
        assert (await server.ask(b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert len(server.server._clients) < CLIENT_LIMIT + 1
        for reader, writer in slow:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
        assert not server.server._clients

    served(tmp_path, act)


def test_too_many_who_are_being_answered(tmp_path: Path) -> None:
    """Then, and only then, the newest is the one who is cut off."""
    answer = asyncio.Event()

    async def status() -> dict[str, Any]:
        await answer.wait()
        return STATUS

    async def act(server: Server) -> None:
        asking = [asyncio.create_task(server.ask(b"GET /metrics HTTP/1.1\r\n\r\n")) for _ in range(CLIENT_LIMIT)]
        while len(server.server._clients) < CLIENT_LIMIT or server.server._silent:
            await asyncio.sleep(0.005)
        assert await server.ask(b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        answer.set()
        assert all([(await each).startswith(b"HTTP/1.1 200 ") for each in asking])

    served(tmp_path, act, status)


def test_where_it_can_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is there is left alone, the log says so once, and when the place is free it is taken."""
    monkeypatch.setattr(metrics_server, "LISTEN_AGAIN_S", 0.02)
    caplog.set_level(logging.INFO, "carpd")
    file, taken = tmp_path / "file", tmp_path / "taken"
    file.write_text("precious")
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(taken))
    other.listen()
    port = socket.create_server(("127.0.0.1", 0))
    endpoint = Endpoint(ip_address("127.0.0.1"), port.getsockname()[1])

    async def main() -> None:
        async def status() -> dict[str, Any]:
            return STATUS

        server = MetricsServer(Notices(), status, {})

        async def says(text: str) -> None:
            while text not in caplog.messages:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            assert caplog.messages.count(text) == 1

        for place, why in (
            (str(file), "there is something else of that name"),
            (str(taken), "Address already in use"),
            (str(tmp_path / "no" / "directory"), "No such file or directory"),
        ):
            await server.configure(MetricsConfig(listen=place))
            await says(f"metrics: can't listen on {place}: {why}; trying again")
        await server.configure(MetricsConfig(listen=endpoint))
        while not any("address already in use" in m.lower() and str(endpoint) in m for m in caplog.messages):
            await asyncio.sleep(0.005)
        port.close()
        await says(f"metrics: listening on {endpoint}")
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        await server.configure(None)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", endpoint.port)

    asyncio.run(main())
    assert file.read_text() == "precious"
    assert taken.is_socket()
    other.close()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A line in the log, and everything else goes on."""
    monkeypatch.setitem(sys.modules, "carpd.runtime.metrics", None)

    async def status() -> dict[str, Any]:
        return STATUS

    async def main() -> None:
        server = MetricsServer(Notices(), status, {})
        await server.configure(MetricsConfig(listen=str(tmp_path / "metrics.sock")))
        await server.stop()

    asyncio.run(main())
    (line,) = caplog.messages
    assert line.startswith("metrics: there are none without the Python package prometheus-client: ")
