"""What the family says of requests: phases, room, the vocabulary, and what a recorder keeps."""

import json
from types import SimpleNamespace

import pytest
import torch

from runner.base.errors import ConfigError
from runner.config.config import load_config
from runner.models.deepseek_v4.recorded_routing import RoutingRecorder
from runner.models.deepseek_v4.requests import fitting, is_narrow, phase_of, serving, vocabulary


@pytest.mark.parametrize(
    ("deploy", "sets", "phase"),
    [
        ("prefill", (), "prefill"),
        ("decode", (), "decode"),
        ("decode-mtp", (), "decode"),
        ("decode", ("decode.batch=1",), "decode"),
        ("decode-mtp", ("decode-mtp.batch=1",), "decode"),
        ("long", (), "prefill"),
    ],
)
def test_the_dims_of_a_deployment_tell_its_phase(deploy, sets, phase, tmp_path):
    (tmp_path / "long.yaml").write_text("deployments:\n  long: {batch: 1, seq: 256}\n")
    assert phase_of(load_config(["tiny", tmp_path / "long.yaml"], sets, deploy=deploy).values) == phase


def test_one_store_serves_both_phases():
    found = serving(load_config(["tiny"], ["decode.batch=10"]))
    assert (found.batch, found.seq, found.prefill_tokens) == (10, 1, 128)
    assert {config["REQUESTS"] for config in (found.config, *found.configs.values())} == {10}
    assert {phase: config.deploy for phase, config in found.configs.items()} == {"prefill": "prefill", "decode": "decode"}
    assert (serving(load_config(["tiny"]), "decode-mtp").batch, serving(load_config(["tiny"]), "decode-mtp").seq) == (4, 2)


def test_prefill_of_several_requests_is_refused():
    with pytest.raises(ConfigError, match=r"^prefill takes one request at a time, got batch 2\nhint: leave prefill.batch at 1$"):
        serving(load_config(["tiny"], ["prefill.batch=2"]))


def test_room_is_made_in_whole_pages_up_to_what_the_model_has():
    config = load_config(["tiny"], ["max_context=256"])
    assert fitting(config, [5, 200], 56) is config
    assert fitting(config, [5, 200], 57)["max_context"] == 384
    assert fitting(config, [4000], 90)["max_context"] == 4096
    assert fitting(load_config(["tiny"], ["REQUESTS=2"]), [1], 1)["REQUESTS"] == 8
    with pytest.raises(ConfigError, match=r"^prompt 1 needs 4,097 positions with its new tokens, the model has 4,096$"):
        fitting(config, [5, 4000, 4000], 97)


@pytest.mark.parametrize(("given", "end"), [("7", (7,)), ("[7, 8]", (7, 8)), ("null", ())])
def test_end_tokens_are_one_or_several_or_none(given, end):
    found = vocabulary(load_config(["tiny"], [f"eos_token_id={given}"]))
    assert (found.size, found.end) == (512, end)


def test_only_small_models_are_narrow():
    assert is_narrow(load_config(["tiny"])) and not is_narrow(load_config(["flash"]))


def test_a_recorder_counts_idle_calls_and_leaves_out_idle_tokens():
    """Rank 1 of 2, two tokens of each request a decode call; its requests are prompts 1 and 3."""
    task = SimpleNamespace(op="dispatch", attrs={"layer": 4}, operands={"indices": SimpleNamespace(tensor=9)})
    program = SimpleNamespace(tasks=[SimpleNamespace(op=None), task])
    recorder = RoutingRecorder({"prefill": program, "decode": program}, 8, 1, 2, 1, 2)
    assert recorder.tensors == {"prefill": [9], "decode": [9]}
    chosen = torch.arange(8)[:, None]
    for handle, tokens in ((20, (5, 6, 7)), (10, (5,))):
        recorder.admitted(handle)
        recorder.called("prefill", [(handle, tokens, 0)], {9: chosen})
    recorder.called("prefill", [], {9: chosen})
    recorder.called("decode", [(10, (1,), 1), (20, (2, 3), 3)], {9: chosen})
    found = recorder.recording([b"[]", recorder.packed()])
    assert (found.num_ranks, found.num_experts, found.topk) == (2, 8, 1)
    assert [(call.call, call.phase, call.rank, call.tokens, dict(call.experts)) for call in found.calls] == [
        (0, "prefill", 1, ((1, 0), (1, 1), (1, 2)), {4: ((0,), (1,), (2,))}),
        (1, "prefill", 1, ((3, 0),), {4: ((0,),)}),
        (3, "decode", 1, ((3, 1), (1, 3), (1, 4)), {4: ((0,), (2,), (3,))}),
    ]
    assert len(json.loads(recorder.packed())) == 3
