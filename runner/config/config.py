"""Configurations: layers, deployments and options resolved to the values that graphs are expanded with.

    config = load_config(["flash", "my.yaml"], sets=["ep=8", "decode.batch=4"], deploy="decode")
    config.values["T"], config.dtypes["act"]

Layers name the family of models that they are of (`model: NAME`, or a `config.json`'s `model_type`), and the family says which
fields there are; layers that name none declare fields of their own (`fields:`). Lowest is the family's base layer, then the given
layers in order, then the chosen deployment's fields, then `sets`. Fields and dims may be expressions over each other; they are
evaluated when all layers are combined.
Every problem of a configuration is reported at once, each with the place it came from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runner.base.errors import ConfigError, Diagnostic, Mark, did_you_mean
from runner.config.evaluation import Evaluation
from runner.config.layers import (
    Layer,
    Rules,
    as_layer,
    declared_fields,
    declared_here,
    fields_of,
    named_family,
    of_no_model,
    op_files,
)
from runner.config.sources import Source, fields_given, read_option, read_source
from runner.language.given import Given
from runner.models import BASE_LAYER, family, family_names
from runner.models.declared.family import DeclaredFamily
from runner.models.declared.state import StateDeclaration
from runner.models.declared.state_section import merged, read_state
from runner.models.protocols import ModelFamily

NO_MODEL = Diagnostic(
    "C105",
    "no layer says which model this is",
    hint="start from a preset, such as --config flash, or give a layer 'model: FAMILY', or 'fields' of its own",
)


@dataclass(frozen=True)
class Config:
    """A resolved configuration.

    name     the layers' names, joined by `+`
    deploy   the chosen deployment, "" where there is none to choose
    fields   every field, evaluated: int, float, bool, str, list or None
    values   fields and dims: what a name in an expression stands for
    dtypes   dtype parameters (`act`, `wq`, ...) to dtype names
    state    what its layers declare of the state of requests
    """

    name: str
    deploy: str
    fields: Mapping[str, Any]
    values: Mapping[str, Any]
    dtypes: Mapping[str, str]
    state: StateDeclaration = field(repr=False, compare=False)
    family: ModelFamily = field(repr=False)
    _layers: tuple[Layer, ...] = field(repr=False, compare=False)
    _options: tuple[Layer, ...] = field(repr=False, compare=False)
    _asked: str | None = field(repr=False, compare=False)
    _given: Mapping[str, Given] = field(repr=False, compare=False)

    def __getitem__(self, name: str) -> Any:
        """The value of a field or dim."""
        return self.values[name]

    @property
    def deployments(self) -> tuple[str, ...]:
        """The deployments that there are."""
        return tuple(_deployments((*self._layers, *self._options)))

    def with_(self, *, sets: Sequence[str] = (), deploy: str | None = None, ep: int | None = None, **fields: Any) -> Config:
        """This configuration with further options, another deployment, or fields set; raises ConfigError."""
        sources, problems = _read_options(sets, ep, fields)
        found = named_family(sources, self.family, self.family)[1]
        if found:
            raise ConfigError([*problems, *found])
        options, found = _option_layers(sources, self.family, self._layers)
        return _resolve(self.family, self._layers, (*self._options, *options), deploy or self._asked, [*problems, *found])

    def __reduce__(self) -> tuple[Any, ...]:
        """For ranks in other processes: what it was resolved from."""
        is_found = self.family.name in family_names() and family(self.family.name) is self.family
        return _resolve, (self.family.name if is_found else self.family, self._layers, self._options, self._asked, [])

    def mark(self, name: str) -> Mark | None:
        """The place of a field, dim or dtype; None for what no file gives."""
        dtypes = {key: given for layer in (*self._layers, *self._options) for key, given in layer.dtypes.items()}
        given = self._given.get(name) or dtypes.get(name)
        return None if given is None else given.mark

    def origin(self, name: str) -> str:
        """Where a field or dim was given: `FILE:LINE`, or the option; "default" where a `config.json` leaves it out."""
        given = self._given[name]
        if given.is_default:
            return "default"
        return given.option or (f"{given.mark.file}:{given.mark.line}" if given.mark else "")


def load_config(
    layers: Sequence[str | Path | Source] = ("tiny",),
    sets: Sequence[str] = (),
    deploy: str | None = None,
    ep: int | None = None,
    *,
    deploy_mark: Mark | None = None,
) -> Config:
    """Resolve `layers` (presets, YAML files, Hugging Face `config.json`s, sources read already) and `sets` (`key=value`).

    `deploy_mark` is where `deploy` is written, for the message about one that does not exist.

    Raises ConfigError that lists every problem found.
    """
    sources: list[Source] = []
    problems: list[Diagnostic] = []
    unreadable: list[Diagnostic] = []
    for name in layers:
        _read_into(name, sources, problems, unreadable)
    given, found = _read_options(sets, ep, {})
    problems += found
    here, declaring, found = declared_here(sources)
    problems += found
    anonymous = of_no_model(sources, given) if here is None else None
    model, not_one = named_family([*sources, *given], here, here or anonymous)
    if model is None and not not_one:
        model = anonymous
    if model is None and not (unreadable or not_one):
        untyped = any(source.is_whole for source in sources)
        not_one = [replace(NO_MODEL, message=f"{NO_MODEL.message}: 'model_type' is missing") if untyped else NO_MODEL]
    if model is None or not_one:
        anyway = [] if unreadable or not_one[0].code != NO_MODEL.code else _wrong_anyway(sources, given)
        raise ConfigError([*unreadable, *problems, *anyway, *not_one])
    if declaring is not None:
        sources = [source for source in sources if source is not declaring]
        declaring = replace(declaring, name=model.name)
    return _load(model, sources, given, problems, unreadable, deploy, deploy_mark, declaring)


def fields_known(layers: Sequence[str | Path | Source]) -> tuple[str, Rules]:
    """The family of `layers`, and every field that a layer over them may give, with its JSON Schema; raises ConfigError.

    Whether the fields have values is another matter.
    """
    sources: list[Source] = []
    problems: list[Diagnostic] = []
    for name in layers:
        _read_into(name, sources, problems, problems)
    here, declaring, found = declared_here(sources)
    anonymous = of_no_model(sources) if here is None else None
    model, wrong = named_family(sources, here, here or anonymous)
    model = model or anonymous
    problems += [*found, *wrong]
    if model is None or problems:
        raise ConfigError(problems or [NO_MODEL])
    if declaring is None and model.base_layer:
        _read_into(model.base_layer, sources, problems, problems)
    lowest, wrong = declared_fields(sources, model)
    if problems := [*problems, *wrong, *getattr(model, "problems", ())]:
        raise ConfigError(list(dict.fromkeys(problems)))
    return model.name, fields_of(model, [lowest])


def layers_beside(graph: Path) -> tuple[str | Path, ...]:
    """The layers that a graph is taken under where none are given: what the family's layer in its folder calls `preset`, if
    any; a file beside that layer comes with it, as its family need not be installed."""
    base = graph.parent / BASE_LAYER
    if not base.is_file():
        return ()
    try:
        named = read_source(base)[0].given.get("preset")
    except ConfigError:  # it is told where the layer is read
        return ()
    if named is None or not isinstance(named.value, str):
        return ()
    beside = base.parent / named.value
    return (base, beside) if beside.is_file() else (named.value,)


def op_files_of(layers: Sequence[str | Path]) -> list[Path]:
    """The Python files of ops that layers name; those of a layer that cannot be read, which is told elsewhere, are left out."""
    found: list[Path] = []
    for name in layers:
        with suppress(ConfigError):
            found += op_files(read_source(name)[0])[0]
    return found


def _load(
    model: ModelFamily,
    sources: Sequence[Source],
    given: Sequence[Source],
    problems: list[Diagnostic],
    unreadable: list[Diagnostic],
    deploy: str | None,
    deploy_mark: Mark | None,
    declaring: Source | None = None,
) -> Config:
    """The configuration of layers and options that are of one family; raises ConfigError.

    `declaring` is the family's base layer where it is one of the layers that are given.
    """
    base = [declaring] if declaring is not None else []
    if not base and model.base_layer:
        _read_into(model.base_layer, base, problems, unreadable)
        base = [replace(source, name=model.name) for source in base]
    problems += named_family(base, model, model)[1]
    problems += getattr(model, "problems", ())
    lowest, wrong = declared_fields((*base, *sources), model)
    problems += [problem for problem in wrong if problem not in problems]
    known = fields_of(model, [lowest])
    of_none = not model.base_layer
    read = [as_layer(source, model, known, is_base=of_none or source in base) for source in (*base, *sources)]
    layers = (lowest, *(layer for layer, _ in read))
    options, wrong = _option_layers(given, model, layers)
    problems += [*(problem for _, found in read for problem in found), *wrong]
    if unreadable:
        raise ConfigError([*unreadable, *problems])
    return _resolve(model, layers, options, deploy, problems, deploy_mark)


def _wrong_anyway(sources: Sequence[Source], given: Sequence[Source]) -> list[Diagnostic]:
    """What is wrong with layers that name no family, whichever they are of; that fields are missing is no news."""
    common: list[Diagnostic] | None = None
    for name in family_names():
        found: list[Diagnostic] = []
        try:
            _load(family(name), sources, given, [], [], None, None)
        except ConfigError as error:
            found = [problem for problem in error.diagnostics if problem.code != NO_MODEL.code]
        common = found if common is None else [problem for problem in common if problem in found]
    return common or []


def _read_into(
    name: str | Path | Source, sources: list[Source], problems: list[Diagnostic], unreadable: list[Diagnostic]
) -> None:
    """Appends a layer's source, or why there is none."""
    try:
        source, found = (name, []) if isinstance(name, Source) else read_source(name)
    except ConfigError as error:
        unreadable += error.diagnostics
    else:
        sources.append(source)
        problems += found


