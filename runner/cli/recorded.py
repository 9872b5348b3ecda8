"""`ringgraph recorded | ring-heap | scope-stats`: programs and scope stats that a device recorded, or that were predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.base.units import human_bytes
from runner.cli import options
from runner.cli.shared import ABOVE_100, console, messages, print_json, print_notes, table
from runner.driver import completion
from runner.driver.driver import Setup
from runner.rings import defaults

if TYPE_CHECKING:
    from runner.driver.planning import PlanRequest
    from runner.recorded.scope_stats import Parting, StatsFile

ring_heap_app = typer.Typer(help="The ring heaps themselves.", no_args_is_help=True)
recorded_app = typer.Typer(help="Programs that were recorded: captures, the conformance format, traces.", no_args_is_help=True)
scope_stats_app = typer.Typer(help="Scope stats, predicted or recorded on a device.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(ring_heap_app, name="ring-heap")
    app.add_typer(scope_stats_app, name="scope-stats")
    app.add_typer(recorded_app, name="recorded")


# --- recorded show ----------------------------------------------------------------------------------------------------


@recorded_app.command("show")
def show_recorded(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A capture's folder, a program (.json), a trace (.jsonl, .jsonl.xz).")
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write it in the conformance format.")] = None,
    as_json: options.Json = False,
) -> None:
    """Show what a recorded program is rebuilt to: scopes, submissions, blocks, edges; what is a guess, and what is proved."""
    import json

    from runner.base.files import check_writable, write_text
    from runner.recorded.opening import read_recording
    from runner.recorded.showing import Shown
    from runner.recorded.writing import program_json

    if out is not None:
        check_writable(out)
    recording = read_recording(path)
    if out is not None:
        write_text(out, json.dumps(program_json(recording), indent=1) + "\n")
    found = Shown.of(recording).as_json()
    if as_json:
        print_json(found)
    else:
        _print_recorded(recording.name, found)


def _print_recorded(name: str, found: dict[str, Any]) -> None:
    submissions, blocks = found["submissions"], found["blocks"]
    exact = sum(block["exact"] for block in blocks)
    print(
        f"{name}: {len(submissions):,} submissions in {len(found['scopes']):,} scopes, {len(blocks):,} tensors, {exact:,} exact"
    )
    for title in ("rings", "scopes", "submissions", "blocks", "edges"):
        rows = [({"": k} if title in ("scopes", "submissions") else {}) | row for k, row in enumerate(found[title])]
        if rows:
            numbers = {key for key, value in rows[0].items() if not isinstance(value, str | bool)}
            out = table(*(f"{key}>" if key in numbers else key for key in rows[0]), title=f"\n{title}")
            for row in rows:
                out.add_row(*map(_cell, row.values()))
            console().print(out)
    print()
    for text in found["estimated"]:
        print(f"a guess: {text}")
    proof = found["proof"]
    if not any(proof[what][1] for what in ("addresses", "scopes", "edges")):
        print("nothing was recorded that a replay could be compared with")
        return
    for what, as_recorded in (("addresses", "named addresses"), ("scopes", "closed scopes"), ("edges", "edges")):
        print(f"as recorded: {proof[what][0]:,} of {proof[what][1]:,} {as_recorded}")
    print("proof complete" if proof["complete"] else f"first that is not: {proof['first_wrong']}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


# --- ring-heap replay -------------------------------------------------------------------------------------------------


@ring_heap_app.command("replay")
def replay_recorded(
    program: Annotated[Path, typer.Argument(metavar="PATH", help="A program in the conformance format, a capture or a trace.")],
    progress: Annotated[
        str | None,
        typer.Option("--progress", metavar="MODEL", help="eager, lagging or timed in place of what the program says."),
    ] = None,
    submit_us: options.SubmitUs = None,
    task_us: options.TaskUs = None,
    cores: options.Cores = None,
    device: options.TimedDevice = defaults.DEVICE,
    as_json: options.Json = False,
) -> None:
    """Replay a recorded program and print its outcome, scope records and blocks."""
    from runner.driver.planning import replay_under
    from runner.recorded.edges import schedule_of
    from runner.recorded.opening import read_recording
    from runner.recorded.programs import recorded_from_replay, replay_recording
    from runner.rings.devices.devices import device as get_device
    from runner.rings.timed import parse_cores, uniform_timing

    recording = read_recording(program)
    on = get_device(device)
    each_us = on.task_us if task_us is None else task_us  # a recording has no ops whose costs are known
    submit_us = on.submit_us if submit_us is None else submit_us
    timing = uniform_timing(submit_us, each_us, (on.aic, on.aiv) if cores is None else parse_cores(cores), on)
    replay = replay_recording(recording)
    if progress is not None:
        replay = replay_under(progress, schedule_of(recording), recording.sizes, lambda: timing)
    found = recorded_from_replay(replay, bool(recording.facts.get("with_pool")))
    for text in recording.estimated:
        messages().print(f"note: a guess: {text}")
    if as_json:
        print_json(found)
    else:
        print(f"{found['outcome']['name']}: {replay.deadlock}" if replay.deadlock else "ok")
        if progress == "timed":
            workers = cores or f"aic={on.aic},aiv={on.aiv}"
            print(f"timed assumes {submit_us:g} us a submission, {each_us:g} us a task, cores {workers} of {on.name}")
        for warning in recording.sizes.warnings():
            messages().print(f"warning: {warning}")
        _print_replay(found)


def _print_replay(found: dict[str, Any]) -> None:
    for title, rows in (("scope records", found["records"]), ("blocks", found["blocks"])):
        if rows:
            out = table(*(name if name in ("phase", "name") else f"{name}>" for name in rows[0]), title=f"\n{title}")
            for row in rows:
                out.add_row(*(f"{v:,}" if isinstance(v, int) else v for v in row.values()))
            console().print(out)


# --- scope-stats ------------------------------------------------------------------------------------------------------

StatsPath = Annotated[Path, typer.Argument(metavar="FILE", help="A scope_stats.jsonl of schema 6.")]


@scope_stats_app.command("show")
def show(
    file: StatsPath,
    program: Annotated[
        Path | None, typer.Option("--program", metavar="PATH", help="What ran: a capture's folder, a program, a trace.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show the worst figures of a file per ring and per scope; of a run that died what was held, and by whom."""
    from runner.cli.device.ended import ended, ended_json, print_ended, print_usages
    from runner.recorded.ended.held import most_in_use
    from runner.recorded.scope_stats import read_scope_stats

    stats = read_scope_stats(file)
    how, usages = ended(file, program), most_in_use(file)
    rows = _site_rows(stats)
    if as_json:
        head = {"file": stats.name, "fatal": stats.fatal, "dropped": stats.dropped, "heap_max": stats.heap_max, "scopes": rows}
        lost = {"unclosed": stats.num_unclosed, "unopened": stats.num_unopened, "lower_bounds": stats.dropped > 0}
        print_json(head | lost | {"most_in_use": [usage.as_json() for usage in usages], "ended": ended_json(*how)})
        return
    unpaired = f"{stats.num_unclosed} unclosed" + (f", {stats.num_unopened} unopened" if stats.num_unopened else "")
    print(f"{stats.name}: {len(stats.scopes):,} scopes, {stats.state}, {stats.dropped} records dropped, {unpaired}")
    out = table("ring", "scope", "closed>", "high-water>", "% of ring>", "occupancy>", "alloc>", "slots>")
    for row, capacity in _capacities(rows, stats):
        percent = f"{100 * row['high_water_bytes'] / capacity:.1f}" if capacity else ""
        sizes = [human_bytes(row[f"{name}_bytes"]) for name in ("high_water", "occupancy", "alloc")]
        slots = f"{row['high_water_slots']:,}"
        out.add_row(str(row["ring"]), row["site"], f"{row['closed']:,}", sizes[0], percent, sizes[1], sizes[2], slots)
    console().print(out)
    if any(capacity and row["high_water_bytes"] > capacity for row, capacity in _capacities(rows, stats)):
        print(ABOVE_100)
    print_usages(usages, "most in use at a begin or end of a scope")
    print_ended(*how)


