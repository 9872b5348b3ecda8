"""Graphs and configurations of no model: every command without a field of any family, and `generate` for a graph by its layer."""

import json

import pytest
import torch
from safetensors.torch import save_file

from runner.base.errors import ConfigError
from runner.driver import serve
from runner.driver.driver import resolve, schedule_of
from runner.serving.session import Placement

OPS = """
from runner import OpRegistry

ops = OpRegistry()


@ops.op("sum_up", "tokens: i64[B], slots: i64[B], step: f32[V] -> scores: f32[B, V], &seen: f32[R, V]", core="AIV")
def sum_up(tokens, slots, step, *, scores, seen):
    '''Counts each token; the one that was seen least, by `step` of its id, comes next.'''
    scores.zero_()
    for at, (token, slot) in enumerate(zip(tokens.tolist(), slots.tolist())):
        if slot >= 0:
            seen[slot, token] += 1
            scores[at] = step - seen[slot]
"""
LAYER = """
fields:
  symbols: {type: integer, minimum: 2, default: 7}
  lanes: {type: integer, minimum: 1, doc: requests of a call}
  wide: {type: integer, minimum: 1, doc: tokens of a call}
  rooms: {type: integer, minimum: 1, default: 2}
deployments:
  decode: {lanes: 2, wide: 2}
  prefill: {lanes: 1, wide: 4}
checkpoint:
  tensors:
    step: {shape: [symbols]}
  config: {fields: [symbols]}
state:
  requests: lanes
  kinds:
    seen: {kind: running, requests: rooms, holds: seen, clear: true}
  inputs:
    tokens: {tokens: symbols}
    slots: {slots: seen}
serving:
  logits: scores
  batch: lanes
  prefill_tokens: wide
  vocabulary: symbols
  end: [6]
  room: {rooms: requests}
"""
GRAPH = """
graph: NAME
deploy: NAME
inputs: {tokens: "i64[wide]", slots: "i64[wide]"}
weights: {step: {type: "f32[symbols]", from: step}}
state: {seen: "f32[rooms, symbols]"}
outputs: {scores: "f32[wide, symbols]"}
body:
  - op: sum_up
    in: {tokens: tokens, slots: slots, step: step}
    out: {scores: scores, seen: seen}
"""
PLAIN = """
graph: plain
inputs: {x: "f32[8, 16]"}
weights: {w: {type: "f32[16, 16]"}}
outputs: {y: "f32[8, 16]"}
body:
  - op: linear
    in: {x: x, w: w}
    out: {y: y}
"""
SIZED = PLAIN.replace("16", "width").replace("8,", "rows,")


@pytest.fixture
def plain(tmp_path):
    """A graph that mentions no name."""
    path = tmp_path / "plain.yaml"
    path.write_text(PLAIN)
    return path


@pytest.mark.parametrize("command", ["lint", "schedule", "size", "dot", "run"])
def test_a_graph_without_names_needs_no_configuration(plain, call, command, tmp_path):
    status, out, err = call(command, plain, *(["--profile", tmp_path / "profile.json"] if command == "run" else []))
    assert status == 0 and "deepseek" not in out + err, err
    if command == "run":
        assert json.loads((tmp_path / "profile.json").read_text())["config"] == "none"


@pytest.mark.parametrize("command", ["lint", "schedule", "size", "dot", "frontier", "run"])
def test_a_graph_under_its_own_fields(tmp_path, call, command):
    (tmp_path / "sized.yaml").write_text(SIZED)
    (tmp_path / "own.yaml").write_text("fields: {rows: {type: integer, default: 8}, width: integer}\nwidth: 2 * rows\n")
    status, _, err = call(command, tmp_path / "sized.yaml", "--config", tmp_path / "own.yaml")
    assert status == 0, err
    status, _, err = call(command, tmp_path / "sized.yaml", "--config", tmp_path / "own.yaml", "--set", "widht=4")
    assert status and "unknown key 'widht'" in err and "did you mean 'width'?" in err


