"""A host under test and a neighbour on one link, in network namespaces that end with the test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from carpd.linux import namespaces
from tests.conftest import leave_out
from tests.linux.segment import HOST, HOST_MAC, NEIGHBOR, NEIGHBOR_MAC, Neighbor, configure, ip, link, wait_until


@pytest.fixture
def namespace() -> Iterator[None]:
    """The test runs in a new, empty network namespace."""
    try:
        fd = namespaces.new_network_namespace()
    except PermissionError:
        leave_out("needs CAP_SYS_ADMIN: be root")
    with namespaces.inside(fd):
        yield
    os.close(fd)


@pytest.fixture
def neighbor(namespace: None) -> Iterator[Neighbor]:
    """The test runs on a host with eth1, whose other end is the neighbour's eth1. Both have addresses."""
    fd = namespaces.new_network_namespace()
    ip(
        f"link add eth1 address {HOST_MAC.hex(':')} type veth"
        f" peer name eth1 address {NEIGHBOR_MAC.hex(':')} netns /proc/{os.getpid()}/fd/{fd}"
    )
    with namespaces.inside(fd):
        configure(NEIGHBOR)
    configure(HOST)
    assert wait_until(lambda: link("eth1").up)
    other = Neighbor(fd)
    yield other
    other.close()
