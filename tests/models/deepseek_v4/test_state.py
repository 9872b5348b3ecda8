"""Pages, slots and the inputs of a call; what they are for is tested in `test_attention.py`."""

from __future__ import annotations

import math

import pytest
import torch
from op_calls import REGISTRY
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4RotaryEmbedding

from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.models.deepseek_v4.request_state import StateError, StateStore
from runner.models.deepseek_v4.tables import hadamard, rope_tables
from runner.serving.generate import Row
from runner.serving.session import Placement, open_session
from schedulers.layouts.layouts import annotated

INPUTS = {
    "input_ids": TensorSpec("i64", (6,)),
    "position_ids": TensorSpec("i32", (6,)),
    "ori_slot_mapping": TensorSpec("i64", (6,)),
    "csa_slot_mapping": TensorSpec("i64", (6,)),
    "csa_state_slot_mapping": TensorSpec("i64", (6,)),
}
DECODE = {**INPUTS, "ori_block_table": TensorSpec("i32", (3, 2)), "csa_block_table": TensorSpec("i32", (3, 4))}
PREFILL = {
    **INPUTS,
    "ori_block_table": TensorSpec("i32", (2,)),
    "swa_sparse_indices": TensorSpec("i32", (6, 8)),
    "swa_sparse_lens": TensorSpec("i32", (1, 6)),
    "prompt_len": TensorSpec("i32", (1,)),
}


def store(*sets, **states):
    """Pages of 4 rows, a window of 7 in a ring of 8, and contexts of 64: 4 pages of compressed rows."""
    config = load_config(["tiny"], sets=["PAGE=4", "sliding_window=7", "max_context=64", "REQUESTS=3", *sets], deploy="decode")
    return StateStore(config, states)


def made(inputs, name):
    return inputs[name].flatten().tolist()


def test_states_are_zeroed_tensors_of_the_given_specs():
    tensors = store(**{"layers.0.kv_cache": TensorSpec("bf16", (6, 4)), "x": TensorSpec("i8", (3,))}).tensors
    assert {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()} == {
        "layers.0.kv_cache": (torch.bfloat16, (6, 4)),
        "x": (torch.int8, (3,)),
    }
    assert not any(tensor.any() for tensor in tensors.values())


