"""The worked example of docs/add-a-model.md, installed by pip: it makes the tokens of torch.nn.GRU with the same weights."""

import json

import pytest
import torch
from installed_family import install_example, on_path

from ops import register_all
from runner.base.errors import ConfigError, StateError
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.driver.serve import Request, prepared, serve
from runner.program.ops import OpRegistry
from runner.serving.session import Placement
from runner.serving.single_run import read_tensors
from schedulers import get_scheduler

PROMPTS = ((1, 2, 3), (5,), tuple(range(8)), tuple(range(40, 60)), (63, 0), (7, 7, 7, 7, 7), tuple(range(9)), (30, 2))
"""Shorter than a prefill call, as long and longer; twice as many as a decode call takes."""


class Reference(torch.nn.Module):
    """The model as torch has it."""

    def __init__(self, vocabulary, width, depth):
        super().__init__()
        self.tokens = torch.nn.Embedding(vocabulary, width)
        self.rnn = torch.nn.GRU(width, width, depth)
        self.scores = torch.nn.Linear(width, vocabulary)

    @torch.no_grad()
    def read(self, tokens):
        """Scores after each token, f32[tokens, vocabulary]."""
        return self.scores(self.rnn(self.tokens(torch.tensor(tokens)))[0])

    def greedy(self, prompt, num_tokens):
        made = []
        while len(made) < num_tokens:
            made.append(int(self.read([*prompt, *made])[-1].argmax()))
        return made


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return install_example(tmp_path_factory.mktemp("gru"))


@pytest.fixture
def gru(site):
    """The folder of the installed package."""
    with on_path(site):
        yield site / "ringgraph_gru"


@pytest.fixture
def folder(gru, tmp_path):
    return init_checkpoint(load_config(["gru"]), tmp_path / "made", seed=3)


def reference(folder):
    model = Reference(*(json.loads((folder / "config.json").read_text())[size] for size in ("vocabulary", "width", "depth")))
    checkpoint = Checkpoint.open(folder)
    model.load_state_dict({name: checkpoint.weight(name) for name in checkpoint.tensors})
    return model


def served(folder, request, scheduler="annotated", sets=()):
    registry = OpRegistry()
    register_all(registry)
    placement = Placement(lambda program: get_scheduler(scheduler)(program, {}))
    config = load_config([folder / "config.json"], sets)
    return serve(prepared(config, request), request, registry, placement)


@pytest.mark.usefixtures("short_searches")
@pytest.mark.parametrize("scheduler", ["annotated", "per_layer", "minpeak"])
def test_tokens_and_scores_are_those_of_torch(folder, scheduler, tmp_path):
    request = Request(folder, PROMPTS, 8, logits=tmp_path / "scores.safetensors")
    made, model = served(folder, request, scheduler), reference(folder)
    assert [g.tokens for g in made.generations] == [model.greedy(prompt, 8) for prompt in PROMPTS]
    assert len({token for g in made.generations for token in g.tokens}) > 8, "the model must say more than one thing"
    scores = read_tensors(request.logits)
    for n, prompt in enumerate(PROMPTS):
        whole = model.read([*prompt, *made.generations[n].tokens[:-1]])
        torch.testing.assert_close(torch.cat([scores[f"prompt.{n}.prefill"], scores[f"prompt.{n}.decode"]]), whole)


@pytest.mark.parametrize("sets", [["prefill.seq=3"], ["decode.batch=1"], ["decode.batch=6", "requests=1"]])
def test_sizes_of_calls_change_no_token(folder, sets):
    made, model = served(folder, Request(folder, PROMPTS, 5), sets=sets), reference(folder)
    assert [g.tokens for g in made.generations] == [model.greedy(prompt, 5) for prompt in PROMPTS]


def test_a_deeper_model_of_bf16_weights(gru, tmp_path):
    config = load_config(["gru"], ["depth=3", "width=20", "vocabulary=99"])
    folder = init_checkpoint(config, tmp_path / "deep", flavour="bf16")
    made, model = served(folder, Request(folder, ((98, 4), (3,)), 6)), reference(folder)
    assert model.rnn.num_layers == 3 and Checkpoint.open(folder).flavour == "bf16"
    assert [g.tokens for g in made.generations] == [model.greedy((98, 4), 6), model.greedy((3,), 6)]


