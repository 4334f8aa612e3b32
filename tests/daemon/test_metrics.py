"""The metrics of running daemons: carpd over TCP, and pfsyncd alone over a Unix socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from carpd.lab.nodes import Node
from carpd.lab.topology import Lab
from carpd.lab.waiting import wait_until
from tests.conftest import need
from tests.daemon.carpd import FAST, LIMIT_NS, Carpd, virtual_host
from tests.daemon.pfsync import SyncNode, connections, insert
from tests.daemon.segment import ADDRESSES, Segment

PACKAGING = Path(__file__).parents[2] / "packaging"
PORT = 9120

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def table(name: str, **settings: Any) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]) + "\n"


class _UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


def get(node: Node, place: str | int) -> tuple[int, str, str]:
    """The status, the type and the body of an answer on a port of ::1, or a Unix socket. Raise OSError."""
    with node.inside():
        connection = http.client.HTTPConnection("::1", place) if isinstance(place, int) else _UnixConnection(place)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read().decode()


def values(text: str) -> Values:
    """Every sample by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Values, metric: str, **labels: str) -> float:
    return found[metric, frozenset(labels.items())]


@pytest.fixture
def pair(lab: Lab, segment: Segment) -> tuple[SyncNode, SyncNode]:
    """a: carpd, with connections of its own and metrics on [::1]:9120; b: pfsyncd alone, with a socket for them."""
    switch = lab.switch("sync")
    for number, name in enumerate(("a", "b"), 1):
        lab.cable(segment[name].node, "eth3", switch, f"10.0.0.{number}/24", f"fd00::{number}/64")
    dmz = virtual_host("dmz", interface="eth9", vhid=9, addresses=["198.51.100.1/24"], group="dmz")
    others = [
        table("metrics", listen=f"[::1]:{PORT}"),
        table("hook.bad", command=["/bin/false"], events=["master"]),
    ]
    a = SyncNode(segment["a"].node, virtual_host(addresses=ADDRESSES, **FAST), dmz, others=others)
    others = [
        table("metrics", listen=str(metrics_socket(segment["b"].node))),
        table("hook.good", command=["/bin/sh", "-c", "echo $CARP_PART is $CARP_OK: $CARP_REASON"], events=["pfsync"]),
    ]
    b = SyncNode(segment["b"].node, others=others)
    a.becomes("MASTER", "lan")
    insert(a.node, connections(0, 50))
    a.says(lambda pfsync: [(p["states"], p["coverage"]) for p in pfsync["peers"]] == [(50, 100.0)], "b has them all")
    b.has_begun()
    return a, b


def metrics_socket(node: Node) -> Path:
    return node.directory / "metrics.sock"


def named_in(text: str) -> set[str]:
    """Every metric of ours in an expression, or a file of them."""
    return set(re.findall(r"\b(?:carpd|pfsyncd)_[a-z_]+\b", text))


def exported_by(text: str) -> set[str]:
    """The names of all series that there are, or may be."""
    names = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            names |= {f"{name}{suffix}" for suffix in ("_bucket", "_count", "_sum")} if kind == "histogram" else {name}
    return names


