"""What `ringgraph schedule` works out: a graph placed on the rings, replayed, timed, checked; as data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from runner.base.errors import ConfigError, DeadlockError, Diagnostic, RinggraphError, ScheduleError
from runner.base.records import collector_off
from runner.driver.driver import Setup, program_of, routing_notes
from runner.driver.linting import lint_texts
from runner.driver.recorded import Recorded, is_recorded, open_recorded
from runner.driver.shares.written import aim_of, best_files, figures_of, with_files, without_lists
from runner.driver.write import (
    SCOPES_DECIDE,
    Files,
    Texts,
    Written,
    library_of,
    refuse_errors,
    refuse_unnamed,
    settled_texts,
    written_scopes,
)
from runner.expansion.expander import expand_all
from runner.language.library import GraphLibrary
from runner.program.ops import OpRegistry
from runner.program.program import Program
from runner.recorded.plans import plan_json, recorded_run
from runner.report.diff import scope_rows
from runner.report.schedule import ScheduleReport, deadlock_error, make_report, report_json
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.common_sizes import refuse_pools
from runner.rings.defaults import DEVICE, ROUTING
from runner.rings.devices.devices import device
from runner.rings.devices.durations import estimated_us, measured_us, read_profile
from runner.rings.placement import Scheduler
from runner.rings.replay import Replay, RunTimes, eager, lagging
from runner.rings.schedule import Schedule, remembered
from runner.rings.sizes import POOL_VARIABLE, RingSizes, parse_size
from runner.rings.timed import Timing, parse_cores, refuse_times, timed, uniform_timing
from runner.rings.unlimited import run_times, run_unlimited
from runner.verify.verify import check
from runner.writeback.annotations import Annotations, Demands
from schedulers import BUILTIN, get_scheduler
from schedulers.minpeak.planner import Options, Plan

MODELS = ("eager", "lagging", "timed")
"""How far execution has come at a submission; docs/memory-model.md says what each means."""

Say = Callable[[str, float], None]
"""Told who found a better plan, and what it is worth."""


@dataclass(frozen=True, slots=True)
class TimedOptions:
    """What the timed model assumes: microseconds a submission and a task, workers (`aic=24,aiv=48` or `unlimited`), and a device.

    Without `cores` or `submit_us` they are the device's, of which `device` is the name of a preset or the path of a file.
    Without `task_us` a task takes what `profile`, of `ringgraph run --profile`, measured, else what its op's cost says.
    """

    submit_us: float | None = None
    task_us: float | None = None
    cores: str | None = None
    profile: Path | None = None
    device: str = DEVICE

    def __str__(self) -> str:
        """In words, for reports."""
        tasks = f"{self.task_us:g} us a task" if self.task_us is not None else "tasks as their ops' costs say"
        tasks = tasks if self.profile is None else f"tasks as {self.profile} says"
        return f"{self.submission_us:g} us a submission, {tasks}, cores {self.counts} of {device(self.device).name}"

    def told(self, is_recorded: bool) -> str:
        """In words, for reports of a graph or of a recorded program, which tells what no option does."""
        if not is_recorded:
            return str(self)
        given = {"us a submission": self.submit_us, "us a task": self.task_us}
        said = [f"{value:g} {unit}" for unit, value in given.items() if value is not None]
        said += [f"tasks as {self.profile} says"] * (self.profile is not None)
        said += [f"cores {self.cores}"] * (self.cores is not None)
        return f"what was recorded{', but ' * bool(said)}{', '.join(said)}"

    def as_json(self, is_recorded: bool = False) -> dict[str, Any]:
        """The same as an object; null is what was recorded, or `task_us` where costs or a profile say it."""
        told = {} if is_recorded else {"submit_us": self.submission_us, "cores": self.counts}
        told |= {"device": device(self.device).name, "is_recorded": is_recorded}
        return asdict(self) | told | {"profile": None if self.profile is None else str(self.profile)}

    @property
    def submission_us(self) -> float:
        """What a submission costs: as given, else the device's."""
        return device(self.device).submit_us if self.submit_us is None else self.submit_us

    @property
    def counts(self) -> str:
        """The workers in text: as given, else the device's."""
        on = device(self.device)
        return self.cores or f"aic={on.aic},aiv={on.aiv}"

    def check(self) -> None:
        """Raise ConfigError or ScheduleError for what cannot be, also where nothing will be timed."""
        parse_cores(self.counts)
        if self.profile is not None and self.task_us is not None:
            raise ConfigError("--profile and --task-us both say how long a task takes", hint="give one of them")
        refuse_times(self.submission_us, self.task_us or 0)
        if self.profile is not None:
            read_profile(self.profile)

    def timing(self, planned: Schedule, ops: OpRegistry, dtypes: Mapping[str, str]) -> Timing:
        """The timing of a schedule, by options that `check` allows; raises ScheduleError for a profile of another graph."""
        on, submit_us, cores = device(self.device), self.submission_us, parse_cores(self.counts)
        if self.task_us is not None:
            return uniform_timing(submit_us, self.task_us, cores, on)
        if self.profile is not None:
            return Timing(submit_us, measured_us(planned, self.profile), *cores, on)
        return Timing(submit_us, estimated_us(planned, ops, dtypes, on.rates), *cores, on)

    def of_recorded(self, recorded: Recorded, planned: Schedule) -> Timing:
        """The timing of a plan of a recorded program: what no option says is as recorded; raises ConfigError."""
        return recorded.timing(planned, self.submit_us, self.task_us, self.cores, self.profile, self.device)


