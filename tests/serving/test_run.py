"""`ringgraph run`'s parts: names of tensors, random values, golden comparison."""

import math

import pytest
import torch
from safetensors.torch import load_file

from runner.base.errors import RinggraphError
from runner.base.tensor_spec import TensorSpec
from runner.execution.run import TaskTime
from runner.program.program import Program, Span, Task, Tensor
from runner.serving.single_run import (
    RandomExternals,
    compare,
    external_tensors,
    profile_report,
    read_tensors,
    select,
    tensor_names,
    write_tensors,
)

NAMES = {"x": 0, "l_0.x_mixed": 1, "l_1.x_mixed": 2, "l_1.pipe": 3, "l_1.pipe~2": 4}


@pytest.mark.parametrize(
    ("patterns", "ids"),
    [
        (["x"], {0}),
        (["x_mixed"], {1, 2}),
        (["l_1.*"], {2, 3, 4}),
        (["pipe"], {3, 4}),
        (["l_1.pipe"], {3}),
        (["x", "l_0.*"], {0, 1}),
    ],
)
def test_patterns_select_by_full_name_last_name_or_glob(patterns, ids):
    assert set(select(NAMES, patterns).values()) == ids


def test_every_pattern_without_a_match_is_named():
    with pytest.raises(RinggraphError) as caught:
        select(NAMES, ["x_mixd", "x", "zzzzzz"])
    assert str(caught.value) == "no tensor is called 'x_mixd'; did you mean 'x_mixed'?\nno tensor is called 'zzzzzz'"


def test_locals_are_named_by_where_they_are_created():
    tensors = [
        Tensor(i, name, TensorSpec("f32", (2,)), kind)
        for i, (name, kind) in enumerate([("x", "input"), ("y", "local"), ("pipe", "local"), ("pipe", "local")])
    ]
    tasks = [Task(0, "l_0.a", "op", creates=(1, 2)), Task(1, "l_0.b", "op", creates=(3,))]
    program = Program("p", tuple(tensors), tuple(tasks), Span("root", "p"))
    assert tensor_names(program) == {"x": 0, "l_0.y": 1, "l_0.pipe": 2, "l_0.pipe~2": 3}


def test_comparison_tells_the_first_mismatch():
    golden = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    got = golden.clone()
    got[1, 0] = 4.5
    found = compare("y", got, golden, rtol=1e-4, atol=0)
    assert not found.agrees and found.num_wrong == 1 and found.first == ((1, 0), 4.5, 4.0)
    assert found.max_abs == 0.5 and found.max_rel == 0.125 and math.isclose(found.relative, 0.5 / math.sqrt(85))
    assert compare("y", got, golden, rtol=0.2, atol=0).agrees


def test_comparison_treats_nan_and_infinity_as_values():
    golden = torch.tensor([math.nan, math.inf, 1.0])
    assert compare("y", golden.clone(), golden, 0, 0).agrees
    assert compare("y", torch.tensor([1.0, math.inf, 1.0]), golden, 1, 1).num_wrong == 1
    assert compare("y", torch.tensor([math.nan, -math.inf, 1.0]), golden, 1, 1).first[0] == (1,)
    assert compare("y", torch.tensor([math.nan, math.inf, math.nan]), golden, 1, 1).first[0] == (2,)


def test_integers_must_be_equal():
    assert not compare("y", torch.tensor([1, 2]), torch.tensor([1, 3]), 10, 10).agrees
    assert compare("y", torch.tensor([1, 2], dtype=torch.int32), torch.tensor([1, 2]), 0, 0).agrees


def test_shapes_and_kinds_that_differ_are_told():
    assert compare("y", torch.zeros(2), torch.zeros(3), 0, 0).problem == "shape [2], golden [3]"
    assert compare("y", torch.zeros(2), torch.zeros(2, dtype=torch.int32), 0, 0).problem == "dtype float32, golden int32"


def tiny():
    from runner.config.config import load_config

    return load_config(["tiny"])


def external(name: str, kind: str, dtype: str, shape: tuple[int, ...], source: str = "") -> Program:
    tensor = Tensor(0, name, TensorSpec(dtype, shape), kind, source)
    return Program("p", (tensor,), (Task(0, "t", "op", reads=(0,)),), Span("root", "p"))


def given(program: Program, values=None, seed: int = 0):
    random = RandomExternals(tiny(), seed)
    return external_tensors(program, values or {}, None, random, torch.device("cpu"))[0]


def test_random_values_depend_on_seed_and_name_alone():
    a, b = external("a", "input", "f32", (3, 4)), external("b", "input", "f32", (3, 4))
    assert given(a).equal(given(a)) and not given(a).equal(given(b)) and not given(a).equal(given(a, seed=1))
    assert given(external("n", "input", "i32", (3,))).eq(0).all()


def test_random_weights_of_the_model_are_those_of_checkpoint_init(tmp_path):
    from runner.checkpoint.checkpoint import Checkpoint
    from runner.checkpoint.random import init_checkpoint
    from runner.config.config import load_config

    checkpoint = Checkpoint.open(init_checkpoint(load_config(["tiny"]), tmp_path / "c", seed=3))
    name = "layers.0.attn.wq_a.weight"
    assert given(external("w", "weight", "f32", (32, 64), name), seed=3).equal(checkpoint.weight(name))


