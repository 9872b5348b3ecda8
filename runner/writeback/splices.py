"""This module owns changes to the bytes of a file: what goes out and what comes in, at which offset; all other bytes stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Splice:
    """At `offset`, in bytes of the old file, `removed` goes out and `inserted` comes in."""

    offset: int
    removed: bytes
    inserted: bytes


def spliced(data: bytes, splices: Sequence[Splice]) -> bytes:
    """The bytes with the changes made; `splices` are in order of offset and do not overlap."""
    parts, at = [], 0
    for splice in splices:
        end = splice.offset + len(splice.removed)
        assert at <= splice.offset and data[splice.offset : end] == splice.removed, "splices are made for these bytes"
        parts += [data[at : splice.offset], splice.inserted]
        at = end
    return b"".join([*parts, data[at:]])


def old_offset(splices: Sequence[Splice], offset: int) -> int:
    """The offset in the old bytes of what stands at an offset of the new ones; of what came in, where it came in."""
    moved = 0
    for splice in splices:
        begin = splice.offset + moved
        if offset < begin:
            break
        if offset < begin + len(splice.inserted):
            return splice.offset
        moved += len(splice.inserted) - len(splice.removed)
    return offset - moved