def test_a_chunk_says_where_its_tokens_go():
    state = store()
    request = state.admit(40, prompt_len=9)
    first = state.batch_inputs([(request, [5, 6, 7, 8, 9, 10], 0)], PREFILL)
    pages = made(first, "ori_block_table")
    assert made(first, "input_ids") == [5, 6, 7, 8, 9, 10] and made(first, "position_ids") == [0, 1, 2, 3, 4, 5]
    assert made(first, "ori_slot_mapping") == [pages[p // 4] * 4 + p % 4 for p in range(6)]
    assert made(first, "prompt_len") == [9] and made(first, "swa_sparse_lens") == [8] * 6
    assert first["swa_sparse_indices"][5].tolist() == [-1, -1, 0, 1, 2, 3, 4, 5]

    second = state.batch_inputs([(request, [1, 2, 3], 6)], PREFILL)
    assert made(second, "position_ids") == [6, 7, 8, -1, -1, -1] and made(second, "input_ids") == [1, 2, 3, 0, 0, 0]
    assert made(second, "ori_slot_mapping") == [*[pages[p % 8 // 4] * 4 + p % 4 for p in (6, 7, 8)], -1, -1, -1]
    assert made(second, "csa_slot_mapping")[2:] == [-1] * 4 and made(second, "csa_slot_mapping")[1] >= 0
    assert second["swa_sparse_indices"][2].tolist() == [
        -1,
        6 + 2,
        6 + 3,
        6 + 4,
        6 + 5,
        0,
        1,
        2,
    ]  # the ring, then this call's rows
    assert made(second, "swa_sparse_lens") == [8, 8, 8, 0, 0, 0] and (second["swa_sparse_indices"][3:] == -1).all()
    assert state.length(request) == 9


def test_only_the_newest_tokens_go_into_a_ring():
    state = store()
    wanted = {name: TensorSpec(spec.dtype, (20,)) for name, spec in INPUTS.items()}
    inputs = state.batch_inputs([(state.admit(), list(range(19)), 0)], wanted)
    assert [slot >= 0 for slot in made(inputs, "ori_slot_mapping")] == [11 <= p < 19 for p in range(20)]
    assert [slot >= 0 for slot in made(inputs, "csa_state_slot_mapping")] == [11 <= p < 19 for p in range(20)]
    written = [slot for slot in made(inputs, "ori_slot_mapping") if slot >= 0]
    assert len(set(written)) == 8
    assert [p for p, slot in enumerate(made(inputs, "csa_slot_mapping")) if slot >= 0] == [3, 7, 11, 15]


def test_a_ragged_step():
    state = store()
    one, two = state.admit(), state.admit()
    state.batch_inputs([(two, [1, 2, 3], 0)], PREFILL)
    inputs = state.batch_inputs([(one, [7], 0), (two, [8, 9], 3)], DECODE)
    assert made(inputs, "position_ids") == [0, -1, 3, 4, -1, -1] and made(inputs, "input_ids") == [7, 0, 8, 9, 0, 0]
    table = inputs["ori_block_table"].tolist()
    assert len({*table[0], *table[1]}) == 4 and table[2] == [0, 0]
    assert made(inputs, "ori_slot_mapping") == [table[0][0] * 4, -1, table[1][0] * 4 + 3, table[1][1] * 4, -1, -1]
    rows = inputs["csa_block_table"][1].tolist()
    assert made(inputs, "csa_slot_mapping") == [-1, -1, rows[0] * 4, -1, -1, -1]


def test_pages_are_owned_by_one_request_and_come_back():
    state = store()
    requests = [state.admit() for _ in range(3)]
    tables = [state.batch_inputs([(request, [1], 0)], DECODE)["csa_block_table"][0].tolist() for request in requests]
    assert len({page for table in tables for page in table}) == 12
    state.release(requests[1])
    again = state.batch_inputs([(state.admit(), [1], 0)], DECODE)["csa_block_table"][0].tolist()
    assert sorted(again) == sorted(tables[1])


def test_a_short_request_takes_few_pages():
    state = store("REQUESTS=8", "CSA_PAGES=4", "HCA_PAGES=8")
    requests = [state.admit(16) for _ in range(4)]  # 4 compressed rows each: one page
    with pytest.raises(StateError) as error:
        state.admit(16)
    assert str(error.value) == (
        "no free pages: a request of 16 tokens needs 1 of pool 'CSA_PAGES', 0 of 4 are free with 4 requests admitted\n"
        "hint: release a request, or --set CSA_PAGES=5"
    )
    state.admit(3)  # none at all
    state.release(requests[0])
    state.admit(16)


def test_a_refused_request_takes_nothing():
    state = store("CSA_PAGES=4")
    state.admit(20)
    for _ in range(5):
        with pytest.raises(StateError, match="no free pages"):
            state.admit(64)
    state.admit(32)


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        ((-5, 1), "a request of -5 tokens cannot be admitted, expected at least 1"),
        ((0,), "a request of 0 tokens cannot be admitted, expected at least 1"),
        ((5, -1), "a prompt of -1 tokens in a request of 5, expected 0 to 5"),
        ((5, 6), "a prompt of 6 tokens in a request of 5, expected 0 to 5"),
    ],
)
def test_a_request_of_no_length_is_refused(request_of, message):
    state = store()
    with pytest.raises(StateError) as error:
        state.admit(*request_of)
    assert str(error.value) == message


def test_a_request_longer_than_the_context():
    with pytest.raises(StateError) as error:
        store().admit(65)
    assert str(error.value) == "a request of 65 tokens is longer than 'max_context' (64)\nhint: --set max_context=65"


def test_calls_that_do_not_go_on_where_the_request_stands():
    state = store()
    request, other = state.admit(9), state.admit(4)
    state.batch_inputs([(request, [1] * 6, 0)], PREFILL)
    cases = [
        ([(request, [1], 7)], "request 0 goes on at position 7, expected 6: so many tokens were seen of it"),
        ([(request, [1], 4)], "request 0 goes on at position 4, expected 6: so many tokens were seen of it"),
        ([(request, [], 6)], "request 0 has 0 tokens in a call that takes 1 to 2 of each request"),
        ([(request, [1] * 3, 6)], "request 0 has 3 tokens in a call that takes 1 to 2 of each request"),
        ([(request, [1], 6), (request, [1], 6)], "a request is twice in one call"),
        ([(request, [1], 6)] * 4, "4 rows in a call that takes 3 requests"),
        ([(7, [1], 0)], "no request has handle 7: it was released or never admitted"),
        ([(other, [1, 2], 0), (request, [1], 9)], "request 0 goes on at position 9, expected 6: so many tokens were seen of it"),
    ]
    for rows, message in cases:
        with pytest.raises(StateError) as error:
            state.batch_inputs(rows, DECODE)
        assert str(error.value) == message
    assert state.length(request) == 6 and state.length(other) == 0
    state.batch_inputs([(request, [1, 2], 5)], DECODE)  # the last token once more
    state.batch_inputs([(request, [1, 2], 7)], DECODE)
    with pytest.raises(StateError) as error:
        state.batch_inputs([(request, [1], 9)], DECODE)
    assert str(error.value) == "request 0 reaches 10 tokens, but was admitted for 9"


def test_prefill_that_gathers_fewer_keys_than_a_token_sees_is_refused():
    state = store("K_CSA=12", "index_topk=6")
    request = state.admit()
    wanted = {**INPUTS, "csa_block_table": TensorSpec("i32", (4,))}
    for start in (0, 6, 12):
        state.batch_inputs([(request, [1] * 6, start)], wanted)
    with pytest.raises(StateError) as error:
        state.batch_inputs([(request, [1] * 6, 18)], wanted)
    assert str(error.value) == (
        "a token at position 23 attends to 14 keys, but prefill gathers 12 ('K_CSA')\n"
        "hint: --set K_CSA=CSA_KEYS gathers all that 'max_context' can need"
    )
    state.batch_inputs([(request, [1] * 2, 18)], {**DECODE})  # decode reads its keys where they lie


def test_constant_inputs_are_made_once():
    state = store()
    wanted = {**INPUTS, "main_cos": TensorSpec("bf16", (64, 16)), "hadamard_idx": TensorSpec("f32", (32, 32))}
    first, second = state.batch_inputs([], wanted), state.batch_inputs([], wanted)
    assert first["main_cos"] is second["main_cos"] and first["main_cos"].dtype == torch.bfloat16
    assert torch.equal(first["hadamard_idx"], torch.eye(32))
    quantised = StateStore(load_config(["tiny"], sets=["precision=w8a8"]), {}).batch_inputs([], wanted)["hadamard_idx"]
    assert torch.equal(quantised, hadamard(32))


def test_inputs_that_are_not_known_are_left_to_the_caller():
    assert "x_hc" not in store().batch_inputs([], {**INPUTS, "x_hc": TensorSpec("f32", (6, 4, 8))})


@pytest.mark.parametrize("order", [1, 2, 16, 128])
def test_hadamard_is_orthogonal_with_equal_magnitudes(order):
    matrix = hadamard(order).double()
    torch.testing.assert_close(matrix @ matrix, torch.eye(order, dtype=torch.float64))
    torch.testing.assert_close(matrix.abs(), torch.full((order, order), 1 / math.sqrt(order), dtype=torch.float64))
    assert not matrix[1:].sum(dim=1).abs().gt(1e-5).any() and (matrix[0] > 0).all()


SCALINGS = [
    {"rope_type": "default"},
    {},
    {"rope_factor": 4, "rope_original_max_position_embeddings": 512, "rope_beta_fast": 8, "rope_beta_slow": 2},
    {"rope_original_max_position_embeddings": 65536, "qk_rope_head_dim": 8},
    {"rope_attention_factor": 1.5},
]


@pytest.mark.parametrize("kind", ["main", "compress"])
@pytest.mark.parametrize("fields", SCALINGS)
def test_rope_tables_are_the_oracles(fields, kind):
    v = load_config(["tiny"], sets=[f"{name}={value}" for name, value in fields.items()]).values
    partial = {"rope_type": "default", "partial_rotary_factor": v["qk_rope_head_dim"] / v["head_dim"]}
    compress = {**partial, "rope_theta": v["compress_rope_theta"], "rope_type": v["rope_type"]}
    if v["rope_type"] == "yarn":
        names = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor")
        compress |= {name: v[f"rope_{name}"] for name in names}
    config = DeepseekV4Config(
        head_dim=v["head_dim"],
        num_hidden_layers=1,
        partial_rotary_factor=partial["partial_rotary_factor"],
        rope_parameters={"main": {**partial, "rope_theta": v["rope_theta"]}, "compress": compress},
    )
    expected = DeepseekV4RotaryEmbedding(config)(torch.zeros(1), torch.arange(5000)[None], kind)
    for table, half in zip(rope_tables(v, kind, 5000), expected, strict=True):
        torch.testing.assert_close(table, torch.cat((half[0], half[0]), dim=1), atol=1e-6, rtol=0)


def test_a_session_has_pages_for_its_whole_batch(tmp_path):
    config = load_config(["tiny"], sets=["decode.batch=10", "num_hidden_layers=3"])
    init_checkpoint(config, tmp_path / "model", seed=0)
    session = open_session(config, tmp_path / "model", REGISTRY, Placement(lambda program: annotated(program, {})))
    rows = [Row(session.admit(20, 1), (i,), 0) for i in range(10)]
    for row in rows:
        session.prefill(row)
    assert len(session.step([Row(row.handle, (1,), 1) for row in rows])) == 10
