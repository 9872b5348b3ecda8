"""What `ringgraph scope-stats show` prints of a run that died: what was held, the likely error, what to change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.cli.shared import console, table

if TYPE_CHECKING:
    from runner.recorded.ended.held import Held, Usage
    from runner.recorded.ended.pinned import Death


def ended(file: Path, program: Path | None) -> tuple[Held | None, Death | None]:
    """What a file's open scopes held, and what a replay of its program knows more; raises RinggraphError."""
    from runner.recorded.ended.held import held_at_end
    from runner.recorded.ended.pinned import death_of
    from runner.recorded.opening import read_recording

    return held_at_end(file), None if program is None else death_of(read_recording(program))


def ended_json(held: Held | None, death: Death | None) -> dict[str, Any]:
    """`ended` of the JSON: as the file says it, and as the program's replay does."""
    return {"recorded": None if held is None else held.as_json(), "program": None if death is None else death.as_json()}


def print_ended(held: Held | None, death: Death | None) -> None:
    best = held if death is None else death.held
    if best is None:
        return
    when = "as of the last record" if death is None else "as the program's replay has it"
    out = table("ring", "open scope", "depth>", "held bytes>", "slots>", title=f"\nopen when the run ended, {when}")
    for scope in best.scopes:
        out.add_row(str(scope.ring), scope.site, f"{scope.depth}", f"{scope.held_bytes:,}", f"{scope.held_slots:,}")
    console().print(out)
    print_usages(best.usages, f"in use, {when}")
    print(f"\n{'ended' if best.is_certain else 'likely ended'} with code {best.code} {best.as_json()['name']}: {best.basis}")
    if death is not None:
        _print_death(death)
    print(f"to change: {best.advice()}")


def print_usages(usages: Sequence[Usage], title: str) -> None:
    """A table of the resources of which something is in use: bytes, slots, entries, and % of the capacity."""
    out = table("ring", "resource", "used>", "capacity>", "%>", title=f"\n{title}")
    for usage in usages:
        if usage.used:
            ring = "all" if usage.ring is None else str(usage.ring)
            out.add_row(ring, usage.resource, f"{usage.used:,}", f"{usage.capacity:,}", f"{usage.percent}")
    if out.row_count:
        console().print(out)


def _print_death(death: Death) -> None:
    if death.deadlock is not None:
        print(death.deadlock)
    for pin in death.pins:
        print(pin)
    if death.safe_heap is not None and death.held.code == 2:
        print(f"cannot die of its heaps with PTO2_RING_HEAP={','.join(map(str, death.safe_heap))}")
