"""Weight encodings of checkpoints: W8A8, FP8 with block scales, FP4 with column scales; what each stores, encoded and decoded.

A flavour of a checkpoint is named after the encoding of most of its weights; a family's layout says which weights that are.
Functions of values take and return torch tensors on any device. A weight is [rows, columns]; decoding gives f32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from runner.base.errors import CheckpointError
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.stored import FP4_COLUMNS, FP8_BLOCK
from runner.models.names import Naming, naming_of
from runner.models.protocols import FLAVOURS, CheckpointLayout, Values

CODES = ("i8", "f8e4m3")
"""Dtypes of what is quantised, as we write it."""
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of the eight E2M1 codes; bit 3 is the sign."""
MAX_I8 = 127.0
MAX_E4M3 = 448.0
MAX_E2M1 = 6.0
MIN_SCALE = 2.0**-126
"""Keeps block scales normal numbers, also where a whole block is zero."""


def plain_dtype(flavour: str, dtype: str | None = None) -> str:
    """The dtype of weights that a flavour does not quantise; raises CheckpointError for an unknown flavour or dtype."""
    if flavour not in FLAVOURS:
        raise CheckpointError(f"unknown flavour '{flavour}', expected one of {', '.join(FLAVOURS)}")
    if flavour in ("f32", "bf16"):
        return flavour
    if dtype not in (None, "f32", "bf16"):
        raise CheckpointError(f"unknown dtype '{dtype}' of plain weights, expected f32 or bf16")
    return dtype or "bf16"


