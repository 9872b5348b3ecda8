"""What the executor costs per task beyond the op itself, and what rings save in memory (`make bench`)."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from time import perf_counter

import pytest
import torch
from programs import ROW, Builder, scope

from runner.execution.executor import CompiledSchedule
from runner.program.ops import OpRegistry
from runner.rings.sizes import RingSizes

NUM_SCOPES, TASKS_PER_SCOPE = 200, 20
SIX_LAYERS = """hidden_size=1024 num_hidden_layers=6 compress_ratios=[0,4,128,4,128,0] num_attention_heads=16 head_dim=128
qk_rope_head_dim=32 q_lora_rank=512 o_lora_rank=256 o_groups=4 vocab_size=8192 moe_intermediate_size=512 n_routed_experts=16
num_experts_per_tok=3 index_n_heads=16 index_head_dim=64 index_topk=64"""


def idle_ops() -> OpRegistry:
    """An op that does nothing, so that a run's time is the executor's own."""
    registry = OpRegistry()

    @registry.op("combine", "a: f32[N, M], b: f32[N, M] -> y: f32[N, M]", core="AIV")
    def combine(a, b, *, y):
        pass

    return registry


def chain():
    """Scopes of tasks, each reading the one before: the input's id, the schedule."""
    builder = Builder()
    x = builder.tensor("x", (4, ROW), kind="input")
    scopes = []
    for number in range(NUM_SCOPES):
        inner, y = [], x
        for _ in range(TASKS_PER_SCOPE):
            y = builder.combine(y, x)
            inner.append(len(builder.tasks) - 1)
        scopes.append(scope(f"s{number}", *inner))
    return x, builder.lower(*scopes)


@pytest.mark.bench
def test_cost_per_task_beyond_the_op(capsys):
    x, schedule = chain()
    with capsys.disabled():
        print(
            f"\nexecutor, {NUM_SCOPES * TASKS_PER_SCOPE:,} tasks of an op that does nothing; us a task in the first run, "
            "in the best of the next 5"
        )
        for rings in (None, RingSizes()):
            for workers in (1, 2, 4):
                compiled = CompiledSchedule(schedule, idle_ops(), {x: torch.zeros(4, ROW)}, rings=rings, workers=workers)
                times = []
                for _ in range(6):
                    start = perf_counter()
                    result = compiled.run()
                    times.append((perf_counter() - start) / result.num_tasks * 1e6)
                print(f"  {'rings' if rings else 'plain'}, {workers} workers: {times[0]:6.1f} {min(times[1:]):6.1f}")


ROOT = Path(__file__).parents[2]
OLD = os.environ.get("RINGGRAPH_OLD", "b8d4224")
"""The build that is measured beside this one."""

COST = """
import sys, time, torch
try:
    from runner.execution.executor import CompiledSchedule
    from runner.rings.sizes import RingSizes
except ImportError:
    from runner.executor import CompiledSchedule
    from runner.ring_sizes import RingSizes
from bench_executor import ROW, chain, idle_ops
torch.set_num_threads(1)
x, schedule = chain()
for rings in (None, RingSizes()):
    compiled = CompiledSchedule(schedule, idle_ops(), {x: torch.zeros(4, ROW)}, rings=rings)
    times = []
    for _ in range(25):
        start = time.process_time()
        result = compiled.run()
        times.append((time.process_time() - start) / result.num_tasks * 1e6)
    print(min(times))
"""
"""What runs in a checkout of either build, and prints us of CPU a task, without rings and with them."""


def in_checkout(root: Path, *arguments: str) -> str:
    places = os.pathsep.join(str(root / part) for part in ("", "tests", "tests/bench"))
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env={**os.environ, "PYTHONPATH": places}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.bench
def test_beside_an_older_build(tmp_path, capsys):
    """Cost of a task and memory of a run, in turns; `RINGGRAPH_OLD` names another commit than b8d4224."""
    packed = subprocess.run(["git", "archive", OLD], cwd=ROOT, capture_output=True)
    if packed.returncode:
        pytest.skip(f"no commit {OLD} in this checkout")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    modules = {"old": (tmp_path / "old", "runner.cli"), "new": (ROOT, "runner.cli.main")}
    prompts, checkpoint = tmp_path / "prompts.json", tmp_path / "model"
    prompts.write_text(json.dumps([list(range(n)) for n in (1, 130, 300)]))
    sets = [part for field in SIX_LAYERS.split() for part in ("--set", field)]
    in_checkout(ROOT, "-m", "runner.cli.main", "checkpoint", "init", "--config", "tiny", *sets, str(checkpoint))
    told = ["generate", "--checkpoint", str(checkpoint), "--prompts", str(prompts), "--max-new-tokens", "8", "--json"]
    costs, sizes = {name: [9e9, 9e9] for name in modules}, {}
    for _ in range(3):
        for name, (root, _) in modules.items():
            found = [float(line) for line in in_checkout(root, "-c", COST).split()]
            costs[name] = list(map(min, costs[name], found))
    for name, (root, module) in modules.items():
        sizes[name] = json.loads(in_checkout(root, "-m", module, *told))["peak_process_bytes"] / 2**20
    with capsys.disabled():
        for name, (plain, rings) in costs.items():
            print(
                f"\n  {name}: {plain:.2f} us a task, {rings:.2f} on rings; six layers take {sizes[name]:,.0f} MiB at most", end=""
            )
        print()


def generated(checkpoint, prompts, *options) -> dict:
    command = [sys.executable, "-m", "runner.cli.main", "generate", "--checkpoint", checkpoint, "--prompts", prompts, "--json"]
    done = subprocess.run([*map(str, command), "--max-new-tokens", "8", *options], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.bench
def test_memory_with_and_without_rings(tmp_path, capsys):
    """The demo's model, wider: blocks are then most of what the process holds."""
    wide = ["hidden_size=1024", "num_attention_heads=16", "head_dim=128", "qk_rope_head_dim=32", "o_groups=4", "vocab_size=4096"]
    sets = [part for field in wide for part in ("--set", field)]
    checkpoint, prompts = tmp_path / "model", tmp_path / "prompts.json"
    init = ["checkpoint", "init", "--config", "tiny", *sets, str(checkpoint)]
    subprocess.run([sys.executable, "-m", "runner.cli.main", *init], check=True, capture_output=True)
    prompts.write_text(json.dumps([list(range(n)) for n in (1, 130, 300)]))
    ways = {
        "no rings": (),
        "safe rings, annotated": ("--ring-heap", "safe"),
        "safe rings, minpeak": ("--ring-heap", "safe", "--scheduler", "minpeak"),
        "256 MiB rings": ("--ring-heap", "256MiB"),
    }
    found = {name: generated(checkpoint, prompts, *options) for name, options in ways.items()}
    with capsys.disabled():
        print("\nMiB: rings reserved, blocks at most, process at most; s to generate")
        for name, made in found.items():
            reserved = sum(made["ring_heap_bytes"] or [0])
            sizes = [size / 2**20 for size in (reserved, made["peak_block_bytes"], made["peak_process_bytes"])]
            print(f"  {name:24s} {sizes[0]:8.1f} {sizes[1]:8.1f} {sizes[2]:8.1f} {made['elapsed_s']:8.2f}")
    assert len({json.dumps(made["tokens"]) for made in found.values()}) == 1
