"""Attention's ops against plain formulas: rotation, projections, key indices, attention, output projection, costs, rules."""

from __future__ import annotations

import math

import pytest
import torch
from attention_formulas import PRECISIONS, assert_close, tables, turned, typed, weight
from op_calls import DTYPES, REGISTRY, act, run_op

from runner.base.tensor_spec import TensorSpec
from runner.execution.storage import TORCH_DTYPES
from runner.program.ops import Call
from runner.program.signature import Signature


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(7)


# Rotation


def test_rows_of_the_tables():
    cos, sin, angles = tables(20, 8)
    position = torch.tensor([3, -1, 19, 0, 7], dtype=torch.int32)
    given = {"position_ids": position, "freqs_cos": cos, "freqs_sin": sin}
    at = position.clamp(min=0).long()
    full = {"rope_cos": ("act", (5, 8)), "rope_sin": ("act", (5, 8))}
    half = {"cos": ("f32", (5, 4)), "sin": ("f32", (5, 4))}
    made = run_op("rope_rows", given, full)
    assert torch.equal(made["rope_cos"], cos[at]) and torch.equal(made["rope_sin"], sin[at])
    made = run_op("half_rope", given, half)
    assert_close(made["cos"], angles[at].cos())
    made = run_op("window_rope", given, half, ratio=4)
    assert_close(made["sin"], angles[torch.tensor([0, 0, 16, 0, 4])].sin())
    made = run_op("rope_step", given, {**full, "step_cos": ("f32", (5, 4)), "step_sin": ("f32", (5, 4))})
    assert torch.equal(made["rope_sin"], sin[at]) and torch.equal(made["step_sin"], sin[at, :4])
    made = run_op("rope_and_window", given, {**full, "cmp_cos": ("f32", (5, 4)), "cmp_sin": ("f32", (5, 4))}, ratio=6)
    assert torch.equal(made["rope_cos"], cos[at]) and torch.equal(made["cmp_cos"], cos[torch.tensor([0, 0, 18, 0, 6]), :4])


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_output_is_turned_back(precision):
    tokens, heads, groups, width, rope = 3, 4, 2, 10, 6
    cos, sin, angles = tables(tokens, rope, act(precision))
    made = run_op(
        "rope_cs",
        {"rope_cos": cos, "rope_sin": sin},
        {"cos_il": ("f32", (tokens, rope)), "sin_signed": ("f32", (tokens, rope))},
        precision,
    )
    stage, packed = torch.randn(tokens * heads, rope), typed(precision, "act", torch.randn(groups * tokens, 2 * width))
    before = packed.clone()
    run_op("rope", {"rope_stage": stage, **made}, {"o_packed": packed}, precision, width=width)
    expected = turned(stage.view(tokens, heads, rope), angles[:, None], sign=-1)
    for t in range(tokens):
        for h in range(heads):
            row, column = t * groups + h // 2, h % 2 * width
            assert_close(packed[row, column + width - rope : column + width], expected[t, h], precision)
            assert torch.equal(packed[row, column : column + width - rope], before[row, column : column + width - rope])


# Projections