def _capacities(rows: list[dict[str, Any]], stats: StatsFile) -> list[tuple[dict[str, Any], int]]:
    """Rows with the bytes of their rings, 0 where that is not told."""
    return [(row, stats.heap_max[row["ring"]] if row["ring"] < len(stats.heap_max) else 0) for row in rows]


def _site_rows(stats: StatsFile) -> list[dict[str, Any]]:
    """The worst figures per ring and site, in order of first close within a ring."""
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    figures = ("high_water_bytes", "occupancy_bytes", "alloc_bytes", "high_water_slots")
    for scope in stats.scopes:
        row = rows.setdefault(
            (scope.ring, scope.site), {"ring": scope.ring, "site": scope.site, "closed": 0} | dict.fromkeys(figures, 0)
        )
        row["closed"] += 1
        for figure in figures:
            row[figure] = max(row[figure], getattr(scope, figure))
    return sorted(rows.values(), key=lambda row: row["ring"])


@scope_stats_app.command("diff")
@options.plans(without={*options.RINGS, "allow_missing_edges"})
def diff(
    file: StatsPath,
    other: Annotated[Path | None, typer.Argument(metavar="[OTHER]", help="Another file to compare with.")] = None,
    graph: Annotated[
        str | None,
        typer.Option(
            "--schedule", metavar="GRAPH", autocompletion=completion.graphs, help="Compare with what is predicted for a graph."
        ),
    ] = None,
    progress: options.Progress = "timed",
    asked: options.Asked = options.AS_IT_IS,
    as_json: options.Json = False,
) -> None:
    """Compare a file with another, or with the prediction for a graph on rings of the same sizes."""
    from runner.recorded.scope_stats import read_scope_stats

    if (other is None) == (graph is None):
        raise typer.BadParameter("give either a second FILE or --schedule GRAPH")
    left = read_scope_stats(file)
    if graph is not None:
        _diff_predicted(left, asked.setup, asked.request(graph, progress=progress), as_json)
    else:
        assert other is not None
        _print_diff(left, read_scope_stats(other), ("left", "right"), as_json)


