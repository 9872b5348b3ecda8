"""This module sets bytes against time: how much sooner a run ends on rings that may be larger, as data and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.base.units import byte_unit, human_bytes
from runner.report.plotting import pyplot, save


@dataclass(frozen=True, slots=True)
class Point:
    """A placement: bytes of its four rings' safe capacities, and its makespan under `timed` in rings of those."""

    label: str
    total_bytes: int
    makespan_us: float


@dataclass(frozen=True, slots=True)
class Frontier:
    """The placements of minpeak that nothing beats in both respects, fewest bytes first; those of other strategies; two bounds.

    No placement of this order of tasks takes less than `peak_live_bytes`, nor less time than `critical_path_us`, which is
    None where it is not known yet.
    """

    name: str
    points: tuple[Point, ...]
    others: tuple[Point, ...]
    peak_live_bytes: int
    critical_path_us: float | None
    timing: Mapping[str, Any] | None = None
    """What makespans assume, None where nobody says it."""
    routing_notes: tuple[str, ...] = ()
    """What the routing does not decide."""
    is_whole: bool = True
    """False where it was stopped before all placements were found."""
    warnings: tuple[str, ...] = ()
    """Strategies of which no run is right, and what is to be said of the capacities with which a program was recorded."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class StoppedFrontier(KeyboardInterrupt):
    """Ctrl-C while a frontier was traced; `found` is what there is by then."""

    def __init__(self, found: Frontier):
        super().__init__()
        self.found = found


_OURS = "minpeak, "
_LETTER, _LINE = 5.0, 9.0
"""Room of the names of points, in points of the page."""


def budgets(least_bytes: int, most_bytes: int, num: int) -> list[int]:
    """`num` budgets between the two, closer to each other where bytes are few, for there they buy the most time."""
    steps = num + 1
    return [round(least_bytes * (most_bytes / least_bytes) ** (k / steps)) for k in range(1, steps)]


def undominated(points: Sequence[Point]) -> tuple[Point, ...]:
    """Of points, those than which none takes fewer bytes and no more time; fewest bytes first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.total_bytes, p.makespan_us)):
        if not kept or point.makespan_us < kept[-1].makespan_us:
            kept.append(point)
    return tuple(kept)


def merged(points: Sequence[Point]) -> tuple[Point, ...]:
    """Points, those at one place under one label."""
    labels: dict[tuple[int, float], list[str]] = {}
    for point in points:
        labels.setdefault((point.total_bytes, point.makespan_us), []).append(point.label)
    return tuple(Point(", ".join(names), *place) for place, names in labels.items())


def draw_frontier(frontier: Frontier, out: Path) -> None:
    """Draw to `out` (.svg, .png or .pdf), the same file for the same data; raises RinggraphError."""
    every = (*frontier.points, *frontier.others)
    unit, scale = byte_unit(max(point.total_bytes for point in every))
    figure, axis = pyplot(out).subplots(figsize=(9, 5), layout="constrained")
    sizes = [point.total_bytes / scale for point in frontier.points]
    times = [point.makespan_us / 1000 for point in frontier.points]
    axis.plot(sizes, times, "o-", color="tab:blue", drawstyle="steps-post", label=f"{_OURS}by budget")
    markers = "sD^vPX*<>"
    for k, point in enumerate(frontier.others):
        x, y = point.total_bytes / scale, point.makespan_us / 1000
        axis.plot([x], [y], markers[k % len(markers)], color=f"C{k + 1}", markersize=8, label=point.label)
    peak, path = frontier.peak_live_bytes / scale, frontier.critical_path_us
    label = f"peak live, {human_bytes(frontier.peak_live_bytes)}: no plan in this order takes less"
    axis.axvline(peak, color="0.4", linestyle="--", linewidth=1, label=label)
    if path is not None:
        label = f"critical path, {path / 1000:,.1f} ms: no run is shorter"
        axis.axhline(path / 1000, color="0.4", linestyle=":", linewidth=1.2, label=label)
    axis.set_xlim(0, 1.05 * max(point.total_bytes for point in every) / scale)
    axis.set_ylim(0, 1.08 * max(point.makespan_us for point in every) / 1000)
    axis.set_xlabel(f"safe capacity of all four rings ({unit})")
    axis.set_ylabel("makespan under timed (ms)")
    axis.set_title(frontier.name, loc="left")
    axis.legend(fontsize="small", frameon=False)
    axis.grid(alpha=0.25)
    _name(axis, [(point.label.removeprefix(_OURS), x, y) for point, x, y in zip(frontier.points, sizes, times, strict=True)])
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    save(figure, out)


def _name(axis: Any, points: Sequence[tuple[str, float, float]]) -> None:
    """Write the names of a frontier's points beside them: above the step that begins there, or below where that is taken."""
    axis.figure.draw_without_rendering()  # limits are known from here on
    taken: list[tuple[float, float, float]] = []
    for text, x, y in points:
        left, low = (value * 72 / axis.figure.dpi for value in axis.transData.transform((x, y)))
        for shift in (4.0, -11.0, 14.0, -21.0, 24.0):
            place = left, left + _LETTER * len(text), low + shift
            if not any(place[0] < end and begin < place[1] and abs(place[2] - at) < _LINE for begin, end, at in taken):
                break
        taken.append(place)
        axis.annotate(text, (x, y), (4, shift), textcoords="offset points", fontsize="x-small", color="tab:blue")