def test_what_is_told(pair: tuple[SyncNode, SyncNode]) -> None:
    """Prometheus understands it and finds nothing to mend; rules and dashboard name what there is; and it is true.

    A hanging election process makes the page fail, and is counted; a socket that a killed daemon has left is replaced.
    """
    need("promtool")
    a, b = pair
    status, kind, text = get(a.node, PORT)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    _, _, text_of_b = get(b.node, str(metrics_socket(b.node)))
    for page in (text, text_of_b):
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    exported = exported_by(text)
    assert exported_by(text_of_b) >= {name for name in exported if name.startswith("pfsyncd_")}
    expressions = "\n".join(re.findall(r"expr: (.*)", (PACKAGING / "prometheus" / "carpd.rules.yml").read_text()))
    for page in (expressions, (PACKAGING / "grafana" / "carpd.json").read_text()):
        assert len(named_in(page)) > 15
        assert named_in(page) <= exported
    check_carpd(values(text), a.status())
    check_pfsync(values(text), values(text_of_b))
    assert "hook good: link is true: synchronising on eth3 (sealed)\n" in b.log()

    os.kill(election_of(a), signal.SIGSTOP)
    wait_until(lambda: get(a.node, PORT)[0] == 503, LIMIT_NS, "a page that fails")
    os.kill(election_of(a), signal.SIGKILL)

    def restarts() -> float:
        status, _, text = get(a.node, PORT)
        return value(values(text), "carpd_election_restarts_total") if status == 200 else 0

    wait_until(lambda: restarts() == 1, LIMIT_NS, "another election process")

    b.process.signal_all(signal.SIGKILL)
    b.process.wait()
    assert metrics_socket(b.node).is_socket()
    b.start()
    b.logs(f"metrics: listening on {metrics_socket(b.node)}")
    wait_until(lambda: get(b.node, str(metrics_socket(b.node)))[0] == 200, LIMIT_NS, "its page")
    assert b.stop() == 0
    assert not metrics_socket(b.node).exists()


def election_of(daemon: Carpd) -> int:
    """The process ID of its election process, as the laboratory sees it."""
    pid = daemon.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (found,) = (int(c) for c in children if "carpd.runtime.election" in Path(f"/proc/{c}/cmdline").read_text())
    return found


def check_carpd(found: Values, document: dict[str, Any]) -> None:
    """What `carpctl status` told a moment later."""
    for name, state in {"lan": "MASTER", "dmz": "INIT"}.items():
        for other in ("INIT", "BACKUP", "MASTER"):
            assert value(found, "carpd_state", name=name, state=other) == (state == other)
        assert value(found, "carpd_serves", name=name) == (state == "MASTER")
    about = {"name": "lan", "virtual_host": "lan", "interface": "eth1", "vhid": "7", "group": "carp"}
    assert value(found, "carpd_virtual_host_info", **about) == 1
    assert value(found, "carpd_build_info", version=document["version"]) == 1
    change = {"from": "BACKUP", "to": "MASTER", "reason": "master timed out"}
    assert value(found, "carpd_transitions_total", name="lan", **change) == 1
    assert value(found, "carpd_demotion", group="dmz", reason="link of eth9 is down") == 1
    assert value(found, "carpd_interface_up", interface="eth1") == 1
    assert value(found, "carpd_interface_up", interface="eth9") == 0
    for family in ("ipv4", "ipv6"):
        sent = value(found, "carpd_advertisements_sent_total", name="lan", family=family)
        assert 0 < sent <= document["virtual_hosts"][0]["counters"]["opackets"]
    timers = value(found, "carpd_timer_lateness_seconds_count")
    assert 0 < timers <= sum(document["lateness"]["counts"])
    assert value(found, "carpd_timer_lateness_seconds_bucket", le="+Inf") == timers
    assert 0 < value(found, "carpd_timer_lateness_seconds_sum") <= document["lateness"]["sum_s"]
    assert value(found, "carpd_hook_notices_total", hook="bad", result="failed") == 1
    assert value(found, "carpd_hook_notices_total", hook="bad", result="dropped") == 0


def check_pfsync(of_a: Values, of_b: Values) -> None:
    """b has the fifty states of a."""
    assert value(of_a, "pfsyncd_up") == value(of_a, "pfsyncd_link_up") == value(of_a, "pfsyncd_peers") == 1
    assert value(of_a, "pfsyncd_states") == value(of_a, "pfsyncd_peer_states", peer="10.0.0.2") == 50
    assert value(of_a, "pfsyncd_peer_coverage_ratio", peer="10.0.0.2") == 1
    assert value(of_a, "pfsyncd_bulk_update_done") == 1
    assert value(of_b, "pfsyncd_states_changed_total", change="inserted") == 50
    assert value(of_b, "pfsyncd_packets_received_total", family="ipv4") > 0
    assert value(of_b, "carpd_hook_notices_total", hook="good", result="good") >= 2
    about_itself = {"carpd_build_info", "carpd_start_time_seconds", "carpd_hook_notices_total"}
    assert {name for name, _ in of_b if name.startswith("carpd_")} == about_itself
