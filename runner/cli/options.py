"""Command-line options that several commands share, as types for typer, and groups of them, each one parameter of a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.driver import completion
from runner.driver.driver import Setup
from runner.rings import defaults

if TYPE_CHECKING:
    from runner.driver.face import Driver
    from runner.driver.planning import PlanRequest

Command = Callable[..., None]

Configs = Annotated[
    list[str],
    typer.Option(
        "--config",
        "-c",
        autocompletion=completion.configs,
        metavar="NAME|FILE",
        help="A preset (flash, pro, demo, tiny, seed), a YAML layer or a Hugging Face config.json; repeatable, later ones win.",
    ),
]
Sets = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override one field; repeatable.")]
Deploy = Annotated[
    str | None,
    typer.Option(
        "--deploy", metavar="NAME", autocompletion=completion.deployments, help="decode (8x1), decode-mtp (4x2), prefill (1x128)."
    ),
]
Ep = Annotated[int | None, typer.Option("--ep", min=1, metavar="N", help="Expert-parallel ranks.")]
OpFiles = Annotated[
    list[str],
    typer.Option(
        "--ops", metavar="FILE.py", autocompletion=completion.files(".py"), help="A Python file that declares ops; repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
GraphName = Annotated[
    str,
    typer.Argument(
        metavar="GRAPH", autocompletion=completion.graphs, help="A graph file, a shipped graph's name, or a recorded program."
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", metavar="DIR", help="Folder with config.json and safetensors; not for a model without weights."),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        autocompletion=completion.one_of("cpu", "cuda", "npu"),
        help="A torch device: cpu, cuda, npu (with torch_npu installed).",
    ),
]
MOST_THREADS = 1024
"""More than any machine has processors for; far more than a process may start ends it without a word."""
Workers = Annotated[
    int, typer.Option("--workers", min=0, max=MOST_THREADS, metavar="N", help="Worker threads; 0 or 1 runs tasks in order.")
]
Scheduler = Annotated[
    str, typer.Option("--scheduler", metavar="NAME", autocompletion=completion.schedulers, help="Placement strategy.")
]
RingHeap = Annotated[
    str | None,
    typer.Option(
        "--ring-heap", metavar="SIZE", help="Heap of each ring: 1GiB, or four values (0: PTO2_RING_HEAP or 256MiB), or 'safe'."
    ),
]
RingWindow = Annotated[
    str | None,
    typer.Option("--ring-window", metavar="N", help="Slots of each ring, one value or four; 0: PTO2_RING_TASK_WINDOW or 16384."),
]
RingPool = Annotated[
    str | None,
    typer.Option(
        "--ring-pool", metavar="N", help="Pool entries of each ring, one value or four; 0: PTO2_RING_DEP_POOL or 16384."
    ),
]
Unchecked = Annotated[
    bool, typer.Option("--unchecked", help="Run although rings may be too small or a manual scope lacks edges.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, max=MOST_THREADS, metavar="N", help="Torch's threads per op; without, as suits model and load."
    ),
]
Fast = Annotated[
    bool, typer.Option("--fast/--exact", help="Let products round bf16 sums, and bits depend on which requests share a call.")
]

# --- planning ---------------------------------------------------------------------------------------------------------

Progress = Annotated[
    str,
    typer.Option(
        "--progress",
        metavar="MODEL",
        autocompletion=completion.one_of("eager", "lagging", "timed"),
        help="How far execution has come: eager, lagging or timed.",
    ),
]
Batch = Annotated[
    bool, typer.Option("--batch-allocs", help="Gather a body's tensors into blocks of up to 16, as the compiler does.")
]
Routing = Annotated[
    str,
    typer.Option(
        "--routing",
        metavar="SOURCE",
        autocompletion=completion.one_of("bound", "uniform", "random:0"),
        help="Trip counts: bound, uniform, random:SEED or a JSON file.",
    ),
]
SubmitUs = Annotated[
    float | None,
    typer.Option("--submit-us", min=0, metavar="US", help="Cost of one submission, for timed; without, the device's (0.5)."),
]
TaskUs = Annotated[float | None, typer.Option("--task-us", min=0, metavar="US", help="One duration for all tasks, for timed.")]
Cores = Annotated[str | None, typer.Option("--cores", metavar="COUNTS", help="Workers for timed: aic=24,aiv=48 or unlimited.")]
TimedDevice = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME|FILE",
        autocompletion=completion.files(".yaml"),
        help="Device for timed: its workers, rates, and how it reclaims (a2a3, a5, or a YAML file).",
    ),
]
Profile = Annotated[
    Path | None, typer.Option("--profile", metavar="FILE", help="Durations that 'ringgraph run --profile' measured.")
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing-edges", help="Go on when a manual scope lacks edges; running cannot.")
]
Write = Annotated[bool, typer.Option("--write", help="Put the strategy's scopes, or what shares bytes, into the graph's files.")]

# --- what the strategy minpeak is told (runner.driver.planning.MinpeakOptions) -----------------------------------------

Objective = Annotated[
    str | None,
    typer.Option(
        "--objective",
        metavar="NAME",
        autocompletion=completion.one_of("balanced", "total", "worst", "makespan"),
        help="minpeak: balanced (the default: the fewest bytes that cost no time), total, worst (the largest ring) or makespan.",
    ),
]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="SIZE", help="minpeak: the shortest makespan within so many bytes (128MiB).")
]
Slack = Annotated[
    float | None,
    typer.Option(
        "--slack", metavar="PERCENT", help="minpeak, balanced: how much longer than the fastest a run may take (5, the default)."
    ),
]
NoShare = Annotated[bool, typer.Option("--no-share", help="minpeak: no two tensors share bytes; scopes alone.")]
TimeLimit = Annotated[
    float | None,
    typer.Option("--time-limit", min=0, metavar="S", help="minpeak: seconds of CPU after which the best so far is taken."),
]


def _list_techniques(wanted: bool) -> None:
    """Print the techniques of minpeak and end: an option that needs no graph."""
    from schedulers.minpeak.techniques import TECHNIQUES

    if wanted:
        for technique in TECHNIQUES:
            print(f"{technique.name} (on)", *technique.why, sep="\n    ")
        raise typer.Exit()


Techniques = Annotated[
    list[str],
    typer.Option(
        "--technique",
        metavar="NAME",
        autocompletion=completion.techniques,
        help="minpeak: use a technique (all are used anyway); repeatable.",
    ),
]
NoTechniques = Annotated[
    list[str],
    typer.Option(
        "--no-technique",
        metavar="NAME",
        autocompletion=completion.techniques,
        help="minpeak: do without a technique; repeatable.",
    ),
]
ListTechniques = Annotated[
    bool, typer.Option("--list-techniques", is_eager=True, callback=_list_techniques, help="minpeak: print the techniques.")
]
ExplainPlan = Annotated[
    bool, typer.Option("--explain-plan", help="minpeak: print what each technique gave, and why the plan was taken.")
]

# --- groups -----------------------------------------------------------------------------------------------------------


def grouped(parameter: str, options: Mapping[str, tuple[Any, Any]], gather: Callable[..., Any]) -> Callable[[Command], Command]:
    """Gives a command an option for each of `options` (a type and a default) in the place of one parameter, which then holds what
    `gather` makes of their values."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def gathered(**given: Any) -> None:
            taken = {name: given.pop(name) for name in options}
            command(**given, **{parameter: gather(**taken)})

        by_name = inspect.Parameter.KEYWORD_ONLY
        extra = [inspect.Parameter(name, by_name, default=default, annotation=kind) for name, (kind, default) in options.items()]
        parameters = []
        for own in inspect.signature(command, eval_str=True).parameters.values():
            parameters += extra if own.name == parameter else [own.replace(kind=by_name)]
        gathered.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        gathered.__annotations__ = {p.name: p.annotation for p in parameters}
        return gathered

    return decorate


