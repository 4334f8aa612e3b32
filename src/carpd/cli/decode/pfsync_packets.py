"""How pfsync packets are shown: their actions, and the states in them if wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from carpd.cli.decode.packets import SeenPacket, Skipped
from carpd.cli.decode.states import state_fields, state_text
from carpd.wire.pfsync.batches import AnyBatch, BulkStatuses, Sequences, StateBatch, UpdateRequests
from carpd.wire.pfsync.header import PacketError
from carpd.wire.pfsync.messages import BULK_END, BULK_REQUEST, BULK_START
from carpd.wire.pfsync.packet import Packet
from carpd.wire.pfsync.state import StateRecord

_STATE_INDENT = " " * 12  # the width of the time


class _Decoded(NamedTuple):
    """What could be read of a packet, and what was wrong behind that."""

    version: int
    batches: Sequence[AnyBatch]
    trouble: str = ""


def pfsync_text(seen: SeenPacket, states: bool) -> str:
    """One line, and one for each state if wanted. Raise DecodeError if there is no message that can be read."""
    version, batches, trouble = _decode(seen.packet.payload)
    actions = ", ".join(map(_action_text, batches)) or "no messages"
    lines = [f"{seen.text()} pfsync version {version} {actions}{trouble}"]
    if states:
        lines += [f"{_STATE_INDENT}{batch.action} {state_text(state)}" for batch, state in _states(batches)]
    return "\n".join(lines)


def pfsync_json(seen: SeenPacket, states: bool, skipped: Skipped) -> str:
    """An error behind the messages has no place in it, and is counted. Raise DecodeError if there is no message."""
    version, batches, trouble = _decode(seen.packet.payload)
    skipped.rests += bool(trouble)
    fields = seen.fields()
    fields["version"] = version
    fields["messages"] = [{"action": batch.action, "count": batch.count} for batch in batches]
    if states:
        fields["states"] = [{"action": batch.action, **state_fields(state)} for batch, state in _states(batches)]
    return json.dumps(fields)


def _decode(payload: bytes) -> _Decoded:
    try:
        packet = Packet.from_bytes(payload)
    except PacketError as error:
        if not error.batches:
            raise
        return _Decoded(payload[0], error.batches, f", then {error.counter}: {error.reason}")
    return _Decoded(packet.version, packet.batches)


def _states(batches: Sequence[AnyBatch]) -> Iterator[tuple[StateBatch, StateRecord]]:
    for batch in batches:
        if isinstance(batch, StateBatch):
            for state in batch.messages:
                yield batch, state


def _action_text(batch: AnyBatch) -> str:
    """The action and how many; of a bulk update also what happens to it, of a numbered packet also the number."""
    text = f"{batch.action} {batch.count}"
    match batch:
        case UpdateRequests() if BULK_REQUEST in batch.messages:
            return f"{text} (bulk)"
        case BulkStatuses():
            words = {BULK_START: "start", BULK_END: "end"}
            return f"{text} ({' '.join(words.get(status, str(status)) for _, _, status in batch.messages)})"
        case Sequences():
            return f"{text} ({' '.join(str(message.number) for message in batch.messages)})"
    return text
