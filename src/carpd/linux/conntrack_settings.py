"""How the connection tracking of this network namespace is set: timeouts and size.

Ref: Linux Documentation/networking/nf_conntrack-sysctl.rst.
"""

from __future__ import annotations

import errno

from carpd.errors import SystemCallError
from carpd.linux import sysctls


def read_timeouts() -> dict[str, int]:
    """The timeouts that this kernel has, in seconds, by their names: nf_conntrack_tcp_timeout_established and so on.

    Raise SystemCallError if one can't be read.
    """
    return {
        name: _number(name)
        for name in sysctls.names("netfilter")
        if name.startswith("nf_conntrack_") and "_timeout" in name
    }


def table_limit() -> int:
    """How many entries the table takes. Raise SystemCallError."""
    return _number("nf_conntrack_max")


def table_count() -> int:
    """How many entries the table has. Raise SystemCallError."""
    return _number("nf_conntrack_count")


def _number(name: str) -> int:
    text = sysctls.read("netfilter", name)
    if text is None:
        raise SystemCallError(f"read net/netfilter/{name}", errno.ENOENT, "there is no such setting")
    return int(text)
