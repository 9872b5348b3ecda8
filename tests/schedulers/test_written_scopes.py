"""Placements that graph files can say: as good as trying every set of scopes, and the same work when they are written."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from sampled import sampled

from runner.driver.shares.written import without_lists
from runner.driver.write import Files, library_of, settled_texts
from runner.execution.executor import execute
from runner.expansion.expander import expand
from runner.language.library import GraphLibrary, load_graph
from runner.program.equivalence import refuse_other_work
from runner.program.ops import OpRegistry
from runner.program.program import Program
from runner.rings.capacity import ring_loads, safe_heap
from runner.verify.verify import check
from runner.writeback.annotations import Annotations, Demands
from runner.writeback.bodies import read_bodies
from schedulers.layouts.layouts import annotated
from schedulers.minpeak.planner import Plan, minpeak
from schedulers.scopes.scoping import TOTAL, WORST
from schedulers.written.cuts import WrittenCuts
from schedulers.written.search import written_scopes

OPS = OpRegistry()


@OPS.op("join", "a: f32[N, M], b: f32[K, M] -> y: f32[P, M]", core="AIV")
def join(a, b, *, y):
    y.copy_((a.sum(0) * 3 + b.sum(0) * 2 + 1).remainder(1021).expand_as(y))


class Settings:
    def __init__(self) -> None:
        self.values = {"LAYERS": 3}
        self.dtypes: dict[str, str] = {}


def straight(seed: int) -> tuple[str, list[tuple[int, int, int]]]:
    """A graph of a few ops, each of which makes a tensor; and per tensor its maker, its last user and its KiB."""
    rng = random.Random(seed)
    num = rng.randint(3, 5)
    made = [(k, rng.randint(1, 9)) for k in range(num)]
    lines, last = [], {k: k for k in range(num)}
    for k, size in made:
        used = [rng.choice([j for j, _ in made[max(0, k - rng.randint(1, 3)) : k]]) for _ in range(2)] if k else []
        last.update(dict.fromkeys(used, k))
        a, b = (f"t{j}" for j in used) if used else ("x", "x")
        lines += [f"  - op: join    # number {k}", f"    in: {{a: {a}, b: {b}}}", f'    out: {{y: "t{k}: f32[{size}, 256]"}}']
    lines += ["  - op: join", f"    in: {{a: t{num - 1}, b: x}}", "    out: {y: z}"]
    last[num - 1] = num
    return head() + "\n".join(lines) + "\n", [(k, last[k], size) for k, size in made]


def looped(seed: int) -> str:
    """A graph with a loop that hands a tensor on from trip to trip, scratch in a branch, and scopes here and there."""
    rng = random.Random(seed)
    sizes = [rng.randint(1, 12) for _ in range(6)]
    scope = rng.random() < 0.5
    body = f"""\
  - op: join
    in: {{a: x, b: x}}
    out: {{y: "state: f32[{sizes[0]}, 256]"}}
  # once a layer
  - for: layer
    range: LAYERS
    carry: {{state: next}}
    body:
      - alloc: {{next: "f32[{sizes[0]}, 256]"}}   # handed on
      - op: join
        in: {{a: state, b: x}}
        out: {{y: "wide: f32[{sizes[1]}, 256]"}}
      - if: layer < {rng.randint(1, 2)}
        then: [{{op: join, in: {{a: wide, b: x}}, out: {{y: "mid: f32[{sizes[2]}, 256]"}}}}]
        else:
          - op: join
            in: {{a: wide, b: state}}
            out: {{y: "deep: f32[{sizes[3]}, 256]"}}
          - op: join
            in: {{a: deep, b: x}}
            out:
              y: "mid: f32[{sizes[2]}, 256]"     # for both
      - op: join
        in: {{a: mid, b: x}}
        out: {{y: "f32[{sizes[4]}, 256]"}}
      - op: join
        id: last
        in: {{a: y, b: mid}}
        out: {{y: next}}
        {"after: [join]" if rng.random() < 0.5 else "doc: The end."}
  - op: join
    in: {{a: state, b: x}}
    out: {{y: z}}
