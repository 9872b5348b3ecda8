"""`ringgraph watch`: lints and plans graphs again when they are saved, and says what that changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli import options
from runner.driver import completion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.driver.watch.watch import Look, Watch
    from runner.report.diff import ScopeDifference, Side


def register(app: typer.Typer) -> None:
    app.command()(watch)


@options.plans(without={*options.RINGS, "allow_missing_edges"})
def watch(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", autocompletion=completion.graphs, help="Graph files, folders, or names of shipped graphs."
        ),
    ],
    every: Annotated[
        float, typer.Option("--every", min=0.01, max=86400, metavar="SECONDS", help="How often files are looked at.")
    ] = 0.2,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, metavar="N", help="End after N rounds that found something to do.")
    ] = None,
    asked: options.Asked = options.AS_IT_IS,
) -> None:
    """Lint and plan graphs, and again whenever a file of theirs is saved: what changed in bytes, per ring and scope.

    A graph that has errors shows them, and keeps its last good plan. Ctrl-C ends it, with exit status 0.
    """
    from runner.driver.watch.watch import Watch

    watched = Watch(asked.setup, paths, asked.request())
    try:
        _look(watched, every, rounds)
    except KeyboardInterrupt:
        return


def _look(watched: Watch, every: float, rounds: int | None) -> None:
    """Prints what is found, round after round."""
    from time import sleep

    done = 0
    while rounds is None or done < rounds:
        looks = 0
        for look in watched.round():
            print("\n".join(_text(look)), flush=True)
            looks += 1
        done += looks > 0
        if done != rounds:
            sleep(every)


def _text(look: Look) -> Iterator[str]:
    """What a look found, in lines."""
    from datetime import datetime

    head = f"{datetime.now():%H:%M:%S} {look.graph}: "
    yield from (str(finding) for finding in look.findings)
    if look.problem:
        yield look.problem
    if not look.is_planned:
        yield head + ("no plan" if look.side is None else f"no new plan; the last good one takes {_total(look.side)}")
    elif look.before is None or look.side is None:
        yield f"{head}{_rings(look.side)}" if look.side is not None else head
    else:
        yield from _changes(head, look.before, look.side, look.scopes)


def _total(side: Side) -> str:
    from runner.base.units import human_bytes

    return human_bytes(sum(ring["safe_bytes"] for ring in side.rings.values() if ring["num_blocks"]), 2)


def _rings(side: Side) -> str:
    """`takes 1.20 MiB safely: ring 0 1.00 MiB, ring 1 0.20 MiB`; rings without blocks are left out."""
    from runner.base.units import human_bytes

    used = [f"ring {ring} {human_bytes(row['safe_bytes'], 2)}" for ring, row in side.rings.items() if row["num_blocks"]]
    return f"takes {_total(side)} safely: {', '.join(used)}" if used else "takes no bytes"


def _changes(head: str, before: Side, now: Side, scopes: list[ScopeDifference]) -> Iterator[str]:
    """What differs from the last plan, ring by ring and scope by scope."""
    rows = [
        f"  ring {ring}: {name} {_pair(before.rings[ring][f'{name}_bytes'], row[f'{name}_bytes'])}"
        for ring, row in now.rings.items()
        for name in ("safe", "robust", "least")
        if row[f"{name}_bytes"] != before.rings[ring][f"{name}_bytes"]
    ]
    for found in scopes:
        left, right = (side or {"bytes": 0, "count": 0, "num_tasks": 0} for side in (found.left, found.right))
        what = "new" if found.left is None else "gone" if found.right is None else "changed"
        counts = [f"{label} {left[name]:,} -> {right[name]:,}" for name, label in _COUNTS if left[name] != right[name]]
        sizes = [_pair(left["bytes"], right["bytes"])] if left["bytes"] != right["bytes"] else []
        rows.append(f"  scope {found.name} (ring {found.ring}), {what}: {', '.join([*sizes, *counts]) or 'blocks differ'}")
    yield f"{head}{'takes as much as before' if not rows else f'now {_total(now)} safely, {_total(before)} before'}"
    yield from rows


_COUNTS = (("count", "scopes"), ("num_tasks", "tasks"))


def _pair(before: int, now: int) -> str:
    """`64.00 KiB -> 96.00 KiB (+32.00 KiB)`."""
    from runner.base.units import human_bytes

    sign = "+" if now >= before else ""
    return f"{human_bytes(before, 2)} -> {human_bytes(now, 2)} ({sign}{human_bytes(now - before, 2)})"
