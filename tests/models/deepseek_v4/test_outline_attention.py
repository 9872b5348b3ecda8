"""The attention graphs against the traced reference: tensors, scratch buffers and tasks, in order, and what tasks touch."""

from __future__ import annotations

from collections import Counter

import pytest
from graph_runs import expand_graph
from outline import Traced, plain, stage

from runner.config.config import load_config
from runner.program.program import Program, Task

PIPE = "gm_pipe_buffer"
STREAMS = {"x_attn0", "x_attn_csa", "x_attn_hca", "hidden", "hidden_mid"}
"""Residual streams: inputs and outputs of our graphs."""

PARTIAL = ("sparse_blk_mi", "sparse_blk_li", "sparse_blk_oi")
SCATTERS = (
    "state_scatter",
    "state_scatter_paged",
    "state_scatter_pre",
    "prefill_hca_c128_state_scatter",
    "prefill_hca_c128_state_scatter_pre",
)
"""Updates of a compressor's ring: after the pool in ours, which may need what they overwrite; before it in the reference."""

LEFT_OUT = {"kv_touch"}
RENAMED = {"x_flat": "x_normed", "sparse_bias": "win_bias"}
"""Aliases of one tensor in the reference: a view of `x_normed`, and the window's bias inside attention."""

MORE = {
    "prefill_swa_dummy_cmp_table": {"cmp_kv_dummy"},
    "prefill_hca_c128_softmax_pool": {"kv_proj_scratch", "score_proj_scratch"},
    "softmax_pool": {
        "kv_proj_scratch",
        "score_proj_scratch",
        "cmp4_kv_proj_pad",
        "cmp4_score_proj_pad",
        "kv_proj_pad",
        "score_proj_pad",
    },
    "rmsnorm_rope": {"cmp_cos", "cmp_sin", "step_cos", "step_sin"},
    "swa_win_bias": {"sparse_topk"},
    "qk_pv": {"sparse_topk"},
}
"""What our tasks touch beside: pools read this call's rows, the empty compressed cache is written before it is read, index rows
are rotated to their window's first position in decode too."""

LESS = {
    "prefill_c4_state_update": {"pooled_kv"},
    "prefill_idx_c4_state_update": {"pooled_kv"},
    **{f"{kind}_cache_writeback": {"attn_out"} for kind in ("swa", "csa", "hca")},
}
"""Reads of the reference that only order a write after a read; ours says `after`."""

CASES = [
    (deploy, scope, f"attention_{deploy}_{kind}")
    for deploy in ("prefill", "decode")
    for kind, scope in (("swa", "swa_attention_l0"), ("csa", "csa_attention"), ("hca", "hca_attention"))
]


def ours(deploy: str, graph: str) -> Program:
    return expand_graph(graph, load_config(["flash", "seed"], deploy=deploy, ep=2))


def in_order(tensors: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The compiler makes partial results of compressed layers last, in blocks of their own; compared as if with the others."""
    first = next(i for i, (name, _) in enumerate(tensors) if name in ("attn_rope_stage", "o_packed", "sparse_bias"))
    partial = [entry for entry in tensors if entry[0] in PARTIAL]
    rest = [entry for entry in tensors if entry[0] not in PARTIAL]
    return rest[:first] + partial + rest[first:]


@pytest.mark.parametrize(("deploy", "scope", "graph"), CASES)
def test_tensors_and_scratch_are_the_reference(deploy, scope, graph):
    expected, program = stage(deploy, scope, trips=1), ours(deploy, graph)
    local = [t for t in program.tensors if t.is_local]
    made = [(plain(t.name), str(t.spec)) for t in local if t.name != PIPE]
    assert in_order(made) == in_order(expected.tensors)
    assert Counter(str(t.spec) for t in local if t.name == PIPE) == Counter(expected.pipes)


@pytest.mark.parametrize(("deploy", "scope", "graph"), CASES)
def test_tasks_are_the_reference(deploy, scope, graph):
    expected, program = stage(deploy, scope, trips=1), ours(deploy, graph)
    theirs = [task for task in expected.tasks if task.name not in (*SCATTERS, *LEFT_OUT)]
    mine = [task for task in program.tasks if task.op is not None and name(task) not in SCATTERS]
    assert [(name(task), task.core) for task in mine] == [(task.name, task.core) for task in theirs]
    for task, traced in zip(mine, theirs, strict=True):
        assert task.num_blocks == int(traced.blocks) if traced.blocks.isdigit() else traced.name == "kv_score_proj"
        assert touched(program, task) == expected_touches(traced, program), task.path
    scatters = [task for task in program.tasks if task.op == "state_update" and name(task) in SCATTERS]
    assert len(scatters) == len([task for task in expected.tasks if task.name in SCATTERS])


def name(task: Task) -> str:
    return plain(task.path.rpartition(".")[2])


def touched(program: Program, task: Task) -> set[str]:
    used = {plain(program.tensors[i].name) for i in {*task.reads, *task.writes} if program.tensors[i].is_local}
    return used - MORE.get(name(task), set())


def expected_touches(traced: Traced, program: Program) -> set[str]:
    names = {tensor.name for tensor in program.tensors}
    renamed = {
        new if old in traced.touches and old not in names else old for old in traced.touches for new in [RENAMED.get(old, old)]
    }
    return renamed - STREAMS - LESS.get(traced.name, set()) - MORE.get(traced.name, set())
