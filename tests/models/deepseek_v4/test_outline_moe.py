"""The graphs `moe` and `head` against the traced reference: every task, tensor and scratch buffer, in order."""

import re
from collections import Counter

import pytest
from graph_runs import expand_graph
from outline import stage

from runner.config.config import load_config

PIPE = "gm_pipe_buffer"

SCALARS = {"hc_ffn_scale"}
"""Weights that the reference reads on its submitting thread and passes as scalars."""

EXTRA = {
    **{op: {"recv_count"} for op in ("exp_gate_mm", "exp_up_mm", "exp_gate_up_act", "exp_w2_act", "combine_push")},
    "gate_inactive_zero": {"indices", "weights"},
}
"""What our tasks touch beside: a count of rows that the reference passes as a scalar, and the routes of idle tokens."""

STREAMS = {"x_attn", "x_attn0", "x_attn_csa", "x_attn_hca", "hidden", "hidden_mid", "x_next_hc"}
"""Names of streams in the reference; the graphs have them as inputs and outputs."""

WINDOWS = {"recv_x", "recv_scale", "recv_w", "recv_r_route", "count_done", "data_done", "combine_done"}
"""What the reference exchanges rows through and signals with; a `Comm` does that here."""


def ours(name, deploy, **params):
    """The program, its local tensors and its tasks with an op; of every expert only the first row tile."""
    program = expand_graph(name, load_config(["flash", "seed"], deploy=deploy, ep=2), **params)
    tasks = [t for t in program.tasks if not re.search(r"\.t[1-9]\d*\.", t.path)]
    made = {i for t in tasks for i in t.creates}
    return program, [t for t in program.tensors if t.id in made], [t for t in tasks if t.op is not None]


def names(program, task, kind):
    """What the task touches of a kind."""
    return {program.tensors[i].name for i in {*task.reads, *task.writes} if program.tensors[i].kind == kind}


@pytest.mark.parametrize(
    "deploy, scope, layer",
    [
        ("prefill", "moe_l0", 0),
        ("prefill", "moe_after_hca", 5),
        ("decode", "moe_l0", 0),
        ("decode", "moe_after_hca", 5),
    ],
)
def test_moe_is_the_reference(deploy, scope, layer):
    expected = stage(deploy, scope, trips=1)
    program, local, tasks = ours("moe", deploy, layer=layer)
    assert [(t.name, str(t.spec)) for t in local if t.name != PIPE] == [(renamed(name), spec) for name, spec in expected.tensors]
    assert Counter(str(t.spec) for t in local if t.name == PIPE) == Counter(expected.pipes)
    assert [(t.op, t.core, str(t.num_blocks)) for t in tasks] == [(t.name, t.core, t.blocks) for t in expected.tasks]
    for task, traced in zip(tasks, expected.tasks, strict=True):
        touched = names(program, task, "local") - EXTRA.get(task.op, set())
        assert touched == {renamed(name) for name in traced.touches} - STREAMS, task.path
        outside = traced.outside - WINDOWS - STREAMS
        if task.op == "gate" and layer < 3:
            outside.remove("gate_bias")  # a hashed layer's checkpoint has none
        assert names(program, task, "weight") - SCALARS == outside - {"input_ids", "pub_counts", "routed_y_buf"}, task.path


def renamed(name):
    return "h_tile_scale_dq" if name.startswith("ret0") else name


def test_head_is_the_reference_up_to_the_final_norm():
    expected = stage("decode", "hc_head_rmsnorm", trips=1)
    program, local, tasks = ours("head", "decode")
    tail = [t for t in tasks if t.path.startswith("hc_head_rmsnorm.")]
    around = {"x_head", "x_out", "hidden_window", "logits_shard"}
    assert [(t.name, str(t.spec)) for t in local if t.name not in around] == expected.tensors
    assert [(t.op, t.core) for t in tail] == [(t.name, t.core) for t in expected.tasks]
    for task, traced in zip(tail, expected.tasks, strict=True):
        assert names(program, task, "local") - {"x_out"} == traced.touches - STREAMS, task.path
        assert names(program, task, "weight") == traced.outside - {"x_out"}, task.path
