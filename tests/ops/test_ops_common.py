"""Ops that families share, against torch and transformers, and against each other where one task does what several do."""

import pytest
import torch
from op_calls import act, run_op
from torch.nn.functional import scaled_dot_product_attention

NAN = float("nan")


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# --- products ---


def test_linear_and_its_sum():
    x, w = randn(5, 12), randn(7, 12, seed=1)
    y = run_op("linear", {"x": x, "w": w}, {"y": ("f32", (5, 7))})["y"]
    torch.testing.assert_close(y, torch.nn.functional.linear(x, w))
    acc = run_op("linear_add", {"x": x, "w": w}, {"acc": torch.ones(5, 7)})["acc"]
    torch.testing.assert_close(acc, 1 + torch.nn.functional.linear(x, w))


def quantised(rows, columns, seed):
    codes = torch.randint(-127, 128, (rows, columns), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    return codes, randn(rows, seed=seed + 1).abs() + 0.1


def test_quantised_products():
    (x, x_scale), (w, w_scale), (v, v_scale) = quantised(5, 40, 0), quantised(7, 40, 2), quantised(7, 40, 4)
    given = {"x": x, "x_scale": x_scale[:, None]}
    exact = (x.double() * x_scale[:, None].double()) @ (w.double() * w_scale[:, None].double()).T
    other = (x.double() * x_scale[:, None].double()) @ (v.double() * v_scale[:, None].double()).T
    y = run_op("quant_linear", {**given, "w": w, "w_scale": w_scale}, {"y": ("f32", (5, 7))}, "w8a8")["y"]
    acc = run_op("quant_linear_add", {**given, "w": w, "w_scale": w_scale}, {"acc": torch.ones(5, 7)}, "w8a8")["acc"]
    pair = {**given, "w1": w, "w1_scale": w_scale, "w2": v, "w2_scale": v_scale}
    both = run_op("quant_linear_pair", pair, {"y1": ("f32", (5, 7)), "y2": ("f32", (5, 7))}, "w8a8")
    torch.testing.assert_close(y.double(), exact, rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(acc.double(), exact + 1, rtol=1e-6, atol=1e-3)
    assert torch.equal(both["y1"], y)
    torch.testing.assert_close(both["y2"].double(), other, rtol=1e-6, atol=1e-3)


def test_rows_of_one_dtype_in_another():
    x = randn(3, 4)
    assert torch.equal(run_op("cast", {"x": x}, {"y": ("bf16", (3, 4))})["y"], x.bfloat16())
    both = run_op("add", {"a": x.bfloat16(), "b": x}, {"y": ("bf16", (3, 4))})["y"]
    assert torch.equal(both, (x.bfloat16().float() + x).bfloat16())
    assert torch.equal(run_op("add_bias", {"bias": x[0]}, {"y": x.clone()})["y"], x + x[0])


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_swiglu(precision):
    gate, up = randn(4, 6), randn(4, 6, seed=1)
    h = run_op("swiglu", {"gate": gate, "up": up}, {"h": ("act", (4, 6))}, precision)["h"]
    torch.testing.assert_close(h, (gate / (1 + torch.exp(-gate)) * up).to(act(precision)))


def test_embedding_pads_with_zeros():
    table = randn(9, 4)
    x = run_op("embedding", {"ids": torch.tensor([8, 0, 3]), "table": table}, {"x": ("f32", (5, 4))})["x"]
    assert torch.equal(x, torch.cat((table[[8, 0, 3]], torch.zeros(2, 4))))


@pytest.mark.parametrize("precision", ["f32", "bf16", "w8a8"])
def test_norm_as_a_quantised_product_takes_it(precision):
    x, w = 3 * randn(6, 16), (1 + randn(16, seed=1)).to(act(precision))
    got = run_op("rms_norm_quant", {"x": x, "w": w}, {"y": ("qact", (6, 16)), "y_scale": ("f32", (6, 1))}, precision, eps=1e-6)
    exact = torch.nn.functional.rms_norm(x, (16,), w.float(), 1e-6)
    if precision == "w8a8":
        assert got["y"].dtype == torch.int8 and got["y"].abs().amax(1).eq(127).all()
        torch.testing.assert_close(got["y"] * got["y_scale"], exact, rtol=0, atol=float(exact.abs().max()) / 250)
    else:
        torch.testing.assert_close(got["y"], exact.to(act(precision)))
        assert got["y_scale"].eq(1).all()


# --- rotation and pages ---


def tables(columns, num_positions=64):
    angles = torch.arange(num_positions)[:, None] * 100.0 ** (-torch.arange(0, columns, 2) / columns)
    return torch.cat((angles.cos(),) * 2, -1), torch.cat((angles.sin(),) * 2, -1)


def test_rotation_norm_and_cache():
    """Heads one by one, in complex numbers; padding rows, an idle token and a token that is kept nowhere."""
    heads, kv_heads, columns, rows = 6, 2, 8, 5
    positions, slots = torch.tensor([7, -1, 9, 10], dtype=torch.int32), torch.tensor([3, -1, 0, -1])
    q, k, v = randn(rows, heads * columns), randn(rows, kv_heads * columns, seed=1), randn(rows, kv_heads * columns, seed=2)
    q_norm, k_norm = 1 + randn(columns, seed=3), 1 + randn(columns, seed=4)
    cos, sin = tables(columns)
    caches = torch.full((2, 3, kv_heads, columns), NAN), torch.full((2, 3, kv_heads, columns), NAN)
    given = {"q_proj": q, "k_proj": k, "v_proj": v, "q_norm": q_norm, "k_norm": k_norm, "cos": cos, "sin": sin}
    got = run_op(
        "rope_kv_cache",
        {**given, "position_ids": positions, "slots": slots},
        {"q": ("act", (rows * kv_heads * 4, columns)), "k_cache": caches[0], "v_cache": caches[1]},
        eps=1e-5,
    )

    def turned(head, norm, position):
        head = torch.nn.functional.rms_norm(head, (columns,), norm, 1e-5)
        pairs = torch.complex(head[: columns // 2], head[columns // 2 :])
        pairs = pairs * torch.complex(cos[position, : columns // 2], sin[position, : columns // 2])
        return torch.cat((pairs.real, pairs.imag))

    queries = got["q"].view(rows, kv_heads, 4, columns)
    for token, position in enumerate(positions.tolist()):
        for head in range(heads if position >= 0 else 0):
            expected = turned(q[token].view(heads, columns)[head], q_norm, position)
            torch.testing.assert_close(queries[token, head // 3, head % 3], expected)
    assert queries[1].eq(0).all() and queries[4].eq(0).all() and queries[:, :, 3].eq(0).all()
    flat = got["k_cache"].view(-1, kv_heads, columns)
    for token, slot in ((0, 3), (2, 0)):
        for head in range(kv_heads):
            expected = turned(k[token].view(kv_heads, columns)[head], k_norm, int(positions[token]))
            torch.testing.assert_close(flat[slot, head], expected)
        assert torch.equal(got["v_cache"].view(-1, kv_heads, columns)[slot].flatten(), v[token])
    assert flat[[1, 2, 4, 5]].isnan().all() and got["v_cache"].view(-1, kv_heads, columns)[[1, 2, 4, 5]].isnan().all()


class Paged:
    """Keys and values of requests in shuffled pages, all else NaN."""

    def __init__(self, lengths, kv_heads, columns, page, table, seed=0):
        order = torch.randperm(len(lengths) * table, generator=torch.Generator().manual_seed(seed)).view(len(lengths), table)
        self.table = order.to(torch.int32)
        self.keys = [randn(length, kv_heads, columns, seed=seed + 1) for length in lengths]
        self.values = [randn(length, kv_heads, columns, seed=seed + 2) for length in lengths]
        self.caches = tuple(torch.full((len(lengths) * table, page, kv_heads, columns), NAN) for _ in range(2))
        for cache, rows in zip(self.caches, (self.keys, self.values), strict=True):
            for request, values in enumerate(rows):
                for position, row in enumerate(values):
                    cache[order[request, position // page], position % page] = row

    def expected(self, request, queries, positions, window):
        """[tokens, heads, columns] by torch's own attention."""
        keys, values = (
            rows[request].repeat_interleave(queries.shape[1] // rows[request].shape[1], 1) for rows in (self.keys, self.values)
        )
        at = torch.arange(len(keys))
        mask = (at <= positions[:, None]) & (at > positions[:, None] - window)
        out = scaled_dot_product_attention(queries.transpose(0, 1), keys.transpose(0, 1), values.transpose(0, 1), attn_mask=mask)
        return out.transpose(0, 1)


def padded(queries, kv_heads, rows):
    """[tokens, heads, columns] as groups of `rows` rows."""
    tokens, heads, columns = queries.shape
    groups = torch.zeros(tokens, kv_heads, rows, columns)
    groups[:, :, : heads // kv_heads] = queries.view(tokens, kv_heads, -1, columns)
    return groups.view(-1, columns)


@pytest.mark.parametrize("window", [1, 5, 9, 1000])
@pytest.mark.parametrize("start", [0, 3, 21])
def test_prefill_page_by_page_and_decode_in_one_task_are_attention(window, start):
    kv_heads, columns, page, tokens = 2, 8, 4, 6
    queries = randn(tokens, 6, columns, seed=9)
    positions = torch.tensor([*range(start, start + tokens - 1), -1], dtype=torch.int32)
    paged = Paged([start + tokens - 1], kv_heads, columns, page, table=8)
    q = padded(queries, kv_heads, 4)
    q.view(tokens, -1)[-1] = 0
    pool = {"position_ids": positions, "k_cache": paged.caches[0], "v_cache": paged.caches[1]}
    shape = len(q)
    stats = run_op(
        "online_softmax_init", {}, {"mi": ("f32", (shape, 1)), "li": ("f32", (shape, 1)), "oi": ("f32", (shape, columns))}
    )
    for block in range(9):  # more pages than there are
        given = {"q": q, "block_table": paged.table[0], **pool}
        stats = run_op("online_attention", given, stats, block=block, window=window)
    outputs = {"attn": ("qact", (tokens, 6 * columns)), "attn_scale": ("f32", (tokens, 1))}
    by_page = run_op("attention_finalize", {"li": stats["li"], "oi": stats["oi"]}, outputs, kv_heads=kv_heads)["attn"]
    at_once = run_op("paged_attention", {"q": q, "block_table": paged.table, **pool}, outputs, window=window)["attn"]
    expected = paged.expected(0, queries[:-1], positions[:-1], window).flatten(1)
    for got in (by_page, at_once):
        torch.testing.assert_close(got[:-1], expected)
        assert got[-1].eq(0).all()


@pytest.mark.parametrize("positions", [[2, 9, 10], [-1, 4, 5], [11, -1, 3]])
def test_positions_of_a_tile_may_lie_apart(positions):
    """Keys between them that nobody sees are NaN in the cache, and rows of one key-value head fill their groups."""
    queries, window = randn(len(positions), 4, 8, seed=3), 2
    paged = Paged([12], 1, 8, page=4, table=3)
    seen = {place for position in positions if position >= 0 for place in (position - 1, position)}
    for cache in paged.caches:
        for place in set(range(12)) - seen:
            cache[paged.table[0, place // 4], place % 4] = NAN
    where = torch.tensor(positions, dtype=torch.int32)
    given = {"q": padded(queries, 1, 4), "position_ids": where, "block_table": paged.table[0]}
    given |= {"k_cache": paged.caches[0], "v_cache": paged.caches[1]}
    rows = len(given["q"])
    stats = run_op("online_softmax_init", {}, {"mi": ("f32", (rows, 1)), "li": ("f32", (rows, 1)), "oi": ("f32", (rows, 8))})
    for block in range(4):
        stats = run_op("online_attention", given, stats, block=block, window=window)
    outputs = {"attn": ("qact", (len(positions), 32)), "attn_scale": ("f32", (len(positions), 1))}
    got = run_op("attention_finalize", {"li": stats["li"], "oi": stats["oi"]}, outputs, kv_heads=1)["attn"]
    expected = torch.stack(
        [paged.expected(0, q[None], at[None], window)[0] * (at >= 0) for q, at in zip(queries, where, strict=True)]
    )
    torch.testing.assert_close(got, expected.flatten(1).nan_to_num(0.0))


def test_requests_of_a_decode_call_see_their_own_pages():
    kv_heads, columns = 1, 8
    lengths, positions = [9, 1, 5, 1], torch.tensor([7, 8, 0, -1, 3, 4, -1, -1], dtype=torch.int32)
    paged, queries = Paged(lengths, kv_heads, columns, page=4, table=3), randn(8, 2, columns, seed=7)
    given = {"q": padded(queries, kv_heads, 16), "position_ids": positions, "block_table": paged.table}
    given["q"] = torch.cat((given["q"], torch.zeros(8 * 16, columns)))
    outputs = {"attn": ("qact", (16, 2 * columns)), "attn_scale": ("f32", (16, 1))}
    got = run_op("paged_attention", {**given, "k_cache": paged.caches[0], "v_cache": paged.caches[1]}, outputs, window=None)[
        "attn"
    ]
    for request in range(4):
        for token in (2 * request, 2 * request + 1):
            position = positions[token : token + 1]
            expected = paged.expected(request, queries[token : token + 1], position, 1000).flatten(1)
            torch.testing.assert_close(got[token : token + 1], expected if position >= 0 else torch.zeros(1, 2 * columns))
    assert got[8:].eq(0).all()
