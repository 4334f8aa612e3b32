"""Somebody sets up two firewalls by the quick start alone, and then does whatever else the documentation says."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import groupby

import pytest

from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError
from tests.conftest import leave_out, need
from tests.docs.markdown import DOCUMENTS, ELSEWHERE, MIGRATION, QUICK_START, blocks
from tests.docs.reader import Firewalls, Reader
from tests.packaging.package import built

CONNECTED = "5. Start, and look"
"""The section of the quick start at whose end a connection is opened. It lives until the end of the document."""


@pytest.mark.timeout(300)  # with two installations, and perhaps the package to be built before
def test_walk(lab: Lab) -> None:
    need("systemd-analyze")
    with ExitStack() as open_until_the_end:
        try:
            firewalls = Firewalls(lab, built(), open_until_the_end)
        except LabError as error:
            leave_out(str(error))
        reader = Reader(firewalls.machines)
        with ExitStack() as connected:
            connection = None
            for section, of_section in groupby(blocks(QUICK_START), lambda block: block.section):
                for block in of_section:
                    if block.orders:
                        reader.do(block)
                    if connection:
                        connection.lives()
                reader.interrupt()
                if section == CONNECTED:
                    connection = connected.enter_context(firewalls.connection())
            assert connection, f"no section {CONNECTED!r}"
        for document in DOCUMENTS:
            for block in blocks(document) if document not in (QUICK_START, MIGRATION) else ():
                if block.orders and block.orders != ELSEWHERE:
                    reader.do(block)
            reader.interrupt()
