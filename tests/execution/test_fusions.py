"""Units of tasks that run as one call: the same bits as one by one, whatever the tiles, layouts, schedulers and rings."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from sampled import sampled

from ops import register_all
from ops.kernels import products
from ops.kernels.numerics import beneath, beside, of_tiles
from runner.base.errors import ExecutionError
from runner.config.config import load_config
from runner.execution import executor, storage
from runner.execution.comm import LocalComm
from runner.execution.executor import CompiledSchedule
from runner.execution.fusions import Fusions
from runner.execution.layouts import Layouts
from runner.execution.storage import TORCH_DTYPES
from runner.expansion.expander import expand
from runner.language.library import load_graph
from runner.program.ops import OpRegistry
from runner.rings.common_sizes import safe_sizes
from schedulers import get_scheduler

pytestmark = pytest.mark.usefixtures("short_searches")

REGISTRY = OpRegistry()
register_all(REGISTRY)

CASES = {
    "decode": ([], "decode"),
    "many tiles": (["n_routed_experts=4", "num_experts_per_tok=2"], "prefill"),
    "padded": (["recv_layout=padded", "recv_max=128"], "prefill"),
    "chunked": (["chunked=true", "EXPERT_CHUNK=3"], "prefill"),
    "chunked, padded": (["chunked=true", "recv_layout=padded", "recv_max=128"], "decode"),
    "codes": (["precision=w8a8"], "prefill"),
    "bf16": (["dtype=bf16"], "decode"),
}


def externals(program, seed=0):
    """Random tensors for all that is not local; scales beside weights are not 1."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for tensor in program.tensors:
        dtype, shape = TORCH_DTYPES[tensor.spec.dtype], tensor.spec.shape
        if tensor.is_local:
            continue
        if tensor.kind in ("state", "output"):
            found[tensor.id] = torch.zeros(shape, dtype=dtype)
        elif dtype == torch.int8:
            found[tensor.id] = torch.randint(-127, 128, shape, generator=generator).to(dtype)
        elif dtype.is_floating_point:
            found[tensor.id] = torch.randn(shape, generator=generator).mul(shape[-1] ** -0.5).to(dtype)
        elif tensor.name == "position_ids":
            found[tensor.id] = torch.arange(shape[0], dtype=dtype) - 2
        else:
            found[tensor.id] = torch.randint(0, 4, shape, generator=generator).to(dtype)
    return found


def outputs(schedule, fused, monkeypatch, rings=None, is_laid_out=False, **options):
    calls = []
    with monkeypatch.context() as patch:
        if not fused:
            patch.setattr(executor, "Fusions", lambda schedule, *_: Fusions(schedule, {}))
        given = externals(schedule.program)
        if is_laid_out:
            layouts, tensors = Layouts([schedule.program], REGISTRY), schedule.program.tensors
            given = {index: layouts.keep(tensors[index], value) for index, value in given.items()}
        compiled = CompiledSchedule(schedule, REGISTRY, given, rings=rings, workers=1, comm=LocalComm())
        stats = [] if rings else None
        result = compiled.run(scope_stats=stats, on_task=calls.append, **options)
    made = {name: given[index] for name, index in schedule.program.outputs.items()}
    return made, result, stats, calls


PLANNED = ("decode",)
"""Cases that minpeak plans by default: of the others it takes up to half a minute."""


@pytest.mark.parametrize(
    ("case", "scheduler"),
    sampled(product(CASES, ("annotated", "minpeak")), lambda case: case[1] == "annotated" or case[0] in PLANNED),
)
def test_fused_tiles_make_the_bits_and_the_accounts_of_tasks_one_by_one(case, scheduler, monkeypatch):
    sets, deploy = CASES[case]
    program = expand(load_graph("moe"), load_config(["tiny"], sets, deploy), REGISTRY)
    schedule = get_scheduler(scheduler)(program, {})
    rings = safe_sizes([schedule])
    assert Fusions(schedule, REGISTRY).units, "the experts' tiles are units"
    one, one_result, one_stats, one_calls = outputs(schedule, False, monkeypatch, rings)
    for sizes in (rings, None):
        many, result, stats, calls = outputs(schedule, True, monkeypatch, sizes)
        assert all(torch.equal(one[name], many[name]) and one[name].isfinite().all() for name in one)
        assert (result.num_tasks, result.num_submissions) == (one_result.num_tasks, one_result.num_submissions)
        assert calls == one_calls
        assert stats is None or stats == one_stats


