"""The section `hugging_face` of a layer: how another tool's `config.json` is read, as data.

    hugging_face:
      architectures: [ToyForCausalLM]                       # files of other classes are refused
      keys:                                                 # what the tool's configuration class takes
        width: {type: integer, default: 64}                 # a key with the name of a field is its value
        eps: {type: float, default: 1.0e-6}                 # `float` takes no integer
        groups: {type: [integer, null], default: 32, null: heads}      # what null stands for
        kinds: {type: [list, null], items: string, count: depth}         # as many as `depth` is
        use_cache: boolean                                  # checked, and of no meaning here
      first: {turn: [turning, old_turning]}                 # `turn` is the first of these objects that holds anything
      fields:                                               # fields that are called otherwise there, or follow from several keys
        theta: {from: [turn.theta, theta], type: number, default: 10000.0}
        dtype: {from: [dtype, torch_dtype], type: [string, null], values: {float32: f32, bfloat16: bf16}}
        end: {from: [generation.end_id, end_id]}            # of the generation_config.json beside the file
      refuse:
        - {has: window, lacks: kinds, if: use_window, because: windows are not supported}
        - {holds: {kinds: sparse}, because: ...}            # a list that holds an entry

The first of `from` that is there counts; where one of `needs` is not there, the field is what `otherwise` says, as it is where
`values` has no entry for a text. Null is refused where the type has none; else it stands for what `null` says, and without
is passed over. `tensors.flavour` is what the tensors beside the file are stored as, and `quantised.activations` what its
`quantization_config` asks for, `w8a8` or `full`; it is not there where that leaves it open. A text under `null` or `default` of
a field is an expression over fields, under `null` of a key the name of another key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner.base.errors import Diagnostic, did_you_mean
from runner.language.expressions import parse
from runner.language.given import Given, describe
from runner.models.declared.expressions import syntax_problem
from runner.models.declared.reading.file import File, Key, Origin, Reading, Refusal
from runner.models.protocols import Normalised, Values

TYPES = ("integer", "float", "number", "string", "boolean", "null", "list", "object")
_SECTIONS = ("architectures", "keys", "first", "fields", "refuse")
_OF_KEY = ("type", "items", "count", "choices", "default", "null", "doc")
_OF_FIELD = ("from", "needs", "type", "values", "otherwise", "default", "null", "doc")
_OF_REFUSAL = ("has", "lacks", "holds", "if", "because", "at")
MEANINGLESS = ("architectures", "model_type", "transformers_version", "_name_or_path", "auto_map", "torch_dtype")
"""Keys that every file may have, and that YAML layers may carry."""


class HuggingFace:
    """What the section says; `problems` is everything that is wrong with it."""

    def __init__(self, section: Given | None, name: str, model_types: Sequence[str], rules: Mapping[str, Mapping[str, Any]]):
        self.problems: list[Diagnostic] = []
        self.name, self.model_types, self.rules = name, model_types, rules
        self.reading: Reading | None = None
        entries = self._mapping(section, "'hugging_face'", _SECTIONS)
        if entries is None:
            return
        keys = {key: self._key(key, given) for key, given in (self._mapping(entries.get("keys"), "'keys'") or {}).items()}
        first = {alias: self._names(given) for alias, given in (self._mapping(entries.get("first"), "'first'") or {}).items()}
        fields = self._mapping(entries.get("fields"), "'fields'") or {}
        origins = [self._origin(name, given) for name, given in fields.items()]
        origins += [Origin(key, (key,), None) for key in keys if key in rules and key not in fields]
        refusals = [self._refusal(given) for given in self._list(entries.get("refuse"), "'refuse'")]
        classes = tuple(self._names(entries["architectures"])) if "architectures" in entries else ()
        self.reading = Reading(name, tuple(model_types), classes, keys, first, tuple(origins), tuple(refusals))

    def read(self, given: Values, *, whole: bool) -> Normalised:
        """See `ModelFamily.normalise`."""
        if self.reading is None:
            ours = [key for key in given if not (whole and key not in self.rules) and (key != "model_type" or not whole)]
            return Normalised({key: (given[key], key) for key in ours})
        return File(self.reading, given, self.rules).whole() if whole else File(self.reading, given, self.rules).part()

    # --- reading the declaration ---

    def _wrong(self, given: Given, message: str, hint: str | None = None, code: str = "C102") -> None:
        self.problems.append(given.problem(code, message, hint))

    def _mapping(self, given: Given | None, what: str, known: Sequence[str] = ()) -> Mapping[str, Given] | None:
        """The entries, None without any; `known` are the keys that there may be, all where it is empty."""
        if given is None or given.value is None:
            return None
        if not isinstance(given.value, dict):
            self._wrong(given, f"{what} is {describe(given.value)}, expected a mapping")
            return None
        for key, item in given.value.items():
            if known and key not in known:
                hint = did_you_mean(key, known) or f"it may have {', '.join(known)}"
                self._wrong(item, f"{what}: unknown key '{key}'", hint, "C101")
        return given.value

    def _list(self, given: Given | None, what: str) -> list[Given]:
        if given is None or given.value is None:
            return []
        if not isinstance(given.value, list):
            self._wrong(given, f"{what} is {describe(given.value)}, expected a list")
            return []
        return given.value

    def _names(self, given: Given | None) -> tuple[str, ...]:
        """One name, or a list of them."""
        if given is None:
            return ()
        names = given.plain if isinstance(given.value, list) else [given.plain]
        if not names or not all(isinstance(name, str) for name in names):
            self._wrong(given, f"{describe(given.plain)}, expected a name or names")
            return ()
        return tuple(names)

    def _types(self, given: Given | None) -> tuple[str, ...]:
        if given is None:
            return ()
        names = given.plain if isinstance(given.value, list) else [given.plain]
        names = ["null" if name is None else name for name in names]
        unknown = [name for name in names if name not in TYPES]
        if unknown:
            self._wrong(given, f"type {describe(unknown[0])}, expected {', '.join(TYPES)}", did_you_mean(str(unknown[0]), TYPES))
        return tuple(name for name in names if name in TYPES)

    def _key(self, name: str, given: Given) -> Key:
        if not isinstance(given.value, dict):
            return Key(self._types(given))
        entries = self._mapping(given, f"key '{name}'", _OF_KEY) or {}
        choices = entries["choices"].plain if "choices" in entries else None
        if choices is not None and not isinstance(choices, list):
            self._wrong(entries["choices"], f"key '{name}': 'choices' is {describe(choices)}, expected a list")
        return Key(
            self._types(entries.get("type")),
            self._types(entries.get("items")),
            tuple(choices) if isinstance(choices, list) else None,
            entries["count"].plain if "count" in entries else None,
            entries.get("default"),
            entries["null"].plain if "null" in entries else None,
        )

    def _origin(self, name: str, given: Given) -> Origin:
        if name not in self.rules:
            self._wrong(given, f"no field is called '{name}'", did_you_mean(name, self.rules), "C101")
        entries = self._mapping(given, f"field '{name}'", _OF_FIELD) or {}
        if isinstance(given.value, dict) and "from" not in entries:
            self._wrong(given, f"field '{name}': 'from' is missing", code="C105")
        values = self._mapping(entries.get("values"), "'values'")
        for key in ("null", "default"):
            is_expression = key in entries and self.rules.get(name, {}).get("x-expression")
            if is_expression and (problem := syntax_problem(entries[key], f"'{key}'")):
                self.problems.append(problem)
        return Origin(
            name,
            self._names(entries.get("from")),
            self._types(entries.get("type")) or None,
            None if values is None else {key: item.plain for key, item in values.items()},
            entries.get("otherwise"),
            entries.get("default"),
            entries.get("null"),
            self._names(entries.get("needs")),
        )

    def _refusal(self, given: Given) -> Refusal:
        entries = self._mapping(given, "an entry of 'refuse'", _OF_REFUSAL) or {}
        if isinstance(given.value, dict) and not {"has", "holds", "if"} & entries.keys():
            self._wrong(given, "an entry of 'refuse' has neither 'has' nor 'holds' nor 'if'", code="C105")
        problem = syntax_problem(entries["if"], "'if'") if "if" in entries else None
        if problem is not None:
            self.problems.append(problem)
        has, at = self._names(entries.get("has")), self._names(entries.get("at"))
        because = str(entries["because"].plain) if "because" in entries else "not supported"
        held = {key: item.plain for key, item in (self._mapping(entries.get("holds"), "'holds'") or {}).items()}
        named = sorted(parse(str(entries["if"].plain)).names()) if "if" in entries and not problem else ()
        where = (*at, *has, *held, *named, "")[0]
        return Refusal(has, self._names(entries.get("lacks")), held, entries.get("if"), because, where)
