"""Hyper-connections and norms against transformers' modules and plain formulas."""

import pytest
import torch
from op_calls import act, run_op
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HyperConnection, DeepseekV4HyperHead, DeepseekV4RMSNorm

EPS = {"norm_eps": 1e-6, "hc_eps": 1e-6}
SHAPES = [(1, 4, 8, 16), (5, 2, 6, 16), (8, 4, 64, 128), (128, 3, 10, 128)]  # tokens, streams, width, scratch rows


def config(hc, width, iterations=20):
    return DeepseekV4Config(hc_mult=hc, hidden_size=width, hc_sinkhorn_iters=iterations, num_hidden_layers=1)


def padded(count, tile=16):
    return -(-count // tile) * tile


def connection(hc, width, iterations=20):
    module = DeepseekV4HyperConnection(config(hc, width, iterations))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return module


def hc_pre(module, x, rows, precision="f32", iterations=20):
    num_tokens, hc, width = x.shape
    mix = (2 + hc) * hc
    outputs = {
        "x_mixed": ("act", (num_tokens, width)),
        "post": ("f32", (num_tokens, hc)),
        "comb": ("f32", (num_tokens, hc * hc)),
        "mixes": ("f32", (rows, padded(mix))),
        "mixes_raw": ("f32", (2 * rows, padded(mix))),
    }
    inputs = {"x": x, "fn": module.fn.data, "scale": module.scale.data, "base": module.base.data}
    return run_op("hc_pre", inputs, outputs, precision, iterations=iterations, **EPS)


@pytest.mark.parametrize("num_tokens, hc, width, rows", SHAPES)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_hc_pre_is_the_hyper_connection(num_tokens, hc, width, rows, precision):
    torch.manual_seed(hc * width)
    module = connection(hc, width)
    x = torch.randn(num_tokens, hc, width).to(act(precision))
    post, comb, collapsed = module(x.unsqueeze(0))
    made = hc_pre(module, x, rows, precision)
    torch.testing.assert_close(made["post"], post[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made["comb"].view(num_tokens, hc, hc), comb[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made["x_mixed"], collapsed[0], atol=1e-5, rtol=1e-5 if precision == "f32" else 1e-2)


def test_hc_pre_balances_rows_and_columns_as_often_as_asked():
    torch.manual_seed(3)
    module = connection(4, 16, iterations=50)
    x = torch.randn(6, 4, 16)
    comb = hc_pre(module, x, 16, iterations=50)["comb"].view(6, 4, 4)
    torch.testing.assert_close(comb.sum(1), torch.ones(6, 4), atol=1e-3, rtol=0)
    torch.testing.assert_close(comb.sum(2), torch.ones(6, 4), atol=1e-3, rtol=0)
    once = hc_pre(module, x, 16, iterations=1)["comb"].view(6, 4, 4)
    torch.testing.assert_close(once.sum(1), torch.ones(6, 4), atol=1e-4, rtol=0)
    assert (once.sum(2) - 1).abs().max() > 0.05


@pytest.mark.parametrize("hc", [1, 2, 3, 4, 9])
def test_a_token_has_the_bits_of_hc_pre_that_it_has_by_itself(hc):
    torch.manual_seed(hc)
    module = connection(hc, 16)
    x = torch.randn(71, hc, 16)
    many = hc_pre(module, x, 80)
    for first, count in ((0, 1), (70, 1), (3, 2), (5, 3), (8, 17), (2, 64), (1, 66)):
        few = hc_pre(module, x[first : first + count], 80)
        assert all(torch.equal(few[name], many[name][first : first + count]) for name in ("x_mixed", "post", "comb"))


@pytest.mark.parametrize("num_tokens, hc, width, _rows", SHAPES)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_hc_post_adds_the_output_to_mixed_streams(num_tokens, hc, width, _rows, precision):
    torch.manual_seed(width)
    x = torch.randn(num_tokens, hc, width).to(act(precision))
    y = torch.randn(num_tokens, width).to(act(precision))
    post, comb = torch.rand(num_tokens, hc), torch.rand(num_tokens, hc * hc)
    made = run_op("hc_post", {"y": y, "x": x, "post": post, "comb": comb}, {"x_next": ("act", tuple(x.shape))}, precision)
    for t in range(num_tokens):
        for j in range(hc):
            expected = post[t, j] * y[t].float() + sum(comb[t, i * hc + j] * x[t, i].float() for i in range(hc))
            torch.testing.assert_close(made["x_next"][t, j], expected.to(x.dtype), atol=1e-5, rtol=1e-5)


def head(module, x, rows, precision):
    num_tokens, hc, width = x.shape
    x_fp32 = run_op("hc_head_cast", {"x": x}, {"x_fp32": ("f32", (rows, hc * width))}, precision)["x_fp32"]
    inv_rms = run_op("hc_head_rms", {"x_fp32": x_fp32}, {"inv_rms": ("f32", (rows, 1))}, norm_eps=1e-6)["inv_rms"]
    mixes = run_op("hc_head_seed", {}, {"mixes_raw": ("f32", (rows, 16))})["mixes_raw"]
    run_op("hc_head_linear", {"x_fp32": x_fp32, "fn": module.hc_fn.data}, {"mixes_raw": mixes})
    inputs = {"scale": module.hc_scale.data, "base": module.hc_base.data, "mixes_raw": mixes, "inv_rms": inv_rms}
    pre_t = run_op("hc_head_pre_fused", inputs, {"pre_t": ("f32", (16, rows))}, hc_eps=1e-6)["pre_t"]
    made = []
    for t in range(0, num_tokens, 8):
        end = min(t + 8, num_tokens)
        out = run_op(
            "hc_head_reduce", {"pre_t": pre_t[:, t:end], "x": x[t:end]}, {"x_head": ("act", (end - t, width))}, precision
        )
        made.append(out["x_head"])
    return torch.cat(made)


@pytest.mark.parametrize("num_tokens, hc, width, rows", SHAPES)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_head_tasks_together_are_the_hyper_head(num_tokens, hc, width, rows, precision):
    torch.manual_seed(num_tokens)
    module = DeepseekV4HyperHead(config(hc, width))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    x = torch.randn(num_tokens, hc, width).to(act(precision))
    expected = module(x.unsqueeze(0))[0]
    torch.testing.assert_close(head(module, x, rows, precision), expected, atol=1e-5, rtol=1e-5 if precision == "f32" else 1e-2)


@pytest.mark.parametrize("shape", [(1, 8), (7, 64), (128, 33)])
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_rms_norm(shape, precision):
    torch.manual_seed(shape[1])
    x, w = torch.randn(shape).to(act(precision)), (1 + torch.randn(shape[1])).to(act(precision))
    module = DeepseekV4RMSNorm(shape[1], eps=1e-3)
    module.weight.data = w.float()
    made = run_op("rms_norm", {"x": x, "w": w}, {"y": ("act", shape)}, precision, eps=1e-3)
    torch.testing.assert_close(made["y"], module(x))


def test_ffn_norm_keeps_unrounded_rows_for_the_router():
    x, w = torch.randn(5, 16).bfloat16(), torch.randn(16).bfloat16()
    outputs = {"x_norm": ("act", (5, 16)), "x_norm_gate": ("f32", (5, 16))}
    made = run_op("ffn_norm", {"x_mixed": x, "w": w}, outputs, "bf16", eps=1e-6)
    expected = x.double() / (x.double().square().mean(1, keepdim=True) + 1e-6).sqrt() * w.double()
    torch.testing.assert_close(made["x_norm_gate"], expected.float(), atol=1e-6, rtol=1e-5)
    assert torch.equal(made["x_norm"], made["x_norm_gate"].bfloat16())
    assert not torch.equal(made["x_norm"].float(), made["x_norm_gate"])
