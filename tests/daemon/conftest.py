from __future__ import annotations

import pytest

from carpd.lab.topology import Lab
from tests.daemon.segment import Segment


@pytest.fixture
def segment(lab: Lab) -> Segment:
    """A LAN with a client and the hosts a and b."""
    return Segment(lab, "a", "b")
