"""The section `checkpoint` of a layer as data: the tensors on disk, their other names and forms, and what is written of them.

docs/checkpoints.md has the spelling. Nothing is evaluated here: numbers and conditions are expressions over fields, dims and
loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.base.errors import Diagnostic, did_you_mean
from runner.base.tensor_spec import DTYPE_BYTES
from runner.language.given import Given
from runner.models.declared.formulas import Formula, Reader
from runner.models.names import NAMING, NUMBER, Naming, Pattern
from runner.models.protocols import FLAVOURS

SECTION = (
    "weight",
    "scale",
    "offset",
    "spellings",
    "loops",
    "kinds",
    "tensors",
    "fused",
    "stacked",
    "unused",
    "plain",
    "further",
    "flavour",
    "config",
)
OF_KIND = ("dtype", "quantised", "random", "range")
OF_TENSOR = ("shape", "when", "kind", "also", "tied", *OF_KIND)
CONFIG = ("constants", "fields", "values", "objects", "without", "quantisation")
RANDOM = ("mean", "deviation", "gain", "distinct")
ENCODINGS = FLAVOURS[2:]


@dataclass(frozen=True)
class Loop:
    """Numbers from `first`, `count` of them; or words."""

    first: Formula | None = None
    count: Formula | None = None
    words: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The regular expression of what it goes through."""
        return "|".join(self.words) if self.words else NUMBER


@dataclass(frozen=True)
class Tied:
    """The tensor `to` stands for another one, on the condition `when`."""

    to: Pattern
    when: Formula | None


@dataclass(frozen=True)
class Range:
    """Integers of a table are below `below`; `what` they name, in words."""

    below: Formula
    what: str


@dataclass(frozen=True)
class Entry:
    """A tensor, or one of every trip of the loops in its name."""

    name: Pattern
    shape: tuple[Formula, ...]
    given: Given
    when: Formula | None = None
    dtype: str | None = None
    quantised: Mapping[str, str] = field(default_factory=dict)
    random: Mapping[str, Formula] = field(default_factory=dict)
    range: Range | None = None
    also: tuple[Pattern, ...] = ()
    tied: Tied | None = None


@dataclass(frozen=True)
class Joint:
    """A tensor that holds others: side by side along `dim`, in `groups` alike, or one behind the other along a loop `over`."""

    whole: Pattern
    parts: tuple[Pattern, ...]
    given: Given
    sizes: tuple[Formula | None, ...] = ()
    dim: int = 0
    groups: Formula | None = None
    over: str | None = None


@dataclass(frozen=True)
class WrittenConfig:
    """What a `config.json` gets. `objects` are keys that hold keys, each with its value and the condition that it is there on."""

    constants: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    values: Mapping[str, Formula] = field(default_factory=dict)
    objects: Mapping[str, Mapping[str, tuple[Formula, Formula | None]]] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    quantisation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointSection:
    """All of it."""

    naming: Naming = NAMING
    spellings: tuple[tuple[Pattern, Pattern], ...] = ()
    loops: Mapping[str, Loop] = field(default_factory=dict)
    tensors: tuple[Entry, ...] = ()
    joints: tuple[Joint, ...] = ()
    unused: tuple[tuple[Pattern, Pattern | None], ...] = ()
    unused_what: str = "nothing"
    plain: tuple[str, ...] = ()
    further: str | None = None
    flavour: Formula | None = None
    config: WrittenConfig | None = None


def read_checkpoint(given: Given | None) -> tuple[CheckpointSection, list[Diagnostic]]:
    """The section, and everything that is wrong with it."""
    problems: list[Diagnostic] = []
    return _SectionReader(problems).section(given), problems


