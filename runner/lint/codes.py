"""Every code that lint can report, with what it means and why it matters; `docs/lint.md` shows an example of each."""

from __future__ import annotations

from dataclasses import dataclass

from runner.base.errors import RinggraphError, did_you_mean


@dataclass(frozen=True, slots=True)
class Rule:
    """`stage` is 1 (YAML), 2 (schema) or 3 (meaning)."""

    code: str
    title: str
    why: str
    severity: str = "error"

    @property
    def stage(self) -> int:
        return int(self.code[1])


_RULES = (
    Rule("G100", "file cannot be read", "The path is no readable file, and no shipped graph has that name."),
    Rule(
        "G101",
        "not valid YAML",
        "The file cannot be parsed: a syntax error, an unknown alias, a second document, or text that is not UTF-8.",
    ),
    Rule("G102", "key given twice", "YAML parsers keep one of the two and drop the other without a word."),
    Rule("G103", "unknown key", "Nothing reads this key, so it has no effect; most often it is misspelt."),
    Rule(
        "G104",
        "value whose type depends on the YAML version",
        "YAML 1.1, which many tools speak, reads `on` and `no` as booleans, `0x10`, `010`, `1_000` and `1:30` as integers, and "
        "`1e-6` as text. Write the value so that every reader sees the same.",
    ),
    Rule(
        "G105",
        "file too large",
        "Files, nesting and aliases are limited, so that no file can exhaust the memory of who checks it.",
    ),
    Rule(
        "G106", "YAML feature that graphs do not have", "Tags, merge keys and keys that are not text have no meaning in a graph."
    ),
    Rule("G201", "value of the wrong kind", "The schema expects another kind of value here (text, a number, a list, a mapping)."),
    Rule("G202", "missing key", "The schema requires this key."),
    Rule("G203", "value out of range", "The value is of the right kind but not one that is allowed here."),
    Rule("G204", "item without a meaning", "An item of a body is exactly one of op, alloc, scope, for, if, switch and use."),
    Rule(
        "G205",
        "name taken twice",
        "Inputs, weights, state and outputs share one set of names, and the ids of one body must differ.",
    ),
    Rule(
        "G210",
        "expression that cannot be parsed",
        "Expressions are arithmetic over names, comparisons, and/or/not, `a if c else b`, indexing, and ceil, floor, min "
        "and max; nothing else.",
    ),
    Rule("G211", "not a tensor type", "A tensor's type is a dtype or `{parameter}` followed by its dims in brackets."),
    Rule("G212", "not a tensor or a part of one", "A region is a name, a slice `x[3]`, `x[:, a : b]`, or a part `x{e, t}`."),
    Rule(
        "G301",
        "unknown name in an expression",
        "It is no field or dim of the configuration, no param of the graph and no loop variable.",
    ),
    Rule("G302", "unknown op", "No registered op has this name; `ringgraph ops list` lists them."),
    Rule(
        "G303",
        "type mismatch",
        "Shape and dtype must fit the op's signature, or the input or output of the used graph, under this configuration.",
    ),
    Rule("G304", "missing operand", "The op needs this operand."),
    Rule("G305", "operand that the op does not have", "The op's signature has no such input or output."),
    Rule("G306", "unknown tensor", "No tensor of this name is visible here."),
    Rule("G307", "region outside its tensor", "The indices do not fit the tensor's shape under this configuration."),
    Rule(
        "G308",
        "wrong binding of a used graph",
        "A `use` must give every param, input and output, by `with:` or by a tensor of the same name.",
    ),
    Rule("G309", "graph that uses itself", "Graphs are spliced in, so a cycle would never end."),
    Rule(
        "G310",
        "expression without a usable value",
        "It divides by zero, is not a whole number, is negative, or mixes numbers and text.",
    ),
    Rule("G311", "unknown graph", "`use: NAME` looks for NAME.yaml beside this file, then among the shipped graphs."),
    Rule(
        "G312",
        "write-after-read hazard",
        "The runtime orders reads after writes and writes after writes by itself, but not a write after a read: the writer may "
        "overwrite what the reader has not read yet. An `after:` mends it, and costs nothing where the order holds anyway.",
    ),
    Rule(
        "G313",
        "read before written",
        "Nothing has been written there yet, so the task reads whatever the ring's memory held before.",
    ),
    Rule("G314", "never read", "Memory and time are spent on something that nothing uses, under this configuration.", "warning"),
    Rule(
        "G315",
        "read after its scope closed",
        "A scope's tensors are released when it closes; their memory may already be someone else's.",
    ),
    Rule(
        "G316",
        "scopes that may not nest",
        "The runtime refuses an auto scope in a manual one, and a manual scope in a manual one.",
    ),
    Rule(
        "G317",
        "deeper than the rings",
        "There are four rings. Deeper scopes share the last, so that they cannot be released apart.",
        "warning",
    ),
    Rule(
        "G318",
        "missing edge around a manual scope",
        "In a manual scope nothing is inferred: only `after:` orders its tasks, and nobody outside waits for what they write. "
        "This task may run before what it needs is done.",
    ),
    Rule(
        "G319",
        "scope that cannot fit its ring",
        "What a scope allocates stays until it closes, so it must fit the ring all at once.",
    ),
    Rule("G320", "block above 2 GiB - 1", "The runtime's block size is a signed 32-bit number, and silently wraps beyond."),
    Rule(
        "G321",
        "unknown id in after",
        "`after` names ids of items in the same body or in a body around it; ids inside scopes and loops are dotted.",
    ),
    Rule(
        "G322",
        "wrong parameter of an op",
        "The op has no such param, or the param has neither a value here nor in the configuration.",
    ),
    Rule("G323", "op's own rule broken", "The op checks what its signature cannot say, and refuses this call."),
    Rule("G324", "one source, two types", "The same tensor of the checkpoint or state is declared with different types."),
    Rule(
        "G325",
        "wrong carry",
        "After each trip the name on the left stands for that trip's tensor on the right, which must have the same type.",
    ),
    Rule(
        "G326", "dynamic loop without a usable bound", "A loop whose range reads a tensor needs `max`, and reads single elements."
    ),
    Rule("G327", "unknown dtype", "It is neither a dtype nor a dtype parameter of the configuration."),
    Rule("G328", "output never written", "The graph declares the output but no task writes it, under this configuration."),
    Rule("G329", "program too large", "A range is so large that expansion would not end in reasonable time."),
    Rule("G330", "switch without a case", "No case has the value, and there is no default."),
)

RULES: dict[str, Rule] = {rule.code: rule for rule in _RULES}


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
