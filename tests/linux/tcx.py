"""What somebody else can do to the programs on an interface."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from carpd.errors import SystemCallError
from carpd.linux import ebpf
from carpd.wire import tc

_LINK_GET_FD_BY_ID, _LINK_DETACH = 30, 34


def detach_all(index: int) -> None:
    """Detach every tcx link from an interface of this namespace, as `bpftool link detach` does.

    Whoever made it keeps a dead one.
    """
    for place in (tc.INGRESS, tc.EGRESS):
        programs, links = ((ctypes.c_uint32 * 64)() for _ in range(2))
        places = ctypes.addressof(programs), ctypes.addressof(links)
        query = ebpf._QUERY.pack(index, ebpf._tcx_place(place), 0, 0, places[0], 64, 0, places[1], 0, 0)
        try:
            count = ebpf._QUERY.unpack(ebpf._bpf(ebpf._PROG_QUERY, query, "list links")[1])[ebpf._QUERY_COUNT]
        except SystemCallError as error:
            if error.errno != errno.ENOENT:  # there are none
                raise
            continue
        for number in links[:count]:
            link, _ = ebpf._bpf(_LINK_GET_FD_BY_ID, struct.pack("=III", number, 0, 0), "find a link")
            ebpf._bpf(_LINK_DETACH, struct.pack("=I", link), "detach a link")
            os.close(link)
