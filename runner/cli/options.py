"""Command-line options that several commands share, as types for typer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.driver import completion

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
Workers = Annotated[int, typer.Option("--workers", min=0, metavar="N", help="Worker threads; 0 or 1 runs tasks in order.")]
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
    typer.Option("--threads", min=1, metavar="N", help="Torch's threads per op; without, as suits model and load."),
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
SubmitUs = Annotated[float, typer.Option("--submit-us", min=0, metavar="US", help="Cost of one submission, for timed.")]
TaskUs = Annotated[float | None, typer.Option("--task-us", min=0, metavar="US", help="One duration for all tasks, for timed.")]
Cores = Annotated[str | None, typer.Option("--cores", metavar="COUNTS", help="Workers for timed: aic=24,aiv=48 or unlimited.")]
TimedDevice = Annotated[
    str, typer.Option("--device", metavar="NAME", help="Device for timed: its workers, and how it reclaims (a2a3, a5).")
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
