"""The graphs `moe` and `head` against transformers' modules."""

from itertools import pairwise, product

import pytest
import torch
from graph_runs import expand_graph, run_program
from op_calls import REGISTRY
from sampled import sampled
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4HyperConnection,
    DeepseekV4HyperHead,
    DeepseekV4RMSNorm,
    DeepseekV4SparseMoeBlock,
)

from runner.config.config import load_config
from runner.lint.lint import lint

FIELDS = [
    [],
    ["hidden_size=40", "moe_intermediate_size=24", "n_routed_experts=7", "num_experts_per_tok=5", "hc_mult=2"],
    ["n_routed_experts=300", "num_experts_per_tok=6", "swiglu_limit=0.5", "hc_mult=3", "routed_scaling_factor=2.5"],
]


def hf_config(c):
    names = (
        "hidden_size",
        "moe_intermediate_size",
        "n_routed_experts",
        "num_experts_per_tok",
        "routed_scaling_factor",
        "vocab_size",
    )
    names += ("swiglu_limit", "hc_mult", "hc_sinkhorn_iters", "hc_eps", "rms_norm_eps")
    return DeepseekV4Config(**{name: c[name] for name in names}, num_hidden_layers=4, num_hash_layers=c["num_hash_layers"])


def random_module(module):
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name.endswith("tid2eid"):
                count = module.gate.num_experts
                tensor.copy_(torch.stack([torch.randperm(count)[: tensor.shape[1]] for _ in range(tensor.shape[0])]))
            else:
                tensor.copy_(torch.randn(tensor.shape) * (tensor.shape[-1] ** -0.5 if tensor.dim() > 1 else 0.3))
    return module


class Stage(torch.nn.Module):
    """The second half of transformers' decoder layer, and its weights by the names of a checkpoint."""

    def __init__(self, c, layer):
        super().__init__()
        config = hf_config(c)
        self.hc = random_module(DeepseekV4HyperConnection(config))
        self.norm = DeepseekV4RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.norm.weight.data = 1 + 0.3 * torch.randn(config.hidden_size)
        self.moe = random_module(DeepseekV4SparseMoeBlock(config, layer))

    def forward(self, x, ids):
        post, comb, row = self.hc(x.unsqueeze(0))
        out = self.moe(self.norm(row), input_ids=ids.unsqueeze(0))
        return (post.unsqueeze(-1) * out.unsqueeze(-2) + torch.matmul(comb.transpose(-1, -2), x))[0]

    def weights(self, layer):
        gate, shared = self.moe.gate, self.moe.shared_experts
        w1, w3 = self.moe.experts.gate_up_proj.data.chunk(2, dim=1)
        found = {
            "hc_ffn_fn": self.hc.fn,
            "hc_ffn_scale": self.hc.scale,
            "hc_ffn_base": self.hc.base,
            "ffn_norm.weight": self.norm.weight,
            "ffn.gate.weight": gate.weight,
            "ffn.shared_experts.w1.weight": shared.gate_proj.weight,
            "ffn.shared_experts.w3.weight": shared.up_proj.weight,
            "ffn.shared_experts.w2.weight": shared.down_proj.weight,
            "ffn.experts.{expert}.w1.weight": w1,
            "ffn.experts.{expert}.w3.weight": w3,
            "ffn.experts.{expert}.w2.weight": self.moe.experts.down_proj,
        }
        found["ffn.gate.tid2eid" if self.moe.is_hash else "ffn.gate.bias"] = (
            gate.tid2eid if self.moe.is_hash else gate.e_score_correction_bias
        )
        return {f"layers.{layer}.{name}": tensor.detach() for name, tensor in found.items()}


def inputs(c, idle=0):
    num_tokens = c["T"]
    positions = torch.arange(num_tokens, dtype=torch.int32)
    positions[num_tokens - idle :] = -1
    return {
        "x_hc": torch.randn(num_tokens, c["HC"], c["D"]),
        "input_ids": torch.randint(0, c["vocab_size"], (num_tokens,)),
        "position_ids": positions,
    }


def quick(case):
    """Many experts and a whole prompt take as long as all other cases."""
    return case[:2] != (2, "prefill")


@pytest.mark.parametrize(("fields", "deploy", "layer"), sampled(product(range(3), ("decode", "prefill"), (0, 3)), quick))
def test_moe_is_the_second_half_of_a_layer(fields, deploy, layer):
    torch.manual_seed(layer)
    c = load_config(["tiny"], FIELDS[fields], deploy)
    stage, given = Stage(c, layer), inputs(c)
    made = run_program(expand_graph("moe", c, layer=layer), given | stage.weights(layer))["x_next"]
    expected = stage(given["x_hc"], given["input_ids"]).detach()
    assert (made - expected).norm() / expected.norm() < 2e-6


@pytest.mark.parametrize("sets", [["prefill.seq=100"], ["prefill.seq=5", "prefill.batch=3"], ["prefill.seq=1"]])
def test_token_counts_that_fill_no_tile(sets):
    torch.manual_seed(0)
    c = load_config(["tiny"], sets, "prefill")
    stage, given = Stage(c, 3), inputs(c)
    made = run_program(expand_graph("moe", c, layer=3), given | stage.weights(3))["x_next"]
    expected = stage(given["x_hc"], given["input_ids"]).detach()
    assert (made - expected).norm() / expected.norm() < 2e-6


