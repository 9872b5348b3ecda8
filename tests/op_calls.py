"""Single ops on tensors of a test: checked against their signature, written into outputs full of rubbish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ops import register_all
from runner.base.tensor_spec import TensorSpec
from runner.execution.storage import TORCH_DTYPES
from runner.program.ops import OpRegistry
from runner.program.signature import Signature

REGISTRY = OpRegistry()
register_all(REGISTRY)

DTYPES = {
    "f32": {"act": "f32", "qact": "f32", "acc": "f32", "wd": "f32", "wq": "f32"},
    "bf16": {"act": "bf16", "qact": "bf16", "acc": "f32", "wd": "bf16", "wq": "bf16"},
    "w8a8": {"act": "bf16", "qact": "i8", "acc": "i32", "wd": "bf16", "wq": "i8"},
    "w8a8-f32": {"act": "f32", "qact": "i8", "acc": "i32", "wd": "f32", "wq": "i8"},
}
"""Dtype parameters of each precision, as the page on configuration says."""

NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def rubbish(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """What nobody may read: NaN, or a number that no test expects."""
    return torch.full(shape, float("nan") if dtype.is_floating_point else 77, dtype=dtype)


def run_op(
    name: str,
    inputs: Mapping[str, torch.Tensor],
    outputs: Mapping[str, tuple[str, tuple[int, ...]] | torch.Tensor],
    precision: str = "f32",
    **params: Any,
) -> dict[str, torch.Tensor]:
    """Runs the op; `outputs` gives (dtype or its parameter, shape) for new tensors, or tensors to write into."""
    definition, dtypes = REGISTRY[name], DTYPES[precision]
    made = {
        key: value if isinstance(value, torch.Tensor) else rubbish(TORCH_DTYPES[dtypes.get(value[0], value[0])], *value[1])
        for key, value in outputs.items()
    }
    specs = {key: TensorSpec(NAMES[value.dtype], tuple(value.shape)) for key, value in (*inputs.items(), *made.items())}
    match = Signature(definition, dtypes).match(specs)
    assert not match.problems, match.problems
    assert {o.name for o in definition.outputs} == made.keys()
    literals = {key: value for key, value in definition.params.items() if not isinstance(value, str)}
    given = {key: value.clone() for key, value in inputs.items()}
    definition.run(**inputs, **made, **(literals | params))
    for key, value in given.items():
        same = torch.equal(*(x.contiguous().view(-1).view(torch.uint8) for x in (value, inputs[key])))
        assert same, f"'{name}' wrote over its input '{key}'"
    return made


def act(precision: str) -> torch.dtype:
    """The dtype of activations."""
    return TORCH_DTYPES[DTYPES[precision]["act"]]
