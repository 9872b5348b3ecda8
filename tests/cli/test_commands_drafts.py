"""`ringgraph generate --deploy decode-mtp` of models with a draft layer, on one rank and on two; checkpoints with one."""

import json

import pytest
from safetensors import safe_open

from runner.cli.main import main

pytestmark = pytest.mark.usefixtures("same_programs")

SMALL = ["num_hidden_layers=3", "compress_ratios=[0,4,128,0]", "num_nextn_predict_layers=1", "n_routed_experts=8"]
PROMPTS = ("--prompt-ids", "1,2,3", "--prompt-ids", ",".join(map(str, range(129))), "--prompt-ids", "7")


@pytest.fixture
def ringgraph(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert not ended.value.code, err
        return out

    return run


@pytest.fixture
def model(ringgraph, tmp_path) -> str:
    sets = [word for item in SMALL for word in ("--set", item)]
    ringgraph("checkpoint", "init", "--config", "tiny", *sets, tmp_path / "model")
    return str(tmp_path / "model")


def names(folder) -> set[str]:
    found = set()
    for shard in folder.glob("*.safetensors"):
        with safe_open(shard, "pt") as file:
            found |= set(file.keys())
    return found


def test_figures_of_drafts_and_tokens_of_single_steps(ringgraph, model, tmp_path):
    made = {}
    for deploy in ("decode", "decode-mtp"):
        asked = ("--deploy", deploy, "--max-new-tokens", 5, "--ignore-eos", "--record-routing", tmp_path / f"{deploy}.jsonl")
        made[deploy] = json.loads(ringgraph("generate", "--checkpoint", model, *PROMPTS, *asked, "--json"))
        assert json.loads(ringgraph("recv-depth", "--config", model, "--routing", tmp_path / f"{deploy}.jsonl", "--json"))[
            "phases"
        ]
    assert made["decode-mtp"]["tokens"] == made["decode"]["tokens"] and made["decode"]["acceptance_rate"] is None
    rate, steps = made["decode-mtp"]["acceptance_rate"], made["decode-mtp"]["tokens_per_step"]
    assert rate == made["decode-mtp"]["drafts_accepted"] / made["decode-mtp"]["drafts_fed"] and 1.0 <= steps <= 2.0
    assert made["decode-mtp"]["notes"] == []
    text = ringgraph("generate", "--checkpoint", model, *PROMPTS, "--deploy", "decode-mtp", "--max-new-tokens", 5)
    assert "accepted" in text and "tokens a step of a request" in text


def test_without_drafts_it_says_why(ringgraph, model):
    asked = ("--deploy", "decode-mtp", "--set", "num_nextn_predict_layers=0", "--max-new-tokens", 2)
    text = ringgraph("generate", "--checkpoint", model, "--prompt-ids", "1,2", *asked)
    assert "note: no tokens are drafted: the model has no draft layer ('num_nextn_predict_layers' is 0)" in text
    assert "drafts" not in text.replace("note: no tokens are drafted", "")


def test_checkpoints_have_the_draft_layer_as_part_of_the_model(ringgraph, model, tmp_path):
    told = json.loads(ringgraph("checkpoint", "inspect", model, "--json"))
    assert told["fits"] and told["unused_tensors"] == 0
    ringgraph("checkpoint", "convert", model, tmp_path / "w8a8", "--to", "w8a8")
    stored = names(tmp_path / "w8a8")
    assert {"mtp.0.e_proj.scale", "mtp.0.h_proj.scale", "mtp.0.ffn.experts.7.w2.scale"} <= stored
    assert not {"mtp.0.enorm.scale", "mtp.0.attn.wq_a.scale", "mtp.0.hc_head_fn.scale"} & stored
    assert json.loads(ringgraph("checkpoint", "inspect", tmp_path / "w8a8", "--json"))["fits"]
    given = ("--prompt-ids", "1,2,3", "--max-new-tokens", 4, "--json")
    both = [
        json.loads(ringgraph("generate", "--checkpoint", tmp_path / "w8a8", "--deploy", d, *given))
        for d in ("decode", "decode-mtp")
    ]
    assert both[0]["tokens"] == both[1]["tokens"] and both[1]["drafts_fed"]
