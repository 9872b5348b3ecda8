"""Plain formulas and random operands that tests of attention's ops share."""

from __future__ import annotations

import torch
from op_calls import DTYPES

from runner.execution.storage import TORCH_DTYPES

PRECISIONS = list(DTYPES)
TOLERANCE = {"f32": 2e-6, "bf16": 6e-3, "w8a8": 8e-3, "w8a8-f32": 2e-4}


def assert_close(made, expected, precision="f32"):
    """Equal shapes, and a difference whose norm is small beside the expected norm."""
    made, expected = made.double(), torch.as_tensor(expected).double()
    assert made.shape == expected.shape
    assert float((made - expected).norm() / (expected.norm() + 1e-30)) < TOLERANCE[precision]


def typed(precision, parameter, tensor):
    """The tensor in a dtype, or what a dtype parameter stands for."""
    return tensor.to(TORCH_DTYPES[DTYPES[precision].get(parameter, parameter)])


def codes(*shape):
    """Random INT8."""
    return torch.randint(-127, 128, shape, dtype=torch.int8)


def weight(precision, *shape):
    """A quantised weight, its scale, and its value in f64."""
    if DTYPES[precision]["wq"] == "i8":
        w, scale = codes(*shape), 0.01 + 0.01 * torch.rand(shape[:-1])
        return w, scale, w.double() * scale.double().unsqueeze(-1)
    w = typed(precision, "wq", torch.randn(shape) * 0.2)
    return w, torch.ones(shape[:-1]), w.double()


def tables(positions, width, dtype=torch.float32):
    """Tables of random angles, and the angles [positions, width / 2]."""
    angles = torch.rand(positions, width // 2) * 6
    both = torch.cat((angles, angles), dim=1)
    return both.cos().to(dtype), both.sin().to(dtype), angles


def turned(x, angles, sign=1):
    """Trailing columns of each row [..., C], pair by pair as complex numbers, by `angles` [..., R / 2]."""
    x = x.double().clone()
    width = 2 * angles.shape[-1]
    pairs = torch.view_as_complex(x[..., -width:].reshape(*x.shape[:-1], -1, 2).contiguous())
    spun = pairs * torch.polar(torch.ones_like(angles.double()), sign * angles.double())
    x[..., -width:] = torch.view_as_real(spun).flatten(-2)
    return x