def test_a_request_without_a_slot_is_refused(gru):
    config = load_config(["gru"], ["requests=2"])
    state = config.family.request_state(config, {"hidden": TensorSpec("f32", (2, 2, 16))}, "cpu")
    first, second = state.admit(3, 1), state.admit(3, 1)
    state.tensors["hidden"].fill_(9)
    with pytest.raises(StateError, match="needs 1 of pool 'requests', 0 of 2 are free") as refused:
        state.admit(3, 1)
    assert "--set requests=3" in str(refused.value)
    wanted = {name: TensorSpec("i64", (2,)) for name in ("tokens", "slots")}
    _, slot = state.batch_inputs([(first, [1], 0), (second, [2], 0)], wanted)["slots"].tolist()
    state.release(second)
    third = state.admit(3, 1)
    assert state.batch_inputs([(first, [1], 1), (third, [2], 0)], wanted)["slots"].tolist() == [1 - slot, slot]
    assert state.tensors["hidden"][:, slot].eq(0).all() and state.tensors["hidden"][:, 1 - slot].eq(9).all()


def test_runs_after_each_other_are_generate(folder, call, tmp_path):
    """Prefill, decode, prefill, decode by `run` alone, of two requests."""
    a, b = (tmp_path / f"{name}.safetensors" for name in "ab")
    model, first, second = reference(folder), (1, 2, 3), (9, 8)
    made = [model.greedy(prompt, 3) for prompt in (first, second)]

    def scores(graph, *turns, given, out):
        tokens = [part for turn in turns for part in ("--tokens", turn)]
        options = ["--config", "gru", "--checkpoint", folder, *tokens, *(["--inputs", given] if given else [])]
        status, _, err = call("run", graph, *options, "--dump", "outputs,states", "--out", out)
        assert status == 0, err
        return read_tensors(out)["scores"]

    torch.testing.assert_close(scores("gru_prefill", "1,2,3", given=None, out=a)[:3], model.read(first))
    got = scores("gru_decode", f"0:{made[0][0]}", given=a, out=b)
    torch.testing.assert_close(got[0], model.read([*first, made[0][0]])[-1])
    torch.testing.assert_close(scores("gru_prefill", "9,8", given=b, out=a)[:2], model.read(second))
    got = scores("gru_decode", f"1:{made[1][0]}", f"0:{made[0][1]}", given=a, out=b)
    torch.testing.assert_close(
        got[:2], torch.stack([model.read([*second, made[1][0]])[-1], model.read([*first, *made[0][:2]])[-1]])
    )
    status, _, err = call("run", "gru_decode", "--config", "gru", "--inputs", b, "--tokens", "0@2:1")
    assert status == 1 and "goes on at position 2, expected 5" in err, "a running state cannot go back"


def test_every_command_knows_it(gru, call, tmp_path):
    folder, graphs = tmp_path / "made", ["gru_prefill", "gru_decode"]
    assert call("checkpoint", "init", "--config", "gru", folder)[:2] == (0, f"{folder}: gru, 11 tensors, 21.0 KiB, 1 shards\n")
    assert "fits        made" in call("checkpoint", "inspect", folder)[1]
    assert call("lint", "--config", "gru", *graphs)[0] == 0
    assert "operand  mode" in call("ops", "show", "gru_cell")[1]
    status, out, _ = call("schedule", graphs[0], "--config", "gru", "--scheduler", "per_layer", "--json")
    assert status == 0 and json.loads(out)["num_tasks"] == 8 * 4
    status, _, _ = call("run", graphs[1], "--config", "gru", "--profile", tmp_path / "profile.json")
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert status == 0 and set(profile["ops"]) == {"gru_embed", "gru_cell", "gru_scores"}
    options = ["--checkpoint", folder, "--prompt-ids", "1,2,3", "--max-new-tokens", 8, "--scheduler", "per_layer", "--json"]
    options += ["--prefill-graph", "gru_prefill", "--decode-graph", gru / "graphs" / "gru_decode.yaml"]
    status, out, _ = call("generate", *options)
    assert status == 0 and json.loads(out)["tokens"] == [reference(folder).greedy((1, 2, 3), 8)]


def test_its_graphs_have_names(gru, call):
    status, out, err = call("graph", "list", "--json")
    assert status == 0, err
    shown = {entry["name"]: entry for entry in json.loads(out)}
    assert {"gru_step", "gru_prefill", "gru_decode", "decode_fwd"} <= set(shown) and "gru" not in shown
    assert shown["gru_decode"]["file"] == str(gru / "graphs" / "gru_decode.yaml")


def test_a_family_that_runs_on_one_rank_says_so(gru, folder, call):
    status, _, err = call("generate", "--checkpoint", folder, "--prompt-ids", "1", "--ep", "2")
    assert status == 1 and "unknown key 'ep'" in err


def test_its_name_stands_for_its_base_layer(gru, tmp_path, monkeypatch):
    assert load_config(["gru"]).name == "gru" and load_config(["gru"])["deploy"] == "decode"
    with pytest.raises(ConfigError, match="configuration 'gruu': no such preset or file\nhint: did you mean 'gru'"):
        load_config(["gruu"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gru").write_text("model: gru\nwidth: 24\n")
    assert load_config(["gru"])["width"] == 24, "a file of that name is meant first"