def test_accumulating_projection():
    x, w = torch.randn(3, 20), torch.randn(7, 20)
    acc = run_op("proj_seed", {}, {"acc": ("f32", (16, 7))})["acc"]
    run_op("proj_matmul", {"x": x, "w": w}, {"acc": acc})
    run_op("proj_matmul", {"x": x, "w": w}, {"acc": acc})
    assert_close(acc[:3], 2 * x.double() @ w.double().T)
    assert not acc[3:].any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_query_projection(precision):
    tokens, rank, heads, width, rope = 3, 24, 2, 12, 4
    qr_fp32, gamma = torch.randn(16, rank), typed(precision, "wd", 1 + torch.rand(rank))
    made = run_op(
        "qr_rms_norm_quant",
        {"qr_fp32": qr_fp32, "gamma": gamma},
        {"qr": ("qact", (tokens, rank)), "qr_scale": ("f32", (tokens, 1)), "qr_matmul": ("qact", (16, rank))},
        precision,
        eps=1e-3,
    )
    x = qr_fp32[:tokens].double()
    normed = x / (x.square().mean(1, keepdim=True) + 1e-3).sqrt() * gamma.double()
    assert_close(made["qr"].double() * made["qr_scale"], normed, "w8a8" if precision.startswith("w8a8") else precision)
    assert torch.equal(made["qr_matmul"][:tokens], made["qr"]) and not made["qr_matmul"][tokens:].any()

    w, scale, value = weight(precision, heads * width, rank)
    acc = run_op("qproj_matmul", {"qr_matmul": made["qr_matmul"], "wq_b": w}, {"acc": ("acc", (16, heads * width))}, precision)[
        "acc"
    ]
    inputs = {"acc": acc, "wq_b_scale": scale, "qr_scale": made["qr_scale"]}
    q_proj = run_op("qproj_dequant", inputs, {"q_proj": ("f32", (16, heads * width))}, precision)["q_proj"]
    expected = made["qr"].double() * made["qr_scale"].double() @ value.T
    assert_close(q_proj[:tokens], expected)
    assert not q_proj[tokens:].any()

    cos, sin, angles = tables(tokens, rope, act(precision))
    given = {"q_proj": q_proj, "rope_cos": cos, "rope_sin": sin}
    q = run_op("q_head_rms_nope_rope", given, {"q": ("act", (tokens, heads, width))}, precision, eps=1e-3)["q"]
    by_head = expected.view(tokens, heads, width)
    assert_close(q, turned(by_head / (by_head.square().mean(-1, keepdim=True) + 1e-3).sqrt(), angles[:, None]), precision)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_key_value_row(precision):
    cos, sin, angles = tables(3, 4, act(precision))
    x, gamma = torch.randn(16, 12), typed(precision, "wd", torch.rand(12))
    given = {"kv_fp32": x, "gamma": gamma, "rope_cos": cos, "rope_sin": sin}
    kv = run_op("kv_rms_norm_rope", given, {"kv": ("act", (3, 12))}, precision, eps=1e-3)["kv"]
    rows = x[:3].double()
    assert_close(kv, turned(rows / (rows.square().mean(1, keepdim=True) + 1e-3).sqrt() * gamma.double(), angles), precision)


# What a token attends to


def keys_of(position, seq, window, ring, first):
    """Key indices of a token at `position`, by definition; `first` is (token, position) of its request's first token."""
    num_tokens = seq
    found = set()
    for key in range(max(0, position - window + 1), position + 1):
        found.add(first[0] + key - first[1] if key >= first[1] else num_tokens + key % ring)
    return found


