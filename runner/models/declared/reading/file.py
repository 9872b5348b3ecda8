"""A `config.json` read by a declaration (`hugging_face`): keys checked, fields derived, refusals told by the name of a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.language.expressions import ExprError, parse
from runner.language.given import BESIDE, FLAVOUR, Given, describe
from runner.models.config_json import not_runnable, precision, special_floats
from runner.models.protocols import Normalised, Values

DEFAULT = ""
"""Where a value comes from that the file does not give."""
ACTIVATIONS, QUANTISATION = "quantised.activations", "quantization_config"
"""The path of what the key asks for, whichever tool wrote it."""
_WORDS = {
    "integer": "an integer",
    "float": "a number with a point",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "null": "null",
    "list": "a list",
    "object": "an object",
}


@dataclass(frozen=True, slots=True)
class Key:
    """What a key takes; `null` is the name of the key that null stands for, or a value."""

    types: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    choices: tuple[Any, ...] | None = None
    count: str | int | None = None
    default: Given | None = None
    null: Any = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a field comes from: the first of `paths` that is there."""

    name: str
    paths: tuple[str, ...]
    types: tuple[str, ...] | None = None
    values: Mapping[str, Any] | None = None
    otherwise: Given | None = None
    default: Given | None = None
    null: Given | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Refused where all of `has` are there, none of `lacks`, lists hold `held`, and `condition` holds; told at the key `at`."""

    has: tuple[str, ...]
    lacks: tuple[str, ...]
    held: Mapping[str, Any]
    condition: Given | None
    because: str
    at: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A whole declaration."""

    name: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    keys: Mapping[str, Key]
    first: Mapping[str, tuple[str, ...]]
    origins: tuple[Origin, ...]
    refusals: tuple[Refusal, ...]


class _Absent:
    pass


ABSENT = _Absent()