def encoded(spec: TensorSpec, how: str) -> tuple[TensorSpec, TensorSpec | None]:
    """Spec of the stored weight and of its scale, of a weight [rows, columns], or a stack of such, stored as `how`."""
    if how == "plain":
        return spec, None
    *stack, rows, columns = spec.shape
    if how == "w8a8":
        return TensorSpec("i8", spec.shape), TensorSpec("f32", spec.shape[:-1])
    if how == "fp4":
        return TensorSpec("i8", (*stack, rows, columns // 2)), TensorSpec("f8e8m0", (*stack, rows, columns // FP4_COLUMNS))
    blocks = *stack, -(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK)
    return TensorSpec("f8e4m3", spec.shape), TensorSpec("f8e8m0" if how == "fp8-e8m0" else "f32", blocks)


def stored_tensors(layout: CheckpointLayout, values: Values, flavour: str, dtype: str | None = None) -> dict[str, TensorSpec]:
    """Every tensor as a checkpoint of a flavour stores it, scales included. Raises CheckpointError where that is impossible."""
    plain = plain_dtype(flavour, dtype)
    found: dict[str, TensorSpec] = {}
    for name, spec in layout.expected(values, plain).items():
        how = layout.encoding(name, flavour)
        if how == "fp4" and spec.shape[1] % FP4_COLUMNS:
            message = f"tensor '{name}' has {spec.shape[1]} columns, expected a multiple of {FP4_COLUMNS} in flavour fp4"
            raise CheckpointError(message)
        found[name], scale = encoded(spec, how)
        if scale is not None:
            found[naming_of(layout).scale_of(name)] = scale
    return found


def weights_with_scales(stored: Mapping[str, TensorSpec], naming: Naming) -> Iterator[dict[str, TensorSpec]]:
    """Every weight together with its scale, which stands behind it."""
    scales: set[str] = set()
    for name, spec in stored.items():
        if name in scales:
            continue
        scale = naming.scale_of(name)
        if scale in stored and scale != name and spec.dtype in CODES:
            scales.add(scale)
            yield {name: spec, scale: stored[scale]}
        else:
            yield {name: spec}


def quantise_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric INT8 per output channel: i8 [..., rows, columns] and f32 scale [..., rows], amax / 127, ties to even.

    A row of zeros has scale 1; one with a value that is not finite has a scale that is not, so that it does not pass for numbers.
    """
    weight = weight.float()
    amax = weight.abs().amax(-1)
    scale = torch.where(amax == 0, torch.ones_like(amax), amax / MAX_I8)
    codes = torch.round(weight / scale.unsqueeze(-1)).clamp_(-MAX_I8, MAX_I8)
    return codes.to(torch.int8), scale


def dequantise_rows(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """f32 of INT8 with one scale a row; scale is [rows] or [rows, 1]."""
    return codes.float() * scale.float().reshape(-1, 1)


def encode_fp8(weight: torch.Tensor, *, power_of_two: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """F8_E4M3 and a scale per 128 x 128 block: f32, or F8_E8M0 with `power_of_two`."""
    rows, columns = weight.shape
    blocks = -(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK)
    padded = weight.new_zeros(blocks[0] * FP8_BLOCK, blocks[1] * FP8_BLOCK, dtype=torch.float32)
    padded[:rows, :columns] = weight
    amax = padded.abs().view(blocks[0], FP8_BLOCK, blocks[1], FP8_BLOCK).amax(dim=(1, 3))
    scale = (amax / MAX_E4M3).clamp_min_(MIN_SCALE)
    if power_of_two:
        scale = _power_of_two_above(scale)
    codes = (weight.float() / _spread(scale, FP8_BLOCK, FP8_BLOCK, rows, columns)).clamp_(-MAX_E4M3, MAX_E4M3)
    return codes.to(torch.float8_e4m3fn), scale.to(torch.float8_e8m0fnu) if power_of_two else scale


def decode_fp8(codes: torch.Tensor, scale: torch.Tensor, first_row: int = 0) -> torch.Tensor:
    """f32 of F8_E4M3 with a scale per 128 x 128 block of the whole weight, of whose rows `codes` begins with `first_row`.

    `scale` holds the blocks from `first_row // 128` on.
    """
    rows, columns = codes.shape
    skipped = first_row % FP8_BLOCK
    scales = _spread(scale.float(), FP8_BLOCK, FP8_BLOCK, skipped + rows, columns)[skipped:]
    return codes.float() * scales


def encode_fp4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two E2M1 codes a byte (i8 [rows, columns / 2], even columns in the low bits) and F8_E8M0 scale [rows, columns / 32]."""
    rows, columns = weight.shape
    groups = weight.float().reshape(rows, columns // FP4_COLUMNS, FP4_COLUMNS)
    scale = _power_of_two_above((groups.abs().amax(-1) / MAX_E2M1).clamp_min_(MIN_SCALE))
    values = (groups / scale.unsqueeze(-1)).reshape(rows, columns)
    codes = _nearest_e2m1(values.abs()) | (torch.signbit(values).to(torch.uint8) << 3)
    packed = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return packed.view(torch.int8), scale.to(torch.float8_e8m0fnu)


def decode_fp4(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """f32 [rows, columns] of pairs of E2M1 codes [rows, columns / 2] and their scale [rows, columns / 32]."""
    magnitudes = torch.tensor(E2M1, device=packed.device)
    table = torch.cat((magnitudes, -magnitudes))
    codes = packed.contiguous().view(torch.uint8)
    values = torch.stack((table[(codes & 15).int()], table[(codes >> 4).int()]), dim=-1).flatten(-2)
    return values * scale.float().repeat_interleave(FP4_COLUMNS, dim=-1)


def _nearest_e2m1(magnitudes: torch.Tensor) -> torch.Tensor:
    """Codes (u8) of the nearest E2M1 magnitudes; a tie goes to the even code."""
    values = torch.tensor(E2M1, device=magnitudes.device)
    middles = (values[1:] + values[:-1]) / 2
    above = torch.bucketize(magnitudes, middles, right=True)
    below = torch.bucketize(magnitudes, middles, right=False)
    return torch.where(above % 2 == 0, above, below).to(torch.uint8)


def _power_of_two_above(scale: torch.Tensor) -> torch.Tensor:
    """The least power of two that is not below each element, exactly."""
    mantissa, exponent = torch.frexp(scale)
    return torch.ldexp(torch.ones_like(scale), torch.where(mantissa == 0.5, exponent - 1, exponent))


def _spread(scale: torch.Tensor, block_rows: int, block_columns: int, rows: int, columns: int) -> torch.Tensor:
    """Block scales repeated over their blocks, cut to [rows, columns]."""
    spread = scale.repeat_interleave(block_rows, dim=0)[:rows]
    return spread.repeat_interleave(block_columns, dim=1)[:, :columns]


def encode(weight: torch.Tensor, how: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A weight as an encoding (`TensorNames.encoding`) stores it, and its scale."""
    if how == "plain":
        return weight, None
    if how == "w8a8":
        return quantise_rows(weight)
    if how == "fp4":
        return encode_fp4(weight)
    return encode_fp8(weight, power_of_two=how == "fp8-e8m0")


def decode(codes: torch.Tensor, scale: torch.Tensor | None, how: str, first_row: int = 0) -> torch.Tensor:
    """What `encode` was given, as f32: rows of a weight from `first_row` on, with their scales; or a stack of weights."""
    if how == "plain":
        return codes.float()
    assert scale is not None
    if codes.dim() > 2:
        return torch.stack([decode(codes[at], scale[at], how) for at in range(len(codes))])
    if how == "w8a8":
        return dequantise_rows(codes, scale)
    return decode_fp4(codes, scale) if how == "fp4" else decode_fp8(codes, scale, first_row)
