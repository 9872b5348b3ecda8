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

`state_section` reads one; docs/state.md is its page. Numbers are expressions over fields, dims and dtype parameters. What is
wrong with the text is told when it is read, what is wrong with its numbers by `problems`, under a configuration and before
anything runs. Torch is imported by `store` and `first_call` alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from typing import TYPE_CHECKING, Any

from runner.base.errors import ConfigError, Diagnostic, did_you_mean
from runner.base.tensor_spec import TensorSpec
from runner.language.expressions import ExprError, parse
from runner.language.given import Given
from runner.models.declared.pools import Kind
from runner.models.names import NUMBER, PLACEHOLDER, Pattern

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

_ROPE = ("theta", "scaling", "factor", "original", "beta_fast", "beta_slow", "low", "high", "scale", "columns")
CONSTANTS: Mapping[str, tuple[str, ...]] = {"rope_cos": _ROPE, "rope_sin": _ROPE, "hadamard": (), "identity": ()}
"""Functions of constant inputs, and what each takes; `runner.serving.state.constants` has them."""

SCALINGS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "dynamic": (),
    "linear": ("factor",),
    "llama3": ("factor", "original", "low", "high"),
    "yarn": ("factor", "original", "beta_fast", "beta_slow"),
}
"""Scalings of rotary embeddings, and what each needs."""

COLUMNS = ("twice", "once", "pairs")
"""How the angles of pairs stand in the columns of a rotary table: all twice side by side, once, or each twice."""

SECTIONS = ("longest", "requests", "kinds", "inputs", "constants", "gathers", "scratch")


class HeldName(Pattern):
    """The name of a state whose placeholders are numbers; raises ValueError with what is wrong with it."""

    def __init__(self, text: str):
        super().__init__(text, dict.fromkeys(PLACEHOLDER.findall(text), NUMBER))


@dataclass(frozen=True, slots=True)
class Role:
    """What an input tells: a role, of the kinds `of`; `given` is where that is written. `vocabulary` bounds random tokens."""

    role: str
    given: Given
    of: tuple[str, ...] = ()
    vocabulary: Given | None = None


