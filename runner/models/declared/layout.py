"""What a checkpoint of a declared family holds: the section `checkpoint`, evaluated under a configuration.

    layout, problems = read_layout(given)
    layout.expected(values)                 # every tensor by the family's own name
    layout.canonical("transformer.wte.weight")

Without a section nothing is known of the tensors: names are as they lie on disk, and any weight may be quantised.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from runner.base.errors import ConfigError, Diagnostic
from runner.base.tensor_spec import TensorSpec
from runner.language.given import Given
from runner.models.declared.checkpoint_section import CheckpointSection, Entry, Joint, Loop, read_checkpoint
from runner.models.names import Naming, Pattern
from runner.models.protocols import CheckpointLayout, Joined, Values

if TYPE_CHECKING:
    import torch

MOST_TENSORS = 4_000_000
_DIGITS = re.compile(r"\d+")


def read_layout(section: Given | None) -> tuple[DeclaredLayout, list[Diagnostic]]:
    """The layout that a section declares, and everything that is wrong with the section."""
    read, problems = read_checkpoint(section)
    return DeclaredLayout(lambda: read), problems


@dataclass(frozen=True)
class Place:
    """A pattern, what it stands for, and the trips of its loops that a name is of."""

    entry: Entry
    trips: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.entry.name.fill(self.trips)


class DeclaredLayout(CheckpointLayout):
    """See `CheckpointLayout`."""

    def __init__(self, read: Callable[[], CheckpointSection]):
        self._read = read
        self._place = lru_cache(maxsize=1 << 17)(self._find_place)

    @cached_property
    def section(self) -> CheckpointSection:
        """What is declared, read when it is first needed."""
        return self._read()

    @property
    def naming(self) -> Naming:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.section.naming

    @property
    def plain(self) -> Sequence[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.section.plain

    @property
    def unused(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.section.unused_what

    # --- names ---

    @cached_property
    def _index(self) -> dict[str, list[tuple[Pattern, Entry]]]:
        """Every pattern of a tensor by what its names have in common: their text with every number as 0."""
        found: dict[str, list[tuple[Pattern, Entry]]] = {}
        for entry in self.section.tensors:
            for pattern in (entry.name, *entry.also):
                for key in _keys(pattern, self.section.loops):
                    found.setdefault(key, []).append((pattern, entry))
        return found

    def _find_place(self, name: str) -> Place | None:
        """The tensor that is called so, by any of its names."""
        for pattern, entry in self._index.get(_DIGITS.sub("0", name), ()):
            found = pattern.match(name)
            if found is not None:
                return Place(entry, {loop: _trip(text, self.section.loops[loop]) for loop, text in found.items()})
        return None

    def canonical(self, stored_name: str) -> str:
        name = stored_name
        for theirs, ours in self.section.spellings:
            found = theirs.match(name)
            if found is not None:
                name = ours.fill(found)
        if place := self._place(name):
            return place.name
        for weight, is_scale in self.naming.weights_of(name):
            if place := self._place(weight):
                return self.naming.scale_of(place.name) if is_scale else self.naming.offset_of(place.name)
        return self.naming.own(name)

    def is_unused(self, name: str) -> bool:
        return any(pattern.match(name) is not None for pattern, _ in self.section.unused)

    def encoding(self, name: str, flavour: str) -> str:
        if not self.section.tensors:
            return flavour if flavour not in ("f32", "bf16") and self.naming.is_weight(name) else "plain"
        place = self._place(name)
        for pattern, like in self.section.unused if place is None else ():
            found = pattern.match(name)
            if found is not None:
                name = like.fill(found) if like is not None else ""
                break
        place = place or self._place(name) or self._first_part(name)
        return "plain" if place is None else place.entry.quantised.get(flavour, "plain")

    def _first_part(self, name: str) -> Place | None:
        """Of a tensor that holds others, or is held, and is not declared itself: the first declared one of these."""
        for joint, trips in self._joints(name):
            names = [joint.whole.fill(trips), *(part.fill({joint.over: 0, **trips}) for part in joint.parts)]  # type: ignore[dict-item]
            for other in names:
                if place := self._place(other):
                    return place
        return None

    # --- tensors ---

    def expected(self, values: Values, dtype: str = "f32") -> dict[str, TensorSpec]:
        shapes: dict[tuple[int, tuple[Any, ...]], TensorSpec] = {}
        found: dict[str, TensorSpec] = {}
        for place in self._all(self.section.tensors, {}, values):
            entry = place.entry
            if not self._is_there(place, values):
                continue
            key = id(entry), tuple(value for loop, value in place.trips.items() if loop in _names(entry))
            if key not in shapes:
                shapes[key] = _spec(entry, {**values, **place.trips}, dtype)
            found[place.name] = shapes[key]
            if len(found) > MOST_TENSORS:
                raise ConfigError(
                    entry.given.problem("C104", f"'tensors' are more than {MOST_TENSORS:,} under this configuration")
                )
        return found

    def _all(self, entries: Sequence[Entry], trips: Mapping[str, Any], values: Values) -> Iterator[Place]:
        """Every tensor, whatever its condition: those that follow each other in a loop are together in each of its trips."""
        at = 0
        while at < len(entries):
            loop = _next_loop(entries[at], trips)
            if loop is None:
                yield Place(entries[at], trips)
                at += 1
                continue
            end = at + 1
            while end < len(entries) and _next_loop(entries[end], trips) == loop:
                end += 1
            for trip in _trips(self.section.loops[loop], {**values, **trips}):
                yield from self._all(entries[at:end], {**trips, loop: trip}, values)
            at = end

    def _is_there(self, place: Place, values: Values) -> bool:
        """Whether a configuration has the tensor, with values of its own."""
        when = place.entry.when
        return (when is None or bool(when.value({**values, **place.trips}))) and not self._is_tied(place, values)

    def tied(self, values: Values) -> dict[str, str]:
        """Tensors that are others under a configuration, each with the other's name."""
        tied = [entry for entry in self.section.tensors if entry.tied is not None]
        return {
            place.name: entry.tied.to.fill(place.trips)
            for place in self._all(tied, {}, values)
            if (entry := place.entry).tied is not None and self._is_tied(place, values)
        }

    def _is_tied(self, place: Place, values: Values) -> bool:
        tied = place.entry.tied
        if tied is None:
            return False
        return tied.when is None or bool(tied.when.value({**values, **place.trips}))

    def declares(self, name: str) -> bool:
        """Whether a tensor of some configuration is called so."""
        return self._place(name) is not None

    def spec_of(self, name: str, values: Values, dtype: str = "f32") -> TensorSpec | None:
        """The unquantised spec of a tensor that is declared, also of a trip that the configuration does not make."""
        place = self._place(name)
        return None if place is None else _spec(place.entry, {**values, **place.trips}, dtype)

    def problems(self, values: Values, given: Collection[str] = ()) -> list[Diagnostic]:
        """Expressions of the section that have no value under a configuration, or a wrong one.

        Fields and dims of `given` that have no value have been told about.
        """
        if any(name not in values for name in given):
            return []
        found: list[Diagnostic] = []
        for entry in self.section.tensors:
            try:
                for place in itertools.islice(self._all([entry], {}, values), 1):
                    if self._is_there(place, values):
                        _spec(entry, {**values, **place.trips}, "f32")
            except ConfigError as error:
                found += error.diagnostics
        return list(dict.fromkeys(found))

    # --- other forms ---

    def joined(self, name: str, values: Values) -> list[Joined]:
        """Every way in which a tensor is held by others, or holds them."""
        return [found for joint, trips in self._joints(name) if (found := self._joined(joint, trips, values)) is not None]

    def _joints(self, name: str) -> Iterator[tuple[Joint, Mapping[str, Any]]]:
        for joint in self.section.joints:
            for pattern in (joint.whole, *joint.parts):
                found = pattern.match(name)
                if found is not None:
                    trips = {loop: _trip(text, self.section.loops[loop]) for loop, text in found.items() if loop != joint.over}
                    yield joint, trips
                    break

    def _joined(self, joint: Joint, trips: Mapping[str, Any], values: Values) -> Joined | None:
        """A joint in one trip of its loops; None where its sizes have no values there."""
        whole, scope = joint.whole.fill(trips), {**values, **trips}
        try:
            if joint.over is not None:
                places = list(_trips(self.section.loops[joint.over], scope))
                names = tuple(joint.parts[0].fill({**trips, joint.over: place}) for place in places)
                return Joined(whole, names, (1,) * len(names), 0, 1, is_stack=True)
            groups = 1 if joint.groups is None else joint.groups.integer(scope, 1)
            names = tuple(part.fill(trips) for part in joint.parts)
            sizes = self._sizes(joint, names, scope)
        except ConfigError:
            return None
        return None if sizes is None else Joined(whole, names, sizes, joint.dim, groups)

    def _sizes(self, joint: Joint, names: Sequence[str], values: Values) -> tuple[int, ...] | None:
        """The parts' sizes along the joint's dim: as given, as the parts are declared, or alike."""
        sizes = [None if size is None else size.integer(values, 1) for size in joint.sizes]
        for at, name in enumerate(names):
            if sizes[at] is None and (spec := self.spec_of(name, values)) is not None and joint.dim < len(spec.shape):
                sizes[at] = spec.shape[joint.dim]
        whole = self.spec_of(joint.whole.fill(values), values)
        if None in sizes and whole is not None and joint.dim < len(whole.shape):
            sizes = [whole.shape[joint.dim] // len(names)] * len(names)
        return None if None in sizes else tuple(size for size in sizes if size is not None)

    def further_layers(self, names: Iterable[str], values: Values) -> Sequence[Collection[str]]:
        """Trips of the loop `further` behind its last one: each has at least what all have, and no number is left out."""
        loop = self.section.further
        if loop is None:
            return ()
        inside = [entry for entry in self.section.tensors if loop in entry.name.placeholders]
        first = _numbers(self.section.loops[loop], values).stop
        prefixes = {entry.name.text.partition(f"{{{loop}}}")[0] for entry in inside}
        start = re.compile("|".join(f"{re.escape(prefix)}(?P<n{at}>\\d{{1,6}})(?!\\d)" for at, prefix in enumerate(prefixes)))
        beyond: dict[int, set[str]] = {}
        for name in names:
            found = start.match(name)
            number = int(next(text for text in found.groups() if text is not None)) if found else -1
            if number >= first:
                beyond.setdefault(number, set()).add(name)
        common = [entry for entry in inside if entry.when is None and entry.tied is None]
        whole = itertools.takewhile(
            lambda trip: trip in beyond and all(p.name in beyond[trip] for p in self._all(common, {loop: trip}, values)),
            itertools.count(first),
        )
        return [beyond[number] for number in whole]

    # --- values ---

    def unusable(self, name: str, value: torch.Tensor, values: Values) -> str | None:
        """A table of integers that has one outside of its range."""
        place = self._place(name)
        if place is None or place.entry.range is None or not value.numel():
            return None
        below = place.entry.range.below.integer({**values, **place.trips})
        wrong = [found for found in (int(value.min()), int(value.max())) if not 0 <= found < below]
        return f"has {wrong[0]}, expected {place.entry.range.what} from 0 to {below - 1}" if wrong else None

    def flavour(self, values: Values) -> str:
        return "f32" if self.section.flavour is None else str(self.section.flavour.value(values))

    def random(self, name: str, spec: TensorSpec, values: Values, generator: torch.Generator) -> torch.Tensor:
        place = self._place(name)
        scope = values if place is None else {**values, **place.trips}
        rules = {} if place is None else {key: formula.value(scope) for key, formula in place.entry.random.items()}
        made = import_module("runner.models.declared.random_values")  # planning reads layouts without torch
        if place is not None and place.entry.range is not None and "distinct" not in rules:
            return made.random_integers(spec.shape, place.entry.range.below.integer(scope, 1), generator)
        return made.random_values(spec.shape, rules, generator)

    def config_json(self, values: Values, dtype: str, flavour: str, described: Mapping[str, Any]) -> dict[str, Any]:
        """Empty where the section has no `config`: no other tool knows the model."""
        written = self.section.config
        if written is None:
            return {}
        scope = {**values, "plain": dtype, "flavour": flavour}
        kept = {key: value for key, value in described.items() if key not in (*written.without, "quantization_config")}
        found = {key: formula.value(scope) for key, formula in written.values.items()}
        for name, entries in written.objects.items():
            there = {key: value for key, (value, when) in entries.items() if when is None or when.value(scope)}
            found[name] = {key: value.value(scope) for key, value in there.items()}
        quantisation = written.quantisation.get(flavour)
        if quantisation is not None:
            found["quantization_config"] = quantisation
        return kept | dict(written.constants) | {key: values[key] for key in written.fields} | found


# --- loops ------------------------------------------------------------------------------------------------------------


def _keys(pattern: Pattern, loops: Mapping[str, Loop]) -> Iterator[str]:
    """What names of a pattern have in common, for each choice of words."""
    choices = [loops[name].words or ("0",) for name in pattern.placeholders]
    for chosen in itertools.product(*choices):
        yield _DIGITS.sub("0", pattern.fill(dict(zip(pattern.placeholders, chosen, strict=True))))


def _trip(text: str, loop: Loop) -> Any:
    return text if loop.words else int(text)


def _trips(loop: Loop, values: Values) -> Sequence[Any]:
    """What a loop goes through under a configuration; raises ConfigError."""
    return loop.words or _numbers(loop, values)


def _numbers(loop: Loop, values: Values) -> range:
    first = 0 if loop.first is None else loop.first.integer(values)
    return range(first, first + (0 if loop.count is None else loop.count.integer(values)))


def _next_loop(entry: Entry, trips: Mapping[str, Any]) -> str | None:
    """The outermost loop of a tensor's name that has no trip yet."""
    return next((loop for loop in entry.name.placeholders if loop not in trips), None)


@lru_cache(maxsize=4096)
def _dims(texts: tuple[frozenset[str], ...]) -> frozenset[str]:
    return frozenset().union(*texts)


def _names(entry: Entry) -> frozenset[str]:
    """All names that a tensor's shape needs."""
    return _dims(tuple(dim.names for dim in entry.shape))


def _spec(entry: Entry, values: Values, dtype: str) -> TensorSpec:
    """A tensor's spec; `dtype` is that of plain weights. Raises ConfigError."""
    return TensorSpec(entry.dtype or dtype, tuple(dim.integer(values, 1) for dim in entry.shape))
