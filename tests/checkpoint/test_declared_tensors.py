"""Declared tensors as a property: a random declaration, a checkpoint of it in any form that it accepts, and faults in that.

What is read is compared with what safetensors reads, put together or taken apart by the functions here.
"""

import json
import random

import jsonschema
import pytest
import torch
import yaml
from places import DOCS, ROOT
from safetensors.torch import load_file, save_file

from runner.base.errors import CheckpointError, ConfigError, Mark, RinggraphError
from runner.base.tensor_spec import TensorSpec
from runner.base.units import human_bytes
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.convert import convert
from runner.checkpoint.headers import INDEX_NAME
from runner.checkpoint.inspect import inspect_checkpoint
from runner.checkpoint.random import init_checkpoint
from runner.checkpoint.weights import load_weights
from runner.config.config import load_config
from runner.language.given import Given
from runner.models.declared import checkpoint_section
from runner.models.declared.layout import read_layout
from runner.program.program import Program, Span, Task, Tensor
from runner.serving.single_run import RandomExternals

SEEDS = range(24)
SCALES = ("{name}.scale", "{name}.weight_scale", "{name}.weight_scale_inv", "{name}_s")
ALSO = "theirs.block_{layer}."
LAYER, EXPERT = "net.{layer}.", "net.{layer}.e.{expert}."


class Family:
    """A random declaration: its layer as data, and the joints that it has (whole, parts, dim, groups, loop that is stacked)."""

    def __init__(self, rng):
        self.rng, self.tensors, self.fused, self.stacked = rng, {}, {}, {}
        self.scales = rng.sample(SCALES, rng.randint(1, 3))
        self.tied = rng.random() < 0.6
        self.width = rng.choice((4, 8))
        self.outer()
        self.singles()
        for at in range(rng.randint(1, 3)):
            self.joint(f"j{at}")
        if rng.random() < 0.7:
            self.stack()

    def when(self):
        return self.rng.choice((None, None, "layer % 2 == 0", "flags[layer] == 1 and on"))

    def entry(self, name, shape, when=None, **more):
        linear = len(shape) == 2 and self.rng.random() < 0.6
        found = {"shape": shape, **({"when": when} if when else {}), **({"quantised": ["w8a8"]} if linear else {}), **more}
        if not linear and self.rng.random() < 0.3:
            found["dtype"] = "f32"
        self.tensors[name] = found if len(found) > 1 or self.rng.random() < 0.5 else shape
        return found

    def outer(self):
        self.entry("emb.weight", ["vocab", "D"])
        self.tensors["emb.weight"] = {"shape": ["vocab", "D"]}
        if self.rng.random() < 0.8:
            self.tensors["head.weight"] = {"shape": ["vocab", "D"], "tied": {"to": "emb.weight", "when": "same"}}

    def singles(self):
        for at in range(self.rng.randint(0, 3)):
            rank = self.rng.randint(1, 3)
            shape = [self.rng.choice((1, 2, "D", "D // 2", "layer + 1")) for _ in range(rank)]
            also = {"also": f"{ALSO}s{at}.weight"} if self.rng.random() < 0.5 else {}
            self.entry(f"{LAYER}s{at}.weight", shape, self.when(), **also)

    def joint(self, name):
        rng, dim, groups = self.rng, self.rng.randint(0, 1), self.rng.choice((1, 1, 2))
        sizes = [groups * rng.choice((1, 2, 4)) for _ in range(rng.randint(2, 3))]
        when, parts = self.when(), [f"{LAYER}{name}{at}.weight" for at in range(len(sizes))]
        whole, quantised = f"{LAYER}{name}all.weight", {"quantised": ["w8a8"]} if dim == 0 and rng.random() < 0.7 else {}
        more = {**quantised, **({"when": when} if when else {})}

        def shape(size):
            return [size, "D"] if dim == 0 else ["D", size]

        if rng.random() < 0.5:
            self.tensors |= {part: {"shape": shape(size), **more} for part, size in zip(parts, sizes, strict=True)}
            listed = parts
        else:
            self.tensors[whole] = {"shape": shape(sum(sizes)), **more}
            listed = dict(zip(parts, sizes, strict=True))
        self.fused[whole] = {"parts": listed, "dim": dim, "groups": groups}

    def stack(self):
        part = f"{EXPERT}w.weight"
        self.tensors[part] = {"shape": ["D // 2", "D"], "quantised": ["w8a8"]}
        self.stacked[f"{LAYER}experts.weight"] = {"of": part, "over": "expert"}

    def layer(self):
        section = {
            "scale": self.scales,
            "spellings": {"model.{name}": "{name}"},
            "loops": {"layer": "layers", "expert": {"count": "count"}},
            "tensors": self.tensors,
            "fused": self.fused,
            "stacked": self.stacked,
            "unused": {"names": ["trace.{name}"], "what": "a trace"},
        }
        integer = {"type": "integer"}
        return {
            "fields": dict.fromkeys(("layers", "width", "vocab", "count"), integer)
            | {"same": {"type": "boolean"}, "on": {"type": "boolean"}, "flags": {"type": "list", "items": integer}},
            "layers": 3,
            "width": self.width,
            "vocab": 5,
            "count": 2,
            "same": self.tied,
            "on": self.rng.random() < 0.7,
            "flags": [1, 0, 1],
            "dims": {"D": "width"},
            "checkpoint": section,
        }

    def joints(self):
        """Every joint in every layer: whole, parts, dim, groups, whether it is a stack."""
        for layer in range(3):
            for whole, held in self.fused.items():
                names = [name.replace("{layer}", str(layer)) for name in (whole, *held["parts"])]
                yield names[0], names[1:], held["dim"], held["groups"], False
            for whole, held in self.stacked.items():
                part = held["of"].replace("{layer}", str(layer))
                parts = [part.replace("{expert}", str(expert)) for expert in range(2)]
                yield whole.replace("{layer}", str(layer)), parts, 0, 1, True