@dataclass(frozen=True, slots=True)
class MinpeakOptions:
    """What the strategy `minpeak` is told (`schedulers.minpeak.planner`); a budget is text with a unit (`128MiB`)."""

    objective: str | None = None
    budget: str | None = None
    no_share: bool = False
    time_limit: float | None = None
    techniques: Sequence[str] = ()
    no_techniques: Sequence[str] = ()
    slack: float | None = None
    """Percent."""

    def mapping(self) -> dict[str, object]:
        """As the strategy takes them; raises ConfigError."""
        for name in self.techniques:
            if name in self.no_techniques:
                raise ConfigError(f"technique '{name}' is switched both on and off", hint="give one of the two options")
        return {
            "techniques": dict.fromkeys(self.techniques, True) | dict.fromkeys(self.no_techniques, False),
            "objective": self.objective,
            "budget_bytes": None if self.budget is None else _size(self.budget),
            "slack": None if self.slack is None else self.slack / 100,
            "share": not self.no_share,
            "time_limit_s": self.time_limit,
        }


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"--budget {text}: {error}") from None


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A graph to plan, and how.

    scheduler   a strategy, by name or as a function
    routing     trip counts of dynamic loops: bound, uniform, random:SEED, or a file
    rings       texts of heap, window and pool, each one value or four, the heap also `safe`
    progress    the model of the report's figures, one of MODELS
    write       work out the texts of the graph's files that say this placement
    """

    graph: str | Path
    scheduler: str | Scheduler = "annotated"
    batch_allocs: bool = False
    routing: str = ROUTING
    rings: tuple[str | None, str | None, str | None] = (None, None, None)
    progress: str = "lagging"
    timed: TimedOptions = TimedOptions()
    minpeak: MinpeakOptions = MinpeakOptions()
    allow_missing_edges: bool = False
    write: bool = False

    def in_safe_rings(self) -> PlanRequest:
        """The same in heaps as small as is safe, or as they were recorded, unless their sizes are asked for: what is drawn."""
        heap, *others = self.rings
        heap = heap or (None if is_recorded(self.graph) else "safe")
        return replace(self, rings=(heap, *others))  # type: ignore[arg-type]

    def sizes(self, known: RingSizes | None = None) -> RingSizes:
        """The rings that are asked for, the others as `known`; for `safe`, heaps wait for the schedule. Raises ConfigError."""
        heap, window, pool = self.rings
        return RingSizes.resolve(None if heap == "safe" else heap, window, pool, known=known)


@dataclass(frozen=True)
class Placed:
    """A schedule, the timing to replay it with (made when it is needed), and minpeak's plan if that is the strategy."""

    schedule: Schedule
    timing: Callable[[], Timing]
    plan: Plan | None = None
    recorded: Recorded | None = None
    routing_notes: tuple[str, ...] = ()
    """What the routing does not decide."""

    def timed(self, sizes: RingSizes) -> RunTimes:
        """The times of a run in these rings, of the planner's run if that is as good."""
        known = self.plan and self.plan.run
        return known if known and known.holds_in(sizes) else run_times(self.schedule, sizes, self.timing())

    def unlimited(self) -> RunTimes:
        """The times of a run that memory holds up nowhere."""
        known = self.plan and self.plan.unlimited
        return known() if known else run_unlimited(self.schedule, self.timing()).times

    def sizes(self, request: PlanRequest) -> RingSizes:
        """The rings to replay in. What is not asked for is as recorded; of what is planned anew heaps are safe."""
        sizes = request.sizes(self.recorded and self.recorded.recording.sizes)
        is_anew = self.recorded is not None and self.schedule.strategy != "annotated"
        is_safe = request.rings[0] == "safe" or (is_anew and not request.rings[0])
        return sizes.with_heap([safe_heap(load) for load in ring_loads(self.schedule)]) if is_safe else sizes


