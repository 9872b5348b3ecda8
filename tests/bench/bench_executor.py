"""What the executor costs per task beyond the op itself, and what rings save in memory (`make bench`)."""

import json
import subprocess
import sys
from time import perf_counter

import pytest
import torch
from programs import ROW, Builder, scope

from runner.execution.executor import CompiledSchedule
from runner.program.ops import OpRegistry
from runner.rings.sizes import RingSizes

NUM_SCOPES, TASKS_PER_SCOPE = 200, 20


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
