"""This module packs columns of whole numbers, so that a page can carry those of a million tasks.

A column is int32 little-endian. It is kept as it is or as differences, whichever packs smaller; its bytes are laid plane by plane
(all lowest bytes, then all second ones, ...), where neighbours are alike, and deflated. `page.js` undoes it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def packed(columns: Mapping[str, Ints]) -> dict[str, Any]:
    """Columns as JSON: per name its length, whether it holds differences, its bytes in base64; raises ValueError beyond int32."""
    return {name: _packed(name, np.asarray(values, np.int64)) for name, values in columns.items()}


def _packed(name: str, values: Ints) -> dict[str, Any]:
    if len(values) and (values.min() < -(2**31) or values.max() >= 2**31):
        raise ValueError(f"column '{name}' has numbers beyond 32 bits")
    plain, steps = (_deflated(column) for column in (values, np.diff(values, prepend=0)))
    chosen = min(plain, steps, key=len)
    return {"n": len(values), "steps": chosen is steps, "data": base64.b64encode(chosen).decode("ascii")}


def _deflated(values: Ints) -> bytes:
    wrapped = (values & 0xFFFFFFFF).astype("<u4")  # differences may wrap; sums wrap back
    return zlib.compress(wrapped.view(np.uint8).reshape(-1, 4).T.tobytes(), 9)
