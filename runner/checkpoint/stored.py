"""How the tensors of a checkpoint are stored, told by their headers alone: dtypes and shapes of weights and of their scales."""

from __future__ import annotations

from collections.abc import Mapping

from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.headers import PACKED, Stored
from runner.models.names import naming_of
from runner.models.protocols import FLAVOURS, TensorNames

FP8_BLOCK = 128
"""Rows, and columns, of FP8 that share a scale."""
FP4_COLUMNS = 32
"""Columns of FP4 that share a scale."""
POWERS = ("f8e8m0", "u8")
"""Dtypes of scales that are powers of two: tools that do not know F8_E8M0 write its bytes as u8."""

Tensors = Mapping[str, Stored]
"""Tensors by canonical name."""
Model = Mapping[str, TensorSpec]
"""Tensors of a model, unquantised; empty where nobody knows which model it is."""


def how_stored(name: str, tensors: Tensors, model: Model, names: TensorNames | None = None) -> str:
    """How a weight is stored: `plain`, `w8a8`, `fp8`, `fp8-e8m0` or `fp4`, told by its dtype, and its scale's dtype and shape."""
    spec, scale = tensors[name].spec, tensors.get(naming_of(names).scale_of(name))
    if spec.dtype == "f8e4m3":
        return "fp8-e8m0" if scale is not None and scale.spec.dtype in POWERS else "fp8"
    if spec.dtype in ("i8", "u8") and _is_weight(name, names):
        return "fp4" if _is_packed(spec.shape, scale, model.get(name)) else "w8a8"
    return "fp4" if spec.dtype == PACKED else "plain"


def _is_weight(name: str, names: TensorNames | None) -> bool:
    """Whether bytes are codes of a weight."""
    return naming_of(names).is_weight(name) or (names is not None and may_be_quantised(name, names))


def _is_packed(shape: tuple[int, ...], scale: Stored | None, model: TensorSpec | None) -> bool:
    """Whether bytes hold two codes each: by the model's columns; else by a scale of groups of columns, not of rows."""
    if len(shape) != 2:
        return False
    if model is not None and shape in (model.shape, (model.shape[0], model.shape[-1] // 2)):
        return shape != model.shape
    if scale is None:
        return False
    rows, groups = shape[0], 2 * shape[1] // FP4_COLUMNS
    if groups > 1 and scale.spec.shape == (rows, groups):
        return True
    return scale.spec.dtype in POWERS and (groups <= 1 or scale.spec.shape not in ((rows,), (rows, 1)))


def flavour_of(tensors: Tensors, names: TensorNames, model: Model) -> str:
    """The flavour of all tensors together: one of `FLAVOURS`, or `mixed`."""
    kinds = {how_stored(name, tensors, model, names) for name in tensors if may_be_quantised(name, names)} - {"plain"}
    if "fp4" in kinds:
        return "fp4"
    if not kinds:
        kinds = {tensors[name].spec.dtype for name in names.plain or tensors if name in tensors}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def may_be_quantised(name: str, names: TensorNames) -> bool:
    """Whether some flavour quantises a tensor."""
    return any(names.encoding(name, flavour) != "plain" for flavour in reversed(FLAVOURS))
