"""The section `hugging_face` of a layer: how a `config.json` is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner.base.errors import Diagnostic
from runner.language.given import Given
from runner.models.protocols import Normalised, Values


class HuggingFace:
    """What the section says; `problems` is everything that is wrong with it."""

    def __init__(self, section: Given | None, name: str, model_types: Sequence[str], rules: Mapping[str, Mapping[str, Any]]):
        self.problems: list[Diagnostic] = []

    def read(self, given: Values, *, whole: bool) -> Normalised:
        """See `ModelFamily.normalise`."""
        return Normalised({key: (value, key) for key, value in given.items()})
