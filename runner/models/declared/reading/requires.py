"""The section `requires` of a layer: what has to hold of its fields and dims together.

requires:
  - {that: hidden % heads == 0, because: heads split the width evenly}
  - {that: rotated % 2 == 0, at: rotated}               # told at that field, else at the first that the expression names
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.base.errors import Diagnostic, did_you_mean
from runner.language.expressions import ExprError, parse
from runner.language.given import Given, describe
from runner.models.declared.expressions import syntax_problem

KEYS = ("that", "because", "at")


class Requirements:
    """What the section says; `problems` is everything that is wrong with it whatever the configuration."""

    def __init__(self, section: Given | None):
        self.problems: list[Diagnostic] = []
        self._entries: list[Mapping[str, Given]] = []
        if section is None or section.value is None:
            return
        if not isinstance(section.value, list):
            self.problems.append(section.problem("C102", f"'requires' is {describe(section.value)}, expected a list"))
            return
        for given in section.value:
            self._read(given)

    def _read(self, given: Given) -> None:
        if not isinstance(given.value, dict) or "that" not in given.value:
            shown = "has no 'that'" if isinstance(given.value, dict) else f"is {describe(given.value)}"
            self.problems.append(given.problem("C102", f"an entry of 'requires' {shown}, expected {{that: EXPRESSION}}"))
            return
        for key, item in given.value.items():
            if key not in KEYS:
                hint = did_you_mean(key, KEYS) or f"it may have {', '.join(KEYS)}"
                self.problems.append(item.problem("C101", f"'requires': unknown key '{key}'", hint))
        problem = syntax_problem(given.value["that"], "'that'")
        if problem is not None:
            self.problems.append(problem)
        elif not isinstance(given.value["that"].value, str):
            self.problems.append(
                given.problem("C102", f"'that' is {describe(given.value['that'].plain)}, expected an expression")
            )
        else:
            self._entries.append(given.value)

    def broken(self, values: Mapping[str, Any], given: Mapping[str, Given]) -> list[Diagnostic]:
        """What does not hold of `values`, each told at the place of a value (`given`)."""
        found = []
        for entry in self._entries:
            text = entry["that"].value
            expr = parse(text)
            try:
                holds = expr.evaluate(values.__getitem__)
            except ExprError as error:
                if error.unknown is None or error.unknown not in given:
                    message = f"'that': expression '{text}': {error.message}{_because(entry)}"
                    found.append(_place(entry, "", given).problem("C106", message))
                continue
            if not holds:
                found.append(self._told(entry, text, sorted(expr.names()), values, given))
        return found

    @staticmethod
    def _told(
        entry: Mapping[str, Given], text: str, names: list[str], values: Mapping[str, Any], given: Mapping[str, Given]
    ) -> Diagnostic:
        shown = ", ".join(f"{name} is {values[name]}" for name in names if not isinstance(values[name], list))
        where = _place(entry, next(iter(names), ""), given)
        return where.problem("C104", f"'{text}' does not hold{_because(entry)}" + (f" ({shown})" if shown else ""))


def _because(entry: Mapping[str, Given]) -> str:
    return f": {entry['because'].plain}" if "because" in entry else ""


def _place(entry: Mapping[str, Given], usual: str, given: Mapping[str, Given]) -> Given:
    """Where to tell it: at the field that the entry names, else the `usual` one, else at the entry."""
    return given.get(str(entry["at"].plain) if "at" in entry else usual, entry["that"])
