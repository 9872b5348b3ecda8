"""Router, experts, exchange, embedding and head against transformers' modules and plain formulas."""

import threading

import pytest
import torch
from op_calls import DTYPES, REGISTRY, act, rubbish, run_op
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HashRouter, DeepseekV4MLP, DeepseekV4TopKRouter

from ops.kernels import numerics
from runner.base.errors import ExecutionError
from runner.execution.comm import LocalComm
from runner.execution.storage import TORCH_DTYPES

PRECISIONS = list(DTYPES)


def quantise(x):
    """Per-row INT8 by the formula, in f64: integers and what each is worth."""
    x = x.double()
    scale = torch.clamp(x.abs().amax(-1, keepdim=True), min=1e-4) / 127
    return torch.round(x / scale), scale


def weight(precision, *shape):
    """A weight of the precision, its scale, and its value in f64."""
    w = torch.randn(shape) * shape[-1] ** -0.5
    if DTYPES[precision]["wq"] == "i8":
        q, scale = quantise(w)
        return q.to(torch.int8), scale.squeeze(-1).float(), q * scale.float().double()
    w = w.to(TORCH_DTYPES[DTYPES[precision]["wq"]])
    return w, torch.ones(shape[:-1]), w.double()


def fake_quantised(x, precision):
    """What a quantised matmul sees of activations."""
    if DTYPES[precision]["qact"] == "i8":
        q, scale = quantise(x)
        return q * scale
    return x.to(TORCH_DTYPES[DTYPES[precision]["qact"]]).double()


def assert_close(made, expected, precision):
    """Within a rounding of activations; an integer that rounds the other way moves a sum by a fraction of a percent."""
    error = (made.double() - expected).norm() / expected.norm()
    assert error < {"f32": 1e-6, "bf16": 4e-3, "w8a8": 5e-3, "w8a8-f32": 2e-4}[precision], float(error)


# Arithmetic


def test_quantise_rows_follows_the_rules():
    x = torch.tensor([[1.0, -127.0, 0.5, 1.5, 2.5, 126.6], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1e-5, 0, 0, 0, 0, -2e-5]])
    out, scale = rubbish(torch.int8, 3, 6), rubbish(torch.float32, 3, 1)
    numerics.quantise_rows(x, out, scale)
    assert out.tolist() == [[1, -127, 0, 2, 2, 127], [0] * 6, [13, 0, 0, 0, 0, -25]]  # ties to even; amax at least 1e-4
    torch.testing.assert_close(scale, torch.tensor([[1.0], [1e-4 / 127], [1e-4 / 127]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantise_rows_copies_where_nothing_is_quantised(dtype):
    x, out, scale = torch.randn(3, 5), rubbish(dtype, 3, 5), rubbish(torch.float32, 3)
    numerics.quantise_rows(x, out, scale)
    assert torch.equal(out, x.to(dtype)) and torch.equal(scale, torch.ones(3))


@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (1, 5000, 3), (16, 4096, 40), (17, 33, 5)])
def test_integer_products_are_exact(m, k, n):
    x, w = torch.randint(-128, 128, (m, k), dtype=torch.int8), torch.randint(-128, 128, (n, k), dtype=torch.int8)
    x[0], w[0] = -128, -128
    out = rubbish(torch.int32, m, n)
    numerics.matmul_nt(x, w, out)
    assert torch.equal(out.long(), x.long() @ w.long().T)


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
def test_float_products_are_summed_in_f32(x_dtype, out_dtype):
    x, w = torch.randn(5, 300).to(x_dtype), torch.randn(4100, 300).to(x_dtype)
    out = rubbish(out_dtype, 5, 4100)
    numerics.matmul_nt(x, w, out)
    torch.testing.assert_close(
        out, (x.double() @ w.double().T).to(out_dtype), atol=1e-4, rtol=1e-5 if out_dtype == torch.float32 else 1e-2
    )


def test_a_scale_that_is_written_is_looked_at_again():
    """A block of a ring holds one tensor after another; other views of it may write it."""
    block = torch.zeros(64, dtype=torch.uint8)
    scale, other = block.view(torch.float32).as_strided((4,), (1,), 2), block.view(torch.float32)
    for value in (1.0, 3.0, 1.0):
        other.fill_(value)
        assert numerics.is_ones(scale) == numerics.is_ones(scale) == (value == 1.0)


def test_a_scale_of_a_task_is_looked_at_again():
    """Blocks of a run are inference tensors, whose writes nobody counts."""
    with torch.inference_mode():
        test_a_scale_that_is_written_is_looked_at_again()


# Router


def config(**fields):
    base = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 50, "moe_intermediate_size": 24}
    return DeepseekV4Config(**{**base, "n_routed_experts": 20, "num_experts_per_tok": 4, "routed_scaling_factor": 1.7, **fields})


