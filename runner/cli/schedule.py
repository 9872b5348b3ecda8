"""`ringgraph schedule | schedule-diff`: what a graph takes on the rings, and where two placements part."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.base.errors import ConfigError
from runner.base.units import human_bytes, human_us
from runner.cli import options
from runner.cli.device.files import with_side_files
from runner.cli.results.replayed import Kept, NoCache
from runner.cli.shared import ABOVE_100, console, memory_text, messages, print_json, print_notes, table
from runner.driver import completion
from runner.driver.outputs import NO_FILES, SideFiles

if TYPE_CHECKING:
    from runner.driver.compare.compare import PlanDifference
    from runner.driver.planning import PlanResult, Say
    from runner.driver.write import Written
    from runner.report.diff import ScopeDifference, Side
    from runner.report.schedule import ScheduleReport
    from runner.rings.schedule import Schedule


def register(app: typer.Typer) -> None:
    app.command()(schedule)
    app.command("schedule-diff")(schedule_diff)


@with_side_files
@options.plans()
def schedule(
    graph: options.GraphName,
    asked: options.Asked = options.AS_IT_IS,
    progress: options.Progress = "lagging",
    list_techniques: options.ListTechniques = False,
    explain_plan: options.ExplainPlan = False,
    write: options.Write = False,
    as_json: options.Json = False,
    no_cache: NoCache = False,
    files: SideFiles = NO_FILES,
) -> None:
    """Plan a graph on the four rings: what it takes, what it needs at least, and whether it can deadlock."""
    given = dict(locals())
    is_text = not (write or files.asked_for or explain_plan or asked["time_limit"] is not None)
    kept = Kept(asked.setup, [graph], given, is_wanted=is_text and not no_cache, files=asked.files)
    if kept.print_again():
        return
    from runner.driver.outputs import check_outputs
    from runner.driver.planning import plan

    check_outputs(files.asked_for)
    found = plan(asked.setup, asked.request(graph, progress=progress, write=write), better())
    with kept.printing():
        _tell(found, files, as_json, explain_plan)


def _tell(found: PlanResult, files: SideFiles, as_json: bool, explained: bool) -> None:
    """Print a plan and write what is asked for; raises why it must not run."""
    if explained and found.plan is None:
        raise ConfigError(f"--explain-plan explains plans of minpeak, got --scheduler {found.request.scheduler}")
    _print_notes(found)
    if found.request.write:
        _write(found.written)
    try:
        _write_files(files, found)
    finally:  # a file that cannot be written does not swallow the plan
        _show(found, as_json, explained)


def _print_notes(found: PlanResult) -> None:
    for missing in found.warnings:
        messages().print(f"warning: {missing.message}")
    print_notes(found.routing_notes)


def _write_files(files: SideFiles, found: PlanResult) -> None:
    """Writes what is asked for; raises UnwrittenError when all that can be written is."""
    from runner.driver.device.files import planned_run, writers
    from runner.driver.outputs import UnwrittenError, write_each

    if files.asked_for and (problems := write_each(writers(files, planned_run(found, files.need_times)))):
        raise UnwrittenError(problems, found)


def _show(found: PlanResult, as_json: bool, explained: bool) -> None:
    """Print a plan; raises why it must not run, as JSON only the exit status."""
    from runner.report.verdict import verdict

    if as_json:
        print_json(found.as_json() | ({"explanation": found.explanation} if explained else {}))
        if found.refusal is not None:
            raise typer.Exit(1)
        return
    print(verdict(found.schedule.name, found.report, is_refused=found.refusal is not None))
    if found.refusal is not None:
        raise found.refusal
    _print_plan(found)
    if explained:
        _print_explanation(found.explanation)


def better() -> Say | None:
    """Tells on standard error which placement is the best so far, where that is a terminal."""

    def say(found_by: str, value: float) -> None:
        print(f"best so far: {value:,.0f} by {found_by}", file=sys.stderr)

    return say if sys.stderr.isatty() else None


def _write(written: Written) -> None:
    """Writes the files' new texts, all of them or none, and says which."""
    from runner.writeback.edits import write_files

    for left in written.left_out:
        messages().print(f"note: left as it is: {left}")
    if not written.texts:
        had = "files do not take more scopes of this plan" if written.left_out else "the files say this plan"
        messages().print(f"nothing to write: {had}")
        return
    write_files(written.texts)
    for path in written.texts:
        messages().print(f"wrote {path}")


