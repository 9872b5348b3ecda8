#!/usr/bin/env bash
# msmodelslim 26.1.0 (torch 2.13.0, transformers 5.23.0), Ascend's quantiser: how 4-bit weights lie in the files that it saves.
#
# A good guess: two neighbours of a row share a byte, as in safetensors' F4, in DeepSeek's FP4 experts and in MXFP4 elsewhere,
# so that a weight [n, k] is stored as [n, k / 2] and has as many rows as its scale.
# What happens: one saver has three layouts. MXFP4 is as guessed. W4A8_DYNAMIC puts two *rows* in a byte, [n / 2, k], the even
# row in the low half, while `weight_scale` keeps n rows. W4A4_DYNAMIC does not pack: [n, k], one byte a code. The last two are
# both I8 and no field tells the layout: the type's name alone must be known to mean it.
# Who is hurt: readers that unpack along the last dimension: of a square weight [2m, 2m] they make [m, 4m], or worse, take the
# first half of the scales; and whoever cuts a W4A8 weight by rows for tensor parallel ranks at an odd row.
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
ROWS, COLUMNS = 4, 64


class Source(IModel):
    """The folder of the model before quantisation, from which the saver copies `config.json`."""

    model_path = work / "source"
    model_type = "any"
    trust_remote_code = False


def of(scope, dtype, **ext):
    return QParam(scheme=QScheme(scope=scope, dtype=dtype, symmetric=True), ext=ext)


Source.model_path.mkdir()
(Source.model_path / "config.json").write_text(json.dumps({"model_type": "any"}))
torch.manual_seed(0)
codes = torch.randint(-8, 8, (ROWS, COLUMNS)).float()
e2m1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
nibbles = torch.randint(0, 16, (ROWS, COLUMNS))
values = torch.where(nibbles < 8, 1.0, -1.0) * e2m1[nibbles % 8]
ones, zeros = torch.ones(ROWS), torch.zeros(ROWS)
layer = nn.ModuleDict(
    {
        "gate_proj": ir.W4A8DynamicFakeQuantLinear(
            of(QScope.PER_TOKEN, QDType.INT8), of(QScope.PER_CHANNEL, QDType.INT4, scale=ones),
            QStorage(QDType.INT4, codes.clone()), None,
        ),
        "up_proj": ir.W4A4DynamicPerChannelFakeQuantLinear(
            of(QScope.PER_TOKEN, QDType.INT4), of(QScope.PER_CHANNEL, QDType.INT4, scale=ones.clone(), offset=zeros),
            QStorage(QDType.INT4, codes.clone()), None,
        ),
        "down_proj": ir.W4A4MXDynamicPerBlockFakeQuantLinear(
            of(QScope.PER_BLOCK, QDType.MXFP4, axes=-1),
            of(QScope.PER_BLOCK, QDType.MXFP4, axes=-1, scale=torch.zeros(ROWS, COLUMNS // 32, 1), offset=torch.zeros(1)),
            QStorage(QDType.MXFP4, values), None,
        ),
    }
)  # fmt: skip
config = AscendV1Config()
config.set_save_directory(str(work / "quantised"))
saver = AscendV1Saver(nn.ModuleDict({"layer": layer}), config, Source())
saver.pre_run()
saver.postprocess(BatchProcessRequest(name="layer", module=layer))
saver.post_run()

stored = load_file(next((work / "quantised").glob("*.safetensors")))
described = json.loads((work / "quantised" / "quant_model_description.json").read_text())
for name in layer:
    packed, scale = stored[f"layer.{name}.weight"], stored[f"layer.{name}.weight_scale"]
    kind = described[f"layer.{name}.weight"]
    print(f"{kind}: [{ROWS}, {COLUMNS}] as {packed.dtype} {tuple(packed.shape)}, scale {tuple(scale.shape)}")
rows, bytes_, pairs = (stored[f"layer.{name}.weight"] for name in layer)
assert rows.shape == (ROWS // 2, COLUMNS), "the behaviour has changed"
assert stored["layer.gate_proj.weight_scale"].shape == (ROWS, 1), "the behaviour has changed"
assert torch.equal(rows << 4 >> 4, codes[0::2].to(torch.int8)) and torch.equal(rows >> 4, codes[1::2].to(torch.int8)), "changed"
assert bytes_.dtype == rows.dtype == torch.int8 and torch.equal(bytes_, codes.to(torch.int8)), "the behaviour has changed"
assert pairs.shape == (ROWS, COLUMNS // 2), "the behaviour has changed"
signed = torch.cat((e2m1, -e2m1))
low, high = signed[pairs.long() % 16], signed[pairs.long() // 16]
assert torch.equal(low, values[:, 0::2]) and torch.equal(high, values[:, 1::2]), "the behaviour has changed"
P
echo "still so"