class File:
    """The keys of one file, or of a YAML layer or option in the file's spelling."""

    def __init__(self, reading: Reading, given: Values, rules: Mapping[str, Mapping[str, Any]]):
        self.reading, self.rules = reading, rules
        self.values = {key: special_floats(value) for key, value in given.items()}
        self.result = Normalised()
        self.wrong: set[str] = set()

    def whole(self) -> Normalised:
        """Every field that the declaration knows, with the defaults of what the file leaves out."""
        self._identity()
        self._strangers()
        self._check_keys()
        self._check_quantisation()
        for origin in self.reading.origins:
            self._derive(origin, with_default=True)
        for refusal in self.reading.refusals:
            self._refuse(refusal)
        return self.result

    def part(self) -> Normalised:
        """The fields that are given, in their own spelling or in the file's, and keys that neither knows as they are."""
        self._identity()
        self._check_quantisation()
        origins = {origin.name: origin for origin in self.reading.origins}
        spelled: set[str] = set()
        for origin in origins.values():
            used = [path for path in origin.paths if self._heads(path) & self.values.keys() and path != origin.name]
            if used and origin.name not in self.values:
                self._derive(origin, with_default=False)
            for path in used:
                spelled |= self._heads(path)
        spelled |= {name for names in self.reading.first.values() for name in names if name in self.values}
        for key, value in self.values.items():
            is_ours = key in self.rules
            if is_ours or not (key in spelled or key in self.reading.keys or key in ("architectures", "model_type")):
                self.result.fields[key] = value, key
        for refusal in self.reading.refusals:
            if refusal.condition is None:
                self._refuse(refusal)
        return self.result

    # --- what the file says it is ---

    def _identity(self) -> None:
        kind, classes = self.values.get("model_type"), self.values.get("architectures")
        types, known = self.reading.model_types, self.reading.architectures
        if kind is not None and types and kind not in types:
            self._problem("model_type", f"'model_type' is '{kind}', expected {' or '.join(map(repr, types))}")
        named = [str(name) for name in (classes if isinstance(classes, list) else [classes]) if name is not None]
        if known and named and not set(named) & set(known):
            message = f"'architectures' is {', '.join(named)}, expected {' or '.join(known)}"
            self._problem("architectures", message)

    def _strangers(self) -> None:
        """A file without `model_type` may be of another model: it has no other keys than those that are known."""
        if "model_type" in self.values or not self.reading.model_types:
            return
        sizes = [name for name, key in self.reading.keys.items() if key.types == ("integer",)]
        if sizes and not any(name in self.values for name in sizes):
            self._problem("model_type", "this is no config.json of a model: it has neither 'model_type' nor a size")
            return
        known = {"architectures", "transformers_version", *self.reading.keys, *self.rules}
        known |= {head for origin in self.reading.origins for path in origin.paths for head in self._heads(path)}
        for key in self.values:
            if key not in known and not key.startswith(BESIDE) and key != FLAVOUR:
                of = self.reading.model_types[0]
                self._problem(key, f"'{key}' is no field of {of}, and without a 'model_type' the file may be of another model")
                return

    # --- keys ---

    def _check_keys(self) -> None:
        for name, key in self.reading.keys.items():
            if name in self.values and (problem := self._key_problem(name, key, self.values[name])):
                self._problem(name, problem)

    def _check_quantisation(self) -> None:
        is_asked = any(ACTIVATIONS in origin.paths for origin in self.reading.origins)
        if is_asked and (problem := not_runnable(self.values.get(QUANTISATION))):
            self._problem(QUANTISATION, f"'{QUANTISATION}' {problem}")

    def _key_problem(self, name: str, key: Key, value: Any) -> str | None:
        if key.types and not any(is_of(value, kind) for kind in key.types):
            if key.types == ("float",) and is_of(value, "integer"):
                return f"'{name}' is {describe(value)}, expected a number with a point, as in {value}.0"
            return f"'{name}' is {describe(value)}, expected {_in_words(key.types)}"
        for entry in value if isinstance(value, list) else ():
            if key.items and not any(is_of(entry, kind) for kind in key.items):
                return f"'{name}' holds {describe(entry)}, expected {_in_words(key.items)}"
        if key.choices is not None and value is not None:
            for entry in value if isinstance(value, list) else [value]:
                if entry not in key.choices:
                    return f"'{name}' has {describe(entry)}, expected {' or '.join(map(str, key.choices))}"
        return self._count_problem(name, key, value) if isinstance(value, list) and key.count is not None else None

    def _count_problem(self, name: str, key: Key, value: list[Any]) -> str | None:
        count = self._value(key.count) if isinstance(key.count, str) else key.count
        if isinstance(count, int) and len(value) != count:
            return f"'{name}' has {len(value)} entries, expected one for each of '{key.count}' ({count})"
        return None

    def _value(self, name: str) -> Any:
        """The value of a key, with what null and absence stand for; ABSENT without any."""
        key = self.reading.keys.get(name, Key())
        value = self.values.get(name, ABSENT)
        if value is ABSENT:
            return key.default.plain if key.default is not None else ABSENT
        if value is None and key.null is not None:
            return self._value(key.null) if isinstance(key.null, str) and key.null in self.reading.keys else key.null
        return value

    # --- fields ---

    def _derive(self, origin: Origin, with_default: bool) -> None:
        if with_default and origin.otherwise is not None and not all(map(self._is_there, origin.needs)):
            self.result.fields[origin.name] = origin.otherwise.plain, DEFAULT
            return
        for path in origin.paths:
            value, key = self._at(path)
            if value is ABSENT or key in self.wrong:
                if key in self.wrong:
                    return
                continue
            if origin.types is not None and not any(is_of(value, kind) for kind in origin.types):
                shown = f"{describe(value)} for {path.partition('.')[2]}" if "." in path else describe(value)
                said = "has" if "." in path else "is"
                self._problem(key, f"'{key}' {said} {shown}, expected {_in_words(origin.types)}")
                return
            if value is None and origin.types is not None:
                if origin.null is None:
                    continue
                value = origin.null.plain
            self.result.fields[origin.name] = self._mapped(origin, value), key
            return
        if with_default:
            default = origin.default.plain if origin.default is not None else self._default_of_keys(origin)
            if default is not ABSENT:
                self.result.fields[origin.name] = default, DEFAULT

    def _default_of_keys(self, origin: Origin) -> Any:
        for path in origin.paths:
            key = self.reading.keys.get(path)
            if key is not None and key.default is not None:
                return self._mapped(origin, key.default.plain)
        return ABSENT

    def _mapped(self, origin: Origin, value: Any) -> Any:
        if origin.values is None or not isinstance(value, str | list):
            return value
        if isinstance(value, list):
            return [self._mapped(origin, entry) for entry in value]
        return origin.values.get(value, value if origin.otherwise is None else origin.otherwise.plain)

    def _at(self, path: str) -> tuple[Any, str]:
        """The value at a path, ABSENT where it is not there, and the key of the file that holds it."""
        head, *parts = path.split(".")
        if head == "generation" and parts:
            key = BESIDE + ".".join(parts)
            return (self.values.get(key) if BESIDE in self.values else ABSENT), key
        if path == "tensors.flavour":
            return self.values.get(FLAVOUR, ABSENT), FLAVOUR
        if path == ACTIVATIONS:
            return precision(self.values.get(QUANTISATION)) or ABSENT, QUANTISATION
        key = self._first(head)
        if key not in self.values:
            return ABSENT, key
        value: Any = self._value(key) if not parts else self.values[key]
        for part in parts:
            if not isinstance(value, dict) or part not in value:
                return ABSENT, key
            value = value[part]
        return value, key

    def _first(self, head: str) -> str:
        """The key that a head of a path stands for: itself, or the first of an alias that holds anything."""
        names = self.reading.first.get(head)
        return head if not names else next((name for name in names if self.values.get(name)), names[-1])

    def _heads(self, path: str) -> set[str]:
        """Every key of a file that a path may lie in."""
        if path == ACTIVATIONS:
            return {QUANTISATION}
        head = path.partition(".")[0]
        return {*self.reading.first.get(head, (head,))}

    # --- refusals ---

    def _refuse(self, refusal: Refusal) -> None:
        if not all(self._is_there(path) for path in refusal.has) or any(self._is_there(path) for path in refusal.lacks):
            return
        lists = {key: self._value(key) for key in refusal.held}
        if not all(isinstance(lists[key], list) and entry in lists[key] for key, entry in refusal.held.items()):
            return
        if refusal.condition is not None and not self._holds(refusal.condition):
            return
        _, key = self._at(refusal.at)
        shown = f"'{key}' has {refusal.at.partition('.')[2]}" if "." in refusal.at else f"'{key}'"
        self._problem(key, f"{shown}: {refusal.because}")

    def _is_there(self, path: str) -> bool:
        """Whether a key has a value other than null; an entry of an object is there with any."""
        if "." in path:
            return self._at(path)[0] is not ABSENT
        return self._value(path) not in (ABSENT, None)

    def _holds(self, condition: Given) -> bool:
        def look(name: str) -> Any:
            value = self._value(name)
            if value is ABSENT and name in self.result.fields:
                value = self.result.fields[name][0]
            if value is ABSENT or value is None or name in self.wrong:
                raise KeyError(name)
            return value

        try:
            return bool(parse(str(condition.plain)).evaluate(look))
        except ExprError:  # a value that it needs is not there, or is wrong and told
            return False

    def _problem(self, key: str, message: str) -> None:
        self.wrong.add(key)
        self.result.problems.append((key, message))


def is_of(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a declared type."""
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    kinds = {"integer": int, "float": float, "number": int | float, "string": str, "list": list, "object": dict}
    return kind in kinds and isinstance(value, kinds[kind])


def _in_words(kinds: tuple[str, ...]) -> str:
    return " or ".join(_WORDS[kind] for kind in kinds)
