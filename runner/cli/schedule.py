"""`ringgraph schedule | ring-heap | scope-stats`: what a graph takes on the rings, and what a device recorded."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.base.errors import ConfigError
from runner.cli import minpeak, options
from runner.cli.schedule_diff import print_difference
from runner.cli.shared import console, messages, print_json, table
from runner.driver.driver import program_of, registry, resolve
from runner.driver.write import Texts, new_texts, settled_texts

if TYPE_CHECKING:
    from runner.language.library import GraphLibrary
    from runner.recorded.scope_stats import Parting, StatsFile
    from runner.report.schedule import ScheduleReport
    from runner.rings.replay import Replay
    from runner.rings.schedule import Schedule
    from runner.rings.sizes import RingSizes
    from runner.rings.timed import Timing

MIB = 2**20
MODELS = ("eager", "lagging", "timed")

ring_heap_app = typer.Typer(help="The ring heaps themselves.", no_args_is_help=True)
scope_stats_app = typer.Typer(help="Scope stats, predicted or recorded on a device.", no_args_is_help=True)

Progress = Annotated[
    str, typer.Option("--progress", metavar="MODEL", help="How far execution has come: eager, lagging or timed.")
]
Batch = Annotated[
    bool, typer.Option("--batch-allocs", help="Gather a body's tensors into blocks of up to 16, as the compiler does.")
]
RoutingText = Annotated[
    str, typer.Option("--routing", metavar="SOURCE", help="Trip counts: bound, uniform, random:SEED or a JSON file.")
]
SubmitUs = Annotated[float, typer.Option("--submit-us", min=0, metavar="US", help="Cost of one submission, for timed.")]
TaskUs = Annotated[float | None, typer.Option("--task-us", min=0, metavar="US", help="One duration for all tasks, for timed.")]
Cores = Annotated[str, typer.Option("--cores", metavar="COUNTS", help="Workers for timed: aic=24,aiv=48 or unlimited.")]
Profile = Annotated[
    Path | None, typer.Option("--profile", metavar="FILE", help="Durations that 'ringgraph run --profile' measured.")
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing-edges", help="Go on when a manual scope lacks edges; running cannot.")
]


def register(app: typer.Typer) -> None:
    app.command()(schedule)
    app.add_typer(ring_heap_app, name="ring-heap")
    app.add_typer(scope_stats_app, name="scope-stats")


@dataclass(frozen=True)
class TimedOptions:
    """What the timed model is told on the command line."""

    submit_us: float
    task_us: float | None
    cores: str
    profile: Path | None = None


# --- schedule ---------------------------------------------------------------------------------------------------------


def schedule(
    graph: Annotated[
        str, typer.Argument(metavar="GRAPH|diff", help="A graph file, or the name of a shipped graph (prefill_fwd); or 'diff'.")
    ],
    compared: Annotated[
        list[str] | None,
        typer.Argument(metavar="[A B]", help="After 'diff': two schedules, each GRAPH, GRAPH:STRATEGY or a file of --json."),
    ] = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    deploy: options.Deploy = None,
    ep: options.Ep = None,
    scheduler: options.Scheduler = "annotated",
    batch_allocs: Batch = False,
    routing: RoutingText = "bound",
    ring_heap: options.RingHeap = None,
    ring_window: options.RingWindow = None,
    ring_pool: options.RingPool = None,
    progress: Progress = "lagging",
    submit_us: SubmitUs = 0.5,
    task_us: TaskUs = None,
    cores: Cores = "aic=24,aiv=48",
    profile: Profile = None,
    allow_missing_edges: AllowMissing = False,
    scope_stats: Annotated[Path | None, typer.Option("--scope-stats", metavar="FILE", help="Write scope_stats.jsonl.")] = None,
    objective: minpeak.Objective = None,
    budget: minpeak.Budget = None,
    no_share: minpeak.NoShare = False,
    time_limit: minpeak.TimeLimit = None,
    write: Annotated[bool, typer.Option("--write", help="Put the strategy's scopes into the graph's files.")] = False,
    as_json: options.Json = False,
) -> None:
    """Plan a graph on the four rings: what it takes, what it needs at least, and whether it can deadlock.

    'schedule diff A B' compares two schedules ring by ring and scope by scope.
    """
    from runner.recorded.scope_stats import write_scope_stats
    from runner.report.diff import scope_rows
    from runner.report.schedule import deadlock_error, make_report, report_json
    from runner.rings.capacity import ring_loads, safe_heap
    from runner.rings.sizes import RingSizes
    from runner.rings.unlimited import run_unlimited
    from runner.verify.verify import check

    safe = ring_heap == "safe"
    sizes = RingSizes.resolve(None if safe else ring_heap, ring_window, ring_pool)
    timing_options = TimedOptions(submit_us, task_us, cores, profile)
    wanted = minpeak.MinpeakOptions(objective, budget, no_share, time_limit, sys.stderr.isatty())
    if graph == "diff":
        if compared is None or len(compared) != 2:
            raise typer.BadParameter(f"'schedule diff' compares two schedules, got {len(compared or ())}")

        def planned_of(named: str, strategy: str | None) -> Schedule:
            return plan(
                named, config, sets, deploy, ep, strategy or scheduler, batch_allocs, routing, timing_options, wanted=wanted
            )[0]

        print_difference(compared[0], compared[1], planned_of, as_json)
        return
    if compared:
        raise typer.BadParameter(f"one graph is planned, got also '{compared[0]}'")
    with _collector_off():

        def planned_from(library: GraphLibrary | None, strategy: str) -> tuple[Schedule, Callable[[], Timing]]:
            batch = batch_allocs and strategy == scheduler
            return plan(graph, config, sets, deploy, ep, strategy, batch, routing, timing_options, library, wanted)

        texts: Texts = {}
        if write and scheduler == "minpeak":
            wanted.written = True
            planned, timing, texts = _settled(lambda library: planned_from(library, scheduler), wanted)
        else:
            planned, timing = planned_from(None, scheduler)
            if write:
                texts = new_texts(planned, lambda library: planned_from(library, "annotated")[0])
        if safe:
            sizes = sizes.with_heap([safe_heap(load) for load in ring_loads(planned)])
        replay = replay_under(progress, planned, sizes, timing)
        if replay.deadlock is None and _pool_may_overflow(planned, sizes):
            lagged = replay_under("lagging", planned, sizes, timing)
            replay = replay if lagged.deadlock is None else lagged
        for missing in check(planned, sizes if replay.deadlock is None else None, allow_missing_edges=allow_missing_edges):
            messages().print(f"warning: {missing.message}", markup=False)
        timed_replay = unlimited = None
        if replay.deadlock is None:
            timed_replay = replay if progress == "timed" else replay_under("timed", planned, sizes, timing)
            unlimited = run_unlimited(planned, timing())
        report = make_report(replay, timed_replay, unlimited)
    if write:
        _write(texts)
    if scope_stats is not None:
        write_scope_stats(scope_stats, planned, sizes, replay.records, fatal=replay.deadlock is not None)
    if as_json:
        scopes = [asdict(row) for row in scope_rows(planned)]
        head = {"graph": planned.name, "scheduler": planned.strategy, "routing": routing}
        certificate = wanted.certificate()
        head |= {} if certificate is None else {"certificate": certificate}
        print_json(head | report_json(report) | {"scopes": scopes})
        if report.deadlock is not None:
            raise typer.Exit(1)
        return
    if report.deadlock is not None:
        raise deadlock_error(planned, sizes, report)
    _print_report(planned, report, routing)
    wanted.print_certificate()


def _write(texts: Texts) -> None:
    """Writes the files' new texts, all of them or none, and says which."""
    from runner.writeback.edits import write_files

    if not texts:
        messages().print("nothing to write: the graph has these scopes", markup=False)
        return
    write_files(texts)
    for path in texts:
        messages().print(f"wrote {path}", markup=False)


