"""A family of models that is data: the sections of one layer, or of several that name no family.

    family = DeclaredFamily("my_model", {"fields": Given(...), ...}, base_layer=Path("family.yaml"))

Each section has a module that reads it: `fields`, `requires`, `hugging_face`, `serving`, `layout` (`checkpoint`) and `state`.
What a section leaves out is as for a graph of no model: no fields, no checkpoint, no requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from runner.base.errors import ConfigError, Diagnostic, Mark
from runner.language.given import DEEP, Given, describe, read_layer
from runner.models.declared.layout import read_layout
from runner.models.declared.reading.fields import Declared
from runner.models.declared.reading.hugging_face import HuggingFace
from runner.models.declared.reading.requires import Requirements
from runner.models.declared.serving import ServingDeclaration
from runner.models.protocols import (
    C,
    CheckpointLayout,
    Configuration,
    ModelFamily,
    Normalised,
    Serving,
    Settings,
    Values,
    Vocabulary,
)

ANONYMOUS = "none"
"""What the family of a configuration is called that is of no model."""


class DeclaredFamily(ModelFamily):
    """See `ModelFamily`. `problems` is everything that is wrong with the sections, whatever the configuration."""

    def __init__(self, name: str, sections: Mapping[str, Given], base_layer: str | Path = ""):
        self.name = name
        self.base_layer = base_layer
        self.sections = {key: given for key, given in sections.items() if key in (*DEEP, "model_types")}
        types, wrong = _model_types(self.sections.get("model_types"))
        wrong += _preset_problems(sections.get("preset"))
        self.model_types = types
        self._declared = Declared(self.sections.get("fields"))
        self._hugging_face = HuggingFace(self.sections.get("hugging_face"), name, self.model_types, self._declared.rules)
        self._requires = Requirements(self.sections.get("requires"))
        self._serving = ServingDeclaration(self.sections.get("serving"))
        self._layout, wrong_tensors = read_layout(self.sections.get("checkpoint"))
        self.problems: list[Diagnostic] = [
            *wrong_tensors,
            *wrong,
            *self._declared.problems,
            *self._requires.problems,
            *self._hugging_face.problems,
            *self._serving.problems,
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeclaredFamily) and (self.name, self.sections) == (other.name, other.sections)

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return DeclaredFamily, (self.name, self.sections, self.base_layer)

    def fields(self) -> Mapping[str, Mapping[str, Any]]:
        return self._declared.rules

    def normalise(self, given: Values, *, whole: bool) -> Normalised:
        return self._hugging_face.read(given, whole=whole)

    def impossible(self, values: Values, given: Mapping[str, Given], deploy: str) -> list[Diagnostic]:
        return [*self._requires.broken(values, given), *self._layout.problems(values, given)]

    # --- checkpoints ---

    @property
    def layout(self) -> CheckpointLayout:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._layout

    # --- serving ---

    def serving(self, config: C, decode: str | None = None) -> Serving[C]:
        return self._serving.serving(config, decode)

    def fitting(self, config: C, lengths: Sequence[int], max_new_tokens: int, decode: str | None = None) -> C:
        return self._serving.fitting(config, lengths, max_new_tokens, decode)

    def vocabulary(self, config: Configuration) -> Vocabulary:
        return self._serving.vocabulary(config)

    def is_narrow(self, settings: Settings) -> bool:
        return self._serving.is_narrow(settings.values)


def _model_types(given: Given | None) -> tuple[tuple[str, ...], list[Diagnostic]]:
    if given is None:
        return (), []
    names = given.plain
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return (), [given.problem("C102", f"'model_types' is {describe(names)}, expected a list of names")]
    return tuple(names), []


def _preset_problems(given: Given | None) -> list[Diagnostic]:
    if given is None or (isinstance(given.value, str) and given.value):
        return []
    return [given.problem("C102", f"'preset' is {describe(given.value)}, expected a preset or a file beside this one")]


def declared_family(package: str, file: str) -> DeclaredFamily:
    """The family that a layer declares which lies in an installed package, for an entry point; raises ConfigError."""
    return family_of_file(Path(str(files(package).joinpath(file))))


def family_of_file(path: Path) -> DeclaredFamily:
    """The family that a layer declares by `family: NAME`; raises ConfigError."""
    problems: list[Diagnostic] = []
    try:
        given = read_layer(path.read_text(encoding="utf-8"), str(path), problems)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(Diagnostic("C100", f"layer '{path}' cannot be read: {error}")) from error
    if problems:
        raise ConfigError(problems)
    named = given.get("family")
    if named is None or not isinstance(named.value, str):
        got = "nothing" if named is None else describe(named.value)
        raise ConfigError(Diagnostic("C105", f"'family' is {got}, expected the name of the family", Mark(str(path), 1)))
    return DeclaredFamily(named.value, given, path)