def _print_plan(found: PlanResult) -> None:
    from runner.report.schedule import remedies

    report = found.report
    print(f"{found.schedule.name}, scheduler {found.schedule.strategy}, routing {found.request.routing}")
    _print_rings(report)
    if report.peak_live_bytes is not None:
        print(f"\npeak live {human_bytes(report.peak_live_bytes, 2)}; ", end="")
    print(f"{report.num_tasks:,} tasks; safe capacity in all {human_bytes(report.safe_total_bytes, 2)}")
    if report.makespan_us is not None:
        stall = human_time(report.stall_us)
        print(f"timed: makespan {human_time(report.makespan_us)}, submission stalled {stall} of it; ", end="")
        print(f"with unlimited rings {human_time(report.unlimited_makespan_us)} and {human_time(report.unlimited_stall_us)}")
        print(f"timed assumes {found.request.timed.told(found.recorded is not None)}")
    print("\n".join(remedies(report)))
    _print_memory(report)
    if found.recorded is not None:
        _print_recorded(found)
    _print_caveats(report, found.schedule)
    if found.certificate is not None:
        _print_certificate(found.certificate)
    if found.unwritten is not None:
        _print_unwritten(found)


def _print_unwritten(found: PlanResult) -> None:
    """What the plan that files say takes, beside one that places every trip and layer by itself."""
    assert found.unwritten is not None
    total, makespan_us = found.report.safe_total_bytes, found.report.makespan_us
    free, free_us = found.unwritten["total_bytes"], found.unwritten["makespan_us"]
    more, longer = (f"{one / other - 1 if other else 0:+.1%}" for one, other in ((total, free), (makespan_us or 0.0, free_us)))
    print(
        f"files say {human_bytes(total, 2)}, {human_time(makespan_us)}; placing every trip and layer by itself takes "
        f"{human_bytes(free, 2)}, {human_time(free_us)}: files take {more} bytes, {longer} time"
    )
    budget = found.request.minpeak.mapping()["budget_bytes"]
    if isinstance(budget, int) and total > budget:
        print(f"no files were found that fit into the budget of {human_bytes(budget, 2)}")


def _print_recorded(found: PlanResult) -> None:
    """What a plan changes of a recorded program, in its own words, and its times beside the recorded one."""
    from runner.recorded.plans import plan_lines

    assert found.recorded is not None and found.changes is not None
    print()
    for line in plan_lines(found.recorded.recording, found.changes):
        print(line)
    run = found.run
    if run is None:
        return
    recorded, as_recorded, as_planned = (human_time(run[f"{name}_us"]) for name in _RECORDED)
    print(f"\nmakespan recorded {recorded}; timed as recorded {as_recorded}, as planned {as_planned}")
    kernels, data, core = (human_time(run[f"{name}_us"]) for name in ("kernels", "data_gaps", "core_gaps"))
    print(f"the last chain of the recorded run: {run['tasks']:,} tasks took {kernels}, waits for data {data}, for cores {core}")
    print(f"{run['after_core']:,} of them followed another task of the core that they were given; timed may choose a free one")


_RECORDED = ("makespan", "timed_as_recorded", "timed_as_planned")


