"""carpctl and running daemons: what its commands bring about, and who may give them."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Collection
from typing import Any

import pytest

from carpd.control import client, protocol
from carpd.control.protocol import ControlError
from carpd.lab.waiting import wait_until
from tests.daemon.carpd import FAST, LIMIT_NS, SLOWER, Carpd, virtual_host
from tests.daemon.segment import ADDRESSES, Segment
from tests.daemon.test_processes import election_of
from tests.daemon.test_status import CARPCTL, carpctl
from tests.daemon.unprivileged import NOBODY, run_as_nobody

NOWHERE = virtual_host("dmz", interface="eth9", vhid=9, addresses=["198.51.100.1/24"], group="dmz")


class Pair:
    """a is the better host and master of lan, b its backup."""

    def __init__(self, segment: Segment, *tables: str, **settings: Any) -> None:
        self.a = Carpd(segment["a"].node, virtual_host(addresses=ADDRESSES, **FAST, **settings), *tables)
        self.a.becomes("MASTER", "lan")
        self.b = Carpd(segment["b"].node, virtual_host(addresses=ADDRESSES, **SLOWER, **settings))
        self.b.becomes("BACKUP")
        self.b.hears_a_master()


def says(daemon: Carpd, line: str, exit_status: int = 0) -> str:
    """What carpctl prints; in the end it has this exit status."""
    done = carpctl(*line.split(), "--socket", daemon.socket)
    assert done.returncode == exit_status, done.stdout + done.stderr
    assert bool(done.stderr) == (exit_status > 1)
    return done.stdout + done.stderr


def test_a_state_is_moved_and_seen_to_last(segment: Segment) -> None:
    """Backup here is master there, and back; the worse host can't be master beside the better one."""
    pair = Pair(segment, NOWHERE)
    a, b = pair.a, pair.b
    assert says(a, "is-master lan") == ""
    assert says(b, "is-master lan", 1) == ""
    assert says(a, "state lan backup").startswith("lan: MASTER -> BACKUP; master is ")
    b.becomes("MASTER")
    assert says(a, "is-master lan -v", 1) == "lan: BACKUP\n"
    assert says(a, "state lan backup").startswith("lan: BACKUP, as before; master is ")
    assert json.loads(says(a, "state lan master --json"))["before"] == {"lan": "BACKUP"}
    b.becomes("BACKUP")
    b.hears_a_master()
    refused = says(b, "state lan master", 8)
    assert refused.startswith("carpctl: lan is BACKUP again: ")
    assert refused.endswith(" is better placed; demote lan there\n")
    assert says(a, "state dmz master", 8) == "carpctl: dmz can't be MASTER, it is INIT: interface eth9 does not exist\n"
    assert "no virtual host 'dmx': did you mean 'dmz'?" in says(a, "state dmx master", 6)
    assert a.states() == {"lan": "MASTER", "dmz": "INIT"}
    assert "\t2 transitions to master\n" in says(b, "statistics")

    os.kill(int(election_of(b.process.pid).name), signal.SIGSTOP)
    # What it has answered a moment ago may be told for LIMIT_S of inquiries.py; it is ended long after that.
    answers = (carpctl("status", "--socket", b.socket) for _ in range(100))
    failed = next(answer for answer in answers if answer.returncode)
    assert (failed.returncode, failed.stderr) == (7, "carpctl: the election process does not answer\n")


