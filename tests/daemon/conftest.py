from __future__ import annotations

from collections.abc import Iterator

import pytest

from carpd.lab.topology import Lab
from tests.daemon.segment import Segment
from tests.linux.segment import Neighbor


@pytest.fixture
def segment(lab: Lab) -> Segment:
    """A LAN with a client and the hosts a and b."""
    return Segment(lab, "a", "b")


@pytest.fixture
def asker(segment: Segment) -> Iterator[Neighbor]:
    """The client's way to send any frame."""
    asker = segment.asker()
    yield asker
    asker.close()
