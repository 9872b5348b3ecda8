"""What quantisation tools write beside a checkpoint's tensors about how each is stored, held against how they are.

Source: `quant_model_description.json` of Ascend's ModelSlim: an object of tensor names with how each is stored (a weight's scale
and offset have entries of their own), and keys about the whole, of which `model_quant_type` says how most weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.base.errors import CheckpointError, Diagnostic
from runner.base.reading import read_json, shortened

PATTERN = "quant_model_description*.json"
WHOLE = "model_quant_type"
STORED = {"FLOAT": "plain", "W8A8_DYNAMIC": "w8a8"}
"""How a tensor of each kind is stored; other kinds (4-bit codes, scales of activations fixed in advance) are not supported."""
STATIC = (".input_scale", ".input_offset", ".deq_scale", ".quant_bias")
"""Tensors of activations that are quantised with scales fixed in advance."""


@dataclass(frozen=True)
class Description:
    """Kinds of tensors by canonical name, as `file` says them, and the kind of the whole."""

    file: str
    kinds: Mapping[str, str]
    whole: str | None

    def conflicts(self, how: Mapping[str, str]) -> list[Diagnostic]:
        """Where it says something else than is stored, or what is not supported; one finding for tensors that are alike.

        `how` has the encoding of every tensor in question by name.
        """
        found: dict[tuple[str, str], list[str]] = {}
        for name, stored in how.items():
            kind = self.kinds.get(name)
            if kind is not None and STORED.get(kind) != stored:
                found.setdefault((kind, stored), []).append(name)
        coded = {name: stored for name, stored in how.items() if stored != "plain"}
        kinds = set(coded.values()) or {"plain"}
        if self.whole is not None and not coded.keys() & self.kinds.keys() and STORED.get(self.whole) not in kinds:
            return [self._conflict("the whole", self.whole, " or ".join(sorted(kinds)))]
        return [self._conflict(told_together(names), kind, stored) for (kind, stored), names in found.items()]

    def _conflict(self, what: str, kind: str, stored: str) -> Diagnostic:
        if kind not in STORED:
            expected = " or ".join(STORED)
            return Diagnostic("K112", f"{what}: '{self.file}' says {kind}, which is not supported, expected {expected}")
        return Diagnostic("K112", f"{what}: '{self.file}' says {kind}, but the tensors are stored {stored}")


def read_description(folder: Path, canonical: Callable[[str], str]) -> Description | None:
    """The description in a checkpoint's folder; None without one. Raises CheckpointError for several, or one that is no JSON."""
    paths = sorted(path for path in folder.glob(PATTERN) if path.is_file())
    if not paths:
        return None
    if len(paths) > 1:
        names = ", ".join(f"'{path.name}'" for path in paths)
        raise CheckpointError(
            Diagnostic("K112", f"checkpoint '{folder}' is described {len(paths)} times: {names}, expected once")
        )
    found = read_json(paths[0], CheckpointError)
    if not isinstance(found, dict):
        raise CheckpointError(Diagnostic("K112", f"description '{paths[0]}' cannot be read: it is not a JSON object"))
    kinds = {canonical(name): shortened(str(kind)) for name, kind in found.items() if not isinstance(kind, list | dict)}
    return Description(paths[0].name, kinds, kinds.get(WHOLE))


def told_together(names: Iterable[str]) -> str:
    """`tensor 'A'`, or `tensor 'A' and 3 more`."""
    first, *rest = names
    return f"tensor '{first}'" + (f" and {len(rest):,} more" if rest else "")