def randomise(module):
    with torch.no_grad():
        for parameter in (*module.parameters(), *module.buffers()):
            if parameter.is_floating_point():
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return module


def by_expert(indices, weights, num_experts):
    """Routing as a dense table, so that the order of choices does not matter."""
    table = torch.zeros(indices.shape[0], num_experts)
    return table.scatter_add(1, indices.clamp(min=0).long(), weights * (indices >= 0))


@pytest.mark.parametrize("num_tokens, experts, topk", [(1, 8, 2), (16, 20, 4), (13, 300, 6)])
def test_scored_routing_is_the_top_k_router(num_tokens, experts, topk):
    torch.manual_seed(experts)
    module = randomise(DeepseekV4TopKRouter(config(n_routed_experts=experts, num_experts_per_tok=topk)))
    x, columns = torch.randn(num_tokens, 32), -(-experts // 256) * 256
    shape = (num_tokens, columns)
    inputs = {"x": x, "w": module.weight.data, "bias": module.e_score_correction_bias}
    scores = run_op("gate", inputs, {"scores": ("f32", shape), "biased": ("f32", shape)})
    routed = {"indices": ("i32", (num_tokens, topk)), "weights": ("f32", (num_tokens, topk))}
    made = run_op("route_sort", {"biased": scores["biased"], "scores": scores["scores"]}, routed, factor=1.7)
    _, weights, indices = module(x)
    torch.testing.assert_close(by_expert(made["indices"], made["weights"], experts), by_expert(indices, weights, experts))
    chosen = scores["biased"].gather(1, made["indices"].long())
    assert (chosen[:, :-1] >= chosen[:, 1:]).all()


def test_of_equal_scores_the_lower_expert_wins():
    scores = torch.tensor([[0.5, 1.0, 0.5, 1.0, 0.5, 1.0]])
    routed = {"indices": ("i32", (1, 4)), "weights": ("f32", (1, 4))}
    made = run_op("route_sort", {"biased": scores, "scores": scores}, routed, factor=3.0)
    assert made["indices"].tolist() == [[1, 3, 5, 0]]
    torch.testing.assert_close(made["weights"], torch.tensor([[1.0, 1.0, 1.0, 0.5]]) * 3 / 3.5)


def tied_scores(num_tokens, experts, generator):
    """Few different biased scores, so that most are tied."""
    return torch.randint(1, 4, (num_tokens, experts), generator=generator) / 4


@pytest.mark.parametrize("experts, topk", [(6, 2), (16, 3), (20, 6), (256, 6), (300, 8), (384, 6)])
def test_ties_are_those_of_a_stable_sort_as_in_the_kernels(experts, topk):
    """pypto-lib checks its `gate` against a stable sort of the negated scores."""
    biased = tied_scores(40, experts, torch.Generator().manual_seed(experts))
    routed = {"indices": ("i32", (40, topk)), "weights": ("f32", (40, topk))}
    made = run_op("route_sort", {"biased": biased, "scores": biased}, routed, factor=1.5)
    golden = [sorted(range(experts), key=lambda expert, row=row: (-row[expert], expert))[:topk] for row in biased.tolist()]
    assert made["indices"].tolist() == golden


def test_equal_gate_rows_go_to_the_first_experts_here_and_where_topk_says_in_transformers():
    """The same scores and weights, but other experts: what is documented as the difference from transformers."""
    torch.manual_seed(1)
    experts, topk = 16, 3
    sizes = {"n_routed_experts": experts, "num_experts_per_tok": topk}
    module = randomise(DeepseekV4TopKRouter(config(**sizes, routed_scaling_factor=1.5)))
    module.weight.data[:] = module.weight.data[0]
    module.e_score_correction_bias.zero_()
    x = torch.randn(9, 32)
    shape = (9, 256)
    inputs = {"x": x, "w": module.weight.data, "bias": module.e_score_correction_bias}
    scores = run_op("gate", inputs, {"scores": ("f32", shape), "biased": ("f32", shape)})
    routed = {"indices": ("i32", (9, topk)), "weights": ("f32", (9, topk))}
    made = run_op("route_sort", {"biased": scores["biased"], "scores": scores["scores"]}, routed, factor=1.5)
    logits, weights, indices = module(x)
    assert made["indices"].tolist() == [[0, 1, 2]] * 9
    picked = torch.topk(module.score_fn(logits), topk, dim=-1, sorted=False).indices
    assert indices.sort().values.tolist() == picked.sort().values.tolist() != [[0, 1, 2]] * 9
    torch.testing.assert_close(made["weights"], weights)


@pytest.mark.parametrize("repeats", [False, True])
def test_hashed_routing_is_the_hash_router(repeats):
    torch.manual_seed(5)
    module = randomise(DeepseekV4HashRouter(config()))
    table = torch.randint(0, 20, (50, 4)) if repeats else torch.stack([torch.randperm(20)[:4] for _ in range(50)])
    table[7] = 3 if repeats else table[7]
    module.tid2eid.copy_(table)
    ids, x = torch.randint(0, 50, (9,)), torch.randn(9, 32)
    ids[0] = 7
    shape = (9, 256)
    scores = run_op("gate", {"x": x, "w": module.weight.data}, {"scores": ("f32", shape), "biased": ("f32", shape)})["scores"]
    inputs = {"input_ids": ids, "tid2eid": table.int(), "scores": scores}
    made = run_op("route_hash", inputs, {"indices": ("i32", (9, 4)), "weights": ("f32", (9, 4))}, factor=1.7)
    _, weights, indices = module(x, ids)
    torch.testing.assert_close(by_expert(made["indices"], made["weights"], 20), by_expert(indices, weights, 20))
    if repeats:
        assert made["indices"][0].tolist() == [3, -1, -1, -1], "an expert gets a token once"


def test_idle_tokens_are_not_routed():
    indices, weights = torch.arange(6, dtype=torch.int32).view(3, 2), torch.ones(3, 2)
    positions = torch.tensor([5, -1, 0], dtype=torch.int32)
    run_op("gate_inactive_zero", {"position_ids": positions}, {"indices": indices, "weights": weights})
    assert indices.tolist() == [[0, 1], [-1, -1], [4, 5]]
    assert weights.tolist() == [[1, 1], [0, 0], [1, 1]]


# Shared expert


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_tokens, rows", [(1, 16), (8, 16), (20, 32)])
def test_shared_expert(num_tokens, rows, precision):
    torch.manual_seed(num_tokens)
    width, hidden, limit = 32, 24, 0.4
    x = torch.randn(num_tokens, width)
    (w1, s1, v1), (w3, s3, v3), (w2, s2, v2) = (
        weight(precision, *shape) for shape in [(hidden, width), (hidden, width), (width, hidden)]
    )
    tokens = {"x_norm_i8": ("qact", (num_tokens, width)), "x_norm_scale": ("f32", (num_tokens, 1))}
    made = run_op("x_norm_quant", {"x_norm_gate": x}, tokens, precision)
    inputs = {"x": made["x_norm_i8"], "x_scale": made["x_norm_scale"], "w1": w1, "w1_scale": s1, "w3": w3, "w3_scale": s3}
    h = run_op("sh_gate_up", inputs, {"h": ("f32", (rows, hidden))}, precision, limit=limit)["h"]
    hq = run_op("sh_h_q", {"h": h}, {"h_i8": ("qact", (rows, hidden)), "h_scale": ("f32", (rows, 1))}, precision)
    y = run_op("sh_w2", {**hq, "w2": w2, "w2_scale": s2}, {"y": ("act", (rows, width))}, precision)["y"]
    sh = run_op("sh_output", {"y": y}, {"sh": ("act", (num_tokens, width))}, precision)["sh"]

    module = DeepseekV4MLP(config(swiglu_limit=limit)).double()
    module.gate_proj.weight.data, module.up_proj.weight.data = v1, v3
    module.down_proj = torch.nn.Identity()
    hidden_rows = module(fake_quantised(x, precision))
    assert_close(sh, fake_quantised(hidden_rows, precision) @ v2.T, precision)


# Exchange


class ThreadComm:
    """Ranks as threads of this process; every call waits for all of them."""

    def __init__(self, rank, size, board, barrier):
        self.rank, self.size, self._board, self._barrier = rank, size, board, barrier

    def _exchange(self, item):
        self._board[self.rank] = item
        self._barrier.wait(timeout=240)
        items = list(self._board)
        self._barrier.wait(timeout=240)
        return items

    def all_gather(self, x):
        return torch.stack(self._exchange(x.clone()))

    def all_to_all(self, x, send_rows, recv_rows):
        assert sum(send_rows) == x.shape[0]
        parts = [split[self.rank] for split in self._exchange(x.clone().split(list(send_rows)))]
        assert [p.shape[0] for p in parts] == list(recv_rows)
        return torch.cat(parts)


def on_ranks(size, work):
    """`work(comm)` of each rank at once: results by rank; an error of a rank is its result."""
    board, barrier, results = [None] * size, threading.Barrier(size), [None] * size

    def run(rank):
        try:
            results[rank] = work(ThreadComm(rank, size, board, barrier))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    return results


def window():
    """The number of exchanges so far."""
    return torch.zeros(1, dtype=torch.int32)


def routing(kind, size, num_tokens, topk, experts, seed=0):
    """Experts [size, T, K] and weights of every rank's tokens; the last token of each rank is idle."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "one":
        rows = torch.arange(topk).expand(size, num_tokens, topk)
    else:
        odds = torch.ones(experts) if kind == "uniform" else 1 / (1.0 + torch.arange(experts)) ** 2
        rows = torch.multinomial(odds.expand(size * num_tokens, -1), topk, generator=generator).view(size, num_tokens, topk)
    rows = rows.clone().int()
    rows[:, -1] = -1
    return rows, torch.rand(size, num_tokens, topk, generator=generator)


def shape_of(layout, size, num_tokens, topk, per_rank, depth):
    return (per_rank, depth) if layout == "padded" else (1, num_tokens * size * min(topk, per_rank))


def moe_on(comm, indices, weights, x, x_scale, experts, sh, layout, depth, precision):
    """Dispatch, all row tiles of this rank's experts, combine: [T, D], and what was received."""
    per_rank, width, hidden = experts["w1"][0].shape[0], x.shape[1], experts["w1"][0].shape[1]
    num_tokens, topk = indices.shape
    buffer = shape_of(layout, comm.size, num_tokens, topk, per_rank, depth)
    outputs = {
        "recv_x": ("qact", (*buffer, width)),
        "recv_scale": ("f32", buffer),
        "recv_w": ("f32", buffer),
        "recv_r_route": ("i32", buffer),
        "recv_count": ("i32", (per_rank, 1)),
        "pub_counts": rubbish(torch.int32, comm.size, comm.size * per_rank),
        "comm_window": window(),
    }
    inputs = {"indices": indices, "weights": weights, "x": x, "x_scale": x_scale}
    got = run_op("dispatch", inputs, outputs, precision, layer=2, comm=comm)
    recv_y = rubbish(act(precision), *buffer, width)
    for e in range(per_rank):
        for t in range(-(-int(got["recv_count"][e, 0]) // 16)):
            run_tile(got, recv_y, experts, e, t, (16, hidden, width), precision)
    inputs = {
        "recv_y": recv_y,
        "recv_r_route": got["recv_r_route"],
        "recv_count": got["recv_count"],
        "pub_counts": got["pub_counts"],
    }
    outputs = {"routed_y": ("act", (num_tokens, topk, width)), "comm_window": got["comm_window"]}
    routed = run_op("combine_push", inputs, outputs, precision, comm=comm)["routed_y"]
    out = run_op("combine_reduce", {"sh": sh, "routed_y": routed}, {"ffn_out": ("act", (num_tokens, width))}, precision)
    return {**got, "recv_y": recv_y, "ffn_out": out["ffn_out"]}


def run_tile(got, recv_y, experts, e, t, sizes, precision):
    rows, hidden, width = sizes
    (w1, s1), (w3, s3), (w2, s2) = ((experts[name][0][e], experts[name][1][e]) for name in ("w1", "w3", "w2"))
    at = {"expert": e, "tile": t}
    x, count = got["recv_x"], got["recv_count"]
    gate = run_op("exp_gate_mm", {"x": x, "count": count, "w": w1}, {"acc": ("acc", (rows, hidden))}, precision, **at)["acc"]
    up = run_op("exp_up_mm", {"x": x, "count": count, "w": w3}, {"acc": ("acc", (rows, hidden))}, precision, **at)["acc"]
    inputs = {"gate": gate, "up": up, "x_scale": got["recv_scale"], "count": count, "w1_scale": s1, "w3_scale": s3}
    h = run_op("exp_gate_up_act", inputs, {"h": ("f32", (rows, hidden))}, precision, limit=0.5, **at)["h"]
    hq = run_op("exp_h_q", {"h": h}, {"h_i8": ("qact", (rows, hidden)), "h_scale": ("f32", (rows, 1))}, precision)
    acc = run_op("exp_w2_mm", {"h_i8": hq["h_i8"], "w": w2}, {"acc": ("acc", (rows, width))}, precision)["acc"]
    inputs = {"acc": acc, "h_scale": hq["h_scale"], "recv_w": got["recv_w"], "count": count, "w2_scale": s2}
    run_op("exp_w2_act", inputs, {"recv_y": recv_y}, precision, **at)


def make_experts(precision, experts, width, hidden):
    return {
        name: weight(precision, experts, *shape)
        for name, shape in [("w1", (hidden, width)), ("w3", (hidden, width)), ("w2", (width, hidden))]
    }


def slice_experts(experts, rank, per_rank):
    mine = slice(rank * per_rank, (rank + 1) * per_rank)
    return {name: tuple(part[mine] for part in parts) for name, parts in experts.items()}


def reference_moe(x, indices, weights, experts, sh, precision, limit=0.5):
    """Token by token, in f64: the shared output plus each chosen expert's."""
    out = sh.double().clone()
    values = {name: parts[2] for name, parts in experts.items()}
    for t in range(x.shape[0]):
        row = fake_quantised(x[t : t + 1], precision)
        for k in range(indices.shape[1]):
            e = int(indices[t, k])
            if e >= 0:
                gate, up = (row @ values["w1"][e].T).clamp(max=limit), (row @ values["w3"][e].T).clamp(-limit, limit)
                h = fake_quantised(gate * torch.sigmoid(gate) * up, precision)
                out[t] += float(weights[t, k]) * (h @ values["w2"][e].T)[0]
    return out


CASES = [
    ("uniform", 1, "ragged", "f32"),
    ("skewed", 1, "padded", "w8a8-f32"),
    ("uniform", 2, "ragged", "w8a8"),
    ("skewed", 2, "padded", "f32"),
    ("one", 4, "ragged", "bf16"),
    ("one", 4, "padded", "w8a8-f32"),
    ("skewed", 8, "ragged", "w8a8-f32"),
]


def run_case(kind, size, layout, precision, num_tokens=11, topk=3, experts=8, depth=96, seed=1):
    torch.manual_seed(seed)
    width, hidden, per_rank = 16, 24, experts // size
    indices, weights = routing(kind, size, num_tokens, topk, experts, seed)
    x, sh = torch.randn(size, num_tokens, width), torch.randn(size, num_tokens, width).to(act(precision))
    table = make_experts(precision, experts, width, hidden)

    def work(comm):
        r = comm.rank
        tokens = {"x_norm_i8": ("qact", (num_tokens, width)), "x_norm_scale": ("f32", (num_tokens, 1))}
        q = run_op("x_norm_quant", {"x_norm_gate": x[r]}, tokens, precision)
        mine = slice_experts(table, r, per_rank)
        return moe_on(comm, indices[r], weights[r], q["x_norm_i8"], q["x_norm_scale"], mine, sh[r], layout, depth, precision)

    results = [work(LocalComm())] if size == 1 else on_ranks(size, work)
    return results, (x, indices, weights, table, sh)


@pytest.mark.parametrize("kind, size, layout, precision", CASES)
def test_experts_over_ranks(kind, size, layout, precision):
    results, (x, indices, weights, table, sh) = run_case(kind, size, layout, precision)
    for r, result in enumerate(results):
        assert not isinstance(result, Exception), result
        expected = reference_moe(x[r], indices[r], weights[r], table, sh[r], precision)
        assert_close(result["ffn_out"], expected, precision)
        torch.testing.assert_close(result["ffn_out"][-1], sh[r, -1], msg="an idle token takes nothing from experts")


def test_rows_of_an_expert_come_by_source_rank_then_route():
    results, (_, indices, weights, _, _) = run_case("skewed", 2, "padded", "w8a8")
    ragged, _ = run_case("skewed", 2, "ragged", "w8a8")
    for rank, (result, packed) in enumerate(zip(results, ragged, strict=True)):
        begin = 0
        for e in range(4):
            wanted = [(r, int(i)) for r in range(2) for i in (indices[r].flatten() == rank * 4 + e).nonzero()]
            count = int(result["recv_count"][e, 0])
            assert result["recv_r_route"][e, :count].tolist() == [route for _, route in wanted]
            assert result["recv_w"][e, :count].tolist() == [float(weights[r].flatten()[route]) for r, route in wanted]
            assert packed["recv_r_route"][0, begin : begin + count].tolist() == [route for _, route in wanted]
            assert torch.equal(result["recv_y"][e, :count], packed["recv_y"][0, begin : begin + count])
            assert (result["recv_r_route"][e, count:] == 77).all() and result["recv_y"][e, count:].isnan().all(), "rows beyond"
            begin += count
        assert torch.equal(result["ffn_out"], packed["ffn_out"]), "layouts agree bit for bit"


@pytest.mark.parametrize("precision", ["f32", "w8a8"])
def test_ranks_do_not_change_a_bit(precision):
    """Every rank with the same tokens gets the bits that one rank alone gets."""
    torch.manual_seed(4)
    experts, width, hidden, num_tokens, topk = 8, 64, 48, 9, 3
    indices, weights = (part[0] for part in routing("skewed", 1, num_tokens, topk, experts))
    x, sh = torch.randn(num_tokens, width), torch.randn(num_tokens, width).to(act(precision))
    table = make_experts(precision, experts, width, hidden)
    tokens = {"x_norm_i8": ("qact", (num_tokens, width)), "x_norm_scale": ("f32", (num_tokens, 1))}
    q = run_op("x_norm_quant", {"x_norm_gate": x}, tokens, precision)

    def work(comm):
        mine = slice_experts(table, comm.rank, experts // comm.size)
        return moe_on(comm, indices, weights, q["x_norm_i8"], q["x_norm_scale"], mine, sh, "ragged", 0, precision)["ffn_out"]

    alone = work(LocalComm())
    for size in (2, 4, 8):
        assert all(torch.equal(result, alone) for result in on_ranks(size, work))


def test_overflow_is_refused_alike_on_every_rank_before_any_row_moves():
    results, _ = run_case("one", 4, "padded", "f32", depth=32)  # 4 ranks of 10 active tokens: 40 rows for experts 0, 1 and 2
    texts = {str(result) for result in results}
    assert texts == {
        "layer 2: expert 0 (expert 0 of rank 0) would receive 40 rows, but 'recv_max' is 32\n"
        "hint: --set recv_max=48, or --set recv_layout=ragged, which cannot overflow"
    }
    assert all(isinstance(result, ExecutionError) for result in results)
    fits, _ = run_case("one", 4, "padded", "f32", depth=40)
    assert not any(isinstance(result, Exception) for result in fits)


def test_a_rank_without_routes_takes_part():
    indices = torch.full((3, 2), -1, dtype=torch.int32)
    table = make_experts("f32", 4, 8, 8)
    x, sh = torch.randn(3, 8), torch.randn(3, 8)

    def work(comm):
        mine = slice_experts(table, comm.rank, 2)
        return moe_on(comm, indices, torch.zeros(3, 2), x, torch.ones(3, 1), mine, sh, "ragged", 0, "f32")

    for result in on_ranks(2, work):
        assert torch.equal(result["ffn_out"], sh)
        assert result["recv_count"].sum() == 0


# Embedding and head


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_embedding_fills_every_stream(precision):
    w, ids = torch.randn(20, 6).to(act(precision)), torch.tensor([3, 19, 3, 0])
    made = run_op("lookup_embedding", {"input_ids": ids, "weight": w}, {"x_hc": ("act", (4, 3, 6))}, precision)["x_hc"]
    assert all(torch.equal(made[t, h], w[ids[t]]) for t in range(4) for h in range(3))


@pytest.mark.parametrize("size, vocab", [(1, 50), (2, 50), (4, 50), (4, 64), (8, 50)])
def test_head_gives_each_rank_its_own_tokens_over_the_whole_vocabulary(size, vocab):
    torch.manual_seed(size)
    num_tokens, width, columns = 5, 12, -(-vocab // size)
    w = torch.randn(columns * size, width)
    x = torch.randn(size, num_tokens, width)

    def work(comm):
        outputs = {"hidden_window": ("act", (size, num_tokens, width)), "comm_window": window()}
        hidden = run_op("lm_head_gather", {"x": x[comm.rank]}, outputs, comm=comm)["hidden_window"]
        inputs = {"hidden_window": hidden, "w": w[comm.rank * columns : (comm.rank + 1) * columns]}
        shard = run_op("lm_head_mm", inputs, {"logits_shard": ("f32", (size, num_tokens, columns))})
        outputs = {"logits": ("f32", (num_tokens, vocab)), "comm_window": window()}
        return run_op("lm_head_combine", shard, outputs, comm=comm)["logits"]

    results = [work(LocalComm())] if size == 1 else on_ranks(size, work)
    for r, logits in enumerate(results):
        torch.testing.assert_close(logits, x[r] @ w[:vocab].T, atol=1e-5, rtol=1e-5)


# Declarations


def test_every_op_says_what_it_computes():
    assert [name for name, definition in REGISTRY.items() if not definition.doc] == []