@dataclass(frozen=True)
class PlanResult:
    """What a request comes to. `warnings` are edges that a manual scope lacks; `written` what `write` would change.

    `recorded` is the program if it is a recorded one, `timed_recorded` the timed replay of what the device ran.
    `timing` is what timed replays of the plan assume.
    """

    request: PlanRequest
    schedule: Schedule
    sizes: RingSizes
    replay: Replay
    report: ScheduleReport
    plan: Plan | None = None
    warnings: tuple[Diagnostic, ...] = ()
    written: Written = field(default_factory=Written)
    routing_notes: tuple[str, ...] = ()
    """What the routing does not decide."""
    recorded: Recorded | None = None
    timed_recorded: Replay | None = None
    timing: Callable[[], Timing] | None = None

    @property
    def changes(self) -> dict[str, Any] | None:
        """What the plan changes of a recorded program (`runner.recorded.plans.plan_json`), None of a graph."""
        found = self.recorded
        return None if found is None else plan_json(found.recording, found.schedule, self.schedule)

    @property
    def run(self) -> dict[str, Any] | None:
        """The recorded run's time (`runner.recorded.plans.recorded_run`) beside timed replays; None where none was recorded."""
        run = None if self.recorded is None else recorded_run(self.recorded.recording)
        if run is None or self.timed_recorded is None:
            return run
        as_recorded, planned = self.timed_recorded.makespan_us, self.report.makespan_us
        return run | {"timed_as_recorded_us": as_recorded, "timed_as_planned_us": planned}

    @property
    def texts(self) -> Texts:
        """The new texts of the files that change."""
        return self.written.texts

    @property
    def unwritten(self) -> dict[str, Any] | None:
        """Bytes and microseconds of the plan that no file can say (`Written.free`), beside which the written one stands."""
        free = self.written.free
        return None if free is None else {"total_bytes": free[0], "makespan_us": free[1]}

    @property
    def certificate(self) -> dict[str, Any] | None:
        """What minpeak proved of its plan, None for another strategy."""
        return None if self.plan is None else certificate_json(self.plan)

    @property
    def explanation(self) -> list[dict[str, Any]]:
        """What each technique of minpeak gave, and why the plan was taken (`schedulers.minpeak.plan.Note`)."""
        return [] if self.plan is None else [asdict(note) for note in self.plan.explanation]

    @property
    def refusal(self) -> RinggraphError | None:
        """Why the schedule must not run in these rings: it deadlocks, or a pool that was asked for is too small for some run."""
        if self.deadlock is not None:
            return self.deadlock
        if self.request.rings[2] is None and POOL_VARIABLE not in os.environ:
            return None  # the report says how many entries a run may need
        try:
            refuse_pools(self.schedule, self.sizes)
        except ScheduleError as error:
            return error
        return None

    @property
    def deadlock(self) -> DeadlockError | None:
        """The refusal of a schedule that deadlocks in these rings."""
        return None if self.report.deadlock is None else deadlock_error(self.schedule, self.sizes, self.report)

    def as_json(self) -> dict[str, Any]:
        """The object of `ringgraph schedule --json`."""
        head: dict[str, Any] = {"graph": self.schedule.name, "scheduler": self.schedule.strategy}
        head |= {"routing": self.request.routing, "timing": self.request.timed.as_json(self.recorded is not None)}
        proved = {} if self.plan is None else {"certificate": self.certificate}
        refused = {"refused": None if self.refusal is None else str(self.refusal)}
        rest = {"scopes": [asdict(row) for row in scope_rows(self.schedule)], "routing_notes": list(self.routing_notes)}
        recorded = {} if self.recorded is None else {"plan": self.changes, "run": self.run}
        written = {"left_out": list(self.written.left_out), "unwritten": self.unwritten} if self.request.write else {}
        return head | proved | report_json(self.report) | refused | rest | recorded | written