def test_given_tensors_that_do_not_fit_are_named():
    with pytest.raises(RinggraphError) as caught:
        given(external("a", "input", "f32", (3, 4)), {"a": torch.zeros(3, 5), "c": torch.zeros(1)})
    assert str(caught.value) == (
        "no input, weight or state is called 'c'\ninput 'a' is given as float32[3, 5], expected f32[3, 4]"
    )


def caches(num_layers: int) -> Program:
    """A state called `k_cache` in every layer, and an input."""
    sources = [(f"layers.{layer}.k_cache", "k_cache", "state") for layer in range(num_layers)] + [("x", "x", "input")]
    tensors = tuple(Tensor(at, name, TensorSpec("f32", (2,)), kind, source) for at, (source, name, kind) in enumerate(sources))
    return Program("p", tensors, (Task(0, "t", "op", reads=tuple(range(len(tensors)))),), Span("root", "p"))


def values_of(program: Program, **values: float) -> list[float]:
    """The first element of every tensor, of those given as one number; -1 where it is random."""
    random = RandomExternals(tiny(), 0)
    made = external_tensors(
        program, {name: torch.full((2,), value) for name, value in values.items()}, None, random, torch.device("cpu")
    )
    return [tensor[0].item() if tensor[0] == tensor[1] else -1 for tensor in made.values()]


def test_a_name_of_several_tensors_never_fills_them_all():
    with pytest.raises(RinggraphError) as caught:
        values_of(caches(3), k_cache=5.0)
    assert str(caught.value) == (
        "'k_cache' is the name of 3 tensors, one of which is called 'layers.0.k_cache' outside\n"
        "hint: give each by what it is called outside, or all of them by a glob, as in 'layers.*.k_cache'"
    )
    assert values_of(caches(1), k_cache=5.0)[0] == 5


def test_one_layer_or_all_by_a_glob():
    assert values_of(caches(3), **{"layers.1.k_cache": 5.0})[:3] == [0, 5, 0]
    assert values_of(caches(3), **{"layers.*.k_cache": 4.0, "x": 1.0}) == [4, 4, 4, 1]
    assert values_of(caches(3), **{"layers.*.k_cache": 4.0, "layers.2.k_cache": 5.0})[:3] == [4, 4, 5]
    with pytest.raises(RinggraphError, match=r"no input, weight or state is called 'layers\.\*\.v_cache'"):
        values_of(caches(3), **{"layers.*.v_cache": 4.0})
    with pytest.raises(RinggraphError, match=r"'k_cache' is given twice, as 'k_cache' and as 'layers.0.k_cache'"):
        values_of(caches(1), **{"layers.0.k_cache": 4.0, "k_cache": 4.0})


def test_the_shipped_decode_takes_no_cache_for_all_layers(tmp_path):
    from runner import Driver

    driver = Driver(["tiny"], ["num_hidden_layers=2"])
    spec = next(tensor.spec for tensor in driver.expand("decode_fwd").tensors if tensor.name == "kv_cache")
    with pytest.raises(RinggraphError, match="'kv_cache' is the name of 2 tensors"):
        driver.run("decode_fwd", {"kv_cache": torch.zeros(spec.shape)})
    zeros, ones = (driver.run("decode_fwd", {"layers.*.kv_cache": torch.full(spec.shape, value)}) for value in (0.0, 1.0))
    assert zeros.tensors["logits"].shape == ones.tensors["logits"].shape


def test_tensors_travel_through_files(tmp_path):
    write_tensors(tmp_path / "new" / "a.safetensors", {"a": torch.arange(3)})
    assert read_tensors(tmp_path / "new")["a"].tolist() == [0, 1, 2]
    (tmp_path / "bad.safetensors").write_bytes(b"not one")
    with pytest.raises(RinggraphError, match="cannot be read"):
        read_tensors(tmp_path / "bad.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RinggraphError, match=r"holds no \.safetensors file"):
        read_tensors(tmp_path / "empty")


def test_profile_sums_per_op():
    report = profile_report(
        "g", "tiny", "decode", [TaskTime("a.x", "x", 2000), TaskTime("b.x", "x", 4000), TaskTime("y", "y", 1)]
    )
    assert report["ops"]["x"] == {"count": 2, "mean_us": 3.0, "total_us": 6.0}
    assert report["tasks"][1] == {"path": "b.x", "op": "x", "us": 4.0}


@pytest.mark.parametrize("scheduler", ["annotated", "minpeak"])
def test_weights_and_tensors_without_elements(call, tmp_path, scheduler):
    """No rows, and products over nothing, are computed like others; random weights of no columns are made."""
    graph, out = tmp_path / "g.yaml", tmp_path / "out.safetensors"
    graph.write_text(
        "graph: g\ndoc: Nothing.\ninputs: {x: 'f32[0, 8]'}\nweights: {w: 'f32[8, 8]', v: 'f32[0, 0]'}\n"
        "outputs: {y: 'f32[0, 8]', z: 'f32[0, 0]'}\nbody:\n"
        "  - {op: linear, id: a, in: {x: x, w: w}, out: {y: 'h: f32[0, 8]'}}\n"
        "  - {op: add, id: b, in: {a: h, b: x}, out: {y: y}}\n"
        "  - {op: add, id: c, in: {a: v, b: v}, out: {y: z}}\n",
        "utf-8",
    )
    code, _, err = call("run", graph, "--scheduler", scheduler, "--ring-heap", "safe", "--out", out)
    assert code == 0, err
    assert {name: tuple(t.shape) for name, t in load_file(out).items()} == {"y": (0, 8), "z": (0, 0)}
