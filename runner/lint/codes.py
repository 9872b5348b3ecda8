"""`RULES` holds every code that lint can report, with its meaning and why it matters; `docs/lint.md` shows an example of each."""

from __future__ import annotations

from runner.base.errors import RinggraphError, did_you_mean
from runner.lint.rule import Description
from runner.lint.rules import all_rules
from runner.lint.stages import meaning, schema, yaml

_DESCRIPTIONS = (*yaml.DESCRIPTIONS, *schema.DESCRIPTIONS, *meaning.DESCRIPTIONS, *(rule.about for rule in all_rules()))

RULES: dict[str, Description] = {found.code: found for found in sorted(_DESCRIPTIONS, key=lambda found: found.code)}

assert len(RULES) == len(_DESCRIPTIONS), "a code is described once"


def explain_rule(code: str) -> str:
    """What a code means, in text; raises RinggraphError for an unknown one."""
    rule = RULES.get(code.upper())
    if rule is None:
        raise RinggraphError(
            f"no lint rule is called '{code}'",
            hint=did_you_mean(code.upper(), RULES) or "for a node: ringgraph explain GRAPH NODE",
        )
    stage = {1: "YAML", 2: "schema", 3: "meaning"}[rule.stage]
    head = f"{rule.code}: {rule.title} ({rule.severity}, stage {rule.stage}: {stage})"
    return f"{head}\n\n{rule.why}\n\nTo accept one: # ringgraph: ignore[{rule.code}]"