def joined(parts, dim, groups, is_stack):
    if is_stack:
        return torch.stack(parts)
    return torch.cat([part.chunk(groups, dim)[group] for group in range(groups) for part in parts], dim)


def taken(whole, sizes, dim, groups, is_stack):
    """The parts of a tensor: each element is looked up where `joined` would have put its number."""
    if is_stack:
        return [value.clone() for value in whole]
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    numbers = [torch.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    order = joined(numbers, 0, groups, False)
    return [whole.index_select(dim, torch.stack([(order == n).nonzero()[0, 0] for n in part])) for part in numbers]


def everything(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def scale_name(pattern, weight):
    return pattern.replace("{name}", weight.removesuffix(".weight"))


def sizes_of(family, parts):
    held = next(held for held in family.fused.values() if _at(parts[0]) in list(held["parts"]))
    listed = held["parts"]
    if isinstance(listed, dict):
        return list(listed.values())
    return [family.tensors[part]["shape"][held["dim"]] for part in listed]


def _at(name):
    return "net.{layer}." + name.split(".", 2)[2]


def reformed(family, stored, rng):
    """Tensors of which some joints are the other way round; and of what changed, each with the form that it has now."""
    found, own = dict(stored), family.scales[0]
    changed = {}
    for whole, parts, dim, groups, is_stack in family.joints():
        if rng.random() < 0.4:
            continue
        for named in (str, lambda name: scale_name(own, name)):
            if all(named(part) in found for part in parts):
                pieces = [found.pop(named(part)) for part in parts]
                found[named(whole)] = joined(pieces, dim, groups, is_stack)
                changed |= dict.fromkeys(parts, whole)
            elif named(whole) in found:
                sizes = None if is_stack else sizes_of(family, parts)
                found |= dict(zip(map(named, parts), taken(found.pop(named(whole)), sizes, dim, groups, is_stack), strict=True))
                changed[whole] = parts[0]
    return found, changed


def respelled(family, stored, rng):
    found = {}
    theirs = {name: entry["also"] for name, entry in family.tensors.items() if isinstance(entry, dict) and "also" in entry}
    scales = {scale_name(family.scales[0], name): name for name in stored}
    for name, tensor in stored.items():
        weight = scales.get(name, name)
        if _is_layered(weight) and _at(weight) in theirs and rng.random() < 0.5:
            weight = theirs[_at(weight)].replace("{layer}", weight.split(".")[1])
        elif rng.random() < 0.5:
            weight = f"model.{weight}"
        found[scale_name(rng.choice(family.scales), weight) if name in scales else weight] = tensor
    return found


def _is_layered(name):
    return name.startswith("net.")


def written(folder, tensors, rng):
    """In one file, or in several with an index."""
    folder.mkdir()
    names, count = list(tensors), rng.choice((1, 1, 3))
    rng.shuffle(names)
    files = {f"part-{at}.safetensors": names[at::count] for at in range(count) if names[at::count]}
    for file, held in files.items():
        save_file({name: tensors[name].clone(memory_format=torch.contiguous_format) for name in held}, folder / file)
    if count > 1:
        index = {name: file for file, held in files.items() for name in held}
        (folder / INDEX_NAME).write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.fixture(params=SEEDS)
def made(request, tmp_path):
    """A family, its configuration, and a checkpoint of it in the family's own form."""
    rng = random.Random(request.param)
    family = Family(rng)
    (tmp_path / "family.yaml").write_text(yaml.safe_dump(family.layer(), sort_keys=False))
    config = load_config([tmp_path / "family.yaml"])
    flavour = rng.choice(("f32", "bf16", "w8a8"))
    folder = init_checkpoint(config, tmp_path / "own", seed=1, flavour=flavour)
    return rng, family, config, flavour, folder


def program(config, wanted):
    tensors = tuple(
        Tensor(at, f"t{at}", TensorSpec("f32", shape), "weight", name, Mark("g.yaml", 1))
        for at, (name, shape) in enumerate(wanted)
    )
    return Program("p", tensors, (Task(0, "t", None, reads=tuple(range(len(tensors)))),), Span("root", "", (0,)))


def dequantised(family, stored, name):
    scale = scale_name(family.scales[0], name)
    value = stored[name].float()
    return value * stored[scale].unsqueeze(-1) if scale in stored else value


def listed(tensors):
    return {name: (value.dtype, value.tolist()) for name, value in tensors.items()}


def test_any_form_loads_to_the_same_tensors(made, tmp_path):
    rng, family, config, flavour, folder = made
    own = everything(folder)
    forms, _ = reformed(family, own, rng)
    if family.tied and "head.weight" in family.tensors:
        forms |= rng.choice(({}, {"head.weight": own["emb.weight"].clone()}))
        if "head.weight" in forms and rng.random() < 0.3:
            del forms["emb.weight"]
    other = written(tmp_path / "other", {**respelled(family, forms, rng), "trace.x": torch.zeros(2)}, rng)
    found = inspect_checkpoint(other, config)
    assert found.problems == () and found.unused_tensors == 1
    assert found.total.tensors == len(forms) + 1
    checkpoint = Checkpoint.open(other).of(config)
    specs = config.family.layout.expected(config.values)
    truth = {name: dequantised(family, own, name) for name in specs}
    for name in specs:
        assert torch.equal(checkpoint.weight(name).float(), truth[name]), name
        height = specs[name].shape[0]
        lo = rng.randint(0, height - 1)
        rows = lo, rng.randint(lo, height)
        assert torch.equal(checkpoint.weight(name, rows).float(), truth[name][slice(*rows)]), (name, rows)
    if family.tied and "head.weight" in family.tensors:
        truth["head.weight"] = truth["emb.weight"]
    for whole, parts, dim, groups, is_stack in family.joints():
        if all(part in truth for part in parts):
            truth[whole] = joined([truth[part] for part in parts], dim, groups, is_stack)
        elif whole in truth:
            truth |= dict(zip(parts, taken(truth[whole], sizes_of(family, parts), dim, groups, is_stack), strict=True))
    graph = program(config, [(name, tuple(value.shape)) for name, value in truth.items()])
    for stored in (folder, other):
        loaded = load_weights(graph, Checkpoint.open(stored), config)
        for tensor in graph.tensors:
            assert torch.equal(loaded[tensor.id], truth[tensor.source]), tensor.source
    name = rng.choice([name for name, value in truth.items() if value.shape[0] > 1])
    held = -(-truth[name].shape[0] // 2)
    part = Tensor(0, "t", TensorSpec("f32", (held, *truth[name].shape[1:])), "weight", name, Mark("g.yaml", 1), shard=0)
    graph = Program("p", (part,), (Task(0, "t", None, reads=(0,)),), Span("root", "", (0,)))
    for rank in range(2):
        (value,) = load_weights(graph, Checkpoint.open(other), config, rank=rank, size=2).values()
        rows = truth[name][rank * held : (rank + 1) * held]
        assert torch.equal(value[: len(rows)], rows) and not value[len(rows) :].any(), (name, rank)
    again = convert(other, tmp_path / "again", config, to=flavour, dtype="bf16" if flavour == "w8a8" else None)
    assert again.changed == ()
    assert listed(everything(again.folder)) == listed({**own, "trace.x": torch.zeros(2)})


def test_every_fault_is_named(made, tmp_path):
    """A tensor that is missing, of another shape, or there in two forms, in a checkpoint of any form."""
    rng, family, config, _, folder = made
    own = everything(folder)
    forms, changed = reformed(family, own, rng)
    scales = {scale_name(family.scales[0], name) for name in (*forms, *own)}
    weights = [name for name in forms if name not in scales]
    victim = rng.choice(weights)

    def problems(tensors, name):
        held = Checkpoint.open(written(tmp_path / name, tensors, rng))
        return [str(problem) for problem in held.check(config)]

    belongs = {whole: parts for whole, parts, *_ in family.joints()}
    specs = config.family.layout.expected(config.values)
    lost = [victim] if victim in specs else [part for part in belongs.get(victim, ()) if part in specs] or [victim]
    scale = scale_name(family.scales[0], victim)
    told = problems({name: value for name, value in forms.items() if name not in (victim, scale)}, "missing")
    for name in lost:
        assert any(f"'{name}'" in problem and "K101" in problem for problem in told), (victim, told)
    told = problems(forms | {victim: torch.cat([forms[victim], forms[victim][:1]])}, "shape")
    assert any(problem.startswith(f"error K103: tensor '{victim}'") or f"'{victim}'" in problem for problem in told), (
        victim,
        told,
    )
    told = problems(forms | {f"model.{victim}": forms[victim]}, "spelled")
    assert any(f"error K107: tensor '{victim}' is there twice" in problem for problem in told), (victim, told)
    for name, form in changed.items():
        if name not in forms and form in forms and name in own:
            told = problems(forms | {name: own[name]}, f"double-{name}")
            assert any("K107" in problem and "is there twice" in problem and f"'{name}'" in problem for problem in told), told
            break


def test_tied_tensors_must_be_equal(tmp_path):
    config, folder = small(tmp_path, same="true")
    own = everything(folder)
    assert set(own) == {"emb.weight", "a.weight", "b.weight"}
    told = checked(tmp_path / "x", own | {"head.weight": own["emb.weight"] + 1}, config)
    assert told == ["error K110: tensor 'head.weight' is not equal to 'emb.weight', which it is tied to\n"
                    "hint: untie them in the configuration, or remove it"]  # fmt: skip
    assert checked(tmp_path / "y", own | {"head.weight": own["emb.weight"][:2].clone()}, config)[0].startswith(
        "error K103: tensor 'head"
    )
    del own["emb.weight"]
    assert checked(tmp_path / "z", own, config) == ["error K101: tensor 'emb.weight' f32[6, 4] is missing"]


def test_block_scales_are_taken_apart_where_blocks_end(tmp_path):
    """FP8 has a scale for 128 rows: parts of 128 and 64 lie side by side, parts of 64 and 128 share a block."""
    for order, fits in ((("a.weight", "b.weight"), True), (("b.weight", "a.weight"), False)):
        config, folder = small(tmp_path / order[0], rows="128", parts=list(order), flavour="fp8")
        own = everything(folder)
        assert own["a.scale"].shape == (1, 1) and own["b.scale"].shape == (1, 1)
        whole = {
            "ab.weight": torch.cat([own.pop(name).view(torch.uint8) for name in order]).view(torch.float8_e4m3fn),
            "ab.scale": torch.cat([own.pop(name.replace("weight", "scale")) for name in order]),
        }
        told = checked(tmp_path / order[0] / "fused", own | whole, config)
        assert (told == []) == fits, told
        assert fits or any("'ab.scale' is f32[2, 1]" in problem for problem in told)


SMALL = """
fields: {{same: {{type: boolean}}}}
same: {same}
checkpoint:
  tensors:
    emb.weight: [6, 4]
    a.weight: {{shape: [{rows}, 4], quantised: [w8a8, fp8]}}
    b.weight: {{shape: ["{rows} // 2", 4], quantised: [w8a8, fp8]}}
    head.weight: {{shape: [6, 4], tied: {{to: emb.weight, when: same}}}}
  fused: {{ab.weight: {parts}}}
"""


def small(folder, same="false", rows="4", parts=("a.weight", "b.weight"), flavour=None):
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(SMALL.format(same=same, rows=rows, parts=list(parts)))
    config = load_config([folder / "small.yaml"])
    return config, init_checkpoint(config, folder / "own", flavour=flavour)


def checked(folder, tensors, config):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return [str(problem) for problem in Checkpoint.open(folder).check(config)]


# What a declaration can get wrong


def test_a_plain_graphs_tensors_are_taken_as_they_lie(tmp_path):
    (tmp_path / "plain.yaml").write_text("doc: no family\n")
    config = load_config([tmp_path / "plain.yaml"])
    values = {"filter": torch.randn(3, 5), "steps": torch.arange(4, dtype=torch.int16), "scalar": torch.tensor(2.5)}
    save_file(values, tmp_path / "my.safetensors")
    tensors = (
        Tensor(0, "f", TensorSpec("f32", (3, 5)), "weight", "filter", Mark("g.yaml", 1)),
        Tensor(1, "s", TensorSpec("i16", (4,)), "weight", "steps", Mark("g.yaml", 2)),
        Tensor(2, "c", TensorSpec("f32", ()), "weight", "scalar", Mark("g.yaml", 3)),
    )
    graph = Program("p", tensors, (Task(0, "t", None, reads=(0, 1, 2)),), Span("root", "", (0,)))
    loaded = load_weights(graph, Checkpoint.open(tmp_path / "my.safetensors"), config)
    assert [torch.equal(loaded[at], value) for at, value in enumerate(values.values())] == [True] * 3
    wrong = (Tensor(0, "f", TensorSpec("f32", (5, 3)), "weight", "filter", Mark("g.yaml", 1)), *tensors[1:])
    wrong = (*wrong, Tensor(3, "n", TensorSpec("f32", (5,)), "weight", "none", Mark("g.yaml", 4)))
    graph = Program("p", wrong, (Task(0, "t", None, reads=(0, 1, 2, 3)),), Span("root", "", (0,)))
    with pytest.raises(CheckpointError) as raised:
        load_weights(graph, Checkpoint.open(tmp_path / "my.safetensors"), config)
    assert "weight 'f' is declared f32[5, 3], but tensor 'filter' is f32[3, 5]" in str(raised.value)
    assert "tensor 'none' f32[5] is missing" in str(raised.value)
    with pytest.raises(CheckpointError, match="the configuration has no checkpoint"):
        init_checkpoint(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


WRONG = {
    "tensor: {}": "unknown key 'tensor'",
    "tensors: {a: {}}": "tensor 'a' has no 'shape'",
    "tensors: {'a.{b}': [1]}": "no loop is called 'b'",
    "tensors: {'a{': [1]}": "has a brace that is not closed",
    "tensors: {a: {shape: [1 +]}}": "expression '1 +': is not a valid expression",
    "tensors: {a: {shape: [1], dtype: f33}}": "expected bool or i8",
    "tensors: {a: {shape: [1], quantised: [w8a8]}}": "has 1 dims, expected rows and columns",
    "tensors: {a: {shape: [1, 1], quantised: [w8]}}": "expected w8a8 or fp8",
    "tensors: {a: {shape: [1], kind: b}}": "'kind' of tensor 'a' is 'b'",
    "scale: X.scale": "expected one placeholder, {name}",
    "loops: {i: [a, a]}": "expected different words",
    "loops: {i: {first: 1}}": "loop 'i' has no 'count'",
    "fused: {a: [b]}": "has 1 parts, expected two or more",
    "fused: {a: [b, c]}": "neither fused tensor 'a' nor all of its parts are among the tensors",
    "stacked: {a: {of: b, over: c}}": "'over' of stacked tensor 'a' is 'c'",
    "spellings: {'a.{x}': 'b.{y}'}": "has a placeholder that 'a.{x}' has not",
    "config: {fields: 3}": "'fields' is 3 (an integer), expected a text",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_with_a_section_is_told_at_its_place(text, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"checkpoint:\n  {text}\n")
    with pytest.raises(ConfigError) as raised:
        load_config([path]).family.layout.expected({})
    found = raised.value.diagnostics
    assert any(WRONG[text] in problem.message for problem in found), found
    assert all(problem.mark is not None and problem.mark.line == 2 for problem in found), found


def test_no_section_makes_the_reader_fail():
    """Parts of declarations replaced by anything: problems, or a layout whose tensors can be asked for."""
    rng = random.Random(5)
    junk = (None, 1, -1, 2.5, "x", "", "{", "{a}", "layer", [], [1], ["{"], {}, {"a": {}}, {"shape": []}, True)

    def spoiled(value):
        if rng.random() < 0.08:
            return rng.choice(junk)
        if isinstance(value, dict):
            return {rng.choice((key, key, key, key, "x")): spoiled(item) for key, item in value.items()}
        return [spoiled(item) for item in value] if isinstance(value, list) else value

    told = 0
    for seed in range(150):
        layer = Family(random.Random(seed)).layer()
        layout, problems = read_layout(Given(spoiled(layer["checkpoint"]), Mark("x.yaml", 1)))
        told += bool(problems)
        values = {"layers": 2, "width": 4, "D": 4, "vocab": 3, "count": 2, "same": True, "on": True, "flags": [1, 0]}
        try:
            names = list(layout.expected(values))
            for name in (*names, "net.0.j0all.weight", "model.net.1.s0.weight_scale"):
                layout.canonical(name)
                layout.encoding(name, "w8a8")
                layout.joined(name, values)
        except RinggraphError:
            pass
    assert 50 < told < 150


def test_editors_know_every_key():
    """The schema of layers has the keys that the reader has, and takes random declarations and those that are shipped."""
    schema = json.loads((ROOT / "graphs" / "schema" / "config.schema.json").read_text())["properties"]["checkpoint"]
    parts = schema["properties"]
    assert {*parts} == {*checkpoint_section.SECTION}
    assert {*parts["config"]["properties"]} == {*checkpoint_section.CONFIG}
    assert {*parts["kinds"]["additionalProperties"]["properties"]} == {*checkpoint_section.OF_KIND}
    assert {*parts["tensors"]["additionalProperties"]["anyOf"][1]["properties"]} == {*checkpoint_section.OF_TENSOR}
    layers = [Family(random.Random(seed)).layer() for seed in range(50)]
    layers += [yaml.safe_load((ROOT / "graphs" / name).read_text()) for name in ("config/deepseek_v4.yaml", "qwen3/family.yaml")]
    for layer in layers:
        jsonschema.validate(layer["checkpoint"], schema)


def test_the_pages_example(tmp_path):
    """docs/checkpoints.md: the layer, what 'init' and 'convert' say of it, and the names that a graph can take."""
    page = (DOCS / "checkpoints.md").read_text(encoding="utf-8")
    text = page.split("(`decoder.yaml`):\n\n```yaml\n")[1].split("```")[0]
    (tmp_path / "decoder.yaml").write_text(text)
    config = load_config([tmp_path / "decoder.yaml"])
    folder = init_checkpoint(config, tmp_path / "decoder", seed=0)
    made, shards = Checkpoint.open(folder).of(config), len(list(folder.glob("*.safetensors")))
    assert f"decoder: decoder, {len(made.on_disk)} tensors, {human_bytes(made.size_bytes)}, {shards} shards\n" in page
    again = convert(folder, tmp_path / "decoder-w8a8", config, to="w8a8")
    assert f"decoder-w8a8: w8a8, {again.shards_written} shards, {len(again.changed)} tensors changed\n" in page
    own, width = everything(folder), 64
    assert json.loads((folder / "config.json").read_text())["width"] == width
    asked = [
        ("model.layers.1.q.weight", own["model.layers.1.q.weight"]),
        ("transformer.layers.1.q.weight", own["model.layers.1.q.weight"]),
        ("model.layers.1.qkv.weight", torch.cat([own[f"model.layers.1.{part}.weight"] for part in "qkv"])),
        ("model.layers.1.experts.weight", torch.stack([own[f"model.layers.1.experts.{at}.weight"] for at in range(3)])),
        ("model.layers.0.mlp.up.weight", own["model.layers.0.mlp.up.weight"]),
        ("head.weight", own["model.embed.weight"]),
        ("model.wte.weight", own["model.embed.weight"]),
    ]
    graph = program(config, [(name, tuple(value.shape)) for name, value in asked])
    loaded = load_weights(graph, Checkpoint.open(folder), config)
    random_ones = RandomExternals(config, seed=0)
    for tensor, (name, value) in zip(graph.tensors, asked, strict=True):
        assert torch.equal(loaded[tensor.id], value), name
        assert torch.equal(random_ones.value(tensor, {}), value), f"{name}: 'run' without a checkpoint"


def test_scales_by_any_name(tmp_path):
    """A weight's scale comes with it under the graph's own name for it, or is declared by its name on disk."""
    config, folder = small(tmp_path, flavour="w8a8")
    own = everything(folder)
    specs = {
        "w": ("i8", (4, 4), "a.weight"),
        "w_scale": ("f32", (4,), "a.scale"),
        "v": ("i8", (2, 4), "b.weight"),
        "s": ("f32", (2,), "b.scale"),
    }
    renamed = {name.replace(".scale", "_s"): value for name, value in own.items()}
    (tmp_path / "small.yaml").write_text(SMALL.format(same="false", rows="4", parts=["a.weight", "b.weight"]).replace(
        "checkpoint:", 'checkpoint:\n  scale: ["{name}_s", "{name}.scale"]'))  # fmt: skip
    other = load_config([tmp_path / "small.yaml"])
    assert checked(tmp_path / "renamed", renamed, other) == []
    for settings, stored in ((config, folder), (other, folder), (other, tmp_path / "renamed")):
        tensors = tuple(
            Tensor(at, name, TensorSpec(dtype, shape), "weight", source, Mark("g.yaml", 1))
            for at, (name, (dtype, shape, source)) in enumerate(specs.items())
        )
        graph = Program("p", tensors, (Task(0, "t", None, reads=(0, 1, 2, 3)),), Span("root", "", (0,)))
        loaded = load_weights(graph, Checkpoint.open(stored), settings)
        for at, (_, _, source) in enumerate(specs.values()):
            assert torch.equal(loaded[at], own[source]), (source, settings)