NORM = """\
graph: n
inputs: {x: "f32[4, 16]"}
weights: {w: "f32[16]"}
outputs: {y: "f32[4, 16]"}
body:
  - {op: rms_norm, in: {x: x, w: w}, out: {y: y}ATTRS}
"""


@pytest.mark.parametrize("command", ["schedule", "size", "placement", "dot", "run"])
def test_a_graph_whose_ops_take_a_field_is_planned_as_it_is_linted(call, command, tmp_path):
    """Lint says `under tiny` of a graph without names; so an op that takes `rms_norm_eps` from there does so elsewhere too."""
    path = tmp_path / "n.yaml"
    for attrs in ("", ", attrs: {eps: 0.5}"):
        path.write_text(NORM.replace("ATTRS", attrs))
        assert call("lint", path)[0] == 0
        status, _, err = call(command, path)
        assert status == 0, err


def test_a_graph_whose_names_are_a_models_has_that(call):
    status, out, _ = call("schedule", "decode_fwd", "--json")
    assert status == 0 and json.loads(out)["num_tasks"] > 100


def test_no_checkpoint_of_a_model_is_written_for_a_configuration_of_none(tmp_path, call):
    (tmp_path / "own.yaml").write_text("fields: {rows: {type: integer, default: 8}}\n")
    status, _, err = call("checkpoint", "init", "--config", tmp_path / "own.yaml", tmp_path / "made")
    assert status == 1 and "the configuration has no checkpoint" in err and not (tmp_path / "made").exists()


@pytest.fixture
def counting(tmp_path):
    """A plain graph that serves: its layer, graphs, ops and a checkpoint without a `config.json`."""
    (tmp_path / "own.yaml").write_text(LAYER)
    for phase in ("prefill", "decode"):
        (tmp_path / f"{phase}.yaml").write_text(GRAPH.replace("NAME", phase))
    (tmp_path / "sums.py").write_text(OPS)
    (tmp_path / "made").mkdir()
    save_file({"step": torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1, 0.0, -9.0])}, tmp_path / "made" / "model.safetensors")
    return tmp_path


def expected(prompt, count):
    seen, made = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0, -9.0], []
    for token in prompt:
        seen[token] -= 1
    for _ in range(count):
        made.append(max(range(7), key=lambda i: seen[i]))
        seen[made[-1]] -= 1
    return made


def generated(folder, prompts, count, graphs):
    """What `generate` makes with ops that no package brings."""
    space: dict = {}
    exec((folder / "sums.py").read_text(), space)
    request = serve.Request(folder / "made", tuple(prompts), count, graphs=graphs)
    config = serve.prepared(resolve(serve.own_layers(folder / "made", [folder / "own.yaml"])), request)
    return serve.serve(config, request, space["ops"], Placement(lambda program: schedule_of(program, "annotated")[0]))


def test_generate_for_a_plain_graph(counting):
    prompts = [(1, 2, 3), (0, 0, 1, 1, 2, 5), (4,)]
    graphs = {phase: str(counting / f"{phase}.yaml") for phase in ("prefill", "decode")}
    made = generated(counting, prompts, 5, graphs)
    assert made is not None
    assert [generation.tokens for generation in made.generations] == [expected(prompt, 5) for prompt in prompts]
    with pytest.raises(ConfigError, match="names no graph for decode\nhint: give --decode-graph"):
        generated(counting, prompts, 5, {"prefill": graphs["prefill"]})


FREE = (
    GRAPH.replace('weights: {step: {type: "f32[symbols]", from: step}}\n', "")
    .replace(", step: step", "")
    .replace("sum_up", "count_up")
)
FREE_OPS = (
    OPS.replace(", step: f32[V]", "")
    .replace("slots, step, *", "slots, *")
    .replace("sum_up", "count_up")
    .replace("= step -", "= -")
)