SETUP = {"config": (Configs, []), "sets": (Sets, []), "deploy": (Deploy, None), "ep": (Ep, None), "ops": (OpFiles, [])}
RINGS = {"ring_heap": (RingHeap, None), "ring_window": (RingWindow, None), "ring_pool": (RingPool, None)}
TIMED = {
    "submit_us": (SubmitUs, None),
    "task_us": (TaskUs, None),
    "cores": (Cores, None),
    "device": (TimedDevice, defaults.DEVICE),
    "profile": (Profile, None),
}
MINPEAK = {
    "objective": (Objective, None),
    "budget": (Budget, None),
    "slack": (Slack, None),
    "no_share": (NoShare, False),
    "time_limit": (TimeLimit, None),
    "technique": (Techniques, []),
    "no_technique": (NoTechniques, []),
}
PLAN: dict[str, tuple[Any, Any]] = {
    **SETUP,
    "scheduler": (Scheduler, "annotated"),
    "batch_allocs": (Batch, False),
    "routing": (Routing, defaults.ROUTING),
    **RINGS,
    **TIMED,
    "allow_missing_edges": (AllowMissing, False),
    **MINPEAK,
}
"""What says how a graph is planned."""


@dataclass(frozen=True)
class Asked:
    """What the options of `PLAN` say; `given` are those that a command takes."""

    given: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.given[name] if name in self.given else PLAN[name][1]

    @cached_property
    def setup(self) -> Setup:
        return Setup(*(self[name] for name in SETUP))

    @property
    def driver(self) -> Driver:
        from runner.driver.face import Driver

        return Driver(*(self[name] for name in SETUP))

    @property
    def files(self) -> list[Path]:
        """The files that options name."""
        from runner.rings.devices.devices import device_file

        named = (Path(self["routing"]), self["profile"], device_file(self["device"]))
        return [path for path in named if path is not None and path.is_file()]

    def note_unused(self) -> None:
        """Tells options that only minpeak looks at, where another strategy of ours plans; ConfigError where one is wrong."""
        changed = [name for name in MINPEAK if name != "no_share" and self[name] != PLAN[name][1]]
        if not changed or self["scheduler"] == "minpeak":
            return
        from runner.cli.shared import print_notes
        from schedulers import BUILTIN
        from schedulers.minpeak.plan import Options

        if self["scheduler"] in BUILTIN:
            Options.of(self.request().minpeak.mapping())  # what cannot be is refused all the same
            flags, are = ", ".join(f"--{name.replace('_', '-')}" for name in changed), "is" if len(changed) == 1 else "are"
            print_notes([f"{flags} {are} for --scheduler minpeak; '{self['scheduler']}' plans as ever"])

    def request(self, graph: str = "", **more: Any) -> PlanRequest:
        """The plan that is asked for; `more` are further fields of `PlanRequest`."""
        from runner.driver.planning import MinpeakOptions, PlanRequest, TimedOptions

        names = {"technique": "techniques", "no_technique": "no_techniques"}
        heap, window, pool = (self[name] for name in RINGS)
        same = {name: self[name] for name in ("scheduler", "batch_allocs", "routing", "allow_missing_edges")}
        minpeak = MinpeakOptions(**{names.get(name, name): self[name] for name in MINPEAK})
        timed = TimedOptions(**{name: self[name] for name in TIMED})
        return PlanRequest(graph, rings=(heap, window, pool), timed=timed, minpeak=minpeak, **same, **more)


AS_IT_IS = Asked({})


def plans(*, only: Collection[str] = PLAN, without: Collection[str] = (), of_sides: bool = False) -> Callable[[Command], Command]:
    """A command with options of `PLAN`, all or some of them, in place of its parameter `asked`.

    It is told of options that do nothing, unless `of_sides`: then its graphs name strategies themselves (GRAPH:STRATEGY).
    """
    wanted = {name: option for name, option in PLAN.items() if name in only and name not in without}

    def gather(**given: Any) -> Asked:
        asked = Asked(given)
        if "scheduler" in given and not of_sides:
            asked.note_unused()
        return asked

    return grouped("asked", wanted, gather)
