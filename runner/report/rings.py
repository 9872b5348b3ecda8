"""This module draws a schedule's rings: time to the right, offsets upwards, one rectangle a block.

A rectangle reaches from the submission that takes the block to the first moment at which it can be reclaimed (its scope has
closed and the last task that uses it was submitted): what `eager` progress shows, and what any interleaving has to hold at least.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.base.errors import RinggraphError
from runner.base.units import byte_unit, human_bytes
from runner.report.colours import scope_colours, scope_kind
from runner.report.plotting import pyplot, save
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
    every = scope_colours(schedule)
    kinds = list(dict.fromkeys(scope_kind(schedule.scopes[life.scope].name) for life in lives))
    for axis, ring in zip(axes[:, 0], rings, strict=True):
        _draw_ring(axis, replay, ring, [life for life in lives if life.ring == ring], every)
    axes[-1, 0].set_xlabel("submissions")
    axes[0, 0].set_title(f"{schedule.name}, {schedule.strategy or 'recorded'} placement", loc="left")
    handles = [Rectangle((0, 0), 1, 1, color=every[kind]) for kind in kinds[:12]]
    figure.legend(handles, kinds[:12], loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    save(figure, out, bbox_inches="tight")


def _draw_ring(axis: Any, replay: Replay, ring: int, lives: list[BlockLife], colours: dict[str, str]) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    schedule = replay.schedule
    top = max(replay.offsets[life.submission] + schedule.submissions[life.submission].size_bytes for life in lives)
    unit, scale = byte_unit(top)
    patches, faces = [], []
    for life in lives:
        size = schedule.submissions[life.submission].size_bytes
        offset = replay.offsets[life.submission]
        patches.append(Rectangle((life.start, offset / scale), life.end - life.start, size / scale))
        faces.append(colours[scope_kind(schedule.scopes[life.scope].name)])
    collection = PatchCollection(
        patches, facecolors=faces, edgecolors="white", linewidths=0.0 if len(patches) > MANY_BLOCKS else 0.2, alpha=0.85
    )
    collection.set_rasterized(len(patches) > MANY_BLOCKS)
    axis.add_collection(collection)
    capacity = replay.sizes.heap[ring]
    axis.set_xlim(0, len(schedule.submissions))
    axis.set_ylim(0, max(top, min(capacity, 2 * top)) / scale * 1.05)
    if capacity <= 2 * top:
        axis.axhline(capacity / scale, color="black", linewidth=0.8, linestyle="--")
    axis.set_ylabel(f"ring {ring}\noffset ({unit})")
    axis.text(1, 1.01, f"peak {human_bytes(replay.peak_bytes[ring])}", transform=axis.transAxes, ha="right", fontsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