@pytest.mark.parametrize("scheduler", ["annotated", "minpeak"])
@pytest.mark.parametrize("sets", [["seq=40"], ["seq=200", "dtype=bf16"], ["seq=5"]])
def test_fused_tiles_of_the_head_make_the_bits_and_the_accounts_of_tasks_one_by_one(sets, scheduler, monkeypatch):
    program = expand(load_graph("head"), load_config(["tiny"], sets, "prefill"), REGISTRY)
    schedule = get_scheduler(scheduler)(program, {})
    rings = safe_sizes([schedule])
    tiles = [task for task in program.tasks if task.op == "lm_head_mm"]
    assert len(Fusions(schedule, REGISTRY, LocalComm()).units) == 3 * len(tiles) and not Fusions(schedule, REGISTRY).units
    one, one_result, one_stats, one_calls = outputs(schedule, False, monkeypatch, rings)
    many, result, stats, calls = outputs(schedule, True, monkeypatch, rings)
    assert torch.equal(one["logits"], many["logits"]) and one["logits"].any(1).all() and one["logits"].isfinite().all()
    assert (result.num_tasks, result.num_submissions, stats, calls) == (
        one_result.num_tasks,
        one_result.num_submissions,
        one_stats,
        one_calls,
    )


@pytest.mark.parametrize("is_laid_out", [True, False])
@pytest.mark.parametrize(
    "sets", [[], ["dtype=bf16"], ["precision=w8a8"], ["batch=21"], ["o_lora_rank=96", "O_TILE=32", "D_TILE=64"]]
)
def test_groups_of_the_output_projection_make_the_bits_of_tasks_one_by_one(sets, is_laid_out, monkeypatch):
    monkeypatch.setattr(products, "_LEAST_BYTES", 1)
    monkeypatch.setattr(
        storage, "new_buffer", lambda size, device, _: torch.full((-(-size // 1024) * 1024,), 255, dtype=torch.uint8)
    )
    program = expand(load_graph("o_proj_decode"), load_config(["tiny"], sets, "decode"), REGISTRY)
    schedule = get_scheduler("annotated")(program, {})
    fused = {unit.fusion.kernel.name for unit in Fusions(schedule, REGISTRY).units.values()}
    assert fused == {"proj_a_tiles", "quant_groups", "proj_b_tiles"}
    options = {"is_laid_out": is_laid_out, "capture": {tensor.id for tensor in program.tensors if tensor.is_local}}
    one, one_result, _, one_calls = outputs(schedule, False, monkeypatch, **options)
    many, result, _, calls = outputs(schedule, True, monkeypatch, **options)
    assert torch.equal(one["attn_out"], many["attn_out"]) and many["attn_out"].any()
    assert all(torch.equal(made, result.captured[tensor]) for tensor, made in one_result.captured.items())
    assert (result.num_tasks, calls) == (one_result.num_tasks, one_calls)


@pytest.mark.parametrize("is_laid_out", [True, False])
@pytest.mark.parametrize("sets", [[], ["dtype=bf16"], ["precision=w8a8"], ["batch=21"]])
@pytest.mark.parametrize("graph", ["qwen3_attention_decode", "qwen3_mlp_decode"])
def test_products_with_the_same_rows_make_the_bits_of_tasks_one_by_one(graph, sets, is_laid_out, monkeypatch):
    monkeypatch.setattr(products, "_LEAST_BYTES", 4096)  # more than some of the matrices have
    monkeypatch.setattr(
        storage, "new_buffer", lambda size, device, _: torch.full((-(-size // 1024) * 1024,), 255, dtype=torch.uint8)
    )
    program = expand(load_graph(graph), load_config(["qwen3-tiny"], sets, "decode"), REGISTRY)
    schedule = get_scheduler("annotated")(program, {})
    assert {unit.fusion.kernel.name for unit in Fusions(schedule, REGISTRY).units.values()} == {"quant_linear_tiles"}
    options = {"is_laid_out": is_laid_out, "capture": {tensor.id for tensor in program.tensors if tensor.is_local}}
    one, one_result, _, one_calls = outputs(schedule, False, monkeypatch, **options)
    many, result, _, calls = outputs(schedule, True, monkeypatch, **options)
    assert all(torch.equal(one[name], many[name]) and one[name].any() for name in one)
    assert all(torch.equal(made, result.captured[tensor]) for tensor, made in one_result.captured.items())
    assert (result.num_tasks, calls) == (one_result.num_tasks, one_calls)


@pytest.mark.parametrize("sets", [[], ["num_hash_layers=0"], ["num_hash_layers=0", "precision=w8a8"], ["seq=1", "dtype=bf16"]])
def test_tiles_of_the_router_make_the_bits_of_tasks_one_by_one(sets, monkeypatch):
    monkeypatch.setattr(
        storage, "new_buffer", lambda size, device, _: torch.full((-(-size // 1024) * 1024,), 255, dtype=torch.uint8)
    )
    program = expand(load_graph("moe"), load_config(["tiny"], ["seq=147", *sets], "prefill"), REGISTRY)
    schedule = get_scheduler("annotated")(program, {})
    fusions = Fusions(schedule, REGISTRY)
    route = "route_sort" if "num_hash_layers=0" in sets else "route_hash"
    tiled = {"ffn_norm", "x_norm_quant", "gate", route}
    assert {unit.fusion.kernel.name for unit in fusions.units.values()} == {f"{op}_tiles" for op in tiled} | {"expert_tiles"}
    assert tiled.isdisjoint(submission.op for i, submission in enumerate(schedule.submissions) if i not in fusions.units)
    options = {"capture": {tensor.id for tensor in program.tensors if tensor.is_local} - fusions.inner}
    _, one, _, one_calls = outputs(schedule, False, monkeypatch, **options)
    _, many, _, calls = outputs(schedule, True, monkeypatch, **options)
    assert all(
        torch.equal(made.view(torch.uint8), many.captured[tensor].view(torch.uint8)) for tensor, made in one.captured.items()
    )
    assert (many.num_tasks, calls) == (one.num_tasks, one_calls)


def test_tiles_that_do_not_lie_one_beneath_the_other_run_one_by_one():
    x, w = torch.randn(24, 8), torch.randn(8)
    made = torch.zeros(2, 40, 8)
    kernel = of_tiles(lambda x, w, *, y, calls: (y.copy_(x * w), calls.append(len(x))), "x", "y")
    for places, other, expected in (
        ([0, 8, 16], w, [24]),
        ([0, 16, 8], w, [8, 8, 8]),
        ([0, 8, 24], w, [8, 8, 8]),
        ([0, 8, 16], w.clone(), [8, 8, 8]),
    ):
        calls = []
        made.zero_()
        rows = [(slice(8 * i, 8 * i + 8), slice(place, place + 8)) for i, place in enumerate(places)]
        kernel([{"x": x[a], "w": other if i == 2 else w, "y": made[1, b], "calls": calls} for i, (a, b) in enumerate(rows)])
        assert calls == expected
        assert all(torch.equal(made[1, b], x[a] * w) for a, b in rows) and not made[0].any()
    assert beneath([x[:8], x.clone()[8:16]]) is None and beneath([x[:8], x[8:16, :4]]) is None
    assert beneath([x[:8, 2:4], x[8:9, 2:4]]).equal(x[:9, 2:4])


def test_storages_that_lie_side_by_side_by_chance_are_not_seen_as_one():
    memory = bytearray(512)
    whole = torch.frombuffer(memory, dtype=torch.float32).view(16, 8)
    first, second = (torch.frombuffer(memory, dtype=torch.float32, offset=at, count=64).view(8, 8) for at in (0, 256))
    assert beneath([whole[:8], whole[8:]]).equal(whole)
    assert beneath([first, second]) is None
    assert beside([whole[7:8, 4:], whole[8:9, :4]]).equal(whole[7:9].view(-1)[4:12].view(1, 8))
    assert beside([first[7:, 4:], second[:1, :4]]) is None


CHAIN = """
graph: chain
inputs: {x: "f32[4, 8]"}
weights: {w: {type: "f32[8, 8]", from: w}}
outputs: {out: "f32[4, 8]"}
body:
  - {op: proj_a_mm, id: one, in: {o_packed: x, w: w}, out: {y: "between: f32[4, 8]"}, attrs: {group: 0, groups: 1}}
  - {op: proj_a_mm, id: two, in: {o_packed: between, w: w}, out: {y: out}, attrs: {group: 0, groups: 1}}
"""


def test_a_task_that_reads_what_the_one_before_it_makes_does_not_wait_for_it(tmp_path, monkeypatch):
    (tmp_path / "chain.yaml").write_text(CHAIN)
    program = expand(load_graph(tmp_path / "chain.yaml"), load_config(["tiny"], [], "decode"), REGISTRY)
    schedule = get_scheduler("annotated")(program, {})
    first, second = (i for i, submission in enumerate(schedule.submissions) if submission.op is not None)
    assert first in (units := Fusions(schedule, REGISTRY).units) and second not in units
    made, *_ = outputs(schedule, True, monkeypatch)
    given = {program.tensors[index].name: value for index, value in externals(program).items()}
    torch.testing.assert_close(made["out"], given["x"] @ given["w"].T @ given["w"].T)


def test_a_head_whose_ranks_talk_runs_task_by_task():
    program = expand(load_graph("head"), load_config(["tiny"], ["seq=70", "ep=2"], "prefill"), REGISTRY)
    group = SimpleNamespace(rank=0, size=2)
    assert not Fusions(get_scheduler("annotated")(program, {}), REGISTRY, group).units


def test_exchanges_are_counted_when_tiles_run_as_one(monkeypatch):
    program = expand(load_graph("head"), load_config(["tiny"], ["seq=70"], "prefill"), REGISTRY)
    schedule = get_scheduler("annotated")(program, {})
    (window,) = (tensor.id for tensor in program.tensors if tensor.name == "comm_window")
    counted = []
    for registry in (REGISTRY, {}):
        with monkeypatch.context() as patch:
            patch.setattr(executor, "Fusions", lambda schedule, _, comm, registry=registry: Fusions(schedule, registry, comm))
            given = externals(program)
            CompiledSchedule(schedule, REGISTRY, given, comm=LocalComm()).run()
            counted.append(int(given[window]))
    assert counted[0] == counted[1] == 2 * sum(task.op == "lm_head_mm" for task in program.tasks)


def test_what_is_captured_inside_of_a_unit_is_made(monkeypatch):
    program = expand(load_graph("moe"), load_config(["tiny"], [], "decode"), REGISTRY)
    schedule = get_scheduler("annotated")(program, {})
    wanted = {tensor.id for tensor in program.tensors if tensor.name.startswith("h_tile_fp32")}
    assert wanted & Fusions(schedule, REGISTRY).inner
    _, one, _, _ = outputs(schedule, False, monkeypatch, capture=wanted)
    _, many, _, _ = outputs(schedule, True, monkeypatch, capture=wanted)
    assert one.captured.keys() == many.captured.keys() and one.captured
    assert all(torch.equal(one.captured[tensor], many.captured[tensor]) for tensor in one.captured)


def test_a_unit_that_fails_is_told_by_the_task_that_fails(monkeypatch):
    program = expand(load_graph("moe"), load_config(["tiny"], [], "decode"), REGISTRY)
    schedule = get_scheduler("annotated")(program, {})

    def fail(*_, **__):
        raise ValueError("no such luck")

    definition = REGISTRY["exp_gate_up_act"]
    failing = OpRegistry()
    register_all(failing)
    failing._ops["exp_gate_up_act"] = replace(definition, kernel=fail)
    monkeypatch.setattr(type(failing.fusions[0]), "run", property(lambda fusion: fail))
    compiled = CompiledSchedule(schedule, failing, externals(program), comm=LocalComm())
    with pytest.raises(ExecutionError, match=r"exp_gate_up_act.* failed: ValueError: no such luck"):
        compiled.run()
