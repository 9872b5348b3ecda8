"""Checkpoints of a family that is not ours: written, read and converted by its layout; and a graph that runs on one."""

import json

import pytest
import torch
from installed_family import installed
from safetensors.torch import load_file, save_file

from runner.base.errors import CheckpointError, Mark
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.convert import convert
from runner.checkpoint.inspect import inspect_checkpoint
from runner.checkpoint.own_config import require_own_config
from runner.checkpoint.random import init_checkpoint
from runner.checkpoint.weights import load_weights
from runner.config.config import load_config
from runner.execution.executor import execute
from runner.expansion.expander import expand
from runner.language.library import load_graph
from runner.lint.lint import lint
from runner.program.ops import OpRegistry
from runner.program.program import Program, Span, Task, Tensor
from schedulers import get_scheduler

WIDTH, DEPTH = 32, 3


@pytest.fixture
def config(tmp_path):
    with installed(tmp_path / "site", toy="toy_model:family"):
        (tmp_path / "mine.yaml").write_text(f"model: toy\nwidth: {WIDTH}\n")
        yield load_config([tmp_path / "mine.yaml"])


@pytest.fixture
def folder(config, tmp_path):
    return init_checkpoint(config, tmp_path / "made", seed=2)


def everything(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def program(source, dtype="f32"):
    tensor = Tensor(0, "w", TensorSpec(dtype, (WIDTH, WIDTH)), "weight", source, Mark("graph.yaml", 1))
    return Program("p", (tensor,), (Task(0, "t", None, reads=(0,)),), Span("root", "", (0,)))


def test_what_is_written_is_what_its_layout_says(config, folder):
    assert set(everything(folder)) == {"emb", *(f"block.{i}.weight" for i in range(DEPTH))}
    assert json.loads((folder / "config.json").read_text())["n_embd"] == WIDTH
    assert require_own_config(folder)["width"] == WIDTH
    found = inspect_checkpoint(folder)
    assert found.fits and found.flavour == "f32"


def test_names_are_its_own(config, folder, tmp_path):
    stored = {f"toy.{name}": value for name, value in everything(folder).items()}
    other = tmp_path / "theirs"
    other.mkdir()
    save_file(stored | {"toy.trace.a": torch.zeros(3)}, other / "model.safetensors")
    assert set(Checkpoint.open(other).tensors) == {*stored, "toy.trace.a"}, "nobody says whose names these are"
    assert Checkpoint.open(other).check(config) == []
    found = inspect_checkpoint(other, config)
    assert found.fits and found.as_json()["unused_tensors"] == 1
    assert "\nunused      1 tensors of a trace\n" in str(found)
    (other / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert set(Checkpoint.open(other).tensors) == {*everything(folder), "trace.a"}
    assert len(Checkpoint.open(other).check(load_config(["tiny"]))) > 100, "as another model, nothing of it fits"


def test_conversion(config, folder, tmp_path):
    made = convert(folder, tmp_path / "out", config, to="w8a8")
    assert {error.name for error in made.changed} == {f"block.{i}.weight" for i in range(DEPTH)}
    assert inspect_checkpoint(tmp_path / "out").fits and Checkpoint.open(tmp_path / "out").flavour == "w8a8"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["stored"] == "w8a8"
    assert everything(tmp_path / "out")["emb"].dtype == torch.float32


def test_loading(config, folder, tmp_path):
    (value,) = load_weights(program("block.1.weight"), Checkpoint.open(folder), config).values()
    assert torch.equal(value, everything(folder)["block.1.weight"])
    other = tmp_path / "large"
    other.mkdir()
    save_file({**everything(folder), "block.1.weight": torch.full((WIDTH, WIDTH), 101.0)}, other / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"^error K110: tensor 'block\.1\.weight' is too large$"):
        load_weights(program("block.1.weight"), Checkpoint.open(other), config)


BLOCKS = """
graph: blocks
inputs: {x: "{act}[batch, W]"}
outputs: {y: "{act}[batch, W]"}
weights:
  w: {type: "{act}[depth, W, W]", from: "block.{block}.weight", stack: block}
body:
  - op: chain
    in: {x: x, w: w}
    out: {y: y}
    attrs: {times: 3}
"""


def test_a_graph_in_its_dims_runs_on_its_weights(config, folder, tmp_path):
    """Lint, expansion, scheduling, weights and execution, with an op of the family's own."""
    registry = OpRegistry()

    @registry.op("chain", "x: {act}[B, K], w: {act}[N, K, K] -> y: {act}[B, K]", core="AIC", params={"times": 1})
    def chain(x, w, *, y, times):
        for block in range(times):
            x = x @ w[block].T
        y.copy_(x)

    path = tmp_path / "blocks.yaml"
    path.write_text(BLOCKS)
    assert lint([path], config, registry) == []
    program = expand(load_graph(path), config, registry)
    weights = load_weights(program, Checkpoint.open(folder), config)
    x, y = torch.randn(2, WIDTH), torch.empty(2, WIDTH)
    execute(get_scheduler("annotated")(program, {}), registry, {**weights, program.inputs["x"]: x, program.outputs["y"]: y})
    stored = everything(folder)
    for block in range(DEPTH):
        x = x @ stored[f"block.{block}.weight"].T
    torch.testing.assert_close(y, x)


def test_a_checkpoint_whose_model_nobody_knows(folder, config, tmp_path):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    found = inspect_checkpoint(folder)
    assert not found.fits and found.flavour == "f32" and found.total.tensors == DEPTH + 1
    assert "'model_type' is 'llama', expected 'deepseek_v4' or 'qwen3' or 'toy_large' or 'toy_small'" in str(found)
    assert set(Checkpoint.open(folder).tensors) == set(everything(folder))