def test_generate_for_a_model_without_weights_needs_no_checkpoint(counting, call):
    """Greedy takes the lowest of the symbols that were seen least."""
    for phase in ("prefill", "decode"):
        (counting / f"{phase}.yaml").write_text(FREE.replace("NAME", phase))
    (counting / "counts.py").write_text(FREE_OPS)
    graphs = [part for phase in ("prefill", "decode") for part in (f"--{phase}-graph", counting / f"{phase}.yaml")]
    given = ("--config", counting / "own.yaml", *graphs, "--prompt-ids", "1,2,3", "--max-new-tokens", 4, "--ignore-eos")
    status, out, err = call("generate", *given, "--ops", counting / "counts.py", "--json")
    assert status == 0, err
    made = json.loads(out)
    assert made["tokens"] == [[0, 4, 5, 6]] and made["flavour"] is None and made["weight_bytes"] == 0
    status, out, err = call("generate", *given, "--ops", counting / "counts.py")
    assert status == 0 and "prompt 0 (3 tokens): 0 4 5 6" in out and "checkpoint" not in out
    status, _, err = call("generate", *given, "--ops", counting / "counts.py", "--prompt", "a text")
    assert status == 1 and "prompts of text need a checkpoint with its tokenizer" in err
    status, _, err = call("generate", "--prompt-ids", "1")
    assert status == 1 and "nothing says which model is to generate" in err and "give --checkpoint DIR" in err


def test_generate_without_a_checkpoint_names_the_weights_that_it_needs(counting, call):
    graphs = [part for phase in ("prefill", "decode") for part in (f"--{phase}-graph", counting / f"{phase}.yaml")]
    given = ("--config", counting / "own.yaml", "--ops", counting / "sums.py", *graphs, "--prompt-ids", "1,2,3")
    status, _, err = call("generate", *given)
    assert (
        status == 1 and "graph 'prefill' reads weights ('step'), and no checkpoint is given\nhint: give --checkpoint DIR" in err
    )
    status, out, err = call("generate", *given, "--checkpoint", counting / "made", "--max-new-tokens", 5, "--json")
    assert status == 0 and json.loads(out)["tokens"] == [expected((1, 2, 3), 5)], err


def test_explain_tells_of_a_node_of_a_plain_graph(plain, call):
    status, out, err = call("explain", plain, "linear")
    assert status == 0 and "weight w, f32[16, 16]" in out, err


@pytest.mark.parametrize("preset, phase, name", [("qwen3-14b", "prefill", "qwen3_prefill"), ("flash", "decode", "decode_fwd")])
def test_a_graph_called_by_its_phase_is_named(preset, phase, name, call):
    status, _, err = call("schedule", phase, "--config", preset)
    assert status == 1 and f"hint: did you mean '{name}'? So '{preset}' calls its graph for {phase}" in err


def test_a_state_that_the_next_graph_lacks_is_refused_by_name(plain, call, tmp_path):
    save_file({name: torch.zeros(8, 16) for name in ("x", "layers.0.kv", "layers.1.kv")}, tmp_path / "dump.safetensors")
    status, _, err = call("run", plain, "--inputs", tmp_path / "dump.safetensors")
    assert (
        status == 1 and "no input, weight or state is called 'layers.0.kv', nor 1 others that are given\nhint: a dump goes" in err
    )


def test_serving_over_a_family_is_refused_with_a_reason(call, tmp_path):
    (tmp_path / "own.yaml").write_text("model: qwen3\nserving: {batch: 2}\n")
    status, _, err = call("config", "show", "--config", "qwen3-tiny", "--config", tmp_path / "own.yaml")
    assert status == 1 and "'serving' stands in the layer that declares a family, and this one is of the family 'qwen3'" in err
    assert "hint: --prefill-graph, --decode-graph, fields and deployments change what is served" in err


def test_a_layer_serves_the_graphs_beside_it(counting, call):
    """A family of its own as YAML alone, with the ops of a file."""
    text = LAYER.replace("serving:\n", "serving:\n  graphs: {prefill: prefill, decode: decode}\n")
    (counting / "own.yaml").write_text("family: counts\nops: sums.py\n" + text)
    given = ("--config", counting / "own.yaml", "--checkpoint", counting / "made", "--prompt-ids", "1,2,3")
    status, out, err = call("generate", *given, "--max-new-tokens", 5, "--json")
    assert status == 0 and json.loads(out)["tokens"] == [expected((1, 2, 3), 5)], err
