"""The `state:` section of a configuration: what requests leave behind between calls, and what a call is told of it.

    state:
      longest: 512                                                    # positions of the longest request
      kinds:
        cache: {kind: paged, pages: 64, page: 16, table: 32}          # rows of 8 requests of the longest
      inputs:
        tokens: {tokens: ids}                                         # below the field `ids`
        table: {table: cache}
        slots: {slots: cache}
      constants:
        cos: {function: rope_cos, theta: 10000}

`read_state` reads one; docs/state.md is its page. Numbers are expressions over fields, dims and dtype parameters. What is wrong
with the text is told when it is read, what is wrong with its numbers by `problems`, under a configuration and before anything
runs.
Torch is imported by `store` and `first_call` alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import import_module
from typing import TYPE_CHECKING, Any

from runner.base.errors import ConfigError, Diagnostic, did_you_mean
from runner.base.tensor_spec import TensorSpec
from runner.language.expressions import ExprError, parse
from runner.models.declared.pools import Kind

if TYPE_CHECKING:
    import torch

    from runner.models.protocols import RequestState, Settings

PAGED, WHOLE = ("pages", "page", "table"), ("requests", "rows")
NUMBERS: Mapping[str, tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]] = {
    "paged": ((PAGED,), ("every",)),
    "contiguous": ((WHOLE,), ("every",)),
    "ring": ((PAGED, WHOLE), ("keeps",)),
    "running": ((("requests",),), ()),
}
"""Of each kind the sets of numbers that say its size, of which a declaration has one, and further numbers."""

REQUIRED = ("keeps",)
PLAIN = ("kind", "holds", "axis", "clear")

ROLES = ("tokens", "positions", "lengths", "starts", "counts", "prompt_length")
"""Inputs that no kind is needed for."""
ROLES_OF_KIND = ("table", "slots", "generations", "keys", "key_counts")
"""Inputs of a kind, by `{ROLE: KIND}`; `keys` and `key_counts` of a ring, or of a ring and another kind."""

CONSTANTS: Mapping[str, tuple[str, ...]] = {
    "rope_cos": ("theta", "scaling", "factor", "original", "beta_fast", "beta_slow", "scale", "columns"),
    "rope_sin": ("theta", "scaling", "factor", "original", "beta_fast", "beta_slow", "scale", "columns"),
    "hadamard": (),
    "identity": (),
}
"""Functions of constant inputs, and what each takes; `runner.serving.state.constants` has them."""

SECTIONS = ("longest", "requests", "kinds", "inputs", "constants", "gathers", "scratch")


@dataclass(frozen=True, slots=True)
class Role:
    """What an input tells: a role, of the kinds `of`; `given` is where that is written. `vocabulary` bounds random tokens."""

    role: str
    given: Any
    of: tuple[str, ...] = ()
    vocabulary: Any = None


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind as it is written: its numbers by name, not evaluated."""

    kind: str
    given: Any
    numbers: Mapping[str, Any]
    holds: tuple[str, ...] = ()
    axis: int = 0
    clear: bool = False


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of a declaration under one configuration. `requests` of a call, where that is declared."""

    kinds: tuple[Kind, ...] = ()
    longest: int | None = None
    longest_name: str = ""
    requests: int | None = None


class Evaluator:
    """Values of expressions under a configuration; what cannot be evaluated is told in `problems`."""

    def __init__(self, values: Mapping[str, Any], dtypes: Mapping[str, str]):
        self._known = {**dtypes, **values}
        self.problems: list[Diagnostic] = []

    def value(self, what: str, given: Any, constants: Collection[str] = (), **extra: Any) -> Any:
        """The value of `given`, None where it is told why there is none; a name in `constants` stands for itself."""
        if not isinstance(given.value, str):
            return given.value
        names = {**self._known, **extra}
        try:
            return parse(given.value).evaluate(lambda name: name if name in constants else names[name])
        except ExprError as error:
            hint = did_you_mean(error.unknown, [*names, *constants]) if error.unknown else None
            self.problems.append(given.problem("C106", f"{what}: expression '{given.value}': {error.message}", hint))
            return None

    def count(self, what: str, given: Any, least: int = 1) -> int | None:
        """The same of a whole number of at least `least`."""
        value = self.value(what, given)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
            return value
        shown = f" = {given.value}" if isinstance(given.value, str) else ""
        self.problems.append(given.problem("C103", f"{what}{shown} is {value!r}, expected an integer of at least {least}"))
        return None


@dataclass(frozen=True)
class StateDeclaration:
    """What a `state:` section says, read; empty without one."""

    longest: Any = None
    requests: Any = None
    kinds: Mapping[str, _Kind] = field(default_factory=dict)
    inputs: Mapping[str, Role] = field(default_factory=dict)
    constants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gathers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scratch: tuple[str, ...] = ()

    def is_scratch(self, state: str) -> bool:
        """Whether a state, by source name, holds nothing between calls."""
        return any(fnmatchcase(state, pattern) for pattern in self.scratch)

    @property
    def is_empty(self) -> bool:
        return not (self.kinds or self.inputs or self.constants)

    def problems(self, values: Mapping[str, Any], dtypes: Mapping[str, str]) -> list[Diagnostic]:
        """What is wrong with the declaration under a configuration, told before anything runs."""
        return self._sizes(Evaluator(values, dtypes))[1]

    def sizes(self, settings: Settings) -> Sizes:
        """Its numbers under a configuration; raises ConfigError."""
        found, problems = self._sizes(Evaluator(settings.values, settings.dtypes))
        if problems:
            raise ConfigError(problems)
        return found

    def _sizes(self, evaluator: Evaluator) -> tuple[Sizes, list[Diagnostic]]:
        longest = evaluator.count("'longest'", self.longest) if self.longest is not None else None
        requests = evaluator.count("'requests'", self.requests) if self.requests is not None else None
        kinds = [_sized(name, kind, longest, self.longest, evaluator) for name, kind in self.kinds.items()]
        for name, constant in self.constants.items():
            self.constant(name, constant, evaluator)
        found = tuple(kind for kind in kinds if kind is not None)
        return Sizes(found, longest, _text(self.longest), requests), evaluator.problems

    def constant(self, name: str, constant: Mapping[str, Any], evaluator: Evaluator) -> tuple[str, dict[str, Any]] | None:
        """The function of a constant input and its arguments under a configuration; None where a problem was told."""
        before = len(evaluator.problems)
        function = evaluator.value(f"constant '{name}'", constant["function"], CONSTANTS)
        arguments = {
            key: evaluator.value(f"constant '{name}': '{key}'", given, ("default", "yarn", "twice", "once", "pairs"))
            for key, given in constant.items()
            if key != "function"
        }
        if len(evaluator.problems) > before:
            return None
        if function not in CONSTANTS:
            hint = did_you_mean(str(function), CONSTANTS) or f"functions are {', '.join(CONSTANTS)}"
            message = f"constant '{name}': no function is called '{function}'"
            evaluator.problems.append(constant["function"].problem("C103", message, hint))
            return None
        for key in [key for key in arguments if key not in CONSTANTS[function]]:
            message = f"constant '{name}': '{function}' takes no '{key}'"
            evaluator.problems.append(constant[key].problem("C101", message, did_you_mean(key, CONSTANTS[function])))
        if "theta" in CONSTANTS[function] and "theta" not in arguments:
            message = f"constant '{name}': '{function}' needs 'theta', the base of its angles"
            evaluator.problems.append(constant["function"].problem("C105", message))
        return function, arguments

    def store(self, settings: Settings, states: Mapping[str, TensorSpec], device: torch.device | str = "cpu") -> RequestState:
        """State of all requests, for programs with these `states` by source name; raises ConfigError."""
        return import_module("runner.serving.state.store").DeclaredState(self, settings, states, device)

    def first_call(self, inputs: Mapping[str, TensorSpec], settings: Settings, seed: int) -> dict[str, torch.Tensor]:
        """See `ModelFamily.first_call`: empty for a graph without an input of tokens or positions."""
        return import_module("runner.serving.state.turns").first_call(self, inputs, settings, seed)


def _sized(name: str, kind: _Kind, longest: int | None, longest_given: Any, evaluator: Evaluator) -> Kind | None:
    """A kind under a configuration; None where a problem was told."""
    before = len(evaluator.problems)
    found = {key: evaluator.count(f"'{name}.{key}'", given) for key, given in kind.numbers.items()}
    if len(evaluator.problems) > before:
        return None
    numbers = {key: value for key, value in found.items() if value is not None}
    pages, unit = (numbers["pages"], "pages") if "pages" in numbers else (numbers["requests"], "requests")
    page, table = numbers.get("page") or numbers.get("rows") or 1, numbers.get("table", 1)
    every, keeps = numbers.get("every", 1), numbers.get("keeps", 0)
    made = Kind(name, kind.kind, pages, page, table, _text(kind.numbers[unit]), every, keeps, kind.holds, kind.axis, kind.clear)
    width = kind.numbers.get("table") or kind.numbers.get("rows") or kind.given
    if made.grows and longest is not None and longest // every > made.rows:
        what = f"'{_text(width)}' ({numbers.get('table') or numbers['rows']})"
        message = (
            f"state '{name}' has {made.rows:,} rows a request at most by {what}, but the longest request of {longest:,} positions"
            f" needs {longest // every:,}"
        )
        evaluator.problems.append(width.problem("C104", message, f"make it wider, or '{_text(longest_given)}' less"))
    if made.kind == "ring" and keeps > made.rows:
        message = f"state '{name}' keeps {keeps:,} positions in a ring of {made.rows:,} rows a request"
        evaluator.problems.append(kind.numbers["keeps"].problem("C104", message, f"make '{_text(width)}' larger"))
    return made


def _text(given: Any) -> str:
    return "" if given is None else str(given.value)


# Reading the section


def merged(sections: Iterable[Any]) -> Any:
    """One section of those of several layers (`Given`s or None), later ones over earlier: kinds and inputs go by name."""
    found = None
    for section in sections:
        if section is None or found is None or not isinstance(section.value, Mapping) or not isinstance(found.value, Mapping):
            found = found if section is None else section
            continue
        parts = dict(found.value)
        for key, item in section.value.items():
            before = getattr(parts.get(key), "value", parts.get(key))
            given = getattr(item, "value", item)
            whole = item if hasattr(item, "value") else replace(section, value=item)
            if isinstance(before, Mapping) and isinstance(given, Mapping):
                whole = replace(whole, value={**before, **given})
            parts[key] = whole
        found = replace(section, value=parts)
    return found


def read_state(section: Any) -> tuple[StateDeclaration, list[Diagnostic]]:
    """The declaration of a `state:` section (a `Given`, or None for none), and everything that is wrong with its text."""
    problems: list[Diagnostic] = []
    if section is None or section.value is None:
        return StateDeclaration(), problems
    parts = _entries("'state'", section, problems, SECTIONS)
    kinds = _each("kinds", parts, _kind, problems)
    roles = _each("inputs", parts, _role, problems)
    constants = _each("constants", parts, _constant, problems)
    gathers = _each("gathers", parts, _gathers, problems)
    scratch = _names("'scratch'", parts["scratch"], problems) if "scratch" in parts else ()
    for name, role in roles.items():
        problems += _wrong_kinds(name, role, kinds, parts)
    problems += [_twice(constants[name]["function"], name) for name in constants if name in roles]
    told = {kind for role in roles.values() if role.role in ("table", "slots", "keys") for kind in role.of}
    for name, kind in kinds.items():
        if name not in told:
            problems.append(
                kind.given.problem(
                    "C104",
                    f"state '{name}': no input tells a call where it lies",
                    f"add an input with {{table: {name}}} or {{slots: {name}}}",
                )
            )
        if kind.kind in ("paged", "contiguous") and "longest" not in parts:
            problems.append(kind.given.problem("C105", f"state '{name}' grows with a request, but 'longest' is missing"))
    return StateDeclaration(parts.get("longest"), parts.get("requests"), kinds, roles, constants, gathers, scratch), problems


def _twice(given: Any, name: str) -> Diagnostic:
    return given.problem("C104", f"'{name}' is among 'inputs' and among 'constants'")


def _entries(what: str, item: Any, problems: list[Diagnostic], known: Sequence[str] | None = None) -> dict[str, Any]:
    """What a mapping holds, each with its place; keys outside of `known` are told."""
    if not isinstance(item.value, Mapping):
        problems.append(item.problem("C102", f"{what} is {item.value!r}, expected a mapping"))
        return {}
    found = {key: each if hasattr(each, "problem") else replace(item, value=each) for key, each in item.value.items()}
    for key in [key for key in found if known is not None and key not in known]:
        hint = did_you_mean(key, known or ()) or f"keys are {', '.join(known or ())}"
        problems.append(found.pop(key).problem("C101", f"{what}: unknown key '{key}'", hint))
    return found


def _names(what: str, item: Any, problems: list[Diagnostic]) -> tuple[str, ...]:
    """Names or globs of states: one, or a list."""
    names = [item.value] if isinstance(item.value, str) else item.value
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    problems.append(item.problem("C102", f"{what} is {item.value!r}, expected names of states"))
    return ()


def _each(section: str, parts: Mapping[str, Any], read: Any, problems: list[Diagnostic]) -> dict[str, Any]:
    """Every entry of a part of the section that could be read."""
    if section not in parts:
        return {}
    found = {name: read(name, item, problems) for name, item in _entries(f"'{section}'", parts[section], problems).items()}
    return {name: value for name, value in found.items() if value is not None}


def _kind(name: str, item: Any, problems: list[Diagnostic]) -> _Kind | None:
    written = _entries(f"state '{name}'", item, problems)
    kind = str(written["kind"].value) if "kind" in written else ""
    if kind not in NUMBERS:
        place, hint = written.get("kind", item), did_you_mean(kind, NUMBERS) or f"kinds are {', '.join(NUMBERS)}"
        if written or not isinstance(item.value, Mapping):
            what = f"is of no known kind, '{kind}'" if "kind" in written else "has no 'kind'"
            problems.append(place.problem("C103", f"state '{name}' {what}", hint))
        return None
    sizes, further = NUMBERS[kind]
    known = [*PLAIN, *dict.fromkeys(key for size in sizes for key in size), *further]
    written = _entries(f"state '{name}'", item, problems, known)
    chosen = next((size for size in sizes if any(key in written for key in size[:1])), sizes[0])
    missing = [key for key in (*chosen, *(key for key in further if key in REQUIRED)) if key not in written]
    other = [key for size in sizes for key in size if key not in chosen and key in written]
    if missing or other:
        what = f"needs {', '.join(map(repr, missing))}" if missing else f"has {other[0]!r} beside {chosen[0]!r}"
        hint = f"{kind}: {' or '.join(', '.join(size) for size in sizes)}" + (f"; and {', '.join(further)}" if further else "")
        problems.append(item.problem("C105", f"state '{name}' of kind {kind} {what}", hint))
        return None
    holds = _names(f"state '{name}': 'holds'", written["holds"], problems) if "holds" in written else ()
    axis, clear = (written[key].value if key in written else default for key, default in (("axis", 0), ("clear", False)))
    if not isinstance(axis, int) or isinstance(axis, bool) or axis < 0 or not isinstance(clear, bool):
        key, wanted = ("clear", "true or false") if not isinstance(clear, bool) else ("axis", "an axis from 0")
        problems.append(written[key].problem("C102", f"state '{name}': '{key}' is {written[key].value!r}, expected {wanted}"))
        return None
    if clear and not holds:
        problems.append(written["clear"].problem("C105", f"state '{name}' is cleared, but 'holds' names no state"))
    numbers = {key: given for key, given in written.items() if key not in PLAIN}
    return _Kind(kind, item, numbers, holds, axis, clear)


def _role(name: str, item: Any, problems: list[Diagnostic]) -> Role | None:
    """`positions`, `{tokens: 1000}`, `{slots: cache}` or `{keys: [window, rows]}`."""
    every = (*ROLES, *ROLES_OF_KIND)
    if isinstance(item.value, str):
        if item.value in ROLES:
            return Role(item.value, item)
        known = item.value in ROLES_OF_KIND
        message = f"input '{name}': '{item.value}' is of a kind" if known else f"input '{name}' has no known role, '{item.value}'"
        hint = f"write {{{item.value}: KIND}}" if known else did_you_mean(item.value, every) or f"roles are {', '.join(every)}"
        problems.append(item.problem("C103", message, hint))
        return None
    written = _entries(f"input '{name}'", item, problems, every)
    if len(written) != 1:
        if isinstance(item.value, Mapping) and len(item.value) != 1:
            problems.append(item.problem("C103", f"input '{name}' has {len(item.value)} roles, expected one"))
        return None
    role, given = next(iter(written.items()))
    if role == "tokens":
        return Role(role, given, vocabulary=given)
    if role in ROLES:
        problems.append(given.problem("C103", f"input '{name}': '{role}' is of no kind", f"write '{name}: {role}'"))
        return None
    of = given.value if isinstance(given.value, list) else [given.value]
    most = 2 if role in ("keys", "key_counts") else 1
    if not all(isinstance(kind, str) for kind in of) or not 1 <= len(of) <= most:
        expected = "a kind" if most == 1 else "a ring, or a ring and another kind"
        problems.append(given.problem("C102", f"input '{name}': '{role}' is {given.value!r}, expected {expected}"))
        return None
    return Role(role, given, tuple(of))


def _wrong_kinds(name: str, role: Role, kinds: Mapping[str, _Kind], parts: Mapping[str, Any]) -> list[Diagnostic]:
    """What is wrong with the kinds that a role is of."""
    declared = parts["kinds"].value if "kinds" in parts and isinstance(parts["kinds"].value, Mapping) else {}
    for kind in role.of:
        if kind not in declared:
            hint = did_you_mean(kind, declared) or f"kinds are {', '.join(declared) or 'none'}"
            return [role.given.problem("C103", f"input '{name}': no kind of state is called '{kind}'", hint)]
        if kind not in kinds:
            return []  # what is wrong with it is told
    found = [kinds[kind].kind for kind in role.of]
    if role.role in ("keys", "key_counts") and (found[0] != "ring" or found[1:2] == ["ring"] or found[1:2] == ["running"]):
        message = f"input '{name}': '{role.role}' of {' and '.join(found)}, expected a ring, or a ring and rows behind it"
        return [role.given.problem("C103", message)]
    if role.role == "generations" and kinds[role.of[0]].numbers.keys() & {"page"}:
        message = f"input '{name}': pages of '{role.of[0]}' have no generation of their own"
        return [role.given.problem("C103", message, "use a kind with one place a request")]
    return []


def _constant(name: str, item: Any, problems: list[Diagnostic]) -> Mapping[str, Any] | None:
    known = ("function", *dict.fromkeys(key for keys in CONSTANTS.values() for key in keys))
    written = _entries(f"constant '{name}'", item, problems, known)
    if written and "function" not in written:
        message, hint = f"constant '{name}' has no 'function'", f"functions are {', '.join(CONSTANTS)}"
        problems.append(item.problem("C105", message, hint))
    return written if "function" in written else None


def _gathers(name: str, item: Any, problems: list[Diagnostic]) -> Mapping[str, Any] | None:
    written = _entries(f"'gathers' of '{name}'", item, problems, ("keys", "most", "enough"))
    missing = [key for key in ("keys", "most") if key not in written]
    if missing and isinstance(item.value, Mapping):
        problems.append(item.problem("C105", f"'gathers' of '{name}' needs {', '.join(map(repr, missing))}"))
    return None if missing else written