def _print_rings(report: ScheduleReport) -> None:
    title = f"\nwhat it takes, progress {report.progress}"
    taken = table("ring", "capacity>", "high-water>", "%>", "occupancy>", "peak>", "slots>", "peak scope", title=title)
    needed = table("ring", "least>", "robust>", "safe>", "blocks>", "tasks>", title="\nwhat it needs")
    passes = False
    for ring in report.rings:
        percent = f"{100 * ring.high_water_bytes / ring.capacity_bytes:.1f}"
        passes = passes or ring.high_water_bytes > ring.capacity_bytes
        held = (ring.capacity_bytes, ring.high_water_bytes, ring.occupancy_bytes, ring.peak_bytes)
        sizes = [human_bytes(size, 2) for size in held]
        taken.add_row(str(ring.ring), *sizes[:2], percent, *sizes[2:], f"{ring.peak_slots:,}", ring.peak_scope or "")
        sizes = [human_bytes(size, 2) for size in (ring.least_bytes, ring.robust_bytes, ring.safe_bytes)]
        needed.add_row(str(ring.ring), *sizes, f"{ring.num_blocks:,}", f"{ring.num_tasks:,}")
    console().print(taken)
    if passes:
        print(ABOVE_100)
    console().print(needed)


def _print_memory(report: ScheduleReport) -> None:
    from runner.rings.tensormap import CAPACITY as TENSORMAP_ENTRIES

    for title, sizes in (("memory per rank", report.sizes), ("with the smallest sizes", report.smallest)):
        print(f"{title}: {memory_text(sizes)}")
    saved, entries = human_bytes(report.window_saving_bytes, 2), f"{report.tensormap_bound:,} of {TENSORMAP_ENTRIES:,}"
    print(f"the smallest windows save {saved}; tensormap: at most {entries} entries in use")


def _print_caveats(report: ScheduleReport, planned: Schedule) -> None:
    from runner.report.schedule import slow_wait_text

    for wait in report.slow_waits[:10]:
        messages().print(f"warning: {slow_wait_text(wait, planned)}")
    if len(report.slow_waits) > 10:
        messages().print(f"warning: {len(report.slow_waits) - 10:,} more waits of this kind")
    for warning in report.sizes.warnings():
        messages().print(f"warning: {warning}")
    pools = ",".join(map(str, report.smallest.pool))
    for ring in report.rings:
        if not ring.proved:
            messages().print(
                f"note: ring {ring.ring} depends on trip counts; {ring.capacity_bytes:,} bytes run with these, "
                f"{ring.robust_bytes:,} with any"
            )
        if ring.pool_bound > ring.pool:
            messages().print(
                f"note: ring {ring.ring} may need {ring.pool_bound:,} pool entries if execution lags, it has {ring.pool:,}; "
                f"--ring-pool {pools} is enough for every run"
            )


def human_time(time_us: float | None) -> str:
    return "-" if time_us is None else human_us(time_us)


def _print_certificate(found: Mapping[str, Any]) -> None:
    shown = human_us if found["objective"] == "makespan" else partial(human_bytes, digits=3)
    optimal = "proved optimal" if found["proved_optimal"] else f"gap {shown(found['gap'])}"
    if not found["proved_optimal"] and found["gap"] <= found["idle_bytes"]:
        optimal = f"proved optimal but for the 1,024 bytes of each unused ring ({found['gap']:,} bytes)"
    print(
        f"certificate: {found['objective']} {shown(found['value'])} by {found['found_by']}; "
        f"lower bound ({found['bound']}) {shown(found['lower_bound'])}: {optimal}"
    )
    if "time" in found:
        time = found["time"]
        makespan, fastest, path, work = (
            human_us(time[name]) for name in ("makespan_us", "fastest_us", "critical_path_us", "work_us")
        )
        more = f"{time['makespan_us'] / time['fastest_us'] - 1 if time['fastest_us'] else 0:+.1%}"
        print(
            f"time: {makespan}, {more} of the best of unlimited rings and the strategies that were run, {fastest} "
            f"(slack {time['slack']:.1%})"
        )
        print(f"no run is shorter than the critical path, {path}, nor than the work over the cores, {work}")


