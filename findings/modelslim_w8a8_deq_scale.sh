#!/usr/bin/env bash
# msmodelslim 26.1.0 (torch 2.13.0, transformers 5.23.0), Ascend's quantiser: `deq_scale` of linears that are saved as W8A8
# (static).
#
# A good guess: a scale is a float; and one that is stored as I64 beside INT8 codes is an integer multiplier, in fixed point
# with a shift that is written somewhere.
# What happens: the I64 values are the bit patterns of float32 numbers, widened to 64 bits: 0.001 is stored as 981668463. No
# shift exists, and neither the header nor the description says so. A model whose adapter reports bfloat16 has the same tensor
# in F32, with the same name and the same type W8A8 in `quant_model_description.json`, so that the dtype of the unquantised
# model decides how to read it.
# Who is hurt: readers and converters (to GPTQ, compressed tensors, GGUF) that turn I64 into floats by value: scales are off by
# twelve orders of magnitude for FP16 models, and right for BF16 ones, which hides it.
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
from msmodelslim.core.quant_service.modelslim_v1.save.interface import AscendV1GlobalModelDtypeInterface
from msmodelslim.ir.qal import QDType, QParam, QScheme, QScope, QStorage
from msmodelslim.model.interface import IModel
from safetensors.torch import load_file
from torch import nn

work = Path(os.environ["WORK"])
SCALES = torch.tensor([0.1, 0.2, 0.4, 0.8])


class Source(IModel, AscendV1GlobalModelDtypeInterface):
    """The folder of the model before quantisation, and the dtype that its weights have there."""

    model_path = work / "source"
    model_type = "any"
    trust_remote_code = False

    def __init__(self, dtype):
        self.dtype = dtype

    def get_global_model_torch_dtype(self):
        return self.dtype


def saved(dtype):
    """What the saver stores and describes of one linear, with an input scale of 0.01 and `SCALES` for the rows of its weight."""
    ext = {"scale": torch.tensor(0.01), "offset": torch.tensor(0.0)}
    inputs = QParam(scheme=QScheme(scope=QScope.PER_TENSOR, dtype=QDType.INT8, symmetric=False), ext=ext)
    rows = QParam(scheme=QScheme(scope=QScope.PER_CHANNEL, dtype=QDType.INT8, symmetric=True), ext={"scale": SCALES.clone()})
    codes = QStorage(QDType.INT8, torch.ones(4, 32))
    layer = nn.ModuleDict({"q_proj": ir.W8A8StaticFakeQuantLinear(inputs, rows, codes, None)})
    folder = work / str(dtype)
    config = AscendV1Config()
    config.set_save_directory(str(folder))
    saver = AscendV1Saver(nn.ModuleDict({"layer": layer}), config, Source(dtype))
    saver.pre_run()
    saver.postprocess(BatchProcessRequest(name="layer", module=layer))
    saver.post_run()
    described = json.loads((folder / "quant_model_description.json").read_text())
    return load_file(next(folder.glob("*.safetensors")))["layer.q_proj.deq_scale"], described


Source.model_path.mkdir()
(Source.model_path / "config.json").write_text(json.dumps({"model_type": "any"}))
(half, half_described), (brain, brain_described) = saved(torch.float16), saved(torch.bfloat16)
print(f"of a float16 model: {half.dtype} {half.tolist()}")
print(f"of a bfloat16 model: {brain.dtype} {brain.tolist()}")
assert half_described == brain_described and half_described["layer.q_proj.deq_scale"] == "W8A8", "described alike"
assert brain.dtype == torch.float32 and torch.allclose(brain, 0.01 * SCALES), "the behaviour has changed"
assert half.dtype == torch.int64 and torch.equal(half.to(torch.int32).view(torch.float32), brain), "the behaviour has changed"
P
echo "still so"