def _settled(
    planned_from: Callable[[GraphLibrary], tuple[Schedule, Callable[[], Timing]]], wanted: minpeak.MinpeakOptions
) -> tuple[Schedule, Callable[[], Timing], Texts]:
    """The plan of what files can say with its timing, and the files' new texts."""
    timings: list[Callable[[], Timing]] = []

    def planned(library: GraphLibrary) -> Schedule:
        schedule, timing = planned_from(library)
        timings.append(timing)
        return schedule

    found, texts = settled_texts(planned, lambda: wanted.plans[-1].annotations)
    return found, timings[-1], texts


def _pool_may_overflow(planned: Schedule, sizes: RingSizes) -> bool:
    """Whether edges to lagging producers can fill a pool: the one deadlock that an eager replay does not see."""
    from runner.rings.capacity import ring_loads

    return any(load.pool_bound > pool for load, pool in zip(ring_loads(planned), sizes.pool, strict=True))


@contextmanager
def _collector_off() -> Iterator[None]:
    """A large plan is millions of objects, none of them cyclic garbage; scanning them again and again would double its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def plan(
    graph: str,
    config: list[str],
    sets: list[str],
    deploy: str | None,
    ep: int | None,
    scheduler: str,
    batch_allocs: bool,
    routing: str,
    timing: TimedOptions,
    library: GraphLibrary | None = None,
    wanted: minpeak.MinpeakOptions | None = None,
) -> tuple[Schedule, Callable[[], Timing]]:
    """The schedule of a graph, and the timing to replay it with (made when it is needed)."""
    from schedulers import get_scheduler

    strategy = get_scheduler(scheduler)
    resolved = resolve(config, sets, deploy, ep, graph)
    program = program_of(graph, resolved, routing=routing, library=library)
    given: dict[str, object] = {"batch_allocs": batch_allocs}
    if wanted is not None:
        given |= wanted.mapping() | {"timing": lambda schedule: _timing(schedule, resolved.dtypes, timing)}
    planned = strategy(program, given)
    return planned, lambda: _timing(planned, resolved.dtypes, timing)


def _timing(planned: Schedule, dtypes: Any, given: TimedOptions) -> Timing:
    from runner.rings.durations import Rates, estimated_us, measured_us
    from runner.rings.timed import Timing, parse_cores, uniform_timing

    cores = parse_cores(given.cores)
    if given.profile is not None and given.task_us is not None:
        raise ConfigError("--profile and --task-us both say how long a task takes", hint="give one of them")
    if given.task_us is not None:
        return uniform_timing(given.submit_us, given.task_us, cores)
    if given.profile is not None:
        return Timing(given.submit_us, measured_us(planned, given.profile), *cores)
    return Timing(given.submit_us, estimated_us(planned, registry(), dtypes, Rates()), *cores)


def replay_under(progress: str, planned: Schedule, sizes: RingSizes, timing: Callable[[], Timing]) -> Replay:
    """A replay under the named model; raises ConfigError for a name that is none."""
    from runner.rings.replay import eager, lagging
    from runner.rings.timed import timed

    if progress == "eager":
        return eager(planned, sizes)
    if progress == "lagging":
        return lagging(planned, sizes)
    if progress == "timed":
        return timed(planned, sizes, timing())
    raise ConfigError(f"--progress {progress}: expected one of {', '.join(MODELS)}")


def _print_report(planned: Schedule, report: ScheduleReport, routing: str) -> None:
    print(f"{planned.name}, scheduler {planned.strategy}, routing {routing}; sizes in MiB")
    title = f"\nwhat it takes, progress {report.progress}"
    taken = table("ring", "capacity>", "high-water>", "%>", "occupancy>", "peak>", "slots>", "peak scope", title=title)
    needed = table("ring", "least>", "robust>", "safe>", "blocks>", "tasks>", title="\nwhat it needs")
    for ring in report.rings:
        percent = f"{100 * ring.high_water_bytes / ring.capacity_bytes:.1f}"
        sizes = [_mib(size) for size in (ring.capacity_bytes, ring.high_water_bytes, ring.occupancy_bytes, ring.peak_bytes)]
        taken.add_row(str(ring.ring), *sizes[:2], percent, *sizes[2:], f"{ring.peak_slots:,}", ring.peak_scope or "")
        sizes = [_mib(size) for size in (ring.least_bytes, ring.robust_bytes, ring.safe_bytes)]
        needed.add_row(str(ring.ring), *sizes, f"{ring.num_blocks:,}", f"{ring.num_tasks:,}")
    console().print(taken, needed)
    if report.peak_live_bytes is not None:
        print(f"\npeak live {_mib(report.peak_live_bytes)}; ", end="")
    print(f"{report.num_tasks:,} tasks; safe capacity in all {_mib(report.safe_total_bytes)}")
    if report.makespan_us is not None:
        print(f"timed: makespan {_ms(report.makespan_us)}, submission stalled {_ms(report.stall_us)} of it; ", end="")
        print(f"with unlimited rings {_ms(report.unlimited_makespan_us)} and {_ms(report.unlimited_stall_us)}")
    print(f"PTO2_RING_HEAP={','.join(str(ring.safe_bytes) for ring in report.rings)}")
    _print_caveats(report)


def _print_caveats(report: ScheduleReport) -> None:
    for ring in report.rings:
        if not ring.proved:
            messages().print(
                f"note: ring {ring.ring} depends on trip counts; {ring.capacity_bytes:,} bytes run with these, "
                f"{ring.robust_bytes:,} with any"
            )
        if ring.pool_bound > ring.pool:
            messages().print(
                f"note: ring {ring.ring} may need {ring.pool_bound:,} pool entries if execution lags, it has {ring.pool:,}"
            )


def _ms(time_us: float | None) -> str:
    return "-" if time_us is None else f"{time_us / 1000:,.2f} ms"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:,.2f}"


# --- ring-heap replay -------------------------------------------------------------------------------------------------


@ring_heap_app.command("replay")
def replay_recorded(
    program: Annotated[Path, typer.Argument(metavar="PROGRAM.json", help="A program in the conformance format.")],
    progress: Progress = "eager",
    submit_us: SubmitUs = 0.5,
    task_us: TaskUs = 20.0,
    cores: Cores = "unlimited",
    as_json: options.Json = False,
) -> None:
    """Replay a recorded program and print its outcome, scope records and blocks."""
    from runner.recorded.programs import load_json, recorded_from_replay, schedule_from_recorded
    from runner.rings.timed import parse_cores, uniform_timing

    planned, sizes = schedule_from_recorded(load_json(program), str(program))
    timing = uniform_timing(submit_us, 20.0 if task_us is None else task_us, parse_cores(cores))
    replay = replay_under(progress, planned, sizes, lambda: timing)
    found = recorded_from_replay(replay)
    if as_json:
        print_json(found)
        return
    print(f"{found['outcome']['name']}: {replay.deadlock}" if replay.deadlock else "ok")
    for title, rows in (("scope records", found["records"]), ("blocks", found["blocks"])):
        if rows:
            out = table(*(name if name in ("phase", "name") else f"{name}>" for name in rows[0]), title=f"\n{title}")
            for row in rows:
                out.add_row(*(f"{v:,}" if isinstance(v, int) else v for v in row.values()))
            console().print(out)


# --- scope-stats ------------------------------------------------------------------------------------------------------

StatsPath = Annotated[Path, typer.Argument(metavar="FILE", help="A scope_stats.jsonl of schema 6.")]


@scope_stats_app.command("show")
def show(file: StatsPath, as_json: options.Json = False) -> None:
    """Show the worst figures of a file per ring and per scope."""
    from runner.recorded.scope_stats import read_scope_stats

    stats = read_scope_stats(file)
    rows = _site_rows(stats)
    if as_json:
        print_json(
            {"file": stats.name, "fatal": stats.fatal, "dropped": stats.dropped, "heap_max": stats.heap_max, "scopes": rows}
        )
        return
    state = "ended by a fatal error" if stats.fatal else "complete"
    print(f"{stats.name}: {len(stats.scopes):,} scopes, {state}, {stats.dropped} records dropped, {stats.num_unclosed} unclosed")
    out = table("ring", "scope", "closed>", "high-water MiB>", "% of ring>", "occupancy MiB>", "alloc MiB>", "slots>")
    for row in rows:
        capacity = stats.heap_max[row["ring"]] if row["ring"] < len(stats.heap_max) else 0
        percent = f"{100 * row['high_water_bytes'] / capacity:.1f}" if capacity else ""
        sizes = [_mib(row[f"{name}_bytes"]) for name in ("high_water", "occupancy", "alloc")]
        slots = f"{row['high_water_slots']:,}"
        out.add_row(str(row["ring"]), row["site"], f"{row['closed']:,}", sizes[0], percent, sizes[1], sizes[2], slots)
    console().print(out)


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
def diff(
    file: StatsPath,
    other: Annotated[Path | None, typer.Argument(metavar="[OTHER]", help="Another file to compare with.")] = None,
    graph: Annotated[
        str | None, typer.Option("--schedule", metavar="GRAPH", help="Compare with what is predicted for a graph.")
    ] = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    deploy: options.Deploy = None,
    ep: options.Ep = None,
    scheduler: options.Scheduler = "annotated",
    batch_allocs: Batch = False,
    routing: RoutingText = "bound",
    progress: Progress = "timed",
    submit_us: SubmitUs = 0.5,
    task_us: TaskUs = None,
    cores: Cores = "aic=24,aiv=48",
    as_json: options.Json = False,
) -> None:
    """Compare a file with another, or with the prediction for a graph on rings of the same sizes."""
    from runner.recorded.scope_stats import read_scope_stats, stats_of_replay
    from runner.rings.sizes import RingSizes

    if (other is None) == (graph is None):
        raise typer.BadParameter("give either a second FILE or --schedule GRAPH")
    left = read_scope_stats(file)
    if graph is not None:
        timing_options = TimedOptions(submit_us, task_us, cores)
        planned, timing = plan(graph, config, sets, deploy, ep, scheduler, batch_allocs, routing, timing_options)
        sizes = RingSizes.from_lists(left.heap_max, left.window_max)
        right = stats_of_replay(replay_under(progress, planned, sizes, timing))
        _print_diff(left, right, ("recorded", "predicted"), as_json)
    else:
        assert other is not None
        _print_diff(left, read_scope_stats(other), ("left", "right"), as_json)


def _print_diff(left: StatsFile, right: StatsFile, sides: tuple[str, str], as_json: bool) -> None:
    from runner.recorded.scope_stats import partings
    from runner.rings.schedule import NUM_RINGS

    parted = partings(left, right)
    rings = [_ring_diff(ring, left, right) for ring in range(NUM_RINGS) if left.on_ring(ring) or right.on_ring(ring)]
    if as_json:
        names = {sides[0]: left.name, sides[1]: right.name}
        places = [{"ring": p.ring, "scope": p.number} | dict(zip(sides, _sites(p), strict=True)) for p in parted]
        scopes = {f"{sides[0]}_scopes": _site_rows(left), f"{sides[1]}_scopes": _site_rows(right)}
        print_json(names | {"rings": rings, "partings": places} | scopes)
        return
    print(f"{sides[0]}: {left.name}\n{sides[1]}: {right.name}")
    out = table("ring", "figure", f"{sides[0]}>", f"{sides[1]}>", "difference>")
    for ring in rings:
        for figure in ("scopes", "high_water_bytes", "occupancy_bytes", "alloc_bytes"):
            a, b = ring[figure]
            shown = [f"{v:,}" if figure == "scopes" else f"{v / MIB:,.2f} MiB" for v in (a, b, b - a)]
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
    out = table("ring", *titles, "closed>", "high-water MiB>", "and>", "alloc MiB>", "and>")
    for (ring, a, b), (count, *sizes) in pairs.items():
        out.add_row(str(ring), a, b, f"{count:,}", *map(_mib, sizes))
    console().print(out)


def _closed_text(scope: Any) -> str:
    return "nothing" if scope is None else f"{scope.site} ({scope.alloc_bytes:,} bytes)"