TIME_FACTS = ("makespan_us", "fastest_us", "slack", "critical_path_us", "work_us")


def certificate_json(plan: Plan) -> dict[str, Any]:
    """A plan's certificate as plain data. Bytes, or microseconds for `makespan`; `time` (`TimeFacts`) of a balanced plan."""
    found = plan.certificate
    return {
        "objective": found.objective,
        "value": found.value,
        "lower_bound": found.lower_bound,
        "gap": found.gap,
        "bound": found.bound,
        "idle_bytes": found.idle_bytes,
        "proved_optimal": found.proved_optimal,
        "found_by": plan.found_by,
    } | ({} if found.time is None else {"time": {name: getattr(found.time, name) for name in TIME_FACTS}})


def plan(setup: Setup, request: PlanRequest, say: Say | None = None) -> PlanResult:
    """Expands, places, replays, times and checks; raises RinggraphError. A deadlock is part of the result.

    A pool that edges to lagging producers can fill is the one deadlock that an eager replay does not see: where it threatens, a
    deadlock of the lagging replay is the result's. Where that replay passes, another run may not: `PlanResult.refusal` says so.
    """
    request.sizes()  # refuses what cannot be before anything is planned
    with collector_off():
        if request.write and is_recorded(request.graph):
            raise ConfigError(f"--write has no meaning for '{request.graph}', a recorded program: there is no graph to write to")
        placed, written = _written(setup, request, say) if request.write else (place(setup, request, say=say), Written())
        planned, sizes = placed.schedule, placed.sizes(request)
        replay = replay_under(request.progress, planned, sizes, placed.timing)
        if request.progress != "lagging" and replay.deadlock is None and _pool_may_overflow(planned, sizes):
            lagged = lagging(planned, sizes)
            replay = replay if lagged.deadlock is None else lagged
        runs = replay.deadlock is None
        warnings = check(planned, sizes if runs else None, allow_missing_edges=request.allow_missing_edges)
        timed_replay = unlimited = None
        if runs:
            timed_replay = replay.times if request.progress == "timed" else placed.timed(sizes)
            unlimited = placed.unlimited()
        report = make_report(replay, timed_replay, unlimited)
    if placed.recorded is None:
        result = PlanResult(request, planned, sizes, replay, report, placed.plan, tuple(warnings), written, placed.routing_notes)
        return replace(result, timing=placed.timing)
    known, recorded = placed.recorded.recording, placed.recorded
    as_recorded = timed(recorded.schedule, known.sizes, request.timed.of_recorded(recorded, recorded.schedule))
    warnings += recorded.warnings
    result = PlanResult(request, planned, sizes, replay, report, placed.plan, tuple(warnings), written)
    return replace(result, recorded=recorded, timed_recorded=as_recorded, timing=placed.timing)


def place(
    setup: Setup,
    request: PlanRequest,
    *,
    scheduler: str | Scheduler | None = None,
    library: GraphLibrary | None = None,
    say: Say | None = None,
    written: bool | Demands = False,
) -> Placed:
    """The placement alone, by the request's strategy or another; raises RinggraphError.

    `library` holds files' texts in place of those on disk; `written` keeps strategies to what files can say.
    """
    chosen = scheduler or request.scheduler
    strategy = get_scheduler(chosen) if isinstance(chosen, str) else chosen
    request.timed.check()
    if chosen in BUILTIN and request.minpeak != MinpeakOptions():
        Options.of(request.minpeak.mapping())  # what cannot be is refused also where it does nothing
    if is_recorded(request.graph):
        return _place_recorded(setup, request, strategy, say)
    library = library or GraphLibrary()
    config = setup.config(request.graph, library)
    program = program_of(request.graph, config, routing=request.routing, library=library, ops=setup.registry)
    plans: list[Plan] = []

    @remembered
    def timing(schedule: Schedule) -> Timing:
        return request.timed.timing(schedule, setup.registry, config.dtypes)

    given = {"batch_allocs": request.batch_allocs, "timing": timing, "report": plans.append, "progress": say}
    schedule = strategy(program, given | request.minpeak.mapping() | {"written": written})
    notes = tuple(routing_notes(program, config, request.routing))
    return Placed(schedule, cache(lambda: timing(schedule)), plans[-1] if plans else None, routing_notes=notes)


