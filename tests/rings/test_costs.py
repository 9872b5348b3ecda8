"""Durations for the timed model: the roofline by hand, and measured ones by path and by op."""

import json

import pytest
from random_programs import Builder

from runner.base.errors import ScheduleError
from runner.base.tensor_spec import TensorSpec
from runner.program.ops import Cost, OpRegistry
from runner.program.program import Program, Region, Span, Task, Tensor
from runner.rings.devices.durations import Rates, estimated_us, measured_us
from runner.rings.lowering.lower import lower
from runner.rings.placement import PlacedTask

RATES = Rates(aic_flops_per_us=100.0, aiv_flops_per_us=10.0, bytes_per_us=50.0, task_us=2.0)


def _product(call):
    return Cost(2 * call.dims["N"] * call.dims["K"] * call.dims["M"], call.moved_bytes)


def _ops():
    registry = OpRegistry()

    @registry.op("product", "a: f32[N, K], b: f32[K, M] -> y: f32[N, M]", core="AIC", cost=_product)
    def product(a, b, *, y): ...

    @registry.op("copy", "a: f32[N] -> y: f32[N]", core="AIV")
    def copy(a, *, y): ...

    return registry


def _schedule():
    tensors = tuple(
        Tensor(i, name, TensorSpec("f32", shape), "input")
        for i, (name, shape) in enumerate((("a", (4, 6, 5)), ("b", (5, 10)), ("y", (6, 10)), ("c", (100,)), ("d", (100,))))
    )
    slice_of_a = Region(0, ((1, 2), (0, 6), (0, 5)), dropped=(0,))
    tasks = (
        Task(0, "p", "product", "AIC", {"a": slice_of_a, "b": Region(1), "y": Region(2)}, num_blocks=2),
        Task(1, "c", "copy", "AIV", {"a": Region(3), "y": Region(4)}, num_blocks=4),
    )
    program = Program("costs", tensors, tasks, Span("root", "", (0, 1)))
    return lower(program, [PlacedTask(0), PlacedTask(1)])


def test_roofline_by_hand():
    """600 flops on two blocks at 100 a microsecond; 800 bytes on four blocks at 50; 2 microseconds a task."""
    block_us = estimated_us(_schedule(), _ops(), {}, RATES)
    assert block_us(0) == 2.0 + max(600 / 100, 4 * (30 + 50 + 60) / 50) / 2
    assert block_us(1) == 2.0 + 800 / 50 / 4


def test_measured_by_path_then_by_op(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"tasks": [{"path": "p", "op": "product", "us": 7}], "ops": {"copy": {"mean_us": 3}}}))
    block_us = measured_us(_schedule(), path)
    assert (block_us(0), block_us(1)) == (7.0, 3.0)
    path.write_text(json.dumps({"tasks": [], "ops": {"copy": {"mean_us": 3}}}))
    with pytest.raises(ScheduleError, match="has no times of op 'product'\nhint: profile a run of the same graph"):
        measured_us(_schedule(), path)


def test_a_profile_that_is_not_json_is_refused(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text("")
    with pytest.raises(ScheduleError, match=r"profile\.json:1:1: not JSON"):
        measured_us(_schedule(), path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"tasks": [{}], "ops": {}}', '{"tasks": [], "ops": {"copy": 3}}'])
def test_broken_profiles_are_refused(tmp_path, text):
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(ScheduleError, match="cannot read the profile"):
        measured_us(_schedule(), path)


def test_unknown_ops_cost_the_overhead():
    made = Builder()
    x = made.tensor(1)
    made.task([], [made.whole(x)], (x,))
    program = Program("u", tuple(made.tensors), tuple(made.tasks), Span("root", "", (0,)))
    assert estimated_us(lower(program, [PlacedTask(0)]), _ops(), {}, RATES)(0) == 2.0