def test_layouts_give_the_same_bits_and_workers_do_not_matter():
    torch.manual_seed(1)
    c = load_config(["tiny"], [], "prefill")
    stage, given = Stage(c, 2), inputs(c, idle=20)
    given |= stage.weights(2)
    ragged = run_program(expand_graph("moe", c, layer=2), given)["x_next"]
    padded = expand_graph("moe", c.with_(sets=["recv_layout=padded", "recv_max=128"]), layer=2)
    assert torch.equal(run_program(padded, given, workers=2)["x_next"], ragged)


def test_idle_tokens_take_no_routes():
    torch.manual_seed(2)
    c = load_config(["tiny"], [], "decode")
    stage, given = Stage(c, 2), inputs(c, idle=3)
    captured = run_program(expand_graph("moe", c, layer=2), given | stage.weights(2), capture=("recv_count", "indices", "x_next"))
    assert captured["recv_count"].sum() == 5 * c["TOPK"]
    assert (captured["indices"][5:] == -1).all() and (captured["indices"][:5] >= 0).all()
    expected = stage(given["x_hc"], given["input_ids"]).detach()
    assert (captured["x_next"][:5] - expected[:5]).norm() / expected[:5].norm() < 2e-6


@pytest.mark.parametrize("precision", [["precision=w8a8"], ["precision=w8a8", "dtype=bf16"], ["dtype=bf16"]])
def test_every_precision_stays_near_full(precision):
    torch.manual_seed(3)
    c = load_config(["tiny"], precision, "decode")
    stage, given = Stage(c, 0), inputs(c)
    weights = {}
    for name, tensor in stage.weights(0).items():
        weights[name] = tensor
        if c["precision"] == "w8a8" and name.endswith(("w1.weight", "w2.weight", "w3.weight")):
            scale = tensor.abs().amax(-1) / 127
            weights[name] = (tensor / scale.unsqueeze(-1)).round()
            weights[name.replace(".weight", ".scale")] = scale
    made = run_program(expand_graph("moe", c, layer=0), given | weights)["x_next"].float()
    expected = stage(given["x_hc"], given["input_ids"]).detach()
    assert 1e-5 < (made - expected).norm() / expected.norm() < 2e-2


@pytest.mark.parametrize("deploy", ["decode", "prefill"])
@pytest.mark.parametrize("sets", [[], ["hidden_size=40", "hc_mult=3", "vocab_size=77"]])
def test_head(sets, deploy):
    torch.manual_seed(4)
    c = load_config(["tiny"], sets, deploy)
    module = random_module(DeepseekV4HyperHead(hf_config(c)))
    norm = DeepseekV4RMSNorm(c["D"], eps=c["rms_norm_eps"])
    norm.weight.data = 1 + 0.3 * torch.randn(c["D"])
    head_w, x = torch.randn(c["vocab_size"], c["D"]), torch.randn(c["T"], c["HC"], c["D"])
    weights = {"hc_head_fn": module.hc_fn.data, "hc_head_scale": module.hc_scale.data, "hc_head_base": module.hc_base.data}
    given = {"x_hc": x, "norm.weight": norm.weight.data, "head.weight": head_w, **weights}
    made = run_program(expand_graph("head", c), given)["logits"]
    expected = (norm(module(x.unsqueeze(0)))[0] @ head_w.T).detach()
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "layers, sets, ep, expected",
    [
        (["flash", "seed"], [], 2, "i8[32, 1024, 4096]"),
        (["flash", "seed"], ["recv_layout=ragged"], 2, "i8[1, 1536, 4096]"),
        (["flash"], [], 8, "i8[1, 6144, 4096]"),
        (["flash"], ["recv_layout=padded"], 8, "i8[32, 96, 4096]"),
        (["flash"], ["recv_layout=padded", "recv_max=40"], 8, "i8[32, 40, 4096]"),
        (["pro"], ["dtype=f32", "precision=full"], 64, "f32[1, 49152, 7168]"),
    ],
)
def test_receive_buffers(layers, sets, ep, expected):
    program = expand_graph("moe", load_config(layers, sets, "prefill", ep), layer=4)
    found = {t.name: t.spec for t in program.tensors}
    assert str(found["recv_x"]) == expected
    assert found["recv_y"].shape == found["recv_x"].shape
    depth, tiles = found["recv_x"].shape[1], sum(task.op == "exp_h_q" for task in program.tasks)
    rows = depth if found["recv_x"].shape[0] > 1 else 128 * ep
    assert tiles == load_config(layers, sets, "prefill", ep)["E"] * -(-rows // 16)


@pytest.mark.parametrize("deploy", ["decode", "decode-mtp", "prefill"])
@pytest.mark.parametrize("graph", ["moe", "head"])
def test_lint_is_clean(graph, deploy):
    assert lint([graph], load_config(["tiny"], deploy=deploy), REGISTRY) == []


@pytest.mark.parametrize("graph", ["decode_fwd", "prefill_fwd"])
def test_exchanges_are_in_one_order(graph):
    """Whatever runs at the same time: each waits for the one before it, so that ranks cannot meet crosswise."""
    program = expand_graph(graph, load_config(["tiny"], deploy=graph.removesuffix("_fwd"), ep=2))
    collective = [task for task in program.tasks if task.op is not None and "comm" in REGISTRY[task.op].needs]
    assert len(collective) == 2 * 6 + 2 * {"decode_fwd": 1, "prefill_fwd": 8}[graph]
    assert all(earlier.id in later.waits for earlier, later in pairwise(collective))
