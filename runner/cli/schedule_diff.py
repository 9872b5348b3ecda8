"""`ringgraph schedule diff A B`, which `runner.cli.schedule` hands over to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runner.cli.shared import console, print_json, table

if TYPE_CHECKING:
    from runner.report.diff import ScopeDifference, Side
    from runner.rings.schedule import Schedule

MIB = 2**20


def print_difference(left_text: str, right_text: str, planned: Callable[[str, str | None], Schedule], as_json: bool) -> None:
    """Compares two schedules, each a file of `--json` or GRAPH[:STRATEGY], which `planned` plans; raises RinggraphError."""
    from runner.report.diff import diff_json, read_side, scope_differences, side_of

    def side(text: str) -> Side:
        if text.endswith(".json"):
            return read_side(Path(text))
        graph, _, strategy = text.partition(":")
        return side_of(planned(graph, strategy or None), text)

    left, right = side(left_text), side(right_text)
    differences = scope_differences(left, right)
    if as_json:
        print_json(diff_json(left, right, differences))
        return
    print(f"left:  {left.name}\nright: {right.name}")
    _print_rings(left, right)
    _print_scopes(differences)


def _print_rings(left: Side, right: Side) -> None:
    out = table("ring", "figure", "left>", "right>", "difference>")
    total = [0, 0]
    for ring in sorted(left.rings.keys() & right.rings.keys()):
        for name in ("safe_bytes", "robust_bytes", "num_blocks", "num_tasks"):
            a, b = left.rings[ring][name], right.rings[ring][name]
            shown = [f"{v / MIB:,.2f} MiB" if name.endswith("_bytes") else f"{v:,}" for v in (a, b, b - a)]
            out.add_row(str(ring), name.removesuffix("_bytes").removeprefix("num_"), *shown)
        total[0] += left.rings[ring]["safe_bytes"]
        total[1] += right.rings[ring]["safe_bytes"]
    out.add_row("all", "safe", *(f"{v / MIB:,.2f} MiB" for v in (*total, total[1] - total[0])))
    console().print(out)


def _print_scopes(differences: list[ScopeDifference]) -> None:
    changed = [difference for difference in differences if not difference.is_same]
    if changed:
        title = "\nscopes that differ: how many, MiB that the largest allocates, tasks in all"
        out = table("ring", "scope", "left>", "right>", "MiB>", "and>", "tasks>", "and>", title=title)
        for found in changed:
            pairs = [text for name in ("count", "bytes", "num_tasks") for text in _pair(found.left, found.right, name)]
            out.add_row(str(found.ring), found.name, *pairs)
        console().print(out)
    print(f"{len(differences) - len(changed):,} scopes are the same")


def _pair(left: Mapping[str, int] | None, right: Mapping[str, int] | None, name: str) -> list[str]:
    return ["-" if s is None else f"{s[name] / MIB:,.2f}" if name == "bytes" else f"{s[name]:,}" for s in (left, right)]