class _SectionReader(Reader):
    """Reads each part; loops first, as names need them."""

    def __init__(self, problems: list[Diagnostic]):
        super().__init__(problems)
        self.loops: dict[str, Loop] = {}
        self.kinds: dict[str, dict[str, Given]] = {}

    def section(self, given: Given | None) -> CheckpointSection:
        parts = self.mapping(given, "'checkpoint'", SECTION)
        self.loops = {name: self.loop(name, item) for name, item in self.mapping(parts.get("loops"), "'loops'").items()}
        self.kinds = {
            name: self.mapping(item, f"kind '{name}'", OF_KIND)
            for name, item in self.mapping(parts.get("kinds"), "'kinds'").items()
        }
        tensors = [self.tensor(name, item) for name, item in self.mapping(parts.get("tensors"), "'tensors'").items()]
        found = tuple(entry for entry in tensors if entry is not None)
        unused = self.mapping(parts.get("unused"), "'unused'", ("what", "names"))
        return CheckpointSection(
            naming=self.naming(parts),
            spellings=self.spellings(parts.get("spellings")),
            loops=self.loops,
            tensors=found,
            joints=(*self.joints(parts.get("fused"), found), *self.stacks(parts.get("stacked"))),
            unused=self.unused(unused.get("names")),
            unused_what=self.text(unused["what"], "'what'") or "" if "what" in unused else "what no graph uses",
            plain=tuple(self.texts(parts.get("plain"), "'plain'")) or _plain(found),
            further=self.further(parts["further"]) if "further" in parts else None,
            flavour=self.formula(parts["flavour"], "'flavour'") if "flavour" in parts else None,
            config=self.config(parts["config"]) if "config" in parts else None,
        )

    # --- names ---

    def pattern(self, given: Given, text: str | None, what: str, kinds: Mapping[str, str] | None = None) -> Pattern | None:
        """A name; with `kinds`, its placeholders are among them."""
        if not text:
            return None
        found = self.made(given, f"{what} '{text}'", lambda: Pattern(text, kinds or {}))
        unknown = [] if found is None or kinds is None else [name for name in found.placeholders if name not in kinds]
        if unknown:
            hint = did_you_mean(unknown[0], kinds or {}) or "declare it in 'loops'"
            self.problems.append(given.problem("C106", f"{what} '{text}': no loop is called '{unknown[0]}'", hint))
            return None
        return found

    def looped(self, given: Given, text: str | None, what: str) -> Pattern | None:
        """A name whose placeholders are loops."""
        return self.pattern(given, text, what, {name: loop.kind for name, loop in self.loops.items()})

    def around(self, given: Given, what: str) -> Pattern | None:
        """A name with the one placeholder `name`."""
        found = self.pattern(given, self.text(given, what), what)
        if found is not None and found.placeholders != ("name",):
            self.problems.append(given.problem("C103", f"{what} is '{found.text}', expected one placeholder, {{name}}"))
            return None
        return found

    def naming(self, parts: Mapping[str, Given]) -> Naming:
        weight = self.around(parts["weight"], "'weight'") if "weight" in parts else None
        scales, offsets = (
            tuple(found for item in self.items(parts.get(key), f"'{key}'") if (found := self.around(item, f"'{key}'")))
            for key in ("scale", "offset")
        )
        return Naming(weight or NAMING.weight, scales or NAMING.scales, offsets or NAMING.offsets)

    def spellings(self, given: Given | None) -> tuple[tuple[Pattern, Pattern], ...]:
        """Other tools' names, and ours for each."""
        found = []
        for text, item in self.mapping(given, "'spellings'").items():
            theirs, ours = self.pattern(item, text, "spelling"), self.pattern(item, self.text(item, "spelling"), "spelling")
            if theirs is None or ours is None:
                continue
            if not set(ours.placeholders) <= set(theirs.placeholders):
                self.problems.append(item.problem("C106", f"spelling '{ours.text}' has a placeholder that '{text}' has not"))
                continue
            found.append((theirs, ours))
        return tuple(found)

    def unused(self, given: Given | None) -> tuple[tuple[Pattern, Pattern | None], ...]:
        """Names of unused tensors, and of the tensors that they are stored like."""
        if given is None or not isinstance(given.value, Mapping):
            names = [self.pattern(item, self.text(item, "'names'"), "name") for item in self.items(given, "'names'")]
            return tuple((name, None) for name in names if name is not None)
        return self.spellings(given)

    def loop(self, name: str, given: Given) -> Loop:
        if not name.isidentifier():
            self.problems.append(given.problem("C101", f"loop '{name}' is not a name that expressions can use"))
        if isinstance(given.value, list | tuple):
            words = self.texts(given, f"loop '{name}'")
            bad = [word for word in words if not word.replace("_", "").isalnum()]
            if bad or not words or len(set(words)) < len(words):
                self.wrong(given, f"loop '{name}'", "different words of letters, digits and underscores")
                words = ["none"]
            return Loop(words=tuple(words))
        if isinstance(given.value, Mapping):
            ends = self.mapping(given, f"loop '{name}'", ("first", "count"))
            found = {key: self.formula(item, f"'{key}' of loop '{name}'") for key, item in ends.items()}
            if "count" not in ends:
                self.problems.append(given.problem("C105", f"loop '{name}' has no 'count'"))
            return Loop(found.get("first"), found.get("count"))
        return Loop(count=self.formula(given, f"loop '{name}'"))

    def further(self, given: Given) -> str | None:
        return self.one_of(given, "'further'", [name for name, loop in self.loops.items() if not loop.words])

    # --- tensors ---

    def tensor(self, name: str, given: Given) -> Entry | None:
        what = f"tensor '{name}'"
        pattern = self.looped(given, name, "tensor")
        keys = {"shape": given} if isinstance(given.value, list | tuple) else self.mapping(given, what, OF_TENSOR)
        if "kind" in keys:
            kind = self.one_of(keys["kind"], f"'kind' of {what}", self.kinds)
            keys = {**self.kinds.get(kind or "", {}), **keys}
        shape, also = self.shape(given, keys, what), self.also(keys.get("also"), pattern, what)
        quantised = self.quantised(keys["quantised"], what) if "quantised" in keys else {}
        if quantised and shape is not None and len(shape) != 2:
            message = f"{what} has {len(shape)} dims, expected rows and columns of one that is quantised"
            self.problems.append(keys["quantised"].problem("C104", message))
        if pattern is None or shape is None:
            return None
        return Entry(
            pattern,
            shape,
            given,
            when=self.formula(keys["when"], f"'when' of {what}") if "when" in keys else None,
            dtype=self.one_of(keys["dtype"], f"'dtype' of {what}", DTYPE_BYTES) if "dtype" in keys else None,
            quantised=quantised,
            random=self.random(keys.get("random"), what),
            range=self.range(keys["range"], what) if "range" in keys else None,
            also=also,
            tied=self.tied(keys["tied"], pattern, what) if "tied" in keys else None,
        )

    def shape(self, given: Given, keys: Mapping[str, Given], what: str) -> tuple[Formula, ...] | None:
        if "shape" not in keys:
            self.problems.append(given.problem("C105", f"{what} has no 'shape'"))
            return None
        dims = [self.formula(item, f"a dim of {what}") for item in self.items(keys["shape"], f"'shape' of {what}")]
        found = tuple(dim for dim in dims if dim is not None)
        return found if len(found) == len(dims) else None

    def also(self, given: Given | None, pattern: Pattern | None, what: str) -> tuple[Pattern, ...]:
        """Other names of a tensor, with its loops."""
        found = [self.looped(item, self.text(item, "'also'"), "name") for item in self.items(given, "'also'")]
        names = tuple(other for other in found if other is not None)
        if given is not None and pattern is not None and not all(_alike(pattern, other) for other in names):
            self.problems.append(given.problem("C104", f"{what}: another name of it has other loops"))
            return ()
        return names

    def quantised(self, given: Given, what: str) -> dict[str, str]:
        """By flavour, how it is stored: a list of flavours that are encodings, or a mapping."""
        if isinstance(given.value, Mapping):
            items = self.mapping(given, f"'quantised' of {what}", ENCODINGS)
            pairs = [(key, self.one_of(item, f"'{key}' of {what}", ENCODINGS)) for key, item in items.items()]
        else:
            names = [self.one_of(item, f"'quantised' of {what}", ENCODINGS) for item in self.items(given, "'quantised'")]
            pairs = [(name or "", name) for name in names]
        return {key: value for key, value in pairs if value is not None}

    def random(self, given: Given | None, what: str) -> dict[str, Formula]:
        items = self.mapping(given, f"'random' of {what}", RANDOM)
        found = {key: self.formula(item, f"'{key}' of {what}") for key, item in items.items()}
        return {key: formula for key, formula in found.items() if formula is not None}

    def range(self, given: Given, what: str) -> Range | None:
        keys = self.mapping(given, f"'range' of {what}", ("below", "what"))
        if "below" not in keys:
            self.problems.append(given.problem("C105", f"'range' of {what} has no 'below'"))
            return None
        below = self.formula(keys["below"], f"'below' of {what}")
        named = self.text(keys["what"], "'what'") if "what" in keys else None
        return None if below is None else Range(below, named or "values")

    def tied(self, given: Given, pattern: Pattern, what: str) -> Tied | None:
        keys = {"to": given} if isinstance(given.value, str) else self.mapping(given, f"'tied' of {what}", ("to", "when"))
        if "to" not in keys:
            self.problems.append(given.problem("C105", f"'tied' of {what} has no 'to'"))
            return None
        to = self.looped(keys["to"], self.text(keys["to"], "'to'"), "tensor")
        when = self.formula(keys["when"], f"'when' of {what}") if "when" in keys else None
        if to is not None and not set(to.placeholders) <= set(pattern.placeholders):
            self.problems.append(given.problem("C104", f"{what} is tied to one that has other loops"))
            return None
        return None if to is None else Tied(to, when)

    # --- other forms ---

    def joints(self, given: Given | None, tensors: Sequence[Entry]) -> list[Joint]:
        """Tensors that hold others side by side."""
        found = []
        for name, item in self.mapping(given, "'fused'").items():
            what = f"fused tensor '{name}'"
            whole = self.looped(item, name, "fused tensor")
            keys = {"parts": item} if isinstance(item.value, list) else self.mapping(item, what, ("parts", "dim", "groups"))
            parts, sizes = self.parts(keys.get("parts") or item, what)
            if len(parts) < 2 or whole is None or not all(part and _alike(whole, part) for part in parts):
                self.problems.append(
                    item.problem("C104", f"{what} has {len(parts)} parts, expected two or more, of the same loops")
                )
                continue
            declared = {entry.name.text for entry in tensors}
            if name not in declared and not all(part.text in declared for part in parts if part):
                self.problems.append(item.problem("C104", f"neither {what} nor all of its parts are among the tensors"))
                continue
            dim = keys["dim"].value if "dim" in keys else 0
            if not isinstance(dim, int) or isinstance(dim, bool) or dim < 0:
                self.wrong(keys["dim"], f"'dim' of {what}", "a number from 0")
                continue
            groups = self.formula(keys["groups"], f"'groups' of {what}") if "groups" in keys else None
            found.append(Joint(whole, tuple(part for part in parts if part), item, tuple(sizes), dim, groups))
        return found

    def parts(self, given: Given, what: str) -> tuple[list[Pattern | None], list[Formula | None]]:
        """Names of parts, and their sizes where they are given."""
        if isinstance(given.value, Mapping):
            items = self.mapping(given, f"'parts' of {what}")
            names = [self.looped(item, name, "part") for name, item in items.items()]
            return names, [self.formula(item, f"'{name}' of {what}") for name, item in items.items()]
        items = self.items(given, f"'parts' of {what}")
        return [self.looped(item, self.text(item, f"a part of {what}"), "part") for item in items], [None] * len(items)

    def stacks(self, given: Given | None) -> list[Joint]:
        """Tensors that hold those of all trips of a loop."""
        found = []
        for name, item in self.mapping(given, "'stacked'").items():
            what = f"stacked tensor '{name}'"
            keys = self.mapping(item, what, ("of", "over"))
            missing = [key for key in ("of", "over") if key not in keys]
            if missing:
                self.problems.append(item.problem("C105", f"{what} has no '{missing[0]}'"))
                continue
            whole = self.looped(item, name, "stacked tensor")
            part = self.looped(keys["of"], self.text(keys["of"], "'of'"), "tensor")
            over = self.one_of(keys["over"], f"'over' of {what}", self.loops)
            if whole is None or part is None or over is None:
                continue
            if set(part.placeholders) != {*whole.placeholders, over}:
                self.problems.append(item.problem("C104", f"{what}: '{part.text}' has other loops than it and '{over}'"))
                continue
            found.append(Joint(whole, (part,), item, over=over))
        return found

    # --- what is written ---

    def config(self, given: Given) -> WrittenConfig:
        keys = self.mapping(given, "'config'", CONFIG)
        values = {key: self.formula(item, f"'{key}'") for key, item in self.mapping(keys.get("values"), "'values'").items()}
        quantisation = self.mapping(keys.get("quantisation"), "'quantisation'", ENCODINGS)
        return WrittenConfig(
            constants={key: item.plain for key, item in self.mapping(keys.get("constants"), "'constants'").items()},
            fields=tuple(self.texts(keys.get("fields"), "'fields'")),
            values={key: formula for key, formula in values.items() if formula is not None},
            objects={name: self.object(name, item) for name, item in self.mapping(keys.get("objects"), "'objects'").items()},
            without=tuple(self.texts(keys.get("without"), "'without'")),
            quantisation={key: item.plain for key, item in quantisation.items()},
        )

    def object(self, name: str, given: Given) -> dict[str, tuple[Formula, Formula | None]]:
        """Keys of an object of a `config.json`: an expression, or `{value: EXPRESSION, when: CONDITION}`."""
        found = {}
        for key, item in self.mapping(given, f"'{name}'").items():
            what = f"'{key}' of '{name}'"
            parts = self.mapping(item, what, ("value", "when")) if isinstance(item.value, Mapping) else {"value": item}
            if "value" not in parts:
                self.problems.append(item.problem("C105", f"{what} has no 'value'"))
                continue
            value, when = (self.formula(parts[part], what) if part in parts else None for part in ("value", "when"))
            if value is not None:
                found[key] = value, when
        return found


def _alike(one: Pattern, other: Pattern) -> bool:
    return set(one.placeholders) == set(other.placeholders)


def _plain(tensors: Sequence[Entry]) -> tuple[str, ...]:
    """Tensors outside of loops that no flavour quantises and whose dtype is that of plain weights."""
    return tuple(e.name.text for e in tensors if not (e.name.placeholders or e.quantised or e.dtype or e.when or e.tied))
