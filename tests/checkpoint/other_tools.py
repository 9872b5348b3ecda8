"""Checkpoints of ours, laid out as other tools write them; and what a checkpoint computes."""

import json

import torch
from safetensors.torch import load_file, save_file

from runner.driver.driver import registry, resolve
from runner.driver.serve import Request, prepared, serve
from runner.serving.session import Placement
from schedulers import get_scheduler

PROMPT = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
ANNOTATED = Placement(lambda program: get_scheduler("annotated")(program, {}))
DESCRIPTION = "quant_model_description.json"
SHARD, INDEX = "quant_model_weights-00001-of-00001.safetensors", "quant_model_weights.safetensors.index.json"


def tensors_of(folder):
    """Every tensor, by the name that it is stored under."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def written_again(folder, out, edit=None, shard="model.safetensors"):
    """A copy in one shard without an index, its tensors changed by `edit`."""
    tensors = tensors_of(folder)
    if edit is not None:
        tensors = edit(tensors) or tensors
    out.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / shard, metadata={"format": "pt"})
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    return out


def as_modelslim(folder, out, *, offset=torch.float32, column=True, described=True, index=INDEX, zero_point=".weight_offset"):
    """A W8A8 checkpoint as Ascend's ModelSlim lays it out; `offset` is the dtype of the zero points, None for none."""

    def rename(tensors):
        for name in [name for name in tensors if name.endswith(".scale") and f"{name[:-6]}.weight" in tensors]:
            scale = tensors.pop(name)
            shape = (-1, 1) if column else (-1,)
            tensors[f"{name[:-6]}.weight_scale"] = scale.reshape(shape)
            if offset is not None:
                tensors[name[:-6] + zero_point] = torch.zeros(scale.numel(), dtype=offset).reshape(shape)

    written_again(folder, out, rename, SHARD)
    names = tensors_of(out)
    if index is not None:
        (out / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, SHARD)}))
    if described:
        (out / DESCRIPTION).write_text(json.dumps(description(names)))
    change_config(out, quantization_config=None)
    return out


INT8 = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": True, "group_size": None}


def as_compressed_tensors(folder, out, activations=INT8, **keys):
    """A W8A8 checkpoint as compressed-tensors 0.20.1 lays it out, and the description that it puts into `config.json`."""

    def rename(tensors):
        for name in [name for name in tensors if name.endswith(".scale") and f"{name[:-6]}.weight" in tensors]:
            tensors[f"{name[:-6]}.weight_scale"] = tensors.pop(name).reshape(-1, 1)

    written_again(folder, out, rename)
    weights = INT8 | {"strategy": "channel", "dynamic": False}
    group = {"format": "int-quantized", "targets": ["Linear"], "weights": weights, "output_activations": None}
    described = {
        "config_groups": {"group_0": group | {"input_activations": activations}},
        "format": "int-quantized",
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.20.1",
    }
    change_config(out, quantization_config=described | keys)
    return out


def description(names):
    """What ModelSlim says of tensors: kinds of quantised weights, their scales and offsets, and of all others."""
    scaled = {name.removesuffix("_scale") for name in names if name.endswith(".weight_scale")}
    kinds = {name: "W8A8_DYNAMIC" if name.rpartition(".")[0] + ".weight" in scaled else "FLOAT" for name in names}
    return {"version": "1.0.0", "model_quant_type": "W8A8_DYNAMIC", "group_size": 0, "metadata": {"tool": "x"}, **kinds}


def change_config(folder, **keys):
    """Set keys of a `config.json`; None removes one."""
    path = folder / "config.json"
    held = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in held.items() if keys.get(key, 0) is not None}))


def computed(folder, *sets, tokens=4):
    """What `generate` makes of a prompt on a checkpoint: its tokens, and the logits of every position."""
    config = resolve([str(folder / "config.json")], sets)
    request = Request(folder, (PROMPT,), tokens, ignore_eos=True, logits=folder.parent / f"{folder.name}.logits")
    served = serve(prepared(config, request), request, registry(), ANNOTATED)
    logits = load_file(request.logits)
    request.logits.unlink()
    return served.generations[0].tokens, torch.cat((logits["prompt.0.prefill"], logits["prompt.0.decode"]))


def same_files(first, second):
    """Whether two conversions wrote the same bytes, their reports of errors apart."""
    names = {path.name for folder in (first, second) for path in folder.iterdir()} - {"conversion_report.json"}
    return all((first / name).is_file() and (first / name).read_bytes() == (second / name).read_bytes() for name in names)