def test_who_preempts_must_be_demoted(segment: Segment) -> None:
    """For reasons that everybody sees, for a time or until it is ended; the election process may end meanwhile."""
    pair = Pair(segment, preempt=True)
    a, b = pair.a, pair.b
    refused = says(a, "state lan backup", 8)
    assert refused.startswith("carpctl: lan is MASTER again: it preempts, better placed than ")
    assert refused.endswith("; demote lan instead\n")

    says(a, "demote lan --by 10 --reason upgrade")
    b.becomes("MASTER")
    assert says(a, "demote carp --by 3").startswith("group carp (lan): demoted by 13:\n")
    changed = says(a, "demote lan --by 20 --reason upgrade --for 1h")
    assert changed.startswith("group carp (lan): demoted by 23:\n   20  operator: upgrade, until ")
    assert changed.endswith("\n    3  operator\n")
    os.kill(int(election_of(a.process.pid).name), signal.SIGKILL)
    a.logs("the election process ended (killed by SIGKILL)")
    wait_until(lambda: a.states() == {"lan": "BACKUP"}, LIMIT_NS, "another election process")
    assert says(a, "status").startswith("a: BACKUP of lan; demoted by 23 (operator: upgrade, operator)")
    (group,) = a.status()["groups"]
    assert [(reason["amount"], bool(reason["until"])) for reason in group["reasons"]] == [(20, True), (3, False)]
    assert "did you mean 'operator: upgrade'?" in says(a, "demote lan --end --reason upgrad", 6)
    assert says(a, "demote lan --end") == "group carp (lan): ended: operator: upgrade, operator; demoted by 0\n"
    a.becomes("MASTER")
    assert "no operator has demoted it" in says(a, "demote lan --end", 6)

    says(a, "demote lan --by 10 --reason test --for 1s")
    a.logs("group carp: promoted from 10 to 0 (operator: test)")
    a.becomes("MASTER")
    assert says(a, "demote") == "no group is demoted\n"


BAD_REQUESTS: dict[str, dict[str, Any]] = {
    "no name": {"command": "demote", "amount": 1},
    "a name that is no text": {"command": "demote", "name": ["lan"], "amount": 1},
    "no amount": {"command": "demote", "name": "lan"},
    "an amount that is no number": {"command": "demote", "name": "lan", "amount": True},
    "an amount beyond byte 4": {"command": "demote", "name": "lan", "amount": 256},
    "no time": {"command": "demote", "name": "lan", "amount": 1, "for_s": 0},
    "longer than a year": {"command": "demote", "name": "lan", "amount": 1, "for_s": 10**9},
    "a reason of two lines": {"command": "demote", "name": "lan", "amount": 1, "reason": "a\nERROR: b"},
    "a reason without words": {"command": "demote", "name": "lan", "amount": 1, "reason": " "},
    "a reason too long for a line": {"command": "demote", "name": "lan", "amount": 1, "reason": "x" * 81},
    "a state that nobody can force": {"command": "state", "name": "lan", "state": "init"},
    "a state of another kind": {"command": "state", "name": "lan", "state": 1},
    "a status of a name that is none": {"command": "status", "name": {"lan": 1}},
}


def test_what_happens_is_told(segment: Segment) -> None:
    """First the states, then everything, as it is in the log; what is wrong changes nothing."""
    a = Carpd(segment["a"].node, virtual_host(addresses=ADDRESSES, **FAST), NOWHERE)
    a.becomes("MASTER", "lan")
    everything, of_dmz = client.follow(a.socket, "monitor"), client.follow(a.socket, "monitor", name="dmz")
    states = [next(everything), next(everything)]
    assert [(event["name"], event["old"], event["new"]) for event in states] == [
        ("lan", None, "MASTER"),
        ("dmz", None, "INIT"),
    ]
    assert states[0]["text"] == "lan (vhid 7 on eth1): MASTER (master timed out)"
    assert states[1]["text"] == "dmz (vhid 9 on eth9): INIT (interface eth9 does not exist)"
    assert next(of_dmz)["name"] == "dmz"

    for name, request in BAD_REQUESTS.items():
        with pytest.raises(ControlError) as caught:
            client.request(a.socket, **request)
        assert caught.value.failure.value in (2, 6), name
    assert a.states() == {"lan": "MASTER", "dmz": "INIT"}

    says(a, "state lan backup")
    changed = next(everything)
    assert (changed["kind"], changed["old"], changed["new"]) == ("state", "MASTER", "BACKUP")
    assert changed.keys() <= states[0].keys()
    assert changed["text"] in a.log()
    says(a, "demote dmz --by 5")
    for events in (everything, of_dmz):
        demoted = next(event for event in events if event["kind"] == "demotion")
        assert (demoted["group"], demoted["old"], demoted["new"], demoted["reason"]) == ("dmz", 1, 6, "operator")

    monitor = a.node.start([*CARPCTL, "monitor", "lan", "--json", "--socket", str(a.socket)], log="monitor")
    wait_until(lambda: bool(monitor.output()), LIMIT_NS, "a state")
    assert json.loads(monitor.output().splitlines()[0])["name"] == "lan"
    assert a.stop() == 0
    assert monitor.wait() == 4
    assert "carpctl: " in monitor.output().splitlines()[-1]