@pytest.mark.parametrize(("window", "ring"), [(4, 4), (3, 8), (8, 8)])
def test_key_indices_of_a_chunk(window, ring):
    start, active, tokens, ratio = 13, 6, 8, 4
    position = torch.tensor([start + i if i < active else -1 for i in range(tokens)], dtype=torch.int32)
    token_at = run_op("pos_map", {"position_ids": position}, {"pos_to_token": ("i32", (1, 32))})["pos_to_token"]
    assert token_at[0].tolist() == [i - start if start <= i < start + active else -1 for i in range(32)]
    topk = torch.tensor([[0, 2, -1]] * tokens, dtype=torch.int32)
    given = {"position_ids": position, "pos_to_token": token_at, "topk": topk}
    indices = run_op("sparse_idx_tile", given, {"indices": ("i32", (tokens, ring + 5))}, window=window, ring=ring)["indices"]
    for token in range(active):
        assert {v for v in indices[token, :ring].tolist() if v >= 0} == keys_of(start + token, tokens, window, ring, (0, start))
        assert indices[token, ring:].tolist() == [tokens + ring, tokens + ring + 2, -1, -1, -1]
    assert (indices[active:, :ring] == -1).all()
    lens = run_op("sparse_lens", {"position_ids": position}, {"lens": ("i32", (1, tokens))}, ring=ring, topk=3, ratio=ratio)[
        "lens"
    ]
    assert lens[0].tolist() == [ring + min((p + 1) // ratio, 3) if p >= 0 else 0 for p in position.tolist()]


@pytest.mark.parametrize(("window", "ring"), [(4, 4), (3, 8)])
def test_key_indices_of_a_step(window, ring):
    seq, starts, fed = 2, [9, 0, 5], [2, 1, 0]
    position = torch.tensor(
        [s + i if i < n else -1 for s, n in zip(starts, fed, strict=True) for i in range(seq)], dtype=torch.int32
    )
    topk = torch.tensor([[[1, -1]] * seq] * 3, dtype=torch.int32)
    outputs = {"indices": ("i32", (6, ring + 4)), "valid_block_mask": ("i32", (6, 2 + ring // 4 - 1))}
    made = run_op("sparse_idx_step", {"position_ids": position, "topk": topk}, outputs, window=window, ring=ring, seq=seq)
    overlay = run_op(
        "overlay_topk",
        {"position_ids": position},
        {"indices": ("i32", (6, ring + 4))},
        window=window,
        ring=ring,
        seq=seq,
        ratio=4,
    )["indices"]
    given = {"indices": ("i32", (6, ring)), "bias": ("f32", (6, ring + 8))}
    bias = run_op("win_bias", {"position_ids": position}, given, window=window, seq=seq)
    for token, at in enumerate(position.tolist()):
        first = (token // seq * seq, starts[token // seq])
        expected = keys_of(at, 6, window, ring, first) if at >= 0 else set()
        for table in (made["indices"], overlay):
            assert {v for v in table[token, :ring].tolist() if v >= 0} == expected
        assert made["indices"][token, ring:].tolist() == [6 + ring + 1, -1, -1, -1]
        visible = (at + 1) // 4
        assert overlay[token, ring:].tolist() == [6 + ring + i if i < visible else -1 for i in range(4)]
        keys = bias["indices"][token].tolist()
        assert {v for v in keys if v >= 0} == expected - {token}
        attended = (bias["bias"][token] == 0).nonzero().flatten().tolist()
        assert [c for c in attended if c < ring] == [c for c, v in enumerate(keys) if v >= 0]
        assert [c - ring for c in attended if c >= ring] == ([token] if at >= 0 else [])
        places = {v: (v - 6 if v >= 6 else (first[1] + v - first[0]) % ring) for v in expected - {token}}
        assert all(keys[place] == v for v, place in places.items())
    tiles = made["indices"].view(6, -1, 4)
    assert torch.equal(made["valid_block_mask"].bool(), (tiles >= 0).any(-1))


def test_bias_and_small_fillers():
    indices = torch.tensor([[3, -1, 5, 0], [-1, -1, 2, 2]], dtype=torch.int32)
    lens = torch.tensor([[3, 4]], dtype=torch.int32)
    bias = run_op("build_bias", {"indices": indices, "lens": lens}, {"bias": ("f32", (2, 3))})["bias"]
    assert (bias == 0).tolist() == [[True, False, True], [False, False, True]] and (bias[bias != 0] <= -1e30).all()
    made = run_op("dummy_cmp_table", {}, {"cmp_block_table": ("i32", (2,)), "cmp_kv": ("act", (2, 4, 1, 3))})
    assert not made["cmp_block_table"].any() and not made["cmp_kv"].any()
    kv = torch.randn(3, 5)
    overlay = run_op("pad_overlay", {"kv": kv}, {"overlay": ("act", (8, 5))})["overlay"]
    assert torch.equal(overlay[:3], kv) and not overlay[3:].any()


# Attention


class Keys:
    """Rows of this call, of a ring and of compressed pages, for three requests of two tokens; `row(token, v)` by definition."""

    tokens, seq, width, page = 6, 2, 8, 4

    def __init__(self, precision="f32"):
        dtype = act(precision)
        self.kv = torch.randn(self.tokens, self.width).to(dtype)
        self.cache, self.compressed = (torch.randn(9, self.page, 1, self.width).to(dtype) for _ in range(2))
        self.table = torch.tensor([[4, 1], [0, 8], [2, 3]], dtype=torch.int32)
        self.cmp_table = torch.tensor([[7], [5], [1]], dtype=torch.int32)
        found = torch.randint(-5, self.tokens + 8 + 4, (6, 8)).clamp(min=-1)
        self.indices = torch.cat((found, torch.full((6, 4), -1)), dim=1).int()
        self.indices[5] = -1

    def row(self, token, v):
        request = token // self.seq
        if v < self.tokens:
            return self.kv[v]
        if v < self.tokens + 8:
            return self.cache[self.table[request, (v - self.tokens) // 4], (v - self.tokens) % 4, 0]
        v -= self.tokens + 8
        return self.compressed[self.cmp_table[request, v // 4], v % 4, 0]


def softmax_with_sink(q, keys, sink):
    """Output [H, C] of one token over `keys`, with the sink in the denominator."""
    if not keys:
        return torch.zeros(q.shape, dtype=torch.float64)
    k = torch.stack(keys).double()
    logits = torch.cat((q.double() @ k.T / math.sqrt(q.shape[1]), sink.double()[:, None]), dim=1)
    return logits.softmax(dim=1)[:, :-1] @ k


def partial(tiles, heads=2):
    rows = 6 * tiles * heads
    return {"mi": ("f32", (rows, 1)), "li": ("f32", (rows, 1)), "oi": ("f32", (rows, 8))}


def merged(made, sink, precision="f32"):
    """Output [T, H, C] by `merge_norm_step` with no rotation."""
    still = {"cos_il": torch.ones(6, 4), "sin_signed": torch.zeros(6, 4)}
    packed = run_op("merge_norm_step", {**made, "sink": sink, **still}, {"o_packed": ("act", (12, 8))}, precision)["o_packed"]
    return packed.view(6, 2, 8)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_paged_attention(precision, masked):
    data, q, sink = Keys(precision), typed(precision, "act", torch.randn(6, 2, 8)), torch.randn(2)
    bias = run_op("build_bias", {"indices": data.indices}, {"bias": ("f32", (6, 12))}, lens=None)["bias"]
    inputs = {"block_table": data.table, "bias": bias, "indices": data.indices, "kv_cache": data.cache, "kv": data.kv, "q": q}
    inputs |= {"cmp_block_table": data.cmp_table, "cmp_kv": data.compressed}
    if masked:
        inputs["valid_block_mask"] = (data.indices >= 0).view(6, 3, 4).any(-1).int()
    more = {} if masked else {"valid_block_mask": None}
    out = merged(run_op("qk_pv_paged", inputs, partial(3), precision, **more), sink, precision)
    for token in range(6):
        keys = [data.row(token, v) for v in data.indices[token].tolist() if v >= 0]
        assert_close(out[token], softmax_with_sink(q[token], keys, sink), precision)


def test_paged_attention_of_idle_tokens_is_zero():
    data, q = Keys(), torch.randn(6, 2, 8)
    nothing = torch.full((6, 12), -1, dtype=torch.int32)
    inputs = {
        "block_table": data.table,
        "bias": torch.full((6, 12), -1e30),
        "indices": nothing,
        "kv_cache": data.cache,
        "kv": data.kv,
    }
    inputs |= {"cmp_block_table": data.cmp_table, "cmp_kv": data.compressed, "q": q, "valid_block_mask": torch.zeros(6, 3).int()}
    assert not merged(run_op("qk_pv_paged", inputs, partial(3)), torch.randn(2)).any()


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_gathered_attention(precision):
    data = Keys(precision)
    data.table, data.cmp_table = data.table[:1].expand(3, -1), data.cmp_table[:1].expand(3, -1)  # prefill: one request
    q, sink, lens = (
        typed(precision, "act", torch.randn(6, 2, 8)),
        torch.randn(2),
        torch.tensor([[8, 7, 3, 8, 0, 8]], dtype=torch.int32),
    )
    inputs = {"indices": data.indices, "lens": lens, "block_table": data.table[0], "kv_cache": data.cache, "kv": data.kv}
    inputs |= {"cmp_block_table": data.cmp_table[0], "cmp_kv": data.compressed}
    sparse_kv = run_op("gather_kv", inputs, {"sparse_kv": ("act", (6 * 8, 8))}, precision)["sparse_kv"]
    bias = run_op("build_bias", {"indices": data.indices, "lens": lens}, {"bias": ("f32", (6, 8))}, precision)["bias"]
    made = run_op("qk_pv", {"sparse_kv": sparse_kv, "bias": bias, "q": q}, partial(2), precision)
    outputs = {"rope_stage": ("f32", (12, 4)), "o_packed": typed(precision, "act", torch.zeros(12, 8))}
    staged = run_op("merge_norm", {**made, "sink": sink}, outputs, precision)
    packed = staged["o_packed"].view(6, 2, 8)
    for token in range(6):
        keys = [data.row(token, v) for v in data.indices[token, : lens[0, token]].tolist() if v >= 0]
        expected = softmax_with_sink(q[token], keys, sink)
        assert_close(packed[token, :, :4], expected[:, :4], precision)
        assert_close(staged["rope_stage"].view(6, 2, 4)[token], expected[:, 4:], precision)
        for column, v in enumerate(data.indices[token, :8].tolist()):
            row = sparse_kv.view(6, 8, 8)[token, column]
            assert torch.equal(row, data.row(token, v)) if v >= 0 and column < lens[0, token] else not row.any()


@pytest.mark.parametrize("rows", [6, 8])
def test_window_attention_skips_what_nobody_wrote(rows):
    data, q, sink, window = Keys(), torch.randn(6, 2, 8), torch.randn(2), 5
    position = torch.tensor([11, 12, 2, -1, 0, 1], dtype=torch.int32)
    known = {0: range(6, 11), 1: range(2), 2: range(0)}  # positions that each request wrote
    cache = torch.full_like(data.cache, float("nan"))
    for request, positions in known.items():
        for p in positions:
            cache[data.table[request, p % 8 // 4], p % 4, 0] = data.cache[data.table[request, p % 8 // 4], p % 4, 0]
    outputs = {"indices": ("i32", (6, 8)), "bias": ("f32", (6, 16))}
    made = run_op("win_bias", {"position_ids": position}, outputs, window=window, seq=2)
    overlay = torch.cat((data.kv, torch.zeros(rows - 6, 8)))
    inputs = {**made, "block_table": data.table, "kv_cache": cache, "overlay": overlay, "q": q}
    out = merged(run_op("qk_pv_window", inputs, partial(4)), sink)
    firsts = {0: 11, 1: 2, 2: 0}
    for token, at in enumerate(position.tolist()):
        keys, first = [], firsts[token // 2]
        for p in range(max(0, at - window + 1), at + 1):
            fresh = p >= first
            keys.append(data.kv[token // 2 * 2 + p - first] if fresh else data.row(token, 6 + p % 8))
        assert_close(out[token], softmax_with_sink(q[token], keys, sink))


# Output projection


@pytest.mark.parametrize("precision", PRECISIONS)
def test_output_projection(precision):
    tokens, groups, rank, inner, hidden = 3, 2, 200, 20, 24
    packed, wo_a = (
        typed(precision, "act", torch.randn(groups * tokens, inner)),
        typed(precision, "wd", torch.randn(groups * rank, inner)),
    )
    wo_b, scale, value = weight(precision, hidden, groups * rank)
    o_r = torch.cat([packed.double()[g::groups] @ wo_a.double()[g * rank : (g + 1) * rank].T for g in range(groups)], dim=1)

    made = run_op(
        "proj_a", {"o_packed": packed, "wo_a": wo_a}, {"o_r": ("f32", (3, 400)), "amax_parts": ("f32", (4, 3))}, precision
    )
    assert_close(made["o_r"], o_r)
    parts = [o_r[:, 0:128], o_r[:, 128:200], o_r[:, 200:328], o_r[:, 328:400]]
    assert_close(made["amax_parts"], torch.stack([part.abs().amax(1) for part in parts]))
    quantised = run_op("o_quant", made, {"o_r_i8": ("qact", (3, 400)), "scale": ("f32", (3, 1))}, precision)
    seen = quantised["o_r_i8"].double() * quantised["scale"]
    if precision.startswith("w8a8"):
        step = o_r.abs().amax(1, keepdim=True) / 127
        assert_close(seen, (o_r / step).round() * step, "w8a8-f32")
    inputs = {"wo_b": wo_b, "wo_b_scale": scale, **quantised}
    out = run_op("proj_b", inputs, {"attn_out": ("act", (3, hidden))}, precision)["attn_out"]
    assert_close(out, seen @ value.T, precision if precision != "w8a8-f32" else "f32")

    acc = torch.zeros(16, groups * hidden, dtype=TORCH_DTYPES[DTYPES[precision]["acc"]])  # decode: every group by itself
    scales, seen = torch.zeros(3, groups), torch.zeros(3, groups * rank, dtype=torch.float64)
    for g in range(groups):
        columns = slice(g * rank, (g + 1) * rank)
        x = {"o_packed": packed, "w": wo_a[columns]}
        tile = run_op("proj_a_mm", x, {"y": ("f32", (16, rank))}, precision, group=g, groups=groups)["y"]
        assert_close(tile[:3], o_r[:, columns])
        assert not tile[3:].any()
        outputs = {"scale": scales[:, g : g + 1], "o_r_i8": ("qact", (3, rank)), "o_r_i8_pad": ("qact", (16, rank))}
        made = run_op("quant_group", {"o_r": tile}, outputs, precision)
        assert torch.equal(made["o_r_i8_pad"][:3], made["o_r_i8"]) and not made["o_r_i8_pad"][3:].any()
        seen[:, columns] = made["o_r_i8"].double() * scales[:, g : g + 1]
        partial_g = acc[:, g * hidden : (g + 1) * hidden]
        run_op("proj_b_mm", {"x": made["o_r_i8_pad"], "w": wo_b[:, columns]}, {"partial": partial_g}, precision)
    inputs = {"wo_b_scale": scale, "partials": acc, "act_scale": scales}
    out = run_op("proj_b_act", inputs, {"attn_out": ("act", (3, hidden))}, precision)["attn_out"]
    assert_close(out, seen @ value.T, precision if precision != "w8a8-f32" else "f32")


# Costs


def cost_of(op, **operands):
    specs = {name: TensorSpec(dtype, shape) for name, (dtype, shape) in operands.items()}
    match = Signature(REGISTRY[op], DTYPES["w8a8"]).match(specs)
    assert not match.problems, match.problems
    return REGISTRY[op].cost(Call(specs, match.dims, {}))


def test_costs_count_products_and_what_is_moved():
    projection = cost_of("qproj_matmul", qr_matmul=("i8", (16, 1024)), wq_b=("i8", (4096, 1024)), acc=("i32", (16, 4096)))
    assert (projection.flops, projection.bytes) == (2 * 16 * 4096 * 1024, 16 * 1024 + 4096 * 1024 + 4 * 16 * 4096)
    gather = cost_of(
        "gather_kv",
        indices=("i32", (8, 128)),
        lens=("i32", (1, 8)),
        block_table=("i32", (1,)),
        kv_cache=("bf16", (1000, 128, 1, 64)),
        kv=("bf16", (8, 64)),
        cmp_block_table=("i32", (1,)),
        cmp_kv=("bf16", (1000, 128, 1, 64)),
        sparse_kv=("bf16", (1024, 64)),
    )
    assert (gather.flops, gather.bytes) == (0, 2 * 1024 * 64 * 2 + 8 * 128 * 4)  # rows read and written, not the pools


# Rules that signatures cannot say


MISFITS = {
    "scratch": (
        "proj_matmul",
        {"x": (8, 4), "w": (6, 4), "acc": (4, 6)},
        {},
        "scratch has 4 rows, expected at least the 8 of the tokens",
    ),
    "rope": (
        "kv_rms_norm_rope",
        {"kv_fp32": (4, 6), "gamma": (6,), "rope_cos": (4, 8), "rope_sin": (4, 8), "kv": (4, 6)},
        {},
        "8 columns are rotated of a row of 6, expected an even number up to that",
    ),
    "keys": (
        "qk_pv",
        {"sparse_kv": (10, 4), "bias": (2, 4), "q": (2, 1, 4), "mi": (2, 1), "li": (2, 1), "oi": (2, 4)},
        {},
        "10 keys for 2 tokens of 4 keys each",
    ),
    "tiles": (
        "qk_pv",
        {"sparse_kv": (8, 4), "bias": (2, 4), "q": (2, 1, 4), "mi": (3, 1), "li": (3, 1), "oi": (3, 4)},
        {},
        "3 partial rows are not 2 tokens x 1 heads x tiles of 4 keys",
    ),
    "ring": (
        "overlay_topk",
        {"position_ids": (4,), "indices": (4, 6)},
        {"ring": 8, "seq": 1},
        "6 columns of key indices do not hold a ring of 8 rows",
    ),
    "requests": (
        "overlay_topk",
        {"position_ids": (3,), "indices": (3, 9)},
        {"ring": 8, "seq": 2},
        "3 tokens are not 2 for each of some requests",
    ),
    "packed": (
        "rope",
        {"rope_stage": (6, 2), "cos_il": (3, 2), "sin_signed": (3, 2), "o_packed": (3, 9)},
        {"width": 5},
        "3 x 9 packed, expected 6 rows of 5",
    ),
    "groups": (
        "proj_b_act",
        {"wo_b_scale": (4,), "partials": (2, 9), "act_scale": (2, 2), "attn_out": (2, 4)},
        {},
        "9 columns of partial products, expected 2 groups of 4",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_rules_beyond_the_signature(case):
    op, shapes, attrs, message = MISFITS[case]
    definition = REGISTRY[op]
    dtypes = {o.name: DTYPES["f32"].get(o.dtype.strip("{}"), o.dtype) for o in definition.operands}
    specs = {name: TensorSpec(dtypes[name], shape) for name, shape in shapes.items()}
    match = Signature(definition, DTYPES["f32"]).match(specs)
    assert not match.problems
    assert definition.check(Call(specs, match.dims, attrs)) == message