def _place_recorded(setup: Setup, request: PlanRequest, strategy: Scheduler, say: Say | None) -> Placed:
    """The placement of a recorded program."""
    recorded = open_recorded(setup, request.graph, None if request.routing == PlanRequest("").routing else request.routing)
    plans: list[Plan] = []

    def timing(schedule: Schedule) -> Timing:
        return request.timed.of_recorded(recorded, schedule)

    given = {"batch_allocs": request.batch_allocs, "timing": timing, "report": plans.append, "progress": say}
    schedule = strategy(recorded.program, given | request.minpeak.mapping())
    return Placed(schedule, cache(lambda: timing(schedule)), plans[-1] if plans else None, recorded)


def _written(setup: Setup, request: PlanRequest, say: Say | None) -> tuple[Placed, Written]:
    """The placement that files can say, and what becomes of the files."""
    path = refuse_unnamed(request.graph)

    def expand(library: GraphLibrary) -> Program:
        config = setup.config(path, library)
        return program_of(path, config, routing=request.routing, library=library, ops=setup.registry)

    files = Files(path, expand, lambda library: lint_texts(setup, path, library))
    allowed = frozenset({"G318", "G341"}) if request.allow_missing_edges else frozenset()
    refuse_errors(files, {}, SCOPES_DECIDE)
    options, planner = request.minpeak, _Planner(setup, request, say)
    if request.scheduler != "minpeak":
        written = written_scopes(planner, files)
    elif options.no_share or options.objective == "worst":
        written = settled_texts(planner, planner.annotations, files, without_lists(files))
    else:
        written = _written_shares(planner, files)
    refuse_errors(files, written.texts, allowed)
    return planner.last, written


@dataclass
class _Planner:
    """Plans a graph from the texts that a library holds; `last` is what it came to last."""

    setup: Setup
    request: PlanRequest
    say: Say | None
    placed: Placed | None = None

    def __call__(self, library: GraphLibrary, demands: Demands) -> Schedule:
        self.placed = place(self.setup, self.request, library=library, say=self.say, written=demands)
        return self.placed.schedule

    @property
    def last(self) -> Placed:
        assert self.placed is not None, "something was planned"
        return self.placed

    def annotations(self) -> Annotations:
        """What minpeak asks the files to say."""
        assert self.last.plan is not None, "minpeak reports its plan"
        return self.last.plan.annotations


def _written_shares(planner: _Planner, files: Files) -> Written:
    """The best, under the objective, of scopes and of lists that share bytes; it becomes the planner's last placement."""
    setup, request, say = planner.setup, planner.request, planner.say
    bare, config = without_lists(files), setup.config(files.path, GraphLibrary())
    placed = place(setup, request, library=library_of(bare.texts), say=say)
    assert placed.plan is not None, "minpeak reports its plan"

    def timing(schedule: Schedule) -> Timing:
        return request.timed.timing(schedule, setup.registry, config.dtypes)

    figures = figures_of(placed.schedule, timing)
    aim = aim_of(placed.plan, figures, request.minpeak.mapping()["budget_bytes"])
    scopes = _Planner(setup, replace(request, minpeak=replace(request.minpeak, objective="total", budget=None)), say)
    scoped = settled_texts(scopes, scopes.annotations, files, bare)

    def sample(library: GraphLibrary) -> Program:
        return expand_all(library.load(files.path), config, setup.registry, library=library, sample=True).program

    found = best_files(files, aim, timing, sample, (scopes.last.schedule, scoped), say)
    plan = with_files(placed.plan, found)
    planner.placed = replace(placed, schedule=found.schedule, timing=cache(lambda: timing(found.schedule)), plan=plan)
    return replace(found.written, free=figures)


def _pool_may_overflow(planned: Schedule, sizes: RingSizes) -> bool:
    return any(load.pool_bound > pool for load, pool in zip(ring_loads(planned), sizes.pool, strict=True))


def replay_under(progress: str, planned: Schedule, sizes: RingSizes, timing: Callable[[], Timing]) -> Replay:
    """A replay under the named model; raises ConfigError for a name that is none."""
    if progress == "eager":
        return eager(planned, sizes)
    if progress == "lagging":
        return lagging(planned, sizes)
    if progress == "timed":
        return timed(planned, sizes, timing())
    raise ConfigError(f"--progress {progress}: expected one of {', '.join(MODELS)}")
