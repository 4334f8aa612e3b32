"""Network namespaces that live by their descriptor."""

from __future__ import annotations

import os

from carpd.linux import links, namespaces


def identity() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_a_new_one(namespace: None) -> None:
    home = identity()
    fd = namespaces.new_network_namespace()
    assert identity() == home
    with namespaces.inside(fd):
        assert identity() == os.stat(fd).st_ino != home
        assert [link.name for link in links.links()] == ["lo"]
    assert identity() == home
    os.close(fd)
