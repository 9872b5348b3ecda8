"""A row's bits are its own: ops of odd sizes, for any number of tokens at any place among others, and for any threads."""

import pytest
import torch
from op_calls import act, run_op
from torch.nn.functional import silu, softplus

from ops.kernels.numerics import of_each, rms_scale

TOKENS = 130
SOME = [(0, 1), (3, 1), (5, 8), (0, 33), (1, 40), (7, 64), (2, 128)]
"""First token and number of tokens, of all."""
WIDTHS = [1, 3, 7, 40]


@pytest.mark.parametrize("function", [torch.sigmoid, silu, softplus, torch.exp2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_function_of_each_element_sees_no_other(function, dtype):
    torch.manual_seed(0)
    x = (torch.randn(4096) * 4).to(dtype)
    whole = of_each(function, x)
    torch.testing.assert_close(whole, function(x))
    for count in (*range(70), 333):
        for first in (0, 1, 5, 64):
            assert torch.equal(of_each(function, x[first : first + count]), whole[first : first + count]), (first, count)
    assert torch.equal(of_each(function, x.view(64, 64).t()[:, 3:10]).t(), whole.view(64, 64)[3:10])


@pytest.mark.parametrize("size", [32768, 70_001, 98_304, 100_000])
def test_threads_share_a_tensor_without_a_trace(size):
    torch.manual_seed(1)
    x, made = torch.randn(size), []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            made.append([of_each(function, x) for function in (torch.sigmoid, silu, softplus, torch.exp2)])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in made[1:] for a, b in zip(made[0], other, strict=True))


@pytest.mark.parametrize("width", [1, 7, 40, 1024, 40_000])
def test_a_root_mean_square_is_of_its_row_alone(width):
    torch.manual_seed(width)
    x, made = torch.randn(33, width), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            parts = [torch.cat([rms_scale(rows, 1e-6) for rows in x.split(count)]) for count in (33, 1, 8)]
            made += [*parts, rms_scale(torch.cat((x, x), 1)[:, :width], 1e-6)]
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(made[0], other) for other in made[1:])
    expected = (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt().float()
    torch.testing.assert_close(made[0], expected)


def hyper(first, count, hc, width):
    """What hyper-connections make of some of the tokens."""
    torch.manual_seed(hc * width)
    mix, rows = (2 + hc) * hc, count + -count % 16
    x, fn, scale, base = torch.randn(TOKENS, hc, width), torch.randn(mix, hc * width), torch.rand(3), torch.randn(mix)
    x = x[first : first + count]
    outputs = {"x_mixed": ("act", (count, width)), "post": ("f32", (count, hc)), "comb": ("f32", (count, hc * hc))}
    outputs |= {"mixes": ("f32", (rows, mix)), "mixes_raw": ("f32", (2 * rows, mix))}
    pre = run_op("hc_pre", {"x": x, "fn": fn, "scale": scale, "base": base}, outputs, norm_eps=1e-6, hc_eps=1e-6, iterations=20)
    inputs = {"scale": scale[:1], "base": base[:hc], "mixes_raw": torch.randn(TOKENS + 16, hc)[first : first + rows]}
    inputs["inv_rms"] = torch.rand(TOKENS + 16, 1)[first : first + rows]
    head = run_op("hc_head_pre_fused", inputs, {"pre_t": ("f32", (hc, rows))}, hc_eps=1e-6)["pre_t"][:, :count]
    reduced = run_op("hc_head_reduce", {"pre_t": head, "x": x}, {"x_head": ("act", (count, width))})
    post = run_op("hc_post", {"y": pre["x_mixed"], "x": x, **{name: pre[name] for name in ("post", "comb")}}, {"x_next": x * 0})
    return {**{name: pre[name] for name in ("x_mixed", "post", "comb")}, **reduced, **post}


@pytest.mark.parametrize("hc", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("width", [1, 7])
def test_tokens_of_hyper_connections(hc, width):
    whole = hyper(0, TOKENS, hc, width)
    for first, count in SOME:
        for name, made in hyper(first, count, hc, width).items():
            assert torch.equal(made, whole[name][first : first + count]), (name, first, count)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("width", WIDTHS)
def test_tokens_of_routers_and_experts(width, precision):
    torch.manual_seed(width)
    dtype = act(precision)
    x = torch.randn(TOKENS, width)
    w, w3 = (torch.randn(width, width).to(dtype) for _ in range(2))
    ones, scale = torch.ones(width), torch.ones(TOKENS, 1)

    def made(first, count):
        rows = x[first : first + count]
        gate = run_op("gate", {"x": rows, "w": w.float()}, dict.fromkeys(("scores", "biased"), ("f32", (count, width))))
        inputs = {"x": rows.to(dtype), "x_scale": scale[:count], "w1": w, "w1_scale": ones, "w3": w3, "w3_scale": ones}
        hidden = run_op("sh_gate_up", inputs, {"h": ("f32", (count, width))}, precision, limit=10.0)
        inputs = dict.fromkeys(("gate", "up"), rows)
        return {**gate, **hidden, "swiglu": run_op("swiglu", inputs, {"h": ("act", (count, width))}, precision)["h"]}

    whole = made(0, TOKENS)
    for first, count in SOME:
        for name, some in made(first, count).items():
            assert torch.equal(some, whole[name][first : first + count]), (name, first, count)
