"""Which family's names a folder's tensors have, and what is known of names where nobody says."""

from __future__ import annotations

import json
from pathlib import Path

from runner.models import family_of_type
from runner.models.protocols import TensorNames


class AsStored(TensorNames):
    """Names of an unknown model: taken as they are, and any weight may be quantised. See `TensorNames`."""

    def encoding(self, name: str, flavour: str) -> str:
        return flavour if flavour not in ("f32", "bf16") and name.endswith(".weight") else "plain"


AS_STORED = AsStored()


def names_in(folder: Path) -> TensorNames:
    """The names of the family that the folder's `config.json` names by its `model_type`, else `AS_STORED`.

    Raises RinggraphError for a family that cannot be loaded.
    """
    path = folder / "config.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return AS_STORED
    found = family_of_type(described.get("model_type")) if isinstance(described, dict) else None
    return AS_STORED if found is None else found.layout
