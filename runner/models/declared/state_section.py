"""Reads the `state:` section of a layer (`StateDeclaration`), and tells all that is wrong with its text at its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from runner.base.errors import Diagnostic, did_you_mean
from runner.language.given import Given, describe
from runner.models.declared.expressions import syntax_problem
from runner.models.declared.state import (
    CONSTANTS,
    NUMBERS,
    PLAIN,
    REQUIRED,
    ROLES,
    ROLES_OF_KIND,
    SECTIONS,
    HeldName,
    KindDeclaration,
    Role,
    StateDeclaration,
)

T = TypeVar("T")


def merged(sections: Iterable[Given | None]) -> Given | None:
    """One section of those of several layers (`Given`s or None), later ones over earlier: kinds and inputs go by name."""
    found = None
    for section in sections:
        if section is None or found is None or not isinstance(section.value, Mapping) or not isinstance(found.value, Mapping):
            found = found if section is None else section
            continue
        parts = dict(found.value)
        for key, item in section.value.items():
            before = parts[key].value if key in parts else None
            both = isinstance(before, Mapping) and isinstance(item.value, Mapping)
            parts[key] = replace(item, value={**before, **item.value}) if both else item  # type: ignore[dict-item]
        found = replace(section, value=parts)
    return found


def read_state(section: Given | None) -> tuple[StateDeclaration, list[Diagnostic]]:
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


def _twice(given: Given, name: str) -> Diagnostic:
    return given.problem("C104", f"'{name}' is among 'inputs' and among 'constants'")


def _entries(what: str, item: Given, problems: list[Diagnostic], known: Sequence[str] | None = None) -> dict[str, Given]:
    """What a mapping holds, each with its place; keys outside of `known` are told."""
    if not isinstance(item.value, Mapping):
        problems.append(item.problem("C102", f"{what} is {describe(item.plain)}, expected a mapping"))
        return {}
    found = {key: each if isinstance(each, Given) else replace(item, value=each) for key, each in item.value.items()}
    for key in [key for key in found if known is not None and key not in known]:
        hint = did_you_mean(key, known or ()) or f"keys are {', '.join(known or ())}"
        problems.append(found.pop(key).problem("C101", f"{what}: unknown key '{key}'", hint))
    return found


def _names(what: str, item: Given, problems: list[Diagnostic]) -> tuple[str, ...]:
    """Names or globs of states: one, or a list."""
    names = [item.value] if isinstance(item.value, str) else item.plain
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    problems.append(item.problem("C102", f"{what} is {describe(item.plain)}, expected names of states"))
    return ()


def _holds(what: str, item: Given, problems: list[Diagnostic]) -> dict[str, Given | None]:
    """Names or globs, or names with numbers in braces and the condition for each."""
    if not isinstance(item.value, Mapping):
        return dict.fromkeys(_names(what, item, problems))
    found = _entries(what, item, problems)
    for text, when in found.items():
        try:
            HeldName(text)
        except ValueError as error:
            problems.append(when.problem("C103", f"{what}: '{text}' {error}"))
        if problem := syntax_problem(when, f"{what} '{text}'"):
            problems.append(problem)
    return dict(found)


def _each(
    section: str, parts: Mapping[str, Given], read: Callable[[str, Given, list[Diagnostic]], T | None], problems: list[Diagnostic]
) -> dict[str, T]:
    """Every entry of a part of the section that could be read."""
    if section not in parts:
        return {}
    found = {name: read(name, item, problems) for name, item in _entries(f"'{section}'", parts[section], problems).items()}
    return {name: value for name, value in found.items() if value is not None}


def _kind(name: str, item: Given, problems: list[Diagnostic]) -> KindDeclaration | None:
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
    holds = _holds(f"state '{name}': 'holds'", written["holds"], problems) if "holds" in written else {}
    axis, clear = (written[key].value if key in written else default for key, default in (("axis", 0), ("clear", False)))
    if not isinstance(axis, int) or isinstance(axis, bool) or axis < 0 or not isinstance(clear, bool):
        key, wanted = ("clear", "true or false") if not isinstance(clear, bool) else ("axis", "an axis from 0")
        problems.append(
            written[key].problem("C102", f"state '{name}': '{key}' is {describe(written[key].plain)}, expected {wanted}")
        )
        return None
    if clear and not holds:
        problems.append(written["clear"].problem("C105", f"state '{name}' is cleared, but 'holds' names no state"))
    numbers = {key: given for key, given in written.items() if key not in PLAIN}
    return KindDeclaration(kind, item, numbers, holds, axis, clear)


def _role(name: str, item: Given, problems: list[Diagnostic]) -> Role | None:
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
    of = given.plain if isinstance(given.value, list) else [given.value]
    most = 2 if role in ("keys", "key_counts") else 1
    if not all(isinstance(kind, str) for kind in of) or not 1 <= len(of) <= most:
        expected = "a kind" if most == 1 else "a ring, or a ring and another kind"
        problems.append(given.problem("C102", f"input '{name}': '{role}' is {describe(given.plain)}, expected {expected}"))
        return None
    return Role(role, given, tuple(of))


def _wrong_kinds(name: str, role: Role, kinds: Mapping[str, KindDeclaration], parts: Mapping[str, Given]) -> list[Diagnostic]:
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


def _constant(name: str, item: Given, problems: list[Diagnostic]) -> Mapping[str, Given] | None:
    known = ("function", *dict.fromkeys(key for keys in CONSTANTS.values() for key in keys))
    written = _entries(f"constant '{name}'", item, problems, known)
    if written and "function" not in written:
        message, hint = f"constant '{name}' has no 'function'", f"functions are {', '.join(CONSTANTS)}"
        problems.append(item.problem("C105", message, hint))
    return written if "function" in written else None


def _gathers(name: str, item: Given, problems: list[Diagnostic]) -> Mapping[str, Given] | None:
    written = _entries(f"'gathers' of '{name}'", item, problems, ("keys", "most", "enough"))
    missing = [key for key in ("keys", "most") if key not in written]
    if missing and isinstance(item.value, Mapping):
        problems.append(item.problem("C105", f"'gathers' of '{name}' needs {', '.join(map(repr, missing))}"))
    return None if missing else written