def _read_options(sets: Sequence[str], ep: int | None, fields: Mapping[str, Any]) -> tuple[list[Source], list[Diagnostic]]:
    """Options as sources."""
    read = [read_option("--set", text) for text in sets]
    if ep is not None:
        read.append(read_option("--ep", f"ep={ep}"))
    sources = [source for source, _ in read]
    if fields:
        sources.append(fields_given(fields))
    return sources, [problem for _, found in read for problem in found]


def _option_layers(
    sources: Sequence[Source], model: ModelFamily | None, layers: Sequence[Layer]
) -> tuple[tuple[Layer, ...], list[Diagnostic]]:
    """Options in the fields of the family, with the deployments and dims of `layers` to choose from."""
    deployments = [name for layer in layers for name in layer.deployments]
    dims = [name for layer in layers for name in layer.dims]
    known = fields_of(model, layers)
    read = [as_layer(source, model, known, deployments, dims) for source in sources]
    return tuple(layer for layer, _ in read), [problem for _, found in read for problem in found]


def _resolve(
    model: ModelFamily | str,
    layers: tuple[Layer, ...],
    options: tuple[Layer, ...],
    deploy: str | None,
    problems: list[Diagnostic],
    deploy_mark: Mark | None = None,
) -> Config:
    """Layers, from the lowest, the chosen deployment's fields, and options, combined, evaluated and checked.

    `problems` are those of reading them, told together with those found here.
    """
    model = family(model) if isinstance(model, str) else model
    every = (*layers, *options)
    deployments = _deployments(every)
    chosen, found = _chosen(deploy or _default_deployment(every), deployments, deploy_mark)
    problems = problems + found
    fields: dict[str, Given] = {name: given for layer in every for name, given in layer.defaults.items()}
    for layer in (*layers, Layer(chosen, deployments.get(chosen, {})), *options):  # later ones win
        fields |= layer.fields
    dims = {name: given for layer in every for name, given in layer.dims.items()}
    dtypes = {name: given for layer in every for name, given in layer.dtypes.items()}
    evaluation = Evaluation(fields, dims, fields_of(model, layers), is_declared=isinstance(model, DeclaredFamily))
    values = evaluation.values()
    dtype_names = evaluation.dtypes(dtypes)
    problems = problems + evaluation.problems
    with suppress(KeyError) if problems else nullcontext():  # a family's rules may need values that there are not
        problems = problems + model.impossible(values, {**fields, **dims}, chosen)
    state, found = read_state(merged(layer.state for layer in every))
    if problems := problems + found or evaluation.dim_problems or state.problems(values, dtype_names):
        raise ConfigError(problems)
    names = list(dict.fromkeys(layer.name for layer in layers if layer.name))
    base = names[0] if names and model.base_layer else ""
    name = "+".join(layer.name for layer in layers if layer.name not in ("", base)) or base or model.name
    views = [MappingProxyType[str, Any](each) for each in ({name: values[name] for name in fields}, values, dtype_names)]
    return Config(name, chosen, *views, state, model, layers, options, deploy, {**dims, **fields})  # pyright: ignore


def _chosen(wanted: str, deployments: Collection[str], mark: Mark | None) -> tuple[str, list[Diagnostic]]:
    """The deployment of that name, the first one where none is wanted, "" where there are none."""
    if wanted in deployments or not (wanted or deployments):
        return wanted, []
    first = next(iter(deployments), "")
    if not wanted:
        return first, []
    known = f"deployments are {', '.join(deployments)}" if deployments else "no layer has deployments"
    hint = did_you_mean(wanted, deployments) or known
    return first, [Diagnostic("C103", f"unknown deployment '{wanted}'", mark, hint=hint)]


def _deployments(layers: Sequence[Layer]) -> dict[str, dict[str, Given]]:
    merged: dict[str, dict[str, Given]] = {}
    for layer in layers:
        for name, fields in layer.deployments.items():
            merged.setdefault(name, {}).update(fields)
    return merged


def _default_deployment(layers: Sequence[Layer]) -> str:
    given = [layer.fields["deploy"].value for layer in layers if "deploy" in layer.fields]
    return str(given[-1]) if given else ""
