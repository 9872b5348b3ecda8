"""Compressors and the indexer against plain formulas, element by element."""

from __future__ import annotations

import math

import pytest
import torch
from attention_formulas import PRECISIONS, assert_close, codes, tables, turned, typed, weight
from op_calls import DTYPES, act, rubbish, run_op

from runner.execution.storage import TORCH_DTYPES


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(7)


# Compressors: a request of consecutive positions whose older tokens are in the ring


class Compressor:
    """Random projections of a request's first `length` tokens."""

    def __init__(self, length, ratio, columns, overlap, ape=None):
        self.ratio, self.columns, self.overlap = ratio, columns, overlap
        width = columns * (2 if overlap else 1)
        self.kv, self.score = torch.randn(length, width), torch.randn(length, width)
        self.ape = torch.randn(ratio, width) if ape is None else ape

    def expected(self, end):
        """The pooled row of the window that closes at position `end`."""
        logits, values = [], []
        span = self.ratio * (2 if self.overlap else 1)
        for position in range(end - span + 1, end + 1):
            if position < 0:
                continue
            older = self.overlap and position <= end - self.ratio
            part = slice(0, self.columns) if older or not self.overlap else slice(self.columns, None)
            logits.append((self.score[position] + self.ape[position % self.ratio])[part].double())
            values.append(self.kv[position, part].double())
        return (torch.stack(logits).softmax(0) * torch.stack(values)).sum(0)

    def ring(self, table, page_rows, start):
        """A pool of pages in which the tokens before `start` are where the ring keeps them, NaN elsewhere."""
        state = rubbish(torch.float32, 9, page_rows, 2 * self.kv.shape[1])
        rows = len(table) * page_rows
        for position in range(max(0, start - rows), start):
            row = position % rows
            biased = self.score[position] + self.ape[position % self.ratio]
            state[table[row // page_rows], row % page_rows] = torch.cat((self.kv[position], biased))
        return state


COMPRESSORS = [(4, 6, True), (3, 5, True), (8, 6, False), (5, 4, False)]


@pytest.mark.parametrize("start", [0, 1, 6, 17, 23])
@pytest.mark.parametrize(("ratio", "columns", "overlap"), COMPRESSORS)
def test_windows_of_a_chunk(ratio, columns, overlap, start):
    tokens, active = 13, 11
    span = ratio * (2 if overlap else 1)
    data = Compressor(start + tokens, ratio, columns, overlap)
    table = torch.tensor([5, 2, 7, 0][: -(-span // 2)], dtype=torch.int32)
    state = data.ring(table.tolist(), 2 if 2 * len(table) >= span else span, start)
    position = torch.tensor([start + i if i < active else -1 for i in range(tokens)], dtype=torch.int32)
    ends = [p for p in position.tolist() if p >= 0 and (p + 1) % ratio == 0]
    slots = torch.tensor([100 + p if p in ends else -1 for p in position.tolist()])
    windows = -(-tokens // ratio)
    maps = run_op(
        "write_map",
        {"slot_mapping": slots, "position_ids": position},
        {"write_dst": ("i32", (1, windows)), "write_pos": ("i32", (1, windows))},
    )
    assert maps["write_dst"][0].tolist() == [100 + p for p in ends] + [-1] * (windows - len(ends))
    assert maps["write_pos"][0, : len(ends)].tolist() == ends
    inputs = {
        **maps,
        "state": state,
        "block_table": table,
        "position_ids": position,
        "ape": data.ape,
        "kv": data.kv[start:],
        "score": data.score[start:],
    }
    pooled = run_op("softmax_pool", inputs, {"pooled": ("f32", (windows, columns))})["pooled"]
    kept = run_op("softmax_pool_pad", inputs, {"pooled": torch.full((windows, columns), 3.0)})["pooled"]
    for i, end in enumerate(ends):
        assert_close(pooled[i], data.expected(end))
        assert torch.equal(kept[i], pooled[i])
    assert not pooled[len(ends) :].any() and (kept[len(ends) :] == 3).all()


@pytest.mark.parametrize(("ratio", "columns", "overlap"), COMPRESSORS)
def test_windows_of_a_step(ratio, columns, overlap):
    starts, fed, seq = [2 * ratio - 1, 0, 3 * ratio - 1, 5], [2, 2, 1, 0], 2
    span = ratio * (2 if overlap else 1)
    ape = torch.randn(ratio, columns * (2 if overlap else 1))
    requests = [Compressor(start + seq, ratio, columns, overlap, ape) for start in starts]
    state = rubbish(torch.float32, 9, span, 2 * ape.shape[1])
    for page, (request, start) in enumerate(zip(requests, starts, strict=True)):
        state[page] = request.ring([page], span, start)[page]
    position = [start + s if s < n else -1 for start, n in zip(starts, fed, strict=True) for s in range(seq)]
    inputs = {
        "position_ids": torch.tensor(position, dtype=torch.int32),
        "block_table": torch.arange(4, dtype=torch.int32)[:, None],
        "state": state,
        "ape": ape,
        "kv": torch.cat([request.kv[start : start + seq] for request, start in zip(requests, starts, strict=True)]),
        "score": torch.cat([request.score[start : start + seq] for request, start in zip(requests, starts, strict=True)]),
    }
    pooled = run_op("pad_init", {}, {"pooled": ("f32", (16, columns))})["pooled"]
    run_op("softmax_pool_step", inputs, {"pooled": pooled})
    for row, end in enumerate(position):
        if end >= 0 and (end + 1) % ratio == 0:
            assert_close(pooled[row], requests[row // seq].expected(end))
        else:
            assert not pooled[row].any()
    assert sum((p + 1) % ratio == 0 for p in position if p >= 0) >= 2 and not pooled[8:].any()


def test_projection_for_compression():
    x, wkv, wgate = torch.randn(3, 20), torch.randn(6, 20), torch.randn(6, 20)
    made = run_op("kv_score_proj", {"x": x, "wkv": wkv, "wgate": wgate}, {"kv": ("f32", (16, 6)), "score": ("f32", (16, 6))})
    assert_close(made["kv"][:3], x.double() @ wkv.double().T)
    assert_close(made["score"][:3], x.double() @ wgate.double().T)
    assert not made["kv"][3:].any() and not made["score"][3:].any()


@pytest.mark.parametrize(("dtype", "precision"), [("f32", "f32"), ("act", "bf16")])
def test_norm_of_compressed_rows(dtype, precision):
    cos, sin, angles = tables(30, 4, act(precision))
    pooled, norm_w = torch.randn(4, 10), typed(precision, "wd", torch.rand(10))
    maps = {
        "write_dst": torch.tensor([[7, 9, -1, -1]], dtype=torch.int32),
        "write_pos": torch.tensor([[14, 19, 0, 0]], dtype=torch.int32),
    }
    rows = pooled.double() / (pooled.double().square().mean(1, keepdim=True) + 1e-3).sqrt() * norm_w.double()
    expected = turned(rows[:2], angles[torch.tensor([10, 15])])
    inputs = {**maps, "freqs_cos": cos, "freqs_sin": sin, "pooled": pooled, "norm_w": norm_w}
    normed = run_op("rmsnorm_rope", inputs, {"normed": (dtype, (4, 10))}, precision, ratio=5, eps=1e-3)["normed"]
    assert_close(normed[:2], expected, precision)
    assert not normed[2:].any()
    kept = typed(precision, dtype, torch.full((4, 10), 3.0))
    run_op("rmsnorm_rope_pad", inputs, {"normed": kept}, precision, ratio=5, eps=1e-3)
    assert torch.equal(kept[:2], normed[:2]) and (kept[2:] == 3).all()
    inits = run_op("norm_pad_init", {}, {"pooled": ("f32", (8, 3)), "normed": ("f32", (8, 3))})
    assert not inits["pooled"].any() and not inits["normed"].any()
    step = {"cos": angles[:2].cos(), "sin": angles[:2].sin(), "pooled": pooled, "norm_w": norm_w}
    normed = run_op("rmsnorm_rope_step", step, {"normed": (dtype, (4, 10))}, precision, eps=1e-3)["normed"]
    assert_close(normed[:2], turned(rows[:2], angles[:2]), precision)
    assert not normed[2:].any()


def test_rows_into_caches():
    cache, rows = torch.zeros(3, 4, 1, 5), torch.randn(4, 5)
    run_op("cache_write", {"write_dst": torch.tensor([[6, 11, -1, -1]], dtype=torch.int32), "rows": rows}, {"cache": cache})
    flat = cache.view(12, 5)
    assert torch.equal(flat[6], rows[0]) and torch.equal(flat[11], rows[1]) and flat.count_nonzero() == 10

    cache, position = torch.zeros(3, 4, 1, 5), torch.tensor([3, -1, 7, 9], dtype=torch.int32)
    inputs = {"position_ids": position, "slot_mapping": torch.tensor([2, -1, 9, -1]), "rows": torch.randn(16, 5)}
    out = run_op("cache_write_step", inputs, {"cache": cache, "out": ("f32", (2, 2, 5))})["out"]
    flat, rows = cache.view(12, 5), inputs["rows"]
    assert torch.equal(flat[2], rows[0]) and torch.equal(flat[9], rows[2]) and flat.count_nonzero() == 10
    assert torch.equal(out[0, 0], rows[0]) and torch.equal(out[1, 0], rows[2]) and not out[:, 1].any()

    kv, ring = torch.randn(4, 5), torch.zeros(3, 4, 1, 5)
    run_op("cache_writeback", {"slot_mapping": torch.tensor([-1, 0, 11, -1]), "kv": kv}, {"kv_cache": ring})
    assert torch.equal(ring.view(12, 5)[[0, 11]], kv[1:3]) and ring.count_nonzero() == 10


def test_newest_projections_into_the_ring():
    state, ape = torch.zeros(3, 2, 10), torch.randn(4, 5)
    kv, score = torch.randn(16, 5), torch.randn(16, 5)
    inputs = {"slot_mapping": torch.tensor([-1, 4, 1]), "position_ids": torch.tensor([-1, 6, 7], dtype=torch.int32)}
    run_op("state_update", {**inputs, "ape": ape, "kv": kv, "score": score}, {"state": state})
    flat = state.view(6, 10)
    assert_close(flat[4], torch.cat((kv[1], score[1] + ape[2])))
    assert_close(flat[1], torch.cat((kv[2], score[2] + ape[3])))
    assert flat.count_nonzero() == 20


# Indexer


@pytest.mark.parametrize("precision", PRECISIONS)
def test_index_queries(precision):
    tokens, rank, heads, width, rope = 3, 24, 2, 8, 4
    qr = codes(tokens, rank) if precision.startswith("w8a8") else typed(precision, "qact", torch.randn(tokens, rank))
    qr_scale = 0.01 + torch.rand(tokens, 1) * 0.01 if precision.startswith("w8a8") else torch.ones(tokens, 1)
    w, scale, value = weight(precision, heads * width, rank)
    expected = qr.double() * qr_scale.double() @ value.T
    inputs = {"qr": qr, "wq_b": w, "wq_b_scale": scale, "qr_scale": qr_scale}
    proj = run_op("idx_qr_proj", inputs, {"qr_proj": ("f32", (tokens, heads * width))}, precision)["qr_proj"]
    step = run_op(
        "idx_qr_proj_step", inputs, {"acc": ("acc", (16, heads * width)), "qr_proj": ("f32", (tokens, heads * width))}, precision
    )
    assert_close(proj, expected)
    assert torch.equal(step["qr_proj"], proj)

    angles = torch.rand(tokens, rope // 2)
    given = {"cos": angles.cos(), "sin": angles.sin(), "qr_proj": proj}
    rope_out = run_op("idx_qr_rope", given, {"rope_out": ("act", (tokens * heads, rope))}, precision)["rope_out"]
    rotated = turned(expected.view(tokens, heads, width), angles[:, None]).view(-1, width)
    assert_close(rope_out, rotated[:, -rope:], precision)
    matrix = typed(precision, "act", torch.linalg.qr(torch.randn(width, width))[0])
    inputs = {"qr_proj": proj, "rope_out": rope_out, "hadamard": matrix}
    made = run_op("idx_qr_hadamard_quant", inputs, {"q": ("qact", (6, width)), "q_scale": ("f32", (6, 1))}, precision)
    assert_close(
        made["q"].double() * made["q_scale"], rotated @ matrix.double(), "w8a8" if precision == "w8a8-f32" else precision
    )


def test_index_weights_and_rows():
    x, w = torch.randn(3, 20), torch.randn(4, 20)
    weights = run_op("idx_weights_proj", {"x": x, "w": w}, {"weights": ("f32", (16, 4))}, head_dim=9)["weights"]
    assert_close(weights[:3], x.double() @ w.double().T / math.sqrt(4) / math.sqrt(9))
    assert not weights[3:].any()
    normed, matrix = torch.randn(5, 8), torch.randn(8, 8)
    rotated = run_op("idx_kv_hadamard", {"normed": normed, "hadamard": matrix}, {"rotated": ("f32", (5, 8))})["rotated"]
    assert_close(rotated, normed.double() @ matrix.double())


@pytest.mark.parametrize("precision", ["f32", "w8a8"])
def test_index_rows_into_the_cache(precision):
    kind = TORCH_DTYPES[DTYPES[precision]["qact"]]
    cache, scales, rows = torch.zeros(2, 4, 1, 8, dtype=kind), torch.zeros(2, 4, 1, 1), torch.randn(16, 8)
    dst = torch.tensor([[5, -1]], dtype=torch.int32)
    run_op("idx_cache_write", {"write_dst": dst, "rows": rows[:2]}, {"cache": cache, "scales": scales}, precision)
    assert_close(cache.view(8, 8)[5] * scales.view(8)[5], rows[0], "w8a8")
    assert scales.count_nonzero() == 1
    position, slots = torch.tensor([3, 5], dtype=torch.int32), torch.tensor([7, -1])
    inputs = {"position_ids": position, "slot_mapping": slots, "rows": rows}
    outputs = {"cache": cache, "scales": scales, "out": ("f32", (2, 1, 8))}
    out = run_op("idx_cache_write_step", inputs, outputs, precision)["out"]
    assert_close(cache.view(8, 8)[7] * scales.view(8)[7], rows[0], "w8a8")
    assert torch.equal(out[0, 0], rows[0]) and not out[1].any()


@pytest.mark.parametrize("precision", ["f32", "w8a8"])
def test_scores_of_visible_rows(precision):
    requests, seq, heads, width, rows, ratio = 3, 2, 4, 8, 12, 4
    tokens, kind = requests * seq, TORCH_DTYPES[DTYPES[precision]["qact"]]
    make = (lambda *shape: codes(*shape)) if precision == "w8a8" else (lambda *shape: torch.randn(shape).to(kind))
    q, keys = make(tokens * heads, width), make(8, 4, 1, width)
    q_scale, key_scale, weights = torch.rand(tokens * heads, 1), torch.rand(8, 4, 1, 1), torch.randn(16, heads)
    table = torch.tensor([[3, 1, 7], [0, 2, 4], [5, 6, 0]], dtype=torch.int32)
    position = torch.tensor([30, 31, -1, -1, 2, 3], dtype=torch.int32)
    score = run_op("idx_score_init", {}, {"score": ("f32", (requests, seq, rows))})["score"]
    assert (score == float("-inf")).all()
    inputs = {"idx_kv": keys, "idx_kv_scale": key_scale, "q": q, "q_scale": q_scale}
    given = {"position_ids": position, "block_table": table, "weights": weights, **inputs}
    run_op("idx_score_step", given, {"score": score}, precision, ratio=ratio)

    def expected(token, row):
        page = int(table[token // seq, row // 4])
        key = keys[page, row % 4, 0].double() * key_scale[page, row % 4].double()
        dots = (q[token * heads : (token + 1) * heads].double() * q_scale[token * heads : (token + 1) * heads]) @ key.view(-1)
        return float((weights[token].double() * dots.clamp(min=0)).sum())

    for token in range(tokens):
        visible = (int(position[token]) + 1) // ratio
        found = score.view(tokens, rows)[token]
        assert_close(found[:visible], torch.tensor([expected(token, row) for row in range(visible)]).view(visible))
        assert (found[visible:] == float("-inf")).all()

    one = run_op("idx_score_init", {}, {"score": ("f32", (2, rows))})["score"]  # the first request by prefill's op
    part = {"q": q[: 2 * heads], "q_scale": q_scale[: 2 * heads], "weights": weights[:2]}
    given = {"position_ids": position[:2], "block_table": table[0], **inputs, **part}
    run_op("idx_score", given, {"score": one}, precision, ratio=ratio)
    assert_close(one[:, :7], score[0, :, :7])
    shown = run_op("idx_score_out", {"score": one}, {"out": ("f32", (2, 5))})["out"]
    assert torch.equal(shown, one[:, :5])


def test_best_rows():
    position = torch.tensor([3, 21, 43, -1], dtype=torch.int32)
    score = torch.full((4, 12), float("-inf"))
    for token, visible in enumerate((1, 5, 11, 0)):
        score[token, :visible] = torch.randperm(visible).float() - 5
    given = {"position_ids": position, "prompt_len": torch.tensor([44], dtype=torch.int32), "score": score}
    topk = run_op("idx_topk", given, {"topk": ("i32", (4, 6))}, ratio=4)["topk"]
    step = run_op(
        "idx_topk_step", {"position_ids": position, "score": score.view(2, 2, 12)}, {"topk": ("i32", (2, 2, 6))}, ratio=4
    )
    for token, visible in enumerate((1, 5, 11, 0)):
        ranked = sorted(range(visible), key=lambda row: -float(score[token, row]))[:6]
        assert topk[token].tolist() == ranked + [-1] * (6 - len(ranked))
    assert torch.equal(step["topk"].view(4, 6), topk)