def test_a_thousand_connections_move_nothing(segment: Segment) -> None:
    """Most are refused, some ask nothing, some send garbage, one reads nothing: no state changes."""
    pair = Pair(segment)
    events = [client.follow(daemon.socket, "monitor") for daemon in (pair.a, pair.b)]
    assert [next(of_one)["new"] for of_one in events] == ["MASTER", "BACKUP"]
    crowd = []
    for number in range(1000):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(pair.a.socket))
        crowd.append(connection)
        try:
            connection.sendall((b"", b"[" * 60000 + b"\n", protocol.encode({"command": "status"}) * 100)[number % 3])
        except OSError:  # it was refused
            continue
    with pytest.raises(ControlError, match="64 other connections"):
        pair.a.status()
    for connection in crowd:
        connection.close()

    def is_free() -> bool:
        try:
            return bool(pair.a.status())
        except ControlError:
            return False

    wait_until(is_free, LIMIT_NS, "room for us")
    for daemon, of_one in zip((pair.b, pair.a), reversed(events), strict=True):  # the backup first: nothing follows
        says(daemon, "demote lan --by 1 --reason end")
        assert next(of_one)["kind"] == "demotion", pair.a.log() + pair.b.log()  # nothing was in between
    assert "Traceback" not in pair.a.log()


ALLOWED = {"status": 0, "demote": 0}
READING = {"status": 0, "demote": 5}
NOTHING = {"status": 5, "demote": 5}
GAMES, MAN = 60, 12
"""Groups that every Debian has. Ref: base-passwd"""


REQUESTS: dict[str, dict[str, Any]] = {"status": {}, "demote": {"name": "lan", "amount": 1}}


def as_user(user: int, groups: Collection[int], daemon: Carpd) -> dict[str, int]:
    """The exit statuses of what a user with these groups asks."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(list(groups))
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(user, user, user)
            os.write(writer, json.dumps({name: exit_status(daemon, name) for name in REQUESTS}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as output:
        statuses = output.read()
    os.waitpid(child, 0)
    return dict(json.loads(statuses))


def exit_status(daemon: Carpd, command: str) -> int:
    try:
        client.request(daemon.socket, command, **REQUESTS[command])
    except ControlError as error:
        return error.failure.value
    return 0


def test_who_may_do_what(segment: Segment) -> None:
    """Root and the daemon's own user, members of two groups, and everybody else."""
    groups = '[control]\nread_group = "games"\nchange_group = "man"\n'
    own, other = NOBODY, NOBODY - 1
    node = segment["a"].node
    node.directory.chmod(0o755)
    as_root = Carpd(node, virtual_host(addresses=ADDRESSES, **FAST), groups)
    as_root.becomes("MASTER")
    for user, of_groups, outcome in (
        (0, (), ALLOWED),
        (other, (MAN,), ALLOWED),
        (other, (1, 2, 3, GAMES), READING),
        (other, (1, 2, 3), NOTHING),
    ):
        assert as_user(user, of_groups, as_root) == outcome, (user, of_groups)
    as_root.stop()

    program = run_as_nobody(segment["b"].node.directory, "carpd.cli.carpd", "net_admin", "net_raw")
    as_nobody = Carpd(segment["b"].node, virtual_host(addresses=ADDRESSES, **FAST), program=program, owner=NOBODY)
    as_nobody.becomes("MASTER")
    for user, outcome in ((0, ALLOWED), (own, ALLOWED), (other, NOTHING)):
        assert as_user(user, (), as_nobody) == outcome, user
