"""This module draws a schedule's rings: time to the right, offsets upwards, one rectangle a block.

A rectangle reaches from the submission that takes the block to the first moment at which it can be reclaimed (its scope has
closed and the last task that uses it was submitted): what `eager` progress shows, and what any interleaving has to hold at least.
A block of several tensors is pale, and they lie in it, each from its first to its last use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from runner.base.errors import RinggraphError
from runner.base.units import byte_unit, human_bytes, short_name
from runner.report.colours import scope_colours, scope_kind
from runner.report.plotting import pyplot, save
from runner.report.tensors import Tensors, tensors_of
from runner.rings.replay import Replay
from runner.rings.schedule import NUM_RINGS, End, Schedule, Submit
from runner.rings.steps import StepWalk

MANY_BLOCKS = 2000
"""From here on a vector picture would be larger than what it shows; the rectangles are drawn as one bitmap in it."""


@dataclass(frozen=True, slots=True)
class BlockLife:
    """A block's submission and the submission count at which it can be reclaimed; `scope` is the one it belongs to."""

    submission: int
    ring: int
    scope: int
    start: int
    end: int


def block_lives(schedule: Schedule) -> list[BlockLife]:
    """The lives of all blocks that have bytes, in submission order."""
    num = len(schedule.submissions)
    last_use = list(range(1, num + 1))
    for i, submission in enumerate(schedule.submissions):
        for held in submission.holds:
            last_use[held] = i + 1
    scope_of = [0] * num
    closes = [num] * len(schedule.scopes)
    submitted = 0
    walk = StepWalk(schedule)
    for step in walk:
        if isinstance(step, Submit):
            scope_of[step.submission] = walk.scopes[-1]
            submitted += 1
        elif isinstance(step, End):
            closes[step.scope] = submitted
    return [
        BlockLife(i, schedule.scopes[scope_of[i]].ring, scope_of[i], i, max(last_use[i], closes[scope_of[i]]))
        for i, submission in enumerate(schedule.submissions)
        if submission.size_bytes
    ]


def draw_rings(replay: Replay, out: Path) -> None:
    """Draw every ring that holds bytes to `out` (.svg, .png or .pdf).

    Raises `RinggraphError` when matplotlib (the `plot` extra) is missing, the suffix is unknown or nothing was placed.
    """
    plot = pyplot(out)
    from matplotlib.patches import Rectangle

    schedule = replay.schedule
    lives = [life for life in block_lives(schedule) if replay.offsets[life.submission] >= 0]
    rings = [ring for ring in range(NUM_RINGS) if any(life.ring == ring for life in lives)]
    if not rings:
        raise RinggraphError(f"schedule '{schedule.name}' places no bytes: there is nothing to draw")
    figure, axes = plot.subplots(len(rings), 1, sharex=True, squeeze=False, figsize=(11, 1.2 + 2.1 * len(rings)))
    every, tensors = scope_colours(schedule), tensors_of(schedule)
    names: list[str] = []
    for axis, ring in zip(axes[:, 0], rings, strict=True):
        names += _draw_ring(axis, replay, ring, [life for life in lives if life.ring == ring], tensors, every)
    kinds = list(dict.fromkeys(map(scope_kind, names)))
    axes[-1, 0].set_xlabel("submissions")
    axes[0, 0].set_title(f"{short_name(schedule.name)}, {schedule.strategy or 'recorded'} placement", loc="left")
    handles = [Rectangle((0, 0), 1, 1, color=every[kind]) for kind in kinds[:12]]
    figure.legend(
        handles,
        [short_name(kind, 30) for kind in kinds[:12]],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2 / figure.get_figheight()),
        ncols=6,
        frameon=False,
        fontsize=8,
    )
    save(figure, out, bbox_inches="tight")


@dataclass(frozen=True, slots=True)
class _Rectangle:
    """A block, or a tensor in one: its scope and name, in submissions and bytes; `is_pale`: a block of several tensors."""

    scope: str
    name: str
    x: int
    y: int
    width: int
    height: int
    is_pale: bool = False


def _rectangles(replay: Replay, lives: list[BlockLife], tensors: Tensors) -> Iterator[_Rectangle]:
    """Blocks, then what lies in those of several tensors."""
    schedule = replay.schedule
    count = tensors.count(len(schedule.submissions)).tolist()
    for life in lives:
        item, y = schedule.submissions[life.submission], replay.offsets[life.submission]
        name = item.slots[0].name if len(item.slots) == 1 else item.name
        scope, width = schedule.scopes[life.scope].name, life.end - life.start
        yield _Rectangle(scope, name, life.start, y, width, item.size_bytes, count[life.submission] > 1)
    drawn = {life.submission for life in lives if count[life.submission] > 1}
    begins = [0, *accumulate(count)]
    for block in sorted(drawn):
        for t, slot in enumerate(schedule.submissions[block].slots, begins[block]):
            x, y, width = int(tensors.first[t]), replay.offsets[block] + slot.offset, int(tensors.last[t] + 1 - tensors.first[t])
            yield _Rectangle(tensors.scopes[tensors.scope[t]], slot.name, x, y, width, slot.size_bytes)


def _draw_ring(
    axis: Any, replay: Replay, ring: int, lives: list[BlockLife], tensors: Tensors, colours: dict[str, str]
) -> list[str]:
    """Draw one ring; returns the scopes whose colours it has."""
    schedule, found = replay.schedule, list(_rectangles(replay, lives, tensors))
    top = max(replay.offsets[life.submission] + schedule.submissions[life.submission].size_bytes for life in lives)
    unit, scale = byte_unit(top)
    capacity = replay.sizes.heap[ring]
    axis.set_xlim(0, len(schedule.submissions))
    axis.set_ylim(0, max(top, min(capacity, 2 * top)) / scale * 1.05)
    _fill(axis, [one for one in found if one.is_pale], scale, 0.25, colours)
    _fill(axis, [one for one in found if not one.is_pale], scale, 0.85, colours)
    _write_names(axis, [one for one in found if not one.is_pale], scale)
    if capacity <= 2 * top:
        axis.axhline(capacity / scale, color="black", linewidth=0.8, linestyle="--")
    axis.set_ylabel(f"ring {ring}\noffset ({unit})")
    axis.text(1, 1.01, f"peak {human_bytes(replay.peak_bytes[ring])}", transform=axis.transAxes, ha="right", fontsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return [one.scope for one in found]


def _fill(axis: Any, shown: list[_Rectangle], scale: float, alpha: float, colours: dict[str, str]) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    patches = [Rectangle((one.x, one.y / scale), one.width, one.height / scale) for one in shown]
    faces = [colours[scope_kind(one.scope)] for one in shown]
    is_many = len(patches) > MANY_BLOCKS
    widths = 0.0 if is_many else 0.2
    collection = PatchCollection(patches, facecolors=faces, edgecolors="white", linewidths=widths, alpha=alpha)
    collection.set_rasterized(is_many)
    axis.add_collection(collection)


CHARACTER, LINE = 1 / 180, 1 / 16
"""What a character of a name takes of a picture's width, and a line of it of its height."""


def _write_names(axis: Any, shown: list[_Rectangle], scale: float) -> None:
    """Names in the rectangles that have room for them."""
    wide, high = axis.get_xlim()[1], axis.get_ylim()[1] * scale
    for one in shown:
        if one.width / wide > CHARACTER * (len(one.name) + 1) and one.height / high > LINE:
            x, y = one.x + one.width / 2, (one.y + one.height / 2) / scale
            axis.text(x, y, one.name, ha="center", va="center", fontsize=6, clip_on=True, parse_math=False)