"""
    if scope:
        body = body.replace("  # once a layer\n", f'  - alloc: {{pad: "f32[{sizes[5]}, 256]"}}\n  # once a layer\n')
    return head() + body


def head() -> str:
    return 'graph: made\ninputs: {x: "f32[4, 256]"}\noutputs: {z: "f32[4, 256]"}\nbody:\n'


def program_of(path: Path, library: GraphLibrary | None = None) -> Program:
    return expand(library.load(path) if library else load_graph(path), Settings(), OPS, library=library)


def settled(path: Path, **options: object) -> tuple[Plan, Program, dict[Path, bytes]]:
    plans: list[Plan] = []

    def plan(library: GraphLibrary, demands: Demands):
        return minpeak(program_of(path, library), options | {"written": demands, "report": plans.append})

    files = Files(path, lambda library: program_of(path, library))
    written = settled_texts(plan, lambda: plans[-1].annotations, files, without_lists(files))
    program = plans[-1].schedule.program
    assert program is not None
    return plans[-1], program, dict(written.texts)


def totals(program: Program) -> list[int]:
    return [safe_heap(load) for load in ring_loads(annotated(program, {}))]


# --- the search against every set of scopes ---------------------------------------------------------------------------


def all_scopes(low: int, high: int, depth: int, whole: bool) -> Iterator[list[tuple[int, int, int]]]:
    """Every way to put items low to high - 1 into scopes of `depth` and deeper, none over what another is over."""
    if low == high or depth > 3:
        yield []
        return
    for rest in all_scopes(low + 1, high, depth, True):
        yield rest
    for end in range(low + 1, high + 1):
        if end == high and not whole:
            continue
        for inner in all_scopes(low, end, depth + 1, False):
            for rest in all_scopes(end, high, depth, True):
                yield [(low, end, depth), *inner, *rest]


def test_all_scopes_are_all() -> None:
    found = [tuple(scopes) for scopes in all_scopes(0, 2, 3, False)]
    assert sorted(found) == sorted([(), ((0, 1, 3),), ((1, 2, 3),), ((0, 1, 3), (1, 2, 3))])


def needed(scopes: list[tuple[int, int, int]], tensors: list[tuple[int, int, int]]) -> list[int]:
    """KiB of the largest scope of each depth; a tensor lies in the innermost scope that holds all of its life."""
    held: dict[tuple[int, int, int], int] = {}
    for first, last, size in tensors:
        around = [s for s in scopes if s[0] <= first and last < s[1]]
        home = max(around, key=lambda s: s[2], default=(0, 0, 0))
        held[home] = held.get(home, 0) + size
    return [max((size for home, size in held.items() if home[2] == depth), default=0) for depth in range(4)]


@pytest.mark.parametrize("goal", [TOTAL, WORST], ids=["total", "worst"])
def test_the_search_is_as_good_as_trying_all(goal, tmp_path: Path) -> None:
    for seed in range(25):
        text, tensors = straight(seed)
        (tmp_path / "made.yaml").write_text(text)
        num = len(tensors) + 1
        best = min(goal.value(tuple(needed(scopes, tensors))) for scopes in all_scopes(0, num, 1, False))  # type: ignore[arg-type]
        cuts = WrittenCuts(read_bodies(program_of(tmp_path / "made.yaml")))
        assert min(value for value, _ in cuts.candidates(goal, lambda: False)) == best, f"seed {seed}"


def test_without_a_pass_what_is_found_is_right(tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    untrimmed_more = 0
    for seed in range(10):
        path.write_text(looped(seed))
        program = program_of(path)
        whole, untrimmed, uncut = (
            written_scopes(program, TOTAL, lambda: False, **switches) for switches in ({}, {"trimming": False}, {"cuts": False})
        )
        assert list(uncut.heap_bytes) == totals(program) and uncut.annotations == Annotations()
        assert check(untrimmed.schedule) == [] and sum(untrimmed.heap_bytes) <= sum(totals(program))
        untrimmed_more += len(untrimmed.annotations.scopes) > len(whole.annotations.scopes)
    assert untrimmed_more


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", sampled((12, 40), (12,)))
@pytest.mark.parametrize("objective", ["total", "worst"])
def test_written_graphs_are_smaller_do_the_same_and_stay(objective: str, num: int, tmp_path: Path) -> None:
    path, num_written, num_hoisted = tmp_path / "made.yaml", 0, 0
    value = sum if objective == "total" else max
    for seed in range(num):
        text = looped(seed) if seed % 2 else straight(seed)[0]
        path.write_text(text)
        before = program_of(path)
        plan, planned, texts = settled(path, objective=objective)
        assert value(plan.heap_bytes) <= value(totals(before)), f"seed {seed}"
        assert check(plan.schedule) == []
        if not texts:
            continue
        num_written += 1
        assert value(plan.heap_bytes) < value(totals(before)), f"seed {seed}: a scope that buys nothing"
        path.write_bytes(texts[path])
        after = program_of(path)
        assert totals(after) == list(plan.heap_bytes) == totals(planned)
        refuse_other_work(before, after)
        assert settled(path, objective=objective)[2] == {}, f"seed {seed}: writing again changes something"
        assert _comments(text) == _comments(path.read_text())
        num_hoisted += path.read_text().count("alloc:") > text.count("alloc:")
        x = torch.arange(1024, dtype=torch.float32).reshape(4, 256).remainder(7)
        assert torch.equal(_run(before, x), _run(after, x)), f"seed {seed}"
    assert num_written > num // 4 and num_hoisted > num // 8


def _comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def _run(program: Program, x: torch.Tensor) -> torch.Tensor:
    z = torch.full((4, 256), float("nan"))
    externals = {program.inputs["x"]: x.clone(), program.outputs["z"]: z}
    execute(annotated(program, {}), OPS, externals)
    return z


@pytest.mark.parametrize("num", sampled((32, 33, 70), (33,)))
def test_what_outlives_a_scope_is_allocated_in_as_many_allocs_as_it_takes(num: int, tmp_path: Path) -> None:
    """A large tensor is read to make `num` small ones, all of which are read beside the next large one."""
    path, large = tmp_path / "made.yaml", 'out: {y: "big: f32[64, 256]"}}'
    items = [f"{{op: join, in: {{a: x, b: x}}, {large}"]
    items += [f'{{op: join, in: {{a: big, b: x}}, out: {{y: "t{k}: f32[{1 + k % 3}, 256]"}}}}' for k in range(num)]
    items += [f"{{op: join, in: {{a: x, b: x}}, {large}"]
    items += [f'{{op: join, in: {{a: big, b: t{k}}}, out: {{y: "s: f32[1, 256]"}}}}' for k in range(num)]
    items += ["{op: join, in: {a: s, b: big}, out: {y: z}}"]
    path.write_text(head() + "".join(f"  - {item}\n" for item in items))
    before = program_of(path)
    plan, planned, texts = settled(path)
    assert check(plan.schedule) == [] and sum(plan.heap_bytes) < sum(totals(before))
    allocs = [len(submission.slots) for submission in plan.schedule.submissions if submission.core is None]
    assert sum(allocs) == num and max(allocs) <= 32
    path.write_bytes(texts[path])
    after = program_of(path)
    assert totals(after) == list(plan.heap_bytes) == totals(planned) and check(annotated(after, {})) == []
    refuse_other_work(before, after)


def test_a_name_that_stands_for_two_tensors_is_not_hoisted_over_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    items = ['{op: join, in: {a: x, b: x}, out: {y: "t: f32[9, 256]"}}']
    items += [
        '{op: join, in: {a: t, b: t}, out: {y: "big: f32[90, 256]"}}',
        '{op: join, in: {a: t, b: big}, out: {y: "t: f32[5, 256]"}}',
    ]
    items += ['{op: join, in: {a: t, b: x}, out: {y: "big: f32[90, 256]"}}', "{op: join, in: {a: big, b: t}, out: {y: z}}"]
    path.write_text(head() + "".join(f"  - {item}\n" for item in items))
    before = program_of(path)
    _, after, _ = settled(path)
    refuse_other_work(before, after)


def test_other_work_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    text, _ = straight(3)
    path.write_text(text)
    before = program_of(path)
    users = [line for line in text.splitlines() if "{a: t" in line]
    for one, other in pairwise(dict.fromkeys(users)):
        changed = text.replace(one, other, 1)
        with pytest.raises(Exception, match=r"would not do|unknown tensor"):
            refuse_other_work(before, program_of(path, library_of({path: changed.encode()})))


KEPT = """\
  - alloc: {g: "f32[5, 256]"}
  - scope: fast
    mode: manual
    body:
      - {op: join, id: one, in: {a: x, b: x}, out: {y: "h: f32[6, 256]"}}
      - {op: join, in: {a: h, b: x}, out: {y: g}, after: [one]}
  - {op: join, in: {a: g, b: x}, out: {y: "k: f32[7, 256]"}}
  - {op: join, in: {a: k, b: g}, out: {y: z}}
"""


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 4])
def test_the_walk_over_capacities_ends_where_scopes_stay_in_any_case(depth, tmp_path):
    """A manual scope stays, and so do scopes inside the deepest: no capacity rules them out, however small it gets."""
    path = tmp_path / "made.yaml"
    body = KEPT
    for level in range(depth):
        body = f"  - scope: s{level}\n    body:\n" + "".join(f"    {line}\n" for line in body.splitlines())
    path.write_text(head() + body)
    tries = []

    def stop() -> bool:
        tries.append(0)
        assert len(tries) < 500, "the walk goes on"
        return False

    assert list(WrittenCuts(read_bodies(program_of(path), Demands())).candidates(TOTAL, stop))
