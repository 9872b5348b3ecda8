#!/usr/bin/env bash
# msmodelslim 26.1.0 (torch 2.13.0, transformers 5.23.0), Ascend's quantiser: `scale_bias` of linears that are saved as
# W4A8_DYNAMIC.
#
# A good guess: a tensor that the AscendV1 format stores for each W4A8 linear follows from its weight and scale, so that linears
# of equal shapes have a `scale_bias` of one shape: a correction per output row, eight times the sum of the row's dequantised
# weights.
# What happens: the name of the module decides. `up_proj` and its like (gate, q, k, v, w1, w3) have that, [n, 1]; `down_proj`,
# `o_proj` and `w2` have sixteen columns, one sum for each rank of a 16-way split, whatever number of ranks will run it; and
# under any other name (`q_b_proj`, `kv_b_proj`, `out_proj`, `wq_b`) the "bias" is the whole dequantised matrix, [n, k] in F32,
# eight times the size of the codes beside it and not multiplied by eight. The description calls all of them W4A8_DYNAMIC.
# Nothing warns.
# Who is hurt: whoever quantises a model with other names (latent attention, DeepSeek-V4's own names): the 4-bit checkpoint is
# larger than the BF16 one and what a runtime finds is no correction; and readers that take the shape of one layer for that of
# all.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 msmodelslim==26.1.0 2>/dev/null
WORK=$work HOME=$work "$work/venv/bin/python" - <<'P'
import json
import os
from pathlib import Path

import torch
from msmodelslim import ir
from msmodelslim.core.base.protocol import BatchProcessRequest
from msmodelslim.core.quant_service.modelslim_v1.save.ascendv1 import AscendV1Config, AscendV1Saver
from msmodelslim.ir.qal import QDType, QParam, QScheme, QScope, QStorage
from msmodelslim.model.interface import IModel
from safetensors.torch import load_file
from torch import nn

work = Path(os.environ["WORK"])
ROWS, COLUMNS = 8, 64
SHAPES = {
    "up_proj": (ROWS, 1), "down_proj": (ROWS, 16), "o_proj": (ROWS, 16), "q_b_proj": (ROWS, COLUMNS),
    "kv_b_proj": (ROWS, COLUMNS), "out_proj": (ROWS, COLUMNS), "wq_b": (ROWS, COLUMNS),
}  # fmt: skip


class Source(IModel):
    """The folder of the model before quantisation, from which the saver copies `config.json`."""

    model_path = work / "source"
    model_type = "any"
    trust_remote_code = False


Source.model_path.mkdir()
(Source.model_path / "config.json").write_text(json.dumps({"model_type": "any"}))
torch.manual_seed(0)
weight = torch.randn(ROWS, COLUMNS)
scale = weight.abs().amax(1) / 7
codes = torch.round(weight / scale[:, None])
tokens = QParam(scheme=QScheme(scope=QScope.PER_TOKEN, dtype=QDType.INT8, symmetric=True))


def linear():
    rows = QParam(scheme=QScheme(scope=QScope.PER_CHANNEL, dtype=QDType.INT4, symmetric=True), ext={"scale": scale.clone()})
    return ir.W4A8DynamicFakeQuantLinear(tokens, rows, QStorage(QDType.INT4, codes.clone()), None)


layer = nn.ModuleDict({name: linear() for name in SHAPES})
config = AscendV1Config()
config.set_save_directory(str(work / "quantised"))
saver = AscendV1Saver(nn.ModuleDict({"layer": layer}), config, Source())
saver.pre_run()
saver.postprocess(BatchProcessRequest(name="layer", module=layer))
saver.post_run()

stored = load_file(next((work / "quantised").glob("*.safetensors")))
described = json.loads((work / "quantised" / "quant_model_description.json").read_text())
exact = codes * scale[:, None]
for name, shape in SHAPES.items():
    bias, packed = stored[f"layer.{name}.scale_bias"], stored[f"layer.{name}.weight"]
    print(f"{name}: weight {packed.numel()} bytes, scale_bias {tuple(bias.shape)} {bias.dtype}: {bias.nbytes} bytes")
    assert torch.equal(packed, stored["layer.up_proj.weight"]) and described[f"layer.{name}.scale_bias"] == "W4A8_DYNAMIC"
    assert tuple(bias.shape) == shape, "the behaviour has changed"
    expected = exact if shape[1] == COLUMNS else 8 * exact.unflatten(1, (shape[1], -1)).sum(2)
    assert torch.allclose(bias, expected, atol=1e-4), "the behaviour has changed"
P
echo "still so"
