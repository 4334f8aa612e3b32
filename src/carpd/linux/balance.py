"""The share gate: of the frames to a load-balanced virtual host this host takes its share, and no other.

Every host of the group gets every frame. A program at the parent's ingress finds out which node a frame belongs to, by
OpenBSD's hash of its addresses or by its destination MAC, and drops it unless that node is this host's to answer for:
it is open, and its lease has not run out. A program at the parent's egress renews the lease of a node whenever an
advertisement of ours for it leaves. So a host whose daemon hangs or cannot send loses its share by itself. The programs
and the daemon share one value in memory.

Both stand before all other programs: most of those accept what they let pass, and so keep it from the next. An
advertisement that a later one drops has renewed the lease; but the drop is told to the sender, who takes it back.

Times are of CLOCK_BOOTTIME, which goes on while the host sleeps: when it wakes, its leases have run out.

Ref: spec carp §14; docs/architecture.md, "Lease".
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile

from carpd.linux import balance_programs, ebpf
from carpd.linux.balance_programs import KEY_SIZE, NODE_LIMIT, Shared, key_of
from carpd.wire import tc

remove_left_behind = ebpf.remove_left_behind

ADDRESS_LIMIT = 4096
"""Addresses of one virtual host."""


@dataclass(frozen=True, slots=True)
class GatePrograms:
    """Where the programs of a virtual host's share gate belong, and their ids."""

    virtual_host: str
    interface_index: int
    ingress: int
    egress: int


def displaced(gates: Collection[GatePrograms]) -> list[GatePrograms]:
    """Those of these gates that are not attached any more, or behind somebody else's program, which may accept first.

    With clsact the operator's priorities decide who comes first. The kernel may let us wait. Raise SystemCallError.
    """
    found = set()
    for index in {gate.interface_index for gate in gates}:
        for place, program in ((tc.INGRESS, "ingress"), (tc.EGRESS, "egress")):
            ids = {getattr(gate, program): gate for gate in gates if gate.interface_index == index}
            there = ebpf.attached(index, place)
            if there is not None:  # else nothing comes and goes there
                in_place = {*takewhile(ids.__contains__, there.tcx), *there.clsact}
                found |= {gate for number, gate in ids.items() if number not in in_place}
    return [gate for gate in gates if gate in found]


class ShareGate:
    """The share gate of one load-balanced virtual host. Closed at first; it has to be detached.

    `ingress` is the descriptor of the program that judges, for `ebpf.test_run`.
    """

    def __init__(
        self,
        index: int,
        name: str,
        macs: Sequence[bytes],
        vhids: Sequence[int],
        leases_ns: Sequence[int],
        addresses: Iterable[bytes] = (),
        *,
        tcx: bool = True,
    ) -> None:
        """Attach to interface `index`. Raise SystemCallError.

        The nodes are the `vhids`, ascending; one advertisement of a node keeps its share for its lease. With one MAC
        frames are dealt out by the hash, with a MAC for each node by these. The `addresses`, packed, are those of the
        virtual host. Without `tcx`, clsact is used, as on kernels that have no other.
        """
        assert 1 < len(vhids) == len(leases_ns) <= NODE_LIMIT
        assert len(macs) in (1, len(vhids))
        self._nodes = len(vhids)
        self._index, self._name, self._tcx = index, name, tcx
        self._handle = vhids[0]  # no two virtual hosts of an interface have a vhid in common
        # What lists programs takes 15 characters and no "-".
        label = f"carp_{name}".replace("-", "_")[:15]
        with ExitStack() as undo:
            size = ctypes.sizeof(Shared)
            value = ebpf.create_array(label, size)
            undo.callback(os.close, value)
            self._shared = Shared.from_buffer(ebpf.map_array(value, size))
            self._shared.lease_ns[: self._nodes] = list(leases_ns)
            self._addresses = ebpf.KeySet(label, KEY_SIZE, ADDRESS_LIMIT)
            undo.callback(self._addresses.close)
            self.set_addresses(addresses)
            self.ingress = ebpf.load(label, balance_programs.ingress(value, macs, self._nodes, self._addresses.fd))
            undo.callback(os.close, self.ingress)
            self._egress = ebpf.load(label, balance_programs.egress(value, vhids))
            undo.callback(os.close, self._egress)
            ids = map(ebpf.program_id, (self.ingress, self._egress))
            self.programs = GatePrograms(name, index, *ids)
            self._links = undo.enter_context(ExitStack())
            self.attach()
            self._undo = undo.pop_all()

    def attach(self) -> None:
        """Let the programs judge, before all others; again if that is not so any more. Raise SystemCallError.

        What comes in between is not judged: without the gate it is for no host.
        """
        self._links.close()
        with ExitStack() as undo:
            for program, place in ((self.ingress, tc.INGRESS), (self._egress, tc.EGRESS)):
                undo.callback(
                    ebpf.attach(
                        program,
                        self._index,
                        place,
                        name=self._name,
                        handle=self._handle,
                        use_tcx=self._tcx,
                        first=True,
                    )
                )
            self._links.push(undo.pop_all())

    def set_addresses(self, addresses: Iterable[bytes]) -> None:
        """The virtual host has these addresses, packed, and no others. Raise SystemCallError."""
        self._addresses.replace([key_of(address) for address in addresses])

    def open(self, node: int) -> None:
        """Take the share of a node (its position in the vhids) from its next advertisement on."""
        self._shared.share |= 1 << node

    def close(self, node: int) -> None:
        """Take the share of a node no longer, and end its lease."""
        self._shared.share &= ~(1 << node)
        self._shared.deadline_ns[node] = 0

    def lease_ns(self, node: int) -> int:
        """How long one advertisement of a node keeps its share, in nanoseconds."""
        return self._shared.lease_ns[node]

    def set_lease(self, node: int, lease_ns: int) -> None:
        """From the node's next advertisement on."""
        self._shared.lease_ns[node] = lease_ns

    def leased_until(self, node: int) -> int:
        """When the lease of a node runs out: nanoseconds of CLOCK_BOOTTIME."""
        return self._shared.deadline_ns[node]

    def take_back(self, node: int, leased_until: int) -> None:
        """Let the lease of a node be what it was before: what renewed it has not left."""
        self._shared.deadline_ns[node] = leased_until

    @property
    def share(self) -> int:
        """A bit for each node that is open."""
        return self._shared.share

    def live(self) -> list[bool]:
        """Of each node, whether its share is taken: it is open, and its lease has not run out."""
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        share, deadlines_ns = self.share, self._shared.deadline_ns
        return [bool(share >> node & 1) and now_ns < deadlines_ns[node] for node in range(self._nodes)]

    def taken(self) -> list[int]:
        """Packets taken since the start, of each node."""
        return self._shared.taken[: self._nodes]

    def detach(self) -> None:
        """Close it, and let all frames pass again. Again is harmless. Raise SystemCallError."""
        self._shared.share = 0
        self._undo.close()