@dataclass(frozen=True, slots=True)
class KindDeclaration:
    """A kind as it is written: its numbers by name, not evaluated; what it holds, each with the condition that it does."""

    kind: str
    given: Given
    numbers: Mapping[str, Given]
    holds: Mapping[str, Given | None] = field(default_factory=dict)
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

    def value(self, what: str, given: Given, constants: Collection[str] = (), **extra: Any) -> Any:
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

    def count(self, what: str, given: Given, least: int = 1) -> int | None:
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

    longest: Given | None = None
    requests: Given | None = None
    kinds: Mapping[str, KindDeclaration] = field(default_factory=dict)
    inputs: Mapping[str, Role] = field(default_factory=dict)
    constants: Mapping[str, Mapping[str, Given]] = field(default_factory=dict)
    gathers: Mapping[str, Mapping[str, Given]] = field(default_factory=dict)
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

    def held(self, kind: str, states: Iterable[str], evaluator: Evaluator) -> list[str]:
        """Those of `states`, by source name, that are of a kind. What cannot be evaluated is told by `evaluator`."""
        return [name for name in states if any(_holds(name, *held, evaluator) for held in self.kinds[kind].holds.items())]

    def constant(self, name: str, constant: Mapping[str, Given], evaluator: Evaluator) -> tuple[str, dict[str, Any]] | None:
        """The function of a constant input and its arguments under a configuration; None where a problem was told."""
        before = len(evaluator.problems)
        function = evaluator.value(f"constant '{name}'", constant["function"], CONSTANTS)
        arguments = {
            key: evaluator.value(f"constant '{name}': '{key}'", given, (*SCALINGS, *COLUMNS))
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
        if CONSTANTS[function]:
            evaluator.problems += _wrong_rope(name, constant, arguments)
        return function, arguments

    def store(self, settings: Settings, states: Mapping[str, TensorSpec], device: torch.device | str = "cpu") -> RequestState:
        """State of all requests, for programs with these `states` by source name; raises ConfigError."""
        return import_module("runner.serving.state.store").DeclaredState(self, settings, states, device)

    def first_call(self, inputs: Mapping[str, TensorSpec], settings: Settings, seed: int) -> dict[str, torch.Tensor]:
        """See `ModelFamily.first_call`: empty for a graph without an input of tokens or positions."""
        return import_module("runner.serving.state.turns").first_call(self, inputs, settings, seed)


def _holds(name: str, pattern: str, when: Given | None, evaluator: Evaluator) -> bool:
    """Whether a pattern means a state: a glob, or a name with numbers in braces and the condition on them."""
    if when is None:
        return fnmatchcase(name, pattern)
    found = HeldName(pattern).match(name)
    numbers = {key: int(text) for key, text in (found or {}).items()}
    return found is not None and bool(evaluator.value(f"'{pattern}'", when, (), **numbers))


def _wrong_rope(name: str, constant: Mapping[str, Given], arguments: Mapping[str, Any]) -> list[Diagnostic]:
    """What is wrong with the arguments of a rotary table."""
    for key, default, known in (("scaling", "default", tuple(SCALINGS)), ("columns", "twice", COLUMNS)):
        if (value := arguments.get(key, default)) not in known:
            hint = did_you_mean(str(value), known) or f"there are {', '.join(known)}"
            return [constant[key].problem("C103", f"constant '{name}': '{key}' is {value!r}", hint)]
    scaling = arguments.get("scaling", "default")
    missing = [key for key in ("theta", *SCALINGS[scaling]) if key not in arguments]
    if not missing:
        return []
    of = f" of scaling '{scaling}'" if missing != ["theta"] else ""
    message = f"constant '{name}': a rotary table{of} needs {', '.join(map(repr, missing))}"
    return [constant.get("scaling", constant["function"]).problem("C105", message)]


def _sized(
    name: str, kind: KindDeclaration, longest: int | None, longest_given: Given | None, evaluator: Evaluator
) -> Kind | None:
    """A kind under a configuration; None where a problem was told."""
    before = len(evaluator.problems)
    found = {key: evaluator.count(f"'{name}.{key}'", given) for key, given in kind.numbers.items()}
    if len(evaluator.problems) > before:
        return None
    numbers = {key: value for key, value in found.items() if value is not None}
    pages, unit = (numbers["pages"], "pages") if "pages" in numbers else (numbers["requests"], "requests")
    page, table = numbers.get("page") or numbers.get("rows") or 1, numbers.get("table", 1)
    every, keeps = numbers.get("every", 1), numbers.get("keeps", 0)
    made = Kind(
        name, kind.kind, pages, page, table, _text(kind.numbers[unit]), every, keeps, tuple(kind.holds), kind.axis, kind.clear
    )
    key = "table" if "table" in kind.numbers else "rows"
    width = kind.numbers.get(key) or kind.given
    if made.grows and longest is not None and longest // every > made.rows:
        limit = _text(longest_given) if _text(longest_given).isidentifier() else "longest"
        what = f"'{key}: {_text(width)}'" + (f" = {numbers[key]}" if _text(width) != str(numbers[key]) else "")
        message = (
            f"state '{name}' has {made.rows:,} rows a request at most ({what}), but the longest request of {longest:,} positions"
            f" needs {longest // every:,}"
        )
        evaluator.problems.append(width.problem("C104", message, f"make it wider, or '{limit}' less"))
    if made.kind == "ring" and keeps > made.rows:
        message = f"state '{name}' keeps {keeps:,} positions in a ring of {made.rows:,} rows a request"
        evaluator.problems.append(kind.numbers["keeps"].problem("C104", message, f"make '{_text(width)}' larger"))
    return made


def _text(given: Given | None) -> str:
    return "" if given is None else str(given.value)