def _print_explanation(notes: Sequence[Mapping[str, Any]]) -> None:
    out = table("technique", "what", "before>", "after>", "in", "s>", title="\nhow the plan was found")
    for note in notes:
        numbers = ["" if note[name] is None else f"{note[name]:,.0f}" for name in ("before", "after")]
        out.add_row(note["technique"], note["what"], *numbers, note["unit"], f"{note['seconds']:.3f}")
    console().print(out)


# --- schedule-diff ----------------------------------------------------------------------------------------------------

_Left = Annotated[
    str,
    typer.Argument(
        metavar="A", autocompletion=completion.graphs, help="GRAPH, GRAPH:STRATEGY, or a file of 'schedule --json' (*.json)."
    ),
]


@options.plans(without={*options.RINGS, "allow_missing_edges"}, of_sides=True)
def schedule_diff(
    left: _Left,
    right: Annotated[str, typer.Argument(metavar="B", autocompletion=completion.graphs, help="What it is compared with.")],
    asked: options.Asked = options.AS_IT_IS,
    as_json: options.Json = False,
    no_cache: NoCache = False,
) -> None:
    """Compare two schedules ring by ring and scope by scope."""
    given, graphs = dict(locals()), [side.partition(":")[0] for side in (left, right)]
    kept = Kept(asked.setup, graphs, given, is_wanted=not no_cache and asked["time_limit"] is None, files=asked.files)
    if kept.print_again():
        return
    from runner.driver.compare.compare import compare

    found = compare(asked.setup, left, right, asked.request(), better())
    with kept.printing():
        print_notes(found.routing_notes)
        for warning in found.warnings:
            messages().print(f"warning: {warning}")
        if as_json:
            print_json(found.as_json())
        else:
            _print_difference(found, are_planned=not left.endswith(".json") or not right.endswith(".json"))


def _print_difference(found: PlanDifference, are_planned: bool) -> None:
    _print_ring_diff(found.left, found.right)
    _print_scope_diff(found.scopes)
    if are_planned:
        print(f"planned with routing {found.request.routing}; timed assumes {found.timed}")


def _print_ring_diff(left: Side, right: Side) -> None:
    print(f"left:  {left.name}\nright: {right.name}")
    out = table("ring", "figure", "left>", "right>", "difference>")
    total = [0, 0]
    for ring in sorted(left.rings.keys() & right.rings.keys()):
        for name in ("safe_bytes", "robust_bytes", "num_blocks", "num_tasks"):
            a, b = left.rings[ring][name], right.rings[ring][name]
            shown = [human_bytes(v, 2) if name.endswith("_bytes") else f"{v:,}" for v in (a, b, b - a)]
            out.add_row(str(ring), name.removesuffix("_bytes").removeprefix("num_"), *shown)
        total[0] += left.rings[ring]["safe_bytes"]
        total[1] += right.rings[ring]["safe_bytes"]
    out.add_row("all", "safe", *(human_bytes(v, 2) for v in (*total, total[1] - total[0])))
    console().print(out)


def _print_scope_diff(differences: Sequence[ScopeDifference]) -> None:
    changed = [difference for difference in differences if not difference.is_same]
    if changed:
        title = "\nscopes that differ: how many, bytes that the largest allocates, tasks in all"
        out = table("ring", "scope", "left>", "right>", "bytes>", "and>", "tasks>", "and>", title=title)
        for found in changed:
            pairs = [text for name in ("count", "bytes", "num_tasks") for text in _pair(found.left, found.right, name)]
            out.add_row(str(found.ring), found.name, *pairs)
        console().print(out)
    print(f"{len(differences) - len(changed):,} scopes are the same")


def _pair(left: Mapping[str, int] | None, right: Mapping[str, int] | None, name: str) -> list[str]:
    return ["-" if s is None else human_bytes(s[name], 2) if name == "bytes" else f"{s[name]:,}" for s in (left, right)]
