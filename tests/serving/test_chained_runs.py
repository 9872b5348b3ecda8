"""`run` after `run`: states and requests go from dump to inputs, and what comes of it is what a session makes."""

import pytest
import torch

from ops import register_all
from runner.base.errors import RinggraphError
from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.driver.face import Driver
from runner.driver.serve import Request, prepared, serve
from runner.program.ops import OpRegistry
from runner.serving.session import Placement
from runner.serving.single_run import read_given, read_tensors
from schedulers import get_scheduler

PROMPTS = ((5, 6, 7, 8, 9, 10, 11, 12, 13), (3, 1, 4, 1, 5))
SETS = ("num_hidden_layers=3", "prefill.seq=6", "decode.batch=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return init_checkpoint(load_config(["tiny"], sets=["num_hidden_layers=3"]), tmp_path_factory.mktemp("chain") / "c", seed=1)


@pytest.fixture(scope="module")
def generated(folder, tmp_path_factory):
    """Tokens and logits of `generate`."""
    registry = OpRegistry()
    register_all(registry)
    request = Request(folder, PROMPTS, 4, logits=tmp_path_factory.mktemp("logits") / "l.safetensors")
    config = prepared(load_config([folder], SETS), request)
    made = serve(config, request, registry, Placement(lambda program: get_scheduler("annotated")(program, {})))
    return [g.tokens for g in made.generations], read_tensors(request.logits)


def flags(sets=SETS):
    return [part for text in sets for part in ("--set", text)]


def run(call, folder, graph, *tokens, inputs=None, out, options=(), sets=SETS):
    given = [part for text in tokens for part in ("--tokens", text)]
    chained = ["--inputs", inputs] if inputs else []
    args = [
        "run",
        graph,
        "--checkpoint",
        folder,
        *flags(sets),
        *given,
        *chained,
        "--dump",
        "states,logits",
        "--out",
        out,
        *options,
    ]
    status, shown, err = call(*args)
    assert status == 0, err
    return shown, read_tensors(out)["logits"]


def test_prefill_decode_prefill_is_generate(folder, generated, call, tmp_path):
    """Both prompts in chunks, the second begun between decode steps of the first, which go on after it."""
    tokens, logits = generated
    a, b = (tmp_path / f"{name}.safetensors" for name in "ab")
    wanted = [torch.cat([logits[f"prompt.{n}.prefill"], logits[f"prompt.{n}.decode"]]) for n in range(2)]

    def same(got, request, position):
        torch.testing.assert_close(got, wanted[request][position : position + len(got)], atol=1e-5, rtol=1e-5)

    first = ",".join(map(str, PROMPTS[0][:6]))
    shown, got = run(call, folder, "prefill_fwd", first, out=a, options=["--prompt-len", 9])
    assert "tokens of request 0" in shown
    same(got, 0, 0)
    _, got = run(call, folder, "prefill_fwd", "0:11,12,13", inputs=a, out=b)
    same(got[:3], 0, 6)
    assert int(got[2].argmax()) == tokens[0][0]
    _, got = run(call, folder, "decode_fwd", f"0:{tokens[0][0]}", inputs=b, out=a)
    same(got[:1], 0, 9)
    assert int(got[0].argmax()) == tokens[0][1]
    _, got = run(call, folder, "prefill_fwd", ",".join(map(str, PROMPTS[1])), inputs=a, out=b)
    same(got[:5], 1, 0)
    shown, got = run(call, folder, "decode_fwd", f"1:{tokens[1][0]}", f"0:{tokens[0][1]}", inputs=b, out=a)
    same(got[:1], 1, 5)
    same(got[1:2], 0, 10)
    assert [int(row.argmax()) for row in got] == [tokens[1][1], tokens[0][2]]
    assert "tokens of request 1" in shown
    _, got = run(call, folder, "decode_fwd", f"0@10:{tokens[0][1]}", inputs=a, out=b)  # the last token once more
    same(got[:1], 0, 10)


def test_every_state_has_a_name_that_inputs_takes_back(folder, call, tmp_path):
    out = tmp_path / "all.safetensors"
    status, _, err = call("run", "prefill_fwd", *flags(), "--dump", "*", "--out", out)
    assert status == 0, err
    held, given = read_tensors(out), read_given(out)
    states = {name for name in held if name.startswith("layers.") and "kv" in name}
    assert {"layers.0.kv_cache", "layers.2.kv_cache", "layers.1.idx_kv_cache"} <= states <= given.keys()
    assert {"logits", "input_ids", "main_cos", "routed_y_buf"} <= held.keys() - given.keys()
    assert given["requests.length"].tolist() == [6]
    status, _, err = call("run", "decode_fwd", *flags(), "--inputs", out, "--dump", "states", "--out", tmp_path / "b.safetensors")
    assert status == 0, err
    after = read_tensors(tmp_path / "b.safetensors")
    assert after["requests.length"].tolist() == [7] and not after["layers.0.kv_cache"].equal(held["layers.0.kv_cache"])


def test_runs_that_cannot_be_chained_are_refused(folder, call, tmp_path):
    out = tmp_path / "a.safetensors"
    run(call, folder, "prefill_fwd", "1,2,3", out=out)
    cases = [
        (["decode_fwd", "--inputs", out, "--tokens", "7:1"], "no request has handle 7"),
        (["decode_fwd", "--inputs", out, "--tokens", "0:1,2"], "request 0 has 2 tokens in a call that takes 1 to 1"),
        (["decode_fwd", "--inputs", out, "--tokens", "0@1:1"], "request 0 goes on at position 1, expected 3"),
        (["decode_fwd", "--inputs", out, "--tokens", "0:99999"], "token 99999 is outside of the vocabulary of"),
        (["decode_fwd", "--tokens", "x"], "expected ids with commas"),
        (["decode_fwd", "--tokens", "0:1", "--prompt-len", 3], "--prompt-len needs --tokens of a new request"),
        (["head", "--tokens", "1"], "the graph takes no requests"),
        (["decode_fwd", "--inputs", out, "--set", "REQUESTS=12"], "requests.generations.csa' is int64[64], expected int64[96]"),
    ]
    for args, message in cases:
        status, _, err = call("run", *args, *flags())
        assert status in (1, 2) and message in " ".join(err.replace("│", " ").split()), (args, err)


def test_damaged_requests_are_refused():
    driver = Driver("tiny", sets=["num_hidden_layers=1"])
    left = driver.run("prefill_fwd", keep=["states"]).tensors
    kept = {name: value for name, value in left.items() if name.startswith("requests.")}
    wrong = {
        "requests.pages.ori": torch.full_like(kept["requests.pages.ori"], 99),
        "requests.length": torch.tensor([-1]),
        "requests.next": torch.tensor([0]),
        "requests.handle": torch.tensor([0.0]),
        "requests.pages.none": torch.tensor([0]),
    }
    for name, value in wrong.items():
        with pytest.raises(RinggraphError, match="requests\\."):
            driver.run("decode_fwd", {**kept, name: value})