def _diff_predicted(left: StatsFile, setup: Setup, request: PlanRequest, as_json: bool) -> None:
    """Compare a file with what is planned, and say what that assumes."""
    from runner.driver.planning import place, replay_under
    from runner.recorded.scope_stats import stats_of_replay
    from runner.rings.sizes import RingSizes
    from runner.verify.verify import why_unfit

    placed = place(setup, request)
    if why := why_unfit(placed.schedule):
        messages().print(f"warning: '{request.graph}': no such run is right: {why}")
    sizes = RingSizes.from_lists(left.heap_max, left.window_max)
    right = stats_of_replay(replay_under(request.progress, placed.schedule, sizes, placed.timing))
    print_notes(placed.routing_notes)
    notes, is_recorded = list(placed.routing_notes), placed.recorded is not None
    assumed = {"routing": request.routing, "timing": request.timed.as_json(is_recorded), "routing_notes": notes}
    if not as_json:
        timing = request.timed.told(is_recorded)
        print(f"predicted with routing {request.routing}, progress {request.progress}; timed assumes {timing}")
    _print_diff(left, right, ("recorded", "predicted"), as_json, assumed)


def _print_diff(
    left: StatsFile,
    right: StatsFile,
    sides: tuple[str, str],
    as_json: bool,
    assumed: Mapping[str, Any] = {},
) -> None:
    from runner.recorded.scope_stats import partings
    from runner.rings.schedule import NUM_RINGS

    parted = partings(left, right)
    rings = [_ring_diff(ring, left, right) for ring in range(NUM_RINGS) if left.on_ring(ring) or right.on_ring(ring)]
    if as_json:
        names = {sides[0]: left.name, sides[1]: right.name}
        places = [{"ring": p.ring, "scope": p.number} | dict(zip(sides, _sites(p), strict=True)) for p in parted]
        scopes = {f"{sides[0]}_scopes": _site_rows(left), f"{sides[1]}_scopes": _site_rows(right)}
        dropped = {f"{side}_dropped": stats.dropped for side, stats in zip(sides, (left, right), strict=True)}
        print_json(names | dropped | {"rings": rings, "partings": places} | scopes | dict(assumed))
        return
    for side, stats in zip(sides, (left, right), strict=True):
        lost = f" ({stats.dropped:,} records dropped: peaks are lower bounds)" if stats.dropped else ""
        print(f"{side}: {stats.name}{lost}")
    out = table("ring", "figure", f"{sides[0]}>", f"{sides[1]}>", "difference>")
    for ring in rings:
        for figure in ("scopes", "high_water_bytes", "occupancy_bytes", "alloc_bytes"):
            a, b = ring[figure]
            shown = [f"{v:,}" if figure == "scopes" else human_bytes(v, 2) for v in (a, b, b - a)]
            out.add_row(str(ring["ring"]), figure.removesuffix("_bytes"), *shown)
    console().print(out)
    _print_scope_diff(left, right, sides)
    for p in parted:
        print(f"ring {p.ring} parts at scope {p.number}: {_closed_text(p.left)} against {_closed_text(p.right)}")
    if not parted:
        print("every scope allocates the same")


def _ring_diff(ring: int, left: StatsFile, right: StatsFile) -> dict[str, Any]:
    sides = (left.on_ring(ring), right.on_ring(ring))
    figures = ("high_water_bytes", "occupancy_bytes", "alloc_bytes")
    worst = {f: [max((getattr(scope, f) for scope in side), default=0) for side in sides] for f in figures}
    return {"ring": ring, "scopes": [len(side) for side in sides]} | worst


def _sites(parting: Parting) -> list[str | None]:
    return [scope and scope.site for scope in (parting.left, parting.right)]


def _print_scope_diff(left: StatsFile, right: StatsFile, sides: tuple[str, str]) -> None:
    """Per scope: those of the same ring that close in the same order stand beside each other, with their worst figures."""
    from itertools import zip_longest

    pairs: dict[tuple[int, str, str], list[int]] = {}
    for ring in range(len(left.heap_max)):
        for a, b in zip_longest(left.on_ring(ring), right.on_ring(ring)):
            worst = pairs.setdefault((ring, a.site if a else "-", b.site if b else "-"), [0, 0, 0, 0, 0])
            sizes = (a and a.high_water_bytes, b and b.high_water_bytes, a and a.alloc_bytes, b and b.alloc_bytes)
            pairs[ring, a.site if a else "-", b.site if b else "-"] = [
                worst[0] + 1,
                *(max(old, new or 0) for old, new in zip(worst[1:], sizes, strict=True)),
            ]
    titles = [f"{side} scope" for side in sides]
    out = table("ring", *titles, "closed>", "high-water>", "and>", "alloc>", "and>")
    for (ring, a, b), (count, *sizes) in pairs.items():
        out.add_row(str(ring), a, b, f"{count:,}", *map(human_bytes, sizes))
    console().print(out)


def _closed_text(scope: Any) -> str:
    return "nothing" if scope is None else f"{scope.site} ({scope.alloc_bytes:,} bytes)"
