"""No plan has a block that the device cannot have: arenas, batched blocks and scopes on both sides of 2 GiB."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from sampled import sampled

from runner.base.errors import ScheduleError
from runner.base.tensor_spec import BLOCK_UNITS, MAX_BLOCK_BYTES
from runner.driver.driver import Setup
from runner.program.program import Program
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.heap import RingHeap
from runner.rings.placement import one_block
from runner.rings.sizes import RingSizes
from runner.verify.verify import verify
from schedulers import get_scheduler
from schedulers.minpeak.packing import FirstFit, Problem

pytestmark = pytest.mark.usefixtures("short_searches")
MIB = 1 << 20
OPS = """from runner.program.ops import OpRegistry
ops = OpRegistry()
@ops.op("make", "a: f32|i8[A], b: f32|i8[B], c: f32|i8[C] -> y: f32|i8[N]", core="AIV")
def make(a, b, c, *, y):
    \"\"\"Makes y.\"\"\"
"""


def program(folder: Path, sizes: list[int], ends: list[int]) -> Program:
    """Tensor k of `sizes` bytes is made by task k and read last by task `ends[k]`; a task reads three at most."""
    text = 'graph: big\ninputs: {x: "f32[4]"}\noutputs: {y: "f32[4]"}\nbody:\n'
    for task in range(len(sizes) + 1):
        reads = [f"t{made}" for made in range(task) if ends[made] == task] + ["x"] * 3
        out = f"t{task}: i8[{sizes[task]}]" if task < len(sizes) else "y"
        text += f'  - {{op: make, in: {{a: {reads[0]}, b: {reads[1]}, c: {reads[2]}}}, out: {{y: "{out}"}}}}\n'
    (folder / "makes.py").write_text(OPS)
    (folder / "big.yaml").write_text(text)
    return Setup(["tiny"], ops=[str(folder / "makes.py")]).program(folder / "big.yaml")


def at_random(folder: Path, seed: int) -> Program:
    chance = random.Random(seed)
    num = chance.randint(4, 9)
    sizes = [chance.randrange(200, 1900) * MIB for _ in range(num)]
    return program(folder, sizes, [chance.randint(made + 1, min(num, made + 3)) for made in range(num)])


QUICK = ((2, "total"), (5, "total"), (8, "total"), (5, "worst"), (5, "makespan"))
CASES = [*((seed, "total") for seed in range(9)), (5, "worst"), (5, "makespan"), (6, "balanced")]


@pytest.mark.parametrize("seed, objective", sampled(CASES, QUICK))
def test_no_block_is_too_large(tmp_path: Path, seed: int, objective: str) -> None:
    """Tensors of up to 1.9 GiB, up to 5 GiB at once: before, plans had such blocks or ended with an error of one not taken."""
    found = get_scheduler("minpeak")(at_random(tmp_path, seed), {"objective": objective})
    assert max(made.size_bytes for made in found.submissions) <= MAX_BLOCK_BYTES
    assert verify(found) == []


@pytest.mark.parametrize("seed", sampled([0, 5], [0]))
def test_written_lists_have_no_block_that_is_too_large(tmp_path: Path, call, seed: int) -> None:
    """Lists are placed as arenas are: what is written takes the bytes of the plan within 3 KiB."""
    plan = get_scheduler("minpeak")(at_random(tmp_path, seed), {"objective": "total"})
    given = "--config", "tiny", "--ops", str(tmp_path / "makes.py")
    heap = "--ring-heap", "16GiB"
    write = "--scheduler", "minpeak", "--objective", "total", "--write"
    status, _, said = call("schedule", str(tmp_path / "big.yaml"), *given, *heap, *write)
    assert status == 0, said
    assert "share:" in (tmp_path / "big.yaml").read_text()
    assert call("lint", str(tmp_path / "big.yaml"), *given)[0] == 0
    again = Setup(["tiny"], ops=[str(tmp_path / "makes.py")]).program(tmp_path / "big.yaml")
    found = get_scheduler("annotated")(again, {})
    assert max(made.size_bytes for made in found.submissions) <= MAX_BLOCK_BYTES
    assert verify(found) == []
    before, now = (sum(map(safe_heap, ring_loads(schedule))) for schedule in (plan, found))
    assert now <= before + 3 * 1024


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("more", [0, 1])
def test_both_sides(tmp_path: Path, share: bool, more: int) -> None:
    """Two tensors alive at once that fill a block to the last KiB, and with one more: one block, and two."""
    half = (MAX_BLOCK_BYTES // 1024 // 2) * 1024
    last = MAX_BLOCK_BYTES // 1024 * 1024 - half + more * 1024
    made = program(tmp_path, [half, last], [2, 2])
    found = get_scheduler("minpeak")(made, {"objective": "total", "share": share})
    blocks = [each.size_bytes for each in found.submissions if each.size_bytes]
    assert sum(blocks) == half + last and max(blocks) <= MAX_BLOCK_BYTES
    assert verify(found) == []
    cut = one_block(made, [tensor.id for tensor in made.tensors if tensor.is_local])
    assert len(cut) == 1 + more


def test_a_tensor_that_is_too_large_is_told(tmp_path: Path) -> None:
    made = program(tmp_path, [MAX_BLOCK_BYTES + 1, 1024], [1, 2])
    found = get_scheduler("minpeak")(made, {})
    assert [finding.code for finding in verify(found)] == ["V3"]
    with pytest.raises(ScheduleError, match=r"big.yaml:5:\d+: the block of 't0' has 2,147,483,648 bytes"):
        RingHeap(found, RingSizes())


@pytest.mark.parametrize("seed", range(20))
def test_no_tensor_lies_across_the_end_of_a_block(seed: int) -> None:
    chance = np.random.default_rng(seed)
    first = chance.integers(0, 20, 30)
    size = chance.integers(1, BLOCK_UNITS + 1, 30)
    times = np.sort(chance.random((2, 30)), axis=0) if seed % 2 else (None, None)
    problem = Problem(first, first + chance.integers(1, 6, 30), size, times[0], times[1], soft_limit=seed % 3 * 4 * BLOCK_UNITS)
    walls = (int(chance.integers(BLOCK_UNITS, 2 * BLOCK_UNITS)),) if seed % 4 else ()
    lows = FirstFit(problem).offsets(chance.permutation(30), walls=walls)
    assert (lows // BLOCK_UNITS == (lows + size - 1) // BLOCK_UNITS).all()
    assert not any(((lows < wall) & (lows + size > wall)).any() for wall in walls)
    for one in range(30):
        alike = (first < first[one] + problem.end[one] - first[one]) & (problem.end > first[one])
        alike[one] = False
        assert not (alike & (lows < lows[one] + size[one]) & (lows + size > lows[one])).any()
