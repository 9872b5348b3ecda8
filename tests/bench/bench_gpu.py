"""Decode and prefill on a GPU beside transformers, eager and compiled: a table in under 4 minutes, or one line without CUDA.

python tests/bench/bench_gpu.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

BUDGET_S = 220.0
CALLS = 7


def median_ms(call: Callable[[], None], deadline: float) -> float | None:
    """Median wall time of a call, waiting for the device; None where there was no time for it."""
    times = []
    for turn in range(CALLS + 2):
        if time.monotonic() > deadline:
            break
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        if turn > 1:
            times.append((time.perf_counter() - start) * 1e3)
    return median(times) if times else None


def shown(value: float | None) -> str:
    return f"{value:10.2f}" if value is not None else "         -"


def table(rows: list[tuple[str, dict[str, float | None]]]) -> str:
    """One line for each case: milliseconds of each side."""
    names = list(dict.fromkeys(name for _, found in rows for name in found))
    lines = [f"{'ms':24s}" + "".join(f"{name:>12s}" for name in names)]
    for case, found in rows:
        lines.append(f"{case:24s}" + "".join(f"  {shown(found.get(name))}" for name in names))
    return "\n".join(lines)


def captured_graph(step: Callable[[], None]) -> Callable[[], None]:
    """A step as a CUDA graph; raises RuntimeError for one that reads the device, as trip counts do."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def integer_products(deadline: float) -> list[tuple[str, dict[str, float | None]]]:
    """INT8 by `_int_mm` and bf16 beside it, eager and as a CUDA graph, of shapes of a decode step and of prefill."""
    from ops.kernels.products import lay_out

    rows = []
    for m, n, k in ((8, 2048, 4096), (128, 2048, 4096), (128, 4096, 8192)):
        found: dict[str, float | None] = {}
        for name, dtype in (("int8", torch.int8), ("bf16", torch.bfloat16)):
            x = torch.randint(-127, 128, (m, k), device="cuda").to(dtype)
            w = torch.randint(-127, 128, (n, k), device="cuda").to(dtype)
            laid = lay_out(w)
            if dtype == torch.int8:
                assert torch.equal(laid.product(x).double(), x.double() @ w.double().T)
            found[name] = median_ms(lambda laid=laid, x=x: laid.product(x), deadline)
            found[f"{name}, graph"] = median_ms(captured_graph(lambda laid=laid, x=x: laid.product(x)), deadline)
        rows.append((f"product {m} x {k} x {n}", found))
    return rows


def model_rows(name: str, dtype: str, deadline: float) -> list[tuple[str, dict[str, float | None]]]:
    import bench_transformers as sides

    from runner.checkpoint.random import init_checkpoint
    from runner.config.config import load_config

    preset, sets = sides.MODELS[name]
    with tempfile.TemporaryDirectory() as made:
        folder = init_checkpoint(load_config([preset], sets.split()), Path(made) / "model", seed=0, flavour=dtype)
        ours = sides.Ours(folder, f"dtype={dtype}", device="cuda")
        theirs = sides.Theirs(folder, dtype, device="cuda")
        found = [{"ours": median_ms(ours.prefill, deadline), "eager": median_ms(theirs.prefill, deadline)}]
        ours.catch_up()
        found.append({"ours": median_ms(ours.decode, deadline), "eager": median_ms(theirs.decode, deadline)})
        theirs.model.forward = torch.compile(theirs.model.forward)
        for each, call in zip(found, (theirs.prefill, theirs.decode), strict=True):
            if time.monotonic() < deadline - 60:
                each["compiled"] = median_ms(call, deadline)
    return [(f"{name} {dtype} {what}", each) for what, each in zip(("prefill", "decode"), found, strict=True)]


def main() -> None:
    if not torch.cuda.is_available():
        print("skipped: no CUDA device here")
        return
    deadline = time.monotonic() + BUDGET_S
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    rows = integer_products(deadline)
    for name, dtype in (("six", "bf16"), ("qwen3", "bf16"), ("six", "f32")):
        if time.monotonic() < deadline - 30:
            rows += model_rows(name, dtype, deadline)
    print(table(rows))


if __name__ == "__main__":
    main()
